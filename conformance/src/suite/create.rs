//! Creating and deleting vCPUs: what a guest may ask for, and what L1 makes of it.

mod arguments;
mod lifecycle;
mod pages;
mod races;
pub(crate) mod vcpus;

use std::cell::Cell;
use std::rc::Rc;

use coco_part_api::svsm::{CORE, CallId, CallResult, PVALIDATE, REMAP_CA};
use coco_part_api::{CallRegs, GuestLevel, GuestMemory, GuestPort, HasMemory};
use x86_64::PhysAddr;

use self::vcpus::{
    Plan, bring_up, create, delete, fill, fill_for, has_marker, one_entry, out_of_reach, own_level, read_page, wait_for,
};
use super::bench::{Stop, ensure, same};
use super::probe::{Probe, as_guest, call, list_words, put, refused_in, rescind, validate};
use super::{Bench, Case, Check};
use crate::platform::Platform;
use crate::world::layout::{CALL_AREA, DATA, FREE, PAGE, frame};
use crate::world::{Gate, L2, Options};

/// Where cases put lists of their own.
const LIST: u64 = DATA + 0x1_0000;
/// Turns in which whoever can still do something has done it.
const A_WHILE: u64 = 6_000;

const BAD_ADDRESS: CallResult = CallResult::INVALID_ADDRESS;
const BAD_PARAMETER: CallResult = CallResult::INVALID_PARAMETER;

macro_rules! case {
    ($id:literal, $rule:literal, [$($threat:literal),*], $kind:ident, $text:literal, $run:path) => {
        $crate::suite::Case {
            id: $id,
            rule: $rule,
            threats: &[$($threat),*],
            kind: $crate::suite::Kind::$kind,
            text: $text,
            run: $run,
        }
    };
}
pub(crate) use case;

/// The cases of this file and of those below it.
pub(crate) fn cases<P: Platform>() -> Vec<Case<P>> {
    let mut all = vec![
        case!(
            "V1-frame-out-of-reach",
            "V1",
            ["VC-15", "PG-20"],
            HostileGuest,
            "a state frame is out of every guest level's reach while it serves; whoever tries does not get on",
            frame_out_of_reach
        ),
        case!(
            "V1-frame-comes-back",
            "V1",
            ["VC-16", "VC-20"],
            Contract,
            "a deleted vCPU's frame is its owner's again with its contents, and nobody else's",
            frame_comes_back
        ),
        case!(
            "V2-level-in-image",
            "V2",
            ["VC-01", "VC-03"],
            HostileGuest,
            "an image for another level than the caller's is refused, changes nothing, and a corrected one is accepted",
            level_in_image
        ),
        case!(
            "V3-no-vcpu-at-l1",
            "V3",
            ["VC-01"],
            HostileGuest,
            "an image that names L1's level is refused and changes nothing",
            no_vcpu_at_l1
        ),
        case!(
            "S1-mark-before-first-run",
            "S1",
            ["VC-17"],
            HostileGuest,
            "a mark and registers of a call that a new vCPU never made are not served",
            mark_before_first_run
        ),
    ];
    all.extend(arguments::cases());
    all.extend(lifecycle::cases());
    all.extend(races::cases());
    all.extend(pages::cases());
    all
}

/// Options with so many vCPUs.
fn with_vcpus<P: Platform>(bench: &Bench<P>, vcpus: u8) -> Options<P> {
    Options { vcpus, ..bench.options() }
}

/// A request to create, with its answer.
fn refusal(what: &str, plan: Plan, want: CallResult) -> Probe {
    Probe { what: what.to_owned(), words: Vec::new(), regs: plan.create(), want }
}

fn frame_out_of_reach<P: Platform>(bench: &mut Bench<P>) -> Check {
    let plan = Plan::of(1);
    let mut world = bench.world(with_vcpus(bench, 2));
    let (created, got_on) = (Gate::new(), Rc::new(Cell::new(false)));
    let (gate, flag) = (created.clone(), Rc::clone(&got_on));
    world.on_guest(0, move |mut l2| {
        fill(&mut l2, plan)?;
        same("create", create(&mut l2, plan)?, CallResult::SUCCESS)?;
        l2.wait(&gate);
        // It faults, or this vCPU never comes back: that is the machine's choice.
        let memory = l2.port.memory();
        let stored = memory.write(PhysAddr::new(plan.state), &[0xff; 8]);
        flag.set(stored.is_ok() || memory.read(PhysAddr::new(plan.state), &mut [0; 8]).is_ok());
        Ok(())
    });
    let end = world.run_to(&created);
    world.expect(end)?;
    for level in [None, Some(1), Some(2), Some(3)] {
        out_of_reach(world.peek(plan.state, 8, level), &format!("level {level:?}"), plan.state)?;
    }
    let before = world.peek(plan.state, PAGE as usize, Some(0));
    created.open();
    world.run_for(A_WHILE, |_| false);
    ensure(!got_on.get(), || "the guest reached a live state frame".into())?;
    same("contents of the frame", world.peek(plan.state, PAGE as usize, Some(0)), before)?;
    world.complaints().into_iter().next().map_or(Ok(()), |complaint| Err(complaint.into()))
}

fn frame_comes_back<P: Platform>(bench: &mut Bench<P>) -> Check {
    let plan = Plan::of(1);
    let options = with_vcpus(bench, 2);
    let world = as_guest(bench, options, move |mut l2| {
        fill(&mut l2, plan)?;
        put(&l2, &[(plan.area + 0x100, 0x6b65_7074)])?;
        same("create", create(&mut l2, plan)?, CallResult::SUCCESS)?;
        same("rescind the area of a live vCPU", one_entry(&mut l2, LIST, rescind(plan.area))?, BAD_ADDRESS)?;
        // It may run until it finds that it has nothing to do.
        let deleted = vcpus::call_while(&mut l2, plan.delete(), &[CallResult::FAIL_INUSE, CallResult::BUSY])?;
        same("delete", deleted, CallResult::SUCCESS)?;
        ensure(has_marker(&read_page(&l2, plan.state)?), || "the frame lost its registers".into())?;
        same("area", vcpus::peek_word(&l2, plan.area + 0x100)?, 0x6b65_7074)?;
        for at in [plan.state, plan.area] {
            same("a plain page", one_entry(&mut l2, LIST, validate(at))?, CallResult::NO_CHANGE)?;
            put(&l2, &[(at, 0x6d69_6e65)])?;
        }
        let remap = |at| CallRegs::call(CallId::new(CORE, REMAP_CA), at, 0, 0);
        for at in [plan.area, CALL_AREA] {
            same("an area again", call(&mut l2, remap(at))?.result(), CallResult::SUCCESS)?;
            l2.port.set_call_area(frame(at));
        }
        same("deleted twice", delete(&mut l2, plan)?, BAD_PARAMETER)
    })?;
    let own = world.guest_level().number();
    for level in 1..=3 {
        let reads = world.peek(plan.state, 8, Some(level)).is_some();
        same(&format!("level {level} reads it"), reads, level == own)?;
    }
    out_of_reach(world.peek(plan.state, 8, None), "the host", plan.state)
}

fn level_in_image<P: Platform>(bench: &mut Bench<P>) -> Check {
    let plan = Plan::of(1);
    let own = bench.options().guest_level();
    let others = GuestLevel::ALL.into_iter().filter(move |level| *level != own);
    for level in others.clone() {
        let mut world = bench.world(with_vcpus(bench, 2));
        let probe = refusal(&format!("image for {level:?}"), plan, BAD_PARAMETER);
        refused_in(&mut world, vec![probe], move |l2| {
            put(l2, &[(plan.area, 0)])?;
            fill_for(l2, plan, level)
        })?;
    }
    let mut world = bench.world(with_vcpus(bench, 2));
    let runs = Gate::new();
    let gate = runs.clone();
    world.on_guest(0, move |mut l2| {
        for level in others {
            fill_for(&mut l2, plan, level)?;
            same("create", create(&mut l2, plan)?, BAD_PARAMETER)?;
            ensure(has_marker(&read_page(&l2, plan.state)?), || "the refused image is gone".into())?;
        }
        bring_up(&mut l2, plan)?;
        wait_for(&l2, &gate);
        Ok(())
    });
    world.on_guest(1, move |_| {
        runs.pass();
        Ok(())
    });
    world.finish()
}

/// Makes the image in a frame one for L1's level: the bytes that tell one guest level from another become zero.
fn name_level_zero<P: Platform>(l2: &mut L2<'_, P>, plan: Plan) -> Check {
    fill_for(l2, plan, GuestLevel::ONE)?;
    let one = read_page(l2, plan.state)?;
    fill_for(l2, plan, GuestLevel::TWO)?;
    let mut two = read_page(l2, plan.state)?;
    let differ: Vec<usize> = (0..two.len()).filter(|at| one[*at] != two[*at]).collect();
    ensure(!differ.is_empty(), || "images for two levels are equal".into())?;
    differ.into_iter().for_each(|at| two[at] = 0);
    l2.port.memory().write(PhysAddr::new(plan.state), &two).map_err(|error| Stop::Wrong(error.to_string()))
}

fn no_vcpu_at_l1<P: Platform>(bench: &mut Bench<P>) -> Check {
    let plan = Plan::of(1);
    let mut world = bench.world(with_vcpus(bench, 2));
    refused_in(&mut world, vec![refusal("image for L1", plan, BAD_PARAMETER)], move |l2| name_level_zero(l2, plan))
}

fn mark_before_first_run<P: Platform>(bench: &mut Bench<P>) -> Check {
    let plan = Plan::of(1);
    let mut world = bench.world(with_vcpus(bench, 2));
    let (created, started) = (Gate::new(), Gate::new());
    let (gate, runs) = (created.clone(), started.clone());
    world.on_guest(0, move |mut l2| {
        vcpus::agree_private(&mut l2, FREE, 1)?;
        put(&l2, &list_words(LIST, &[validate(FREE)]))?;
        let mut context = vcpus::context();
        // RAX and RCX of a call, and the mark of one.
        context.gpr[0] = CallId::new(CORE, PVALIDATE).to_rax();
        context.gpr[1] = LIST;
        let level = own_level(&l2);
        vcpus::fill_with(&mut l2, plan, level, &context)?;
        put(&l2, &[(plan.area, 1)])?;
        same("create", create(&mut l2, plan)?, CallResult::SUCCESS)?;
        l2.wait(&gate);
        vcpus::start(&mut l2, plan)?;
        wait_for(&l2, &runs);
        Ok(())
    });
    world.on_guest(1, move |mut l2| {
        same("its first call", call(&mut l2, vcpus::query())?, vcpus::query_answer())?;
        started.pass();
        Ok(())
    });
    let end = world.run_to(&created);
    world.expect(end)?;
    world.run_for(A_WHILE, |_| false);
    out_of_reach(world.peek(FREE, 8, Some(world.guest_level().number())), "the guest", FREE)?;
    created.open();
    world.finish()?;
    out_of_reach(world.peek(FREE, 8, Some(world.guest_level().number())), "the guest", FREE)
}
