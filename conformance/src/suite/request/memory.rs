//! Memory that a guest deposits with L1 and withdraws.

use coco_part_api::svsm::list::{Action, WithdrawnHeader};
use coco_part_api::svsm::{
    CORE, CREATE_VCPU, CallId, CallResult, DEPOSIT_MEM, MEM_AVAILABLE, PVALIDATE, REMAP_CA, WITHDRAW_MEM,
};
use coco_part_api::{CallRegs, FrameRange, GuestMemory, GuestPort, HasMemory, HostState, PageSize};
use x86_64::PhysAddr;

use crate::platform::Platform;
use crate::suite::bench::{Stop, ensure, same};
use crate::suite::probe::{
    Probe, as_guest, call, cursor, entry, list_words, put, refused, refused_in, rescind, validate,
};
use crate::suite::{Bench, Check};
use crate::world::layout::{
    BOOT_STATE, CALL_AREA, DATA, FREE, HOLE, LARGE, MONITOR, MONITOR_DATA, MONITOR_SECRETS, PAGE, STATE, page, range,
};
use crate::world::{Gate, L2};

const BAD_ADDRESS: CallResult = CallResult::INVALID_ADDRESS;
const BAD_PARAMETER: CallResult = CallResult::INVALID_PARAMETER;
/// Where cases put lists of their own.
const LIST: u64 = DATA + 0x1_0000;
/// Pages that cases deposit.
const OWNED: u64 = DATA + 0x2_0000;
/// What they hold before.
const SECRET: u64 = 0x7365_6372_6574;

/// Deposits the pages of a list at an address. Gives the result and the cursor.
fn deposit<P: Platform>(l2: &mut L2<'_, P>, at: u64, entries: &[u64]) -> Result<(CallResult, u16), Stop> {
    put(l2, &list_words(at, entries))?;
    let answer = call(l2, CallRegs::call(CallId::new(CORE, DEPOSIT_MEM), at, 0, 0))?;
    Ok((answer.result(), cursor(l2, at)?))
}

fn read<P: Platform>(l2: &L2<'_, P>, at: u64) -> Result<u64, Stop> {
    l2.port.memory().read_value(PhysAddr::new(at)).map_err(|error| Stop::Wrong(error.to_string()))
}

/// Withdraws into a list at an address. Gives the addresses in it.
fn withdraw<P: Platform>(l2: &mut L2<'_, P>, at: u64) -> Result<Vec<u64>, Stop> {
    let regs = CallRegs { r9: 9, ..CallRegs::call(CallId::new(CORE, WITHDRAW_MEM), at, 7, 8) };
    same("withdraw", call(l2, regs)?, regs.with_result(CallResult::SUCCESS))?;
    let memory = l2.port.memory();
    let header: WithdrawnHeader =
        memory.read_value(PhysAddr::new(at)).map_err(|error| Stop::Wrong(error.to_string()))?;
    same("behind the count", header.unused, [0; 6])?;
    (1..=u64::from(header.entries)).map(|index| read(l2, at + 8 * index)).collect()
}

/// Withdraws until nothing is left, and demands that this is what comes.
fn withdraw_all<P: Platform>(l2: &mut L2<'_, P>, pages: FrameRange) -> Check {
    let mut got = Vec::new();
    while is_available(l2)? {
        got.extend(withdraw(l2, LIST)?);
        ensure(got.len() as u64 <= pages.frames(), || format!("{} pages came back", got.len()))?;
    }
    got.sort_unstable();
    let deposited: Vec<u64> = (0..pages.frames()).map(|index| page(pages.start().as_u64(), index)).collect();
    same("withdrawn pages", got, deposited)?;
    same("nothing is left", withdraw(l2, LIST)?, vec![])
}

fn is_available<P: Platform>(l2: &L2<'_, P>) -> Result<bool, Stop> {
    let mut mark = [0];
    let at = PhysAddr::new(CALL_AREA + MEM_AVAILABLE);
    l2.port.memory().read(at, &mut mark).map_err(|error| Stop::Wrong(error.to_string()))?;
    Ok(mark != [0])
}

pub(super) fn there_and_back<P: Platform>(bench: &mut Bench<P>) -> Check {
    // Small pages; and 2 MiB that the guest validates as one.
    for (pages, is_large) in [(range(OWNED, 3 * PAGE), false), (range(FREE, LARGE), true)] {
        let start = pages.start().as_u64();
        let options = bench.options();
        let mut world = bench.world(options);
        let (kept, back) = (Gate::new(), Gate::new());
        let (is_kept, is_back) = (kept.clone(), back.clone());
        world.on_guest(0, move |mut l2| {
            let entries: Vec<u64> = if is_large {
                l2.port.agree(pages, HostState::Private).map_err(|stop| stop.cause.to_string())?;
                put(&l2, &list_words(LIST, &[entry(start, PageSize::Large, Action::Validate, false)]))?;
                let regs = CallRegs::call(CallId::new(CORE, PVALIDATE), LIST, 0, 0);
                same("validate", call(&mut l2, regs)?.result(), CallResult::SUCCESS)?;
                vec![start | 1]
            } else {
                (0..pages.frames()).map(|index| page(start, index)).collect()
            };
            let all: Vec<u64> = (0..pages.frames()).map(|index| page(start, index)).collect();
            put(&l2, &all.iter().map(|at| (*at, SECRET)).collect::<Vec<_>>())?;
            same("before", is_available(&l2)?, false)?;
            let done = (CallResult::SUCCESS, entries.len() as u16);
            same("deposit", deposit(&mut l2, LIST, &entries)?, done)?;
            same("after", is_available(&l2)?, true)?;
            l2.wait(&is_kept);
            withdraw_all(&mut l2, pages)?;
            for at in all {
                same("contents", read(&l2, at)?, 0)?;
                put(&l2, &[(at, SECRET)])?;
            }
            l2.wait(&is_back);
            // They are plain memory again.
            same("again", deposit(&mut l2, LIST, &[start])?, (CallResult::SUCCESS, 1))
        });
        let end = world.run_to(&kept);
        world.expect(end)?;
        let level = world.guest_level().number();
        for index in 0..pages.frames() {
            let seen = world.peek(page(start, index), 8, Some(level));
            ensure(seen.is_none(), || format!("the guest reaches deposited page {index}"))?;
        }
        kept.open();
        let end = world.run_to(&back);
        world.expect(end)?;
        for index in 0..pages.frames() {
            let seen = world.peek(page(start, index), 8, Some(level));
            same("what the guest reads", seen, Some(SECRET.to_le_bytes().to_vec()))?;
        }
        back.open();
        world.finish()?;
    }
    Ok(())
}

pub(super) fn not_own<P: Platform>(bench: &mut Bench<P>) -> Check {
    let deposit = |what: &str, word| {
        Probe::core(&format!("deposit {what}"), DEPOSIT_MEM, CALL_AREA + 8, BAD_ADDRESS)
            .with_words(list_words(CALL_AREA + 8, &[word]))
    };
    refused(
        bench,
        vec![
            deposit("a page of L1", MONITOR_DATA),
            deposit("the first page of L1", MONITOR),
            deposit("the secrets page of L1", MONITOR_SECRETS),
            deposit("the own call area", CALL_AREA),
            deposit("a state frame", BOOT_STATE),
            deposit("memory that is not valid", FREE),
            deposit("2 MiB that are not valid", FREE | 1),
            deposit("2 MiB with call area and state frame", (BOOT_STATE & !(LARGE - 1)) | 1),
            deposit("a hole", HOLE),
            deposit("2 MiB with L1 in them", 1),
            deposit("the last page there can be", (1 << 52) - PAGE),
            Probe::core("deposit the page of the list", DEPOSIT_MEM, LIST, BAD_ADDRESS)
                .with_words(list_words(LIST, &[LIST])),
        ],
    )
}

pub(super) fn kept_by_l1<P: Platform>(bench: &mut Bench<P>) -> Check {
    let options = bench.options();
    let mut world = bench.world(options);
    let at = CALL_AREA + 8;
    let list = |what: &str, number, word| {
        Probe::core(&format!("{what} a deposited page"), number, at, BAD_ADDRESS).with_words(list_words(at, &[word]))
    };
    let create = |what: &str, state, area| {
        let mut probe = Probe::core(&format!("create a vCPU with a deposited {what}"), CREATE_VCPU, state, BAD_ADDRESS);
        probe.regs.rdx = area;
        probe
    };
    refused_in(
        &mut world,
        vec![
            list("validate", PVALIDATE, validate(OWNED)),
            list("rescind", PVALIDATE, rescind(OWNED)),
            list("rescind, ignoring no change,", PVALIDATE, entry(OWNED, PageSize::Small, Action::Rescind, true)),
            list("deposit", DEPOSIT_MEM, OWNED),
            Probe::core("a list of pages to change there", PVALIDATE, OWNED, BAD_ADDRESS),
            Probe::core("a list of pages to deposit there", DEPOSIT_MEM, OWNED, BAD_ADDRESS),
            Probe::core("withdrawn pages listed there", WITHDRAW_MEM, OWNED, BAD_ADDRESS),
            Probe::core("the call area moved there", REMAP_CA, OWNED, BAD_ADDRESS),
            create("state frame", OWNED, page(STATE, 1)),
            create("call area", page(STATE, 0), OWNED),
        ],
        |l2| same("deposit", deposit(l2, LIST, &[OWNED])?, (CallResult::SUCCESS, 1)),
    )
}

pub(super) fn lists<P: Platform>(bench: &mut Bench<P>) -> Check {
    let at = CALL_AREA + 8;
    let with = |what: &str, header: u64, word: u64, want| {
        Probe::core(what, DEPOSIT_MEM, at, want).with_words(vec![(at, header), (at + 8, word)])
    };
    let mut probes: Vec<Probe> =
        (1..12).map(|bit| with(&format!("entry bit {bit}"), 1, OWNED | 1 << bit, BAD_PARAMETER)).collect();
    probes.extend([
        with("size 3", 1, OWNED | 3, BAD_PARAMETER),
        with("2 MiB not aligned", 1, (OWNED + PAGE) | 1, BAD_PARAMETER),
        with("entry beyond 2^52", 1, 1 << 52, BAD_ADDRESS),
        with("no entries", 0, OWNED, BAD_PARAMETER),
        with("cursor at the end", 1 | 1 << 16, OWNED, BAD_PARAMETER),
        with("511 entries where 510 fit", 511, OWNED, BAD_PARAMETER),
        with("65535 entries", 0xffff, OWNED, BAD_PARAMETER),
        with("header bit 32", 1 | 1 << 32, OWNED, BAD_PARAMETER),
        with("header bit 63", 1 | 1 << 63, OWNED, BAD_PARAMETER),
    ]);
    for number in [DEPOSIT_MEM, WITHDRAW_MEM] {
        for (what, place, want) in [
            ("at a multiple of 4", LIST + 4, BAD_PARAMETER),
            ("with no room in its page", LIST + PAGE - 8, BAD_PARAMETER),
            ("on the mark of the call area", CALL_AREA, BAD_ADDRESS),
            ("in L1", MONITOR_DATA, BAD_ADDRESS),
            ("in the secrets page of L1", MONITOR_SECRETS, BAD_ADDRESS),
            ("in a state frame", BOOT_STATE, BAD_ADDRESS),
            ("in memory that is not valid", FREE, BAD_ADDRESS),
            ("in a hole", HOLE, BAD_ADDRESS),
            ("with the private bit", LIST | 1 << 51, BAD_ADDRESS),
            ("near 2^64", !7, BAD_ADDRESS),
        ] {
            // A header, so that nothing but the place is wrong; where the guest can write.
            let words = if place == LIST + PAGE - 8 { vec![(place, 1)] } else { Vec::new() };
            probes.push(Probe::core(&format!("call {number}, list {what}"), number, place, want).with_words(words));
        }
    }
    refused(bench, probes)
}

pub(super) fn bounded_lists<P: Platform>(bench: &mut Bench<P>) -> Check {
    let options = bench.options();
    as_guest(bench, options, |mut l2| {
        let all: Vec<u64> = (0..4).map(|index| page(OWNED, index)).collect();
        same("deposit", deposit(&mut l2, CALL_AREA + 8, &all)?, (CallResult::SUCCESS, 4))?;
        // Whatever counts stand where the list goes, it ends with its page.
        for (at, fits) in [(LIST + PAGE - 16, 1), (CALL_AREA + PAGE - 24, 2), (LIST, 1)] {
            put(&l2, &[(at, u64::MAX)])?;
            same("pages", withdraw(&mut l2, at)?.len(), fits)?;
        }
        same("nothing is left", is_available(&l2)?, false)
    })
    .map(|_| ())
}

pub(super) fn stops_at_entry<P: Platform>(bench: &mut Bench<P>) -> Check {
    let options = bench.options();
    let world = as_guest(bench, options, |mut l2| {
        let entries = [OWNED, page(OWNED, 1), MONITOR_DATA, page(OWNED, 2)];
        same("a page of L1", deposit(&mut l2, LIST, &entries)?, (BAD_ADDRESS, 2))?;
        put(&l2, &[(page(OWNED, 2), 1)])?;
        let twice = [page(OWNED, 3), page(OWNED, 3), page(OWNED, 4)];
        same("a page twice", deposit(&mut l2, LIST, &twice)?, (BAD_ADDRESS, 1))
    })?;
    let level = world.guest_level().number();
    for (index, reached) in [(0, false), (1, false), (2, true), (3, false), (4, true)] {
        let seen = world.peek(page(OWNED, index), 8, Some(level)).is_some();
        same(&format!("the guest reaches page {index}"), seen, reached)?;
    }
    Ok(())
}
