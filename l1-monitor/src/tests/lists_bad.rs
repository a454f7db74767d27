//! PVALIDATE lists that are refused, and backends that fail in the middle.

use coco_part_api::svsm::list::{Action, Entry};
use coco_part_api::svsm::{CallResult, PVALIDATE};
use coco_part_api::{ErrorKind, Rights, VcpuId};

use super::mock::At;
use super::*;

const ADDRESS: CallResult = CallResult::INVALID_ADDRESS;
const PARAMETER: CallResult = CallResult::INVALID_PARAMETER;
const PAGE: u64 = 0x1000;

fn large(at: u64, action: Action) -> u64 {
    entry(at, PageSize::Large, action, false)
}

/// Every ledger frame is settled, and the machine agrees with the ledger about who may use what.
pub(super) fn is_consistent(fixture: &Fixture) -> bool {
    (0..FRAMES).map(|number| number << 12).all(|at| match fixture.state(at) {
        State::NotPrivate => !fixture.world.is_valid(at),
        State::Guest(_) | State::CallArea => fixture.world.rights(at) == Rights::RAM,
        State::Monitor | State::VcpuState | State::Quarantined | State::Deposited(_) | State::Lent(_) => {
            fixture.world.rights(at).is_empty()
        }
        State::Changing => false,
    })
}

#[test]
fn refuses_pages_that_are_not_the_callers() {
    let fixture = Fixture::new();
    fixture.ledger().adopt(range(RAM + 0x8000, 1), OWN, State::Guest(GuestLevel::ONE)).unwrap();
    fixture.ledger().adopt(range(RAM + 0x9000, 1), OWN, State::Quarantined).unwrap();
    let map_end = FRESH + (1024 << 12);
    let places = [
        L1,
        L1 + 0x1f000,
        BOOT_STATE,
        BOOT_AREA,
        mock::SECRETS_AT + 0x1000 * 4,
        HOLE,
        LIST,
        RAM + 0x8000,
        RAM + 0x9000,
        map_end,
        0,
        1 << 40,
        (1 << 52) - PAGE,
    ];
    for at in places {
        for action in [Action::Validate, Action::Rescind] {
            fixture.write_list(LIST, 1, 0, &[entry(at, PageSize::Small, action, false)]);
            assert_eq!(fixture.refuses(PVALIDATE, LIST, 0, 0), ADDRESS, "{at:#x}");
        }
    }
}

#[test]
fn refuses_entries_with_reserved_values() {
    let fixture = Fixture::new();
    let words = [
        (FRESH | 2 | 4, PARAMETER),
        (FRESH | 3 | 4, PARAMETER),
        (FRESH | 0x10 | 4, PARAMETER),
        (FRESH | 0x800 | 4, PARAMETER),
        ((FRESH + PAGE) | 1 | 4, PARAMETER),
        (1 << 52 | 4, ADDRESS),
        (!0xfff | 4, ADDRESS),
    ];
    for (word, result) in words {
        for word in [word, word & !4] {
            fixture.write_list(LIST, 1, 0, &[word]);
            assert_eq!(fixture.refuses(PVALIDATE, LIST, 0, 0), result, "{word:#x}");
        }
    }
    assert!(Entry::decode(FRESH | 4).is_ok());
}

#[test]
fn a_bad_entry_stops_the_list_there_and_not_before() {
    let fixture = Fixture::new();
    let own = RAM + 5 * PAGE;
    let entries = [validate(FRESH), rescind(own), rescind(own + PAGE), rescind(L1), validate(FRESH + PAGE)];
    assert_eq!(fixture.list(&entries), (ADDRESS, 3));
    assert_eq!(
        (fixture.state(FRESH), fixture.state(own), fixture.state(own + PAGE)),
        (OWN, State::NotPrivate, State::NotPrivate)
    );
    assert_eq!(fixture.state(FRESH + PAGE), State::NotPrivate);
    assert!(is_consistent(&fixture));
}

#[test]
fn refuses_lists_in_bad_places_without_reading_them() {
    let fixture = Fixture::new();
    fixture.ledger().adopt(range(RAM + 0x7000, 1), OWN, State::CallArea).unwrap();
    fixture.ledger().adopt(range(RAM + 0x8000, 1), OWN, State::Guest(GuestLevel::ONE)).unwrap();
    for (at, result) in [
        (LIST + 4, PARAMETER),
        (LIST + 1, PARAMETER),
        (BOOT_AREA, ADDRESS),
        (L1, ADDRESS),
        (BOOT_STATE + 8, ADDRESS),
        (HOLE, ADDRESS),
        (FRESH, ADDRESS),
        (RAM + 0x7008, ADDRESS),
        (RAM + 0x8000, ADDRESS),
        (1 << 52, ADDRESS),
        (u64::MAX - 7, ADDRESS),
    ] {
        assert_eq!(fixture.refuses(PVALIDATE, at, 0, 0), result, "{at:#x}");
        assert_eq!((fixture.world.reads(), fixture.world.writes()), (std::vec![], std::vec![]));
    }
    let held = fixture.ledger().claim(range(LIST, 1), OWN).unwrap();
    assert_eq!(fixture.refuses(PVALIDATE, LIST, 0, 0), CallResult::BUSY);
    drop(held);
    fixture.world.fault_at(LIST);
    assert_eq!(fixture.refuses(PVALIDATE, LIST, 0, 0), ADDRESS);
}

#[test]
fn refuses_headers_that_count_wrong() {
    let fixture = Fixture::new();
    for (at, entries, next) in [
        (LIST, 0, 0),
        (LIST, 1, 1),
        (LIST, 512, 0),
        (LIST, 0xffff, 0),
        (LIST, 3, 0xffff),
        (LIST + 0xff8, 1, 0),
        (BOOT_AREA + 8, 511, 0),
    ] {
        fixture.world.poke(at, &[0; 8]);
        fixture.world.poke(at, &[(entries & 0xff) as u8, (entries >> 8) as u8, (next & 0xff) as u8, (next >> 8) as u8]);
        assert_eq!(fixture.refuses(PVALIDATE, at, 0, 0), PARAMETER);
        assert_eq!(fixture.world.reads(), [(at, 8)]);
    }
    fixture.write_list(LIST, 1, 0, &[validate(FRESH)]);
    fixture.world.poke(LIST + 7, &[1]);
    assert_eq!(fixture.refuses(PVALIDATE, LIST, 0, 0), PARAMETER);
}

#[test]
fn a_page_that_somebody_works_on_is_busy() {
    let fixture = Fixture::new();
    let own = RAM + 0x9000;
    let _held = (
        fixture.ledger().claim(range(own, 1), OWN),
        fixture.ledger().claim(range(FRESH + 7 * PAGE, 1), State::NotPrivate),
    );
    for word in [validate(own), rescind(own), validate(FRESH + 7 * PAGE), large(FRESH, Action::Validate)] {
        fixture.write_list(LIST, 1, 0, &[word]);
        assert_eq!(fixture.refuses(PVALIDATE, LIST, 0, 0), CallResult::BUSY, "{word:#x}");
    }
}

#[test]
fn a_large_page_that_is_partly_the_callers_is_no_change_and_none_of_it_changes() {
    let fixture = Fixture::new();
    assert_eq!(fixture.list(&[validate(FRESH + 9 * PAGE)]), (CallResult::SUCCESS, 1));
    for action in [Action::Validate, Action::Rescind] {
        for ignore_cf in [false, true] {
            fixture.write_list(LIST, 1, 0, &[entry(FRESH, PageSize::Large, action, ignore_cf)]);
            assert_eq!(fixture.refuses(PVALIDATE, LIST, 0, 0), CallResult::NO_CHANGE);
        }
    }
}

#[test]
fn errors_of_the_machine_are_named_and_leave_the_page_as_it_was() {
    let fixture = Fixture::new();
    for (kind, result) in [
        (ErrorKind::SizeMismatch, CallResult::FAIL_SIZE_MISMATCH),
        (ErrorKind::AlreadyInState, CallResult::NO_CHANGE),
        (ErrorKind::Inaccessible, ADDRESS),
        (ErrorKind::Refused, CallResult::FAIL_INPUT),
        (ErrorKind::NotPermitted, CallResult::FAIL_PERMISSION),
        (ErrorKind::HostRefused, CallResult::INVALID_REQUEST),
        (ErrorKind::HostMisbehaved, CallResult::INVALID_REQUEST),
    ] {
        fixture.world.fail(At::ValidateFor, 1, 0, kind);
        assert_eq!(fixture.list(&[validate(FRESH), large(FRESH + 0x20_0000, Action::Validate)]), (result, 1));
        assert!(fixture.world.has_failed() && is_consistent(&fixture));
        for at in [At::Withdraw, At::Rescind] {
            fixture.world.fail(at, 0, 0, kind);
            assert_eq!(fixture.list(&[rescind(FRESH)]), (result, 0));
            assert!(fixture.world.has_failed() && is_consistent(&fixture));
            assert_eq!(fixture.state(FRESH), OWN);
        }
        assert_eq!(fixture.list(&[rescind(FRESH)]), (CallResult::SUCCESS, 1));
    }
}

#[test]
fn validation_that_stops_half_way_is_booked_exactly() {
    let fixture = Fixture::new();
    fixture.world.fail(At::ValidateFor, 0, 5, ErrorKind::Refused);
    assert_eq!(fixture.list(&[large(FRESH, Action::Validate)]), (CallResult::FAIL_INPUT, 0));
    assert!(fixture.all_are(FRESH, 5, OWN) && fixture.all_are(FRESH + 5 * PAGE, 507, State::NotPrivate));
    assert!(is_consistent(&fixture));
}

#[test]
fn a_page_that_cannot_be_put_back_is_quarantined() {
    // Pages that lie side by side are one step of the backend, others are not.
    for (stride, skip, done) in [(1, 0, 1), (2, 1, 0)] {
        let fixture = Fixture::new();
        let entries = [0, 1, 2].map(|index| validate(FRESH + index * stride * PAGE));
        fixture.world.fail(At::ValidateFor, skip, done, ErrorKind::Quarantined);
        assert_eq!(fixture.list(&entries), (CallResult::INVALID_REQUEST, 1));
        let states = [0, 1, 2].map(|index| fixture.state(FRESH + index * stride * PAGE));
        assert_eq!(states, [OWN, State::Quarantined, State::NotPrivate]);
        assert_eq!(fixture.list(&[validate(FRESH + stride * PAGE)]), (ADDRESS, 0));
    }
}

#[test]
fn a_run_that_stops_is_booked_to_the_page() {
    let fixture = Fixture::new();
    let entries: Vec<u64> = (0..40).map(|index| validate(FRESH + index * PAGE)).collect();
    fixture.world.fail(At::ValidateFor, 0, 21, ErrorKind::HostRefused);
    assert_eq!(fixture.list(&entries), (CallResult::INVALID_REQUEST, 21));
    assert!(fixture.all_are(FRESH, 21, OWN) && fixture.all_are(FRESH + 21 * PAGE, 19, State::NotPrivate));
    assert!(is_consistent(&fixture));
    assert_eq!(fixture.call(PVALIDATE, LIST, 0, 0), CallResult::SUCCESS);
    assert!(fixture.all_are(FRESH, 40, OWN));
}

#[test]
fn a_large_page_of_a_run_that_cannot_be_put_back_is_quarantined_alone() {
    for done in [512, 515] {
        let fixture = Fixture::new();
        let entries = [large(FRESH, Action::Validate), large(FRESH + 512 * PAGE, Action::Validate)];
        fixture.world.fail(At::ValidateFor, 0, done, ErrorKind::Quarantined);
        assert_eq!(fixture.list(&entries), (CallResult::INVALID_REQUEST, 1));
        assert!(fixture.all_are(FRESH, done, OWN));
        assert!(fixture.all_are(FRESH + done * PAGE, 1024 - done, State::Quarantined));
    }
}

#[test]
fn a_run_with_a_page_that_is_not_the_callers_is_done_up_to_there() {
    let bad = FRESH + 5 * PAGE;
    for (state, result) in [(State::Quarantined, ADDRESS), (OWN, CallResult::NO_CHANGE)] {
        let fixture = Fixture::new();
        match state {
            OWN => assert_eq!(fixture.list(&[validate(bad)]), (CallResult::SUCCESS, 1)),
            _ => fixture.ledger().adopt(range(bad, 1), State::NotPrivate, state).unwrap(),
        }
        let entries: Vec<u64> = (0..9).map(|index| validate(FRESH + index * PAGE)).collect();
        assert_eq!(fixture.list(&entries), (result, 5));
        assert!(fixture.all_are(FRESH, 5, OWN) && fixture.state(bad) == state);
        assert!(fixture.all_are(bad + PAGE, 3, State::NotPrivate) && is_consistent(&fixture));
    }
    let fixture = Fixture::new();
    let held = fixture.ledger().claim(range(bad, 1), State::NotPrivate).unwrap();
    let entries: Vec<u64> = (0..9).map(|index| validate(FRESH + index * PAGE)).collect();
    assert_eq!(fixture.list(&entries), (CallResult::BUSY, 5));
    drop(held);
    assert_eq!(fixture.call(PVALIDATE, LIST, 0, 0), CallResult::SUCCESS);
    assert!(fixture.all_are(FRESH, 9, OWN));
}

#[test]
fn a_run_ends_with_the_memory_map_and_with_the_address_space() {
    let fixture = Fixture::new();
    let map_end = FRESH + (1024 << 12);
    let entries = [map_end - 2 * PAGE, map_end - PAGE, map_end, map_end + PAGE].map(validate);
    assert_eq!(fixture.list(&entries), (ADDRESS, 2));
    assert!(fixture.all_are(map_end - 2 * PAGE, 2, OWN));
    let to_validate = 4;
    for last in [(1 << 52) - PAGE, PAGE.wrapping_neg()] {
        let words = [last, last.wrapping_add(PAGE)].map(|at| at | to_validate);
        assert_eq!(fixture.list(&words), (ADDRESS, 0));
    }
}

#[test]
fn a_cut_that_stops_gives_back_what_it_cut() {
    let fixture = Fixture::new();
    fixture.list(&[large(FRESH, Action::Validate)]);
    let own = RAM + 5 * PAGE;
    let entries = [rescind(own), rescind(own + PAGE), large(FRESH, Action::Rescind), rescind(own + 2 * PAGE)];
    fixture.world.fail(At::Withdraw, 2, 7, ErrorKind::SizeMismatch);
    fixture.world.clear_log();
    assert_eq!(fixture.list(&entries), (CallResult::FAIL_SIZE_MISMATCH, 2));
    assert!(fixture.all_are(own, 2, State::NotPrivate));
    assert!(fixture.all_are(FRESH, 512, OWN) && fixture.state(own + 2 * PAGE) == OWN);
    assert!(is_consistent(&fixture));
    let log = fixture.world.instructions();
    assert_eq!(count(&log, |op| matches!(op, Op::Redeem { .. })), 1);
    assert_eq!(log.last(), Some(&Op::Regrant(range(FRESH, 8))));
}

#[test]
fn a_cut_that_does_nothing_flushes_nothing() {
    let fixture = Fixture::new();
    fixture.world.fail(At::Withdraw, 0, 0, ErrorKind::InUse);
    let own = RAM + 5 * PAGE;
    assert_eq!(fixture.list(&[rescind(own), rescind(own + PAGE)]), (CallResult::FAIL_INUSE, 0));
    assert_eq!(
        fixture.world.instructions(),
        [Op::Withdraw(range(own, 1)), Op::Redeem { is_empty: true }, Op::Regrant(range(own, 1))]
    );
    assert!(is_consistent(&fixture));
}

#[test]
fn a_list_of_blocks_that_are_all_of_another_size_costs_each_of_them_once() {
    let fixture = Fixture::new();
    let blocks = [FRESH, FRESH + 512 * PAGE];
    fixture.list(&blocks.map(|at| large(at, Action::Validate)));
    fixture.world.clear_log();
    // As a kernel does: it leaves the entry for later and goes on behind it.
    for (next, at) in blocks.into_iter().enumerate() {
        fixture.world.fail(At::Withdraw, 0, 0, ErrorKind::SizeMismatch);
        fixture.write_list(LIST, 2, next as u16, &blocks.map(|at| large(at, Action::Rescind)));
        assert_eq!(fixture.call(PVALIDATE, LIST, 0, 0), CallResult::FAIL_SIZE_MISMATCH);
        assert_eq!(fixture.cursor(LIST), next as u16);
        let block = range(at, 512);
        let wanted = [Op::Withdraw(block), Op::Redeem { is_empty: true }, Op::Regrant(block)];
        assert_eq!(fixture.world.instructions(), wanted);
        fixture.world.clear_log();
    }
    assert!(is_consistent(&fixture));
}

#[test]
fn the_block_at_which_a_cut_stopped_has_its_rights_back() {
    for done in [0, 7] {
        let fixture = Fixture::new();
        fixture.list(&[large(FRESH, Action::Validate)]);
        fixture.world.fail(At::HalfWithdraw, 0, done, ErrorKind::Refused);
        assert_eq!(fixture.list(&[large(FRESH, Action::Rescind)]), (CallResult::FAIL_INPUT, 0));
        assert!(fixture.all_are(FRESH, 512, OWN));
        assert!((0..512).all(|number| fixture.world.rights(FRESH + number * PAGE) == Rights::RAM));
    }
}

#[test]
fn a_block_that_was_not_cut_for_the_reason_that_it_is_not_granted_stays_the_callers() {
    for (kind, state) in [(ErrorKind::SizeMismatch, OWN), (ErrorKind::Refused, State::Quarantined)] {
        let fixture = Fixture::new();
        let own = RAM + 5 * PAGE;
        fixture.world.fail(At::Withdraw, 0, 0, ErrorKind::SizeMismatch);
        fixture.world.fail(At::Regrant, 0, 0, kind);
        assert_eq!(fixture.list(&[rescind(own)]), (CallResult::FAIL_SIZE_MISMATCH, 0));
        assert_eq!(fixture.state(own), state);
    }
}

#[test]
fn a_page_that_the_backend_gave_up_is_granted_to_nobody() {
    let fixture = Fixture::new();
    let own = RAM + 5 * PAGE;
    fixture.world.fail(At::Rescind, 1, 0, ErrorKind::Quarantined);
    fixture.world.clear_log();
    let entries = [rescind(own), rescind(own + PAGE), rescind(own + 2 * PAGE)];
    assert_eq!(fixture.list(&entries), (CallResult::INVALID_REQUEST, 1));
    let states = [0, 1, 2].map(|number| fixture.state(own + number * PAGE));
    assert_eq!(states, [State::NotPrivate, State::Quarantined, OWN]);
    assert!(!fixture.world.log().contains(&Op::Regrant(range(own + PAGE, 1))));
}

#[test]
fn giving_up_that_stops_returns_the_rest_with_its_contents() {
    let fixture = Fixture::new();
    fixture.list(&[large(FRESH, Action::Validate)]);
    let own = RAM + 5 * PAGE;
    fixture.world.poke(own + PAGE, b"kept");
    fixture.world.fail(At::Rescind, 1, 5, ErrorKind::HostRefused);
    let entries = [rescind(own), large(FRESH, Action::Rescind), rescind(own + PAGE)];
    assert_eq!(fixture.list(&entries), (CallResult::INVALID_REQUEST, 1));
    assert_eq!(fixture.state(own), State::NotPrivate);
    assert!(fixture.all_are(FRESH, 5, State::NotPrivate) && fixture.all_are(FRESH + 5 * PAGE, 507, OWN));
    assert_eq!(fixture.state(own + PAGE), OWN);
    assert_eq!(fixture.world.peek(own + PAGE, 4), b"kept");
    assert!(is_consistent(&fixture));
}

#[test]
fn what_can_neither_be_given_up_nor_given_back_is_quarantined() {
    let fixture = Fixture::new();
    fixture.list(&[large(FRESH, Action::Validate)]);
    fixture.world.fail(At::Rescind, 0, 5, ErrorKind::HostRefused);
    fixture.world.fail(At::Regrant, 0, 3, ErrorKind::Inaccessible);
    assert_eq!(fixture.list(&[large(FRESH, Action::Rescind)]), (CallResult::INVALID_REQUEST, 0));
    assert!(fixture.all_are(FRESH, 5, State::NotPrivate));
    assert!(fixture.all_are(FRESH + 5 * PAGE, 3, OWN));
    assert!(fixture.all_are(FRESH + 8 * PAGE, 504, State::Quarantined));
    assert!(is_consistent(&fixture));
    assert_eq!(fixture.list(&[rescind(FRESH + 8 * PAGE)]), (ADDRESS, 0));
}

#[test]
fn a_cursor_that_cannot_be_written_is_an_error_and_no_fault() {
    let fixture = Fixture::new();
    fixture.world.write_fault_at(LIST);
    assert_eq!(fixture.list(&[validate(FRESH)]).0, ADDRESS);
    assert_eq!(fixture.state(FRESH), OWN);
    assert!(is_consistent(&fixture));
}

#[test]
fn waiting_for_a_flush_kicks_those_that_run_guests() {
    let mut fixture = Fixture::new();
    fixture.limits.pauses_per_kick = 2;
    vcpus::start(&fixture, 2);
    fixture.world.clear_log();
    fixture.world.not_yet(3);
    let own = RAM + 5 * PAGE;
    assert_eq!(fixture.list(&[rescind(own)]), (CallResult::SUCCESS, 1));
    let waited: Vec<Op> = fixture.world.log().into_iter().filter(|op| matches!(op, Op::Kick(_) | Op::Pause)).collect();
    assert_eq!(waited, [Op::Kick(2), Op::Pause, Op::Pause, Op::Kick(2), Op::Pause]);
    assert!(is_consistent(&fixture));
}

#[test]
fn a_monitor_that_dies_while_it_waits_keeps_the_pages_out_of_reach() {
    let fixture = Fixture::new();
    let own = RAM + 5 * PAGE;
    let entries = [rescind(own), rescind(own + PAGE)];
    fixture.world.not_yet(usize::MAX);
    fixture.write_list(LIST, 2, 0, &entries);
    let mut monitor = fixture.monitor(0);
    std::thread::scope(|scope| {
        let storage = &fixture.storage;
        let world = &fixture.world;
        scope.spawn(move || {
            while !world.log().contains(&Op::Pause) {
                std::thread::yield_now();
            }
            storage.declare_dead();
        });
        let regs = CallRegs::call(CallId::new(svsm::CORE, PVALIDATE), LIST, 0, 0);
        assert_eq!(call_on(&mut monitor, &fixture.world, 0, regs).result(), CallResult::INVALID_REQUEST);
    });
    assert!(fixture.all_are(own, 2, State::Quarantined));
    assert_eq!(monitor.step(), Step::Dead);
    assert_eq!(fixture.storage.current(VcpuId(0)).map(|record| record.is_boot), Some(true));
}
