//! Pages that leave: given up, shared, or taken by the host.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use coco_part_api::{After, ErrorKind, Grant, GuestMemory, HasMemory, Identify, Origin, Support, Validate};
use x86_64::PhysAddr;

use crate::suite::bench::{ensure, same};
use crate::suite::{Bench, Check, Stop};

use super::{as_l1, ram, stop};
use crate::platform::{Liar, Platform, Property};
use crate::world::Gate;
use crate::world::layout::{FREE, LARGE, MONITOR, MONITOR_DATA, PAGE, range};

pub(super) fn moved_secret<P: Platform>(bench: &mut Bench<P>) -> Check {
    let options = bench.under(Liar::MovesPage { from: MONITOR_DATA, to: FREE })?;
    let mut world = bench.world(options);
    world.on_l1(|mut l1| {
        let memory = l1.backend.memory();
        memory.write(PhysAddr::new(MONITOR_DATA), b"L1's secret").map_err(|error| error.to_string())?;
        // Time for the host to move it; then the request for the page it shows up at.
        for _ in 0..400 {
            P::pause(l1.cpu);
        }
        let _ = l1.backend.validate_for(range(FREE, PAGE), &ram(), Origin::Request);
        Ok(())
    });
    world.run();
    for level in [None, Some(1), Some(2), Some(3)] {
        let seen = world.peek(FREE, 11, level);
        ensure(seen.as_deref() != Some(b"L1's secret"), || format!("level {level:?} reads L1's secret"))?;
    }
    world.complaints().into_iter().next().map_or(Ok(()), |complaint| Err(complaint.into()))
}

pub(super) fn rescind_in_order<P: Platform>(bench: &mut Bench<P>) -> Check {
    let world = as_l1(bench, |mut l1| {
        let pages = range(FREE, LARGE);
        same("validate_for", stop(l1.backend.validate_for(pages, &ram(), Origin::Monitor)), Ok(()))?;
        let mut cut = Default::default();
        same("withdraw", stop(l1.backend.withdraw(pages, Origin::Monitor, &mut cut)), Ok(()))?;
        let proof = l1.backend.redeem(cut).map_err(|_| "the cut is not redeemed on one vCPU")?;
        let then = match l1.backend.capabilities().rescind_unassigned {
            Support::Yes => After::Unassigned,
            Support::No => After::Shared,
        };
        same("rescind_from", stop(l1.backend.rescind_from(pages, then, Origin::Monitor, &proof)), Ok(()))
    })?;
    for level in [None, Some(0), Some(1), Some(2), Some(3)] {
        let seen = world.peek(FREE, 8, level);
        ensure(seen.is_none_or(|seen| seen != [0; 8]), || format!("level {level:?} still reads the page"))?;
    }
    Ok(())
}

pub(super) fn rescind_twice<P: Platform>(bench: &mut Bench<P>) -> Check {
    if !P::PROPERTIES.contains(&Property::MissingIsTold) {
        return Err(Stop::NotApplicable);
    }
    as_l1(bench, |mut l1| {
        let pages = range(FREE, LARGE);
        same("validate", stop(l1.backend.validate(pages)), Ok(()))?;
        same("once", stop(l1.backend.rescind(pages, After::Unassigned)), Ok(()))?;
        same("twice", stop(l1.backend.rescind(pages, After::Unassigned)), Err((0, ErrorKind::AlreadyInState)))
    })
    .map(|_| ())
}

pub(super) fn rescind_unassigned<P: Platform>(bench: &mut Bench<P>) -> Check {
    let refused = Rc::new(RefCell::new(None));
    let log = Rc::clone(&refused);
    let world = as_l1(bench, move |mut l1| {
        let page = range(FREE, PAGE);
        same("validate", stop(l1.backend.validate(page)), Ok(()))?;
        l1.backend.memory().write(page.start(), b"L1's secret").map_err(|error| error.to_string())?;
        let result = l1.backend.rescind(page, After::Unassigned);
        if l1.backend.capabilities().rescind_unassigned == Support::Yes {
            return same("rescind", stop(result), Ok(()));
        }
        // What is not supported is refused as that, and changes nothing.
        *log.borrow_mut() = result.as_ref().err().map(|stopped| stopped.cause.to_string());
        same("rescind", stop(result), Err((0, ErrorKind::Unsupported)))?;
        let mut kept = [0; 11];
        l1.backend.memory().read(page.start(), &mut kept).map_err(|error| error.to_string())?;
        same("contents", &kept, b"L1's secret")
    })?;
    for level in [None, Some(1), Some(2), Some(3)] {
        same(&format!("level {level:?} reads it"), world.peek(FREE, 11, level), None)?;
    }
    let refused = refused.borrow().clone();
    refused.map_or(Ok(()), |text| Err(Stop::Unsupported(text)))
}

pub(super) fn share_and_unshare<P: Platform>(bench: &mut Bench<P>) -> Check {
    let options = bench.options();
    let mut world = bench.world(options);
    let shared = Gate::new();
    let gate = shared.clone();
    world.on_l1(move |mut l1| {
        let (page, cpu) = (range(FREE, PAGE), l1.cpu);
        same("validate", stop(l1.backend.validate(page)), Ok(()))?;
        l1.backend.memory().write(page.start(), b"L1's secret").map_err(|error| error.to_string())?;
        same("share", stop(l1.backend.share(page)), Ok(()))?;
        gate.wait(|| P::pause(cpu));
        same("unshare", stop(l1.backend.unshare(page)), Ok(()))?;
        let mut bytes = [1; 11];
        l1.backend.memory().read(page.start(), &mut bytes).map_err(|error| error.to_string())?;
        same("contents", bytes, [0; 11])
    });
    let reached = world.run_to(&shared);
    world.expect(reached)?;
    let seen = world.peek(FREE, 11, None);
    ensure(seen.is_some(), || "the host cannot read the shared page".into())?;
    ensure(seen.as_deref() != Some(b"L1's secret"), || "the host reads what L1 wrote before sharing".into())?;
    shared.open();
    world.finish()
}

pub(super) fn swapped_page<P: Platform>(bench: &mut Bench<P>) -> Check {
    let options = bench.under(Liar::SwapsPage { at: MONITOR_DATA })?;
    let mut world = bench.world(options);
    let wrong = Rc::new(Cell::new(false));
    let flag = Rc::clone(&wrong);
    world.on_l1(move |l1| {
        let (memory, at) = (l1.backend.memory(), PhysAddr::new(MONITOR_DATA));
        memory.write(at, b"mine").map_err(|error| error.to_string())?;
        for _ in 0..400 {
            let mut bytes = [0; 4];
            match memory.read(at, &mut bytes) {
                Ok(()) => flag.set(flag.get() || bytes != *b"mine"),
                Err(_) => return Ok(()),
            }
            P::pause(l1.cpu);
        }
        Err("the host never swapped the page".into())
    });
    world.run();
    ensure(!wrong.get(), || "L1 read bytes it never wrote".into())?;
    world.complaints().into_iter().next().map_or(Ok(()), |complaint| Err(complaint.into()))
}

pub(super) fn page_state_lie<P: Platform>(bench: &mut Bench<P>) -> Check {
    let options = bench.under(Liar::PageStateNothing)?;
    let mut world = bench.world(options);
    world.on_l1(|mut l1| {
        let result = stop(l1.backend.validate(range(FREE, 4 * PAGE)));
        ensure(result.is_err(), || "pages that the host never gave were validated".into())
    });
    // Whether L1 gets an error or never runs again is the host's choice.
    world.run();
    for at in [FREE, MONITOR + PAGE] {
        same("level 2 reaches it", world.peek(at, 8, Some(2)), None)?;
    }
    world.complaints().into_iter().find(|text| !text.contains("does not start")).map_or(Ok(()), |text| Err(text.into()))
}
