//! Interrupts of L1, and events that L1 injects (TDX-14 to TDX-17, TDX-39 to TDX-42).

use super::*;
use crate::tdx::status::{L2_EXIT_PENDING_INTERRUPT, PENDING_INTERRUPT};

/// Instruction.WRMSR of the x2APIC ICR.
fn kick(m: &mut Machine, to: u8) {
    assert_eq!(host_call(m, 0x20, 0x830, u64::from(to) << 32 | 0xf0).r10, 0);
}

#[test]
fn tdx_14_an_interrupt_for_l1_refuses_one_entry() {
    let mut m = machine();
    prepare(&mut m, 1);
    kick(&mut m, 0);
    assert_eq!(status_of(&mut m, enter_op(1, 0)), PENDING_INTERRUPT);
    enter(&mut m, 1);
}

#[test]
fn tdx_40_an_interrupt_for_l1_ends_the_l2_that_runs() {
    let mut m = in_l2();
    kick_from_cpu1(&mut m);
    let exits = m.host_state().exits();
    assert_eq!(m.step(CPU0, write(PAGE, &[1])), Outcome::Exit);
    let exit = back_in_l1(&mut m);
    assert_eq!((exit.rax, exit.r13), (L2_EXIT_PENDING_INTERRUPT | 1, 0));
    assert_eq!(m.host_state().exits(), exits);
    assert_eq!(m.peek(PAGE, 1, Some(0)), Some(alloc::vec![0]));
    assert_eq!(enter(&mut m, 1).resume, Resume::Retry);
}

fn kick_from_cpu1(m: &mut Machine) {
    let op = tdcall(leaf::VP_VMCALL, Regs { rcx: 0xff00, r11: 0x20, r12: 0x830, r13: 0xf0, ..NONE });
    assert!(matches!(on(m, CPU1, op), Outcome::Done(_)));
}

#[test]
fn tdx_42_an_injected_exception_reaches_the_program_in_place_of_its_operation() {
    for (vector, fault) in [(13, Fault::GeneralProtection), (6, Fault::InvalidOpcode)] {
        let mut m = in_l2();
        exit_with(&mut m, Op::Vmcall { regs: CALL, cpl: 3 });
        let event = 1 << 31 | 3 << 8 | vector;
        assert_eq!(vp_wr(&mut m, vmcs(1, 0x4016), event, u64::MAX).rax, 0);
        assert_eq!(enter(&mut m, 1).resume, Resume::Retry);
        assert_eq!(m.step(CPU0, Op::Vmcall { regs: CALL, cpl: 3 }), Outcome::Fault(fault));
        assert_eq!(m.step(CPU0, Op::Pause), done());
        assert_eq!(m.delivered_events(CPU0, 1), [event as u32]);
        // It is delivered once.
        assert_eq!(m.vmcs_field(CPU0, 1, 0x4016), Some(event & !(1 << 31)));
    }
}

#[test]
fn other_events_are_delivered_to_nobody_but_noted() {
    let mut m = in_l2();
    exit_with(&mut m, Op::Hlt);
    assert_eq!(vp_wr(&mut m, vmcs(1, 0x4016), 1 << 31 | 2 << 8 | 2, u64::MAX).rax, 0);
    enter(&mut m, 1);
    assert_eq!(m.step(CPU0, Op::Pause), done());
    assert_eq!(m.delivered_events(CPU0, 1), [0x8000_0202]);
}

#[test]
fn an_event_that_cannot_be_delivered_fails_the_entry() {
    let mut m = in_l2();
    exit_with(&mut m, Op::Hlt);
    assert_eq!(vp_wr(&mut m, vmcs(1, 0x4016), 1 << 31 | 2 << 8 | 2, u64::MAX).rax, 0);
    assert_eq!(vp_wr(&mut m, vmcs(1, 0x4824), 8, u64::MAX).rax, 0);
    assert_eq!(status_of(&mut m, enter_op(1, 0)), 0x8000_0021);
}

#[test]
fn hlt_of_l1_is_over_at_once_or_waits_for_a_wake_up() {
    let mut m = machine();
    assert_eq!(host_call(&mut m, 0xc, 0, 0).r10, 0);

    let mut m = machine_with(|config| config.hlt_waits = true);
    let halt = tdcall(leaf::VP_VMCALL, Regs { rcx: 0xff00, r11: 0xc, ..NONE });
    assert_eq!(m.step(CPU0, halt.clone()), Outcome::Exit);
    assert_eq!((m.host(CPU0), m.host(CPU0)), (HostStep::Parked, HostStep::Parked));
    kick_from_cpu1(&mut m);
    assert!(matches!(m.host(CPU0), HostStep::Entered(Entry { level: 0, resume: Resume::Complete(_), .. })));
    // A wake-up that came before is not lost (TD-15).
    kick_from_cpu1(&mut m);
    assert_eq!(m.step(CPU0, halt), Outcome::Exit);
    assert!(matches!(m.host(CPU0), HostStep::Entered(_)));
}
