//! What is left in the processor, and the pages through which a level runs.

use coco_part_api::svsm::CallResult;
use coco_part_api::{Error, ErrorKind, Event, GuestState, RunLevel};
use machine::tdx::{Op, Unswitched};

use super::case;
use crate::suite::create::vcpus::{Plan, bring_up, call_while, wait_for};
use crate::suite::switch::by_hand::{LEVEL, on_early_guest, start_guest};
use crate::suite::{Bench, Case, Check, Kind, ensure, same};
use crate::tdx::Tdx;
use crate::tdx::port::read_unswitched;
use crate::tdx::sides::first_page;
use crate::world::layout::{CALL_AREA, PAGE, STATE, page};
use crate::world::{Gate, Options};

/// The cases of this file.
pub(super) fn cases() -> Vec<Case<Tdx>> {
    vec![
        case!(
            "S4-new-vcpu-starts-clean",
            "S4",
            ["SW-14"],
            Contract,
            "a vCPU finds the values after reset in what the module does not switch, whatever the one before it left there",
            new_vcpu_starts_clean
        ),
        case!(
            "S4-every-register",
            "S4",
            ["SW-14"],
            Contract,
            "none of L1's registers that the module leaves in place is seen by a level, and L1 finds each of them again",
            every_register
        ),
        case!(
            "H1-apic-page",
            "H1",
            ["TD-10"],
            HostileGuest,
            "the virtual-APIC page and the register page are out of reach of levels and host, and vectors below 32 are refused",
            apic_page
        ),
    ]
}

fn dirty() -> Unswitched {
    let xmm = Unswitched { vector: [0xd1; 64], cr2: 0xd1d1, dr: [0xd1, 0xd2, 0xd3, 0xd4], ..Unswitched::default() };
    Unswitched { dr6: 0xffff_0ff3, ..xmm }
}

fn new_vcpu_starts_clean(bench: &mut Bench<Tdx>) -> Check {
    let options = bench.options();
    let mut world = bench.world(Options { vcpus: 2, ..options });
    let (first, again, second) = (Gate::new(), Gate::new(), Gate::new());
    let plans = [Plan::of(1), Plan { state: page(STATE, 2), ..Plan::of(1) }];
    let (gone, next, up) = (first.clone(), again.clone(), second.clone());
    world.on_guest(0, move |mut l2| {
        bring_up(&mut l2, plans[0])?;
        wait_for(&l2, &gone);
        let deleted = call_while(&mut l2, plans[0].delete(), &[CallResult::FAIL_INUSE, CallResult::BUSY])?;
        same("delete", deleted, CallResult::SUCCESS)?;
        l2.wait(&next);
        bring_up(&mut l2, plans[1])?;
        wait_for(&l2, &up);
        Ok(())
    });
    world.on_guest(1, move |l2| {
        same("the first one begins with", read_unswitched(l2.cpu), Unswitched::default())?;
        let _ = l2.cpu.execute(Op::WriteUnswitched(Box::new(dirty())));
        same("it has", read_unswitched(l2.cpu), dirty())?;
        first.pass();
        Ok(())
    });
    let end = world.run_to(&again);
    world.expect(end)?;
    world.on_guest(1, move |l2| {
        same("the second one begins with", read_unswitched(l2.cpu), Unswitched::default())?;
        second.pass();
        Ok(())
    });
    again.open();
    world.finish()
}

fn every_register(bench: &mut Bench<Tdx>) -> Check {
    let options = bench.options();
    let mut world = bench.world(options.clone());
    world.on_l1(|mut l1| {
        start_guest(&mut l1)?;
        let own = read_unswitched(l1.cpu);
        for _ in 0..3 {
            l1.backend.run(LEVEL).map_err(|error| error.to_string())?;
            same("registers of L1", read_unswitched(l1.cpu), own.clone())?;
        }
        Ok(())
    });
    let log = on_early_guest(&mut world, &options, |l2| {
        same("the level begins with", read_unswitched(l2.cpu), Unswitched::default())?;
        let _ = l2.cpu.execute(Op::WriteUnswitched(Box::new(dirty())));
        for _ in 0..2 {
            let _ = l2.cpu.execute(Op::Hlt);
            same("registers of the level", read_unswitched(l2.cpu), dirty())?;
        }
        Ok(())
    });
    world.finish()?;
    log.check()
}

fn apic_page(bench: &mut Bench<Tdx>) -> Check {
    /// Offset of the interrupt request register, and bytes between its parts of 32 vectors.
    const IRR: u64 = 0x200;
    const PART: u64 = 0x10;
    let options = bench.options();
    let mut world = bench.world(options.clone());
    world.on_l1(|mut l1| {
        start_guest(&mut l1)?;
        for vector in 0..32 {
            let refused = l1.backend.inject(LEVEL, Event::Interrupt(vector)).map_err(|error| error.kind());
            same(&format!("vector {vector}"), refused, Err(ErrorKind::InvalidArgument))?;
        }
        for vector in [32, 33, 0x80, 255] {
            l1.backend.inject(LEVEL, Event::Interrupt(vector)).map_err(|error| error.to_string())?;
        }
        l1.backend.run(LEVEL).map_err(|error| error.to_string())?;
        Ok(())
    });
    let _log = on_early_guest(&mut world, &options, |l2| {
        let _ = l2.cpu.execute(Op::Hlt);
        Ok(())
    });
    world.finish()?;
    let first = first_page(0);
    let vapic = first + PAGE * (1 + LEVEL.index() as u64);
    for (vector, bit) in [(32_u64, true), (33, true), (34, false), (0x80, true), (254, false), (255, true)] {
        let at = vapic + IRR + vector / 32 * PART + vector % 32 / 8;
        let byte = world.peek(at, 1, Some(0)).and_then(|bytes| bytes.first().copied()).unwrap_or_default();
        same(&format!("vector {vector}"), byte >> (vector % 8) & 1 == 1, bit)?;
    }
    for at in [first, vapic] {
        for level in [None, Some(1), Some(2), Some(3)] {
            ensure(world.peek(at, 8, level).is_none(), || format!("level {level:?} reads {at:#x}"))?;
        }
    }
    ensure(world.peek(CALL_AREA, 8, Some(LEVEL.number())).is_some(), || "the level lost its own memory".into())
}
