use coco_part_api::range::LARGE;
use coco_part_api::{After, Error, ErrorKind, Grants, RangeError, Rights, Stopped};

use super::mock::{Broken, Did, Entry};
use super::*;
use crate::SnpError;

/// The host's.
const FREE: u64 = 16 << 20;

#[test]
fn agrees_then_validates_then_zeroes() {
    let bench = Bench::new();
    let mut l1 = bench.start(0);
    l1.validate(range(FREE, 2)).unwrap();
    let at = |page: u64| FREE + page * 0x1000;
    assert_eq!(
        bench.machine.take_log(),
        [
            Did::PageState { at: at(0), frames: 1, private: true },
            Did::PageState { at: at(1), frames: 1, private: true },
            Did::Pvalidate { at: at(0), large: false, valid: true },
            Did::Zero { at: at(0), frames: 1 },
            Did::Pvalidate { at: at(1), large: false, valid: true },
            Did::Zero { at: at(1), frames: 1 },
        ]
    );
    assert_eq!(bench.machine.page(at(1)), [0; 4096]);
}

#[test]
fn a_range_outside_the_map_changes_nothing() {
    let bench = Bench::new();
    let mut l1 = bench.start(0);
    let outside = range(RAM - 0x1000, 2);
    let at = outside.start();
    for stopped in [l1.validate(outside), l1.rescind(outside, After::Shared)] {
        assert_eq!(stopped, Err(Stopped::at_start(SnpError::Range(RangeError::OutsideMap { at }))));
    }
    assert_eq!(bench.machine.take_log(), []);
}

#[test]
fn takes_large_pages_and_splits_only_the_one_that_refuses() {
    let bench = Bench::new();
    let mut l1 = bench.start(0);
    bench.machine.with(|world| world.small.insert((FREE + LARGE) >> 21));
    l1.validate(range(FREE, 3 * 512)).unwrap();
    let large = |did: &&Did| matches!(did, Did::Pvalidate { large: true, .. });
    let small = |did: &&Did| matches!(did, Did::Pvalidate { large: false, .. });
    let log = bench.machine.take_log();
    assert_eq!((log.iter().filter(large).count(), log.iter().filter(small).count()), (3, 512));
    let zeroed: u64 = log.iter().map(|did| if let Did::Zero { frames, .. } = did { *frames } else { 0 }).sum();
    assert_eq!(zeroed, 3 * 512);
}

#[test]
fn double_validation_is_refused_and_destroys_nothing() {
    let bench = Bench::new();
    let mut l1 = bench.start(0);
    // Valid pages around one that is the host's, with L1's data in them.
    for page in [1, 3] {
        l1.validate(range(FREE + page * 0x1000, 1)).unwrap();
        bench.machine.poke(FREE + page * 0x1000, &[0x5a; 16]);
    }
    let before = bench.machine.rmp();
    let stopped = l1.validate(range(FREE + 0x1000, 3)).unwrap_err();
    assert_eq!(stopped, Stopped { done: 0, cause: SnpError::NoChange });
    assert_eq!(stopped.cause.kind(), ErrorKind::AlreadyInState);
    assert_eq!(bench.machine.rmp(), before, "the page in between went back to the host");
    for page in [1, 3] {
        assert_eq!(bench.machine.page(FREE + page * 0x1000)[..16], [0x5a; 16]);
    }
}

#[test]
fn a_failure_at_any_step_stops_exactly_and_gives_the_rest_back() {
    let steps = {
        let bench = Bench::new();
        let mut l1 = bench.start(0);
        let before = bench.machine.with(|world| world.steps);
        l1.validate(range(FREE, 4)).unwrap();
        bench.machine.with(|world| world.steps) - before
    };
    assert_eq!(steps, 8);
    for step in 0..steps {
        for how in [Broken::Code(1), Broken::Fault] {
            let bench = Bench::new();
            let mut l1 = bench.start(0);
            let mut expected = bench.machine.rmp();
            bench.machine.break_after(step, how);
            let stopped = l1.validate(range(FREE, 4)).unwrap_err();
            let done = u64::from(step) / 2;
            assert_eq!(stopped.done, done, "step {step}");
            for page in 0..done {
                let valid = Entry { assigned: true, valid: true, ..Entry::default() };
                expected.insert((FREE >> 12) + page, valid);
            }
            assert_eq!(bench.machine.rmp(), expected, "step {step}");
            // It can be resumed from there.
            l1.validate(range(FREE, 4).skip(done).unwrap()).unwrap();
        }
    }
}

#[test]
fn a_host_that_refuses_a_page_stops_there() {
    let bench = Bench::new();
    let mut l1 = bench.start(0);
    bench.machine.with(|world| world.host_keeps.insert((FREE >> 12) + 2));
    let stopped = l1.validate(range(FREE, 4)).unwrap_err();
    assert_eq!((stopped.done, stopped.cause.kind()), (2, ErrorKind::HostRefused));
    assert!(bench.machine.with(|world| world.entry((FREE >> 12) + 1).valid && !world.entry((FREE >> 12) + 2).assigned));
}

#[test]
fn a_host_that_only_claims_a_page_state_is_found_out() {
    let bench = Bench::new();
    let mut l1 = bench.start(0);
    bench.machine.with(|world| world.host_does_nothing = true);
    let before = bench.machine.rmp();
    let stopped = l1.validate(range(FREE, 2)).unwrap_err();
    assert_eq!((stopped.done, stopped.cause.kind()), (0, ErrorKind::Inaccessible));
    assert_eq!(bench.machine.rmp(), before);
}

#[test]
fn rescinds_before_it_shares() {
    let bench = Bench::new();
    let mut l1 = bench.start(0);
    l1.rescind(range(0x3_0000, 1), After::Shared).unwrap();
    assert_eq!(
        bench.machine.take_log(),
        [
            revoked(0x3_0000, 1),
            revoked(0x3_0000, 2),
            Did::Invlpgb,
            Did::Tlbsync,
            Did::Pvalidate { at: 0x3_0000, large: false, valid: false },
            Did::PageState { at: 0x3_0000, frames: 1, private: false },
        ]
    );
    l1.rescind(range(0x3_1000, 1), After::Unassigned).unwrap();
    let log = bench.machine.take_log();
    assert_eq!(log[4..], [Did::Pvalidate { at: 0x3_1000, large: false, valid: false }]);
}

fn revoked(at: u64, vmpl: u8) -> Did {
    Did::Rmpadjust { at, large: false, vmpl, rights: 0, vmsa: false }
}

#[test]
fn a_published_page_that_is_given_up_comes_back_without_rights() {
    let bench = Bench::new();
    let mut l1 = bench.start(0);
    l1.publish(range(0x3_0000, 2), &Grants::one(GuestLevel::ONE, Rights::RAM)).unwrap();
    l1.rescind(range(0x3_0000, 2), After::Unassigned).unwrap();
    let flushes = bench.machine.take_log().iter().filter(|did| **did == Did::Invlpgb).count();
    assert_eq!(flushes, 1, "one for the whole range");
    l1.validate(range(0x3_0000, 2)).unwrap();
    for page in [0x30, 0x31] {
        let own = Entry { assigned: true, valid: true, ..Entry::default() };
        assert_eq!(bench.machine.with(|world| world.entry(page)), own);
    }
}

#[test]
fn a_page_whose_rights_cannot_be_taken_is_not_given_up() {
    let bench = Bench::new();
    let mut l1 = bench.start(0);
    // The second RMPADJUST of the second page.
    bench.machine.break_after(3, Broken::Code(3));
    let stopped = l1.rescind(range(0x3_0000, 3), After::Shared).unwrap_err();
    assert_eq!((stopped.done, stopped.cause.kind()), (1, ErrorKind::InUse));
    let state = |page: u64| bench.machine.with(|world| (world.entry(page).assigned, world.entry(page).valid));
    assert_eq!([0x30, 0x31, 0x32].map(state), [(false, false), (true, true), (true, true)]);
}

#[test]
fn rescinding_a_page_that_is_not_valid_is_refused() {
    let bench = Bench::new();
    let mut l1 = bench.start(0);
    l1.rescind(range(0x3_2000, 1), After::Unassigned).unwrap();
    let stopped = l1.rescind(range(0x3_0000, 4), After::Shared).unwrap_err();
    assert_eq!(stopped, Stopped { done: 2, cause: SnpError::NoChange });
    let shared = |page: u64| bench.machine.with(|world| !world.entry(page).assigned);
    assert!(shared(0x30) && shared(0x31) && !shared(0x32));
    assert!(bench.machine.with(|world| world.entry(0x33).valid));
}

#[test]
fn pages_that_the_host_does_not_take_are_not_done() {
    let bench = Bench::new();
    let mut l1 = bench.start(0);
    bench.machine.with(|world| world.host_keeps.insert(0x31));
    let stopped = l1.rescind(range(0x3_0000, 3), After::Shared).unwrap_err();
    assert_eq!((stopped.done, stopped.cause.kind()), (1, ErrorKind::HostRefused));
    let entry = bench.machine.with(|world| world.entry(0x31));
    assert_eq!(entry, Entry { assigned: true, ..Entry::default() }, "within nobody's reach");
}
