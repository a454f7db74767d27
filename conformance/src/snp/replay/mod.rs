//! The order in which an unmodified Linux guest asks L1 and its host, played against the real monitor.
//!
//! This is a **replay of the source**: no kernel is booted. The program is our own. It executes, at VMPL2 and as raw
//! instructions, what the kernel's code for SNP guests under an SVSM executes, in that order, demands of each answer what
//! that code demands of it, and writes a list. Read were the decompressor's `sev.c`, `boot/startup/sev-shared.c`,
//! `sev-startup.c` and `map_kernel.c`, `coco/sev/core.c` and `svsm.c`, and `mem_encrypt_amd.c` of Linux 6.17 and later;
//! functions are named in the list where their part begins.
//!
//! | file | what |
//! |---|---|
//! | `client` | one CPU: instructions, and a call of L1 by either protocol |
//! | `msr`, `page` | the GHCB MSR protocol and the events of the GHCB page |
//! | `memory` | page state changes: page by page, in lists, in two sizes |
//! | `boot` | decompressor and kernel until every CPU has its pages |
//! | `aps` | further CPUs |
//! | `order` | who does what after what |
//! | `places` | addresses |
//! | `record` | the list |
//!
//! Left out is what needs neither L1 nor page states: ports, MSRs and CPUID, but for the questions before the kernel has
//! pages of its own; messages to the firmware; and what devices ask for. Where the kernel's configuration decides about a
//! size, one is chosen: 256 MiB of DMA buffers, 16 pages of `.bss..decrypted` in use. Kernels that know of SVSMs send at most
//! 64 entries per page state change; 253 is what a GHCB page holds, and what older ones send. An answer "busy" is repeated, as the kernel
//! does, and not listed: so one list holds for every schedule.

mod aps;
mod boot;
mod client;
mod memory;
mod msr;
mod order;
mod page;
mod places;
mod record;

use std::path::Path;

use machine::Machine;

use self::client::Kernel;
use self::memory::{Mapping, expect_private};
use self::order::{Signals, first_cpu};
use self::places::POOL_START;
use self::record::Record;
use super::platform::Snp;
use crate::cli::output;
use crate::runner::{Body, Cpu, Start};
use crate::snp::model::SnpModel;
use crate::suite::{Bench, Case, Check, Kind, Stop, ensure, same};
use crate::world::layout::{ENTRY_GUEST, GUEST, LARGE};
use crate::world::{Options, World};

/// CPUs of the guest.
const CPUS: u64 = 2;
/// Bytes of DMA buffers in the list that is compared: the default of a VM of 4 GiB.
pub const POOL: u64 = 256 << 20;
/// DMA buffers in the suite.
const SMALL_POOL: u64 = 16 << 20;
/// Every so many 2 MiB pages of the pool the host has one that it can back with small ones only.
const EVERY_SMALL: u64 = 4;
/// Turns that are enough for it.
pub const TURNS: u64 = 50_000_000;

/// The list, in a world of these options with so many bytes of DMA buffers, a multiple of 2 MiB.
///
/// # Errors
/// The first answer that is not what the kernel needs, or what an oracle of the machine found.
pub fn list(options: Options<Snp>, pool: u64) -> Result<String, String> {
    let mut bench = Bench::new(options);
    let text = play(&mut bench, pool).map_err(|stop| format!("{stop:?}"))?;
    let violations = bench.record().violations;
    if violations.is_empty() { Ok(HEAD.to_owned() + &text) } else { Err(violations.join("; ")) }
}

/// First lines of the file.
const HEAD: &str = "\
# What an unmodified Linux guest asks of monitor and host, in its order, and what they answer: a replay of its source.
# A number in front says how often in a row. Written by: cargo conformance replay --write conformance/replay/linux.txt
";

/// Prints the list and writes it to a file if one is named.
///
/// # Errors
/// As [`list`], or what the file system says.
pub fn print(seed: u64, file: Option<&Path>) -> Result<bool, String> {
    if let Some(path) = file {
        output::check_writable(path)?;
    }
    let text = list(Options { seed, turns: TURNS, ..Options::default() }, POOL)?;
    print!("{text}");
    if let Some(path) = file {
        std::fs::write(path, &text).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    Ok(true)
}

/// The first line in which two lists differ: its number, what stands there, and what should.
pub fn first_difference(got: &str, want: &str) -> Option<String> {
    let (mut got, mut want) = (got.lines(), want.lines());
    for number in 1.. {
        let pair = (got.next(), want.next());
        match pair {
            (None, None) => break,
            (got, want) if got == want => {}
            (got, want) => {
                let line = |side: Option<&str>| side.unwrap_or("nothing").to_owned();
                return Some(format!("line {number}: got `{}`, want `{}`", line(got), line(want)));
            }
        }
    }
    None
}

/// The case of the suite.
pub(super) fn cases() -> Vec<Case<Snp>> {
    vec![Case {
        id: "S1-linux-replay",
        rule: "S1",
        threats: &[],
        kind: Kind::Contract,
        text: "every request of an unmodified Linux guest, in its order, is answered as that guest needs it",
        run: |bench| play(bench, SMALL_POOL).map(|_| ()),
    }]
}

/// Plays the whole order and gives the list.
fn play(bench: &mut Bench<Snp>, pool: u64) -> Result<String, Stop> {
    let bytes = POOL_START + pool - GUEST;
    let options = Options { vcpus: CPUS as u8, guest_bytes: bytes, handed_over: bytes, ..bench.options() };
    let vmpl = options.guest_level().number();
    let mut world = bench.world(options);
    let (record, signals) = (Record::default(), Signals::default());
    give_programs(&mut world, &record, &signals, pool);

    let reached = signals.clone();
    let end = world.run_until(move |_| reached.is_over() || reached.fragment.is_reached());
    if !signals.is_over() {
        world.expect(end)?;
        fragment(&mut world.runner.machine.0, pool);
        signals.fragment.open();
    }
    let reached = signals.clone();
    let end = world.run_until(move |_| reached.is_over());
    signals.over.borrow_mut().take().unwrap_or(Ok(()))?;
    world.expect(end)?;
    check_end(&world.runner.machine.0, &record, pool, vmpl)?;
    Ok(record.to_string())
}

/// The programs of both CPUs, each in place of a guest that knows this project.
fn give_programs(world: &mut World<Snp>, record: &Record, signals: &Signals, pool: u64) {
    let (log, inside) = (record.log(0), signals.clone());
    let boot = move |cpu: Cpu<'_, SnpModel>| {
        let done = first_cpu(&mut Kernel::new(cpu, log), &inside, pool);
        inside.end("CPU 0", done);
    };
    let mut boot = Some(boot);
    let first = move |_: Start| boot.take().map(|boot| Box::new(boot) as Body<SnpModel>);
    world.runner.at_entry(ENTRY_GUEST, Box::new(first));

    let (log, inside) = (record.log(1), signals.clone());
    let mut lives = 0..places::STATES.len();
    let further = move |_: Start| {
        let (log, inside, life) = (log.clone(), inside.clone(), lives.next()?);
        Some(Box::new(move |cpu: Cpu<'_, SnpModel>| {
            if let Err(stop) = aps::further_cpu(&mut Kernel::new(cpu, log), &inside, life) {
                inside.end("CPU 1", Err(stop));
            }
        }) as Body<SnpModel>)
    };
    world.runner.at_entry(places::TRAMPOLINE & 0xfff, Box::new(further));
}

/// What must hold when all is over: memory is the guest's own again, nothing it did is missing in the list, and L1 did not
/// work more than the lists are long.
fn check_end(machine: &Machine, record: &Record, pool: u64, vmpl: u8) -> Check {
    for region in [boot::BSS_DECRYPTED, places::pool(pool, Mapping::Direct)] {
        expect_private(machine, &region, vmpl)?;
    }
    same("VMGEXITs that the list knows of", record.vmgexits(), machine.counters_of_vmpl(vmpl).vmgexit)?;
    // A list that is refused entry by entry must not cost all of its rest each time.
    let l1 = machine.counters_of_vmpl(0);
    ensure(l1.rmpadjust <= 2 * l1.pvalidate, || format!("{} RMPADJUST, {} PVALIDATE", l1.rmpadjust, l1.pvalidate))
}

/// What a host without enough 2 MiB pages does: one small page of every fourth block is backed before the others.
fn fragment(machine: &mut Machine, pool: u64) {
    for block in (0..pool / LARGE).step_by(EVERY_SMALL as usize) {
        let at = POOL_START + block * LARGE;
        machine.rmpupdate(at, false, Some(at));
    }
}
