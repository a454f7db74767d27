//! DEPOSIT_MEM and WITHDRAW_MEM that are refused, and backends that fail in the middle.

use std::vec;

use coco_part_api::svsm::{CallResult, DEPOSIT_MEM, WITHDRAW_MEM};
use coco_part_api::{ErrorKind, Rights};

use super::memory::{KEPT, OWNED, available, deposit, withdraw};
use super::mock::At;
use super::*;

const ADDRESS: CallResult = CallResult::INVALID_ADDRESS;
const PARAMETER: CallResult = CallResult::INVALID_PARAMETER;
const REQUEST: CallResult = CallResult::INVALID_REQUEST;
const SUCCESS: CallResult = CallResult::SUCCESS;
const PAGE: u64 = 0x1000;

/// A page of another level, one that is quarantined, and another vCPU's call area.
fn strangers(fixture: &Fixture) -> [u64; 3] {
    let states = [State::Guest(GuestLevel::ONE), State::Quarantined, State::CallArea];
    let pages = [RAM + 0x7000, RAM + 0x8000, RAM + 0x9000];
    for (at, state) in pages.into_iter().zip(states) {
        fixture.ledger().adopt(range(at, 1), OWN, state).unwrap();
    }
    pages
}

#[test]
fn a_deposit_refuses_pages_that_are_not_the_callers() {
    let fixture = Fixture::new();
    let mut places =
        vec![L1, BOOT_STATE, BOOT_AREA, mock::SECRETS_AT + 0x4000, HOLE, LIST, FRESH, 0, 1 << 40, (1 << 52) - PAGE];
    places.extend(strangers(&fixture));
    for at in places {
        fixture.write_list(LIST, 1, 0, &[at]);
        assert_eq!(fixture.refuses(DEPOSIT_MEM, LIST, 0, 0), ADDRESS, "{at:#x}");
    }
    // 2 MiB with pages of L1, and 2 MiB that are not private.
    for at in [0, FRESH] {
        fixture.write_list(LIST, 1, 0, &[at | 1]);
        assert_eq!(fixture.refuses(DEPOSIT_MEM, LIST, 0, 0), ADDRESS, "{at:#x}");
    }
    let _held = fixture.ledger().claim(range(OWNED, 1), OWN).unwrap();
    fixture.write_list(LIST, 1, 0, &[OWNED]);
    assert_eq!(fixture.refuses(DEPOSIT_MEM, LIST, 0, 0), CallResult::BUSY);
}

#[test]
fn a_deposit_refuses_reserved_values_counts_and_places_of_its_list() {
    let fixture = Fixture::new();
    let mut words: Vec<(u64, CallResult)> = (1..12).map(|bit| (OWNED | 1 << bit, PARAMETER)).collect();
    words.extend([(OWNED | 3, PARAMETER), ((OWNED + PAGE) | 1, PARAMETER), (1 << 52, ADDRESS), (!0xfff, ADDRESS)]);
    for (word, result) in words {
        fixture.write_list(LIST, 1, 0, &[word]);
        assert_eq!(fixture.refuses(DEPOSIT_MEM, LIST, 0, 0), result, "{word:#x}");
    }
    for (entries, next) in [(0, 0), (1, 1), (1, 0xffff), (512, 0), (0xffff, 0)] {
        fixture.write_list(LIST, entries, next, &[OWNED]);
        assert_eq!(fixture.refuses(DEPOSIT_MEM, LIST, 0, 0), PARAMETER, "{entries} {next}");
    }
    fixture.write_list(LIST, 1, 0, &[OWNED]);
    fixture.world.poke(LIST + 4, &[0, 0, 0, 1]);
    assert_eq!(fixture.refuses(DEPOSIT_MEM, LIST, 0, 0), PARAMETER);
    bad_places(&fixture, DEPOSIT_MEM);
}

#[test]
fn a_withdrawal_refuses_bad_places_of_its_list() {
    let fixture = Fixture::new();
    assert_eq!(deposit(&fixture, &[OWNED]), (SUCCESS, 1));
    bad_places(&fixture, WITHDRAW_MEM);
    assert_eq!(fixture.refuses(WITHDRAW_MEM, LIST + PAGE - 8, 0, 0), PARAMETER);
    fixture.world.write_fault_at(LIST);
    assert_eq!(fixture.refuses(WITHDRAW_MEM, LIST, 0, 0), ADDRESS);
    fixture.world.no_fault_at(LIST);
    assert_eq!(withdraw(&fixture, LIST), (SUCCESS, vec![OWNED]));
}

/// Places where no list may lie, for either call.
fn bad_places(fixture: &Fixture, call: u32) {
    let [other_level, quarantined, area] = strangers(fixture);
    for (at, result) in [
        (LIST + 4, PARAMETER),
        (LIST + 1, PARAMETER),
        (BOOT_AREA, ADDRESS),
        (L1, ADDRESS),
        (BOOT_STATE, ADDRESS),
        (HOLE, ADDRESS),
        (FRESH, ADDRESS),
        (other_level, ADDRESS),
        (quarantined, ADDRESS),
        (area + 8, ADDRESS),
        (1 << 52, ADDRESS),
        (u64::MAX - 7, ADDRESS),
    ] {
        assert_eq!(fixture.refuses(call, at, 0, 0), result, "{at:#x}");
        assert_eq!((fixture.world.reads(), fixture.world.writes()), (vec![], vec![]));
    }
    let held = fixture.ledger().claim(range(LIST, 1), OWN).unwrap();
    assert_eq!(fixture.refuses(call, LIST, 0, 0), CallResult::BUSY);
    drop(held);
    fixture.world.fault_at(LIST);
    assert_eq!(fixture.refuses(call, LIST, 0, 0), ADDRESS);
    fixture.world.no_fault_at(LIST);
}

#[test]
fn a_bad_entry_stops_a_deposit_there_and_not_before() {
    for (entries, result, done) in [
        (vec![OWNED, OWNED + PAGE, L1, OWNED + 2 * PAGE], ADDRESS, 2),
        (vec![OWNED, OWNED | 4, OWNED + PAGE], PARAMETER, 1),
        // A page named twice, and the page of the list.
        (vec![OWNED, OWNED, OWNED + PAGE], ADDRESS, 1),
        (vec![OWNED, LIST], ADDRESS, 1),
    ] {
        let fixture = Fixture::new();
        assert_eq!(deposit(&fixture, &entries), (result, done), "{entries:x?}");
        assert!(fixture.all_are(OWNED, done.into(), KEPT));
        assert_eq!(fixture.state(OWNED + u64::from(done) * PAGE), OWN);
        assert_eq!((fixture.storage.deposited(LEVEL), available(&fixture)), (done.into(), 1));
        assert!(lists_bad::is_consistent(&fixture));
    }
}

#[test]
fn a_backend_that_stops_in_the_middle_of_a_deposit_leaves_the_rest_as_it_was() {
    for (at, skip) in [(At::Withdraw, 0), (At::Withdraw, 2), (At::HalfWithdraw, 0), (At::HalfWithdraw, 2)] {
        for (kind, result) in [
            (ErrorKind::SizeMismatch, CallResult::FAIL_SIZE_MISMATCH),
            (ErrorKind::Refused, CallResult::FAIL_INPUT),
            (ErrorKind::Busy, CallResult::BUSY),
            (ErrorKind::NotPermitted, CallResult::FAIL_PERMISSION),
        ] {
            let fixture = Fixture::new();
            fixture.world.poke(OWNED + 2 * PAGE, b"kept");
            fixture.world.fail(at, skip, 0, kind);
            let entries: Vec<u64> = (0..4).map(|index| OWNED + index * PAGE).collect();
            assert_eq!(deposit(&fixture, &entries), (result, skip as u16), "{at:?} {kind:?}");
            assert!(fixture.world.has_failed());
            assert!(skip == 0 || fixture.all_are(OWNED, skip as u64, KEPT));
            assert!(fixture.all_are(OWNED + skip as u64 * PAGE, 4 - skip as u64, OWN));
            assert_eq!(fixture.world.rights(OWNED + skip as u64 * PAGE), Rights::RAM);
            assert_eq!(fixture.world.peek(OWNED + 2 * PAGE, 4), b"kept");
            assert!(lists_bad::is_consistent(&fixture));
        }
    }
}

#[test]
fn a_deposit_waits_for_its_flush_and_keeps_nothing_without_it() {
    let fixture = Fixture::new();
    fixture.world.not_yet(3);
    assert_eq!(deposit(&fixture, &[OWNED]), (SUCCESS, 1));
    assert_eq!(count(&fixture.world.log(), |op| *op == Op::Pause), 3);

    // Declared dead while it waits: the page is of no use to anybody.
    let fixture = Fixture::new();
    fixture.world.not_yet(usize::MAX);
    fixture.write_list(LIST, 1, 0, &[OWNED]);
    let result = std::thread::scope(|scope| {
        let other = scope.spawn(|| fixture.call(DEPOSIT_MEM, LIST, 0, 0));
        while count(&fixture.world.log(), |op| *op == Op::Pause) == 0 {
            std::thread::yield_now();
        }
        fixture.storage.declare_dead();
        other.join().unwrap()
    });
    assert_eq!(result, REQUEST);
    assert_eq!((fixture.state(OWNED), fixture.storage.deposited(LEVEL)), (State::Quarantined, 0));
}

#[test]
fn a_page_that_cannot_be_given_back_stays_deposited_or_is_quarantined() {
    for (kind, state, result) in [
        (ErrorKind::Refused, KEPT, CallResult::FAIL_INPUT),
        (ErrorKind::Inaccessible, KEPT, ADDRESS),
        (ErrorKind::Quarantined, State::Quarantined, REQUEST),
    ] {
        let fixture = Fixture::new();
        assert_eq!(deposit(&fixture, &[OWNED, OWNED + PAGE]), (SUCCESS, 2));
        // Nothing else to report: the error.
        fixture.world.fail(At::Publish, 0, 0, kind);
        fixture.world.poke(LIST, &[0xff; 16]);
        assert_eq!(fixture.call(WITHDRAW_MEM, LIST, 0, 0), result);
        assert_eq!(fixture.world.peek(LIST, 8), [0; 8]);
        assert_eq!(fixture.state(OWNED), state);
        assert_eq!(fixture.storage.deposited(LEVEL), if state == KEPT { 2 } else { 1 });
        let (again, got) = withdraw(&fixture, LIST);
        assert_eq!((again, got.contains(&OWNED), got.contains(&(OWNED + PAGE))), (SUCCESS, state == KEPT, true));

        // Something else to report: that.
        let fixture = Fixture::new();
        assert_eq!(deposit(&fixture, &[OWNED, OWNED + PAGE]), (SUCCESS, 2));
        fixture.world.fail(At::Publish, 1, 0, kind);
        assert_eq!(withdraw(&fixture, LIST), (SUCCESS, vec![OWNED]));
        assert_eq!((fixture.state(OWNED + PAGE), available(&fixture)), (state, u8::from(state == KEPT)));
        assert!(lists_bad::is_consistent(&fixture));
    }
}

#[test]
fn a_deposited_page_that_does_not_answer_is_not_given_back_unzeroed() {
    let fixture = Fixture::new();
    assert_eq!(deposit(&fixture, &[OWNED]), (SUCCESS, 1));
    fixture.world.fault_at(OWNED);
    assert_eq!(fixture.call(WITHDRAW_MEM, LIST, 0, 0), REQUEST);
    assert!(
        matches!(fixture.monitor(1).take_deposited(), Err(crate::SetupError::Inaccessible(at)) if at == frame(OWNED))
    );
    assert_eq!((fixture.state(OWNED), fixture.storage.deposited(LEVEL)), (KEPT, 1));
    assert!(fixture.world.rights(OWNED).is_empty());
    fixture.world.no_fault_at(OWNED);
    assert_eq!(withdraw(&fixture, LIST), (SUCCESS, vec![OWNED]));
}

#[test]
fn a_call_area_that_does_not_answer_harms_nobody() {
    let fixture = Fixture::new();
    fixture.world.write_fault_at(BOOT_AREA);
    assert_eq!(deposit(&fixture, &[OWNED]), (SUCCESS, 1));
    assert_eq!(withdraw(&fixture, LIST), (SUCCESS, vec![OWNED]));
}
