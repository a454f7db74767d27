//! Two vCPUs of a guest at once, on the pages that L1 looks at.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use coco_part_api::svsm::CallResult;
use coco_part_api::{CallRegs, GuestLevel};

use super::vcpus::{
    Plan, bring_up, call_patiently, call_while, fill, fill_for, has_marker, meet, one_entry, query, query_answer,
    read_page, start, wait_for, with_seeds,
};
use super::{BAD_ADDRESS, BAD_PARAMETER, LIST, case, with_vcpus};
use crate::platform::Platform;
use crate::suite::probe::{call, put, rescind, validate};
use crate::suite::{Bench, Case, Check, ensure, same};
use crate::world::layout::PAGE;
use crate::world::{Gate, World};

/// Short for it.
pub(super) const SUCCESS: CallResult = CallResult::SUCCESS;
/// Turns in which whoever was told to stop has stopped.
const A_LITTLE: u64 = 1_200;
/// Seeds per case.
pub(super) const SEEDS: u64 = 8;
/// Where the second vCPU puts lists of its own.
pub(super) const OTHER_LIST: u64 = LIST + PAGE;

/// The cases of this file.
pub(super) fn cases<P: Platform>() -> Vec<Case<P>> {
    vec![
        case!(
            "V1-one-frame-two-vcpus",
            "V1",
            ["VC-09"],
            Concurrency,
            "of two vCPUs that create with one frame at once one succeeds, and the other is told a bad address",
            one_frame_two_vcpus
        ),
        case!(
            "V2-changed-after-check",
            "V2",
            ["VC-02", "VC-03", "PG-20"],
            Concurrency,
            "another vCPU that keeps changing the level in a frame while it is created changes nothing that counts",
            changed_after_check
        ),
        case!(
            "V4-delete-against-calls",
            "V4",
            ["VC-14", "VC-15"],
            Concurrency,
            "a vCPU that calls all the time is deleted between two calls or stays; its answers are right to the last",
            delete_against_calls
        ),
        case!(
            "V1-failed-create-against-rescind",
            "V1",
            ["VC-10"],
            Concurrency,
            "a refused frame that another vCPU gives up at the same time is either its plain page or gone, not both",
            failed_create_against_rescind
        ),
    ]
}

/// Runs a world to a gate and a little beyond, and demands that nobody complained.
fn run_out<P: Platform>(world: &mut World<P>, gate: &Gate) -> Check {
    let end = world.run_to(gate);
    world.expect(end)?;
    world.run_for(A_LITTLE, |_| false);
    world.complaints().into_iter().next().map_or(Ok(()), |complaint| Err(complaint.into()))
}

fn one_frame_two_vcpus<P: Platform>(bench: &mut Bench<P>) -> Check {
    let helper = Plan::of(1);
    // One frame, each its own area and target.
    let plans = [Plan { id: 2, ..Plan::of(2) }, Plan { id: 3, state: Plan::of(2).state, ..Plan::of(3) }];
    for options in with_seeds(&with_vcpus(bench, 4), SEEDS) {
        let mut world = bench.world(options);
        let (gates, up) = ([Gate::new(), Gate::new()], Gate::new());
        let answers = Rc::new(RefCell::new(Vec::new()));
        let (mine, other, log, arrived) = (gates[0].clone(), gates[1].clone(), Rc::clone(&answers), up.clone());
        let both = Rc::clone(&answers);
        world.on_guest(0, move |mut l2| {
            fill(&mut l2, plans[0])?;
            put(&l2, &[(plans[1].area, 0)])?;
            bring_up(&mut l2, helper)?;
            meet(&l2, &mine, &other);
            let result = call_patiently(&mut l2, plans[0].create())?;
            log.borrow_mut().push((0, result));
            while log.borrow().len() < 2 {
                P::pause(l2.cpu);
            }
            let winner = both.borrow().iter().find(|(_, result)| *result == SUCCESS).map(|(who, _)| *who);
            let Some(winner) = winner else { return Err("nobody created the vCPU".into()) };
            // The loser's area is a plain page still, the winner's is one no more.
            let plain = one_entry(&mut l2, LIST, validate(plans[1 - winner].area))?;
            same("area of the loser", plain, CallResult::NO_CHANGE)?;
            same("area of the winner", one_entry(&mut l2, LIST, validate(plans[winner].area))?, BAD_ADDRESS)?;
            start(&mut l2, plans[winner])?;
            wait_for(&l2, &arrived);
            Ok(())
        });
        let (mine, other, log) = (gates[1].clone(), gates[0].clone(), Rc::clone(&answers));
        world.on_guest(1, move |mut l2| {
            meet(&l2, &mine, &other);
            let result = call_patiently(&mut l2, plans[1].create())?;
            log.borrow_mut().push((1, result));
            Ok(())
        });
        for vcpu in [2, 3] {
            let gate = up.clone();
            world.on_guest(vcpu, move |mut l2| {
                gate.pass();
                same("a call of the new one", call(&mut l2, query())?, query_answer())
            });
        }
        run_out(&mut world, &up)?;
        let mut results: Vec<CallResult> = answers.borrow().iter().map(|(_, result)| *result).collect();
        results.sort_by_key(|result| result.0);
        same("answers", results, vec![SUCCESS, BAD_ADDRESS])?;
        for level in 1..=3 {
            ensure(world.peek(plans[0].state, 8, Some(level)).is_none(), || format!("level {level} reads the frame"))?;
        }
    }
    Ok(())
}

fn changed_after_check<P: Platform>(bench: &mut Bench<P>) -> Check {
    let (writer, plan) = (Plan::of(1), Plan::of(2));
    for options in with_seeds(&with_vcpus(bench, 3), SEEDS) {
        let mut world = bench.world(options);
        let (gates, done) = ([Gate::new(), Gate::new()], Gate::new());
        let result = Rc::new(Cell::new(None));
        let writes_after = Rc::new(Cell::new(0_u32));
        let own = world.guest_level();
        let other_level = if own == GuestLevel::ONE { GuestLevel::TWO } else { GuestLevel::ONE };

        let (mine, other, over, seen) = (gates[0].clone(), gates[1].clone(), done.clone(), Rc::clone(&result));
        world.on_guest(0, move |mut l2| {
            put(&l2, &[(plan.area, 0)])?;
            // Translations of the frame are cached here, too.
            fill(&mut l2, plan)?;
            bring_up(&mut l2, writer)?;
            meet(&l2, &mine, &other);
            seen.set(Some(call_patiently(&mut l2, plan.create())?));
            over.pass();
            Ok(())
        });
        let (mine, answered, count) = (gates[1].clone(), Rc::clone(&result), Rc::clone(&writes_after));
        world.on_guest(1, move |mut l2| {
            fill_for(&mut l2, plan, own)?;
            mine.pass();
            loop {
                for level in [other_level, own] {
                    let at_start = answered.get();
                    if fill_for(&mut l2, plan, level).is_ok() && at_start == Some(SUCCESS) {
                        count.set(count.get() + 1);
                    }
                }
            }
        });
        run_out(&mut world, &done)?;
        let result = result.get().unwrap_or(CallResult::INVALID_REQUEST);
        ensure([SUCCESS, BAD_PARAMETER].contains(&result), || format!("create answered {result}"))?;
        same("stores into the frame of a created vCPU", writes_after.get(), 0)?;
        for level in 1..=3 {
            let reads = world.peek(plan.state, 8, Some(level)).is_some();
            let may = result != SUCCESS && level == own.number();
            same(&format!("level {level} reads the frame"), reads, may)?;
        }
    }
    Ok(())
}

fn delete_against_calls<P: Platform>(bench: &mut Bench<P>) -> Check {
    let plan = Plan::of(1);
    for options in with_seeds(&with_vcpus(bench, 2), SEEDS) {
        let mut world = bench.world(options);
        let (begun, done, halts) = (Gate::new(), Gate::new(), Gate::new());
        let answers = Rc::new(Cell::new(0_u64));
        let (busy, over, tired, log) = (begun.clone(), done.clone(), halts.clone(), Rc::clone(&answers));
        let at_end = Rc::new(Cell::new(0));
        let end = Rc::clone(&at_end);
        world.on_guest(0, move |mut l2| {
            bring_up(&mut l2, plan)?;
            wait_for(&l2, &busy);
            let in_use = [CallResult::FAIL_INUSE, CallResult::BUSY];
            let early = call_while(&mut l2, plan.delete(), &in_use);
            // Where nobody can stop it from outside it may stay as long as it calls.
            tired.pass();
            let result = early.or_else(|_| call_while(&mut l2, plan.delete(), &in_use))?;
            same("delete", result, SUCCESS)?;
            end.set(log.get());
            ensure(has_marker(&read_page(&l2, plan.state)?), || "the frame lost its registers".into())?;
            put(&l2, &[(plan.state, 1), (plan.area, 0)])?;
            over.pass();
            Ok(())
        });
        let log = Rc::clone(&answers);
        world.on_guest(1, move |mut l2| {
            loop {
                let regs = CallRegs { r8: log.get(), ..query() };
                same("an answer", call(&mut l2, regs)?, CallRegs { r8: log.get(), ..query_answer() })?;
                log.set(log.get() + 1);
                if log.get() == 2 {
                    begun.pass();
                }
                while halts.is_reached() {
                    P::idle(l2.cpu);
                }
            }
        });
        run_out(&mut world, &done)?;
        same("answers after it was deleted", answers.get(), at_end.get())?;
    }
    Ok(())
}

fn failed_create_against_rescind<P: Platform>(bench: &mut Bench<P>) -> Check {
    let (helper, plan) = (Plan::of(1), Plan::of(2));
    for options in with_seeds(&with_vcpus(bench, 3), SEEDS) {
        let mut world = bench.world(options);
        let gates = [Gate::new(), Gate::new()];
        let own = world.guest_level();
        let wrong = if own == GuestLevel::ONE { GuestLevel::TWO } else { GuestLevel::ONE };
        let (mine, other) = (gates[0].clone(), gates[1].clone());
        world.on_guest(0, move |mut l2| {
            put(&l2, &[(plan.area, 0)])?;
            fill_for(&mut l2, plan, wrong)?;
            bring_up(&mut l2, helper)?;
            meet(&l2, &mine, &other);
            let result = call_patiently(&mut l2, plan.create())?;
            ensure([BAD_PARAMETER, BAD_ADDRESS].contains(&result), || format!("create answered {result}"))
        });
        let (mine, other) = (gates[1].clone(), gates[0].clone());
        world.on_guest(1, move |mut l2| {
            meet(&l2, &mine, &other);
            same("rescind", one_entry(&mut l2, OTHER_LIST, rescind(plan.state))?, SUCCESS)?;
            same("again", one_entry(&mut l2, OTHER_LIST, rescind(plan.state))?, CallResult::NO_CHANGE)
        });
        world.finish()?;
        for level in 1..=3 {
            let seen = world.peek(plan.state, 8, Some(level));
            ensure(seen.is_none(), || format!("level {level} reads a page that was given up"))?;
        }
        // It may be the host's now, with nothing of what it held.
        let shown = world.peek(plan.state, PAGE as usize, None);
        ensure(!shown.is_some_and(|bytes| has_marker(&bytes)), || "the host reads what the page held".into())?;
    }
    Ok(())
}
