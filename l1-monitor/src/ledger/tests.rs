use std::sync::atomic::{AtomicUsize, Ordering as Memory};
use std::vec::Vec;

use coco_part_api::GuestLevel;
use proptest::prelude::*;

use super::*;

const FRAMES: u64 = 100;
const BASE: u64 = 0x10_3000;
const MINE: State = State::Guest(GuestLevel::TWO);

fn storage() -> Vec<AtomicU64> {
    (0..Ledger::words_for(FRAMES)).map(|_| AtomicU64::new(0)).collect()
}

fn span() -> FrameRange {
    FrameRange::new(PhysAddr::new(BASE), FRAMES << 12).unwrap()
}

fn frames(first: u64, count: u64) -> FrameRange {
    FrameRange::new(PhysAddr::new(BASE + (first << 12)), count << 12).unwrap()
}

fn states(ledger: &Ledger<'_>) -> Vec<State> {
    (0..FRAMES).map(|frame| ledger.state(frames(frame, 1).first()).unwrap()).collect()
}

#[test]
fn storage_is_four_bits_per_frame() {
    assert_eq!(Ledger::words_for(1 << 18) * 8, 128 << 10);
    assert_eq!(Ledger::words_for(17), 2);
    let words = storage();
    assert_eq!(Ledger::new(&words[1..], span()).unwrap_err(), Refusal::Outside);
}

#[test]
fn a_dropped_claim_leaves_no_trace() {
    let words = storage();
    let ledger = Ledger::new(&words, span()).unwrap();
    let claim = ledger.claim(frames(3, 40), State::NotPrivate).unwrap();
    assert!(ledger.survey(frames(3, 40)).only(&[State::Changing]));
    assert_eq!(ledger.state(frames(43, 1).first()), Some(State::NotPrivate));
    drop(claim);
    assert!(words.iter().all(|word| word.load(Memory::Relaxed) == 0));
}

#[test]
fn a_loser_learns_why_and_puts_everything_back() {
    let words = storage();
    let ledger = Ledger::new(&words, span()).unwrap();
    ledger.adopt(frames(50, 1), State::NotPrivate, State::Monitor).unwrap();
    let before = states(&ledger);
    let found = ledger.claim(frames(0, 60), State::NotPrivate).unwrap_err();
    assert_eq!(found, Refusal::Found { at: frames(50, 1).first(), state: State::Monitor });
    assert_eq!(states(&ledger), before);

    let first = ledger.claim(frames(20, 2), State::NotPrivate).unwrap();
    let busy = ledger.claim(frames(21, 3), State::NotPrivate).unwrap_err();
    assert_eq!(busy, Refusal::Busy { at: frames(21, 1).first() });
    drop(first);
    assert_eq!(states(&ledger), before);
}

#[test]
fn changing_is_no_state_to_claim_from() {
    let words = storage();
    let ledger = Ledger::new(&words, span()).unwrap();
    let _claim = ledger.claim(frames(0, 4), State::NotPrivate).unwrap();
    assert!(matches!(ledger.claim(frames(0, 4), State::Changing), Err(Refusal::Busy { .. })));
    assert!(ledger.claim(frames(4, 4), State::Changing).is_err());
}

#[test]
fn partial_progress_is_exact() {
    let words = storage();
    let ledger = Ledger::new(&words, span()).unwrap();
    let mut claim = ledger.claim(frames(10, 30), State::NotPrivate).unwrap();
    claim.commit_first(0, MINE);
    claim.commit_first(7, MINE);
    claim.commit_first(2, State::Quarantined);
    assert_eq!(claim.rest(), Some(frames(19, 21)));
    drop(claim);
    assert!(ledger.survey(frames(10, 7)).only(&[MINE]));
    assert!(ledger.survey(frames(17, 2)).only(&[State::Quarantined]));
    assert!(ledger.survey(frames(19, 81)).only(&[State::NotPrivate]));

    let mut claim = ledger.claim(frames(10, 7), MINE).unwrap();
    claim.commit_first(u64::MAX, State::NotPrivate);
    assert_eq!(claim.rest(), None);
}

#[test]
fn the_first_frame_in_a_state_is_found() {
    let words = storage();
    let ledger = Ledger::new(&words, span()).unwrap();
    for at in [0, 15, 16, 33, 34, 99] {
        ledger.adopt(frames(at, 1), State::NotPrivate, State::Deposited(GuestLevel::TWO)).unwrap();
    }
    ledger.adopt(frames(50, 9), State::NotPrivate, State::Deposited(GuestLevel::ONE)).unwrap();
    let states = states(&ledger);
    for state in [State::Deposited(GuestLevel::TWO), State::NotPrivate, State::Monitor] {
        for from in 0..=FRAMES {
            for count in [0, 1, 2, 15, 16, 17, 40, FRAMES, u64::MAX] {
                let looked_at = (from..FRAMES).take(count.try_into().unwrap_or(usize::MAX));
                let first = looked_at.into_iter().find(|place| states[*place as usize] == state);
                assert_eq!(ledger.find(state, from, count), first, "{state:?} {from} {count}");
            }
        }
        assert_eq!(ledger.find(state, FRAMES + 1, 1), None);
        assert_eq!(ledger.find(state, u64::MAX, u64::MAX), None);
    }
    assert_eq!(ledger.frame(99), frames(99, 1).first());
}

#[test]
fn frames_outside_are_refused() {
    let words = storage();
    let ledger = Ledger::new(&words, span()).unwrap();
    let below = FrameRange::new(PhysAddr::new(BASE - 0x1000), 0x2000).unwrap();
    for range in [frames(99, 2), below, frames(FRAMES, 1)] {
        assert_eq!(ledger.claim(range, State::NotPrivate).unwrap_err(), Refusal::Outside);
        assert!(!ledger.survey(range).has(State::NotPrivate));
    }
    assert_eq!(ledger.state(below.first()), None);
    assert!(words.iter().all(|word| word.load(Memory::Relaxed) == 0));
}

#[test]
fn threads_never_hold_the_same_frame() {
    let words = storage();
    let ledger = Ledger::new(&words, span()).unwrap();
    let holders: Vec<AtomicUsize> = (0..FRAMES).map(|_| AtomicUsize::new(0)).collect();
    let won = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for thread in 0..4_u64 {
            let (holders, won) = (&holders, &won);
            scope.spawn(move || {
                let mut seed = thread + 1;
                for _ in 0..4000 {
                    seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                    let first = (seed >> 33) % FRAMES;
                    let count = 1 + (seed >> 50) % (FRAMES - first);
                    let Ok(claim) = ledger.claim(frames(first, count), State::NotPrivate) else { continue };
                    won.fetch_add(1, Memory::Relaxed);
                    let mine = holders.iter().skip(first as usize).take(count as usize);
                    assert!(mine.clone().all(|holder| holder.fetch_add(1, Memory::SeqCst) == 0));
                    assert!(mine.clone().all(|holder| holder.fetch_sub(1, Memory::SeqCst) == 1));
                    drop(claim);
                }
            });
        }
    });
    assert!(won.into_inner() > 0);
    assert!(words.iter().all(|word| word.load(Memory::Relaxed) == 0));
}

#[derive(Clone, Debug)]
enum Step {
    Claim(u64, u64, u8),
    Commit(usize, u8),
    CommitFirst(usize, u64, u8),
    Drop(usize),
}

fn state_of(number: u8) -> State {
    match State::from_nibble(u64::from(number)) {
        State::Changing => State::Monitor,
        state => state,
    }
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => (0..FRAMES, 1..FRAMES, 0..3_u8).prop_map(|(first, count, from)| Step::Claim(first, count, from)),
        1 => (0..8_usize, 0..3_u8).prop_map(|(which, to)| Step::Commit(which, to)),
        1 => (0..8_usize, 0..FRAMES, 0..3_u8).prop_map(|(which, n, to)| Step::CommitFirst(which, n, to)),
        1 => (0..8_usize).prop_map(Step::Drop),
    ];
    prop::collection::vec(step, 1..60)
}

proptest! {
    #[test]
    fn behaves_like_a_plain_array_of_states(steps in steps()) {
        let words = storage();
        let ledger = Ledger::new(&words, span()).unwrap();
        let mut model = std::vec![State::NotPrivate; FRAMES as usize];
        let mut held: Vec<(Claim<'_>, u64, u64, State)> = Vec::new();
        let fill = |model: &mut Vec<State>, first: u64, count: u64, state| {
            for frame in first..first + count { model[frame as usize] = state; }
        };
        for step in steps {
            match step {
                Step::Claim(first, count, from) => {
                    let count = count.min(FRAMES - first);
                    let from = state_of(from);
                    let fits = (first..first + count).all(|frame| model[frame as usize] == from);
                    let claim = ledger.claim(frames(first, count), from);
                    prop_assert_eq!(claim.is_ok(), fits);
                    if let Ok(claim) = claim {
                        fill(&mut model, first, count, State::Changing);
                        held.push((claim, first, count, from));
                    }
                }
                Step::Commit(which, to) if which < held.len() => {
                    let (claim, first, count, _) = held.swap_remove(which);
                    claim.commit(state_of(to));
                    fill(&mut model, first, count, state_of(to));
                }
                Step::CommitFirst(which, n, to) if which < held.len() => {
                    let (claim, first, count, _) = &mut held[which];
                    let n = n.min(*count);
                    claim.commit_first(n, state_of(to));
                    fill(&mut model, *first, n, state_of(to));
                    *first += n;
                    *count -= n;
                }
                Step::Drop(which) if which < held.len() => {
                    let (_claim, first, count, from) = held.swap_remove(which);
                    fill(&mut model, first, count, from);
                }
                _ => {}
            }
            prop_assert_eq!(&states(&ledger), &model);
        }
    }
}
