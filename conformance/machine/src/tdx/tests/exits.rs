//! Exits of an L2 to L1 and their registers (vmx_exit_reasons.csv, l2_vp_enter.csv `exit_output`).

use super::*;
use crate::tdx::status::{L2_EXIT_HOST_ROUTED_ASYNC, L2_EXIT_HOST_ROUTED_TDVMCALL};

/// What L1 finds after an instruction: reason, qualification, instruction length, CPL.
fn seen(op: Op) -> (u64, u64, u64, u64) {
    let mut m = in_l2();
    let exit = exit_with(&mut m, op);
    assert_eq!((exit.rbx, exit.r9, exit.r10, exit.r13, exit.r14, exit.r15), (0, 0, 0, 0, 0, 0));
    assert_eq!(m.vmcs_field(CPU0, 1, 0x4402), Some(exit.rax));
    assert_eq!(register(&m, 1, 0x88), L2_ENTRY + 0x10);
    (exit.rax, exit.rcx, exit.r11 >> 32, exit.r12)
}

#[test]
fn tdx_49_each_instruction_has_its_reason() {
    assert_eq!(seen(vmcall()), (18, 0, 3, 0));
    assert_eq!(seen(Op::Vmcall { regs: CALL, cpl: 3 }), (18, 0, 3, 3));
    assert_eq!(seen(Op::Cpuid { leaf: 7, subleaf: 1 }), (10, 0, 2, 0));
    assert_eq!(seen(Op::Hlt), (12, 0, 1, 0));
    assert_eq!(seen(Op::In { port: 0x60, size: 4 }), (30, 0x60_000b, 1, 0));
    assert_eq!(seen(Op::Out { port: 0x3f8, size: 1, value: 9 }), (30, 0x3f8_0000, 1, 0));
    assert_eq!(seen(Op::Rdmsr(0x1b)), (31, 0, 2, 0));
    assert_eq!(seen(Op::Wrmsr(0xc000_0082, 1 << 40)), (32, 0, 2, 0));
    assert_eq!(seen(Op::Xsetbv(3)), (55, 0, 3, 0));
    assert_eq!(seen(Op::Tdcall(Regs { rax: 1, ..NONE })), (77, 0, 4, 0));
    assert_eq!(seen(Op::UserTdcall(Regs { rax: 0, ..NONE })), (77, 0, 4, 3));
    assert_eq!(seen(Op::TripleFault), (2, 0, 0, 0));
}

/// The answer that an instruction has when L1 writes these registers (offset, value) and moves RIP.
fn completed(op: Op, values: &[(u64, u64)]) -> Answer {
    let mut m = in_l2();
    let exit = exit_with(&mut m, op);
    for (offset, value) in values {
        set_register(&mut m, 1, *offset, *value);
    }
    let length = (exit.r11 >> 32).max(if exit.rax == 48 { 3 } else { 0 });
    set_register(&mut m, 1, 0x88, L2_ENTRY + 0x10 + length);
    match enter(&mut m, 1).resume {
        Resume::Complete(answer) => answer,
        other => panic!("{other:?}"),
    }
}

#[test]
fn operands_are_in_the_register_page_and_so_are_answers() {
    let at = |op: Op, offsets: &[u64]| {
        let mut m = in_l2();
        exit_with(&mut m, op);
        offsets.iter().map(|offset| register(&m, 1, *offset)).collect::<Vec<_>>()
    };
    assert_eq!(at(Op::Cpuid { leaf: 7, subleaf: 2 }, &[0, 8]), [7, 2]);
    assert_eq!(at(Op::Wrmsr(0x1b, 5 << 32 | 6), &[0, 8, 0x10]), [6, 0x1b, 5]);
    assert_eq!(at(Op::Out { port: 0x80, size: 2, value: 9 }, &[0, 0x10]), [9, 0x80]);
    assert_eq!(at(Op::Tdcall(Regs { rax: 4, rcx: 5, r15: 6, ..NONE }), &[0, 8, 0x78]), [4, 5, 6]);

    let cpuid = completed(Op::Cpuid { leaf: 0, subleaf: 0 }, &[(0, 1), (0x18, 2), (8, 3), (0x10, 4)]);
    assert_eq!(cpuid, Answer::Cpuid([1, 2, 3, 4]));
    assert_eq!(completed(Op::Rdmsr(0x1b), &[(0, 1), (0x10, 2)]), Answer::Value(2 << 32 | 1));
    assert_eq!(completed(Op::In { port: 1, size: 1 }, &[(0, 0x1ff)]), Answer::Value(0xff));
    assert_eq!(completed(Op::Hlt, &[]), Answer::None);
    let regs = completed(Op::Tdcall(NONE), &[(0, 9), (0x50, 8)]);
    assert_eq!(regs, Answer::Regs(Regs { rax: 9, r10: 8, ..NONE }));
    assert_eq!(completed(read(SCRATCH, 2), &[(0, 0x0201)]), Answer::Bytes(alloc::vec![1, 2]));
}

#[test]
fn tdx_30_a_right_that_is_missing_goes_to_l1_with_address_and_access() {
    let mut m = in_l2();
    let exit = exit_with(&mut m, write(SCRATCH + 8, &[1]));
    assert_eq!((exit.rax, exit.rcx, exit.rdx, exit.r8, exit.r13), (48, 0x182, SCRATCH + 8, SCRATCH + 8, 0));
    assert_eq!(attr_wr(&mut m, SCRATCH, 0, part(1, 0x8001), part(1, 0x7f)).rax, 0);
    enter(&mut m, 1);
    let exit = exit_with(&mut m, write(SCRATCH, &[1]));
    assert_eq!(exit.rcx, 0x18a);
    enter(&mut m, 1);
    assert_eq!(exit_with(&mut m, fetch(SCRATCH, false)).rcx, 0x18c);
    // Beyond the address width there is nothing that a host could map.
    enter(&mut m, 1);
    assert_eq!(exit_with(&mut m, read(1 << 48, 1)).r8, 1 << 48);
}

#[test]
fn tdx_58_user_execution_needs_mode_based_control() {
    for (mode_based, rights, user, supervisor) in [
        (false, 0x8004, true, true),
        (false, 0x8008, false, false),
        (true, 0x8004, false, true),
        (true, 0x8008, true, false),
    ] {
        let mut m = machine();
        if mode_based {
            assert_eq!(vp_wr(&mut m, vmcs(1, 0x401e), 1 << 22, 1 << 22).rax, 0);
        }
        grant(&mut m, PAGE, false, 1, rights);
        prepare(&mut m, 1);
        enter(&mut m, 1);
        for (as_user, expected) in [(true, user), (false, supervisor)] {
            let mut m = m.clone();
            assert_eq!(m.step(CPU0, fetch(PAGE, as_user)) == done(), expected, "{mode_based} {rights:#x} {as_user}");
        }
    }
}

#[test]
fn tdx_28_shared_and_foreign_memory_goes_to_the_host_first() {
    let mut m = in_l2();
    for (gpa, private, seen) in [(PAGE + 0x1000, false, (PAGE + 0x1000) | SHARED), (1 << 40, true, 1 << 40)] {
        let exits = m.host_state().exits();
        let exit = exit_with(&mut m, Op::Read { gpa, len: 4, private });
        assert_eq!((exit.rax, exit.r8, exit.r13), (L2_EXIT_HOST_ROUTED_ASYNC | 48, seen, 0));
        assert_eq!(m.host_state().exits(), exits + 1);
        assert_eq!(enter(&mut m, 1).resume, Resume::Retry);
    }
    // L1 can emulate it.
    exit_with(&mut m, Op::Read { gpa: 1 << 40, len: 4, private: true });
    set_register(&mut m, 1, 0, 0x0403_0201);
    let rip = register(&m, 1, 0x88);
    set_register(&mut m, 1, 0x88, rip + 3);
    assert_eq!(enter(&mut m, 1).resume, Resume::Complete(Answer::Bytes(alloc::vec![1, 2, 3, 4])));
}

#[test]
fn a_private_page_that_nobody_mapped_is_mapped_and_then_l1s_to_accept() {
    let mut m = in_l2();
    assert_eq!(m.step(CPU0, read(BLOCK, 1)), Outcome::Exit);
    assert!(matches!(m.host(CPU0), HostStep::Entered(Entry { level: 1, resume: Resume::Retry, .. })));
    let exit = exit_with(&mut m, read(BLOCK, 1));
    assert_eq!((exit.rax, exit.r13), (48, 6));
}

#[test]
fn tdx_53_the_msr_bitmap_decides() {
    let mut m = machine();
    let lstar_write = 0x180 + (0x82 / 64);
    assert_eq!(vp_wr(&mut m, 0x2520_0003_0000_0000 + lstar_write, 0, 1 << (0x82 % 64)).rax, 0);
    prepare(&mut m, 1);
    enter(&mut m, 1);
    assert_eq!(m.step(CPU0, Op::Wrmsr(0xc000_0082, 5)), done());
    assert_eq!(m.unswitched(CPU0).map(|state| state.lstar), Some(5));
    for op in [Op::Rdmsr(0xc000_0082), Op::Wrmsr(0xc000_0081, 5), Op::Rdmsr(0x480), Op::Rdmsr(0x4000_0000)] {
        let mut m = m.clone();
        assert!(matches!(exit_with(&mut m, op).rax, 31 | 32));
    }
    exit_with(&mut m, vmcall());
    assert_eq!(vp_wr(&mut m, 0x2520_0003_0000_0000, 0, u64::MAX).rax, 0);
    enter(&mut m, 1);
    // What the bitmap passes is up to the TD's policy.
    assert_eq!(m.step(CPU0, Op::Rdmsr(0x10)), Outcome::Fault(Fault::GeneralProtection));
}

#[test]
fn tdx_52_with_enable_tdvmcall_leaf_0_goes_to_the_host() {
    let mut m = machine();
    assert_eq!(vp_wr(&mut m, 0xa020_0003_0000_0051, 2, 7).rax, 0);
    prepare(&mut m, 1);
    enter(&mut m, 1);
    let op = Op::Tdcall(Regs { rcx: 0xff00, r11: 0x1001e, ..NONE });
    let Outcome::Done(Answer::Regs(regs)) = on(&mut m, CPU0, op.clone()) else { panic!("the host answers") };
    assert_eq!((regs.rax, regs.r10), (0, 0x8000_0000_0000_0003));
    assert_eq!(m.counters(CPU0, 1).td_exits, 1);
    // The leaf alone decides; a version that does not exist is refused.
    let version = Op::Tdcall(Regs { rax: 1 << 16, rcx: 0xff00, ..NONE });
    let Outcome::Done(Answer::Regs(regs)) = on(&mut m, CPU0, version) else { panic!("the module answers") };
    assert_eq!(regs.rax, 0xc000_0100_0000_0000);
    // Another leaf goes to L1, and the host may route the call there too.
    assert_eq!(exit_with(&mut m, Op::Tdcall(Regs { rax: 1, ..NONE })).rax, 77);
    enter(&mut m, 1);
    assert_eq!(m.step(CPU0, op), Outcome::Exit);
    m.answer_call(CPU0, &Regs { r10: 7, ..NONE });
    assert!(m.td_enter_l1(CPU0).is_some_and(|entry| entry.level == 0));
    assert_eq!(m.vmcs_field(CPU0, 1, 0x4402), Some(77));
    let state = register(&m, 1, 0x50);
    assert_eq!((state, register(&m, 1, 0x88)), (7, L2_ENTRY + 0x14));
    // It has retired: RIP as stored completes it.
    let Resume::Complete(Answer::Regs(regs)) = enter(&mut m, 1).resume else { panic!("it retired") };
    assert_eq!(regs.r10, 7);
    assert_eq!(L2_EXIT_HOST_ROUTED_TDVMCALL | 77, 0x1101_0000_004d);
}

#[test]
fn pause_exits_where_l1_wants_it() {
    let mut m = in_l2();
    assert_eq!(m.step(CPU0, Op::Pause), done());
    exit_with(&mut m, vmcall());
    assert_eq!(vp_wr(&mut m, vmcs(1, 0x4002), 1 << 30, 1 << 30).rax, 0);
    enter(&mut m, 1);
    assert_eq!(exit_with(&mut m, Op::Pause).rax, 40);
}

#[test]
fn rsi_and_rdi_have_the_code_segment() {
    let mut m = machine();
    for (encoding, value) in [(0x802, 0x8), (0x4816, 0xc09b), (0x4802, 0xfffff), (0x6808, 0x1234_0000)] {
        assert_eq!(vp_wr(&mut m, vmcs(1, encoding), value, u64::MAX).rax, 0);
    }
    prepare(&mut m, 1);
    enter(&mut m, 1);
    let exit = exit_with(&mut m, vmcall());
    assert_eq!((exit.rsi, exit.rdi), (0xf_ffff_c09b_0008, 0x1234_0000));
}
