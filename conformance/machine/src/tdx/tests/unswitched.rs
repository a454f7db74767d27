//! State that the module does not switch (TDX-20, SW-14).

use alloc::boxed::Box;

use super::*;
use crate::tdx::Unswitched;

fn values(tag: u64) -> Unswitched {
    Unswitched {
        vector: [tag as u8; 64],
        xcr0: 7,
        cr2: tag,
        dr: [tag + 1, tag + 2, tag + 3, tag + 4],
        dr6: tag + 5,
        star: tag + 6,
        lstar: tag + 7,
        fmask: tag + 8,
        kernel_gs_base: tag + 9,
        tsc_aux: tag + 10,
        xss: tag + 11,
    }
}

fn set(m: &mut Machine, values: &Unswitched) -> Outcome {
    m.step(CPU0, Op::WriteUnswitched(Box::new(values.clone())))
}

fn get(m: &mut Machine) -> Unswitched {
    match m.step(CPU0, Op::ReadUnswitched) {
        Outcome::Done(Answer::Unswitched(values)) => *values,
        other => panic!("{other:?}"),
    }
}

#[test]
fn one_set_per_vcpu_whoever_runs() {
    let mut m = in_l2();
    exit_with(&mut m, vmcall());
    assert_eq!(set(&mut m, &values(0x51)), done());
    enter(&mut m, 1);
    assert_eq!(get(&mut m), values(0x51));
    // An L2 changes XCR0 and MSRs by instructions that exit.
    assert_eq!(set(&mut m, &values(0x71)), done());
    let mixed = Unswitched { vector: [0x71; 64], cr2: 0x71, dr: [0x72, 0x73, 0x74, 0x75], dr6: 0x76, ..values(0x51) };
    assert_eq!(get(&mut m), mixed);
    exit_with(&mut m, vmcall());
    assert_eq!(get(&mut m), mixed);
    assert_eq!(m.unswitched(CPU1), Some(&Unswitched::default()));
}

#[test]
fn illegal_xcr0_is_gp() {
    let mut m = machine();
    for xcr0 in [0, 2, 5, 8] {
        assert_eq!(set(&mut m, &Unswitched { xcr0, ..values(1) }), Outcome::Fault(Fault::GeneralProtection));
        assert_eq!(m.step(CPU0, Op::Xsetbv(xcr0)), Outcome::Fault(Fault::GeneralProtection));
    }
    assert_eq!(m.step(CPU0, Op::Xsetbv(3)), done());
    assert_eq!(m.step(CPU0, Op::Wrmsr(0xc000_0103, 4)), done());
    assert_eq!(m.step(CPU0, Op::Rdmsr(0xc000_0103)), Outcome::Done(Answer::Value(4)));
    assert_eq!(m.unswitched(CPU0).map(|state| (state.xcr0, state.tsc_aux)), Some((3, 4)));
}

/// A tagged L1 that has prepared VM 1.
fn tagged() -> Machine {
    let mut m = machine();
    prepare(&mut m, 1);
    assert_eq!(set(&mut m, &values(0x51)), done());
    m.tag_unswitched(CPU0, &values(0x51));
    m
}

#[test]
fn o1_each_field_of_l1_that_an_l2_finds() {
    let clean = Unswitched { xcr0: 1, ..values(0x91) };
    let mut m = tagged();
    assert_eq!(set(&mut m, &clean), done());
    enter(&mut m, 1);
    silent(&mut m);
    let l1s = values(0x51);
    let mut leaks: Vec<Unswitched> = alloc::vec![
        Unswitched { xcr0: 7, ..clean.clone() },
        Unswitched { cr2: l1s.cr2, ..clean.clone() },
        Unswitched { dr6: l1s.dr6, ..clean.clone() },
        Unswitched { star: l1s.star, ..clean.clone() },
        Unswitched { lstar: l1s.lstar, ..clean.clone() },
        Unswitched { fmask: l1s.fmask, ..clean.clone() },
        Unswitched { kernel_gs_base: l1s.kernel_gs_base, ..clean.clone() },
        Unswitched { tsc_aux: l1s.tsc_aux, ..clean.clone() },
        Unswitched { xss: l1s.xss, ..clean.clone() },
    ];
    for index in 0..4 {
        let mut leak = clean.clone();
        leak.dr[index] = l1s.dr[index];
        leaks.push(leak);
    }
    let mut vector = clean.clone();
    vector.vector[56..].fill(0x51);
    leaks.push(vector);
    for leak in leaks {
        let mut m = tagged();
        assert_eq!(set(&mut m, &leak), done());
        enter(&mut m, 1);
        assert_eq!(found(&m), ["O1"], "{leak:?}");
    }
}

#[test]
fn o4_l1_goes_on_before_it_has_restored_its_state() {
    let mut m = tagged();
    assert_eq!(set(&mut m, &Unswitched { xcr0: 1, ..values(0x91) }), done());
    enter(&mut m, 1);
    exit_with(&mut m, vmcall());
    get(&mut m);
    let mut forgets = m.clone();
    assert_eq!(forgets.step(CPU0, Op::Pause), done());
    assert_eq!(found(&forgets), ["O4"]);
    assert_eq!(set(&mut m, &values(0x51)), done());
    assert_eq!(m.step(CPU0, Op::Pause), done());
    silent(&mut m);
}

#[test]
fn o1_vector_registers_shown_by_a_tdvmcall() {
    let mut m = tagged();
    assert_eq!(call(&mut m, leaf::VP_VMCALL, Regs { rcx: 0xff00, ..NONE }).rax, 0);
    assert!(found(&m).is_empty());
    assert_eq!(call(&mut m, leaf::VP_VMCALL, Regs { rcx: 1 << 16 | 0xff00, ..NONE }).rax, 0);
    assert_eq!(found(&m), ["O1"]);
}
