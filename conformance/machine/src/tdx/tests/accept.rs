//! TDG.MEM.PAGE.ACCEPT, row by row of page_accept.csv.

use super::*;
use crate::tdx::status::{PAGE_ALREADY_ACCEPTED, PAGE_SIZE_MISMATCH};
use crate::tdx::{EptCause, TdExit};

const BAD_RCX: u64 = 0xc000_0100_0000_0001;

#[test]
fn success_zeroes_and_makes_the_page_l1s() {
    let mut m = machine();
    assert!(m.host_add_page(PAGE, false));
    assert_eq!(m.sept_entry(PAGE).map(|entry| entry.accepted), Some(false));
    assert_eq!(accept(&mut m, PAGE, 0), 0);
    assert_eq!(l1(&mut m, read(PAGE, 8)), bytes(&[0; 8]));
    assert_eq!(accept(&mut m, BLOCK, 1), 0);
    assert_eq!(m.sept_entry(BLOCK + 0x5000).map(|entry| (entry.large, entry.accepted)), Some((true, true)));
    assert_eq!(l1(&mut m, read(BLOCK + 0x1f_fff8, 8)), bytes(&[0; 8]));
    assert_eq!(m.counters(CPU0, 0).accept, 9 + 2);
}

#[test]
fn bad_level_alignment_or_shared_gpa_is_operand_invalid_1() {
    let mut m = machine();
    for rcx in [PAGE | 2, PAGE | 7, PAGE | 8, PAGE | 1, PAGE | SHARED, PAGE | 1 << 52, PAGE | 1 << 62] {
        assert_eq!(accept(&mut m, rcx, 0), BAD_RCX, "{rcx:#x}");
    }
    assert_eq!(m.sept_entry(PAGE), None);
}

#[test]
fn already_accepted_is_of_the_success_class_and_zeroes_nothing() {
    let mut m = machine();
    assert_eq!(accept(&mut m, PAGE, 0), 0);
    assert_eq!(l1(&mut m, write(PAGE, &[7])), done());
    assert_eq!(accept(&mut m, PAGE, 0), PAGE_ALREADY_ACCEPTED);
    assert_eq!(l1(&mut m, read(PAGE, 1)), bytes(&[7]));
    // The level is where the leaf was found.
    assert_eq!(accept(&mut m, BLOCK, 1), 0);
    assert_eq!(accept(&mut m, BLOCK, 1), PAGE_ALREADY_ACCEPTED | 1);
    assert_eq!(accept(&mut m, BLOCK + 0x3000, 0), PAGE_ALREADY_ACCEPTED | 1);
    silent(&mut m);
}

#[test]
fn a_2m_request_on_4k_entries_is_a_size_mismatch() {
    let mut m = machine();
    assert_eq!(accept(&mut m, BLOCK + 0x7000, 0), 0);
    assert_eq!(accept(&mut m, BLOCK, 1), PAGE_SIZE_MISMATCH | 1);
    assert_eq!(PAGE_SIZE_MISMATCH | 1, 0xc000_0b0b_0000_0001);
    let mut small = machine_with(|config| config.large_pages = false);
    assert_eq!(accept(&mut small, BLOCK, 1), PAGE_SIZE_MISMATCH | 1);
}

#[test]
fn not_mapped_blocked_or_larger_and_pending_goes_to_the_host() {
    let violation = |gpa, level| Some(TdExit::EptViolation { level: 0, gpa, cause: EptCause::Accept { level } });
    let op = |gpa: u64, level: u64| tdcall(leaf::MEM_PAGE_ACCEPT, Regs { rcx: gpa | level, ..NONE });
    let mut m = machine();
    assert_eq!(m.step(CPU0, op(PAGE, 0)), Outcome::Exit);
    assert_eq!(m.td_exit_info(CPU0).cloned(), violation(PAGE, 0));

    let mut m = machine();
    assert!(m.host_add_page(BLOCK, true));
    assert_eq!(m.step(CPU0, op(BLOCK + 0x1000, 0)), Outcome::Exit);
    assert_eq!(m.td_exit_info(CPU0).cloned(), violation(BLOCK + 0x1000, 0));
    assert!(matches!(m.host(CPU0), HostStep::Entered(Entry { resume: Resume::Retry, .. })));
    assert_eq!(accept(&mut m, BLOCK + 0x1000, 0), 0);
    assert_eq!(m.sept_entry(BLOCK).map(|entry| (entry.large, entry.accepted)), Some((false, false)));

    assert!(m.host_block_page(BLOCK + 0x1000));
    assert_eq!(m.step(CPU0, op(BLOCK + 0x1000, 0)), Outcome::Exit);
    assert_eq!(stopped(&mut m, CPU0), Some(Stop::EptViolation { gpa: BLOCK + 0x1000, level: 0 }));
}

#[test]
fn accepting_unblocks_aliases_that_were_written_before() {
    let mut m = machine();
    assert!(m.host_add_page(PAGE, false));
    assert_eq!(attr_wr(&mut m, PAGE, 0, part(1, RWX), part(1, 0x7f)).rax, 0);
    prepare(&mut m, 1);
    enter(&mut m, 1);
    let exit = exit_with(&mut m, read(PAGE, 1));
    assert_eq!((exit.rax, exit.r13, exit.r8), (48, 6, PAGE));
    assert_eq!(accept(&mut m, PAGE, 0), 0);
    assert_eq!(enter(&mut m, 1).resume, Resume::Retry);
    assert_eq!(m.step(CPU0, read(PAGE, 1)), bytes(&[0]));
}

#[test]
fn tdx_25_a_page_added_again_has_to_be_accepted_again() {
    let mut m = machine();
    assert_eq!(accept(&mut m, PAGE, 0), 0);
    assert_eq!(l1(&mut m, write(PAGE, &[7])), done());
    assert!(m.host_remove_page(PAGE) && m.host_add_page(PAGE, false));
    // With SEPT_VE_DISABLE a touch is a TD exit, and no host can help.
    assert_eq!(m.step(CPU0, read(PAGE, 1)), Outcome::Exit);
    assert_eq!(stopped(&mut m, CPU0), Some(Stop::EptViolation { gpa: PAGE, level: 0 }));
}

#[test]
fn a_touch_of_a_pending_page_is_ve_without_sept_ve_disable() {
    let mut m = machine_with(|config| config.attributes = 0);
    assert!(m.host_add_page(PAGE, false));
    assert_eq!(l1(&mut m, write(PAGE, &[1])), Outcome::Fault(Fault::Ve { reason: 48, gpa: PAGE }));
    let info = call(&mut m, leaf::VP_VEINFO_GET, NONE);
    assert_eq!((info.rcx, info.rdx, info.r8, info.r9), (48, 0x182, PAGE, PAGE));
    assert_eq!(call(&mut m, leaf::VP_VEINFO_GET, NONE).rax, 0xc000_0704_0000_0000);
}
