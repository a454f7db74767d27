//! Stale translations and what drops them.

use super::*;

fn revoke(m: &mut Machine, gpa: u64, large: bool) {
    assert_eq!(at(m, 0, rmpadjust(gpa, large, 1, 0)), rmpadjusted(0));
}

/// VMPL1 has a writable translation on both vCPUs, and its right is gone.
fn stale() -> Machine {
    let mut m = machine();
    grant(&mut m, PAGE, false, 1, RWX);
    for vcpu in [CPU0, CPU1] {
        // The first entry of a VMSA flushes, so that VMPL0 must have been there before.
        assert_eq!(on(&mut m, vcpu, 0, Op::Pause), done());
        assert_eq!(on(&mut m, vcpu, 1, write(PAGE, &[1])), done());
    }
    revoke(&mut m, PAGE, false);
    m
}

fn still_writes(m: &mut Machine, vcpu: Vcpu) -> bool {
    on(m, vcpu, 1, write(PAGE, &[2])) == done()
}

#[test]
fn rmp_055_cached_rights_outlive_rmpadjust() {
    let mut m = stale();
    assert!(still_writes(&mut m, CPU0) && still_writes(&mut m, CPU1));
    let mut m = broken(&["RMP-055"]);
    grant(&mut m, PAGE, false, 1, RWX);
    assert_eq!(at(&mut m, 1, write(PAGE, &[1])), done());
    revoke(&mut m, PAGE, false);
    assert_eq!(at(&mut m, 1, write(PAGE, &[1])), Outcome::Exit);
}

#[test]
fn cached_validity_outlives_pvalidate() {
    let mut m = machine();
    take(&mut m, PAGE, false);
    assert_eq!(at(&mut m, 0, zero(PAGE, 1)), done());
    assert_eq!(at(&mut m, 0, pvalidate(PAGE, false, false)), pvalidated(0, false));
    assert_eq!(at(&mut m, 0, read(PAGE, 1)), bytes(&[0]));
    assert_eq!(at(&mut m, 0, flush_all()), done());
    assert_eq!(at(&mut m, 0, read(PAGE, 1)), not_validated(PAGE));
}

#[test]
fn a_cached_right_that_does_not_suffice_is_looked_up_again() {
    let mut m = machine();
    grant(&mut m, PAGE, false, 1, 0x1);
    assert_eq!(at(&mut m, 1, read(PAGE, 1)), bytes(&[0]));
    assert_eq!(at(&mut m, 0, rmpadjust(PAGE, false, 1, 0x3)), rmpadjusted(0));
    assert_eq!(at(&mut m, 1, write(PAGE, &[1])), done());
}

#[test]
fn invlpgb_acts_here_at_once_and_elsewhere_at_tlbsync() {
    let mut m = stale();
    assert_eq!(at(&mut m, 0, flush_all()), done());
    assert!(!still_writes(&mut m, CPU0));
    assert!(still_writes(&mut m, CPU1));
    // A TLBSYNC of another vCPU completes nothing.
    assert_eq!(on(&mut m, CPU1, 0, Op::Tlbsync), done());
    assert!(still_writes(&mut m, CPU1));
    assert_eq!(m.vmrun(CPU0, vmsa_of(CPU0, 0)).map(|entry| entry.vmpl), Ok(0));
    assert_eq!(at(&mut m, 0, Op::Tlbsync), done());
    assert!(!still_writes(&mut m, CPU1));
}

#[test]
fn invlpgb_by_va_or_without_global_leaves_other_levels_alone() {
    for rax in [PAGE | 1, PAGE | 0x9, 0x4, 0x0] {
        let mut m = stale();
        assert_eq!(at(&mut m, 0, Op::Invlpgb { rax, ecx: 0, edx: 0 }), done());
        assert_eq!(at(&mut m, 0, Op::Tlbsync), done());
        assert!(still_writes(&mut m, CPU0) && still_writes(&mut m, CPU1), "{rax:#x}");
    }
}

#[test]
fn invlpgb_by_va_drops_the_named_pages_of_its_level() {
    let mut m = machine();
    for page in 0..4 {
        take(&mut m, PAGE + page * 0x1000, false);
        assert_eq!(at(&mut m, 0, zero(PAGE + page * 0x1000, 1)), done());
        assert_eq!(at(&mut m, 0, pvalidate(PAGE + page * 0x1000, false, false)), pvalidated(0, false));
    }
    // Two pages from the second on.
    assert_eq!(at(&mut m, 0, Op::Invlpgb { rax: (PAGE + 0x1000) | 1, ecx: 1, edx: 0 }), done());
    let mut reads = |page: u64| at(&mut m, 0, read(PAGE + page * 0x1000, 1)) == bytes(&[0]);
    assert_eq!([0, 1, 2, 3].map(&mut reads), [true, false, false, true]);
}

#[test]
fn invlpgb_refuses_what_the_processor_refuses() {
    let mut m = machine();
    for (rax, ecx) in [(0x40, 0), (0x1, 8)] {
        assert_eq!(at(&mut m, 0, Op::Invlpgb { rax, ecx, edx: 0 }), Outcome::Fault(Fault::GeneralProtection));
    }
    let mut m = machine_with(|config| config.invlpgb = false);
    for op in [flush_all(), Op::Tlbsync] {
        assert_eq!(at(&mut m, 0, op), Outcome::Fault(Fault::InvalidOpcode));
    }
}

#[test]
fn rmp_056_pcpu_id_zero_flushes_at_the_next_vmrun() {
    for (rules, flushed) in [(&[][..], true), (&["RMP-056"][..], false)] {
        let mut m = broken(rules);
        grant(&mut m, PAGE, false, 1, RWX);
        assert_eq!(at(&mut m, 1, write(PAGE, &[1])), done());
        revoke(&mut m, PAGE, false);
        let pcpu_id = vmsa_of(CPU0, 1) + layout::PCPU_ID as u64;
        assert_ne!(m.peek(pcpu_id, 8, Some(0)), Some(alloc::vec![0; 8]));
        assert_eq!(at(&mut m, 0, write(pcpu_id, &[0; 8])), done());
        assert_eq!(still_writes(&mut m, CPU0), !flushed);
    }
}

#[test]
fn a_vmsa_that_ran_elsewhere_flushes_when_it_comes() {
    let mut m = stale();
    assert_eq!(m.step(CPU0, Op::Hlt), Outcome::Exit);
    assert!(m.vmrun(CPU0, vmsa_of(CPU1, 2)).is_ok());
    assert!(!still_writes(&mut m, CPU0));
}

#[test]
fn rmpupdate_and_the_nested_map_drop_translations_everywhere() {
    let mut m = stale();
    assert_eq!(m.rmpupdate(PAGE, false, Some(PAGE)), 0);
    assert!(!still_writes(&mut m, CPU1));
    let mut m = stale();
    m.map(PAGE, false, None);
    assert!(!still_writes(&mut m, CPU1));
}

#[test]
fn a_2m_translation_covers_pages_that_were_never_touched() {
    let mut m = machine();
    grant(&mut m, BLOCK, true, 1, RWX);
    assert_eq!(at(&mut m, 1, read(BLOCK, 1)), bytes(&[0]));
    revoke(&mut m, BLOCK, true);
    assert_eq!(at(&mut m, 1, write(BLOCK + 0x1f_f000, &[1])), done());
    // It outlives PSMASH and goes with a flush of any of its pages.
    assert_eq!(m.psmash(BLOCK), 0);
    assert_eq!(at(&mut m, 1, write(BLOCK + 0x1f_f000, &[1])), done());
    assert_eq!(m.rmpupdate(BLOCK + 0x7000, false, Some(BLOCK + 0x7000)), 0);
    assert_eq!(at(&mut m, 1, write(BLOCK + 0x1f_f000, &[1])), Outcome::Exit);
}

#[test]
fn a_shared_translation_does_not_survive_the_assignment_of_its_page() {
    let mut m = machine();
    let store = Op::Write { gpa: PAGE, bytes: alloc::vec![1], private: false };
    assert_eq!(at(&mut m, 1, store.clone()), done());
    assert_eq!(m.rmpupdate(PAGE, false, Some(PAGE)), 0);
    assert_eq!(at(&mut m, 1, store), Outcome::Exit);
}
