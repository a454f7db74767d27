//! Data accesses and fetches.

use super::*;
use crate::rmp::npf;

const PRIVATE: u64 = npf::RMP | npf::ENC | npf::FINAL | npf::PRESENT;

fn shared_write(gpa: u64) -> Op {
    Op::Write { gpa, bytes: alloc::vec![1], private: false }
}

fn shared_read(gpa: u64) -> Op {
    Op::Read { gpa, len: 1, private: false }
}

#[test]
fn rmp_031_a_fetch_is_private() {
    let mut m = machine();
    assert_eq!(at(&mut m, 0, shared_write(PAGE)), done());
    assert_eq!(at(&mut m, 0, Op::Fetch { gpa: PAGE, user: false }), Outcome::Exit);
    assert_eq!(nested_fault(&m, PAGE), PRIVATE | npf::FETCH);
    take(&mut m, PAGE, false);
    assert_eq!(at(&mut m, 0, Op::Fetch { gpa: PAGE, user: false }), done());
}

#[test]
fn rmp_032_a_private_access_needs_an_assigned_page_with_this_address() {
    let mut m = machine();
    assert_eq!(at(&mut m, 0, read(PAGE + 4, 1)), Outcome::Exit);
    assert_eq!(nested_fault(&m, PAGE + 4), PRIVATE);
    assert_eq!(m.rmpupdate(PAGE, false, Some(PAGE + 0x1000)), 0);
    assert_eq!(at(&mut m, 0, write(PAGE, &[1])), Outcome::Exit);
    assert_eq!(nested_fault(&m, PAGE), PRIVATE | npf::WRITE);
    // An alias of a page whose entry names another address.
    take(&mut m, PAGE + 0x2000, false);
    m.map(PAGE + 0x3000, false, Some(PAGE + 0x2000));
    assert_eq!(at(&mut m, 0, read(PAGE + 0x3000, 1)), Outcome::Exit);
    assert_eq!(nested_fault(&m, PAGE + 0x3000), PRIVATE);
}

#[test]
fn rmp_030_an_unmapped_page_is_a_nested_fault_that_is_no_rmp_fault() {
    let mut m = machine();
    take(&mut m, PAGE, false);
    m.map(PAGE, false, None);
    assert_eq!(at(&mut m, 0, write(PAGE, &[1])), Outcome::Exit);
    assert_eq!(nested_fault(&m, PAGE), npf::FINAL | npf::ENC | npf::WRITE);
    assert_eq!(m.counters(CPU0, 0).npf, 1);
}

#[test]
fn rmp_033_a_private_access_needs_a_validated_page() {
    let mut m = machine();
    assert_eq!(m.rmpupdate(PAGE, false, Some(PAGE)), 0);
    for op in [read(PAGE + 8, 1), write(PAGE + 8, &[1]), Op::Fetch { gpa: PAGE + 8, user: false }] {
        assert_eq!(at(&mut m, 0, op), not_validated(PAGE + 8));
    }
    // Before the rights are looked at.
    assert_eq!(at(&mut m, 3, read(PAGE, 1)), not_validated(PAGE));
    let mut m = broken(&["RMP-033"]);
    assert_eq!(m.rmpupdate(PAGE, false, Some(PAGE)), 0);
    assert!(matches!(at(&mut m, 0, read(PAGE, 1)), Outcome::Done(_)));
}

#[test]
fn rmp_034_a_private_access_needs_the_right_of_its_vmpl() {
    let fetch = |user| Op::Fetch { gpa: PAGE, user };
    let mut m = machine();
    grant(&mut m, PAGE, false, 1, 0x1);
    let denied = PRIVATE | npf::VMPL;
    assert_eq!(at(&mut m, 1, read(PAGE, 1)), bytes(&[0]));
    for (op, bits) in [
        (write(PAGE, &[1]), npf::WRITE),
        (fetch(false), npf::FETCH),
        (fetch(true), npf::FETCH | npf::USER),
        (Op::Swap8 { gpa: PAGE, value: 1 }, npf::WRITE),
        (Op::CompareExchange64 { gpa: PAGE, expected: 0, new: 0 }, npf::WRITE),
        (zero(PAGE, 1), npf::WRITE),
    ] {
        assert_eq!(at(&mut m, 1, op), Outcome::Exit);
        assert_eq!(nested_fault(&m, PAGE), denied | bits);
    }
    assert_eq!(at(&mut m, 2, read(PAGE, 1)), Outcome::Exit);
    assert_eq!(nested_fault(&m, PAGE), denied);
    for (mask, user) in [(0x5, true), (0x9, false)] {
        assert_eq!(at(&mut m, 0, rmpadjust(PAGE, false, 1, mask)), rmpadjusted(0));
        assert_eq!(at(&mut m, 1, fetch(user)), done());
        assert_eq!(at(&mut m, 0, rmpadjust(PAGE, false, 1, 0)), rmpadjusted(0));
        assert_eq!(at(&mut m, 0, flush_all()), done());
        assert_eq!(at(&mut m, 1, fetch(user)), Outcome::Exit);
    }
    let mut m = broken(&["RMP-034"]);
    take(&mut m, PAGE, false);
    assert_eq!(at(&mut m, 3, write(PAGE, &[1])), done());
}

#[test]
fn write_without_read_is_an_illegal_mask() {
    let mut m = machine();
    grant(&mut m, PAGE, false, 1, 0x2);
    for op in [read(PAGE, 1), write(PAGE, &[1])] {
        assert_eq!(at(&mut m, 1, op), Outcome::Exit);
        assert_eq!(nested_fault(&m, PAGE) & npf::VMPL, npf::VMPL);
    }
}

#[test]
fn rmp_035_a_shared_write_needs_a_page_of_the_host_and_a_shared_read_nothing() {
    let mut m = machine();
    assert_eq!(at(&mut m, 1, shared_write(PAGE)), done());
    assert_eq!(at(&mut m, 1, shared_read(PAGE)), bytes(&[1]));
    take(&mut m, PAGE, false);
    assert_eq!(at(&mut m, 0, write(PAGE, &[9])), done());
    assert_eq!(at(&mut m, 0, shared_write(PAGE)), Outcome::Exit);
    assert_eq!(nested_fault(&m, PAGE), npf::RMP | npf::FINAL | npf::PRESENT | npf::WRITE);
    let Outcome::Done(Answer::Bytes(seen)) = at(&mut m, 1, Op::Read { gpa: PAGE, len: 8, private: false }) else {
        panic!("a shared read is not checked")
    };
    assert_eq!(seen[6..], crate::CIPHERTEXT_TAG.to_le_bytes());
    let mut m = broken(&["RMP-035"]);
    take(&mut m, PAGE, false);
    assert_eq!(at(&mut m, 1, shared_write(PAGE)), done());
}

#[test]
fn rmp_037_an_explicit_nested_mapping_must_have_the_size_of_the_entry() {
    let mut m = machine();
    take(&mut m, BLOCK, true);
    assert_eq!(at(&mut m, 0, zero(BLOCK, 512)), done());
    m.map(BLOCK + 0x3000, false, Some(BLOCK + 0x3000));
    assert_eq!(at(&mut m, 0, read(BLOCK + 0x3000, 1)), Outcome::Exit);
    assert_eq!(nested_fault(&m, BLOCK + 0x3000), PRIVATE);
    assert_eq!(at(&mut m, 0, read(BLOCK + 0x4000, 1)), bytes(&[0]));
    assert_eq!(m.psmash(BLOCK), 0);
    assert_eq!(at(&mut m, 0, read(BLOCK + 0x3000, 1)), bytes(&[0]));
    m.map(BLOCK, true, Some(BLOCK));
    assert!(m.is_mapped_large(BLOCK + 0x1000));
    assert_eq!(at(&mut m, 0, read(BLOCK + 0x3000, 1)), Outcome::Exit);
    // One small mapping makes the others small as well.
    m.map(BLOCK, false, Some(BLOCK));
    assert_eq!(at(&mut m, 0, read(BLOCK + 0x3000, 1)), bytes(&[0]));
}

#[test]
fn rmp_038_the_processors_update_of_a_page_table_entry_is_a_4k_data_write() {
    // Accessed and dirty bits are set by a locked exchange of the entry, at the level that walks.
    let dirty = Op::CompareExchange64 { gpa: PAGE, expected: 0, new: 0x60 };
    let mut m = machine();
    grant(&mut m, PAGE, false, 1, 0x1);
    assert_eq!(at(&mut m, 1, dirty.clone()), Outcome::Exit);
    assert_eq!(nested_fault(&m, PAGE), PRIVATE | npf::VMPL | npf::WRITE);
    assert_eq!(at(&mut m, 0, rmpadjust(PAGE, false, 1, 0x3)), rmpadjusted(0));
    assert_eq!(at(&mut m, 1, dirty), Outcome::Done(Answer::Value(0)));
}

#[test]
fn rmp_039_a_busy_entry_faults_once_and_the_repeated_access_goes_through() {
    let mut m = machine();
    take(&mut m, PAGE, false);
    m.hold_entry(PAGE);
    assert_eq!(at(&mut m, 0, write(PAGE, &[1])), Outcome::Exit);
    assert_eq!(nested_fault(&m, PAGE), PRIVATE | npf::WRITE);
    assert_eq!(m.vmrun(CPU0, vmsa_of(CPU0, 0)).map(|entry| entry.resume), Ok(crate::Resume::Retry));
    assert_eq!(m.step(CPU0, write(PAGE, &[1])), done());
}

#[test]
fn accesses_over_a_page_end_and_misaligned_atomics_are_refused() {
    let mut m = machine();
    grant(&mut m, PAGE, false, 1, RWX);
    let bad = [
        read(PAGE + 4095, 2),
        write(PAGE + 4090, &[0; 7]),
        zero(PAGE + 8, 1),
        zero(PAGE, u64::MAX),
        Op::CompareExchange64 { gpa: PAGE + 4, expected: 0, new: 0 },
    ];
    for op in bad {
        assert_eq!(at(&mut m, 0, op), Outcome::Fault(Fault::GeneralProtection));
    }
    assert_eq!(at(&mut m, 0, read(PAGE + 4095, 1)), bytes(&[0]));
}

#[test]
fn atomics_give_the_old_value() {
    let mut m = machine();
    grant(&mut m, PAGE, false, 1, RWX);
    let value = |v| Outcome::Done(Answer::Value(v));
    assert_eq!(at(&mut m, 1, Op::Swap8 { gpa: PAGE, value: 5 }), value(0));
    assert_eq!(at(&mut m, 0, Op::Swap8 { gpa: PAGE, value: 0 }), value(5));
    let exchange = |expected, new| Op::CompareExchange64 { gpa: PAGE + 8, expected, new };
    assert_eq!(at(&mut m, 0, exchange(1, 2)), value(0));
    assert_eq!(at(&mut m, 0, exchange(0, 3)), value(0));
    assert_eq!(at(&mut m, 1, exchange(3, 4)), value(3));
    assert_eq!(at(&mut m, 1, exchange(3, 5)), value(4));
}

#[test]
fn a_zeroing_that_faults_stops_at_the_page() {
    let mut m = machine();
    take(&mut m, PAGE, false);
    take(&mut m, PAGE + 0x1000, false);
    assert_eq!(m.rmpupdate(PAGE + 0x2000, false, Some(PAGE + 0x2000)), 0);
    assert_eq!(at(&mut m, 0, zero(PAGE, 3)), not_validated(PAGE + 0x2000));
    assert_eq!(m.counters(CPU0, 0).zeroed_pages, 0);
    assert_eq!(at(&mut m, 0, read(PAGE + 0x1000, 2)), bytes(&[0, 0]));
    assert_eq!(at(&mut m, 0, zero(PAGE, 2)), done());
    assert_eq!(m.counters(CPU0, 0).zeroed_pages, 2);
}

#[test]
fn peek_reads_as_the_level_would_and_leaves_no_trace() {
    let mut m = machine();
    grant(&mut m, PAGE, false, 1, 0x1);
    assert_eq!(at(&mut m, 0, write(PAGE, b"abc")), done());
    let counted = m.total_counters();
    assert_eq!(m.peek(PAGE, 3, Some(0)).as_deref(), Some(&b"abc"[..]));
    assert_eq!(m.peek(PAGE, 3, Some(1)).as_deref(), Some(&b"abc"[..]));
    assert_eq!(m.peek(PAGE, 3, Some(2)), None);
    assert_eq!(m.peek(PAGE, 3, None), None);
    assert_eq!(m.peek(PAGE - 1, 2, Some(0)), None);
    assert_eq!(m.peek(PAGE - 1, 1, None).as_deref(), Some(&[0][..]));
    assert_eq!(m.peek(u64::MAX, 2, None), None);
    assert_eq!(m.total_counters(), counted);
}
