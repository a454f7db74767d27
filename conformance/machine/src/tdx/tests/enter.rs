//! TDG.VP.ENTER: its checks in order, and which program goes on (l2_vp_enter.csv, TDX-11 to TDX-18, TDX-60).

use super::*;
use crate::tdx::status::{OPERAND_INVALID, PENDING_INTERRUPT};
use crate::tdx::{EptCause, TdExit};

fn refused(m: &mut Machine, rcx: u64, rdx: u64) -> u64 {
    call(m, leaf::VP_ENTER, Regs { rcx, rdx, ..NONE }).rax
}

#[test]
fn checks_come_in_the_order_of_the_table() {
    let mut m = machine_with(|config| config.l2_vms = 2);
    let page = registers_of(CPU0, 1);
    for rdx in [page + 8, page + 0x80, page | SHARED, 1 << 60] {
        assert_eq!(refused(&mut m, u64::MAX, rdx), OPERAND_INVALID | 2, "{rdx:#x}");
    }
    m.host_post_interrupt(CPU0);
    for rcx in [0, 3 << 52, 1 << 52 | 4, 1 << 52 | 1 << 54, 1 << 52 | 1 << 63] {
        assert_eq!(refused(&mut m, rcx, page), OPERAND_INVALID | 1, "{rcx:#x}");
    }
    assert_eq!(refused(&mut m, 1 << 52, page), OPERAND_INVALID | 170);
    prepare(&mut m, 1);
    assert_eq!(refused(&mut m, 1 << 52, PAGE), PENDING_INTERRUPT);
    // A page that is not mapped comes last, and the host gets a chance.
    assert_eq!(m.step(CPU0, tdcall(leaf::VP_ENTER, Regs { rcx: 1 << 52, rdx: PAGE, ..NONE })), Outcome::Exit);
    let violation = TdExit::EptViolation { level: 0, gpa: PAGE, cause: EptCause::Operand };
    assert_eq!(m.td_exit_info(CPU0), Some(&violation));
    assert_eq!(m.counters(CPU0, 1).entered, 0);
}

#[test]
fn a_virtual_apic_page_that_is_not_mapped_goes_to_the_host() {
    let mut m = machine();
    prepare(&mut m, 1);
    assert!(m.host_remove_page(VAPIC + 0x1000));
    assert_eq!(m.step(CPU0, enter_op(1, 0)), Outcome::Exit);
    let violation = TdExit::EptViolation { level: 0, gpa: VAPIC + 0x1000, cause: EptCause::Operand };
    assert_eq!(m.td_exit_info(CPU0), Some(&violation));
}

#[test]
fn tdx_13_the_host_has_no_part_in_a_switch() {
    let mut m = in_l2();
    let exits = m.host_state().exits();
    for _ in 0..3 {
        exit_with(&mut m, Op::Cpuid { leaf: 1, subleaf: 0 });
        assert_eq!(enter(&mut m, 1).resume, Resume::Retry);
    }
    assert_eq!(m.host_state().exits(), exits);
    assert_eq!((m.counters(CPU0, 1).entered, m.counters(CPU0, 1).l2_exits), (4, 3));
    assert_eq!(m.counters(CPU0, 1).td_exits, 0);
}

#[test]
fn the_register_page_is_loaded_and_stored() {
    let mut m = machine();
    prepare(&mut m, 1);
    for index in 0..16 {
        set_register(&mut m, 1, index * 8, 0x100 + index);
    }
    let entry = enter(&mut m, 1);
    let Resume::Start { rip, regs } = entry.resume else { panic!("a new program starts") };
    assert_eq!((rip, regs.rax, regs.rbp, regs.r15, entry.key.generation), (L2_ENTRY, 0x100, 0x105, 0x10f, 1));
    let exit = exit_with(&mut m, vmcall());
    assert_eq!(exit.rbp, 0x105);
    assert_eq!([0, 8, 0x10, 0x40, 0x48].map(|at| register(&m, 1, at)), [1 << 32, 2, 3, 4, 5]);
    assert_eq!([0x18, 0x20, 0x28, 0x78].map(|at| register(&m, 1, at)), [0x103, 0x104, 0x105, 0x10f]);
    assert_eq!((register(&m, 1, 0x80), register(&m, 1, 0x88)), (2, L2_ENTRY + 0x10));
}

#[test]
fn tdx_18_rip_decides_whether_the_operation_is_executed_again_retires_or_never_was() {
    let mut m = in_l2();
    exit_with(&mut m, vmcall());
    let key = enter(&mut m, 1);
    assert_eq!((key.resume, key.key.generation), (Resume::Retry, 1));

    let exit = exit_with(&mut m, vmcall());
    let rip = register(&m, 1, 0x88);
    set_register(&mut m, 1, 0x88, rip + (exit.r11 >> 32));
    set_register(&mut m, 1, 0, 0x77);
    let entry = enter(&mut m, 1);
    assert_eq!(entry.resume, Resume::Complete(Answer::Call(CallRegs { rax: 0x77, ..CALL })));
    assert_eq!(entry.key.generation, 1);

    exit_with(&mut m, vmcall());
    set_register(&mut m, 1, 0x88, L2_ENTRY);
    let entry = enter(&mut m, 1);
    assert!(matches!(entry.resume, Resume::Start { rip: L2_ENTRY, .. }));
    assert_eq!((entry.key.generation, entry.key.level, entry.level), (2, 1, 1));
}

#[test]
fn an_answer_survives_an_entry_that_was_refused() {
    let mut m = in_l2();
    exit_with(&mut m, vmcall());
    let rip = register(&m, 1, 0x88);
    set_register(&mut m, 1, 0x88, rip + 3);
    m.host_post_interrupt(CPU0);
    assert_eq!(status_of(&mut m, enter_op(1, 1)), PENDING_INTERRUPT);
    assert_eq!(enter(&mut m, 1).resume, Resume::Complete(Answer::Call(CALL)));
}

#[test]
fn tdx_60_an_l2_with_bad_state_does_not_run() {
    let mut m = machine();
    prepare(&mut m, 1);
    set_register(&mut m, 1, 0x80, 0);
    set_register(&mut m, 1, 0x28, 0x77);
    let Outcome::Done(Answer::Regs(regs)) = l1(&mut m, enter_op(1, 0)) else { panic!("L1 goes on") };
    assert_eq!((regs.rax, regs.rbp), (0x8000_0021, 0x77));
    assert_eq!(m.vmcs_field(CPU0, 1, 0x4402), Some(0x8000_0021));
    assert_eq!((m.counters(CPU0, 1).entered, register(&m, 1, 0x88)), (0, L2_ENTRY));
    set_register(&mut m, 1, 0x80, 2);
    assert!(matches!(enter(&mut m, 1).resume, Resume::Start { .. }));
}

#[test]
fn tdx_02_vms_are_siblings_with_their_own_programs() {
    let mut m = machine();
    for vm in 1..=3 {
        prepare(&mut m, vm);
        assert_eq!(enter(&mut m, vm).key, crate::tdx::RunKey { vcpu: CPU0, level: vm, generation: 1 });
        exit_with(&mut m, vmcall());
    }
    assert_eq!(enter(&mut m, 2).resume, Resume::Retry);
    assert_eq!(m.running_level(CPU0), Some(2));
}

#[test]
fn a_program_that_ended_shuts_down_for_ever_until_another_one_begins() {
    let mut m = in_l2();
    assert_eq!(exit_with(&mut m, Op::End).rax, 2);
    for _ in 0..2 {
        assert_eq!(status_of(&mut m, enter_op(1, 0)), 2);
    }
    set_register(&mut m, 1, 0x88, L2_ENTRY);
    assert!(matches!(enter(&mut m, 1).resume, Resume::Start { .. }));
}

#[test]
fn an_exit_that_finds_no_register_page_waits_for_the_host() {
    let mut m = in_l2();
    assert!(m.host_remove_page(REGISTERS));
    assert_eq!(m.step(CPU0, vmcall()), Outcome::Exit);
    assert!(matches!(m.td_exit_info(CPU0), Some(TdExit::EptViolation { cause: EptCause::Operand, .. })));
    // A new page is pending, and nobody but L1 can accept it: the TD stands still.
    assert!(matches!(stopped(&mut m, CPU0), Some(Stop::EptViolation { .. })));
}
