use coco_part_api::{CreateVcpu, Error, ErrorKind, NewVcpu};

use super::mock::{Broken, Did};
use super::*;
use crate::SnpError;

fn create(l1: &mut TestL1<'_>, id: u32, at: u64) -> Result<(), SnpError> {
    let context = Context::long_mode(0xaaaa, 0xbbbb, 0xcccc);
    l1.create_vcpu(NewVcpu { id: VcpuId(id), context: &context, state: frame(at), call_area: frame(CALL_AREA) })
}

#[test]
fn a_vcpu_of_l1_is_a_vmsa_of_vmpl0_that_the_host_runs_now() {
    let bench = Bench::new();
    let mut l1 = bench.start(0);
    create(&mut l1, 1, VMSA).unwrap();
    assert_eq!(
        bench.machine.take_log(),
        [
            Did::Rmpadjust { at: VMSA, large: false, vmpl: 1, rights: 0, vmsa: true },
            Did::ApCreation { request: 1, vmpl: 0, apic_id: 1, vmsa: VMSA },
        ]
    );
    assert_eq!(bench.machine.page(VMSA)[0xca], 0);
    bench.machine.with(|world| assert!(world.vmrun(VMSA)));
    assert_eq!(create(&mut l1, 1, VMSA + 0x1000).unwrap_err().kind(), ErrorKind::InUse);
    assert_eq!(l1.destroy_vcpu(VcpuId(1), frame(VMSA)).unwrap_err().kind(), ErrorKind::InUse);
}

#[test]
fn what_the_host_refuses_leaves_nothing_behind() {
    let bench = Bench::new();
    let mut l1 = bench.start(0);
    bench.machine.poke(VMSA, b"old");
    let (page, rmp) = (bench.machine.page(VMSA), bench.machine.rmp());
    bench.machine.with(|world| world.ap_answer = (2, 5));
    assert_eq!(create(&mut l1, 1, VMSA).unwrap_err().kind(), ErrorKind::HostRefused);
    assert_eq!((bench.machine.page(VMSA), bench.machine.rmp()), (page, rmp.clone()));
    bench.machine.with(|world| world.ap_answer = (0, 0));
    for step in 0..5 {
        bench.machine.break_after(step, Broken::Fault);
        assert!(create(&mut l1, 1, VMSA).is_err(), "step {step}");
        assert_eq!((bench.machine.page(VMSA), bench.machine.rmp()), (page, rmp.clone()), "step {step}");
    }
    create(&mut l1, 1, VMSA).unwrap();
}

#[test]
fn refuses_itself_strangers_and_bad_frames() {
    let bench = Bench::new();
    let mut l1 = bench.start(0);
    for (id, at, kind) in [
        (0, VMSA, ErrorKind::InUse),
        (2, VMSA, ErrorKind::NotFound),
        (1, 2 << 20, ErrorKind::Misaligned),
        (1, RAM, ErrorKind::OutOfRange),
    ] {
        assert_eq!(create(&mut l1, id, at).unwrap_err().kind(), kind);
    }
    assert_eq!(bench.machine.take_log(), []);
}

#[test]
fn a_vcpu_that_stands_still_is_destroyed() {
    let bench = Bench::new();
    let mut l1 = bench.start(0);
    create(&mut l1, 1, VMSA).unwrap();
    assert_eq!(l1.destroy_vcpu(VcpuId(1), frame(VMSA + 0x1000)).unwrap_err().kind(), ErrorKind::NotFound);
    l1.destroy_vcpu(VcpuId(1), frame(VMSA)).unwrap();
    bench.machine.with(|world| assert!(!world.entry(VMSA >> 12).vmsa));
    create(&mut l1, 1, VMSA).unwrap();
}
