//! Lists of pages: their bits, counts and places, and what they come to.

use coco_part_api::svsm::list::Action;
use coco_part_api::svsm::{CALL_BUFFER, CORE, CallId, CallResult, PVALIDATE};
use coco_part_api::{CallRegs, GuestMemory, GuestPort, HasMemory, PageSize};
use x86_64::PhysAddr;

use crate::platform::Platform;
use crate::suite::bench::{Stop, ensure, same};
use crate::suite::probe::{
    Probe, as_guest, call, cursor, entry, list_words, put, refused, refused_in, rescind, validate,
};
use crate::suite::{Bench, Check};
use crate::world::Gate;
use crate::world::layout::{
    BOOT_STATE, CALL_AREA, DATA, FREE, HANDED_OVER, HOLE, LARGE, MONITOR_DATA, MONITOR_SECRETS, PAGE, page, range,
};

const BAD_ADDRESS: CallResult = CallResult::INVALID_ADDRESS;
const BAD_PARAMETER: CallResult = CallResult::INVALID_PARAMETER;
/// Where cases put lists of their own.
const LIST: u64 = DATA + 0x1_0000;

pub(super) fn reserved_bits<P: Platform>(bench: &mut Bench<P>) -> Check {
    let mut probes = vec![
        Probe::list("size 2", &[FREE | 2 | 4], BAD_PARAMETER),
        Probe::list("size 3", &[FREE | 3 | 4], BAD_PARAMETER),
    ];
    for bit in 4..12 {
        probes.push(Probe::list(&format!("entry bit {bit}"), &[FREE | 4 | 1 << bit], BAD_PARAMETER));
    }
    let at = CALL_AREA + 8;
    for bit in [32, 63] {
        let words = vec![(at, 1 | 1 << bit), (at + 8, validate(FREE))];
        probes.push(Probe::core(&format!("header bit {bit}"), PVALIDATE, at, BAD_PARAMETER).with_words(words));
    }
    let mut create =
        Probe::core("upper half of the vCPU", coco_part_api::svsm::CREATE_VCPU, DATA + PAGE, BAD_PARAMETER);
    create.regs.rdx = DATA + 2 * PAGE;
    create.regs.r8 = 1 << 32;
    probes.push(create);
    refused(bench, probes)
}

pub(super) fn counts<P: Platform>(bench: &mut Bench<P>) -> Check {
    let at = CALL_AREA + 8;
    let header = |what: &str, word: u64| {
        Probe::core(what, PVALIDATE, at, BAD_PARAMETER).with_words(vec![(at, word), (at + 8, validate(FREE))])
    };
    let last = LIST + PAGE - 8;
    refused(
        bench,
        vec![
            header("no entries", 0),
            header("cursor at the end", 1 | 1 << 16),
            header("cursor beyond the end", 1 | 0xffff << 16),
            header("511 entries where 510 fit", 511),
            header("65535 entries", 0xffff),
            Probe::core("a list that begins with the last word of its page", PVALIDATE, last, BAD_PARAMETER)
                .with_words(vec![(last, 1)]),
        ],
    )
}

pub(super) fn placement<P: Platform>(bench: &mut Bench<P>) -> Check {
    let options = crate::world::Options { vcpus: 2, ..bench.options() };
    let mut world = bench.world(options);
    let inside_mark = Probe::core("on the mark of the own call area", PVALIDATE, CALL_AREA, BAD_ADDRESS);
    refused_in(
        &mut world,
        vec![
            Probe::core("in L1", PVALIDATE, MONITOR_DATA, BAD_ADDRESS),
            Probe::core("in the secrets page of L1", PVALIDATE, MONITOR_SECRETS, BAD_ADDRESS),
            Probe::core("in a state frame", PVALIDATE, BOOT_STATE, BAD_ADDRESS),
            Probe::core("in memory that is not valid", PVALIDATE, FREE, BAD_ADDRESS),
            Probe::core("in a hole", PVALIDATE, HOLE, BAD_ADDRESS),
            inside_mark,
        ],
        |_| Ok(()),
    )?;
    let options = bench.options();
    as_guest(bench, options, |mut l2| {
        // Right behind the mark, where Linux has it, and at the start of a plain page.
        for (at, target) in
            [(CALL_AREA + CALL_BUFFER, FREE), (LIST, FREE + PAGE), (DATA + PAGE - 0x10, FREE + 2 * PAGE)]
        {
            l2.port
                .agree(range(target, PAGE), coco_part_api::HostState::Private)
                .map_err(|stop| stop.cause.to_string())?;
            put(&l2, &list_words(at, &[validate(target)]))?;
            let regs = CallRegs::call(CallId::new(CORE, PVALIDATE), at, 0, 0);
            same(&format!("list at {at:#x}"), call(&mut l2, regs)?.result(), CallResult::SUCCESS)?;
            same("cursor", cursor(&l2, at)?, 1)?;
        }
        Ok(())
    })
    .map(|_| ())
}

pub(super) fn names_itself<P: Platform>(bench: &mut Bench<P>) -> Check {
    let options = bench.options();
    let mut world = bench.world(options);
    let probe = Probe::core("rescind the page of the list", PVALIDATE, LIST, BAD_ADDRESS);
    let first = probe.with_words(list_words(LIST, &[rescind(LIST)]));
    refused_in(&mut world, vec![first], |_| Ok(()))?;
    let options = bench.options();
    as_guest(bench, options, |mut l2| {
        put(&l2, &list_words(LIST, &[rescind(DATA), rescind(LIST), rescind(DATA + PAGE)]))?;
        let regs = CallRegs::call(CallId::new(CORE, PVALIDATE), LIST, 0, 0);
        same("result", call(&mut l2, regs)?.result(), BAD_ADDRESS)?;
        same("cursor", cursor(&l2, LIST)?, 1)?;
        put(&l2, &[(DATA + PAGE, 1)])
    })
    .map(|_| ())
}

pub(super) fn duplicates<P: Platform>(bench: &mut Bench<P>) -> Check {
    let options = bench.options();
    let world = as_guest(bench, options, |mut l2| {
        let regs = CallRegs::call(CallId::new(CORE, PVALIDATE), LIST, 0, 0);
        l2.port
            .agree(range(FREE, 2 * PAGE), coco_part_api::HostState::Private)
            .map_err(|stop| stop.cause.to_string())?;
        put(&l2, &list_words(LIST, &[validate(FREE), validate(FREE)]))?;
        same("valid twice", call(&mut l2, regs)?.result(), CallResult::NO_CHANGE)?;
        same("cursor", cursor(&l2, LIST)?, 1)?;

        // Down, up, down, up: done over as many calls as L1 likes, and zero at the end.
        put(&l2, &[(FREE, 0x6d69_6e65)])?;
        put(&l2, &list_words(LIST, &[rescind(FREE), validate(FREE), rescind(FREE), validate(FREE)]))?;
        let mut calls = 0;
        loop {
            let result = call(&mut l2, regs)?.result();
            calls += 1;
            if result == CallResult::SUCCESS {
                break;
            }
            same("on the way", result, CallResult::INCOMPLETE)?;
            ensure(calls < 8, || "the list does not end".into())?;
        }
        same("cursor", cursor(&l2, LIST)?, 4)?;
        let kept: u64 =
            l2.port.memory().read_value(PhysAddr::new(FREE)).map_err(|error| Stop::Wrong(error.to_string()))?;
        same("contents", kept, 0)
    })?;
    same("level 2 has the page", world.peek(FREE, 8, Some(2)), Some(vec![0; 8]))
}

pub(super) fn stops_at_entry<P: Platform>(bench: &mut Bench<P>) -> Check {
    let options = bench.options();
    let world = as_guest(bench, options, |mut l2| {
        l2.port
            .agree(range(FREE, 4 * PAGE), coco_part_api::HostState::Private)
            .map_err(|stop| stop.cause.to_string())?;
        let entries = [validate(FREE), validate(FREE + PAGE), validate(MONITOR_DATA), validate(FREE + 2 * PAGE)];
        put(&l2, &list_words(LIST, &entries))?;
        let regs = CallRegs::call(CallId::new(CORE, PVALIDATE), LIST, 0, 0);
        same("result", call(&mut l2, regs)?.result(), BAD_ADDRESS)?;
        same("cursor", cursor(&l2, LIST)?, 2)
    })?;
    for (index, reached) in [(0, true), (1, true), (2, false), (3, false)] {
        let at = page(FREE, index);
        same(&format!("level 2 reaches page {index}"), world.peek(at, 8, Some(2)).is_some(), reached)?;
    }
    Ok(())
}

pub(super) fn bounded_work<P: Platform>(bench: &mut Bench<P>) -> Check {
    // 96 entries of 2 MiB: more than one call does at once.
    const LARGE_PAGES: u64 = 96;
    let options = crate::world::Options { guest_bytes: HANDED_OVER + LARGE_PAGES * LARGE, ..bench.options() };
    let done = Gate::new();
    let gate = done.clone();
    let world = as_guest(bench, options, move |mut l2| {
        l2.port
            .agree(range(FREE, LARGE_PAGES * LARGE), coco_part_api::HostState::Private)
            .map_err(|stop| stop.cause.to_string())?;
        let entries: Vec<u64> = (0..LARGE_PAGES)
            .map(|index| entry(FREE + index * LARGE, PageSize::Large, Action::Validate, false))
            .collect();
        put(&l2, &list_words(LIST, &entries))?;
        let regs = CallRegs::call(CallId::new(CORE, PVALIDATE), LIST, 0, 0);
        let mut before = 0;
        let mut calls = 0;
        loop {
            let result = call(&mut l2, regs)?.result();
            calls += 1;
            let next = cursor(&l2, LIST)?;
            ensure(next > before, || format!("the cursor stands at {next}"))?;
            before = next;
            if result == CallResult::SUCCESS {
                break;
            }
            same("on the way", result, CallResult::INCOMPLETE)?;
        }
        same("cursor", u64::from(before), LARGE_PAGES)?;
        ensure(calls > 1, || "192 MiB were zeroed in one call".into())?;
        gate.pass();
        Ok(())
    })?;
    ensure(done.is_reached(), || "the guest did not finish".into())?;
    same("the last page", world.peek(FREE + LARGE_PAGES * LARGE - 8, 8, Some(2)), Some(vec![0; 8]))
}
