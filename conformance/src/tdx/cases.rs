//! Cases in which the TDX host, or a level with TDX's own instructions, attacks: what only this machine can play.
//!
//! | file | what |
//! |---|---|
//! | `busy` | operands that the host holds |
//! | `map_gpa` | answers to MapGPA, and the shared bit |
//! | `pages` | sizes, aliases, missing table pages, translations of other vCPUs |
//! | `exits` | why a level leaves, and what L1 makes of it |
//! | `levels` | what is left in the processor, and pages through which a level runs |
//! | `start` | what L1 demands of a TD, and what its evidence says |

mod busy;
mod exits;
mod levels;
mod map_gpa;
mod pages;
mod start;

use coco_part_api::{Error, ErrorKind, Stopped};
use machine::Vcpu;
use machine::tdx::host::{Policy, all_policies};

use super::platform::Tdx;
use crate::suite::hostile::busy::{self as guest, Step};
use crate::suite::hostile::everything_done;
use crate::suite::{Bench, Case, Check, Kind, Stop, ensure};
use crate::world::layout::{CALL_AREA, DATA, FREE, MONITOR_CHANNEL, MONITOR_DATA};
use crate::world::{L1, Options, World};

macro_rules! case {
    ($id:literal, $rule:literal, [$($threat:literal),*], $kind:ident, $text:literal, $run:expr) => {
        Case { id: $id, rule: $rule, threats: &[$($threat),*], kind: Kind::$kind, text: $text, run: $run }
    };
}
use case;

/// Turns that a world under a liar gets. An honest host needs a third of it.
const TURNS: u64 = 30_000;

/// The cases of this folder.
pub(super) fn cases() -> Vec<Case<Tdx>> {
    let mut all = vec![
        case!(
            "H2-every-policy-on-one-vcpu",
            "H2",
            ["TD-01", "TD-03", "TD-05", "TD-06", "TD-08", "TD-18", "PG-06"],
            HostileHost,
            "under every liar of the catalogue a busy guest is told nothing but the truth, on one vCPU",
            |bench| every_policy(bench, 1)
        ),
        case!(
            "H2-every-policy-on-two-vcpus",
            "H2",
            ["TD-07", "TD-15", "TM-01", "TM-02", "PG-02", "PG-06"],
            HostileHost,
            "under every liar of the catalogue a busy guest is told nothing but the truth, on two vCPUs",
            |bench| every_policy(bench, 2)
        ),
    ];
    all.extend(busy::cases());
    all.extend(map_gpa::cases());
    all.extend(pages::cases());
    all.extend(exits::cases());
    all.extend(levels::cases());
    all.extend(start::cases());
    all
}

/// The standard monitor and a busy guest under each liar. Attacks on memory are played on pages of both sides, while the
/// guest works.
fn every_policy(bench: &mut Bench<Tdx>, vcpus: u8) -> Check {
    let mut hindered = 0;
    for (name, policy, _) in all_policies() {
        let attacks: Vec<Policy> = [MONITOR_DATA, MONITOR_CHANNEL, DATA, CALL_AREA, FREE]
            .into_iter()
            .filter_map(|at| aimed(&policy, at, 1_400 + 800 * u64::from(vcpus)))
            .collect();
        for host in if attacks.is_empty() { vec![policy] } else { attacks } {
            let what = format!("{name}, {host:x?}");
            let options = Options { vcpus, ..under(bench, host) };
            hindered += u32::from(guest::hindered_by(bench, &what, options, TURNS, &[Step::Attest])?);
        }
    }
    // Hosts that hinder nobody would prove nothing.
    ensure(hindered >= 20, || format!("only {hindered} hosts had an effect"))
}

/// An attack on memory from this page on, after so many guest steps; `None` for what is none.
fn aimed(policy: &Policy, at: u64, after_steps: u64) -> Option<Policy> {
    Some(match policy {
        Policy::ReaddPage { gpa, .. } => Policy::ReaddPage { gpa: at + gpa, after_steps },
        Policy::RemovePage { gpa, .. } => Policy::RemovePage { gpa: at + gpa, after_steps },
        Policy::BlockPage { gpa, .. } => Policy::BlockPage { gpa: at + gpa, after_steps },
        Policy::AliasPage { from, to, .. } => Policy::AliasPage { from: at + from, to: at + to, after_steps },
        _ => return None,
    })
}

/// A busy guest gets everything done under each of these hosts, on one vCPU and on two.
fn everything_done_under(bench: &mut Bench<Tdx>, hosts: &[Policy]) -> Check {
    for host in hosts {
        for vcpus in [1, 2] {
            let mut world = bench.world(Options { vcpus, ..under(bench, host.clone()) });
            let (end, told) = guest::run(&mut world, vcpus, 4 * TURNS);
            guest::check(&world, &end, &told)?;
            let done = everything_done(&told, vcpus);
            done.map_err(|stop| Stop::Wrong(format!("{host:?} on {vcpus} vCPUs: {stop:?}; {told:x?}")))?;
        }
    }
    Ok(())
}

/// Options with this host.
fn under(bench: &Bench<Tdx>, host: Policy) -> Options<Tdx> {
    Options { host, ..bench.options() }
}

/// Runs `body` as L1 to its end.
fn as_l1(
    bench: &mut Bench<Tdx>,
    host: Policy,
    body: impl for<'y> FnOnce(L1<'y, Tdx>) -> Check + 'static,
) -> Result<World<Tdx>, Stop> {
    let options = under(bench, host);
    let mut world = bench.world(options);
    world.on_l1(body);
    world.finish()?;
    Ok(world)
}

/// The stop of a range operation as (frames done, kind).
fn stop<E: Error>(result: Result<(), Stopped<E>>) -> Result<(), (u64, ErrorKind)> {
    result.map_err(|stopped| (stopped.done, stopped.cause.kind()))
}

/// What vCPU 0 executed as L1 so far.
fn of_l1(world: &World<Tdx>) -> machine::tdx::Counters {
    world.runner.machine.0.counters(Vcpu(0), 0)
}

/// The aliases of a page, all zero where nothing is mapped.
fn aliases(world: &World<Tdx>, at: u64) -> [u16; 3] {
    world.runner.machine.0.sept_entry(at).map_or([0; 3], |entry| entry.aliases)
}
