//! Where programs begin, and leaves that are none.

use super::*;

#[test]
fn every_vcpu_starts_in_l1_at_its_entry() {
    let mut m = Machine::new(Config { vcpus: 3, ..Config::default() });
    assert_eq!(m.step(CPU0, Op::Pause), Outcome::Exit);
    assert_eq!((m.step(Vcpu(7), Op::Pause), m.steps()), (Outcome::Exit, 0));
    for (vcpu, expected) in [(0, 0x1000), (1, 0x2000), (2, 0x2000)] {
        let HostStep::Entered(entry) = m.host(Vcpu(vcpu)) else { panic!("not entered") };
        assert!(matches!(entry.resume, Resume::Start { rip, .. } if rip == expected));
    }
    assert_eq!(m.host_state().exits(), 0);
}

#[test]
fn leaves_that_do_not_exist_and_bad_versions_are_refused() {
    let mut m = machine();
    for rax in [12, 18, 20, 29, 30, 33, 64, 0xffff, 1 << 16 | 1, 2 << 16 | 7, 1 << 24 | 1, 1 << 63 | 1] {
        let before = Regs { rax, rcx: 1, r8: 2, ..NONE };
        let after = Regs { rax: 0xc000_0100_0000_0000, ..before };
        assert_eq!(l1(&mut m, Op::Tdcall(before)), Outcome::Done(Answer::Regs(after)), "{rax:#x}");
    }
    let mut plain = machine_with(|config| config.partitioning = false);
    for number in [23, 24, 25, 26, 27] {
        assert_eq!(call(&mut plain, number, NONE).rax, 0xc000_0100_0000_0000);
    }
    assert_eq!(l1(&mut m, Op::UserTdcall(Regs { rax: 1, ..NONE })), Outcome::Fault(Fault::GeneralProtection));
    assert_eq!(l1(&mut m, vmcall()), Outcome::Fault(Fault::InvalidOpcode));
}
