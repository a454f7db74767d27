//! The same work by a guest that knows nothing of SNP, under ReflectVC, and by one that asks the host by its GHCB page.

use backend_snp::abi::cpuid::{CpuidAnswer, CpuidPage};
use coco_part_api::GuestMemory;
use machine::{Answer, Op, Regs, msr};
use x86_64::PhysAddr;

use super::Figure;
use super::counted::{Counted, Work};
use crate::platform::{Plain, Platform};
use crate::runner::Cpu;
use crate::snp::{Snp, SnpModel, Window};
use crate::suite::{Check, Stop, ensure};
use crate::world::Options;
use crate::world::layout::{CHANNEL, FEATURES, PAGE, range};

/// Rounds that are counted together.
const ROUNDS: u64 = 16;
/// Time stamp counter.
const TSC: u32 = 0x10;
/// x2APIC interrupt command register, and an interrupt for a vCPU that is not there.
const ICR: u32 = 0x830;
const TO_NOBODY: u64 = 99 << 32;
/// Serial port.
const COM1: u16 = 0x3f8;

/// One round: CPUID, RDMSR, WRMSR, OUT and HLT.
const WORK: [Plain; 5] = [
    Plain::Cpuid { leaf: 1, subleaf: 0 },
    Plain::ReadMsr(TSC),
    Plain::WriteMsr(ICR, TO_NOBODY),
    Plain::Out { port: COM1, size: 1, value: 0x41 },
    Plain::Halt,
];

/// Switches of one round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Switches {
    /// By a guest whose instructions come to L1.
    pub traps: u64,
    /// By a guest that asks the host, and reads CPUID in its own page.
    pub asks: u64,
}

/// Counts both.
///
/// # Errors
/// Work that did not succeed.
pub fn measure() -> Result<Switches, String> {
    let traps = count(Options { traps: true, ..Options::default() }, |counted, work| {
        counted.world.on_plain_guest(0, move |guest| {
            rounds(guest.cpu, &work, |instruction| guest.execute(instruction).map(|_| ()))
        });
    })?;
    let asks = count(Options::default(), |counted, work| {
        counted.world.on_guest(0, move |l2| rounds(l2.cpu, &work, |instruction| ask(l2.cpu, instruction)));
    })?;
    Ok(Switches { traps, asks })
}

/// The line of a run's output.
///
/// # Errors
/// As [`measure`].
pub fn line() -> Result<String, String> {
    let Switches { traps, asks } = measure()?;
    Ok(format!(
        "one round of CPUID, RDMSR, WRMSR, OUT and HLT at VMPL2: {traps} switches by a guest that traps, {asks} by one that asks"
    ))
}

/// Rows of the table.
pub(super) fn figures() -> Result<Vec<Figure>, String> {
    let Switches { traps, asks } = measure()?;
    let row = |name, what, value, floor| Figure { name, what, value, floor, aim: None };
    Ok(vec![
        // Each to L1 and back.
        row("switches_guest_traps", "VMRUNs for CPUID, RDMSR, WRMSR, OUT and HLT of a guest that traps", traps, 10),
        // All but CPUID to the host and back.
        row("switches_guest_asks", "VMRUNs for the same work of a guest that asks the host", asks, 4),
    ])
}

/// VMRUNs of one round.
fn count(options: Options<Snp>, install: impl FnOnce(&mut Counted<Snp>, Work)) -> Result<u64, String> {
    let mut counted = Counted::<Snp>::new(options);
    let work = Work::default();
    install(&mut counted, work.clone());
    let (before, after) = counted.of(&work, |model: &SnpModel| model.0.total_counters().vmruns)?;
    counted.finish()?;
    let all = after - before;
    if all.is_multiple_of(ROUNDS) { Ok(all / ROUNDS) } else { Err(format!("{ROUNDS} rounds took {all} switches")) }
}

fn rounds(cpu: Cpu<'_, SnpModel>, work: &Work, execute: impl Fn(Plain) -> Check) -> Check {
    work.before.wait(|| Snp::pause(cpu));
    for _ in 0..ROUNDS {
        WORK.into_iter().try_for_each(&execute)?;
    }
    work.after.wait(|| Snp::pause(cpu));
    Ok(())
}

/// What a kernel for SNP does in place of an instruction.
fn ask(cpu: Cpu<'_, SnpModel>, instruction: Plain) -> Check {
    match instruction {
        Plain::Cpuid { leaf, subleaf } => {
            let memory = Window::private(cpu, None);
            let page: CpuidPage = memory.read_value(PhysAddr::new(FEATURES)).map_err(|fault| fault.to_string())?;
            let found = page.table().map_err(|error| error.to_string())?.lookup(leaf, subleaf);
            ensure(matches!(found, CpuidAnswer::Entry(_)), || format!("no leaf {leaf:#x}"))
        }
        Plain::ReadMsr(number) => event(cpu, 0x7c, 0, &[(RCX, u64::from(number))]),
        Plain::WriteMsr(number, value) => {
            event(cpu, 0x7c, 1, &[(RCX, u64::from(number)), (RAX, value & 0xffff_ffff), (RDX, value >> 32)])
        }
        Plain::Out { port, value, .. } => {
            event(cpu, 0x7b, u64::from(port) << 16 | 1 << 9 | 1 << 4, &[(RAX, u64::from(value))])
        }
        other => Snp::plain(cpu, other).map(|_| ()).map_err(Stop::Wrong),
    }
}

/// Offsets in a GHCB page (`ghcb_page`).
const RAX: u64 = 0x1f8;
const RCX: u64 = 0x308;
const RDX: u64 = 0x310;
const EXIT: [u64; 3] = [0x390, 0x398, 0x3a0];
const VALID: u64 = 0x3f0;
const VERSION: u64 = 0xffa;

/// An event of the GHCB page with these registers.
fn event(cpu: Cpu<'_, SnpModel>, code: u64, info: u64, registers: &[(u64, u64)]) -> Check {
    let memory = Window::shared(cpu);
    let at = |offset: u64| PhysAddr::new(CHANNEL + offset);
    memory.zero(range(CHANNEL, PAGE)).map_err(|fault| fault.to_string())?;
    let mut valid = 0_u128;
    for (offset, value) in EXIT.into_iter().zip([code, info, 0]).chain(registers.iter().copied()) {
        memory.write_value(at(offset), &value).map_err(|fault| fault.to_string())?;
        valid |= 1 << (offset / 8);
    }
    memory.write(at(VALID), &valid.to_le_bytes()).map_err(|fault| fault.to_string())?;
    memory.write_value(at(VERSION), &2_u16).map_err(|fault| fault.to_string())?;
    for op in [Op::Wrmsr(msr::GHCB, CHANNEL), Op::Vmgexit(Regs::default())] {
        let done = cpu.execute(op);
        ensure(matches!(done, Ok(Answer::None | Answer::Regs(_))), || format!("event {code:#x}: {done:x?}"))?;
    }
    let [status, detail] = [EXIT[1], EXIT[2]].map(|offset| memory.read_value::<u64>(at(offset)));
    let (status, detail) = (status.map_err(|fault| fault.to_string())?, detail.map_err(|fault| fault.to_string())?);
    ensure(status & 0xffff_ffff == 0, || format!("event {code:#x}: SW_EXITINFO1 {status:#x}, SW_EXITINFO2 {detail:#x}"))
}
