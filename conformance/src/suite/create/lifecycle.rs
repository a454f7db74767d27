//! What becomes of a vCPU that runs, is deleted, or is replaced.

use std::cell::Cell;
use std::rc::Rc;

use coco_part_api::CallRegs;
use coco_part_api::svsm::CallResult;

use super::vcpus::{
    Plan, bring_up, call_while, create, delete, fill, fill_for, has_marker, one_entry, own_level, query, query_answer,
    read_page, start, stop, wait_for, with_seeds,
};
use super::{A_WHILE, BAD_ADDRESS, BAD_PARAMETER, LIST, case, with_vcpus};
use crate::platform::{Platform, Property};
use crate::suite::probe::{Probe, call, put, refused_beside, refused_in, rescind, validate};
use crate::suite::{Bench, Case, Check, ensure, same};
use crate::world::layout::{BOOT_STATE, DATA, FREE, HOLE, MONITOR_DATA, MONITOR_STATE, STATE, page};
use crate::world::{Gate, L2};

const IN_USE: CallResult = CallResult::FAIL_INUSE;

/// The cases of this file.
pub(super) fn cases<P: Platform>() -> Vec<Case<P>> {
    vec![
        case!(
            "V4-running-vcpu-stays",
            "V4",
            ["VC-14"],
            HostileGuest,
            "deleting a vCPU that runs is refused as in use and changes nothing; it runs on",
            running_vcpu_stays
        ),
        case!(
            "V4-deleted-vcpu-never-runs",
            "V4",
            ["VC-14", "VC-13"],
            Contract,
            "a vCPU that stands still is deleted, and whatever the guest tells the host it never runs again",
            deleted_vcpu_never_runs
        ),
        case!(
            "V4-delete-unknown",
            "V4",
            ["VC-13"],
            HostileGuest,
            "deleting what is no vCPU of the caller, the first vCPU, one of L1, or oneself is refused and changes nothing",
            delete_unknown
        ),
        case!(
            "V1-created-again",
            "V1",
            ["VC-11", "VC-12", "VC-16"],
            Contract,
            "a vCPU is replaced as a kernel does it: the new one is created, with the same call area, before the old one goes",
            created_again
        ),
        case!(
            "V1-replaced-while-calling",
            "V1",
            ["VC-11", "VC-12"],
            Concurrency,
            "a vCPU that calls all the time is stopped and replaced: every answer it saw was right, and it never runs again",
            replaced_while_calling
        ),
        case!(
            "V4-stopped-and-kept",
            "V4",
            ["VC-13", "SW-01"],
            HostileGuest,
            "a guest that never starts a vCPU, or has the host stop one and keeps it, does not end L1 there",
            stopped_and_kept
        ),
    ]
}

fn running_vcpu_stays<P: Platform>(bench: &mut Bench<P>) -> Check {
    let plan = Plan::of(1);
    let mut world = bench.world(with_vcpus(bench, 2));
    let (up, done) = (Gate::new(), Gate::new());
    let (arrived, over) = (up.clone(), done.clone());
    world.on_guest(1, move |mut l2| {
        arrived.pass();
        l2.wait(&over);
        same("a call afterwards", call(&mut l2, query())?, query_answer())
    });
    let probe = |what: &str| Probe { what: what.to_owned(), words: Vec::new(), regs: plan.delete(), want: IN_USE };
    let prepare = move |l2: &mut L2<'_, P>| {
        bring_up(l2, plan)?;
        wait_for(l2, &up);
        Ok(())
    };
    refused_beside(&mut world, vec![probe("delete"), probe("delete again")], prepare, &done)
}

fn deleted_vcpu_never_runs<P: Platform>(bench: &mut Bench<P>) -> Check {
    let plan = Plan::of(1);
    for has_run in [false, true] {
        let mut world = bench.world(with_vcpus(bench, 2));
        let (first, gone, again) = (Gate::new(), Gate::new(), Rc::new(Cell::new(0_u32)));
        let (runs, deleted, runs_of_it) = (first.clone(), gone.clone(), Rc::clone(&again));
        world.on_guest(0, move |mut l2| {
            fill(&mut l2, plan)?;
            same("create", create(&mut l2, plan)?, CallResult::SUCCESS)?;
            if has_run {
                start(&mut l2, plan)?;
                wait_for(&l2, &runs);
                stop(&mut l2, plan)?;
            }
            delete_stopped(&mut l2, plan)?;
            put(&l2, &[(plan.state + 0x10, 0x6d69_6e65)])?;
            // The host refuses, or cannot do it.
            let _ = start(&mut l2, plan);
            l2.wait(&deleted);
            Ok(())
        });
        world.on_guest(1, move |l2| {
            first.pass();
            loop {
                runs_of_it.set(runs_of_it.get() + 1);
                P::idle(l2.cpu);
            }
        });
        let end = world.run_to(&gone);
        world.expect(end)?;
        let steps = again.get();
        let may_run = has_run || !P::PROPERTIES.contains(&Property::GuestStartsVcpus);
        ensure(if has_run { steps > 0 } else { steps == 0 || may_run }, || format!("it made {steps} steps"))?;
        world.run_for(A_WHILE, |_| false);
        same("steps of a deleted vCPU", again.get(), steps)?;
        ensure(world.complaints().is_empty(), || world.complaints().join("; "))?;
    }
    Ok(())
}

fn delete_unknown<P: Platform>(bench: &mut Bench<P>) -> Check {
    let plan = Plan::of(1);
    let mut world = bench.world(with_vcpus(bench, 2));
    let delete_at = |(what, state): (&str, u64), want| Probe {
        what: what.to_owned(),
        words: Vec::new(),
        regs: Plan { state, ..plan }.delete(),
        want,
    };
    let places = [
        ("a plain page", DATA),
        ("a page with an image that was never created", page(STATE, 2)),
        ("a call area", plan.area),
        ("the first vCPU", BOOT_STATE),
        ("the middle of a live frame", plan.state + 8),
        ("a page of L1", MONITOR_DATA),
        ("the first vCPU of L1", MONITOR_STATE),
        ("another vCPU of L1", page(MONITOR_STATE, 1)),
        ("a page that is not validated", FREE),
        ("a hole", HOLE),
        ("page 0", 0),
        ("2^52", 1 << 52),
        ("the last address", u64::MAX),
    ];
    let probes = places.into_iter().map(|place| delete_at(place, BAD_PARAMETER)).collect();
    refused_in(&mut world, probes, move |l2| {
        fill(l2, Plan { state: page(STATE, 2), ..plan })?;
        fill(l2, plan)?;
        same("create", create(l2, plan)?, CallResult::SUCCESS)
    })?;

    // Nobody deletes himself, or the first vCPU.
    let mut world = bench.world(with_vcpus(bench, 2));
    let done = Gate::new();
    let over = done.clone();
    world.on_guest(0, move |mut l2| {
        bring_up(&mut l2, plan)?;
        wait_for(&l2, &over);
        Ok(())
    });
    world.on_guest(1, move |mut l2| {
        same("itself", delete(&mut l2, plan)?, IN_USE)?;
        same("the first vCPU", delete(&mut l2, Plan { state: BOOT_STATE, ..plan })?, BAD_PARAMETER)?;
        same("a call afterwards", call(&mut l2, query())?, query_answer())?;
        done.pass();
        Ok(())
    });
    world.finish()
}

fn created_again<P: Platform>(bench: &mut Bench<P>) -> Check {
    const ROUNDS: u64 = 3;
    let mut world = bench.world(with_vcpus(bench, 2));
    let area = Plan::of(1).area;
    // Frames take turns; the call area stays.
    let plan_of = move |round: u64| Plan { id: 1, state: page(STATE, 1 + round % 2), area };
    let gates: Vec<(Gate, Gate)> = (0..ROUNDS).map(|_| (Gate::new(), Gate::new())).collect();
    let over = Gate::new();
    let (list, done) = (gates.clone(), over.clone());
    world.on_guest(0, move |mut l2| {
        put(&l2, &[(area, 0)])?;
        for (round, (ready, up)) in (0..ROUNDS).zip(&list) {
            l2.wait(ready);
            create_beside(&mut l2, plan_of(round))?;
            if round > 0 {
                delete_stopped(&mut l2, plan_of(round - 1))?;
                // The area still is one.
                same("rescind the area", one_entry(&mut l2, LIST, rescind(area))?, BAD_ADDRESS)?;
            }
            wait_for(&l2, up);
        }
        stop(&mut l2, plan_of(ROUNDS - 1))?;
        delete_stopped(&mut l2, plan_of(ROUNDS - 1))?;
        same("the area is plain memory", one_entry(&mut l2, LIST, validate(area))?, CallResult::NO_CHANGE)?;
        done.pass();
        Ok(())
    });
    for (ready, up) in &gates {
        let end = world.run_to(ready);
        world.expect(end)?;
        let arrived = up.clone();
        world.on_guest(1, move |mut l2| {
            for _ in 0..3 {
                same("a call", call(&mut l2, query())?, query_answer())?;
            }
            arrived.pass();
            // So a processor waits that is offline.
            loop {
                P::idle(l2.cpu);
            }
        });
        ready.open();
        let end = world.run_to(up);
        world.expect(end)?;
    }
    let end = world.run_to(&over);
    world.expect(end)
}

/// Makes a vCPU whose call area may be in use by its older one.
fn create_beside<P: Platform>(l2: &mut L2<'_, P>, plan: Plan) -> Check {
    let level = own_level(l2);
    fill_for(l2, plan, level)?;
    same("create", create(l2, plan)?, CallResult::SUCCESS)?;
    start(l2, plan)
}

/// Deletes a vCPU that the host has been told to stop; it may take a moment.
fn delete_stopped<P: Platform>(l2: &mut L2<'_, P>, plan: Plan) -> Check {
    let result = call_while(l2, plan.delete(), &[IN_USE, CallResult::BUSY])?;
    same("delete", result, CallResult::SUCCESS)?;
    ensure(has_marker(&read_page(l2, plan.state)?), || "the frame lost its registers".into())
}

fn replaced_while_calling<P: Platform>(bench: &mut Bench<P>) -> Check {
    for options in with_seeds(&with_vcpus(bench, 2), 6) {
        let mut world = bench.world(options);
        let (old, new) = (Plan::of(1), Plan { state: page(STATE, 2), area: Plan::of(1).area, id: 1 });
        let (busy, ready, up) = (Gate::new(), Gate::new(), Gate::new());
        let answers = Rc::new(Cell::new(0_u64));
        let (begun, waits, arrived) = (busy.clone(), ready.clone(), up.clone());
        world.on_guest(0, move |mut l2| {
            bring_up(&mut l2, old)?;
            wait_for(&l2, &begun);
            l2.wait(&waits);
            // Wherever it is, in a call or between two.
            stop(&mut l2, old)?;
            create_beside(&mut l2, new)?;
            wait_for(&l2, &arrived);
            Ok(())
        });
        let log = Rc::clone(&answers);
        world.on_guest(1, move |mut l2| {
            loop {
                let regs = CallRegs { r8: log.get(), ..query() };
                let want = CallRegs { r8: regs.r8, ..query_answer() };
                same("an answer", call(&mut l2, regs)?, want)?;
                log.set(log.get() + 1);
                if log.get() == 3 {
                    busy.pass();
                }
            }
        });
        let end = world.run_to(&ready);
        world.expect(end)?;
        let after = Rc::clone(&answers);
        let at_takeover = Rc::new(Cell::new(0));
        let seen = Rc::clone(&at_takeover);
        let reached = up.clone();
        world.on_guest(1, move |mut l2| {
            same("a call of the new one", call(&mut l2, query())?, query_answer())?;
            seen.set(after.get());
            reached.pass();
            Ok(())
        });
        ready.open();
        let end = world.run_to(&up);
        world.expect(end)?;
        world.run_for(A_WHILE, |_| false);
        ensure(world.complaints().is_empty(), || world.complaints().join("; "))?;
        same("calls of the old one after the new one's", answers.get(), at_takeover.get())?;
    }
    Ok(())
}

fn stopped_and_kept<P: Platform>(bench: &mut Bench<P>) -> Check {
    let (never, stopped) = (Plan::of(1), Plan::of(2));
    let mut world = bench.world(with_vcpus(bench, 3));
    let (up, kept) = (Gate::new(), Gate::new());
    let (arrived, gate) = (up.clone(), kept.clone());
    world.on_guest(0, move |mut l2| {
        fill(&mut l2, never)?;
        same("create", create(&mut l2, never)?, CallResult::SUCCESS)?;
        bring_up(&mut l2, stopped)?;
        wait_for(&l2, &up);
        stop(&mut l2, stopped)?;
        l2.wait(&gate);
        // Late, but not too late.
        start(&mut l2, never)?;
        same("a call", call(&mut l2, query())?, query_answer())
    });
    world.on_guest(2, move |l2| {
        arrived.pass();
        loop {
            P::pause(l2.cpu);
        }
    });
    let ran = Gate::new();
    let flag = ran.clone();
    world.on_guest(1, move |mut l2| {
        same("its first call", call(&mut l2, query())?, query_answer())?;
        flag.pass();
        Ok(())
    });
    let end = world.run_to(&kept);
    world.expect(end)?;
    world.run_for(4 * A_WHILE, |_| false);
    kept.open();
    let end = world.run_to(&ran);
    world.expect(end)
}
