//! PVALIDATE lists that are served.

use std::vec;

use coco_part_api::svsm::{CallResult, PVALIDATE};
use coco_part_api::{After, Origin, Rights};

use super::*;

const INCOMPLETE: CallResult = CallResult::INCOMPLETE;
const NO_CHANGE: CallResult = CallResult::NO_CHANGE;
const SUCCESS: CallResult = CallResult::SUCCESS;
const PAGE: u64 = 0x1000;
const LARGE: u64 = 0x20_0000;

fn large(at: u64, action: Action) -> u64 {
    entry(at, PageSize::Large, action, false)
}

fn ignoring(at: u64, action: Action) -> u64 {
    entry(at, PageSize::Small, action, true)
}

fn flushes(fixture: &Fixture) -> usize {
    count(&fixture.world.log(), |op| matches!(op, Op::Redeem { .. }))
}

#[test]
fn validated_pages_are_zero_and_the_callers() {
    let fixture = Fixture::new();
    assert_eq!(fixture.list(&[validate(FRESH), validate(FRESH + 2 * PAGE)]), (SUCCESS, 2));
    for at in [FRESH, FRESH + 2 * PAGE] {
        assert_eq!((fixture.state(at), fixture.world.rights(at)), (OWN, Rights::RAM));
        assert_eq!(fixture.world.peek(at, 4096), [0; 4096]);
    }
    assert_eq!(fixture.state(FRESH + PAGE), State::NotPrivate);
    let single = |at| Op::ValidateFor(range(at, 1), Origin::Request);
    assert_eq!(fixture.world.instructions(), [single(FRESH), single(FRESH + 2 * PAGE)]);
}

#[test]
fn a_large_page_is_one_operation() {
    let fixture = Fixture::new();
    assert_eq!(fixture.list(&[large(FRESH, Action::Validate)]), (SUCCESS, 1));
    assert_eq!(fixture.world.instructions(), [Op::ValidateFor(range(FRESH, 512), Origin::Request)]);
    assert!(fixture.all_are(FRESH, 512, OWN));
    fixture.world.clear_log();
    assert_eq!(fixture.list(&[large(FRESH, Action::Rescind)]), (SUCCESS, 1));
    assert!(fixture.all_are(FRESH, 512, State::NotPrivate));
    assert_eq!(flushes(&fixture), 1);
}

#[test]
fn pages_that_lie_side_by_side_are_one_operation() {
    let fixture = Fixture::new();
    let at = |index: u64| FRESH + index * PAGE;
    let entries = [
        validate(at(0)),
        validate(at(1)),
        validate(at(2)),
        // Behind a gap, before the one before, and another way.
        validate(at(4)),
        validate(at(3)),
        ignoring(at(5), Action::Validate),
        ignoring(at(6), Action::Validate),
        large(FRESH + LARGE, Action::Validate),
    ];
    assert_eq!(fixture.list(&entries), (SUCCESS, 8));
    let step = |index, frames| Op::ValidateFor(range(at(index), frames), Origin::Request);
    let steps = [step(0, 3), step(4, 1), step(3, 1), step(5, 2), step(512, 512)];
    assert_eq!(fixture.world.instructions(), steps);
    assert!(fixture.all_are(FRESH, 7, OWN) && fixture.all_are(FRESH + LARGE, 512, OWN));
}

#[test]
fn a_page_of_a_run_that_is_valid_already_is_left_alone_if_its_entry_ignores_that() {
    let fixture = Fixture::new();
    assert_eq!(fixture.list(&[validate(FRESH + PAGE)]), (SUCCESS, 1));
    fixture.world.poke(FRESH + PAGE, b"kept");
    fixture.world.clear_log();
    let entries = [0, 1, 2].map(|index| ignoring(FRESH + index * PAGE, Action::Validate));
    assert_eq!(fixture.list(&entries), (SUCCESS, 3));
    let single = |index| Op::ValidateFor(range(FRESH + index * PAGE, 1), Origin::Request);
    assert_eq!(fixture.world.instructions(), [single(0), single(2)]);
    assert_eq!(fixture.world.peek(FRESH + PAGE, 4), b"kept");
}

#[test]
fn header_and_entries_are_read_once_and_only_the_cursor_is_written() {
    let fixture = Fixture::new();
    // Another vCPU: after the header more entries and another cursor, after the entries pages of the monitor.
    fixture.world.after_read(|bytes, at| {
        let list = LIST as usize;
        if at == LIST {
            bytes[list..list + 4].copy_from_slice(&[0xff, 1, 9, 0]);
        } else {
            bytes[list + 8..list + 24]
                .copy_from_slice(&[validate(L1).to_le_bytes(), rescind(L1).to_le_bytes()].concat());
        }
    });
    assert_eq!(fixture.list(&[validate(FRESH), rescind(RAM + 5 * PAGE)]), (SUCCESS, 2));
    assert_eq!(fixture.world.reads(), [(LIST, 8), (LIST + 8, 16)]);
    assert_eq!(fixture.world.writes(), [(LIST + 2, 2)]);
    assert_eq!((fixture.state(FRESH), fixture.state(RAM + 5 * PAGE)), (OWN, State::NotPrivate));
    assert_eq!(fixture.state(L1), State::Monitor);
}

#[test]
fn entries_that_change_before_they_are_read_are_checked_as_read() {
    let fixture = Fixture::new();
    fixture.world.after_read(|bytes, at| {
        if at == LIST {
            bytes[LIST as usize + 8..][..8].copy_from_slice(&validate(L1).to_le_bytes());
        }
    });
    assert_eq!(fixture.list(&[validate(FRESH)]), (CallResult::INVALID_ADDRESS, 0));
    assert_eq!(fixture.world.instructions(), []);
}

#[test]
fn any_number_of_rescinds_costs_one_flush_in_the_right_order() {
    let fixture = Fixture::new();
    assert_eq!(fixture.list(&[large(FRESH, Action::Validate)]), (SUCCESS, 1));
    for many in [1, 2, 511] {
        fixture.world.clear_log();
        let entries: Vec<u64> = (0..many).map(|page| rescind(FRESH + page * PAGE)).collect();
        assert_eq!(fixture.list(&entries), (SUCCESS, many as u16));
        assert!(fixture.all_are(FRESH, many, State::NotPrivate));
        assert!(!fixture.world.is_valid(FRESH));
        let log = fixture.world.instructions();
        let withdraws = (0..many).map(|page| Op::Withdraw(range(FRESH + page * PAGE, 1)));
        let rescinds = (0..many).map(|page| Op::Rescind(range(FRESH + page * PAGE, 1), After::Unassigned));
        let expected: Vec<Op> = withdraws.chain([Op::Redeem { is_empty: false }]).chain(rescinds).collect();
        assert_eq!(log, expected);
        let entries: Vec<u64> = (0..many).map(|page| validate(FRESH + page * PAGE)).collect();
        fixture.world.clear_log();
        assert_eq!(fixture.list(&entries), (SUCCESS, many as u16));
        assert_eq!(flushes(&fixture), 0);
    }
}

#[test]
fn pages_are_shared_where_they_cannot_be_left_unassigned() {
    let fixture = Fixture::new();
    fixture.world.only_shared();
    assert_eq!(fixture.list(&[rescind(RAM + 5 * PAGE)]), (SUCCESS, 1));
    assert_eq!(fixture.world.instructions().last(), Some(&Op::Rescind(range(RAM + 5 * PAGE, 1), After::Shared)));
}

#[test]
fn the_buffer_of_the_own_call_area_holds_510_entries() {
    let fixture = Fixture::new();
    let entries: Vec<u64> = (0..510).map(|page| validate(FRESH + page * PAGE)).collect();
    assert_eq!(fixture.list_at(BOOT_AREA + 8, &entries), (SUCCESS, 510));
    assert!(fixture.all_are(FRESH, 510, OWN));
    assert_eq!(fixture.state(BOOT_AREA), State::CallArea);
}

#[test]
fn work_begins_at_the_cursor() {
    let fixture = Fixture::new();
    fixture.write_list(LIST, 3, 2, &[validate(L1), rescind(L1), validate(FRESH)]);
    assert_eq!(fixture.call(PVALIDATE, LIST, 0, 0), SUCCESS);
    assert_eq!((fixture.cursor(LIST), fixture.state(FRESH)), (3, OWN));
}

#[test]
fn a_second_flush_is_another_call() {
    let fixture = Fixture::new();
    let (a, b) = (RAM + 5 * PAGE, RAM + 6 * PAGE);
    let entries = [rescind(a), validate(FRESH), rescind(b), rescind(b + PAGE)];
    assert_eq!(fixture.list(&entries), (INCOMPLETE, 2));
    assert_eq!(flushes(&fixture), 1);
    assert_eq!((fixture.state(a), fixture.state(FRESH), fixture.state(b)), (State::NotPrivate, OWN, OWN));
    assert_eq!(fixture.world.rights(b), Rights::RAM);
    assert_eq!(fixture.call(PVALIDATE, LIST, 0, 0), SUCCESS);
    assert_eq!((fixture.cursor(LIST), fixture.state(b)), (4, State::NotPrivate));
}

#[test]
fn a_call_stops_at_its_budget_and_goes_on_from_there() {
    let mut fixture = Fixture::new();
    fixture.limits.frames_per_call = 3;
    for action in [Action::Validate, Action::Rescind] {
        let entries: Vec<u64> = (0..7).map(|page| entry(FRESH + page * PAGE, PageSize::Small, action, false)).collect();
        assert_eq!(fixture.list(&entries), (INCOMPLETE, 3));
        assert_eq!(fixture.call(PVALIDATE, LIST, 0, 0), INCOMPLETE);
        assert_eq!(fixture.cursor(LIST), 6);
        assert_eq!(fixture.call(PVALIDATE, LIST, 0, 0), SUCCESS);
        assert_eq!(fixture.cursor(LIST), 7);
    }
    assert!(fixture.all_are(FRESH, 7, State::NotPrivate));
}

#[test]
fn the_first_entry_is_done_whatever_its_size() {
    let mut fixture = Fixture::new();
    fixture.limits.frames_per_call = 3;
    let entries = [large(FRESH, Action::Validate), validate(FRESH + LARGE)];
    assert_eq!(fixture.list(&entries), (INCOMPLETE, 1));
    assert_eq!(fixture.call(PVALIDATE, LIST, 0, 0), SUCCESS);
    let entries = [rescind(FRESH + LARGE), large(FRESH, Action::Rescind)];
    assert_eq!(fixture.list(&entries), (INCOMPLETE, 1));
    assert!(fixture.all_are(FRESH, 512, OWN));
    assert_eq!(fixture.call(PVALIDATE, LIST, 0, 0), SUCCESS);
    assert!(fixture.all_are(FRESH, 513, State::NotPrivate));
}

#[test]
fn no_change_is_an_error_unless_the_entry_ignores_it() {
    let fixture = Fixture::new();
    let own = RAM + 5 * PAGE;
    fixture.world.poke(own, b"kept");
    for (at, action) in [(own, Action::Validate), (FRESH, Action::Rescind)] {
        let before = fixture.snapshot();
        assert_eq!(fixture.list(&[entry(at, PageSize::Small, action, false)]), (NO_CHANGE, 0));
        assert_eq!(fixture.list(&[ignoring(at, action)]), (SUCCESS, 1));
        fixture.world.poke(LIST, &[0; 16]);
        assert_eq!(fixture.snapshot(), before);
    }
    // Neither an instruction nor zeroing: the snapshot holds the contents too.
    assert_eq!(fixture.world.instructions(), []);
}

#[test]
fn ignoring_no_change_opens_nobody_elses_page() {
    let fixture = Fixture::new();
    fixture.ledger().adopt(range(RAM + 0x8000, 1), OWN, State::Guest(GuestLevel::ONE)).unwrap();
    for at in [L1, BOOT_STATE, BOOT_AREA, HOLE, RAM + 0x8000] {
        for action in [Action::Validate, Action::Rescind] {
            assert_eq!(fixture.list(&[ignoring(at, action)]), (CallResult::INVALID_ADDRESS, 0));
        }
    }
    assert_eq!(fixture.world.instructions(), []);
}

#[test]
fn entries_that_name_a_page_twice_act_one_after_the_other() {
    let own = RAM + 5 * PAGE;
    type Case = (Vec<u64>, (CallResult, u16), u64, State);
    let cases: Vec<Case> = vec![
        (vec![rescind(own), rescind(own)], (NO_CHANGE, 1), own, State::NotPrivate),
        (vec![rescind(own), ignoring(own, Action::Rescind)], (SUCCESS, 2), own, State::NotPrivate),
        (vec![validate(FRESH), validate(FRESH)], (NO_CHANGE, 1), FRESH, OWN),
        (vec![validate(FRESH), ignoring(FRESH, Action::Validate)], (SUCCESS, 2), FRESH, OWN),
        (vec![validate(FRESH), rescind(FRESH), validate(FRESH)], (SUCCESS, 3), FRESH, OWN),
        (vec![large(FRESH, Action::Validate), validate(FRESH + PAGE)], (NO_CHANGE, 1), FRESH, OWN),
        (
            vec![large(FRESH, Action::Validate), large(FRESH, Action::Rescind), rescind(FRESH + PAGE)],
            (NO_CHANGE, 2),
            FRESH,
            State::NotPrivate,
        ),
        (vec![rescind(own), validate(own), rescind(own)], (INCOMPLETE, 2), own, OWN),
        (
            vec![rescind(own), rescind(own + PAGE), rescind(own), validate(FRESH)],
            (NO_CHANGE, 2),
            own + PAGE,
            State::NotPrivate,
        ),
    ];
    for (entries, expected, at, state) in cases {
        let fixture = Fixture::new();
        assert_eq!(fixture.list(&entries), expected, "{entries:x?}");
        assert_eq!(fixture.state(at), state);
        assert!(flushes(&fixture) <= 1);
        if state == OWN {
            assert_eq!(fixture.world.peek(at, 4096), [0; 4096]);
        }
        assert!(!fixture.ledger().survey(range(0, FRAMES)).has(State::Changing));
    }
}

#[test]
fn a_rescinded_page_comes_back_as_zeros() {
    let fixture = Fixture::new();
    let own = RAM + 5 * PAGE;
    fixture.world.poke(own, b"secret");
    assert_eq!(fixture.list(&[rescind(own), validate(own)]), (SUCCESS, 2));
    assert_eq!(fixture.world.peek(own, 6), [0; 6]);
}

#[test]
fn the_page_of_a_list_is_claimed_from_before_it_is_read_until_the_cursor_is_written() {
    let fixture = Fixture::new();
    let is_claimed = |words: Arc<[AtomicU64]>| {
        move |_: &mut Vec<u8>, _| {
            let ledger = Ledger::new(&words, range(0, FRAMES)).unwrap();
            assert_eq!(ledger.state(frame(LIST)), Some(State::Changing));
        }
    };
    fixture.world.after_read(is_claimed(fixture.words.clone()));
    fixture.world.before_write(is_claimed(fixture.words.clone()));
    assert_eq!(fixture.list(&[validate(FRESH), rescind(FRESH)]), (SUCCESS, 2));
    assert_eq!(fixture.state(LIST), OWN);
    assert_eq!((fixture.world.reads().len(), fixture.world.writes().len()), (2, 1));
}
