//! O6 to O9.

use super::*;
use crate::oracle::ProgressLimit;
use crate::tdx::host::Policy;
use crate::tdx::status::vmcall as sub;

fn fatal() -> Op {
    tdcall(leaf::VP_VMCALL, Regs { rcx: 0xff00, r11: sub::FATAL_ERROR, r12: 1, ..NONE })
}

#[test]
fn o6_the_one_that_reported_goes_on_in_no_other_way() {
    let mut m = machine_with(|config| config.policy = Policy::IgnoreFatalError);
    assert!(matches!(on(&mut m, CPU0, fatal()), Outcome::Done(_)));
    assert_eq!(m.step(CPU0, Op::Pause), done());
    assert!(matches!(on(&mut m, CPU0, fatal()), Outcome::Done(_)));
    // With a host that ignores it, others go on without guilt.
    assert_eq!(m.step(CPU1, read(REGISTERS, 1)), bytes(&[0]));
    silent(&mut m);
    assert_eq!(m.step(CPU0, read(REGISTERS, 1)), bytes(&[0]));
    assert_eq!(found(&m), ["O6"]);
}

#[test]
fn o6_nobody_else_goes_on_under_an_honest_host() {
    let mut m = machine();
    assert_eq!(m.step(CPU0, fatal()), Outcome::Exit);
    // The host has not heard of it yet.
    assert_eq!(m.step(CPU1, Op::Pause), done());
    assert_eq!(found(&m), ["O9", "O6"]);
}

#[test]
fn o7_registers_that_l1_may_not_change() {
    let change = |op: Op, offset: u64| {
        let mut m = in_l2();
        let exit = exit_with(&mut m, op);
        set_register(&mut m, 1, offset, 0x5a5a);
        let rip = register(&m, 1, 0x88);
        set_register(&mut m, 1, 0x88, rip + (exit.r11 >> 32));
        let _ = l1(&mut m, enter_op(1, 0));
        found(&m)
    };
    for offset in [0x18, 0x20, 0x28, 0x30, 0x38, 0x50, 0x78, 0x90] {
        assert_eq!(change(vmcall(), offset), ["O7"], "{offset:#x}");
    }
    for offset in [0, 8, 0x10, 0x40, 0x48] {
        assert!(change(vmcall(), offset).is_empty(), "{offset:#x}");
    }
    assert_eq!(change(Op::Hlt, 0), ["O7"]);
    assert_eq!(change(Op::Cpuid { leaf: 0, subleaf: 0 }, 0x40), ["O7"]);
    assert!(change(Op::Cpuid { leaf: 0, subleaf: 0 }, 0x18).is_empty());
    assert_eq!(change(Op::Tdcall(NONE), 0x20), ["O7"]);
    assert!(change(Op::Tdcall(NONE), 0x28).is_empty());
    // Another program may have any registers.
    let mut m = in_l2();
    exit_with(&mut m, vmcall());
    set_register(&mut m, 1, 0x88, L2_ENTRY);
    set_register(&mut m, 1, 0x20, 0x5a5a);
    enter(&mut m, 1);
    silent(&mut m);
}

fn steps_until_o8(m: &mut Machine) -> u64 {
    for step in 1..20_000 {
        assert_eq!(m.step(CPU0, Op::Pause), done());
        if found(m) == ["O8"] {
            return step;
        }
    }
    0
}

#[test]
fn o8_a_call_that_takes_too_long() {
    let mut m = in_l2();
    exit_with(&mut m, vmcall());
    assert_eq!(steps_until_o8(&mut m), 513);
    // Other exits are no calls.
    let mut m = in_l2();
    exit_with(&mut m, Op::Hlt);
    assert_eq!(steps_until_o8(&mut m), 0);
    // The next VP.ENTER ends it, even one that is refused.
    let mut m = in_l2();
    exit_with(&mut m, vmcall());
    m.host_post_interrupt(CPU0);
    assert_ne!(m.step(CPU0, enter_op(1, 0)), Outcome::Exit);
    assert_eq!(steps_until_o8(&mut m), 0);
}

#[test]
fn o8_a_host_may_prolong_a_call() {
    let under = |policy: Policy| {
        let mut m = in_l2_of(machine_with(|config| config.policy = policy.clone()));
        exit_with(&mut m, vmcall());
        m
    };
    let mut m = under(Policy::LieMsr);
    assert_eq!(steps_until_o8(&mut m), 0, "PAUSE does not count");
    let steps = |m: &mut Machine| {
        (1..2000).find(|_| {
            assert_eq!(m.step(CPU0, read(REGISTERS, 1)), bytes(&[0]));
            !found(m).is_empty()
        })
    };
    assert_eq!(steps(&mut m.clone()), Some(513));
    (0..500).for_each(|_| assert_eq!(m.step(CPU0, read(REGISTERS, 1)), bytes(&[0])));
    host_call(&mut m, sub::WBINVD, 0, 0);
    // The TDVMCALL is the first step of the new count.
    assert_eq!(steps(&mut m), Some(512));
    let mut m = under(Policy::Honest);
    m.host_state_mut().set_policy(Policy::Busy(1000));
    (0..1000).for_each(|_| assert_ne!(accept(&mut m, BLOCK, 0), 0));
    silent(&mut m);
}

#[test]
fn o8_counts_entries_and_the_pages_of_large_ones() {
    let mut m = in_l2();
    m.set_progress_limit(ProgressLimit { base: 10, per_entry: 20, per_page: 2 });
    let list: Vec<u8> = [3u64, 0x7000 | 4, 0x20_0000 | 5, 0x40_0000 | 1].iter().flat_map(|q| q.to_le_bytes()).collect();
    assert_eq!(m.step(CPU0, write(PAGE, &list)), done());
    exit_with(&mut m, Op::Vmcall { regs: CallRegs { rax: 1, rcx: PAGE, ..CALL }, cpl: 0 });
    assert_eq!(steps_until_o8(&mut m), 10 + 3 * 20 + 2 * 2 * 512 + 1);
}

#[test]
fn o9_l1_ends_or_dies_under_an_honest_host() {
    for op in [Op::End, Op::TripleFault, fatal()] {
        let mut m = machine();
        assert_eq!(m.step(CPU0, op.clone()), Outcome::Exit);
        assert_eq!(found(&m), ["O9"], "{op:?}");
        let mut liar = machine_with(|config| config.policy = Policy::NoKick);
        assert_eq!(liar.step(CPU0, op), Outcome::Exit);
        assert!(found(&liar).is_empty());
    }
    let mut m = in_l2();
    exit_with(&mut m, Op::End);
    silent(&mut m);
}
