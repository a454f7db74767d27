//! O1 to O4 are shown to fire, and to keep still where nothing is wrong.

use super::*;

const MONITOR: u64 = 0x40_1000;

/// A machine whose monitor owns `MONITOR`, written.
fn with_monitor(change: impl FnOnce(&mut Config)) -> Machine {
    let mut m = machine_with(change);
    m.declare_monitor_pages(MONITOR, 0x1000);
    take(&mut m, MONITOR, false);
    assert_eq!(at(&mut m, 0, write(MONITOR, b"secret of the monitor")), done());
    assert_eq!(found(&m), Vec::<&str>::new());
    m
}

#[test]
fn o1_a_labelled_page_that_a_lower_level_may_read() {
    let mut m = with_monitor(|_| {});
    m.undeclare_monitor_pages(MONITOR, 0x1000);
    assert_eq!(at(&mut m, 0, rmpadjust(MONITOR, false, 1, 0x1)), rmpadjusted(0));
    assert_eq!(found(&m), ["O1"]);
}

#[test]
fn o1_not_for_a_page_that_was_zeroed_or_overwritten_first() {
    for op in [zero(MONITOR, 1), write(MONITOR, &[7; 4096])] {
        let mut m = with_monitor(|_| {});
        m.undeclare_monitor_pages(MONITOR, 0x1000);
        assert_eq!(at(&mut m, 0, op), done());
        assert_eq!(at(&mut m, 0, rmpadjust(MONITOR, false, 1, 0x1)), rmpadjusted(0));
        silent(&mut m);
    }
}

#[test]
fn o1_a_secret_that_the_host_moved_under_another_address_and_vmpl0_granted() {
    let other = MONITOR + 0x8000;
    for zeroed in [false, true] {
        let mut m = with_monitor(|_| {});
        assert_eq!(m.rmpupdate(MONITOR, false, Some(other)), 0);
        m.map(other, false, Some(MONITOR));
        assert_eq!(at(&mut m, 0, pvalidate(other, false, true)), pvalidated(0, false));
        if zeroed {
            assert_eq!(at(&mut m, 0, zero(other, 1)), done());
        }
        assert_eq!(at(&mut m, 0, rmpadjust(other, false, 1, RWX)), rmpadjusted(0));
        assert_eq!(found(&m).is_empty(), zeroed, "{:?}", m.violations());
    }
}

#[test]
fn o1_a_page_that_the_host_gets_with_its_contents() {
    let mut m = with_monitor(|config| {
        config.broken_rules.insert("RMP-052");
    });
    assert_eq!(m.rmpupdate(MONITOR, false, None), 0);
    assert_eq!(found(&m), ["O1"]);
    let mut m = with_monitor(|_| {});
    assert_eq!(m.rmpupdate(MONITOR, false, None), 0);
    silent(&mut m);
}

#[test]
fn o1_a_secret_written_where_a_stale_translation_reads() {
    let mut m = machine();
    grant(&mut m, PAGE, false, 1, RWX);
    assert_eq!(on(&mut m, CPU1, 1, read(PAGE, 1)), bytes(&[0]));
    assert_eq!(at(&mut m, 0, rmpadjust(PAGE, false, 1, 0)), rmpadjusted(0));
    let mut flushed = m.clone();
    for (machine, flushes) in [(&mut m, false), (&mut flushed, true)] {
        if flushes {
            assert_eq!(at(machine, 0, flush_all()), done());
            assert_eq!(at(machine, 0, Op::Tlbsync), done());
        }
        machine.declare_monitor_pages(PAGE, 0x1000);
        assert_eq!(at(machine, 0, write(PAGE, b"secret")), done());
        assert_eq!(found(machine).is_empty(), flushes);
    }
}

#[test]
fn o1_a_read_of_a_tagged_page() {
    let mut m = broken(&["RMP-034"]);
    take(&mut m, PAGE, false);
    m.tag_secret(PAGE, 0x1000);
    assert_eq!(found(&m), Vec::<&str>::new());
    assert!(matches!(at(&mut m, 2, read(PAGE, 1)), Outcome::Done(_)));
    assert_eq!(found(&m), ["O1"]);
}

#[test]
fn o1_secret_bytes_in_shared_memory_or_in_a_granted_page() {
    let secret = b"0123456789abcdef";
    let shared = Op::Write { gpa: PAGE + 0x1000, bytes: secret[..12].to_vec(), private: false };
    let mut m = machine();
    m.tag_secret_bytes(secret);
    m.tag_secret_bytes(b"short");
    assert_eq!(at(&mut m, 0, shared), done());
    take(&mut m, PAGE, false);
    assert_eq!(at(&mut m, 0, zero(PAGE, 1)), done());
    assert_eq!(at(&mut m, 0, write(PAGE + 3, secret)), done());
    silent(&mut m);
    let mut granted = m.clone();
    assert_eq!(at(&mut granted, 0, rmpadjust(PAGE, false, 3, 0x1)), rmpadjusted(0));
    assert_eq!(found(&granted), ["O1"]);
    // The rest of it completes the secret in shared memory.
    let rest = Op::Write { gpa: PAGE + 0x100c, bytes: secret[12..].to_vec(), private: false };
    assert_eq!(at(&mut m, 0, rest), done());
    assert_eq!(found(&m), ["O1"]);
}

#[test]
fn o2_rights_on_a_page_of_the_monitor() {
    for mask in [0x1, 0x2, 0x8] {
        let mut m = machine();
        m.declare_monitor_pages(MONITOR, 0x1000);
        take(&mut m, MONITOR, false);
        assert_eq!(at(&mut m, 0, rmpadjust(MONITOR, false, 3, mask)), rmpadjusted(0));
        assert_eq!(found(&m), ["O2"]);
    }
    // Inside a 2M grant.
    let mut m = machine();
    m.declare_monitor_pages(BLOCK + 0x1f_f000, 0x1000);
    take(&mut m, BLOCK, true);
    assert_eq!(at(&mut m, 0, rmpadjust(BLOCK, true, 1, RWX)), rmpadjusted(0));
    assert_eq!(found(&m), ["O2"]);
    // Declared too late is found all the same.
    let mut m = machine();
    grant(&mut m, PAGE, false, 1, 0x1);
    m.declare_monitor_pages(PAGE, 0x1000);
    assert_eq!(found(&m), ["O2"]);
}

#[test]
fn rmp_009_o2_a_page_validated_twice_is_found() {
    let mut m = machine();
    take(&mut m, PAGE, false);
    let other = m.config().spare[0].0;
    assert_eq!(m.rmpupdate(other, false, Some(PAGE)), 0);
    m.map(PAGE, false, Some(other));
    silent(&mut m);
    assert_eq!(at(&mut m, 0, pvalidate(PAGE, false, true)), pvalidated(0, false));
    assert_eq!(found(&m), ["O2"]);
    let step = m.violations()[0].step;
    assert_eq!(step, m.steps(), "found when it happened");
    m.check_all();
    assert_eq!(found(&m), ["O2"]);
}

#[test]
fn o2_not_when_the_first_page_was_rescinded() {
    let mut m = machine();
    take(&mut m, PAGE, false);
    assert_eq!(at(&mut m, 0, pvalidate(PAGE, false, false)), pvalidated(0, false));
    let other = m.config().spare[0].0;
    assert_eq!(m.rmpupdate(other, false, Some(PAGE)), 0);
    m.map(PAGE, false, Some(other));
    assert_eq!(at(&mut m, 0, pvalidate(PAGE, false, true)), pvalidated(0, false));
    silent(&mut m);
}

fn make_vmsa(m: &mut Machine, vmpl: u8, guest_rights: u64) {
    assert_eq!(at(m, 0, write(PAGE, &vmsa_image(vmpl, 0)[..])), done());
    let rdx = 0x1_0000 | guest_rights << 8 | 1;
    assert_eq!(at(m, 0, Op::Rmpadjust { gpa: PAGE, rcx: 0, rdx }), rmpadjusted(0));
}

#[test]
fn rmp_019_o3_level_rights_and_registry_of_a_vmsa() {
    for (level, vmpl, mask, listed, fires) in [
        (1, 1, 0x0, true, false),
        (1, 1, 0x1, true, false),
        (2, 3, 0x0, true, false),
        (1, 0, 0x0, true, true),
        (2, 1, 0x0, true, true),
        (1, 1, 0x3, true, true),
        (1, 1, 0x0, false, true),
    ] {
        let mut m = machine();
        m.declare_guest_level(level);
        m.registry_add(0);
        if listed {
            m.registry_add(PAGE);
        }
        take(&mut m, PAGE, false);
        make_vmsa(&mut m, vmpl, mask);
        assert_eq!(!found(&m).is_empty(), fires, "{level} {vmpl} {mask} {listed}: {:?}", m.violations());
        assert!(found(&m).iter().all(|oracle| *oracle == "O3"));
    }
}

#[test]
fn o3_a_stale_writer_a_late_change_and_a_stale_registry() {
    let mut m = machine();
    grant(&mut m, PAGE, false, 1, RWX);
    assert_eq!(on(&mut m, CPU1, 1, write(PAGE, &[1])), done());
    assert_eq!(at(&mut m, 0, rmpadjust(PAGE, false, 1, 0)), rmpadjusted(0));
    let mut flushed = m.clone();
    make_vmsa(&mut m, 1, 0);
    assert_eq!(found(&m), ["O3"]);

    assert_eq!(at(&mut flushed, 0, flush_all()), done());
    assert_eq!(at(&mut flushed, 0, Op::Tlbsync), done());
    make_vmsa(&mut flushed, 1, 0);
    silent(&mut flushed);
    let mut lowered = flushed.clone();
    assert_eq!(at(&mut lowered, 0, write(PAGE + layout::VMPL as u64, &[0])), done());
    assert_eq!(found(&lowered), ["O3"]);

    flushed.registry_add(PAGE);
    silent(&mut flushed);
    let mut early = flushed.clone();
    early.registry_remove(PAGE);
    assert_eq!(found(&early), ["O3"]);
    assert_eq!(at(&mut flushed, 0, Op::Rmpadjust { gpa: PAGE, rcx: 0, rdx: 1 }), rmpadjusted(0));
    assert_eq!(found(&flushed), Vec::<&str>::new());
    flushed.check_all();
    assert_eq!(found(&flushed), ["O3"]);
}

#[test]
fn o3_a_declared_vmsa_runs_at_its_level_alone() {
    let mut m = machine();
    m.declare_vmsa(PAGE, 0);
    m.registry_add(0x1000);
    take(&mut m, PAGE, false);
    make_vmsa(&mut m, 0, 0);
    assert_eq!(found(&m), Vec::<&str>::new());
    m.declare_vmsa(PAGE, 1);
    assert_eq!(found(&m), ["O3"]);
}

#[test]
fn o4_other_memory_under_a_page_of_vmpl0() {
    for rules in [&["RMP-033"][..], &["RMP-006"][..]] {
        let mut m = broken(rules);
        take(&mut m, PAGE, false);
        assert_eq!(at(&mut m, 0, write(PAGE, b"mine")), done());
        assert_eq!(at(&mut m, 0, read(PAGE, 4)), bytes(b"mine"));
        silent(&mut m);
        let (gpa, other) = (PAGE, PAGE + 0x1000);
        take(&mut m, other, false);
        assert_eq!(m.rmpupdate(other, false, Some(gpa)), 0);
        m.map(gpa, false, Some(other));
        let mut swept = m.clone();
        assert!(matches!(at(&mut m, 0, read(gpa, 4)), Outcome::Done(_)));
        assert_eq!(found(&m), ["O4"], "{rules:?}");
        if rules == ["RMP-006"] {
            swept.check_all();
            assert!(found(&swept).contains(&"O4"));
        }
    }
}

#[test]
fn o4_a_lower_level_that_writes_without_the_right() {
    let mut m = machine();
    grant(&mut m, PAGE, false, 1, RWX);
    assert_eq!(at(&mut m, 0, write(PAGE, &[5; 8])), done());
    assert_eq!(at(&mut m, 1, write(PAGE + 2, &[6])), done());
    assert_eq!(at(&mut m, 0, read(PAGE, 3)), bytes(&[5, 5, 6]));
    silent(&mut m);
    // The right is gone, the translation is not.
    assert_eq!(at(&mut m, 0, rmpadjust(PAGE, false, 1, 0)), rmpadjusted(0));
    assert_eq!(at(&mut m, 0, write(PAGE, &[7; 8])), done());
    assert_eq!(at(&mut m, 1, write(PAGE, &[8])), done());
    assert_eq!(at(&mut m, 0, read(PAGE, 1)), bytes(&[8]));
    assert_eq!(found(&m), ["O4"]);
}

#[test]
fn o4_forgets_a_rescinded_page_and_zeroing_by_a_level_with_the_right() {
    let mut m = machine();
    grant(&mut m, PAGE, false, 1, RWX);
    assert_eq!(at(&mut m, 0, write(PAGE, &[5; 8])), done());
    assert_eq!(at(&mut m, 1, zero(PAGE, 1)), done());
    assert_eq!(at(&mut m, 0, read(PAGE, 1)), bytes(&[0]));
    assert_eq!(at(&mut m, 0, write(PAGE, &[5; 8])), done());
    assert_eq!(at(&mut m, 0, pvalidate(PAGE, false, false)), pvalidated(0, false));
    assert_eq!(m.rmpupdate(PAGE, false, None), 0);
    take(&mut m, PAGE, false);
    assert!(matches!(at(&mut m, 0, read(PAGE, 8)), Outcome::Done(_)));
    silent(&mut m);
}
