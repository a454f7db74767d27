//! Switching levels: running one, calling L1, and what each side sees of the other.

pub(crate) mod by_hand;
mod liars;
mod one_level;
pub(crate) mod traps;

use std::cell::Cell;
use std::rc::Rc;

use coco_part_api::svsm::own::{self, IDENTIFY};
use coco_part_api::svsm::{CALL_PENDING, CONFIGURE_VTOM, CORE, CallId, CallResult, PVALIDATE, QUERY_PROTOCOL};
use coco_part_api::{CallMonitor, CallRegs, GuestMemory, HasMemory};
use x86_64::PhysAddr;

use super::bench::{Stop, ensure, same};
use super::create::case;
use super::create::vcpus::{Plan, agree_private, bring_up, meet, one_entry, with_seeds};
use super::probe::{as_guest, call, list_words, put, validate};
use super::{Bench, Case, Check};
use crate::platform::{Platform, Property};
use crate::world::layout::{CALL_AREA, DATA, FREE};
use crate::world::{Gate, L2, Options};

/// Where cases put lists of their own.
const LIST: u64 = DATA + 0x1_0000;
/// Turns in which whoever can still do something has done it.
const A_WHILE: u64 = 6_000;
/// Seeds per case of two vCPUs.
const SEEDS: u64 = 8;

/// The cases of this file and of those below it.
pub(crate) fn cases<P: Platform>() -> Vec<Case<P>> {
    let mut all = vec![
        case!(
            "S1-malformed-mark",
            "S1",
            ["RQ-21"],
            HostileGuest,
            "a call with a reserved mark is answered \"invalid format\", and nothing is served",
            malformed_mark
        ),
        case!(
            "S1-two-vcpus-call",
            "S1",
            ["RQ-25"],
            Concurrency,
            "two vCPUs that call at once each get their own answers",
            two_vcpus_call
        ),
        case!(
            "S2-registers",
            "S2",
            ["RQ-23"],
            Contract,
            "an answer changes the registers that its call defines, to the bit, and no other",
            registers
        ),
    ];
    all.extend(one_level::cases());
    all.extend(liars::cases());
    all.extend(traps::cases());
    all
}

fn malformed_mark<P: Platform>(bench: &mut Bench<P>) -> Check {
    if !P::PROPERTIES.contains(&Property::MarkTellsCall) {
        return Err(Stop::NotApplicable);
    }
    let helper = Plan::of(1);
    let refusals = Rc::new(Cell::new(0_u32));
    for options in with_seeds(&Options { vcpus: 2, ..bench.options() }, SEEDS) {
        let bad = 2 + (options.seed % 250) as u8;
        let mut world = bench.world(options);
        let (up, done) = (Gate::new(), Gate::new());
        let (watching, over, count) = (up.clone(), done.clone(), Rc::clone(&refusals));
        let own = Gate::new();
        world.on_guest(0, move |mut l2| {
            agree_private(&mut l2, FREE, 1)?;
            put(&l2, &list_words(LIST, &[validate(FREE)]))?;
            bring_up(&mut l2, helper)?;
            meet(&l2, &own, &watching);
            let regs = CallRegs { r9: 0x99, ..CallRegs::call(CallId::new(CORE, PVALIDATE), LIST, 0x77, 0x88) };
            // The other vCPU may be too late, or change the mark after L1 has taken it.
            if let Ok(answer) = l2.port.call(regs)
                && answer.result() == CallResult::INVALID_FORMAT
            {
                same("registers", answer, regs.with_result(CallResult::INVALID_FORMAT))?;
                count.set(count.get() + 1);
                over.pass();
                return same("the page is as before", one_entry(&mut l2, LIST, validate(FREE))?, CallResult::SUCCESS);
            }
            over.pass();
            Ok(())
        });
        world.on_guest(1, move |l2| {
            up.pass();
            let (memory, mark) = (l2.port.memory(), PhysAddr::new(CALL_AREA + CALL_PENDING));
            while !done.is_reached() {
                let pending: u8 = memory.read_value(mark).map_err(|error| error.to_string())?;
                if pending == 1 {
                    memory.write_value(mark, &bad).map_err(|error| error.to_string())?;
                }
            }
            Ok(())
        });
        world.finish()?;
    }
    ensure(refusals.get() > 0, || format!("none of {SEEDS} calls came to L1 with a reserved mark"))
}

fn two_vcpus_call<P: Platform>(bench: &mut Bench<P>) -> Check {
    for options in with_seeds(&Options { vcpus: 2, ..bench.options() }, SEEDS) {
        let mut world = bench.world(options);
        let gates = [Gate::new(), Gate::new()];
        for vcpu in [0_u8, 1] {
            let (mine, other) = (gates[usize::from(vcpu)].clone(), gates[usize::from(1 - vcpu)].clone());
            world.on_guest(vcpu, move |mut l2| {
                if vcpu == 0 {
                    bring_up(&mut l2, Plan::of(1))?;
                }
                meet(&l2, &mine, &other);
                (0..12).try_for_each(|round| own_answers(&mut l2, round))
            });
        }
        world.finish()?;
    }
    Ok(())
}

/// One call, of a kind that changes with the round, whose answer nobody else could get.
fn own_answers<P: Platform>(l2: &mut L2<'_, P>, round: u64) -> Check {
    let (vcpu, level) = (u64::from(l2.start.vcpu), u64::from(l2.start.level));
    let tag = 0x1000 * (vcpu + 1) + round;
    let regs = CallRegs { rax: 0, rcx: tag, rdx: tag << 16, r8: tag << 32, r9: !tag };
    match round % 3 {
        0 => {
            let identify = CallRegs { rax: CallId::new(own::PROTOCOL, IDENTIFY).to_rax(), ..regs };
            let answer = call(l2, identify)?;
            let want = CallRegs { rcx: level, rdx: vcpu, r8: answer.r8, ..identify };
            same("who am I", answer, want.with_result(CallResult::SUCCESS))
        }
        1 => {
            let unknown = CallRegs { rax: CallId::new(77, tag as u32).to_rax(), ..regs };
            same("unknown", call(l2, unknown)?, unknown.with_result(CallResult::UNSUPPORTED_PROTOCOL))
        }
        _ => {
            let core = CallRegs { rax: CallId::new(CORE, QUERY_PROTOCOL).to_rax(), rcx: 1, ..regs };
            let want = CallRegs { rcx: 1 << 32 | 1, ..core };
            same("query", call(l2, core)?, want.with_result(CallResult::SUCCESS))
        }
    }
}

fn registers<P: Platform>(bench: &mut Bench<P>) -> Check {
    const PATTERNS: [u64; 6] =
        [0, u64::MAX, 0x5555_5555_5555_5555, 0xaaaa_aaaa_aaaa_aaaa, 0x0123_4567_89ab_cdef, 1 << 63];
    let options = bench.options();
    as_guest(bench, options, |mut l2| {
        let own_level = u64::from(l2.start.level);
        for (index, pattern) in PATTERNS.into_iter().enumerate() {
            let next = |by: usize| PATTERNS[(index + by) % PATTERNS.len()];
            let regs = |rax| CallRegs { rax, rcx: pattern, rdx: next(1), r8: next(2), r9: next(3) };
            let id = |protocol, number| CallId::new(protocol, number).to_rax();
            // Nothing but the result, and that in the lower half with the upper one zero.
            for (rax, want) in [
                (id(77, 0), CallResult::UNSUPPORTED_PROTOCOL),
                (id(u32::MAX, u32::MAX), CallResult::UNSUPPORTED_PROTOCOL),
                (id(CORE, 99), CallResult::UNSUPPORTED_CALL),
                (id(own::PROTOCOL, 99), CallResult::UNSUPPORTED_CALL),
            ] {
                same("a refused call", call(&mut l2, regs(rax))?, regs(rax).with_result(want))?;
            }
            // RCX alone.
            let core = CallRegs { rcx: 1, ..regs(id(CORE, QUERY_PROTOCOL)) };
            let want = CallRegs { rcx: 1 << 32 | 1, ..core };
            same("query", call(&mut l2, core)?, want.with_result(CallResult::SUCCESS))?;
            let unknown = CallRegs { rcx: 77 << 32 | 1, ..core };
            let want = CallRegs { rcx: 0, ..unknown };
            same("query of an unknown protocol", call(&mut l2, unknown)?, want.with_result(CallResult::SUCCESS))?;
            // RCX, RDX and R8.
            let vtom = CallRegs { rcx: 1, ..regs(id(CORE, CONFIGURE_VTOM)) };
            let want = CallRegs { rcx: 0, rdx: 0, r8: 0, ..vtom };
            same("vTOM", call(&mut l2, vtom)?, want.with_result(CallResult::SUCCESS))?;
            let identify = regs(id(own::PROTOCOL, IDENTIFY));
            let answer = call(&mut l2, identify)?;
            let want = CallRegs { rcx: own_level, rdx: 0, r8: answer.r8, ..identify };
            same("who am I", answer, want.with_result(CallResult::SUCCESS))?;
            ensure(answer.r8 >> 9 == 0, || format!("capabilities {:#x}", answer.r8))?;
            // A list: nothing.
            put(&l2, &list_words(LIST, &[validate(DATA)]))?;
            let list = CallRegs { rcx: LIST, ..regs(id(CORE, PVALIDATE)) };
            same("a list", call(&mut l2, list)?, list.with_result(CallResult::NO_CHANGE))?;
        }
        Ok(())
    })
    .map(|_| ())
}
