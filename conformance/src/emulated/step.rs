//! A boot on the step machine. Its lines are those that the console of the emulator would have.

use std::cell::RefCell;
use std::rc::Rc;

use coco_part_api::{GuestLevel, MemoryMap};
use image_cases::{Guest, MonitorPages, Places, further, run};
use image_companions::Pages;
use l2_guest_shim::{Limits, Shim};
use machine::host::{Policy, all_policies};
use machine::{Counters, ExitInfo, Machine, Vcpu, exit_code};

use super::bed::{Log, ModelBed};
use super::companions;
use super::plan::Boot;
use super::read::{Counts, fault_line, mark_line};
use crate::runner::{Body, Cpu, End};
use crate::snp::{Snp, SnpModel, early_guest_side};
use crate::suite::Check;
use crate::world::layout::{
    DATA, ENTRY_FURTHER, FREE, GUEST, HOLE, LARGE, MONITOR, MONITOR_DATA, MONITOR_FEATURES, MONITOR_SECRETS,
    MONITOR_STATE, PAGE, SECRETS, range,
};
use crate::world::{L2, Options, Record, World};

/// Guest RAM, as in the emulator but for what lies before it.
const GUEST_BYTES: u64 = 62 * LARGE;
/// Pages of companions, in RAM behind that, of which the guest has nothing.
const COMPANIONS: u64 = GUEST + GUEST_BYTES + PAGE;
/// Where the vCPUs talk.
const MAILBOX: u64 = DATA + 0x4_0000;
/// Turns after which a boot gives up.
const TURNS: u64 = 20_000_000;
/// Turns after which a vCPU that stands still after a nested page fault does so for ever: the host repairs none later.
const A_WHILE: u32 = 2000;

/// What of the step machine a boot may change.
#[derive(Clone, Debug, Default)]
pub struct Change {
    /// A deliberate defect of the backend or the monitor, by its name.
    pub defect: Option<&'static str>,
    /// Which variant of the machine.
    pub variant: usize,
}

/// Boots, and gives the lines.
///
/// # Panics
/// As [`follow`].
pub fn boot(boot: &Boot, change: &Change) -> Vec<String> {
    follow(boot, change, |_| ())
}

/// Boots, and gives the lines. At each mark its number goes to `on_mark`.
///
/// # Panics
/// For a host that no policy is called.
pub fn follow(boot: &Boot, change: &Change, mut on_mark: impl FnMut(u8)) -> Vec<String> {
    let options = Options {
        vcpus: boot.vcpus,
        guest_bytes: GUEST_BYTES + if boot.companions { LARGE } else { 0 },
        levels: if boot.companions { GuestLevel::ALL.to_vec() } else { vec![GuestLevel::TWO] },
        level: Some(GuestLevel::TWO),
        host: policy(boot.host).expect("the host is one of the list"),
        defect: change.defect,
        variant: change.variant,
        turns: TURNS,
        ..Options::default()
    };
    let record = Rc::new(RefCell::new(Record::default()));
    let mut world = World::<Snp>::new(options, Rc::clone(&record));
    let log = Rc::new(Log::default());
    if boot.companions {
        companions::install(&mut world, companion_pages());
    }

    let (first, selection) = (Rc::clone(&log), boot.selection());
    world.on_guest(0, move |l2| {
        let done = on_first(l2, &first, &selection);
        first.is_over.set(true);
        done
    });
    let (second, vcpus) = (Rc::clone(&log), boot.vcpus);
    world.runner.at_entry(
        ENTRY_FURTHER,
        Box::new(move |_| {
            let log = Rc::clone(&second);
            Some(Box::new(move |cpu: Cpu<'_, SnpModel>| {
                if let Ok(port) = early_guest_side(cpu) {
                    further(port, ModelBed::further(cpu, &log), &places(vcpus));
                }
            }) as Body<SnpModel>)
        }),
    );

    let (watched, mut kept) = (Rc::clone(&log), 0_u32);
    let end = world.run_until(move |model| {
        if let Some((number, vcpu)) = watched.mark.take() {
            on_mark(number);
            let line = mark_line(number, vcpu, &counts(&model.0.total_counters()));
            watched.lines.borrow_mut().push(line);
        }
        // The other vCPUs wait for ever for one that the host keeps.
        let is_kept = faulted(&model.0, 0).is_some() && model.0.running(Vcpu(0)).is_none();
        kept = if is_kept { kept + 1 } else { 0 };
        watched.is_over.get() || kept > A_WHILE
    });
    let mut lines = log.lines.borrow().clone();
    if !log.is_over.get() {
        lines.push(ending(&world, &end));
    }
    lines.extend(world.complaints().into_iter().map(|complaint| format!("emulator: {complaint}")));
    lines.extend(record.borrow().violations.iter().map(|violation| format!("emulator: violation {violation}")));
    lines
}

/// The policy of a name.
pub fn policy(name: &str) -> Option<Policy> {
    if name == image_cases::HONEST {
        return Some(Policy::Honest);
    }
    all_policies().into_iter().find(|(known, ..)| *known == name).map(|(_, policy, _)| policy)
}

fn on_first(l2: L2<'_, Snp>, log: &Log, selection: &image_cases::Selection) -> Check {
    let map = MemoryMap::new(&l2.home.guest_ram).map_err(|error| error.to_string())?;
    let bed = ModelBed::first(l2.cpu, log).map_err(|error| error.to_string())?;
    let mut shim = Shim::negotiate(l2.port, map, Limits::default()).map_err(|error| error.to_string())?;
    run(&mut Guest::new(&mut shim, bed, places(l2.home.options.vcpus)), selection);
    Ok(())
}

fn places(vcpus: u8) -> Places {
    Places {
        own: range(DATA, image_cases::OWN_PAGES * PAGE),
        mailbox: MAILBOX,
        fresh: range(FREE, GUEST + GUEST_BYTES - FREE),
        hole: HOLE,
        secrets: SECRETS,
        monitor: MonitorPages {
            first: MONITOR,
            data: MONITOR_DATA,
            last: HOLE - PAGE,
            secrets: MONITOR_SECRETS,
            features: MONITOR_FEATURES,
            launch_state: MONITOR_STATE,
        },
        companions: companion_pages(),
        vcpus,
    }
}

fn companion_pages() -> Pages {
    Pages::at(COMPANIONS).expect("the layout has room for them")
}

fn counts(counters: &Counters) -> Counts {
    Counts {
        pvalidate: counters.pvalidate,
        rmpadjust: counters.rmpadjust,
        vmgexit: counters.vmgexit,
        vmrun: counters.vmruns,
    }
}

/// The nested page fault that was the last exit of a vCPU.
fn faulted(machine: &Machine, vcpu: u8) -> Option<ExitInfo> {
    machine.exit_info(Vcpu(vcpu)).filter(|exit| exit.code == exit_code::NPF)
}

/// Why it did not end by itself.
fn ending(world: &World<Snp>, end: &End) -> String {
    let machine = &world.runner.machine.0;
    for (vcpu, _) in world.runner.stops() {
        if let Some(exit) = faulted(machine, *vcpu) {
            return fault_line(*vcpu, exit.vmpl, exit.info2, exit.info1);
        }
    }
    format!("emulator: the run ended with {end:?}; stopped vCPUs: {:?}", world.runner.stops())
}
