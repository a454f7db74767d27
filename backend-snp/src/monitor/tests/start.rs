use coco_part_api::{
    Binding, Capabilities, Error, ErrorKind, FlushReach, GuestMemory, HasMemory, HostReach, Identify, Level, Support,
};

use super::mock::{Broken, Did};
use super::*;
use crate::SnpError;
use crate::features::Policy;

fn refused(bench: &Bench) -> (SnpError, std::vec::Vec<Did>) {
    let error = L1::start(bench.machine.port(), bench.setup(0), &bench.shared).err().unwrap();
    (error, bench.machine.take_log())
}

#[test]
fn shares_its_three_pages_and_nothing_else() {
    let bench = Bench::new();
    let before = bench.machine.rmp();
    let l1 = L1::start(bench.machine.port(), bench.setup(0), &bench.shared).unwrap();
    let log = bench.machine.take_log();
    assert_eq!(log[0], Did::Rmpadjust { at: SCRATCH, large: false, vmpl: 1, rights: 0, vmsa: false });
    for (page, pair) in log[1..].chunks(2).enumerate() {
        let at = GHCB + page as u64 * 0x1000;
        assert_eq!(pair[0], Did::Pvalidate { at, large: false, valid: false });
        assert_eq!(pair[1], Did::PageState { at, frames: 1, private: false });
    }
    assert_eq!(log.len(), 7);
    let mut expected = before;
    expected.retain(|frame, _| !(1..=3).contains(frame));
    assert_eq!(bench.machine.rmp(), expected);
    assert_eq!(bench.machine.with(|world| world.ghcb_msr), GHCB);
    assert_eq!(l1.level(), Level::Monitor);
    assert_eq!(
        l1.capabilities(),
        Capabilities {
            hierarchy: coco_part_api::Hierarchy::Ordered,
            guest_levels: 2,
            host_reach: HostReach::Direct,
            rescind_unassigned: Support::Yes,
            flush: FlushReach::AllVcpus,
            binding: Binding::Hardware,
            inject: Support::No,
        }
    );
    assert!(l1.memory().read(x86_64::PhysAddr::new(SCRATCH), &mut [0; 8]).is_ok());
}

#[test]
fn refuses_features_that_it_does_not_know_or_support() {
    // Not SNP; reserved bit 22; vTOM; ReflectVC; register protection.
    for status in [0b011, 0b111 | 1 << 24, 0b111 | 1 << 3, 0b111 | 1 << 4, 0b111 | 1 << 16] {
        let bench = Bench::new();
        bench.machine.with(|world| world.sev_status = status);
        assert_eq!(refused(&bench), (Policy::MONITOR.check(status).unwrap_err(), std::vec![]));
    }
    let bench = Bench::new();
    bench.machine.with(|world| world.sev_status = 0b111 | 1 << 5 | 1 << 7);
    assert!(L1::start(bench.machine.port(), bench.setup(0), &bench.shared).is_ok());
}

#[test]
fn refuses_to_run_below_vmpl0() {
    let bench = Bench::new();
    bench.machine.break_after(0, Broken::Code(2));
    let (error, log) = refused(&bench);
    assert_eq!(error.kind(), ErrorKind::NotPermitted);
    assert_eq!(log.len(), 1);
}

#[test]
fn refuses_a_host_without_what_it_needs() {
    let bench = Bench::new();
    bench.machine.with(|world| world.hv_features = 0x03);
    assert_eq!(refused(&bench).0, SnpError::MissingFeatures { missing: 0x20 });
    let bench = Bench::new();
    bench.machine.with(|world| world.versions = (1, 1));
    let (error, log) = refused(&bench);
    assert_eq!(error, SnpError::VersionRange { min: 1, max: 1 });
    assert_eq!(log.len(), 1, "no page was shared");
}

#[test]
fn refuses_a_page_that_is_shared_already() {
    let bench = Bench::new();
    bench.machine.with(|world| world.rmp.get_mut(&2).unwrap().valid = false);
    assert_eq!(refused(&bench).0, SnpError::NoChange);
}

#[test]
fn refuses_a_vcpu_without_storage() {
    let bench = Bench::new();
    let mut setup = bench.setup(0);
    setup.vcpu = VcpuId(2);
    let error = L1::start(bench.machine.port(), setup, &bench.shared).err();
    assert_eq!(error, Some(SnpError::UnknownVcpu { id: VcpuId(2) }));
}

#[test]
fn a_processor_without_broadcast_flush_is_refused() {
    for entry in [&0_u32.to_le_bytes()[..], &65_u32.to_le_bytes()[..]] {
        let bench = Bench::new();
        bench.machine.poke(CPUID, entry);
        let error = L1::start(bench.machine.port(), bench.setup(0), &bench.shared).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
    }
    let bench = Bench::new();
    bench.machine.poke(CPUID + 0x10 + 0x1c, &0_u32.to_le_bytes());
    let error = L1::start(bench.machine.port(), bench.setup(0), &bench.shared).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
}
