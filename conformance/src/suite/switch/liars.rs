//! Calls under hosts that lie about the switch: each is served exactly once, or its caller is told that it was not.

use std::cell::Cell;
use std::rc::Rc;

use coco_part_api::svsm::{CORE, CallId, CallResult, PVALIDATE};
use coco_part_api::{CallMonitor, CallRegs, Error, ErrorKind};

use super::{A_WHILE, LIST, own_answers};
use crate::platform::{Liar, Platform};
use crate::suite::create::case;
use crate::suite::create::vcpus::{
    Plan, agree_private, bring_up, meet, out_of_reach, peek_word, query, query_answer, with_seeds,
};
use crate::suite::probe::{as_guest, call, cursor, list_words, put, rescind, validate};
use crate::suite::{Bench, Case, Check, Stop, ensure, same};
use crate::world::layout::{CALL_AREA, FREE, page};
use crate::world::{Gate, L2, Options};

/// A word that stands in a page which must not be zeroed again.
const PRECIOUS: u64 = 0x7072_6563_696f_7573;

/// The cases of this file.
pub(super) fn cases<P: Platform>() -> Vec<Case<P>> {
    vec![
        case!(
            "S1-served-once",
            "S1",
            ["SW-03"],
            HostileHost,
            "a host that comes back again and again for one call has it served once",
            served_once
        ),
        case!(
            "S1-returns-without-call",
            "S1",
            ["SW-02"],
            HostileHost,
            "a host that comes back without a call has nothing served, and the caller's registers stay as they are",
            returns_without_call
        ),
        case!(
            "S1-liars-on-two-vcpus",
            "S1",
            ["SW-02", "SW-03", "RQ-25"],
            Concurrency,
            "under such hosts two vCPUs that call at once each get their own answers",
            liars_on_two_vcpus
        ),
        case!(
            "S1-never-switched",
            "S1",
            ["SW-01"],
            HostileHost,
            "a host that never runs the guest gets no call served and nothing changed",
            never_switched
        ),
        case!(
            "S1-faked-completion",
            "S1",
            ["SW-07"],
            HostileHost,
            "a host that answers in L1's place is found out: the caller learns that its call was not served",
            faked_completion
        ),
    ]
}

/// One list call with one entry, made once.
fn one_call<P: Platform>(l2: &mut L2<'_, P>, word: u64) -> Result<CallResult, Stop> {
    put(l2, &list_words(LIST, &[word]))?;
    let regs = CallRegs { r9: 0x99, ..CallRegs::call(CallId::new(CORE, PVALIDATE), LIST, 0x77, 0x88) };
    let answer = call(l2, regs)?;
    same("registers", answer, regs.with_result(answer.result()))?;
    Ok(answer.result())
}

/// Calls whose second execution would show: it would be refused, or would zero the page.
fn calls_that_count<P: Platform>(l2: &mut L2<'_, P>) -> Check {
    for index in 0..3 {
        let at = page(FREE, index);
        agree_private(l2, at, 1)?;
        same("validate", one_call(l2, validate(at))?, CallResult::SUCCESS)?;
        same("cursor", cursor(l2, LIST)?, 1)?;
        put(l2, &[(at, PRECIOUS)])?;
        same("a query", call(l2, query())?, query_answer())?;
        same("contents", peek_word(l2, at)?, PRECIOUS)?;
        same("validate again", one_call(l2, validate(at))?, CallResult::NO_CHANGE)?;
        same("cursor", cursor(l2, LIST)?, 0)?;
        same("contents", peek_word(l2, at)?, PRECIOUS)?;
        same("rescind", one_call(l2, rescind(at))?, CallResult::SUCCESS)?;
        same("rescind again", one_call(l2, rescind(at))?, CallResult::NO_CHANGE)?;
        same("validate once more", one_call(l2, validate(at))?, CallResult::SUCCESS)?;
        same("contents", peek_word(l2, at)?, 0)?;
    }
    Ok(())
}

fn served_once<P: Platform>(bench: &mut Bench<P>) -> Check {
    for options in with_seeds(&bench.under(Liar::SwitchesAgain)?, 2) {
        as_guest(bench, options, |mut l2| calls_that_count(&mut l2))?;
    }
    Ok(())
}

fn returns_without_call<P: Platform>(bench: &mut Bench<P>) -> Check {
    for options in with_seeds(&bench.under(Liar::ReturnsForNothing)?, 2) {
        as_guest(bench, options, |mut l2| {
            (0..6).try_for_each(|round| own_answers(&mut l2, round))?;
            calls_that_count(&mut l2)
        })?;
    }
    Ok(())
}

fn liars_on_two_vcpus<P: Platform>(bench: &mut Bench<P>) -> Check {
    let liars = [Liar::SwitchesAgain, Liar::ReturnsForNothing].map(|liar| bench.under(liar).ok());
    if liars.iter().all(Option::is_none) {
        return Err(Stop::NotApplicable);
    }
    for options in liars.into_iter().flatten() {
        let options = Options { vcpus: 2, ..options };
        for options in with_seeds(&options, 3) {
            let mut world = bench.world(options);
            let gates = [Gate::new(), Gate::new()];
            for vcpu in [0_u8, 1] {
                let (mine, other) = (gates[usize::from(vcpu)].clone(), gates[usize::from(1 - vcpu)].clone());
                world.on_guest(vcpu, move |mut l2| {
                    if vcpu == 0 {
                        bring_up(&mut l2, Plan::of(1))?;
                    }
                    meet(&l2, &mine, &other);
                    (0..9).try_for_each(|round| own_answers(&mut l2, round))
                });
            }
            world.finish()?;
        }
    }
    Ok(())
}

fn never_switched<P: Platform>(bench: &mut Bench<P>) -> Check {
    let options = bench.under(Liar::NeverSwitches)?;
    let mut world = bench.world(options);
    let ran = Gate::new();
    let flag = ran.clone();
    world.on_guest(0, move |_| {
        flag.pass();
        Ok(())
    });
    // L1 hands memory over first; then it asks for the guest, again and again.
    world.run_for(3 * A_WHILE, |_| false);
    let picture = world.snapshot();
    world.run_for(A_WHILE, |_| false);
    same("state", picture.diff_beside_running(&world.snapshot()), Vec::new())?;
    ensure(!ran.is_reached(), || "the guest ran all the same".into())?;
    world.complaints().into_iter().next().map_or(Ok(()), |complaint| Err(complaint.into()))
}

fn faked_completion<P: Platform>(bench: &mut Bench<P>) -> Check {
    let options = bench.under(Liar::FakesCompletion)?;
    let faked = Rc::new(Cell::new(0_u32));
    let count = Rc::clone(&faked);
    let world = as_guest(bench, options, move |mut l2| {
        let mut tries = 0;
        while count.get() == 0 && tries < 100 {
            told_the_truth(&mut l2, query(), query_answer(), &count)?;
            tries += 1;
        }
        // From the first lie on the host does nothing else.
        agree_private(&mut l2, FREE, 1)?;
        put(&l2, &list_words(LIST, &[validate(FREE)]))?;
        let regs = CallRegs::call(CallId::new(CORE, PVALIDATE), LIST, 0, 0);
        let before = count.get();
        told_the_truth(&mut l2, regs, regs.with_result(CallResult::SUCCESS), &count)?;
        same("lies found out", count.get(), before + 1)?;
        same("mark of the call", peek_word(&l2, CALL_AREA)? & 0xff, 0)?;
        same("cursor", cursor(&l2, LIST)?, 0)
    })?;
    ensure(faked.get() >= 2, || "the host never lied".into())?;
    out_of_reach(world.peek(FREE, 8, Some(world.guest_level().number())), "the guest", FREE)?;
    Ok(())
}

/// A call that is answered right, or reported as not served.
fn told_the_truth<P: Platform>(l2: &mut L2<'_, P>, regs: CallRegs, want: CallRegs, faked: &Cell<u32>) -> Check {
    match l2.port.call(regs) {
        Ok(answer) => same("an answer of L1", answer, want),
        Err(error) => {
            faked.set(faked.get() + 1);
            same("what the caller is told", error.kind(), ErrorKind::HostMisbehaved)
        }
    }
}
