//! Guests that know nothing of the vendor: their instructions trap, and L1 completes them.

use coco_part_api::{Completion, Direction, Error, ErrorKind, Exit, GuestState, MsrAccess, PortAccess, RunLevel, Trap};

use super::A_WHILE;
use super::by_hand::{LEVEL, on_early_guest, start_guest};
use crate::platform::{Found, Liar, Plain, Platform};
use crate::suite::create::case;
use crate::suite::{Bench, Case, Check, Stop, ensure, same};
use crate::world::devices::{LEAF, REGISTER, Told, leaf, port};
use crate::world::{Gate, L1, Options, PlainGuest};

/// The cases of this file.
pub(super) fn cases<P: Platform>() -> Vec<Case<P>> {
    vec![
        case!(
            "S1-trapping-guest",
            "S1",
            [],
            Contract,
            "a guest that knows nothing of the vendor executes CPUID, RDMSR, WRMSR, IN, OUT and HLT; each is done once",
            trapping_guest
        ),
        case!(
            "S2-trap-registers",
            "S2",
            ["RQ-23"],
            Contract,
            "completing an instruction changes its registers and RIP and nothing else, once, and only with what fits it",
            registers
        ),
        case!(
            "S1-trap-not-completed",
            "S1",
            [],
            Contract,
            "an instruction that L1 does not complete is executed again and told again, and HLT is over when it is told",
            not_completed
        ),
        case!(
            "H1-trap-hostile-guest",
            "H1",
            ["RQ-24"],
            HostileGuest,
            "any leaf, register and port is served or refused, and a register that does not exist is never read or written",
            hostile_guest
        ),
        case!(
            "H2-trap-under-liars",
            "H2",
            ["SW-01", "SW-02", "SW-03"],
            HostileHost,
            "a host that returns for nothing, again and again, or late has every instruction done once and rightly",
            under_liars
        ),
    ]
}

/// Options of a world whose guest traps.
pub(crate) fn trapping<P: Platform>(bench: &Bench<P>) -> Options<P> {
    Options { traps: true, ..bench.options() }
}

/// Serial port.
const COM1: u16 = 0x3f8;

/// What a plain guest does in each round, with a value that no other round has.
pub(crate) fn work<P: Platform>(guest: &PlainGuest<'_, P>, round: u32) -> Check {
    let value = u64::from(round) << 32 | 0x4c32;
    for (instruction, found) in [
        (Plain::Cpuid { leaf: LEAF, subleaf: round }, Found::Cpuid(leaf(round))),
        (Plain::WriteMsr(REGISTER, value), Found::Nothing),
        (Plain::ReadMsr(REGISTER), Found::Value(value)),
        (Plain::Out { port: COM1, size: 1, value: 0xffff_ff41 }, Found::Nothing),
        (Plain::In { port: COM1 + 5, size: 2 }, Found::Value(u64::from(port(COM1 + 5) & 0xffff))),
    ] {
        same(&format!("{instruction:x?} of round {round}"), guest.execute(instruction)?, found)?;
    }
    Ok(())
}

/// What the devices are told of that.
pub(crate) fn told(rounds: u32) -> Vec<Told> {
    let of_round = |round: u32| {
        let value = u64::from(round) << 32 | 0x4c32;
        [
            Told::Cpuid(LEAF, round),
            Told::WroteMsr(REGISTER, value),
            Told::ReadMsr(REGISTER),
            Told::Wrote(COM1, 1, 0x41),
            Told::Read(COM1 + 5, 2),
        ]
    };
    (0..rounds).flat_map(of_round).collect()
}

/// Runs rounds of work in a plain guest, which halts at its end, and checks what the devices were told.
pub(crate) fn rounds<P: Platform>(bench: &mut Bench<P>, options: Options<P>, rounds: u32) -> Check {
    let mut world = bench.world(options);
    let done = Gate::new();
    let gate = done.clone();
    world.on_plain_guest(0, move |guest| {
        (0..rounds).try_for_each(|round| work(&guest, round))?;
        gate.pass();
        same("HLT", guest.execute(Plain::Halt)?, Found::Nothing)
    });
    let end = world.run_to(&done);
    world.expect(end)?;
    same("what the devices were told", world.told(), told(rounds))?;
    // It halts, or goes on behind HLT and ends.
    world.run_for(A_WHILE, |_| false);
    ensure(world.complaints().is_empty(), || world.complaints().join("; "))?;
    same("what the devices were told afterwards", world.told(), told(rounds))
}

fn trapping_guest<P: Platform>(bench: &mut Bench<P>) -> Check {
    let options = trapping(bench);
    rounds(bench, options, 4)
}

fn under_liars<P: Platform>(bench: &mut Bench<P>) -> Check {
    let mut tried = 0;
    for liar in [Liar::SwitchesAgain, Liar::ReturnsForNothing, Liar::WithholdsKick] {
        let Some(host) = P::liar(liar) else { continue };
        for seed in 0..4 {
            let options = trapping(bench);
            let options = Options { host: host.clone(), seed: options.seed.wrapping_add(seed), ..options };
            rounds(bench, options, 3)?;
        }
        tried += 1;
    }
    ensure(tried >= 2, || format!("only {tried} liars of this vendor"))
}

/// Runs the level until it leaves for a reason of its own.
fn next<P: Platform>(l1: &mut L1<'_, P>) -> Result<Exit, Stop> {
    loop {
        match l1.backend.run(LEVEL).map_err(|error| Stop::Wrong(error.to_string()))? {
            Exit::Spurious | Exit::InterruptPending => P::pause(l1.cpu),
            exit => return Ok(exit),
        }
    }
}

/// One instruction, what L1 is told, what it completes it with, and what the guest finds.
struct Step {
    instruction: Plain,
    exit: Exit,
    with: Completion,
    finds: Found,
}

fn steps() -> Vec<Step> {
    let step = |instruction, exit, with, finds| Step { instruction, exit, with, finds };
    let port = |size, direction, value| Exit::Port(PortAccess { port: 0x70, size, direction, value });
    vec![
        step(
            Plain::Cpuid { leaf: 0x8000_0001, subleaf: 7 },
            Exit::Cpuid { leaf: 0x8000_0001, subleaf: 7 },
            Completion::Cpuid([0xa, 0xb, 0xc, u32::MAX]),
            Found::Cpuid([0xa, 0xb, 0xc, u32::MAX]),
        ),
        step(
            Plain::ReadMsr(REGISTER),
            Exit::Msr(MsrAccess::Read { msr: REGISTER }),
            Completion::Msr(0xffff_ffff_0000_0001),
            Found::Value(0xffff_ffff_0000_0001),
        ),
        step(
            Plain::WriteMsr(REGISTER, 0xfedc_ba98_7654_3210),
            Exit::Msr(MsrAccess::Write { msr: REGISTER, value: 0xfedc_ba98_7654_3210 }),
            Completion::Plain,
            Found::Nothing,
        ),
        step(
            Plain::In { port: 0x70, size: 1 },
            port(1, Direction::In, 0),
            Completion::In(0xffff_ff60),
            Found::Value(0x60),
        ),
        step(
            Plain::In { port: 0x70, size: 4 },
            port(4, Direction::In, 0),
            Completion::In(0xffff_ff60),
            Found::Value(0xffff_ff60),
        ),
        step(
            Plain::Out { port: 0x70, size: 2, value: 0x1234_5678 },
            port(2, Direction::Out, 0x5678),
            Completion::Plain,
            Found::Nothing,
        ),
    ]
}

/// What an exit reads like.
fn text(exit: &Exit) -> String {
    format!("{exit:x?}")
}

fn registers<P: Platform>(bench: &mut Bench<P>) -> Check {
    let options = trapping(bench);
    let mut world = bench.world(options.clone());
    world.on_l1(|mut l1| {
        start_guest(&mut l1)?;
        let wrong = |error: P::Error| Stop::Wrong(error.to_string());
        for step in steps() {
            let exit = next(&mut l1)?;
            same("exit", text(&exit), text(&step.exit))?;
            let trap = Trap::of(&exit).ok_or("no trap")?;
            let before = l1.backend.context(LEVEL).map_err(wrong)?;
            for other in [Completion::Cpuid([1; 4]), Completion::Msr(1), Completion::In(1), Completion::Plain] {
                if other.registers(trap, 0).is_none() {
                    refused(&mut l1, other, &format!("{other:x?} for {trap:?}"))?;
                }
            }
            same("the level after refusals", l1.backend.context(LEVEL).map_err(wrong)?, before)?;
            l1.backend.complete(LEVEL, step.with).map_err(wrong)?;
            let after = l1.backend.context(LEVEL).map_err(wrong)?;
            let mut want = before;
            let registers = step.with.registers(trap, before.gpr[0]).ok_or("it does not fit")?;
            for (register, value) in want.gpr.iter_mut().zip(registers) {
                *register = value.unwrap_or(*register);
            }
            let length = after.rip.wrapping_sub(before.rip);
            ensure((1..=15).contains(&length), || format!("RIP moved by {length:#x}"))?;
            want.rip = after.rip;
            same("the level after it", after, want)?;
            refused(&mut l1, step.with, "the same again")?;
            same("the level after that", l1.backend.context(LEVEL).map_err(wrong)?, want)?;
        }
        let _ = l1.backend.run(LEVEL);
        Ok(())
    });
    let log = on_early_guest(&mut world, &options, |l2| {
        steps().into_iter().try_for_each(|step| {
            let found = P::plain(l2.cpu, step.instruction).map_err(Stop::Wrong)?;
            same(&format!("{:x?}", step.instruction), found, step.finds)
        })
    });
    let end = world.run_to(&log.over);
    world.expect(end)?;
    log.check()
}

/// A completion that L1 must not get away with.
fn refused<P: Platform>(l1: &mut L1<'_, P>, with: Completion, what: &str) -> Check {
    let done = l1.backend.complete(LEVEL, with).map_err(|error| error.kind());
    same(what, done, Err(ErrorKind::InvalidArgument))
}

fn not_completed<P: Platform>(bench: &mut Bench<P>) -> Check {
    let options = trapping(bench);
    let mut world = bench.world(options.clone());
    world.on_l1(|mut l1| {
        start_guest(&mut l1)?;
        let cpuid = Exit::Cpuid { leaf: LEAF, subleaf: 3 };
        for _ in 0..3 {
            same("exit", text(&next(&mut l1)?), text(&cpuid))?;
        }
        l1.backend.complete(LEVEL, Completion::Cpuid(leaf(3))).map_err(|error| error.to_string())?;
        same("exit", text(&next(&mut l1)?), text(&Exit::Halt))?;
        refused(&mut l1, Completion::Plain, "HLT")?;
        let port = Exit::Port(PortAccess { port: COM1, size: 1, direction: Direction::Out, value: 0x42 });
        same("exit", text(&next(&mut l1)?), text(&port))?;
        l1.backend.complete(LEVEL, Completion::Plain).map_err(|error| error.to_string())?;
        let _ = l1.backend.run(LEVEL);
        refused(&mut l1, Completion::Plain, "nothing that waits")
    });
    let log = on_early_guest(&mut world, &options, |l2| {
        let execute = |instruction| P::plain(l2.cpu, instruction).map_err(Stop::Wrong);
        same("CPUID", execute(Plain::Cpuid { leaf: LEAF, subleaf: 3 })?, Found::Cpuid(leaf(3)))?;
        same("HLT", execute(Plain::Halt)?, Found::Nothing)?;
        same("OUT", execute(Plain::Out { port: COM1, size: 1, value: 0x42 })?, Found::Nothing)
    });
    let end = world.run_to(&log.over);
    world.expect(end)?;
    log.check()
}

fn hostile_guest<P: Platform>(bench: &mut Bench<P>) -> Check {
    // Leaves at every edge, and ports of every size, are served.
    let leaves = [0, 1, 0xd, 0x10, 0x4000_0000, 0x7fff_ffff, 0x8000_0000, 0x8000_001f, 0xc000_0000, u32::MAX];
    let mut world = bench.world(trapping(bench));
    let done = Gate::new();
    let gate = done.clone();
    world.on_plain_guest(0, move |guest| {
        for leaf in leaves {
            for subleaf in [0, 1, 63, u32::MAX] {
                let found = guest.execute(Plain::Cpuid { leaf, subleaf })?;
                ensure(matches!(found, Found::Cpuid(_)), || format!("CPUID {leaf:#x} gave {found:x?}"))?;
            }
        }
        for number in [0, 0x3f8, u16::MAX] {
            for (size, mask) in [(1, 0xff), (2, 0xffff), (4, 0xffff_ffff)] {
                let found = guest.execute(Plain::In { port: number, size })?;
                same("IN", found, Found::Value(u64::from(port(number)) & mask))?;
                same("OUT", guest.execute(Plain::Out { port: number, size, value: u32::MAX })?, Found::Nothing)?;
            }
        }
        gate.pass();
        Ok(())
    });
    let end = world.run_to(&done);
    world.expect(end)?;
    let wrote = world.told().iter().filter(|told| matches!(told, Told::Wrote(..))).count();
    same("ports written", wrote, 9)?;

    // A register that does not exist is #GP, or the end of the vCPU where L1 cannot raise that. Nothing is read or written.
    for access in [Plain::ReadMsr(REGISTER + 1), Plain::WriteMsr(REGISTER + 1, 7)] {
        let mut world = bench.world(trapping(bench));
        world.on_plain_guest(0, move |guest| {
            let found = guest.execute(access)?;
            same("an unknown register", found, Found::GeneralProtection)
        });
        world.run_for(A_WHILE, |_| false);
        ensure(world.complaints().is_empty(), || world.complaints().join("; "))?;
        let asked = match access {
            Plain::ReadMsr(msr) => Told::ReadMsr(msr),
            _ => Told::WroteMsr(REGISTER + 1, 7),
        };
        same("what the devices were asked", world.told(), vec![asked])?;
    }
    Ok(())
}
