use coco_part_api::range::{LARGE, SMALL};
use coco_part_api::{After, Error, ErrorKind, HostState, Stopped, Validate};

use super::{Handle, Lie, RAM, range, shim};
use crate::ShimError;

const AT: u64 = 0x20_0000;

fn valid(world: &Handle) -> usize {
    world.get().valid.len()
}

#[test]
fn validates_with_large_entries_wherever_both_ends_allow() {
    let (mut shim, world, _) = shim();
    shim.validate(range(AT - 2 * SMALL, 2 * LARGE + 4 * SMALL)).unwrap();
    assert_eq!(valid(&world), 1024 + 4);
    assert_eq!(world.get().calls.len(), 1);
    assert_eq!(world.get().agreed, [(range(AT - 2 * SMALL, 2 * LARGE + 4 * SMALL), HostState::Private)]);
}

#[test]
fn refuses_a_range_outside_the_map_before_anybody_hears_of_it() {
    let (mut shim, world, _) = shim();
    for bad in [range(RAM, SMALL), range(RAM - SMALL, 2 * SMALL), range(1 << 40, SMALL)] {
        let stopped = shim.validate(bad).unwrap_err();
        assert_eq!((stopped.done, stopped.cause.kind()), (0, ErrorKind::OutOfRange));
        assert_eq!(shim.rescind(bad, After::Shared).unwrap_err().cause.kind(), ErrorKind::OutOfRange);
    }
    assert!(world.get().calls.is_empty() && world.get().agreed.is_empty());
}

#[test]
fn does_the_page_that_refuses_for_its_size_in_small_ones_and_it_alone() {
    let (mut shim, world, _) = shim();
    world.get().small.insert((AT + LARGE) / SMALL);
    shim.validate(range(AT, 4 * LARGE)).unwrap();
    assert_eq!(valid(&world), 4 * 512);
    // One list stops at the page, two hold it in small ones, one has the two pages behind it.
    assert_eq!(world.get().calls.len(), 4);
    shim.rescind(range(AT, 4 * LARGE), After::Unassigned).unwrap();
    assert_eq!(valid(&world), 0);
    assert_eq!(world.get().calls.len(), 8);
}

#[test]
fn a_size_mismatch_of_a_small_page_is_an_error() {
    let (mut shim, world, _) = shim();
    world.get().lies.push_back(Lie::Cursor(0x8000_1006, 1));
    let stopped = shim.validate(range(0x8000, 3 * SMALL)).unwrap_err();
    assert_eq!((stopped.done, stopped.cause.kind()), (1, ErrorKind::SizeMismatch));
}

#[test]
fn splits_a_long_range_into_lists() {
    let (mut shim, world, _) = shim();
    shim.validate(range(0x1_0000, 1200 * SMALL)).unwrap();
    assert_eq!(valid(&world), 1200);
    // 496 small pages and one large one, then the tail of 192.
    assert_eq!(world.get().calls.len(), 2);
    assert_eq!(world.get().agreed.len(), 2);
}

#[test]
fn goes_on_after_incomplete_as_long_as_there_is_progress() {
    let (mut shim, world, _) = shim();
    world.get().budget = 1;
    shim.validate(range(0x8000, 20 * SMALL)).unwrap();
    assert_eq!(valid(&world), 20);
    assert_eq!(world.get().calls.len(), 20);
}

#[test]
fn progress_resets_the_patience() {
    let (mut shim, world, _) = shim();
    world.get().budget = 1;
    for _ in 0..3 {
        world.get().lies.extend([Lie::Result(0x8000_0007); 4]);
        assert!(shim.validate(range(0x8000, 2 * SMALL)).is_ok());
        shim.rescind(range(0x8000, 2 * SMALL), After::Unassigned).unwrap();
    }
}

#[test]
fn gives_up_on_busy_and_incomplete_without_progress() {
    for result in [0x8000_0000, 0x8000_0007] {
        let (mut shim, world, _) = shim();
        world.get().habit = Some(Lie::Result(result));
        let stopped = shim.validate(range(0x8000, 3 * SMALL)).unwrap_err();
        assert!(matches!(stopped, Stopped { done: 0, cause: ShimError::Stalled { rounds: 4, .. } }));
        assert_eq!(world.get().calls.len(), 5);
    }
}

#[test]
fn believes_no_cursor_that_lies() {
    // Result and cursor of the answer to a list of 4 entries whose first two are done.
    let lies = [
        (0, 0),
        (0, 3),
        (0, 5),
        (0, u16::MAX),
        (0x8000_0000, 1),
        (0x8000_0000, 4),
        (0x8000_0000, 5),
        (0x8000_0007, 1),
        (0x8000_1001, 1),
        (0x8000_1001, 4),
        (0x8000_1006, u16::MAX),
    ];
    for (result, now) in lies {
        let (mut shim, world, _) = shim();
        world.get().budget = 2;
        // Serve the first call: a lie that is none.
        world.get().lies.extend([Lie::ThenCursor(2), Lie::Cursor(result, now)]);
        let stopped = shim.validate(range(0x8000, 4 * SMALL)).unwrap_err();
        let bad = matches!(stopped.cause, ShimError::BadCursor { was: 2, now: kept, entries: 4, .. } if kept == now);
        assert!(bad && stopped.done == 2, "{result:#x} {now} gave {stopped:?}");
    }
}

#[test]
fn reports_exact_progress_when_l1_refuses() {
    let (mut shim, world, _) = shim();
    world.get().valid.insert(0xa000 / SMALL);
    let stopped = shim.validate(range(0x8000, 8 * SMALL)).unwrap_err();
    assert_eq!((stopped.done, stopped.cause.kind()), (2, ErrorKind::AlreadyInState));
    shim.validate(range(0xb000, 5 * SMALL)).unwrap();
    assert_eq!(valid(&world), 8);
}

#[test]
fn counts_large_pages_in_frames() {
    let (mut shim, world, _) = shim();
    world.get().valid.insert((AT + 2 * LARGE) / SMALL);
    let stopped = shim.validate(range(AT - SMALL, 3 * LARGE + SMALL)).unwrap_err();
    assert_eq!((stopped.done, stopped.cause.kind()), (1 + 1024, ErrorKind::AlreadyInState));
}

#[test]
fn double_validation_and_double_rescind_are_errors() {
    let (mut shim, _, _) = shim();
    let pages = range(0x8000, 2 * SMALL);
    shim.validate(pages).unwrap();
    assert_eq!(shim.validate(pages).unwrap_err().cause.kind(), ErrorKind::AlreadyInState);
    shim.rescind(pages, After::Unassigned).unwrap();
    assert_eq!(shim.rescind(pages, After::Unassigned).unwrap_err().cause.kind(), ErrorKind::AlreadyInState);
}

#[test]
fn a_call_that_is_not_served_is_repeated_without_loss() {
    let (mut shim, world, _) = shim();
    world.get().lies.extend([Lie::NotServed, Lie::NotServed]);
    shim.validate(range(0x8000, 3 * SMALL)).unwrap();
    assert_eq!(valid(&world), 3);
    world.get().habit = Some(Lie::NotServed);
    let stopped = shim.validate(range(0x1_0000, SMALL)).unwrap_err();
    assert_eq!((stopped.done, stopped.cause.kind()), (0, ErrorKind::HostMisbehaved));
}

#[test]
fn progress_is_known_even_when_the_answer_is_lost() {
    let (mut shim, world, _) = shim();
    world.get().budget = 3;
    world.get().lies.push_back(Lie::AnswerLost);
    let stopped = shim.validate(range(0x8000, 8 * SMALL)).unwrap_err();
    assert_eq!((stopped.done, stopped.cause.kind()), (3, ErrorKind::HostRefused));
    let rest = range(0x8000, 8 * SMALL).skip(stopped.done).unwrap();
    shim.validate(rest).unwrap();
    assert_eq!(valid(&world), 8);
}

#[test]
fn unknown_results_are_refusals() {
    for result in [0x1000, 0x4000_0001, 0x8000_1011, 0xffff_ffff] {
        let (mut shim, world, _) = shim();
        world.get().lies.push_back(Lie::Result(result));
        let stopped = shim.validate(range(0x8000, SMALL)).unwrap_err();
        assert_eq!((stopped.done, stopped.cause.kind()), (0, ErrorKind::Refused));
    }
}

#[test]
fn a_host_that_refuses_leaves_nothing_valid_behind_the_stop() {
    let (mut shim, world, _) = shim();
    world.get().agrees = 2;
    let stopped = shim.validate(range(0x8000, 4 * SMALL)).unwrap_err();
    assert_eq!((stopped.done, stopped.cause.kind()), (0, ErrorKind::HostRefused));
    assert_eq!(valid(&world), 0);
    world.get().agrees = u64::MAX;
    shim.validate(range(0x8000, 4 * SMALL)).unwrap();
}

#[test]
fn shares_only_what_l1_has_given_up() {
    let (mut shim, world, _) = shim();
    let pages = range(0x8000, 4 * SMALL);
    shim.validate(pages).unwrap();
    // The third one is not valid any more: two are given up, and shared.
    world.get().valid.remove(&(0xa000 / SMALL));
    let stopped = shim.share(pages).unwrap_err();
    assert_eq!((stopped.done, stopped.cause.kind()), (2, ErrorKind::AlreadyInState));
    assert_eq!(world.get().private.len(), 2);
    assert_eq!(valid(&world), 1);
}

#[test]
fn sharing_counts_what_the_host_has_taken() {
    let (mut shim, world, _) = shim();
    let pages = range(0x8000, 4 * SMALL);
    shim.validate(pages).unwrap();
    world.get().agrees = 3;
    let stopped = shim.share(pages).unwrap_err();
    assert_eq!((stopped.done, stopped.cause.kind()), (3, ErrorKind::HostRefused));
    world.get().agrees = u64::MAX;
    // As the crate says: validating brings the others back.
    shim.unshare(range(0xb000, SMALL)).unwrap();
    assert_eq!(valid(&world), 1);
}

#[test]
fn rescinding_without_sharing_needs_the_capability() {
    use super::{CAPABILITIES, World, negotiated};
    let cannot = coco_part_api::Capabilities { rescind_unassigned: coco_part_api::Support::No, ..CAPABILITIES };
    let (shim, world, _) = negotiated(World { identity: [2, 7, cannot.to_bits()], ..World::default() });
    let mut shim = shim.unwrap();
    let pages = range(0x8000, SMALL);
    shim.validate(pages).unwrap();
    let made = world.get().calls.len();
    assert_eq!(shim.rescind(pages, After::Unassigned).unwrap_err().cause.kind(), ErrorKind::Unsupported);
    assert_eq!(world.get().calls.len(), made);
    shim.rescind(pages, After::Shared).unwrap();
}

#[test]
fn writes_nothing_but_the_list_into_the_call_area() {
    let (mut shim, _, memory) = shim();
    shim.validate(range(0x8000, 2 * SMALL)).unwrap();
    let page = &memory.0.borrow()[super::CALL_AREA as usize..][..4096];
    assert_eq!(page[..8], [0; 8]);
    assert_eq!(page[8..16], [2, 0, 2, 0, 0, 0, 0, 0]);
    assert_eq!(page[16..32], [4, 0x80, 0, 0, 0, 0, 0, 0, 4, 0x90, 0, 0, 0, 0, 0, 0]);
    assert_eq!(page[32..], [0; 4096 - 32]);
}
