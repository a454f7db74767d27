//! Validate and grant: leaves, registers, statuses, a lying host.

use coco_part_api::{After, Error as _, ErrorKind, Grant, Grants, Origin, Rights, Validate};

use super::*;
use crate::abi::status::Status;
use crate::abi::vmcall::HostStatus;
use crate::l1::call::BUSY_TRIES;

const LARGE: u64 = 0x20_0000;
/// VM 1 all rights, VM 2 none, both updated.
const RAM_FOR_ONE: u64 = 0x8000_800f_0000;
/// All bits of VM 1 and VM 2 but VALID.
const ALL_BITS: u64 = 0x007f_007f_0000;
/// No right for VM 1 and VM 2.
const NOTHING: u64 = 0x8000_8000_0000;

fn map_gpa(script: &Script, from: u64, len: u64, gives: Regs) {
    let takes = Regs { rcx: 0x3c00, r11: 0x10001, r12: from, r13: len, ..Regs::default() };
    script.call(Leaf::VP_VMCALL, takes, gives);
}

fn host(status: u64, next: u64) -> Regs {
    Regs { r10: status, r11: next, ..Regs::default() }
}

fn agreed(script: &Script, from: u64, len: u64) {
    map_gpa(script, from, len, host(0, 0));
}

fn accept(script: &Script, page: u64, gives: u64) {
    script.call(Leaf::MEM_PAGE_ACCEPT, Regs { rcx: page, ..Regs::default() }, status(gives));
}

fn attributes(script: &Script, page: u64, value: u64, mask: u64, gives: u64) {
    let takes = Regs { rcx: page, rdx: value, r8: mask, ..Regs::default() };
    script.call(Leaf::MEM_PAGE_ATTR_WR, takes, status(gives));
}

fn found(script: &Script, at: u64, info: u64, word: u64) {
    let gives = Regs { rcx: info, rdx: word, ..Regs::default() };
    script.call(Leaf::MEM_PAGE_ATTR_RD, Regs { rcx: at, ..Regs::default() }, gives);
}

fn mismatch() -> u64 {
    Status::PAGE_SIZE_MISMATCH.with_details(1).0
}

#[test]
fn validates_in_large_pages_where_both_ends_allow() {
    let (mut l1, script, _ram) = l1();
    agreed(&script, LARGE - 0x1000, LARGE + 0x2000);
    accept(&script, LARGE - 0x1000, 0);
    accept(&script, LARGE | 1, 0);
    accept(&script, 2 * LARGE, 0);
    l1.validate(range(LARGE - 0x1000, LARGE + 0x2000)).unwrap();
}

#[test]
fn splits_only_the_large_page_that_refuses() {
    let (mut l1, script, _ram) = l1();
    agreed(&script, LARGE, 2 * LARGE);
    accept(&script, LARGE | 1, mismatch());
    (0..512).for_each(|index| accept(&script, LARGE + 0x1000 * index, 0));
    accept(&script, (2 * LARGE) | 1, 0);
    l1.validate(range(LARGE, 2 * LARGE)).unwrap();
}

#[test]
fn a_split_page_that_stops_says_how_far_it_came() {
    let (mut l1, script, _ram) = l1();
    agreed(&script, LARGE - 0x1000, LARGE + 0x1000);
    accept(&script, LARGE - 0x1000, 0);
    accept(&script, LARGE | 1, mismatch());
    accept(&script, LARGE, 0);
    accept(&script, LARGE + 0x1000, 0);
    let again = Status::PAGE_ALREADY_ACCEPTED;
    accept(&script, LARGE + 0x2000, again.0);
    let (done, error) = cause(l1.validate(range(LARGE - 0x1000, LARGE + 0x1000)));
    assert_eq!((done, error), (3, Error::AlreadyAccepted { status: again }));
}

#[test]
fn accepting_twice_is_an_error_though_the_module_calls_it_success() {
    let (mut l1, script, _ram) = l1();
    let again = Status::PAGE_ALREADY_ACCEPTED.with_details(1);
    agreed(&script, LARGE, LARGE);
    accept(&script, LARGE | 1, again.0);
    let (done, error) = cause(l1.validate(range(LARGE, LARGE)));
    assert_eq!((done, error.kind()), (0, ErrorKind::AlreadyInState));
    assert_eq!(error, Error::AlreadyAccepted { status: again });
}

#[test]
fn a_busy_page_is_asked_for_again_a_bounded_number_of_times() {
    let (mut l1, script, _ram) = l1();
    let busy = Status::OPERAND_BUSY.with_details(1);
    agreed(&script, 0x1000, 0x1000);
    accept(&script, 0x1000, busy.0);
    script.pause();
    accept(&script, 0x1000, Status::OPERAND_BUSY_HOST_PRIORITY.0);
    script.pause();
    accept(&script, 0x1000, 0);
    l1.validate(range(0x1000, 0x1000)).unwrap();

    agreed(&script, 0x1000, 0x1000);
    accept(&script, 0x1000, busy.0);
    for _ in 1..BUSY_TRIES {
        script.pause();
        accept(&script, 0x1000, busy.0);
    }
    let (done, error) = cause(l1.validate(range(0x1000, 0x1000)));
    assert_eq!((done, error.kind()), (0, ErrorKind::Busy));
    assert_eq!(error, Error::Busy { leaf: Leaf::MEM_PAGE_ACCEPT, status: busy });
}

#[test]
fn statuses_that_no_leaf_has_are_errors_and_keep_their_value() {
    let odd = [0x0000_0b07_0000_0000, 0x0001_0000_0000_0000, 1, 0x8000_0003_0000_0000, u64::MAX];
    for raw in odd {
        let (mut l1, script, _ram) = l1();
        agreed(&script, 0x1000, 0x1000);
        accept(&script, 0x1000, raw);
        let (_, error) = cause(l1.validate(range(0x1000, 0x1000)));
        assert_eq!(error, Error::Unexpected { leaf: Leaf::MEM_PAGE_ACCEPT, status: Status(raw) });
    }
    let (mut l1, script, _ram) = l1();
    agreed(&script, 0x1000, 0x1000);
    accept(&script, 0x1000, mismatch());
    let (_, error) = cause(l1.validate(range(0x1000, 0x1000)));
    assert_eq!(error.kind(), ErrorKind::Refused, "a small page cannot be split");
}

#[test]
fn a_range_outside_of_the_map_costs_no_call() {
    let (mut l1, _script, _ram) = l1();
    let outside = range(RAM - 0x1000, 0x2000);
    let grants = Grants::one(ONE, Rights::RAM);
    let proof = l1.redeem(Default::default()).unwrap();
    let mut cut = Default::default();
    let results = [
        l1.validate(outside),
        l1.rescind(outside, After::Shared),
        l1.validate_for(outside, &grants, Origin::Request),
        l1.publish(outside, &grants),
        l1.withdraw(outside, Origin::Monitor, &mut cut),
        l1.regrant(outside, &grants, &proof),
        l1.rescind_from(outside, After::Shared, Origin::Request, &proof),
        l1.set_rights(outside, &grants, &mut cut),
    ];
    for result in results {
        let (done, error) = cause(result);
        assert_eq!((done, error.kind()), (0, ErrorKind::OutOfRange));
    }
}

#[test]
fn the_host_may_agree_in_parts_that_advance() {
    let (mut l1, script, _ram) = l1();
    map_gpa(&script, 0x1000, 0x3000, host(1, 0x2000));
    map_gpa(&script, 0x2000, 0x2000, host(1, 0x3000));
    agreed(&script, 0x3000, 0x1000);
    (1..4).for_each(|page| accept(&script, 0x1000 * page, 0));
    l1.validate(range(0x1000, 0x3000)).unwrap();
}

#[test]
fn a_cursor_that_does_not_advance_inside_the_range_is_a_lie() {
    for next in [0, 0x1000, 0x2000, 0x2800, 0x4000, 0x5000, SHARED_BIT | 0x3000, u64::MAX] {
        let (mut l1, script, _ram) = l1();
        map_gpa(&script, 0x1000, 0x3000, host(1, 0x2000));
        map_gpa(&script, 0x2000, 0x2000, host(1, next));
        accept(&script, 0x1000, 0);
        let (done, error) = cause(l1.validate(range(0x1000, 0x3000)));
        assert_eq!((done, error), (1, Error::HostCursor { next, from: 0x2000 }), "{next:#x}");
        assert_eq!(error.kind(), ErrorKind::HostMisbehaved);
    }
}

#[test]
fn a_host_that_declines_and_one_that_babbles_are_told_apart() {
    for raw in [0x8000_0000_0000_0000, 0x8000_0000_0000_0001, 0x8000_0000_0000_0002, 0x8000_0000_0000_0003] {
        let (mut l1, script, _ram) = l1();
        map_gpa(&script, 0x1000, 0x1000, host(raw, 0));
        let (done, error) = cause(l1.validate(range(0x1000, 0x1000)));
        assert_eq!((done, error), (0, Error::HostRefused { status: HostStatus(raw) }));
        assert_eq!(error.kind(), ErrorKind::HostRefused);
    }
    for raw in [2, 0x8000_0000_0000_0004, u64::MAX] {
        let (mut l1, script, _ram) = l1();
        map_gpa(&script, 0x1000, 0x1000, host(raw, 0x2000));
        let (_, error) = cause(l1.validate(range(0x1000, 0x1000)));
        assert_eq!(error.kind(), ErrorKind::HostMisbehaved);
    }
}

#[test]
fn a_granted_page_is_accepted_first_and_its_rights_go_to_all_vms_at_once() {
    for by in [Origin::Monitor, Origin::Request] {
        let (mut l1, script, _ram) = l1();
        agreed(&script, 0x1000, 0x2000);
        accept(&script, 0x1000, 0);
        attributes(&script, 0x1000, RAM_FOR_ONE, ALL_BITS, 0);
        accept(&script, 0x2000, 0);
        attributes(&script, 0x2000, RAM_FOR_ONE, ALL_BITS, 0);
        l1.validate_for(range(0x1000, 0x2000), &Grants::one(ONE, Rights::RAM), by).unwrap();
    }
}

#[test]
fn a_page_that_was_accepted_before_is_not_granted() {
    let (mut l1, script, _ram) = l1();
    agreed(&script, 0x1000, 0x1000);
    accept(&script, 0x1000, Status::PAGE_ALREADY_ACCEPTED.0);
    let (done, error) = cause(l1.validate_for(range(0x1000, 0x1000), &Grants::one(ONE, Rights::RAM), Origin::Request));
    assert_eq!((done, error.kind()), (0, ErrorKind::AlreadyInState));
}

#[test]
fn a_requested_large_page_reports_the_mismatch() {
    let (mut l1, script, _ram) = l1();
    agreed(&script, LARGE, LARGE);
    accept(&script, LARGE | 1, mismatch());
    let (done, error) = cause(l1.validate_for(range(LARGE, LARGE), &Grants::one(ONE, Rights::RAM), Origin::Request));
    assert_eq!((done, error.kind()), (0, ErrorKind::SizeMismatch));
}

#[test]
fn a_page_split_between_accepting_and_granting_is_granted_in_small_steps() {
    for by in [Origin::Monitor, Origin::Request] {
        let (mut l1, script, _ram) = l1();
        agreed(&script, LARGE, LARGE);
        accept(&script, LARGE | 1, 0);
        attributes(&script, LARGE | 1, RAM_FOR_ONE, ALL_BITS, mismatch());
        (0..512).for_each(|index| attributes(&script, LARGE + 0x1000 * index, RAM_FOR_ONE, ALL_BITS, 0));
        l1.validate_for(range(LARGE, LARGE), &Grants::one(ONE, Rights::RAM), by).unwrap();
    }
}

#[test]
fn a_missing_table_page_of_an_l2_is_the_hosts_refusal() {
    let (mut l1, script, _ram) = l1();
    let failed = Status::L2_SEPT_WALK_FAILED.with_details(2 << 16 | 1);
    attributes(&script, 0x1000, RAM_FOR_ONE, ALL_BITS, 0);
    attributes(&script, 0x2000, RAM_FOR_ONE, ALL_BITS, failed.0);
    let (done, error) = cause(l1.publish(range(0x1000, 0x3000), &Grants::one(ONE, Rights::RAM)));
    assert_eq!((done, error), (1, Error::NoTablePage { status: failed }));
    assert_eq!(error.kind(), ErrorKind::HostRefused);
}

#[test]
fn illegal_attributes_are_refused_by_name() {
    let (mut l1, script, _ram) = l1();
    attributes(&script, 0x1000, RAM_FOR_ONE, ALL_BITS, Status::PAGE_ATTR_INVALID.0);
    let (_, error) = cause(l1.publish(range(0x1000, 0x1000), &Grants::one(ONE, Rights::RAM)));
    assert_eq!(error, Error::Refused { leaf: Leaf::MEM_PAGE_ATTR_WR, status: Status::PAGE_ATTR_INVALID });
}

#[test]
fn rights_that_no_machine_takes_or_no_vm_can_have_are_refused_before_any_call() {
    let (mut l1, _script, _ram) = l1();
    for grants in [Grants::one(ONE, Rights::WRITE), Grants::one(GuestLevel::THREE, Rights::READ)] {
        let (done, error) = cause(l1.validate_for(range(0x1000, 0x1000), &grants, Origin::Monitor));
        assert_eq!((done, error.kind()), (0, ErrorKind::InvalidArgument));
        let mut cut = Default::default();
        assert!(l1.set_rights(range(0x1000, 0x1000), &grants, &mut cut).is_err());
        assert!(l1.publish(range(0x1000, 0x1000), &grants).is_err());
    }
}

#[test]
fn each_level_gets_its_own_rights() {
    let (mut l1, script, _ram) = l1();
    let grants = Grants::one(ONE, Rights::READ | Rights::EXECUTE_USER)
        .with(TWO, Rights::READ | Rights::WRITE | Rights::EXECUTE_SUPERVISOR);
    attributes(&script, 0x1000, 0x8007_8009_0000, ALL_BITS, 0);
    l1.publish(range(0x1000, 0x1000), &grants).unwrap();
}

#[test]
fn withdrawing_removes_every_alias_and_keeps_count() {
    let (mut l1, script, _ram) = l1();
    attributes(&script, LARGE | 1, NOTHING, ALL_BITS, 0);
    attributes(&script, 2 * LARGE, NOTHING, ALL_BITS, Status::OPERAND_INVALID.0);
    let mut cut = Default::default();
    let (done, error) = cause(l1.withdraw(range(LARGE, LARGE + 0x1000), Origin::Monitor, &mut cut));
    assert_eq!((done, error.kind()), (512, ErrorKind::Refused));
    assert!(l1.redeem(cut).is_ok(), "no other vCPU is inside");
}

#[test]
fn a_withdrawn_page_is_regranted_with_its_contents() {
    let (mut l1, script, _ram) = l1();
    let mut cut = Default::default();
    attributes(&script, 0x1000, NOTHING, ALL_BITS, 0);
    l1.withdraw(range(0x1000, 0x1000), Origin::Monitor, &mut cut).unwrap();
    let proof = l1.redeem(cut).unwrap();
    attributes(&script, 0x1000, RAM_FOR_ONE, ALL_BITS, 0);
    l1.regrant(range(0x1000, 0x1000), &Grants::one(ONE, Rights::RAM), &proof).unwrap();
}

#[test]
fn giving_up_is_sharing_and_the_cursor_keeps_the_shared_bit() {
    let (mut l1, script, _ram) = l1();
    let proof = l1.redeem(Default::default()).unwrap();
    let found_own = || (1..=3).for_each(|page| found(&script, page * 0x1000, page * 0x1000, 0));
    found_own();
    map_gpa(&script, SHARED_BIT | 0x1000, 0x3000, host(1, SHARED_BIT | 0x2000));
    agreed(&script, SHARED_BIT | 0x2000, 0x2000);
    l1.rescind_from(range(0x1000, 0x3000), After::Shared, Origin::Request, &proof).unwrap();

    found_own();
    map_gpa(&script, SHARED_BIT | 0x1000, 0x3000, host(1, SHARED_BIT | 0x3000));
    map_gpa(&script, SHARED_BIT | 0x3000, 0x1000, host(1, 0x3800));
    let (done, error) = cause(l1.rescind_from(range(0x1000, 0x3000), After::Shared, Origin::Monitor, &proof));
    assert_eq!((done, error.kind()), (2, ErrorKind::HostMisbehaved));
}

#[test]
fn a_proof_does_not_give_up_a_page_that_a_level_still_reaches() {
    let (mut l1, script, _ram) = l1();
    // The proof of an empty cut: nothing was withdrawn.
    let proof = l1.redeem(Default::default()).unwrap();
    for by in [Origin::Monitor, Origin::Request] {
        found(&script, 0x1000, 0x1000, 0x8001_0000_0000);
        let (done, error) = cause(l1.rescind_from(range(0x1000, 0x1000), After::Shared, by, &proof));
        assert_eq!((done, error), (0, Error::StillGranted { at: PhysAddr::new(0x1000) }));
    }
}

#[test]
fn giving_up_without_sharing_is_openly_unsupported() {
    let (mut l1, _script, _ram) = l1();
    let proof = l1.redeem(Default::default()).unwrap();
    let (done, error) = cause(l1.rescind_from(range(0x1000, 0x1000), After::Unassigned, Origin::Monitor, &proof));
    assert_eq!((done, error.kind()), (0, ErrorKind::Unsupported));
    let (_, error) = cause(l1.rescind(range(0x1000, 0x1000), After::Unassigned));
    assert_eq!(error.kind(), ErrorKind::Unsupported);
}

#[test]
fn an_own_page_is_given_up_only_when_nobody_below_reaches_it() {
    let (mut l1, script, _ram) = l1();
    found(&script, LARGE - 0x1000, LARGE - 0x1000, 0);
    found(&script, LARGE, LARGE | 1, 0);
    agreed(&script, SHARED_BIT | (LARGE - 0x1000), LARGE + 0x1000);
    l1.rescind(range(LARGE - 0x1000, LARGE + 0x1000), After::Shared).unwrap();

    found(&script, 0x1000, 0x1000, 0);
    found(&script, 0x2000, 0x2000, 0x8001_0000_0000);
    let (done, error) = cause(l1.share(range(0x1000, 0x2000)));
    assert_eq!((done, error), (0, Error::StillGranted { at: PhysAddr::new(0x2000) }));
    assert_eq!(error.kind(), ErrorKind::InUse);

    found(&script, 0x1000, 1 << 62 | 0x1000, 0);
    let (_, error) = cause(l1.rescind(range(0x1000, 0x1000), After::Shared));
    assert_eq!(error.kind(), ErrorKind::AlreadyInState);

    found(&script, 0x1000, 0x1003, 0);
    let (_, error) = cause(l1.rescind(range(0x1000, 0x1000), After::Shared));
    assert_eq!(error.kind(), ErrorKind::Refused);
}

#[test]
fn a_leaf_larger_than_the_range_is_looked_at_once() {
    let (mut l1, script, _ram) = l1();
    found(&script, LARGE + 0x5000, LARGE | 1, 0);
    found(&script, 2 * LARGE, 2 * LARGE, 0);
    agreed(&script, SHARED_BIT | (LARGE + 0x5000), LARGE - 0x4000);
    l1.rescind(range(LARGE + 0x5000, LARGE - 0x4000), After::Shared).unwrap();
}

#[test]
fn more_rights_are_no_cut_and_fewer_are() {
    let (mut l1, script, _ram) = l1();
    let before = l1.shared.begin_epoch();
    let mut cut = Default::default();
    found(&script, 0x1000, 0x1000, 0x8001_0000);
    attributes(&script, 0x1000, RAM_FOR_ONE, ALL_BITS, 0);
    l1.set_rights(range(0x1000, 0x1000), &Grants::one(ONE, Rights::RAM), &mut cut).unwrap();
    assert_eq!(l1.shared.begin_epoch(), before + 1, "no epoch began meanwhile");

    found(&script, 0x1000, 0x1000, 0x800f_0000);
    attributes(&script, 0x1000, 0x8000_8001_0000, ALL_BITS, 0);
    l1.set_rights(range(0x1000, 0x1000), &Grants::one(ONE, Rights::READ), &mut cut).unwrap();
    assert_eq!(l1.shared.begin_epoch(), before + 3);
}

#[test]
fn rights_of_a_split_page_are_compared_page_by_page() {
    let (mut l1, script, _ram) = l1();
    let mut cut = Default::default();
    found(&script, LARGE, LARGE, 0x8001_0000);
    for index in 0..512 {
        let at = LARGE + 0x1000 * index;
        let more = index == 300;
        found(&script, at, at, if more { 0x800f_0000 } else { 0x8001_0000 });
        attributes(&script, at, 0x8000_8001_0000, ALL_BITS, 0);
    }
    l1.set_rights(range(LARGE, LARGE), &Grants::one(ONE, Rights::READ), &mut cut).unwrap();
    assert_eq!(l1.shared.begin_epoch(), 2, "one cut");
}

#[test]
fn rights_are_not_set_on_a_page_that_is_not_accepted() {
    let (mut l1, script, _ram) = l1();
    let mut cut = Default::default();
    found(&script, 0x1000, 1 << 62 | 0x1000, 0);
    let (done, error) = cause(l1.set_rights(range(0x1000, 0x1000), &Grants::one(ONE, Rights::RAM), &mut cut));
    assert_eq!((done, error), (0, Error::NotAccepted { at: PhysAddr::new(0x1000) }));
}

#[test]
fn an_accepted_page_that_cannot_be_granted_is_reported_as_lost() {
    let (mut l1, script, _ram) = l1();
    let failed = Status::L2_SEPT_WALK_FAILED.with_details(1 << 16);
    agreed(&script, 0x1000, 0x2000);
    accept(&script, 0x1000, 0);
    attributes(&script, 0x1000, RAM_FOR_ONE, ALL_BITS, 0);
    accept(&script, 0x2000, 0);
    attributes(&script, 0x2000, RAM_FOR_ONE, ALL_BITS, failed.0);
    let grants = Grants::one(ONE, Rights::RAM);
    let (done, error) = cause(l1.validate_for(range(0x1000, 0x2000), &grants, Origin::Request));
    assert_eq!((done, error), (1, Error::Stranded { status: failed }));
    assert_eq!(error.kind(), ErrorKind::Quarantined);

    agreed(&script, LARGE, LARGE);
    accept(&script, LARGE | 1, 0);
    attributes(&script, LARGE | 1, RAM_FOR_ONE, ALL_BITS, mismatch());
    attributes(&script, LARGE, RAM_FOR_ONE, ALL_BITS, 0);
    attributes(&script, LARGE + 0x1000, RAM_FOR_ONE, ALL_BITS, Status::OPERAND_INVALID.0);
    let (done, error) = cause(l1.validate_for(range(LARGE, LARGE), &grants, Origin::Monitor));
    assert_eq!((done, error.kind()), (1, ErrorKind::Quarantined));
}
