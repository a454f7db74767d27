//! VMRUN, exits, and stores to running VMSAs.

use super::*;
use crate::{Resume, RunKey, VmrunError, VmsaWrite};

pub(super) fn field(m: &Machine, vmsa: u64, offset: usize) -> u64 {
    let bytes = m.peek(vmsa + offset as u64, 8, Some(0)).expect("VMPL0 may read");
    layout::read_u64(&bytes, 0)
}

pub(super) fn set_field(m: &mut Machine, vmsa: u64, offset: usize, value: u64) {
    assert_eq!(on(m, CPU0, 0, write(vmsa + offset as u64, &value.to_le_bytes())), done());
}

/// A machine without rules, and how VMRUN of the VMSA of VMPL2 ends after a field was set.
fn vmrun_with(rules: &[&'static str], offset: usize, value: u64) -> Result<Entry, VmrunError> {
    let mut m = broken(rules);
    let vmsa = vmsa_of(CPU0, 2);
    set_field(&mut m, vmsa, offset, value);
    assert_eq!(m.step(CPU0, Op::Hlt), Outcome::Exit);
    m.vmrun(CPU0, vmsa)
}

#[test]
fn the_first_entry_starts_at_rip_with_the_registers_of_the_page() {
    let mut m = machine();
    let vmsa = vmsa_of(CPU0, 1);
    for (offset, value) in [(layout::RAX, 1), (layout::RCX, 2), (layout::RDX, 3), (layout::R8, 4), (layout::R9, 5)] {
        set_field(&mut m, vmsa, offset, value);
    }
    let entry = switch(&mut m, CPU0, 1).expect("entered");
    assert_eq!((entry.run, entry.vmpl), (RunKey { vmsa, generation: 1 }, 1));
    assert_eq!(entry.resume, Resume::Start { rip: 0x1000, regs: REGS });
    assert_eq!(m.running(CPU0), Some(entry.run));
    assert_eq!(m.vmsa_running_on(vmsa), Some(CPU0));
}

#[test]
fn vmgexit_saves_registers_and_code_and_completes_with_what_the_page_holds_then() {
    let mut m = machine();
    let vmsa = vmsa_of(CPU0, 1);
    assert_eq!(at(&mut m, 1, Op::Wrmsr(0xc001_0130, 0x16)), done());
    assert_eq!(m.step(CPU0, Op::Vmgexit(REGS)), Outcome::Exit);
    let exit = m.exit_info(CPU0).expect("left");
    assert_eq!((exit.key.vmsa, exit.vmpl, exit.code, exit.ghcb_msr), (vmsa, 1, 0x403, 0x16));
    assert_eq!(field(&m, vmsa, layout::GUEST_EXIT_CODE), 0x403);
    assert_eq!(field(&m, vmsa, layout::R9), 5);
    m.set_ghcb_msr(exit.key, 0x17);
    // The host cannot choose registers or restart the program.
    m.complete(exit.key, Resume::Complete(Answer::Regs(Regs::default())));
    m.complete(exit.key, Resume::Start { rip: 0, regs: Regs::default() });
    assert!(m.vmrun(CPU0, vmsa_of(CPU0, 0)).is_ok());
    assert_eq!(m.exit_info(CPU0), None);
    set_field(&mut m, vmsa, layout::RAX, 0x77);
    let entry = switch(&mut m, CPU0, 1).expect("entered");
    assert_eq!(entry.resume, Resume::Complete(Answer::Regs(Regs { rax: 0x77, ..REGS })));
    assert_eq!(m.step(CPU0, Op::Rdmsr(0xc001_0130)), Outcome::Done(Answer::Value(0x17)));
}

#[test]
fn halt_completes_and_a_nested_fault_repeats() {
    let mut m = machine();
    let vmsa = vmsa_of(CPU0, 1);
    assert_eq!(at(&mut m, 1, Op::Hlt), Outcome::Exit);
    assert_eq!(m.exit_info(CPU0).map(|exit| exit.code), Some(0x78));
    assert_eq!(field(&m, vmsa, layout::GUEST_EXIT_CODE), 0x78);
    assert_eq!(m.vmrun(CPU0, vmsa).map(|entry| entry.resume), Ok(Resume::Complete(Answer::None)));
    assert_eq!(m.step(CPU0, read(PAGE, 1)), Outcome::Exit);
    assert_eq!(field(&m, vmsa, layout::GUEST_EXIT_CODE), 0x400);
    assert_eq!(field(&m, vmsa, layout::GUEST_EXITINFO2), PAGE);
    assert_eq!(m.vmrun(CPU0, vmsa).map(|entry| entry.resume), Ok(Resume::Retry));
}

#[test]
fn a_program_that_ended_never_runs_again() {
    let mut m = machine();
    assert_eq!(at(&mut m, 2, Op::End), Outcome::Exit);
    assert_eq!(m.exit_info(CPU0).map(|exit| exit.code), Some(crate::exit_code::END));
    assert_eq!(m.vmrun(CPU0, vmsa_of(CPU0, 2)), Err(VmrunError::Ended));
}

#[test]
fn a_page_made_a_vmsa_again_is_another_program() {
    let flag = |gpa, on: u64| Op::Rmpadjust { gpa, rcx: 0, rdx: on << 16 | 1 };
    let vmsa = vmsa_of(CPU0, 1);
    let mut m = machine();
    assert_eq!(at(&mut m, 1, Op::End), Outcome::Exit);
    assert_eq!(m.vmrun(CPU0, vmsa_of(CPU0, 0)).map(|entry| entry.vmpl), Ok(0));
    assert_eq!(m.step(CPU0, flag(vmsa, 0)), rmpadjusted(0));
    assert_eq!(m.step(CPU0, Op::Hlt), Outcome::Exit);
    assert_eq!(m.vmrun(CPU0, vmsa), Err(VmrunError::Invalid("RMP-022")));
    assert_eq!(at(&mut m, 0, flag(vmsa, 1)), rmpadjusted(0));
    let entry = switch(&mut m, CPU0, 1).expect("entered");
    assert_eq!(entry.run.generation, 2);
    assert!(matches!(entry.resume, Resume::Start { .. }));
}

#[test]
fn rmp_022_vmrun_needs_a_vmsa_page() {
    let mut m = machine();
    take(&mut m, PAGE, false);
    assert_eq!(m.step(CPU0, Op::Hlt), Outcome::Exit);
    for gpa in [PAGE, PAGE + 0x1000, PAGE + 1, (1 << 46) + 0x1000] {
        assert_eq!(m.vmrun(CPU0, gpa), Err(VmrunError::Invalid("RMP-022")));
    }
    // Rescinding alone does not make a VMSA unrunnable.
    assert_eq!(at(&mut m, 0, pvalidate(vmsa_of(CPU0, 3), false, false)), pvalidated(0, false));
    assert_eq!(switch(&mut m, CPU0, 3).map(|entry| entry.vmpl), Some(3));
    assert_eq!(m.step(CPU0, Op::Hlt), Outcome::Exit);
    // Replaced by other memory, even with the same contents (SW-16).
    let vmsa = vmsa_of(CPU0, 1);
    let copy = m.config().spare[0].0;
    assert_eq!(m.rmpupdate(copy, false, Some(vmsa)), 0);
    m.map(vmsa, false, Some(copy));
    assert_eq!(m.vmrun(CPU0, vmsa), Err(VmrunError::Invalid("RMP-022")));
}

#[test]
fn rmp_023_vmrun_needs_svme() {
    assert_eq!(vmrun_with(&[], layout::EFER, 0xd01), Err(VmrunError::Invalid("RMP-023")));
    assert!(vmrun_with(&["RMP-023"], layout::EFER, 0xd01).is_ok());
    assert!(vmrun_with(&[], layout::EFER, 0x1d01).is_ok());
}

#[test]
fn rmp_025_a_vmsa_is_not_2m_aligned() {
    let flag = Op::Rmpadjust { gpa: BLOCK, rcx: 0, rdx: 0x1_0001 };
    for (rules, result) in [(&[][..], Err(VmrunError::Invalid("RMP-025"))), (&["RMP-025"][..], Ok(1))] {
        let mut m = broken(rules);
        take(&mut m, BLOCK, false);
        assert_eq!(at(&mut m, 0, write(BLOCK, &vmsa_image(1, 0)[..])), done());
        assert_eq!(at(&mut m, 0, flag.clone()), rmpadjusted(0));
        assert_eq!(m.step(CPU0, Op::Hlt), Outcome::Exit);
        assert_eq!(m.vmrun(CPU0, BLOCK).map(|entry| entry.vmpl), result);
    }
}

#[test]
fn vmrun_checks_features_level_and_busy() {
    use layout::features as f;
    let invalid = Err(VmrunError::Invalid("VMRUN-FEATURES"));
    for features in [
        0,
        f::SNP_ACTIVE | f::RESTRICTED_INJECTION | f::ALTERNATE_INJECTION,
        f::SNP_ACTIVE | f::RESTRICTED_INJECTION | f::SECURE_AVIC,
        f::SNP_ACTIVE | 1 << 17,
        f::SNP_ACTIVE | 1 << 40,
    ] {
        assert_eq!(vmrun_with(&[], layout::SEV_FEATURES, features), invalid, "{features:#x}");
        assert!(vmrun_with(&["VMRUN-FEATURES"], layout::SEV_FEATURES, features).is_ok());
    }
    for features in [f::SNP_ACTIVE | f::RESTRICTED_INJECTION | 0x20, f::SNP_ACTIVE | f::ALTERNATE_INJECTION] {
        assert!(vmrun_with(&[], layout::SEV_FEATURES, features).is_ok());
    }
    // The VMPL is byte 2 of this quadword.
    let vmpl_quad = layout::VMPL & !7;
    assert_eq!(vmrun_with(&[], vmpl_quad, 4 << 16), Err(VmrunError::Invalid("vmpl")));
    assert_eq!(vmrun_with(&[], vmpl_quad, 3 << 16).map(|entry| entry.vmpl), Ok(3));
    assert_eq!(vmrun_with(&[], layout::VINTR_CTRL, 1 << 63), Err(VmrunError::Busy));
    assert!(vmrun_with(&["VMRUN-BUSY"], layout::VINTR_CTRL, 1 << 63).is_ok());
}

#[test]
fn a_vmsa_runs_on_one_vcpu_at_a_time() {
    let mut m = machine();
    switch(&mut m, CPU0, 1);
    assert_eq!(m.vmrun(CPU1, vmsa_of(CPU0, 1)), Err(VmrunError::InUse));
    assert_eq!(m.vmrun(CPU0, vmsa_of(CPU0, 2)), Err(VmrunError::NoVcpu));
    assert_eq!(m.vmrun(Vcpu(9), vmsa_of(CPU0, 2)), Err(VmrunError::NoVcpu));
}

fn clear_svme(m: &mut Machine, vmsa: u64) -> Outcome {
    let gpa = vmsa + layout::EFER as u64;
    on(m, CPU0, 0, Op::CompareExchange64 { gpa, expected: layout::EFER_SVME, new: 0 })
}

#[test]
fn rmp_021_svme_is_cleared_when_the_vmsa_has_stopped_and_then_the_flag() {
    let vmsa = vmsa_of(CPU1, 1);
    let mut m = machine_with(|config| config.vmsa_write = VmsaWrite::Waits);
    switch(&mut m, CPU1, 1);
    for op in [write(vmsa, &[0]), zero(vmsa, 1), Op::Swap8 { gpa: vmsa, value: 0 }] {
        assert_eq!(at(&mut m, 0, op), Outcome::Exit);
        assert_eq!(m.exit_info(CPU0).map(|exit| exit.code), Some(0x60));
    }
    assert_eq!(clear_svme(&mut m, vmsa), Outcome::Exit);
    assert_eq!(m.vmrun(CPU0, vmsa_of(CPU0, 0)).map(|entry| entry.resume), Ok(Resume::Retry));
    assert_eq!(m.step(CPU1, Op::Hlt), Outcome::Exit);
    assert_eq!(clear_svme(&mut m, vmsa), Outcome::Done(Answer::Value(layout::EFER_SVME)));
    assert_eq!(m.vmrun(CPU1, vmsa), Err(VmrunError::Invalid("RMP-023")));
    let clear = Op::Rmpadjust { gpa: vmsa, rcx: 0, rdx: 1 };
    assert_eq!(at(&mut m, 0, clear), rmpadjusted(0));
    assert_eq!(m.vmrun(CPU1, vmsa), Err(VmrunError::Invalid("RMP-022")));
}

#[test]
fn vmsa_write_plain_the_exit_overwrites_registers_but_not_bookkeeping() {
    let vmsa = vmsa_of(CPU1, 1);
    let mut m = machine_with(|config| config.vmsa_write = VmsaWrite::Plain);
    switch(&mut m, CPU1, 1);
    assert_eq!(clear_svme(&mut m, vmsa), Outcome::Done(Answer::Value(layout::EFER_SVME)));
    set_field(&mut m, vmsa, layout::RAX, 0x55);
    set_field(&mut m, vmsa, layout::PCPU_ID, 0);
    set_field(&mut m, vmsa, layout::VINTR_CTRL, layout::VINTR_CTRL_BUSY);
    assert_eq!(m.step(CPU1, Op::Hlt), Outcome::Exit);
    assert_eq!(field(&m, vmsa, layout::EFER), layout::EFER_SVME);
    assert_eq!(field(&m, vmsa, layout::RAX), 0);
    assert_eq!(field(&m, vmsa, layout::PCPU_ID), 0);
    assert_eq!(m.vmrun(CPU1, vmsa), Err(VmrunError::Busy));
}

#[test]
fn a_reflected_vc_leaves_and_completes_once_rip_has_moved() {
    let vmsa = vmsa_of(CPU0, 1);
    let mut m = machine();
    set_field(&mut m, vmsa, layout::SEV_FEATURES, layout::features::SNP_ACTIVE | layout::features::REFLECT_VC);
    assert_eq!(at(&mut m, 1, Op::Rdmsr(0x10)), Outcome::Exit);
    assert_eq!(m.exit_info(CPU0).map(|exit| exit.code), Some(0x5d));
    assert_eq!(field(&m, vmsa, layout::GUEST_EXIT_CODE), 0x7c);
    assert_eq!(field(&m, vmsa, layout::RCX), 0x10);
    assert_eq!(m.vmrun(CPU0, vmsa).map(|entry| entry.resume), Ok(Resume::Retry));
    assert_eq!(m.step(CPU0, Op::Rdmsr(0x10)), Outcome::Exit);
    let next = field(&m, vmsa, layout::GUEST_NRIP);
    assert!(m.vmrun(CPU0, vmsa_of(CPU0, 0)).is_ok());
    for (offset, value) in [(layout::RIP, next), (layout::RAX, 0xffff_ffff_0000_0001), (layout::RDX, 2)] {
        set_field(&mut m, vmsa, offset, value);
    }
    let entry = switch(&mut m, CPU0, 1).expect("entered");
    assert_eq!(entry.resume, Resume::Complete(Answer::Value(0x2_0000_0001)));
    assert_eq!(m.step(CPU0, Op::Cpuid { leaf: 7, subleaf: 1 }), Outcome::Exit);
    assert_eq!((field(&m, vmsa, layout::RAX), field(&m, vmsa, layout::RCX)), (7, 1));
    assert_eq!(found(&m), Vec::<&str>::new());
}
