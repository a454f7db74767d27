//! Cases in which the SNP host, or a guest with SNP's own instructions, attacks: what only this machine can play.
//!
//! | file | what |
//! |---|---|
//! | `pages` | page state lists, order and number of instructions, sizes, address bits |
//! | `start` | the first talk with the host, features, CPUID, termination |
//! | `events` | every event of the GHCB page |
//! | `ghcb` | answers in the GHCB page, and what L1 shows there |
//! | `launch` | a launch from an IGVM file, and parameters of the host |
//! | `messages` | guest messages and reports |
//! | `message_kinds` | messages of every kind, and certificates |
//! | `rmp` | what the reverse map table has to stop |
//! | `vc` | #VC: instructions done with the host's help |

mod events;
mod ghcb;
mod launch;
mod message_kinds;
mod messages;
mod pages;
mod rmp;
mod start;
mod vc;

use std::cell::RefCell;
use std::rc::Rc;

use backend_snp::SnpError;
use coco_part_api::svsm::{CORE, CREATE_VCPU, CallId, CallResult};
use coco_part_api::{CallRegs, Context, FrameRange, GuestPort, NewVcpu, Stopped, VcpuId};
use machine::host::{Policy, all_policies};
use machine::{EventKind, Vcpu};

use super::platform::Snp;
use crate::runner::End;
use crate::suite::hostile::busy::{self, Step};
use crate::suite::probe::{call, put};
use crate::suite::{Bench, Case, Check, Kind, Stop, ensure, same};
use crate::world::layout::{CALL_AREA, DATA, ENTRY_FURTHER, FREE, MONITOR_DATA, PAGE, STATE, frame, page, range};
use crate::world::{L1, L2, Options, World};

macro_rules! case {
    ($id:literal, $rule:literal, [$($threat:literal),*], $kind:ident, $text:literal, $run:expr) => {
        Case { id: $id, rule: $rule, threats: &[$($threat),*], kind: Kind::$kind, text: $text, run: $run }
    };
}
use case;

/// Turns that a world under a liar gets. An honest host needs a third of it on one vCPU, two thirds on two.
const TURNS: u64 = 20_000;

/// The cases of this folder.
pub(super) fn cases() -> Vec<Case<Snp>> {
    let mut all = vec![
        case!(
            "H2-every-policy-on-one-vcpu",
            "H2",
            ["SW-01", "SW-03", "SW-08", "SW-09", "PG-01", "PG-14", "GH-01", "GH-20", "GR-01", "CP-01", "TM-01"],
            HostileHost,
            "under every liar of the catalogue a busy guest is told nothing but the truth, on one vCPU",
            |bench| every_policy(bench, 1)
        ),
        case!(
            "H2-every-policy-on-two-vcpus",
            "H2",
            ["SW-04", "SW-05", "SW-06", "SW-13", "TM-02", "PG-02", "PG-03", "PG-06"],
            HostileHost,
            "under every liar of the catalogue a busy guest is told nothing but the truth, on two vCPUs",
            |bench| every_policy(bench, 2)
        ),
    ];
    all.extend(pages::cases());
    all.extend(start::cases());
    all.extend(events::cases());
    all.extend(ghcb::cases());
    all.extend(launch::cases());
    all.extend(messages::cases());
    all.extend(message_kinds::cases());
    all.extend(rmp::cases());
    all.extend(vc::cases());
    all
}

/// The standard monitor and a busy guest under each liar. Attacks on memory are played on pages of both sides, while the
/// guest works.
fn every_policy(bench: &mut Bench<Snp>, vcpus: u8) -> Check {
    // An honest host needs 2000 turns and 4000; the slowest that get to the end 6700 and 10900.
    let turns = 2_000 + 5_000 * u64::from(vcpus);
    let mut hindered = 0;
    for (name, policy, threat) in all_policies() {
        let evidence: &'static [Step] =
            if threat.starts_with("GR") { &[Step::Attest, Step::AttestAgain] } else { &[Step::Attest] };
        let attacks: Vec<Policy> = [MONITOR_DATA, DATA, CALL_AREA, FREE]
            .into_iter()
            .filter_map(|at| aimed(&policy, at, 700 + 800 * u64::from(vcpus)))
            .collect();
        for host in if attacks.is_empty() { vec![policy] } else { attacks } {
            let what = format!("{name}, {host:x?}");
            let options = Options { vcpus, ..under(bench, host) };
            hindered += u32::from(busy::hindered_by(bench, &what, options, turns, evidence)?);
        }
    }
    // Hosts that hinder nobody would prove nothing.
    ensure(hindered >= 40, || format!("only {hindered} hosts had an effect"))
}

/// An attack on memory from this page on, after so many guest steps; `None` for what is none.
fn aimed(policy: &Policy, at: u64, after_steps: u64) -> Option<Policy> {
    Some(match policy {
        Policy::UnmapPage { gpa, .. } => Policy::UnmapPage { gpa: at + gpa, after_steps },
        Policy::UnassignPage { gpa, .. } => Policy::UnassignPage { gpa: at + gpa, after_steps },
        Policy::SwapPage { gpa, .. } => Policy::SwapPage { gpa: at + gpa, after_steps },
        // Back again as many steps later.
        Policy::SwapBack { gpa, .. } => Policy::SwapBack { gpa: at + gpa, after_steps },
        Policy::MarkDevice { gpa, .. } => Policy::MarkDevice { gpa: at + gpa, after_steps },
        Policy::RemapInto { from, to, .. } => Policy::RemapInto { from: at + from, to: at + to, after_steps },
        _ => return None,
    })
}

/// Options with this host.
fn under(bench: &Bench<Snp>, host: Policy) -> Options<Snp> {
    Options { host, ..bench.options() }
}

/// Runs `body` as L1 and gives what it returned, if it came to its end.
fn as_l1<T: 'static>(
    bench: &mut Bench<Snp>,
    options: Options<Snp>,
    body: impl for<'y> FnOnce(L1<'y, Snp>) -> T + 'static,
) -> (World<Snp>, Option<T>) {
    let mut world = bench.world(options);
    let value = run_as_l1(&mut world, body);
    (world, value)
}

/// As [`as_l1`], in a world of the case.
fn run_as_l1<T: 'static>(world: &mut World<Snp>, body: impl for<'y> FnOnce(L1<'y, Snp>) -> T + 'static) -> Option<T> {
    let slot = Rc::new(RefCell::new(None));
    let inside = Rc::clone(&slot);
    world.on_l1(move |l1| {
        *inside.borrow_mut() = Some(body(l1));
        Ok(())
    });
    let watched = Rc::clone(&slot);
    world.run_for(TURNS, move |_| watched.borrow().is_some());
    slot.borrow_mut().take()
}

/// A range operation as (frames done, error).
fn stop(result: Result<(), Stopped<SnpError>>) -> Result<(), (u64, SnpError)> {
    result.map_err(|stopped| (stopped.done, stopped.cause))
}

/// Has a guest create its second vCPU, whose program is the world's.
fn second_vcpu(l2: &mut L2<'_, Snp>) -> Check {
    let context = Context::long_mode(ENTRY_FURTHER, 0, 0);
    let (state, call_area) = (page(STATE, 1), page(CALL_AREA, 1));
    let new = NewVcpu { id: VcpuId(1), context: &context, state: frame(state), call_area: frame(call_area) };
    let level = l2.home.options.guest_level();
    let refused = |error: SnpError| Stop::Wrong(error.to_string());
    l2.port.write_image(&new, level).map_err(refused)?;
    put(l2, &[(call_area, 0)])?;
    let answer = call(l2, CallRegs::call(CallId::new(CORE, CREATE_VCPU), state, call_area, 1))?;
    same("create vCPU 1", answer.result(), CallResult::SUCCESS)?;
    l2.port.start(VcpuId(1), frame(state), level).map_err(refused)
}

/// So many pages that nobody has validated yet.
fn free(pages: u64) -> FrameRange {
    range(FREE, pages * PAGE)
}

/// Fails unless the run ended as a host may make it end.
fn is_clean(end: &End) -> Check {
    ensure(!matches!(end, End::Panicked { .. } | End::NoProgram(_)), || format!("the run ended with {end:?}"))
}

/// One instruction of the trace: vCPU, VMPL, name, and its operands in the order of the trace.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Done {
    vcpu: u8,
    vmpl: u8,
    name: &'static str,
    operands: Vec<u64>,
    outcome: String,
}

/// What programs executed, from event `from` of the trace on.
fn trace_from(world: &World<Snp>, from: usize) -> Vec<Done> {
    let events = world.runner.machine.0.trace().get(from..).unwrap_or_default();
    let step = |event: &machine::Event| match &event.kind {
        EventKind::Step { op, outcome } => Some(Done {
            vcpu: event.vcpu.0,
            vmpl: event.vmpl?,
            name: op.name,
            operands: op.operands.iter().map(|(_, value)| *value).collect(),
            outcome: outcome.clone(),
        }),
        _ => None,
    };
    events.iter().filter_map(step).collect()
}

/// VMGEXITs of VMPL0 on the boot vCPU so far.
fn exits_of_l1(world: &World<Snp>) -> u64 {
    world.runner.machine.0.counters(Vcpu(0), 0).vmgexit
}
