//! Why a level leaves, and what L1 makes of it.

use std::cell::Cell;
use std::rc::Rc;

use coco_part_api::svsm::{CORE, CallId, PVALIDATE};
use coco_part_api::{
    Access, CallRegs, Direction, Exit, FaultCause, Grant, Grants, GuestLevel, GuestState, MemoryFault, MsrAccess,
    Origin, PortAccess, Rights, RunLevel,
};
use machine::tdx::host::Policy;
use machine::tdx::{Answer, Fault, Op};
use x86_64::PhysAddr;

use super::{TURNS, case, everything_done_under};
use crate::suite::create::vcpus::{Plan, bring_up, query, query_answer, wait_for};
use crate::suite::probe::{call, list_words, put, validate};
use crate::suite::switch::by_hand::{LEVEL, on_early_guest, start_guest};
use crate::suite::{Bench, Case, Check, Kind, Stop, ensure, same};
use crate::tdx::Tdx;
use crate::world::layout::{CALL_AREA, DATA, FREE, HOLE, PAGE, range};
use crate::world::{Gate, L1, Options};

/// Where cases put lists of their own.
const LIST: u64 = DATA + 0x1_0000;
/// General registers by their number.
const RAX: usize = 0;
const RCX: usize = 1;
const RDX: usize = 2;
const RBX: usize = 3;

/// The cases of this file.
pub(super) fn cases() -> Vec<Case<Tdx>> {
    vec![
        case!(
            "S3-every-exit",
            "S3",
            ["TD-07"],
            Contract,
            "each reason to leave is told as what it is, and L1 can answer the ones that a guest without calls relies on",
            every_exit
        ),
        case!(
            "S3-memory-exits",
            "S3",
            ["TD-07", "PG-25"],
            Contract,
            "a touch of memory without the right, or that is not mapped, is told with address, access and cause",
            memory_exits
        ),
        case!(
            "S1-user-call",
            "S1",
            ["RQ-24"],
            HostileGuest,
            "a call from user code is not served: it raises #GP there and changes nothing",
            user_call
        ),
        case!(
            "S3-interrupted",
            "S3",
            ["TD-07", "TD-08"],
            HostileHost,
            "a level that the host interrupts, or whose L1 it interrupts, goes on as if nothing had been",
            interrupted
        ),
        case!(
            "S3-shutdown",
            "S3",
            ["TD-07"],
            HostileGuest,
            "a triple fault, and a state that no processor takes, end the vCPU and nothing else",
            shutdown
        ),
    ]
}

/// Runs the level until it leaves for a reason of its own.
fn next(l1: &mut L1<'_, Tdx>) -> Result<Exit, Stop> {
    loop {
        match l1.backend.run(LEVEL).map_err(|error| Stop::Wrong(error.to_string()))? {
            Exit::Spurious | Exit::InterruptPending => {}
            exit => return Ok(exit),
        }
    }
}

/// Answers an exit: registers by number, and RIP behind an instruction of so many bytes.
fn answer(l1: &mut L1<'_, Tdx>, length: u64, registers: &[(usize, u64)]) -> Check {
    let wrong = |error: &dyn std::fmt::Display| Stop::Wrong(error.to_string());
    let mut context = l1.backend.context(LEVEL).map_err(|error| wrong(&error))?;
    for (register, value) in registers {
        context.gpr[*register] = *value;
    }
    context.rip += length;
    l1.backend.set_context(LEVEL, &context).map_err(|error| wrong(&error))
}

/// One instruction of a level, what L1 has to be told, its answer, and what the level has to find.
struct Trap {
    op: Op,
    exit: &'static str,
    /// Bytes of the instruction, and registers of the answer.
    answer: (u64, &'static [(usize, u64)]),
    finds: Answer,
}

fn traps() -> Vec<Trap> {
    let exit = |exit: Exit| &*format!("{exit:?}").leak();
    let port = |port, size, direction, value| exit(Exit::Port(PortAccess { port, size, direction, value }));
    vec![
        Trap {
            op: Op::Cpuid { leaf: 0x4000_0001, subleaf: 7 },
            exit: exit(Exit::Cpuid { leaf: 0x4000_0001, subleaf: 7 }),
            answer: (2, &[(RAX, 0xa), (RBX, 0xb), (RCX, 0xc), (RDX, 0xd)]),
            finds: Answer::Cpuid([0xa, 0xb, 0xc, 0xd]),
        },
        Trap {
            op: Op::Rdmsr(0x1b),
            exit: exit(Exit::Msr(MsrAccess::Read { msr: 0x1b })),
            answer: (2, &[(RAX, 0x5678), (RDX, 0x1234)]),
            finds: Answer::Value(0x1234_0000_5678),
        },
        Trap {
            op: Op::Wrmsr(0x830, 0xfedc_ba98_7654_3210),
            exit: exit(Exit::Msr(MsrAccess::Write { msr: 0x830, value: 0xfedc_ba98_7654_3210 })),
            answer: (2, &[]),
            finds: Answer::None,
        },
        Trap {
            op: Op::In { port: 0x3fd, size: 1 },
            exit: port(0x3fd, 1, Direction::In, 0),
            answer: (1, &[(RAX, 0x60)]),
            finds: Answer::Value(0x60),
        },
        Trap {
            op: Op::Out { port: 0xcf8, size: 4, value: 0x8000_0000 },
            exit: port(0xcf8, 4, Direction::Out, 0x8000_0000),
            answer: (1, &[]),
            finds: Answer::None,
        },
        Trap {
            op: Op::Out { port: 0x3f8, size: 1, value: 0x1_4161 },
            exit: port(0x3f8, 1, Direction::Out, 0x61),
            answer: (1, &[]),
            finds: Answer::None,
        },
        // XSETBV is in no vendor's common part.
        Trap { op: Op::Xsetbv(3), exit: exit(Exit::Other { code: 55 }), answer: (3, &[]), finds: Answer::None },
    ]
}

fn every_exit(bench: &mut Bench<Tdx>) -> Check {
    let options = bench.options();
    let mut world = bench.world(options.clone());
    world.on_l1(|mut l1| {
        start_guest(&mut l1)?;
        for trap in traps() {
            same("exit", format!("{:?}", next(&mut l1)?).as_str(), trap.exit)?;
            answer(&mut l1, trap.answer.0, trap.answer.1)?;
        }
        // HLT is over: nothing to answer.
        same("exit", format!("{:?}", next(&mut l1)?), format!("{:?}", Exit::Halt))?;
        let Exit::HostCall(call) = next(&mut l1)? else { return Err("TDCALL is no host call".into()) };
        same("its registers", (call.regs().rax, call.regs().rcx), (4, 0x77))?;
        let refused = CallRegs { rax: 0xc000_0100_0000_0000, ..call.regs() };
        l1.backend.answer(call, refused).map_err(|error| error.to_string())?;
        same("the end", format!("{:?}", next(&mut l1)?), format!("{:?}", Exit::Shutdown))
    });
    let log = on_early_guest(&mut world, &options, |l2| {
        for trap in traps() {
            same("what the level finds", l2.cpu.execute(trap.op), Ok(trap.finds))?;
        }
        same("after HLT", l2.cpu.execute(Op::Hlt), Ok(Answer::None))?;
        let leaf = machine::tdx::Regs { rax: 4, rcx: 0x77, ..Default::default() };
        match l2.cpu.execute(Op::Tdcall(leaf)) {
            Ok(Answer::Regs(regs)) => same("refused leaf", regs.rax, 0xc000_0100_0000_0000),
            other => Err(format!("TDCALL gave {other:?}").into()),
        }
    });
    world.finish()?;
    log.check()
}

fn memory_exits(bench: &mut Bench<Tdx>) -> Check {
    let options = bench.options();
    let mut world = bench.world(options.clone());
    let fault = |at, access, cause| Exit::Memory(MemoryFault { at: PhysAddr::new(at), access, cause });
    world.on_l1(move |mut l1| {
        start_guest(&mut l1)?;
        let read_only = Grants::one(LEVEL, Rights::READ);
        let validated = l1.backend.validate_for(range(FREE, PAGE), &read_only, Origin::Monitor);
        validated.map_err(|stopped| stopped.cause.to_string())?;
        let others = Grants::one(GuestLevel::ONE, Rights::RAM);
        let validated = l1.backend.validate_for(range(FREE + PAGE, PAGE), &others, Origin::Monitor);
        validated.map_err(|stopped| stopped.cause.to_string())?;
        for exit in [
            fault(FREE, Access::Write, FaultCause::NoRight),
            fault(FREE, Access::Execute, FaultCause::NoRight),
            fault(FREE + PAGE, Access::Read, FaultCause::NoRight),
            fault(HOLE, Access::Read, FaultCause::NotMapped),
        ] {
            same("exit", format!("{:?}", next(&mut l1)?), format!("{exit:?}"))?;
            // Emulated as nothing: behind the instruction.
            answer(&mut l1, 3, &[])?;
        }
        same("the end", format!("{:?}", next(&mut l1)?), format!("{:?}", Exit::Shutdown))
    });
    let log = on_early_guest(&mut world, &options, |l2| {
        let read = |gpa| Op::Read { gpa, len: 8, private: true };
        same("what it may", l2.cpu.execute(read(FREE)), Ok(Answer::Bytes(vec![0; 8])))?;
        let _ = l2.cpu.execute(Op::Write { gpa: FREE, bytes: vec![1], private: true });
        let _ = l2.cpu.execute(Op::Fetch { gpa: FREE, user: false, private: true });
        let _ = l2.cpu.execute(read(FREE + PAGE));
        let _ = l2.cpu.execute(read(HOLE));
        same("what it may, afterwards", l2.cpu.execute(read(FREE)), Ok(Answer::Bytes(vec![0; 8])))
    });
    world.finish()?;
    log.check()
}

fn user_call(bench: &mut Bench<Tdx>) -> Check {
    let options = bench.options();
    let mut world = bench.world(options);
    world.on_guest(0, |l2| {
        put(&l2, &list_words(LIST, &[validate(FREE)]))?;
        let rax = CallId::new(CORE, PVALIDATE).to_rax();
        let regs = machine::tdx::CallRegs { rax, rcx: LIST, ..Default::default() };
        for _ in 0..2 {
            same("VMCALL", l2.cpu.execute(Op::Vmcall { regs, cpl: 3 }), Err(Fault::GeneralProtection))?;
            let leaf = machine::tdx::Regs { rax: 4, ..Default::default() };
            same("TDCALL", l2.cpu.execute(Op::UserTdcall(leaf)), Err(Fault::GeneralProtection))?;
        }
        Ok(())
    });
    world.finish()?;
    same("the page that was asked for", world.peek(FREE, 8, Some(2)), None)?;
    same("the list", world.peek(LIST, 8, Some(2)), Some(1_u64.to_le_bytes().to_vec()))
}

fn interrupted(bench: &mut Bench<Tdx>) -> Check {
    let hosts = [
        Policy::PostInterrupts { every: 5 },
        Policy::PostInterrupts { every: 3 },
        Policy::ResumeL1 { every: 2 },
        Policy::Interrupt { every: 2 },
    ];
    everything_done_under(bench, &hosts)
}

fn shutdown(bench: &mut Bench<Tdx>) -> Check {
    let options = bench.options();
    let mut world = bench.world(Options { vcpus: 2, ..options });
    let calls = Gate::new();
    let (gate, served) = (calls.clone(), Rc::new(Cell::new(false)));
    let flag = Rc::clone(&served);
    world.on_guest(0, move |mut l2| {
        bring_up(&mut l2, Plan::of(1))?;
        wait_for(&l2, &gate);
        for _ in 0..4 {
            same("a call", call(&mut l2, query())?, query_answer())?;
        }
        flag.set(true);
        Ok(())
    });
    world.on_guest(1, move |l2| {
        calls.pass();
        let _ = l2.cpu.execute(Op::TripleFault);
        Err("it went on after a triple fault".into())
    });
    world.run_for(TURNS, |_| false);
    ensure(world.complaints().is_empty(), || world.complaints().join("; "))?;
    ensure(served.get(), || "the other vCPU was not served".into())?;

    // A state that VP.ENTER does not take: L1 sets it past its own checks.
    let options = bench.options();
    let mut world = bench.world(options.clone());
    world.on_l1(|mut l1| {
        start_guest(&mut l1)?;
        same("before", format!("{:?}", next(&mut l1)?), format!("{:?}", Exit::Halt))?;
        let mut context = l1.backend.context(LEVEL).map_err(|error| error.to_string())?;
        context.rflags &= !2;
        let refused = l1.backend.set_context(LEVEL, &context);
        ensure(refused.is_err(), || "RFLAGS without its fixed bit was taken".into())?;
        same("after", format!("{:?}", next(&mut l1)?), format!("{:?}", Exit::Shutdown))
    });
    let log = on_early_guest(&mut world, &options, |l2| {
        same("HLT", l2.cpu.execute(Op::Hlt), Ok(Answer::None))?;
        let area = Op::Read { gpa: CALL_AREA, len: 1, private: true };
        same("goes on", l2.cpu.execute(area), Ok(Answer::Bytes(vec![0])))
    });
    world.finish()?;
    log.check()
}
