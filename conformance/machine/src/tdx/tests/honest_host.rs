//! TDVMCALL and the honest host (vmcall.csv).

use super::*;
use crate::tdx::NO_RBP_MOD;
use crate::tdx::status::{OPERAND_INVALID, vmcall};

#[test]
fn the_mask_is_checked_and_hides_registers() {
    let mut m = machine();
    for rcx in [1, 2, 1 << 4, 1 << 32, 1 << 63] {
        assert_eq!(call(&mut m, leaf::VP_VMCALL, Regs { rcx, ..NONE }).rax, OPERAND_INVALID | 1, "{rcx:#x}");
    }
    let hidden =
        call(&mut m, leaf::VP_VMCALL, Regs { rcx: 0x3c00, rbx: 5, r8: 6, r11: 0x1f, r12: 0x1b, r14: 7, ..NONE });
    assert_eq!((hidden.rax, hidden.r10, hidden.r11), (0, 0, 0xfee0_0d00));
    assert_eq!((hidden.rbx, hidden.r8, hidden.r14, hidden.rcx), (5, 6, 7, 0x3c00));
    assert_eq!(call(&mut m, leaf::VP_VMCALL, Regs { rcx: 0x3c20, ..NONE }).rax, 0);
    let mut m = machine_with(|config| config.config_flags = NO_RBP_MOD);
    assert_eq!(call(&mut m, leaf::VP_VMCALL, Regs { rcx: 0x3c20, ..NONE }).rax, OPERAND_INVALID | 1);
}

#[test]
fn small_services_answer() {
    let mut m = machine();
    assert_eq!(host_call(&mut m, vmcall::CPUID, 0x4000_0000, 0).r12, 0x4000_0000);
    assert_eq!(host_call(&mut m, vmcall::IO, 1, 0).r11, 0xff);
    assert_eq!(host_call(&mut m, vmcall::IO, 8, 0).r10, vmcall::INVALID_OPERAND);
    assert_eq!(host_call(&mut m, vmcall::MMIO, 8, 0).r11, u64::MAX);
    assert_eq!(host_call(&mut m, vmcall::RDMSR, 0x10, 0).r10, vmcall::INVALID_OPERAND);
    assert_eq!(host_call(&mut m, vmcall::WRMSR, 0x10, 0).r10, vmcall::INVALID_OPERAND);
    assert_eq!(host_call(&mut m, vmcall::WBINVD, 0, 0).r10, 0);
    assert_eq!(host_call(&mut m, vmcall::INFO, 0, 0).r10, 0);
    assert_eq!(host_call(&mut m, 0x1_0005, 0, 0).r10, vmcall::SUBFUNC_UNSUPPORTED);
    let other = call(&mut m, leaf::VP_VMCALL, Regs { rcx: 0xff00, r10: 1, ..NONE });
    assert_eq!(other.r10, vmcall::SUBFUNC_UNSUPPORTED);
}

#[test]
fn map_gpa_moves_memory_to_shared_and_back() {
    let mut m = machine();
    grant(&mut m, BLOCK, true, 1, RWX);
    assert_eq!(l1(&mut m, write(BLOCK + 0x3000, &[7; 8])), done());
    assert_eq!(host_call(&mut m, vmcall::MAP_GPA, (BLOCK + 0x3000) | SHARED, 0x2000).r10, 0);
    assert!(m.host_is_shared(BLOCK + 0x4000) && !m.host_is_shared(BLOCK + 0x5000));
    assert_eq!(m.sept_entry(BLOCK + 0x3000), None);
    assert_eq!(m.sept_entry(BLOCK).map(|entry| (entry.large, entry.aliases[0])), Some((false, 0x800f)));
    assert!(matches!(l1(&mut m, Op::Read { gpa: BLOCK + 0x3000, len: 8, private: false }), Outcome::Done(_)));
    let mut seen = [0; 8];
    m.host_read(BLOCK + 0x3000, &mut seen);
    assert_ne!(seen, [7; 8]);
    // Back: it has to be accepted, and is zero.
    assert_eq!(host_call(&mut m, vmcall::MAP_GPA, BLOCK + 0x3000, 0x2000).r10, 0);
    assert_eq!(accept(&mut m, BLOCK + 0x3000, 0), 0);
    assert_eq!(l1(&mut m, read(BLOCK + 0x3000, 8)), bytes(&[0; 8]));
    // Private memory that is private stays as it is.
    assert_eq!(host_call(&mut m, vmcall::MAP_GPA, BLOCK, 0x20_0000).r10, 0);
    assert_eq!(m.sept_entry(BLOCK).map(|entry| entry.accepted), Some(true));
    silent(&mut m);
}

#[test]
fn map_gpa_of_a_whole_block_removes_it_as_one() {
    let mut m = machine();
    assert_eq!(accept(&mut m, BLOCK, 1), 0);
    assert_eq!(host_call(&mut m, vmcall::MAP_GPA, BLOCK | SHARED, 0x20_0000).r10, 0);
    assert_eq!(m.sept_entry(BLOCK), None);
    assert_eq!(host_call(&mut m, vmcall::MAP_GPA, BLOCK, 0x20_0000).r10, 0);
    assert_eq!(accept(&mut m, BLOCK, 1), 0);
    assert_eq!(m.sept_entry(BLOCK).map(|entry| entry.large), Some(true));
}

#[test]
fn map_gpa_checks_its_range() {
    let mut m = machine();
    for (from, len, status) in [
        (PAGE + 8, 0x1000, vmcall::ALIGN_ERROR),
        (PAGE, 8, vmcall::ALIGN_ERROR),
        (PAGE, 0, vmcall::INVALID_OPERAND),
        (1 << 40, 0x1000, vmcall::INVALID_OPERAND),
        (0, !0xfff, vmcall::INVALID_OPERAND),
        ((64 << 20) - 0x1000, 0x2000, vmcall::INVALID_OPERAND),
    ] {
        assert_eq!(host_call(&mut m, vmcall::MAP_GPA, from, len).r10, status, "{from:#x} {len:#x}");
    }
}

#[test]
fn get_quote_wraps_the_report() {
    let mut m = machine_with(|config| config.shared = alloc::vec![(PAGE, 0x2000)]);
    let quote = |m: &mut Machine, gpa, len| host_call(m, vmcall::GET_QUOTE, gpa, len).r10;
    let mut header = [0; 24];
    header[0] = 1;
    header[16..20].copy_from_slice(&1024u32.to_le_bytes());
    assert!(m.host_write(PAGE, &header) && m.host_write(PAGE + 24, &[5; 1024]));
    assert_eq!(quote(&mut m, PAGE | SHARED, 0x1000), 0);
    let mut out = [0; 24 + 8 + 4];
    m.host_read(PAGE, &mut out);
    assert_eq!((&out[8..16], &out[20..24]), (&[0; 8][..], &1032u32.to_le_bytes()[..]));
    assert_eq!(out[24..], [b'T', b'E', b'S', b'T', b'Q', b'U', b'O', b'T', 5, 5, 5, 5]);
    for (gpa, len) in [(PAGE, 0x1000), (PAGE | SHARED, 0), (PAGE | SHARED, 0x3000), ((PAGE + 8) | SHARED, 0x1000)] {
        assert_eq!(quote(&mut m, gpa, len), vmcall::INVALID_OPERAND);
    }
    // A buffer without a report gets an error in its status.
    assert!(m.host_write(PAGE, &[0; 24]));
    assert_eq!(quote(&mut m, PAGE | SHARED, 0x2000), 0);
    m.host_read(PAGE, &mut out);
    assert_eq!(out[8..16], 0x8000_0000_0000_0000u64.to_le_bytes());
}

#[test]
fn a_fatal_error_stops_everybody() {
    let mut m = machine();
    let op = tdcall(leaf::VP_VMCALL, Regs { rcx: 0xff00, r11: vmcall::FATAL_ERROR, r12: 5, ..NONE });
    assert_eq!(m.step(CPU0, op), Outcome::Exit);
    assert_eq!(stopped(&mut m, CPU0), Some(Stop::FatalError(5)));
    assert_eq!(m.step(CPU1, Op::Pause), Outcome::Exit);
    assert_eq!(stopped(&mut m, CPU1), Some(Stop::FatalError(5)));
    assert_eq!(found(&m), ["O9"]);
}

#[test]
fn a_program_that_ends_takes_its_vcpu_along() {
    let mut m = machine();
    m.allow_monitor_end(true);
    assert_eq!(m.step(CPU0, Op::End), Outcome::Exit);
    assert_eq!((stopped(&mut m, CPU0), stopped(&mut m, CPU0)), (Some(Stop::Ended), Some(Stop::Ended)));
    assert_eq!(m.step(CPU1, Op::Pause), done());
    silent(&mut m);
}
