//! DEPOSIT_MEM and WITHDRAW_MEM: memory goes to the monitor and comes back.

use std::vec;

use coco_part_api::Rights;
use coco_part_api::svsm::{CREATE_VCPU, CallResult, DEPOSIT_MEM, PVALIDATE, REMAP_CA, WITHDRAW_MEM};

use super::*;
use crate::SetupError;

const SUCCESS: CallResult = CallResult::SUCCESS;
const PAGE: u64 = 0x1000;
/// Pages that the tests deposit, from here on.
pub(super) const OWNED: u64 = RAM + 0x6_0000;
pub(super) const KEPT: State = State::Deposited(LEVEL);

/// Writes a list and calls DEPOSIT_MEM; gives the result and the cursor.
pub(super) fn deposit(fixture: &Fixture, entries: &[u64]) -> (CallResult, u16) {
    fixture.write_list(LIST, entries.len() as u16, 0, entries);
    (fixture.call(DEPOSIT_MEM, LIST, 0, 0), fixture.cursor(LIST))
}

/// Calls WITHDRAW_MEM with a list at an address; gives the result and the addresses in it.
pub(super) fn withdraw(fixture: &Fixture, at: u64) -> (CallResult, Vec<u64>) {
    let result = fixture.call(WITHDRAW_MEM, at, 0, 0);
    let word = |index: u64| u64::from_le_bytes(fixture.world.peek(at + 8 * index, 8).try_into().unwrap());
    // The head is the count and nothing else.
    (result, (1..=word(0)).map(word).collect())
}

/// What the call area says about memory to withdraw.
pub(super) fn available(fixture: &Fixture) -> u8 {
    fixture.world.peek(BOOT_AREA + 1, 1)[0]
}

fn pages(count: u64) -> Vec<u64> {
    (0..count).map(|index| OWNED + index * PAGE).collect()
}

#[test]
fn deposited_pages_are_cut_flushed_once_and_out_of_the_guests_reach() {
    let fixture = Fixture::new();
    assert_eq!(available(&fixture), 0);
    let entries = pages(3);
    assert_eq!(deposit(&fixture, &entries), (SUCCESS, 3));
    let mut expected: Vec<Op> = entries.iter().map(|at| Op::Withdraw(range(*at, 1))).collect();
    expected.push(Op::Redeem { is_empty: false });
    assert_eq!(fixture.world.instructions(), expected);
    assert!(fixture.all_are(OWNED, 3, KEPT));
    assert!(entries.iter().all(|at| fixture.world.rights(*at).is_empty() && fixture.world.is_valid(*at)));
    assert_eq!((fixture.storage.deposited(LEVEL), available(&fixture)), (3, 1));
    // Header and entries are read once; the hint and the cursor are written.
    assert_eq!(fixture.world.reads(), [(LIST, 8), (LIST + 8, 24)]);
    assert_eq!(fixture.world.writes(), [(BOOT_AREA + 1, 1), (LIST + 2, 2)]);
}

#[test]
fn withdrawn_pages_are_zeroed_and_granted_before_their_addresses_are_written() {
    let fixture = Fixture::new();
    let entries = pages(3);
    entries.iter().for_each(|at| fixture.world.poke(*at, b"secret"));
    assert_eq!(deposit(&fixture, &entries), (SUCCESS, 3));
    fixture.world.clear_log();
    let words = fixture.words.clone();
    fixture.world.before_write(move |bytes, at| {
        if at == LIST + 8 {
            let ledger = Ledger::new(&words, range(0, FRAMES)).unwrap();
            assert!(ledger.survey(range(OWNED, 3)).only(&[OWN]));
            assert!(bytes[OWNED as usize..][..3 * PAGE as usize].iter().all(|byte| *byte == 0));
        }
    });
    assert_eq!(withdraw(&fixture, LIST), (SUCCESS, entries.clone()));
    let published: Vec<Op> = entries.iter().map(|at| Op::Publish(range(*at, 1))).collect();
    assert_eq!(fixture.world.instructions(), published);
    assert!(entries.iter().all(|at| fixture.world.rights(*at) == Rights::RAM));
    assert_eq!((fixture.storage.deposited(LEVEL), available(&fixture)), (0, 0));
    assert_eq!(withdraw(&fixture, LIST), (SUCCESS, vec![]));
}

#[test]
fn a_large_page_comes_back_in_small_ones_over_two_lists() {
    let fixture = Fixture::new();
    let large = entry(FRESH, PageSize::Large, Action::Validate, false);
    assert_eq!(fixture.list(&[large]), (SUCCESS, 1));
    assert_eq!(deposit(&fixture, &[FRESH | 1]), (SUCCESS, 1));
    assert!(fixture.all_are(FRESH, 512, KEPT));
    assert_eq!((fixture.storage.deposited(LEVEL), available(&fixture)), (512, 1));
    let (result, first) = withdraw(&fixture, LIST);
    assert_eq!((result, first.len(), available(&fixture)), (SUCCESS, 511, 1));
    assert_eq!(withdraw(&fixture, LIST), (SUCCESS, vec![FRESH + 511 * PAGE]));
    assert_eq!(first, (0..511).map(|index| FRESH + index * PAGE).collect::<Vec<_>>());
    assert_eq!(available(&fixture), 0);
    assert!(fixture.all_are(FRESH, 512, OWN));
}

#[test]
fn a_list_of_withdrawn_pages_ends_with_its_page_whatever_stands_there() {
    let fixture = Fixture::new();
    for (at, fits) in [(LIST + PAGE - 16, 1), (LIST + PAGE - 32, 3), (BOOT_AREA + 8, 4), (LIST + 0x808, 4)] {
        assert_eq!(deposit(&fixture, &pages(4)), (SUCCESS, 4));
        fixture.world.poke(at, &[0xff; 16]);
        fixture.world.clear_log();
        let (result, got) = withdraw(&fixture, at);
        assert_eq!((result, got.len()), (SUCCESS, fits), "{at:#x}");
        // No count of the guest is looked at.
        assert_eq!(fixture.world.reads(), []);
        assert_eq!(available(&fixture), u8::from(fits < 4));
        withdraw(&fixture, LIST);
        assert!(fixture.all_are(OWNED, 4, OWN));
    }
}

#[test]
fn a_deposit_stops_at_its_budget_and_at_its_only_flush_and_goes_on_from_there() {
    let mut fixture = Fixture::new();
    fixture.limits.frames_per_call = 3;
    assert_eq!(deposit(&fixture, &pages(7)), (CallResult::INCOMPLETE, 3));
    assert_eq!(fixture.call(DEPOSIT_MEM, LIST, 0, 0), CallResult::INCOMPLETE);
    assert_eq!(fixture.cursor(LIST), 6);
    assert_eq!(fixture.call(DEPOSIT_MEM, LIST, 0, 0), SUCCESS);
    assert_eq!(fixture.cursor(LIST), 7);
    assert!(fixture.all_are(OWNED, 7, KEPT));
    assert_eq!(count(&fixture.world.log(), |op| *op == Op::Redeem { is_empty: false }), 3);
}

#[test]
fn nobody_names_a_deposited_page_any_more() {
    let fixture = Fixture::new();
    assert_eq!(deposit(&fixture, &[OWNED, OWNED + PAGE]), (SUCCESS, 2));
    let address = CallResult::INVALID_ADDRESS;
    for word in [validate(OWNED), rescind(OWNED), entry(OWNED, PageSize::Small, Action::Validate, true)] {
        fixture.write_list(LIST, 1, 0, &[word]);
        assert_eq!(fixture.refuses(PVALIDATE, LIST, 0, 0), address, "{word:#x}");
    }
    fixture.write_list(LIST, 1, 0, &[OWNED]);
    assert_eq!(fixture.refuses(DEPOSIT_MEM, LIST, 0, 0), address);
    let (state, area) = vcpus::frames_of(2);
    for (call, rcx, rdx) in [
        (PVALIDATE, OWNED, 0),
        (DEPOSIT_MEM, OWNED, 0),
        (WITHDRAW_MEM, OWNED + 8, 0),
        (REMAP_CA, OWNED, 0),
        (CREATE_VCPU, OWNED, area),
        (CREATE_VCPU, state, OWNED),
    ] {
        assert_eq!(fixture.refuses(call, rcx, rdx, 2), address, "call {call}");
    }
}

#[test]
fn a_level_gets_what_it_deposited_itself_and_nothing_else() {
    let fixture = Fixture::new();
    let other = State::Deposited(GuestLevel::ONE);
    fixture.ledger().adopt(range(OWNED, 2), OWN, other).unwrap();
    fixture.storage.pool().add(GuestLevel::ONE, 2);
    assert_eq!(withdraw(&fixture, LIST), (SUCCESS, vec![]));
    assert_eq!(available(&fixture), 0);
    assert_eq!(deposit(&fixture, &[OWNED + 2 * PAGE]), (SUCCESS, 1));
    assert_eq!(withdraw(&fixture, LIST), (SUCCESS, vec![OWNED + 2 * PAGE]));
    assert!(fixture.all_are(OWNED, 2, other));
}

#[test]
fn the_monitor_uses_what_was_deposited_and_gives_back_that_alone() {
    let fixture = Fixture::new();
    let mut monitor = fixture.monitor(1);
    assert_eq!(monitor.take_deposited(), Ok(None));
    fixture.world.poke(OWNED, b"secret");
    assert_eq!(deposit(&fixture, &pages(2)), (SUCCESS, 2));
    let taken = monitor.take_deposited().unwrap().unwrap();
    assert_eq!((taken, fixture.state(OWNED)), (frame(OWNED), State::Lent(LEVEL)));
    assert_eq!(fixture.world.peek(OWNED, PAGE as usize), [0; 4096]);
    assert!(fixture.world.rights(OWNED).is_empty());
    // What is in use is not given back, and is nobody else's to name.
    assert_eq!(withdraw(&fixture, LIST), (SUCCESS, vec![OWNED + PAGE]));
    assert_eq!(deposit(&fixture, &[OWNED]), (CallResult::INVALID_ADDRESS, 0));
    for at in [L1, OWNED + PAGE, BOOT_AREA, FRESH] {
        assert!(matches!(monitor.put_deposited(frame(at)), Err(SetupError::Ledger(_))), "{at:#x}");
    }
    fixture.world.poke(OWNED, b"L1's own secret");
    assert_eq!(monitor.put_deposited(taken), Ok(()));
    assert!(monitor.put_deposited(taken).is_err());
    assert_eq!(withdraw(&fixture, LIST), (SUCCESS, vec![OWNED]));
    assert_eq!(fixture.world.peek(OWNED, PAGE as usize), [0; 4096]);
}

#[test]
fn a_search_is_bounded_and_goes_on_where_it_stopped() {
    let mut fixture = Fixture::new();
    fixture.limits.frames_per_call = 1;
    assert_eq!(deposit(&fixture, &[OWNED]), (SUCCESS, 1));
    // Behind the page, so that a search has to go all around.
    fixture.storage.pool().set_next((OWNED >> 12) + 1);
    let mut calls = 0;
    let found = loop {
        calls += 1;
        let (result, found) = withdraw(&fixture, LIST);
        assert_eq!(result, SUCCESS);
        if !found.is_empty() {
            break found;
        }
        assert_eq!(available(&fixture), 1);
    };
    assert_eq!((found, calls), (vec![OWNED], FRAMES / 16));
}

#[test]
fn memory_that_comes_and_goes_is_counted_right() {
    let fixture = Fixture::new();
    for round in 0..200_u64 {
        let some = 1 + round * 7 % 13;
        assert_eq!(deposit(&fixture, &pages(some)), (SUCCESS, some as u16));
        let (_, first) = withdraw(&fixture, LIST + PAGE - 8 * (2 + round % 5));
        let (_, rest) = withdraw(&fixture, LIST);
        assert_eq!((first.len() + rest.len()) as u64, some);
        assert_eq!((fixture.storage.deposited(LEVEL), available(&fixture)), (0, 0));
    }
}
