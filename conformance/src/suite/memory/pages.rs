//! Validating, granting and stopping, by a program that has L1 to itself.

use std::cell::Cell;
use std::rc::Rc;

use coco_part_api::{
    After, ErrorKind, FrameRange, Grant, Grants, GuestMemory, HasMemory, Origin, RangeError, Rights, Validate,
};
use x86_64::PhysAddr;

use crate::suite::bench::{ensure, same};
use crate::suite::{Bench, Check};

use super::{LEVEL, as_l1, ram, stop};
use crate::platform::Platform;
use crate::world::Gate;
use crate::world::layout::{FREE, HOLE, LARGE, PAGE, range};

pub(super) fn range_outside_map<P: Platform>(bench: &mut Bench<P>) -> Check {
    ensure(matches!(FrameRange::new(PhysAddr::new(FREE), 0), Err(RangeError::Empty { .. })), || "empty range".into())?;
    ensure(matches!(FrameRange::new(PhysAddr::new(FREE + 8), PAGE), Err(RangeError::Unaligned { .. })), || {
        "unaligned range".into()
    })?;
    ensure(matches!(FrameRange::new(PhysAddr::new(FREE), u64::MAX - PAGE + 1), Err(RangeError::Wraps { .. })), || {
        "wrapping range".into()
    })?;
    let options = bench.options();
    let mut world = bench.world(options);
    let (before, after) = (Gate::new(), Gate::new());
    let gates = (before.clone(), after.clone());
    let end = world.guest_ram().start().as_u64() + world.guest_ram().bytes();
    world.on_l1(move |mut l1| {
        let cpu = l1.cpu;
        gates.0.wait(|| P::pause(cpu));
        // A hole, the step from RAM into a hole, and the step out of the last RAM.
        for bad in [range(HOLE, PAGE), range(HOLE - PAGE, 2 * PAGE), range(end - LARGE, 2 * LARGE)] {
            let want = Err((0, ErrorKind::OutOfRange));
            same("validate", stop(l1.backend.validate(bad)), want)?;
            same("rescind", stop(l1.backend.rescind(bad, After::Shared)), want)?;
            same("validate_for", stop(l1.backend.validate_for(bad, &ram(), Origin::Monitor)), want)?;
            same("publish", stop(l1.backend.publish(bad, &ram())), want)?;
            let mut cut = Default::default();
            same("withdraw", stop(l1.backend.withdraw(bad, Origin::Monitor, &mut cut)), want)?;
        }
        gates.1.wait(|| P::pause(cpu));
        Ok(())
    });
    let reached = world.run_to(&before);
    world.expect(reached)?;
    let picture = world.snapshot();
    before.open();
    let reached = world.run_to(&after);
    world.expect(reached)?;
    same("state", picture.diff(&world.snapshot()), Vec::new())?;
    after.open();
    world.finish()
}

pub(super) fn double_validate<P: Platform>(bench: &mut Bench<P>) -> Check {
    as_l1(bench, |mut l1| {
        for (at, bytes) in [(FREE, PAGE), (FREE + LARGE, LARGE)] {
            let pages = range(at, bytes);
            same("first", stop(l1.backend.validate(pages)), Ok(()))?;
            let memory = l1.backend.memory();
            let last = PhysAddr::new(at + bytes - 8);
            memory.write(last, b"precious").map_err(|error| error.to_string())?;
            same("second", stop(l1.backend.validate(pages)), Err((0, ErrorKind::AlreadyInState)))?;
            let again = l1.backend.validate_for(pages, &ram(), Origin::Monitor);
            same("second, for a level", stop(again), Err((0, ErrorKind::AlreadyInState)))?;
            let mut kept = [0; 8];
            memory.read(last, &mut kept).map_err(|error| error.to_string())?;
            same("contents", kept, *b"precious")?;
        }
        Ok(())
    })
    .map(|_| ())
}

pub(super) fn zero_for_lower_level<P: Platform>(bench: &mut Bench<P>) -> Check {
    // A small page, a large one, and a range that begins and ends inside large pages.
    let parts = [(FREE, PAGE), (FREE + LARGE, LARGE), (FREE + 3 * LARGE - 2 * PAGE, LARGE + 4 * PAGE)];
    let world = as_l1(bench, move |mut l1| {
        for (at, bytes) in parts {
            same("validate_for", stop(l1.backend.validate_for(range(at, bytes), &ram(), Origin::Monitor)), Ok(()))?;
        }
        Ok(())
    })?;
    for (at, bytes) in parts {
        for page in (at..at + bytes).step_by(PAGE as usize) {
            let seen = world.peek(page, PAGE as usize, Some(LEVEL.number()));
            ensure(seen.as_ref().is_some_and(|seen| seen.iter().all(|byte| *byte == 0)), || {
                format!("level 2 does not read zeros at {page:#x}")
            })?;
            same("host's view", world.peek(page, 8, None).is_some_and(|seen| seen == [0; 8]), false)?;
        }
    }
    Ok(())
}

pub(super) fn publish_keeps_contents<P: Platform>(bench: &mut Bench<P>) -> Check {
    let world = as_l1(bench, |mut l1| {
        let page = range(FREE, PAGE);
        same("validate", stop(l1.backend.validate(page)), Ok(()))?;
        l1.backend.memory().write(page.start(), b"for the guest").map_err(|error| error.to_string())?;
        same("publish", stop(l1.backend.publish(page, &Grants::one(LEVEL, Rights::READ))), Ok(()))
    })?;
    same("level 2", world.peek(FREE, 13, Some(2)).as_deref(), Some(&b"for the guest"[..]))?;
    for level in [1, 3] {
        same("another level", world.peek(FREE, 13, Some(level)), None)?;
    }
    ensure(world.peek(FREE, 13, None).as_deref() != Some(b"for the guest"), || "the host reads it".into())
}

pub(super) fn stop_is_exact<P: Platform>(bench: &mut Bench<P>) -> Check {
    let options = bench.options();
    let mut world = bench.world(options);
    let (before, after) = (Gate::new(), Gate::new());
    let gates = (before.clone(), after.clone());
    world.on_l1(move |mut l1| {
        let cpu = l1.cpu;
        same("the page in the middle", stop(l1.backend.validate(range(FREE + 3 * PAGE, PAGE))), Ok(()))?;
        gates.0.wait(|| P::pause(cpu));
        let stopped = stop(l1.backend.validate_for(range(FREE, 6 * PAGE), &ram(), Origin::Monitor));
        same("the range", stopped, Err((3, ErrorKind::AlreadyInState)))?;
        gates.1.wait(|| P::pause(cpu));
        Ok(())
    });
    let reached = world.run_to(&before);
    world.expect(reached)?;
    let picture = world.snapshot();
    before.open();
    let reached = world.run_to(&after);
    world.expect(reached)?;
    for index in 0..6 {
        let at = FREE + index * PAGE;
        let changed = picture.diff(&world.snapshot()).iter().any(|line| line.contains(&format!("{at:#x}")));
        ensure(changed == (index < 3), || format!("page {index}: changed is {changed}"))?;
        same("level 2 reaches it", world.peek(at, 8, Some(2)).is_some(), index < 3)?;
    }
    after.open();
    world.finish()
}

pub(super) fn only_what_was_asked<P: Platform>(bench: &mut Bench<P>) -> Check {
    let seen = Rc::new(Cell::new(false));
    let flag = Rc::clone(&seen);
    let world = as_l1(bench, move |mut l1| {
        let page = range(FREE, PAGE);
        let illegal = Grants::one(LEVEL, Rights::WRITE);
        same(
            "illegal",
            stop(l1.backend.validate_for(page, &illegal, Origin::Monitor)),
            Err((0, ErrorKind::InvalidArgument)),
        )?;
        let read_only = Grants::one(LEVEL, Rights::READ);
        same("legal", stop(l1.backend.validate_for(page, &read_only, Origin::Monitor)), Ok(()))?;
        let mut cut = Default::default();
        same("fewer", stop(l1.backend.set_rights(page, &Grants::NONE, &mut cut)), Ok(()))?;
        flag.set(l1.backend.redeem(cut).is_ok());
        same("again", stop(l1.backend.set_rights(page, &read_only, &mut Default::default())), Ok(()))
    })?;
    ensure(seen.get(), || "a cut on one vCPU could not be redeemed".into())?;
    same("level 2 reads", world.peek(FREE, 8, Some(2)), Some(vec![0; 8]))?;
    same("level 1 reads", world.peek(FREE, 8, Some(1)), None)?;
    same("level 3 reads", world.peek(FREE, 8, Some(3)), None)
}
