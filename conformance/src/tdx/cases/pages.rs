//! Sizes of pages, aliases, table pages that are missing, and translations of other vCPUs.

use std::cell::Cell;
use std::rc::Rc;

use backend_tdx_stub::abi::leaves::Leaf;
use backend_tdx_stub::abi::regs::Regs;
use backend_tdx_stub::abi::status::Status;
use backend_tdx_stub::port::Port;
use coco_part_api::svsm::CallResult;
use coco_part_api::svsm::list::Action;
use coco_part_api::{
    CallMonitor, ErrorKind, Grant, Grants, GuestLevel, GuestMemory, HasMemory, MemoryMap, Origin, PageSize, Rights,
    Validate,
};
use l2_guest_shim::{Limits, Shim};
use machine::tdx::host::Policy;
use x86_64::PhysAddr;

use super::{TURNS, aliases, as_l1, case, of_l1, stop, under};
use crate::suite::create::vcpus::{Plan, bring_up, call_patiently, fill, one_entry, query, wait_for};
use crate::suite::hostile::busy;
use crate::suite::probe::{entry, rescind};
use crate::suite::{Bench, Case, Check, Kind, Stop, ensure, same};
use crate::tdx::{ModelPort, Tdx};
use crate::world::layout::{DATA, FREE, LARGE, MONITOR, MONITOR_BYTES, MONITOR_DATA, PAGE, page, range};
use crate::world::{Gate, Options, World};

const LEVEL: GuestLevel = GuestLevel::TWO;
/// Where cases put lists of their own.
const LIST: u64 = DATA + 0x1_0000;

/// The cases of this file.
pub(super) fn cases() -> Vec<Case<Tdx>> {
    vec![
        case!(
            "M4-mapped-small",
            "M4",
            ["TD-03"],
            HostileHost,
            "2 MiB that the host has mapped small are accepted small by L1, and a guest is told to ask in small entries",
            size_mismatch
        ),
        case!(
            "M7-no-alias-on-l1",
            "M7",
            ["TD-04", "RQ-01"],
            HostileGuest,
            "no page of L1 has an alias for any level at any moment while a busy guest runs",
            no_alias_on_l1
        ),
        case!(
            "M5-illegal-attributes",
            "M5",
            ["TD-04"],
            Contract,
            "attributes that no level may have are refused before the module is asked, and by the module too",
            illegal_attributes
        ),
        case!(
            "M4-no-table-page",
            "M4",
            ["TD-04"],
            HostileHost,
            "a page that is accepted and cannot be granted for want of a table page is quarantined: zero, of use to nobody",
            no_table_page
        ),
        case!(
            "M5-cut-waits-for-others",
            "M5",
            ["TD-15"],
            Concurrency,
            "a page that L1 takes while another vCPU reads it all the time is read by no level once the call is answered",
            cut_waits_for_others
        ),
        case!(
            "M5-kick-withheld",
            "M5",
            ["TD-15", "EV-12"],
            HostileHost,
            "a host that withholds the kick stops the call that waits for it: the page stays, and it ends when the vCPU leaves",
            kick_withheld
        ),
        case!(
            "H2-blocked-page",
            "H2",
            ["PG-02", "TD-18"],
            HostileHost,
            "a page of L1 that the host blocks answers nobody until it is unblocked",
            blocked_page
        ),
    ]
}

/// Has the host map the first page of [`FREE`], and so all 2 MiB around it, small.
fn map_small(world: &mut World<Tdx>) {
    let machine = &mut world.runner.machine.0;
    (1..=3).for_each(|vm| machine.host_add_table(vm, FREE));
    machine.host_add_page(FREE, false);
}

fn size_mismatch(bench: &mut Bench<Tdx>) -> Check {
    let options = bench.options();
    let mut world = bench.world(options);
    map_small(&mut world);
    world.on_l1(|mut l1| {
        let grants = Grants::one(LEVEL, Rights::RAM);
        let whole = range(FREE, LARGE);
        let asked = l1.backend.validate_for(whole, &grants, Origin::Request);
        same("for a request", stop(asked), Err((0, ErrorKind::SizeMismatch)))?;
        same("for L1", stop(l1.backend.validate_for(whole, &grants, Origin::Monitor)), Ok(()))
    });
    world.finish()?;
    let small = LARGE / PAGE;
    // The large page is tried once for each.
    same("accepts", of_l1(&world).accept, small + 2)?;
    same("the last page", world.peek(FREE + LARGE - 8, 8, Some(LEVEL.number())), Some(vec![0; 8]))?;

    let options = bench.options();
    let mut world = bench.world(options);
    map_small(&mut world);
    world.on_guest(0, |mut l2| {
        let large = entry(FREE, PageSize::Large, Action::Validate, false);
        same("in one entry", one_entry(&mut l2, LIST, large)?, CallResult::FAIL_SIZE_MISMATCH)?;
        let map = MemoryMap::new(&l2.home.guest_ram).map_err(|error| error.to_string())?;
        let mut shim = Shim::negotiate(l2.port, map, Limits::default()).map_err(|error| error.to_string())?;
        same("by the shim", stop(shim.validate(range(FREE, LARGE))), Ok(()))
    });
    world.finish()?;
    same("the last page", world.peek(FREE + LARGE - 8, 8, Some(LEVEL.number())), Some(vec![0; 8]))
}

fn no_alias_on_l1(bench: &mut Bench<Tdx>) -> Check {
    let options = bench.options();
    let mut world = bench.world(Options { vcpus: 2, ..options });
    let found = Rc::new(Cell::new(None));
    let (log, mut turn) = (Rc::clone(&found), 0_u64);
    let (end, told) = busy::run_watched(&mut world, 2, TURNS, &[], move |model| {
        // One page a turn: each is looked at again and again.
        turn += 1;
        let at = page(MONITOR, turn % (MONITOR_BYTES / PAGE));
        if model.0.sept_entry(at).is_some_and(|entry| entry.aliases != [0; 3]) {
            log.set(Some(at));
        }
    });
    busy::check(&world, &end, &told)?;
    same("page of L1 with an alias", found.get(), None)?;
    for index in 0..MONITOR_BYTES / PAGE {
        same(&format!("aliases of page {index}"), aliases(&world, page(MONITOR, index)), [0; 3])?;
    }
    Ok(())
}

fn illegal_attributes(bench: &mut Bench<Tdx>) -> Check {
    let world = as_l1(bench, Policy::Honest, |mut l1| {
        let pages = range(FREE, PAGE);
        same("validate", stop(l1.backend.validate(pages)), Ok(()))?;
        let illegal = Grants::one(LEVEL, Rights::WRITE);
        same("publish", stop(l1.backend.publish(pages, &illegal)), Err((0, ErrorKind::InvalidArgument)))?;
        // Past the backend: W without R, with VALID in value and mask, for the second VM.
        let word = (1 << 15 | 1 << 1) << 32;
        let mut regs = Regs { rax: Leaf::MEM_PAGE_ATTR_WR.to_rax(), rcx: FREE, rdx: word, r8: word, ..Regs::default() };
        ModelPort::new(l1.cpu, None).tdcall(&mut regs);
        same("the module", Status(regs.rax).name(), Status::PAGE_ATTR_INVALID)
    })?;
    same("attributes written by the backend", of_l1(&world).attr_wr, 1)?;
    same("aliases", aliases(&world, FREE), [0; 3])
}

fn no_table_page(bench: &mut Bench<Tdx>) -> Check {
    let world = as_l1(bench, Policy::NoTables { exits: false }, |mut l1| {
        let grants = Grants::one(LEVEL, Rights::RAM);
        let asked = l1.backend.validate_for(range(FREE, 2 * PAGE), &grants, Origin::Request);
        same("status", stop(asked), Err((0, ErrorKind::Quarantined)))?;
        same("L1 goes on", stop(l1.backend.validate(range(FREE + LARGE, PAGE))), Ok(()))
    })?;
    for level in [None, Some(1), Some(2), Some(3)] {
        same(&format!("level {level:?} reads it"), world.peek(FREE, 8, level), None)?;
    }
    same("contents", world.peek(FREE, 8, Some(0)), Some(vec![0; 8]))?;

    // As a TD exit: the host does not come back, and nobody has the page.
    let mut world = bench.world(under(bench, Policy::NoTables { exits: true }));
    world.on_l1(|mut l1| {
        let grants = Grants::one(LEVEL, Rights::RAM);
        let asked = l1.backend.validate_for(range(FREE, PAGE), &grants, Origin::Request);
        Err(Stop::Wrong(format!("it came back with {:?}", stop(asked))))
    });
    world.run_for(TURNS, |_| false);
    ensure(world.complaints().is_empty(), || world.complaints().join("; "))?;
    same("stopped vCPUs", world.runner.stops().len(), 1)?;
    same("aliases", aliases(&world, FREE), [0; 3])
}

fn cut_waits_for_others(bench: &mut Bench<Tdx>) -> Check {
    // L1 keeps a state frame: nothing that the host does drops the translations of it.
    let contested = Plan::of(2);
    for more in 0..4 {
        let options = bench.options();
        let mut world = bench.world(Options { vcpus: 3, seed: options.seed + more, ..options });
        let (reads, taken, late) = (Gate::new(), Rc::new(Cell::new(false)), Rc::new(Cell::new(0_u32)));
        let (begun, answered) = (reads.clone(), Rc::clone(&taken));
        world.on_guest(0, move |mut l2| {
            fill(&mut l2, contested)?;
            bring_up(&mut l2, Plan::of(1))?;
            wait_for(&l2, &begun);
            same("create", call_patiently(&mut l2, contested.create())?, CallResult::SUCCESS)?;
            answered.set(true);
            Ok(())
        });
        let (answered, count) = (Rc::clone(&taken), Rc::clone(&late));
        world.on_guest(1, move |l2| {
            let memory = l2.port.memory();
            let mut rounds = 0;
            loop {
                let is_late = answered.get();
                // It faults, or this vCPU does not come back.
                memory.read(PhysAddr::new(contested.state), &mut [0; 8]).map_err(|error| error.to_string())?;
                count.set(count.get() + u32::from(is_late));
                rounds += 1;
                if rounds == 3 {
                    reads.pass();
                }
            }
        });
        // The second program never comes to its end.
        world.run_for(TURNS, |_| false);
        ensure(world.complaints().is_empty(), || world.complaints().join("; "))?;
        ensure(taken.get(), || "the frame was not taken".into())?;
        same("reads after the answer", late.get(), 0)?;
    }
    Ok(())
}

/// The page that one vCPU gives up while another one is inside.
const CONTESTED: u64 = page(DATA, 0x30);

fn kick_withheld(bench: &mut Bench<Tdx>) -> Check {
    let mut world = bench.world(Options { vcpus: 2, ..under(bench, Policy::NoKick) });
    let (up, leave, answered) = (Gate::new(), Gate::new(), Gate::new());
    let (begun, done) = (up.clone(), answered.clone());
    world.on_guest(0, move |mut l2| {
        bring_up(&mut l2, Plan::of(1))?;
        wait_for(&l2, &begun);
        same("give up", one_entry(&mut l2, LIST, rescind(CONTESTED))?, CallResult::SUCCESS)?;
        done.pass();
        Ok(())
    });
    let gate = leave.clone();
    world.on_guest(1, move |mut l2| {
        up.pass();
        l2.wait(&gate);
        l2.port.call(query()).map_err(|error| error.to_string())?;
        Ok(())
    });
    world.run_for(TURNS, |_| false);
    ensure(!answered.is_reached(), || "the call was answered while a vCPU was inside".into())?;
    same("the page is still private", world.peek(CONTESTED, 8, None), None)?;
    leave.open();
    let end = world.run_to(&answered);
    world.expect(end)
}

fn blocked_page(bench: &mut Bench<Tdx>) -> Check {
    let mut world = bench.world(under(bench, Policy::BlockPage { gpa: MONITOR_DATA, after_steps: 200 }));
    world.on_l1(|l1| {
        let memory = l1.backend.memory();
        for _ in 0..400 {
            let mut bytes = [0; 8];
            if memory.read(PhysAddr::new(MONITOR_DATA), &mut bytes).is_err() {
                return Ok(());
            }
        }
        Err("a blocked page was read".into())
    });
    world.run_for(TURNS, |_| false);
    ensure(world.complaints().is_empty(), || world.complaints().join("; "))?;
    let entry = world.runner.machine.0.sept_entry(MONITOR_DATA);
    ensure(entry.is_some_and(|entry| entry.blocked), || "the host never blocked the page".into())
}
