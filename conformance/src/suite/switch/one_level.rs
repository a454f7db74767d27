//! Running one level by hand: programs that have L1 to themselves, and the monitor of the documentation.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use coco_part_api::svsm::{CORE, CallId, CallResult, PVALIDATE};
use coco_part_api::{
    AdmitVcpu, CallMonitor, CallRegs, Context, Error, ErrorKind, Exit, Grant, GuestLevel, GuestMemory, GuestState,
    HasMemory, Identify, RunLevel, Source, Terms,
};

use super::LIST;
use super::by_hand::{LEVEL, on_early_guest, start_guest};
use crate::platform::Platform;
use crate::suite::create::case;
use crate::suite::create::vcpus::{agree_private, one_entry, out_of_reach, peek_word, query};
use crate::suite::probe::{call, put, rescind, validate};
use crate::suite::{Bench, Case, Check, Stop, ensure, same};
use crate::world::layout::{CALL_AREA, ENTRY_GUEST, FREE, HOLE, MONITOR_DATA, PAGE, frame, page, range};
use crate::world::{Gate, L1};

// The monitor that the interface's documentation shows, as it stands there.
#[path = "../../../../coco-part-api/docs/monitor.rs"]
#[expect(unreachable_pub, reason = "an example for outside use")]
mod small_monitor;

/// The cases of this file.
pub(super) fn cases<P: Platform>() -> Vec<Case<P>> {
    vec![
        case!(
            "S1-unanswered-call",
            "S1",
            ["SW-03"],
            Contract,
            "a level whose call is not answered stays stopped: running it is refused as in use",
            unanswered_call
        ),
        case!(
            "S1-small-monitor",
            "S1",
            [],
            Contract,
            "the forty lines of monitor in the documentation validate a page once, and refuse it twice or outside",
            small_monitor_serves
        ),
        case!(
            "S3-no-vcpu",
            "S3",
            [],
            Contract,
            "a level without a vCPU is not entered: before one is installed, after it is retired, and at other levels",
            no_vcpu
        ),
        case!(
            "S4-state-not-switched",
            "S4",
            ["SW-14"],
            Contract,
            "state that the vendor's switch leaves in the processor is each level's own all the same",
            state_not_switched
        ),
    ]
}

/// The kind of an error, where one is due.
fn kind<T, E: Error>(result: Result<T, E>) -> Result<ErrorKind, Stop> {
    match result {
        Ok(_) => Err("it succeeded".into()),
        Err(error) => Ok(error.kind()),
    }
}

/// Runs the guest until it calls.
fn run_to_call<P: Platform>(l1: &mut L1<'_, P>) -> Result<coco_part_api::PendingCall, Stop> {
    loop {
        match l1.backend.run(LEVEL).map_err(|error| Stop::Wrong(error.to_string()))? {
            Exit::Call(call) => return Ok(call),
            Exit::Spurious => P::pause(l1.cpu),
            other => return Err(Stop::Wrong(format!("exit {other:?}"))),
        }
    }
}

fn unanswered_call<P: Platform>(bench: &mut Bench<P>) -> Check {
    let options = bench.options();
    let mut world = bench.world(options.clone());
    let refused = Gate::new();
    let (gate, came_back) = (refused.clone(), Rc::new(Cell::new(false)));
    world.on_l1(move |mut l1| {
        start_guest(&mut l1)?;
        // The first one is answered, the second one is not.
        let first = run_to_call(&mut l1)?;
        same("registers of the call", first.regs(), query())?;
        let answer = first.regs().with_result(CallResult::SUCCESS);
        l1.backend.answer(first, answer).map_err(|error| error.to_string())?;
        drop(run_to_call(&mut l1)?);
        for _ in 0..8 {
            same("run", kind(l1.backend.run(LEVEL))?, ErrorKind::InUse)?;
            // The host has this vCPU for a moment.
            P::kick(l1.cpu, l1.backend.vcpu());
            P::idle(l1.cpu);
        }
        gate.pass();
        Ok(())
    });
    let flag = Rc::clone(&came_back);
    let log = on_early_guest(&mut world, &options, move |mut l2| {
        same("first answer", call(&mut l2, query())?, query().with_result(CallResult::SUCCESS))?;
        let _ = l2.port.call(query());
        flag.set(true);
        Ok(())
    });
    let end = world.run_to(&refused);
    world.expect(end)?;
    ensure(!came_back.get(), || "a caller went on without an answer".into())?;
    log.check()
}

fn no_vcpu<P: Platform>(bench: &mut Bench<P>) -> Check {
    let options = bench.options();
    let mut world = bench.world(options);
    world.on_l1(|mut l1| {
        let nobody = |l1: &mut L1<'_, P>, when: &str| {
            for level in GuestLevel::ALL {
                same(&format!("run {level:?} {when}"), kind(l1.backend.run(level))?, ErrorKind::NotFound)?;
                same(&format!("state of {level:?}"), kind(l1.backend.context(level))?, ErrorKind::NotFound)?;
                let moved = l1.backend.set_call_area(level, frame(MONITOR_DATA));
                same("call area", kind(moved)?, ErrorKind::NotFound)?;
            }
            Ok::<(), Stop>(())
        };
        nobody(&mut l1, "before anything")?;
        // A page of L1 as state frame.
        let state = frame(page(MONITOR_DATA, 1));
        let terms = Terms { level: LEVEL, target: l1.backend.vcpu(), call_area: frame(MONITOR_DATA) };
        let proof = l1.backend.redeem(Default::default()).map_err(|_| "not redeemed")?;
        for _ in 0..2 {
            let context = Context::long_mode(ENTRY_GUEST, 0x1234, 0);
            let admitted = l1.backend.admit(state, Source::Context(&context), &terms, &proof);
            let seed = admitted.map_err(|error| error.to_string())?;
            nobody(&mut l1, "before it is installed")?;
            l1.backend.install(seed).map_err(|(_, error)| error.to_string())?;
            let there = l1.backend.context(LEVEL).map_err(|error| error.to_string())?;
            same("its registers", (there.rip, there.gpr), (context.rip, context.gpr))?;
            l1.backend.retire(state, &terms).map_err(|error| error.to_string())?;
            nobody(&mut l1, "after it is retired")?;
            let again = l1.backend.retire(state, &terms).map_err(|error| error.kind());
            ensure(matches!(again, Ok(()) | Err(ErrorKind::NotFound)), || format!("retired twice: {again:?}"))?;
            nobody(&mut l1, "after it is retired twice")?;
        }
        l1.backend.memory().write(state.start_address(), &[0; 8]).map_err(|error| error.to_string())?;
        Ok(())
    });
    world.finish()
}

fn state_not_switched<P: Platform>(bench: &mut Bench<P>) -> Check {
    let Some(unswitched) = P::UNSWITCHED else { return Err(Stop::NotApplicable) };
    let options = bench.options();
    let mut world = bench.world(options.clone());
    const OF_GUEST: u64 = 0x4c32_4c32_4c32_4c32;
    let of_l1 = Rc::new(RefCell::new(Vec::new()));
    let own = Rc::clone(&of_l1);
    world.on_l1(move |mut l1| {
        start_guest(&mut l1)?;
        let before = (unswitched.read)(l1.cpu);
        ensure(before.iter().all(|word| *word != 0), || "L1 has nothing that it could lose".into())?;
        own.borrow_mut().clone_from(&before);
        for _ in 0..2 {
            let call = run_to_call(&mut l1)?;
            same("state of L1", (unswitched.read)(l1.cpu), before.clone())?;
            let answer = call.regs().with_result(CallResult::SUCCESS);
            l1.backend.answer(call, answer).map_err(|error| error.to_string())?;
        }
        loop {
            let _ = l1.backend.run(LEVEL);
        }
    });
    let log = on_early_guest(&mut world, &options, move |mut l2| {
        let seen = (unswitched.read)(l2.cpu);
        let is_l1s = seen.iter().zip(of_l1.borrow().iter()).any(|(word, own)| word == own);
        ensure(!is_l1s, || format!("the guest sees L1's state: {seen:x?}"))?;
        (unswitched.write)(l2.cpu, OF_GUEST);
        for _ in 0..2 {
            call(&mut l2, query())?;
            ensure((unswitched.read)(l2.cpu).iter().all(|word| *word == OF_GUEST), || "the guest lost state".into())?;
        }
        Ok(())
    });
    let end = world.run_to(&log.over);
    world.expect(end)?;
    log.check()
}

fn small_monitor_serves<P: Platform>(bench: &mut Bench<P>) -> Check {
    const PAGES: u64 = 16;
    let options = bench.options();
    let mut world = bench.world(options.clone());
    let exits = Rc::new(RefCell::new(Vec::new()));
    let seen = Rc::clone(&exits);
    world.on_l1(move |mut l1| {
        start_guest(&mut l1)?;
        let mut valid = vec![false; PAGES as usize];
        let mut guest = small_monitor::Guest {
            level: LEVEL,
            home: range(CALL_AREA, PAGE),
            ram: range(FREE, PAGES * PAGE),
            valid: &mut valid,
        };
        let exit = small_monitor::serve(&mut l1.backend, &mut guest);
        seen.borrow_mut().push(format!("{exit:?}"));
        Ok(())
    });
    let log = on_early_guest(&mut world, &options, |mut l2| {
        let list = CALL_AREA + 8;
        agree_private(&mut l2, FREE, PAGES + 1)?;
        same("once", one_entry(&mut l2, list, validate(FREE))?, CallResult::SUCCESS)?;
        same("contents", peek_word(&l2, FREE)?, 0)?;
        put(&l2, &[(FREE, 0x6d69_6e65)])?;
        same("twice", one_entry(&mut l2, list, validate(FREE))?, CallResult::NO_CHANGE)?;
        same("contents", peek_word(&l2, FREE)?, 0x6d69_6e65)?;
        same("the last one", one_entry(&mut l2, list, validate(FREE + (PAGES - 1) * PAGE))?, CallResult::SUCCESS)?;
        for outside in [FREE + PAGES * PAGE, FREE - PAGE, MONITOR_DATA, HOLE, 0] {
            let what = format!("outside, at {outside:#x}");
            same(&what, one_entry(&mut l2, list, validate(outside))?, CallResult::INVALID_ADDRESS)?;
        }
        same("rescind", one_entry(&mut l2, list, rescind(FREE))?, CallResult::UNSUPPORTED_CALL)?;
        let elsewhere = CallRegs::call(CallId::new(CORE, PVALIDATE), LIST, 0, 0);
        same("a list elsewhere", call(&mut l2, elsewhere)?.result(), CallResult::INVALID_ADDRESS)?;
        same("another call", call(&mut l2, query())?, query().with_result(CallResult::UNSUPPORTED_CALL))
    });
    let end = world.run_to(&log.over);
    world.expect(end)?;
    log.check()?;
    same("exits", exits.borrow().clone(), Vec::new())?;
    for index in 0..=PAGES {
        let at = page(FREE, index);
        let reads = world.peek(at, 8, Some(LEVEL.number())).is_some();
        same(&format!("the guest reads {at:#x}"), reads, index == 0 || index == PAGES - 1)?;
    }
    out_of_reach(world.peek(FREE, 8, None), "the host", FREE)
}
