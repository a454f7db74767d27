//! A guest written once, and the cases that run it.
//!
//! [`boot`] and [`second`] know the own-level traits ([`OwnLevel`](coco_part_api::OwnLevel)), memory and a [`Plan`], and nothing of
//! the machine below. They run unchanged on every vendor, and at L1 too, which has the same traits. What they write into
//! the [`Log`] is the same everywhere.

mod log;
mod program;

use std::cell::RefCell;
use std::rc::Rc;

use coco_part_api::Context;
use coco_part_api::{FrameRange, GuestPort, HasMemory, Identify, Level, MemoryMap, REPORT_DATA, VcpuId};
use l2_guest_shim::{Limits, Shim};
use x86_64::PhysAddr;

pub use log::{Failed, Log};
pub use program::{Outcome, Plan, Second, Then, boot, boot_and_create, second};
use program::{Shares, mark, pages};

use super::bench::{ensure, same};
use super::{Bench, Case, Check, Kind, Stop};
use crate::platform::Platform;
use crate::world::layout::{CALL_AREA, DATA, ENTRY_FURTHER, FREE, HOLE, LARGE, PAGE, STATE, frame, page, range};
use crate::world::{L2, Options, World};

/// The cases of this file.
pub(crate) fn cases<P: Platform>() -> Vec<Case<P>> {
    vec![
        Case {
            id: "M3-guest-program",
            rule: "M3",
            threats: &["PG-03", "PG-09"],
            kind: Kind::Contract,
            text: "boot code written against the own-level traits accepts 64 MiB, uses, shares, takes back and attests",
            run: one_vcpu,
        },
        Case {
            id: "M3-guest-program-at-l1",
            rule: "M3",
            threats: &["PG-03", "PG-09"],
            kind: Kind::Contract,
            text: "the same boot code does the same at L1, line by line",
            run: at_l1,
        },
        Case {
            id: "V1-guest-program-two-vcpus",
            rule: "V1",
            threats: &["VC-01", "VC-02"],
            kind: Kind::Concurrency,
            text: "it creates a second vCPU that accepts memory at the same time, and destroys it or leaves it",
            run: two_vcpus,
        },
    ]
}

/// Where the range begins that the boot program accepts: it begins and ends inside large pages.
const ACCEPT: u64 = FREE + 5 * PAGE;
/// Its bytes on one vCPU.
const ALONE: u64 = 64 << 20;
/// Its bytes where what two vCPUs do at once is the point.
const TOGETHER: u64 = 2 * LARGE;
/// What the second vCPU accepts.
const SECOND: u64 = FREE + 33 * LARGE + PAGE;
const SECOND_BYTES: u64 = LARGE;
/// Guest RAM for all that.
const GUEST_BYTES: u64 = 36 * LARGE;
/// Where the second vCPU says that it is done.
const MAILBOX: u64 = DATA;
/// Where L1 writes the evidence of either vCPU, if it has to come from L1.
const EVIDENCE: [u64; 2] = [DATA + PAGE, DATA + 2 * PAGE];
/// What evidence is over.
const NONCE: [u8; REPORT_DATA] = [0xb7; REPORT_DATA];

/// What the programs of one world left behind.
#[derive(Clone, Debug, Default)]
pub struct Run {
    /// Log of the boot program.
    pub boot: Log,
    /// Log of the further vCPU's program.
    pub further: Log,
    /// What the boot program got.
    pub outcome: Option<Outcome>,
    /// What the further vCPU's program got.
    pub further_outcome: Option<Outcome>,
}

/// The plan that the cases follow, on one vCPU or on two.
pub fn plan(then: Option<Then>) -> Plan {
    Plan {
        accept: range(ACCEPT, if then.is_some() { TOGETHER } else { ALONE }),
        outside: range(HOLE, PAGE),
        nonce: NONCE,
    }
}

/// The further vCPU of that plan.
fn further(then: Then) -> Second {
    Second {
        id: VcpuId(1),
        context: Context::long_mode(ENTRY_FURTHER, 0, 0),
        state: frame(page(STATE, 1)),
        call_area: frame(page(CALL_AREA, 1)),
        accept: range(SECOND, SECOND_BYTES),
        mailbox: frame(MAILBOX),
        then,
    }
}

/// Runs the programs in a world of their own, on one vCPU or, with a fate for it, on two.
///
/// # Errors
/// What the programs or the world complain about.
pub fn run_programs<P: Platform>(
    bench: &mut Bench<P>,
    options: Options<P>,
    then: Option<Then>,
) -> Result<(Run, World<P>), Stop> {
    let vcpus = if then.is_some() { 2 } else { 1 };
    let mut world = bench.world(Options { vcpus, guest_bytes: GUEST_BYTES, ..options });
    let run = Rc::new(RefCell::new(Run::default()));
    let (plan, further) = (plan(then), then.map(further));
    if let Some(further) = further.clone() {
        let run = Rc::clone(&run);
        world.on_guest(1, move |l2| {
            let mut log = Log::default();
            let ended = with_shim(l2, |shim| {
                let memory = shim.port().memory();
                shim.set_evidence_page(frame(EVIDENCE[1])).map_err(|error| error.to_string())?;
                second(shim, &memory, &further, &mut log).map_err(|failed| Stop::from(failed.to_string()))
            });
            let mut run = run.borrow_mut();
            run.further = log;
            run.further_outcome = Some(ended?);
            Ok(())
        });
    }
    let inside = Rc::clone(&run);
    world.on_guest(0, move |l2| {
        let mut log = Log::default();
        let ended = with_shim(l2, |shim| {
            let memory = shim.port().memory();
            shim.set_evidence_page(frame(EVIDENCE[0])).map_err(|error| error.to_string())?;
            let ended = match &further {
                None => boot(shim, &memory, &plan, &mut log),
                Some(further) => boot_and_create(shim, &memory, &plan, further, &mut log),
            };
            ended.map_err(|failed| failed.to_string().into())
        });
        let mut run = inside.borrow_mut();
        run.boot = log;
        run.outcome = Some(ended?);
        Ok(())
    });
    world.finish()?;
    let run = run.borrow().clone();
    Ok((run, world))
}

/// Runs the boot program at L1, in a world of its own.
///
/// # Errors
/// As [`run_programs`].
pub fn run_at_l1<P: Platform>(bench: &mut Bench<P>, options: Options<P>) -> Result<(Run, World<P>), Stop> {
    let mut world = bench.world(Options { guest_bytes: GUEST_BYTES, ..options });
    let run = Rc::new(RefCell::new(Run::default()));
    let inside = Rc::clone(&run);
    world.on_l1(move |mut l1| {
        let (memory, mut log) = (l1.backend.memory(), Log::default());
        let ended = boot(&mut l1.backend, &memory, &plan(None), &mut log);
        let mut run = inside.borrow_mut();
        run.boot = log;
        run.outcome = Some(ended.map_err(|failed| failed.to_string())?);
        Ok(())
    });
    world.finish()?;
    let run = run.borrow().clone();
    Ok((run, world))
}

/// Makes a shim of a guest's port, checks who it says that it is, and hands it to `body`.
fn with_shim<P: Platform, T>(
    l2: L2<'_, P>,
    body: impl FnOnce(&mut Shim<'_, P::Guest<'_>>) -> Result<T, Stop>,
) -> Result<T, Stop> {
    let wrong = |text: String| Stop::Wrong(text);
    let map = MemoryMap::new(&l2.home.guest_ram).map_err(|error| wrong(error.to_string()))?;
    let known = l2.port.level();
    let mut shim = Shim::negotiate(l2.port, map, Limits::default()).map_err(|error| wrong(error.to_string()))?;
    same("level", shim.level(), l2.home.options.guest_level().into())?;
    same("vCPU", shim.vcpu(), VcpuId(l2.start.vcpu.into()))?;
    ensure(known.is_none_or(|known| shim.level() == known.into()), || "port and L1 disagree".into())?;
    body(&mut shim)
}

/// What the boot program has to write down of what it does with memory.
fn with_memory(ram: FrameRange) -> Vec<String> {
    let outside = range(HOLE, PAGE);
    let Shares { small, inside } = Shares::of(ram);
    vec![
        format!("validate {ram:?}: done"),
        "every page reads zero".into(),
        "every page keeps what was written".into(),
        format!("validate {ram:?}: AlreadyInState after 0 frames"),
        format!("validate {outside:?}: OutOfRange after 0 frames"),
        format!("share {outside:?}: OutOfRange after 0 frames"),
        format!("share {small:?}: done"),
        format!("share {inside:?}: done"),
        format!("unshare {inside:?}: done"),
        "the page that came back reads zero".into(),
        "every other page keeps what was written".into(),
    ]
}

/// What it has to write down of a second vCPU.
fn with_second(then: Then) -> Vec<String> {
    let mut lines = vec![
        "create with one frame for state and calls: InUse".into(),
        "create vCPU 77: InvalidArgument".into(),
        "create vCPU 1: done".into(),
        "vCPU 1 did its part".into(),
    ];
    if then == Then::Destroy {
        lines.push("destroy vCPU 1: done, its frame is memory again".into());
        lines.push("destroy vCPU 1 again: NotFound".into());
    }
    lines
}

/// What every program writes down at its end.
fn attested() -> Vec<String> {
    vec!["attest into 64 bytes: InvalidArgument".into(), "attest: evidence names the own level".into()]
}

/// All that the boot program has to write down without a second vCPU.
fn alone() -> Vec<String> {
    [with_memory(plan(None).accept), attested()].concat()
}

fn one_vcpu<P: Platform>(bench: &mut Bench<P>) -> Check {
    let options = bench.options();
    let (run, world) = run_programs(bench, options, None)?;
    same("log", run.boot.lines(), &alone()[..])?;
    shows_nothing(&world)
}

/// What was shared and stays so shows the host nothing of what it held.
fn shows_nothing<P: Platform>(world: &World<P>) -> Check {
    let shared = Shares::of(plan(None).accept).small;
    let seen = world.peek(shared.start().as_u64(), PAGE as usize, None).ok_or("the host cannot read a shared page")?;
    let is_mark = |at: PhysAddr| seen.windows(8).any(|bytes| bytes == mark(at).to_le_bytes());
    ensure(!pages(shared).any(is_mark), || "the host sees what a page held before it was shared".into())
}

fn at_l1<P: Platform>(bench: &mut Bench<P>) -> Check {
    let options = bench.options();
    let (run, world) = run_at_l1(bench, options)?;
    same("level", run.outcome.map(|outcome| outcome.level), Some(Level::Monitor))?;
    same("log", run.boot.lines(), &alone()[..])?;
    shows_nothing(&world)
}

fn two_vcpus<P: Platform>(bench: &mut Bench<P>) -> Check {
    let base = bench.options();
    for (then, seeds) in [(Then::Destroy, 4), (Then::Leave, 2)] {
        for step in 0..seeds {
            let options = Options { seed: base.seed.wrapping_add(step), ..base.clone() };
            let (run, _) = run_programs(bench, options, Some(then))?;
            same("log of the second vCPU", run.further.lines(), &expected_further()[..])?;
            let boot = [with_memory(plan(Some(then)).accept), with_second(then), attested()].concat();
            same("log of the first vCPU", run.boot.lines(), &boot[..])?;
        }
    }
    Ok(())
}

/// What the second vCPU has to write down.
fn expected_further() -> Vec<String> {
    let own = range(SECOND, SECOND_BYTES);
    [vec!["vCPU 1".into(), format!("validate {own:?}: done")], attested()].concat()
}
