//! PVALIDATE, RMPADJUST, RMPQUERY.

use super::*;
use crate::rmp::{code, npf};

const SIZEM: u64 = npf::RMP | npf::SIZEM;

#[test]
fn rmp_007_pvalidate_changes_validated_only() {
    let mut m = machine();
    assert_eq!(m.rmpupdate(PAGE, false, Some(PAGE)), 0);
    let before = m.rmp_entry(PAGE).expect("mapped");
    assert_eq!(at(&mut m, 0, pvalidate(PAGE, false, true)), pvalidated(0, false));
    let after = m.rmp_entry(PAGE).expect("mapped");
    assert!(!before.validated && after.validated);
    assert_eq!(crate::rmp::RmpEntry { validated: true, ..before }, after);
    assert_eq!(at(&mut m, 0, pvalidate(PAGE, false, false)), pvalidated(0, false));
    assert_eq!(m.rmp_entry(PAGE), Some(before));
}

#[test]
fn rmp_008_a_repeated_pvalidate_sets_the_carry() {
    for (rules, carry) in [(&[][..], true), (&["RMP-008"][..], false)] {
        let mut m = broken(rules);
        take(&mut m, PAGE, false);
        assert_eq!(at(&mut m, 0, pvalidate(PAGE, false, true)), pvalidated(0, carry));
        assert_eq!(at(&mut m, 0, pvalidate(PAGE, false, false)), pvalidated(0, false));
        assert_eq!(at(&mut m, 0, pvalidate(PAGE, false, false)), pvalidated(0, carry));
    }
}

#[test]
fn pvalidate_outside_vmpl0_is_a_general_protection_fault() {
    let mut m = machine();
    assert_eq!(m.rmpupdate(PAGE, false, Some(PAGE)), 0);
    for vmpl in 1..4 {
        assert_eq!(at(&mut m, vmpl, pvalidate(PAGE, false, true)), Outcome::Fault(Fault::GeneralProtection));
    }
    assert!(!m.rmp_entry(PAGE).expect("mapped").validated);
    let mut m = broken(&["PVALIDATE-VMPL0"]);
    assert_eq!(m.rmpupdate(PAGE, false, Some(PAGE)), 0);
    assert_eq!(at(&mut m, 1, pvalidate(PAGE, false, true)), pvalidated(0, false));
}

#[test]
fn pvalidate_refuses_bad_operands_before_it_looks_at_the_page() {
    let mut m = machine();
    let bad = [
        Op::Pvalidate { gpa: PAGE + 8, ecx: 0, edx: 1 },
        Op::Pvalidate { gpa: PAGE, ecx: 1, edx: 1 },
        Op::Pvalidate { gpa: PAGE, ecx: 2, edx: 1 },
        Op::Pvalidate { gpa: PAGE, ecx: 0, edx: 2 },
    ];
    for op in bad {
        assert_eq!(at(&mut m, 0, op), pvalidated(code::FAIL_INPUT, false));
    }
}

#[test]
fn pvalidate_of_a_page_that_is_not_the_guests_is_a_nested_fault() {
    let mut m = machine();
    let plain = npf::RMP | npf::ENC | npf::FINAL | npf::PRESENT;
    assert_eq!(at(&mut m, 0, pvalidate(PAGE, false, true)), Outcome::Exit);
    assert_eq!(nested_fault(&m, PAGE), plain);
    // The entry names another guest address.
    assert_eq!(m.rmpupdate(PAGE, false, Some(PAGE + 0x1000)), 0);
    assert_eq!(at(&mut m, 0, pvalidate(PAGE, false, true)), Outcome::Exit);
    assert_eq!(nested_fault(&m, PAGE), plain);
    // Nothing is there at all.
    assert_eq!(at(&mut m, 0, pvalidate(1 << 46, false, true)), Outcome::Exit);
    assert_eq!(nested_fault(&m, 1 << 46), npf::ENC | npf::FINAL);
}

#[test]
fn rmp_010_a_4k_request_on_a_2m_entry_is_a_nested_fault_with_sizem() {
    let mut m = machine();
    take(&mut m, BLOCK, true);
    let inside = BLOCK + 0x5000;
    for op in [pvalidate(inside, false, false), rmpadjust(inside, false, 1, RWX)] {
        assert_eq!(at(&mut m, 0, op.clone()), Outcome::Exit);
        assert_eq!(nested_fault(&m, inside) & SIZEM, SIZEM);
        // The host splits the entry and the guest repeats.
        let mut split = m.clone();
        assert_eq!(split.psmash(BLOCK), 0);
        let entry = split.vmrun(CPU0, vmsa_of(CPU0, 0)).expect("runs");
        assert_eq!(entry.resume, crate::Resume::Retry);
        assert!(matches!(split.step(CPU0, op), Outcome::Done(_)));
    }
    let mut m = broken(&["RMP-010"]);
    take(&mut m, BLOCK, true);
    assert_eq!(at(&mut m, 0, rmpadjust(inside, false, 1, RWX)), rmpadjusted(0));
}

#[test]
fn rmp_011_a_2m_request_on_4k_entries_is_a_size_mismatch() {
    let mut m = machine();
    for page in 0..512 {
        assert_eq!(m.rmpupdate(BLOCK + page * 0x1000, false, Some(BLOCK + page * 0x1000)), 0);
    }
    assert_eq!(at(&mut m, 0, pvalidate(BLOCK, true, true)), pvalidated(code::FAIL_SIZEMISMATCH, false));
    assert_eq!(at(&mut m, 0, pvalidate(BLOCK, false, true)), pvalidated(0, false));
    assert_eq!(at(&mut m, 0, rmpadjust(BLOCK, true, 1, RWX)), rmpadjusted(code::FAIL_SIZEMISMATCH));
    assert_eq!(rights(&m, BLOCK), [perm::ALL, 0, 0, 0]);
}

#[test]
fn rmp_014_only_greater_vmpls_can_be_adjusted() {
    let mut m = machine();
    grant(&mut m, PAGE, false, 1, RWX);
    for (own, target) in [(0, 0), (1, 0), (1, 1), (2, 1), (3, 3), (0, 4), (0, 255)] {
        let op = rmpadjust(PAGE, false, target, 0);
        assert_eq!(at(&mut m, own, op), rmpadjusted(code::FAIL_PERMISSION), "VMPL{own} adjusts VMPL{target}");
    }
    assert_eq!(at(&mut m, 1, rmpadjust(PAGE, false, 2, 1)), rmpadjusted(0));
    assert_eq!(rights(&m, PAGE), [perm::ALL, 0x0f, 1, 0]);
    let mut m = broken(&["RMP-014"]);
    grant(&mut m, PAGE, false, 1, 1);
    assert_eq!(at(&mut m, 1, rmpadjust(PAGE, false, 1, 1)), rmpadjusted(0));
}

#[test]
fn rmp_015_no_right_is_granted_that_the_caller_lacks() {
    let mut m = machine();
    grant(&mut m, PAGE, false, 1, 0x3);
    for mask in [0x4, 0x8, 0x7, 0x10] {
        assert_eq!(at(&mut m, 1, rmpadjust(PAGE, false, 2, mask)), rmpadjusted(code::FAIL_PERMISSION));
    }
    assert_eq!(at(&mut m, 1, rmpadjust(PAGE, false, 2, 0x3)), rmpadjusted(0));
    let mut m = broken(&["RMP-015"]);
    grant(&mut m, PAGE, false, 1, 0x1);
    assert_eq!(at(&mut m, 1, rmpadjust(PAGE, false, 2, 0xf)), rmpadjusted(0));
}

#[test]
fn rmp_016_vmpl0_can_grant_every_right() {
    let mut m = machine();
    grant(&mut m, PAGE, false, 3, 0x1f);
    assert_eq!(rights(&m, PAGE), [perm::ALL, 0, 0, 0x1f]);
}

#[test]
fn rmp_017_rmpadjust_needs_a_validated_page() {
    let mut m = machine();
    assert_eq!(m.rmpupdate(PAGE, false, Some(PAGE)), 0);
    assert_eq!(at(&mut m, 0, rmpadjust(PAGE, false, 1, RWX)), not_validated(PAGE));
    // A 2M request meets the validated check before the size check.
    assert_eq!(m.rmpupdate(BLOCK, false, Some(BLOCK)), 0);
    assert_eq!(at(&mut m, 0, rmpadjust(BLOCK, true, 1, RWX)), not_validated(BLOCK));
    let mut m = broken(&["RMP-017"]);
    assert_eq!(m.rmpupdate(PAGE, false, Some(PAGE)), 0);
    assert_eq!(at(&mut m, 0, rmpadjust(PAGE, false, 1, RWX)), rmpadjusted(0));
}

#[test]
fn rmp_018_only_vmpl0_changes_the_vmsa_flag() {
    let flag = |target: u64| Op::Rmpadjust { gpa: PAGE, rcx: 0, rdx: 0x1_0000 | target };
    let mut m = machine();
    grant(&mut m, PAGE, false, 1, RWX);
    // Ignored, not refused.
    assert_eq!(at(&mut m, 1, flag(2)), rmpadjusted(0));
    assert!(!m.rmp_entry(PAGE).expect("mapped").vmsa);
    assert_eq!(at(&mut m, 0, flag(1)), rmpadjusted(0));
    assert!(m.rmp_entry(PAGE).expect("mapped").vmsa);
    let mut m = broken(&["RMP-018"]);
    grant(&mut m, PAGE, false, 1, RWX);
    assert_eq!(at(&mut m, 1, flag(2)), rmpadjusted(0));
    assert!(m.rmp_entry(PAGE).expect("mapped").vmsa);
}

#[test]
fn rmpadjust_refuses_bad_operands() {
    let mut m = machine();
    grant(&mut m, PAGE, false, 1, 0);
    take(&mut m, BLOCK, true);
    let bad = [
        Op::Rmpadjust { gpa: PAGE + 1, rcx: 0, rdx: 1 },
        Op::Rmpadjust { gpa: PAGE, rcx: 1, rdx: 1 },
        Op::Rmpadjust { gpa: PAGE, rcx: 2, rdx: 1 },
        Op::Rmpadjust { gpa: PAGE, rcx: 0, rdx: 1 << 17 | 1 },
        Op::Rmpadjust { gpa: PAGE, rcx: 0, rdx: 1 << 13 | 1 },
        Op::Rmpadjust { gpa: BLOCK, rcx: 1, rdx: 1 << 16 | 1 },
    ];
    for op in bad {
        assert_eq!(at(&mut m, 0, op.clone()), rmpadjusted(code::FAIL_INPUT), "{op:?}");
    }
    // The target is checked before the page: the usual probe for VMPL0 works on any page.
    assert_eq!(at(&mut m, 1, rmpadjust(0x20_0000, false, 1, 0)), rmpadjusted(code::FAIL_PERMISSION));
}

#[test]
fn rmpquery_tells_rights_flag_and_size() {
    let query = |gpa, vmpl| Op::Rmpquery { gpa, rdx: vmpl };
    let mut m = machine();
    grant(&mut m, PAGE, false, 2, 0x3);
    take(&mut m, BLOCK, true);
    let answer = |eax, rcx, rdx| Outcome::Done(Answer::Rmpquery { eax, rcx, rdx });
    assert_eq!(at(&mut m, 0, query(PAGE, 2)), answer(0, 0, 0x302));
    assert_eq!(at(&mut m, 0, query(BLOCK + 0x1000, 0)), answer(0, 1, 0x1f00));
    assert_eq!(at(&mut m, 0, query(vmsa_of(CPU1, 1), 1)), answer(0, 0, 0x1_0001));
    assert_eq!(at(&mut m, 2, query(PAGE, 1)), answer(code::FAIL_PERMISSION, 0, 0));
    assert_eq!(m.rmpupdate(PAGE + 0x1000, false, Some(PAGE + 0x1000)), 0);
    assert_eq!(at(&mut m, 0, query(PAGE + 0x1000, 1)), not_validated(PAGE + 0x1000));
    let mut old = machine_with(|config| config.rmpquery = false);
    assert_eq!(at(&mut old, 0, query(PAGE, 1)), Outcome::Fault(Fault::InvalidOpcode));
}

#[test]
fn msrs_are_those_of_the_vmsa_and_everything_else_is_a_vc() {
    let mut m = machine();
    assert_eq!(at(&mut m, 0, Op::Wrmsr(0xc001_0130, 0x6000)), done());
    assert_eq!(at(&mut m, 1, Op::Rdmsr(0xc001_0130)), Outcome::Done(Answer::Value(0)));
    assert_eq!(at(&mut m, 0, Op::Rdmsr(0xc001_0130)), Outcome::Done(Answer::Value(0x6000)));
    assert_eq!(at(&mut m, 0, Op::Rdmsr(0xc001_0131)), Outcome::Done(Answer::Value(0b111)));
    assert_eq!(at(&mut m, 0, Op::Wrmsr(0xc001_0131, 0)), Outcome::Fault(Fault::GeneralProtection));
    let vc = |code| Outcome::Fault(Fault::Vc { code, gpa: 0 });
    assert_eq!(at(&mut m, 0, Op::Rdmsr(0x10)), vc(0x7c));
    assert_eq!(at(&mut m, 0, Op::Wrmsr(0x10, 0)), vc(0x7c));
    assert_eq!(at(&mut m, 0, Op::Cpuid { leaf: 1, subleaf: 0 }), vc(0x72));
}

#[test]
fn rmp_024_a_guest_cannot_clear_its_own_svme() {
    let mut m = machine();
    assert_eq!(at(&mut m, 1, Op::Wrmsr(0xc000_0080, 0x500)), done());
    assert_eq!(at(&mut m, 1, Op::Rdmsr(0xc000_0080)), Outcome::Done(Answer::Value(0x1500)));
    assert!(switch(&mut m, CPU0, 0).is_some());
    assert!(switch(&mut m, CPU0, 1).is_some());
}
