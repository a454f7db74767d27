//! #VC: the handler of `backend-snp` on a vCPU of this machine, at VMPL0 and at the level of a guest.

use std::cell::RefCell;
use std::rc::Rc;

use backend_snp::SnpError;
use backend_snp::abi::cpuid::{CpuidAnswer, CpuidPage};
use backend_snp::abi::exit_codes::ExitCode;
use backend_snp::abi::segment::{Segment, SegmentAttributes};
use backend_snp::abi::sev_features::SevStatus;
use backend_snp::host::{Host, SharedAddr};
use backend_snp::insn::{Access, Gpr, LinearAddr, Registers, Segments};
use backend_snp::instr::Port;
use backend_snp::vc::{
    AddressSpace, Exception, Facts, Mapping, Outcome, PageEvents, PageFault, Privilege, VcContext, VcError, handle,
};
use coco_part_api::GuestMemory;
use machine::host::{DEVICE_PAGE, LOOPBACK_PORT, Policy};
use x86_64::PhysAddr;

use super::{TURNS, case};
use crate::platform::Platform;
use crate::snp::platform::Snp;
use crate::snp::port::ModelPort;
use crate::snp::window::Window;
use crate::suite::{Bench, Case, Check, Kind, Stop, ensure, same};
use crate::world::layout::{DATA, FEATURES, MONITOR_DATA, MONITOR_FEATURES, PAGE, page};
use crate::world::{Gate, World};

/// Bytes of one string, more than a request carries.
const STRING: u64 = 3000;
/// The bit that marks private mappings on this machine.
const C_BIT: u8 = 51;

/// The cases of this file.
pub(super) fn cases() -> Vec<Case<Snp>> {
    vec![
        case!(
            "H1-vc-instructions",
            "H1",
            ["GH-08", "CP-01"],
            Contract,
            "with the host's help every instruction that raises #VC ends as on a bare processor, at VMPL0 and in a guest",
            instructions
        ),
        case!(
            "H1-vc-false-exits",
            "H1",
            ["GH-10", "GH-11", "EV-03"],
            HostileHost,
            "an error code of #VC that the instruction does not have changes nothing and makes no exit, at VMPL0 and in a guest",
            false_exits
        ),
        case!(
            "H1-vc-private-device",
            "H1",
            ["PG-28", "GH-09", "PG-01"],
            HostileHost,
            "neither a private page, nor user code, nor a page that is not validated is emulated",
            nothing_to_emulate
        ),
        case!(
            "H1-vc-lying-hosts",
            "H1",
            ["GH-02", "GH-03", "GH-04", "CP-01", "GH-12"],
            HostileHost,
            "of a host's answers to an instruction, #GP and #UD are raised and every other misbehaviour is a named error",
            lying_hosts
        ),
    ]
}

/// Memory of one level, mapped one to one. Only the device is mapped without the C-bit.
struct Space<'y>(Window<'y>);

impl Space<'_> {
    fn fault(at: LinearAddr) -> PageFault {
        PageFault { at, error_code: 0 }
    }
}

impl AddressSpace for Space<'_> {
    fn fetch(&mut self, at: LinearAddr, into: &mut [u8], by: Privilege) -> Result<(), PageFault> {
        self.read(at, into, by)
    }

    fn read(&mut self, at: LinearAddr, into: &mut [u8], _: Privilege) -> Result<(), PageFault> {
        self.0.read(PhysAddr::new(at.as_u64()), into).map_err(|_| Self::fault(at))
    }

    fn write(&mut self, at: LinearAddr, from: &[u8], _: Privilege) -> Result<(), PageFault> {
        self.0.write(PhysAddr::new(at.as_u64()), from).map_err(|_| Self::fault(at))
    }

    fn translate(&mut self, at: LinearAddr, _: Access, _: Privilege) -> Result<Mapping, PageFault> {
        let gpa = PhysAddr::new(at.as_u64());
        let is_device = at.as_u64() & !(PAGE - 1) == DEVICE_PAGE;
        Ok(match SharedAddr::try_new(gpa, C_BIT, |_| !is_device) {
            Ok(device) => Mapping::Shared(device),
            Err(_) => Mapping::Private(gpa),
        })
    }
}

/// A vCPU that executes single instructions.
struct Code<'a, 'y> {
    host: &'a mut Host<Window<'y>>,
    port: &'a mut ModelPort<'y>,
    space: Space<'y>,
    features: Box<CpuidPage>,
    context: VcContext,
    /// Its instructions are in this page, and its data in the ones behind.
    at: u64,
}

impl<'a, 'y> Code<'a, 'y> {
    fn new(
        (host, port): (&'a mut Host<Window<'y>>, &'a mut ModelPort<'y>),
        memory: Window<'y>,
        features: u64,
        at: u64,
    ) -> Result<Self, Stop> {
        let page = memory.read_value(PhysAddr::new(features)).map_err(|error| Stop::Wrong(error.to_string()))?;
        let attributes = SegmentAttributes::default().with_present(1).with_s(1).with_descriptor_type(11).with_l(1);
        let context = VcContext {
            registers: Registers { rip: at, rflags: 2, ..Registers::default() },
            segments: Segments { cs: Segment { attributes, ..Segment::default() }, ..Segments::default() },
            efer: 0x500,
            cr0: 0x8000_0001,
            cr4: 0x20,
            xcr0: 1,
            dr7: 0x400,
            ..VcContext::default()
        };
        Ok(Self { host, port, space: Space(memory), features: Box::new(page), context, at })
    }

    /// Has the instruction raise #VC with this code.
    fn raise(&mut self, code: ExitCode, bytes: &[u8]) -> Result<Result<Outcome, VcError>, Stop> {
        let wrong = |error: &dyn std::fmt::Display| Stop::Wrong(error.to_string());
        self.context.registers.rip = self.at;
        self.space.0.write(PhysAddr::new(self.at), bytes).map_err(|error| wrong(&error))?;
        let facts = Facts {
            cpuid: self.features.table().map_err(|error| wrong(&error))?,
            apic_id: 0,
            sev_status: SevStatus::from_bits_retain(self.port.read_sev_status()),
            call_area: None,
        };
        let page = self.host.page().map_err(|error| wrong(&error))?;
        let mut events = PageEvents { port: self.port, page };
        Ok(handle(&mut self.context, code, &facts, &mut self.space, &mut events))
    }

    /// The same, to the end of the instruction.
    fn done(&mut self, code: ExitCode, bytes: &[u8]) -> Check {
        for _ in 0..8 {
            match self.raise(code, bytes)? {
                Ok(Outcome::Again) => same("RIP", self.context.registers.rip, self.at)?,
                outcome => {
                    same(&format!("{bytes:02x?}"), outcome, Ok(Outcome::Done))?;
                    return same("RIP", self.context.registers.rip, self.at + bytes.len() as u64);
                }
            }
        }
        Err(format!("{bytes:02x?} does not end").into())
    }

    /// The same, without any effect on the registers.
    fn refused(&mut self, code: ExitCode, bytes: &[u8]) -> Result<Result<Outcome, VcError>, Stop> {
        self.context.registers.rip = self.at;
        let before = self.context;
        let outcome = self.raise(code, bytes)?;
        ensure(self.context == before, || format!("{bytes:02x?} with {code:?} changed registers: {outcome:?}"))?;
        Ok(outcome)
    }

    fn set(&mut self, gpr: Gpr, value: u64) {
        self.context.registers.set_gpr(gpr, value);
    }

    fn gpr(&self, gpr: Gpr) -> u64 {
        self.context.registers.gpr(gpr)
    }

    fn bytes(&self, at: u64, len: u64) -> Result<Vec<u8>, Stop> {
        let mut bytes = vec![0; len as usize];
        self.space.0.read(PhysAddr::new(at), &mut bytes).map_err(|error| Stop::Wrong(error.to_string()))?;
        Ok(bytes)
    }
}

type Script = fn(&mut Code<'_, '_>) -> Check;

/// Runs a script at VMPL0 and, in a world of its own, in a guest, under a host that is honest until then. Gives how many
/// exits each of the two made.
fn at_both_levels(bench: &mut Bench<Snp>, host: &Policy, script: Script) -> Result<[u64; 2], Stop> {
    let mut exits = [0; 2];
    for (made, is_guest) in exits.iter_mut().zip([false, true]) {
        let mut world = bench.world(bench.options());
        let (gate, slot) = (Gate::new(), Rc::new(RefCell::new(None)));
        let (wait, tell) = (gate.clone(), Rc::clone(&slot));
        if is_guest {
            world.on_guest(0, move |mut l2| {
                l2.wait(&wait);
                let memory = Window::private(l2.cpu, None);
                let result = Code::new(l2.port.host(), memory, FEATURES, DATA).and_then(|mut code| script(&mut code));
                *tell.borrow_mut() = Some(result);
                Ok(())
            });
        } else {
            world.on_l1(move |mut l1| {
                let cpu = l1.cpu;
                wait.wait(|| Snp::pause(cpu));
                let memory = Window::private(cpu, None);
                let code = Code::new(l1.backend.host(), memory, MONITOR_FEATURES, MONITOR_DATA);
                *tell.borrow_mut() = Some(code.and_then(|mut code| script(&mut code)));
                Ok(())
            });
        }
        let reached = gate.clone();
        world.run_for(TURNS, move |_| reached.is_reached());
        let level = if is_guest { world.guest_level().number() } else { 0 };
        let count = |world: &World<Snp>| world.runner.machine.0.counters_of_vmpl(level).vmgexit;
        let before = count(&world);
        world.runner.machine.0.host_state_mut().set_policy(host.clone());
        gate.open();
        let watched = Rc::clone(&slot);
        let mut after = before;
        world.run_for(TURNS, |model| {
            let ended = watched.borrow().is_some();
            if !ended {
                after = model.0.counters_of_vmpl(level).vmgexit;
            }
            ended
        });
        let result = slot.borrow_mut().take();
        let told = || Stop::Wrong(format!("VMPL{level} under {host:?} did not end: {:?}", world.complaints()));
        let named = |stop| match stop {
            Stop::Wrong(text) => Stop::Wrong(format!("VMPL{level} under {host:?}: {text}")),
            other => other,
        };
        result.ok_or_else(told)?.map_err(named)?;
        *made = after - before;
    }
    Ok(exits)
}

fn instructions(bench: &mut Bench<Snp>) -> Check {
    let exits = at_both_levels(bench, &Policy::Honest, |code| {
        for leaf in [0, 1, 0x8000_0000, 0x8000_001f] {
            cpuid_is_the_page(code, leaf)?;
        }
        code.set(Gpr::RDX, LOOPBACK_PORT.into());
        code.set(Gpr::RAX, 0x1234_5678);
        code.done(ExitCode::IOIO, &[0x66, 0xef])?;
        code.set(Gpr::RAX, 0xffff_ffff_ffff_ffff);
        code.done(ExitCode::IOIO, &[0x66, 0xed])?;
        same("IN", code.gpr(Gpr::RAX), 0xffff_ffff_ffff_5678)?;

        strings(code)?;

        code.set(Gpr::RCX, 0x1122_3344_5566_7788);
        code.set(Gpr::RDI, DEVICE_PAGE + 8);
        code.done(ExitCode::NPF, &[0x48, 0x89, 0x0f])?;
        code.done(ExitCode::NPF, &[0x0f, 0xb7, 0x47, 0x02])?;
        same("MOVZX", code.gpr(Gpr::RAX), 0x5566)?;

        code.set(Gpr::RCX, 0x277);
        code.set(Gpr::RAX, 0x0102_0304);
        code.set(Gpr::RDX, 0x0506_0708);
        code.done(ExitCode::MSR, &[0x0f, 0x30])?;
        code.set(Gpr::RAX, 0);
        code.done(ExitCode::MSR, &[0x0f, 0x32])?;
        same("RDMSR", (code.gpr(Gpr::RAX), code.gpr(Gpr::RDX)), (0x0102_0304, 0x0506_0708))?;
        code.set(Gpr::RCX, 0x1234_5678);
        same("MSR", code.refused(ExitCode::MSR, &[0x0f, 0x32])?, GP)?;

        code.done(ExitCode::RDTSC, &[0x0f, 0x31])?;
        code.done(ExitCode::RDTSCP, &[0x0f, 0x01, 0xf9])?;
        code.set(Gpr::RCX, 1);
        code.done(ExitCode::RDPMC, &[0x0f, 0x33])?;
        code.done(ExitCode::WBINVD, &[0x0f, 0x09])?;
        code.done(ExitCode::MONITOR, &[0x0f, 0x01, 0xc8])?;
        code.done(ExitCode::MWAIT, &[0x0f, 0x01, 0xc9])?;
        code.set(Gpr::RBX, 0x401);
        code.done(ExitCode::DR7_WRITE, &[0x0f, 0x23, 0xfb])?;
        code.done(ExitCode::DR7_READ, &[0x0f, 0x21, 0xf8])?;
        same("DR7", code.gpr(Gpr::RAX), 0x401)?;
        code.done(ExitCode::VMMCALL, &[0x0f, 0x01, 0xd9])
    })?;
    ensure(exits.iter().all(|exits| *exits >= 19), || format!("{exits:?} exits"))
}

const GP: Result<Outcome, VcError> = Ok(Outcome::Raise(Exception::GENERAL_PROTECTION));
const UD: Result<Outcome, VcError> = Ok(Outcome::Raise(Exception::INVALID_OPCODE));

/// CPUID gives what the firmware checked, but for what is the vCPU's.
fn cpuid_is_the_page(code: &mut Code<'_, '_>, leaf: u32) -> Check {
    let table = code.features.table().map_err(|error| Stop::Wrong(error.to_string()))?;
    let CpuidAnswer::Entry(entry) = table.lookup(leaf, 0) else {
        return Err(format!("the page has no leaf {leaf:#x}").into());
    };
    code.set(Gpr::RAX, leaf.into());
    code.set(Gpr::RCX, 0);
    code.done(ExitCode::CPUID, &[0x0f, 0xa2])?;
    let got = [Gpr::RAX, Gpr::RBX, Gpr::RCX, Gpr::RDX].map(|gpr| code.gpr(gpr) as u32);
    let mut want = [entry.eax, entry.ebx, entry.ecx, entry.edx];
    if leaf == 1 {
        // The vCPU is number 0, and its XSAVE is off.
        want[1] &= 0x00ff_ffff;
        want[2] &= !(1 << 27);
    }
    same(&format!("CPUID {leaf:#x}"), got, want)
}

/// A string goes out to the loopback and comes back, in pieces.
fn strings(code: &mut Code<'_, '_>) -> Check {
    let [from, to] = [1, 3].map(|index| page(code.at, index));
    let sent: Vec<u8> = (0..STRING).map(|index| ((index * 7) >> 2) as u8).collect();
    code.space.0.write(PhysAddr::new(from), &sent).map_err(|error| Stop::Wrong(error.to_string()))?;
    code.set(Gpr::RDX, LOOPBACK_PORT.into());
    code.set(Gpr::RSI, from);
    code.set(Gpr::RDI, to);
    code.set(Gpr::RCX, STRING);
    code.done(ExitCode::IOIO, &[0xf3, 0x6e])?;
    same("OUTS", (code.gpr(Gpr::RSI), code.gpr(Gpr::RCX)), (from + STRING, 0))?;
    code.set(Gpr::RCX, STRING);
    code.done(ExitCode::IOIO, &[0xf3, 0x6c])?;
    same("INS", (code.gpr(Gpr::RDI), code.gpr(Gpr::RCX)), (to + STRING, 0))?;
    let got = code.bytes(to, STRING)?;
    ensure(got == sent, || "the string came back changed".into())
}

fn false_exits(bench: &mut Bench<Snp>) -> Check {
    let exits = at_both_levels(bench, &Policy::Honest, |code| {
        let instructions: [&[u8]; 9] = [
            &[0x90],
            &[0x0f, 0xa2],
            &[0x0f, 0x31],
            &[0x0f, 0x32],
            &[0xee],
            &[0x0f, 0x01, 0xd9],
            &[0xf3, 0x0f, 0x01, 0xd9],
            &[0xf4],
            &[0x88, 0x07],
        ];
        let fits = [0, 0x72, 0x6e, 0x7c, 0x7b, 0x81, 0, 0, 0x400];
        code.set(Gpr::RDI, DEVICE_PAGE);
        let mut tried = 0;
        for (bytes, fit) in instructions.into_iter().zip(fits) {
            for number in (0..0x100).chain(0x400..0x410).filter(|number| *number != fit) {
                let outcome = code.refused(ExitCode(number), bytes)?;
                let is_debug = number == 0x41 && outcome == Ok(Outcome::Raise(Exception::DEBUG));
                ensure(outcome.is_err() || is_debug, || format!("{bytes:02x?} with {number:#x}: {outcome:?}"))?;
                tried += 1;
            }
        }
        ensure(tried > 2000, || format!("{tried} tries"))
    })?;
    same("exits", exits, [0, 0])
}

fn nothing_to_emulate(bench: &mut Bench<Snp>) -> Check {
    let exits = at_both_levels(bench, &Policy::Honest, |code| {
        let secret = page(code.at, 1);
        let before = code.bytes(secret, 16)?;
        code.set(Gpr::RSI, secret);
        code.set(Gpr::RDI, secret);
        let private = Err(VcError::PrivateDevice { at: LinearAddr::new(secret) });
        for bytes in [&[0x8b, 0x06][..], &[0x88, 0x07], &[0xa4], &[0xaa], &[0x0f, 0xb6, 0x06]] {
            same(&format!("{bytes:02x?}"), code.refused(ExitCode::NPF, bytes)?, private)?;
        }
        same("the page", code.bytes(secret, 16)?, before)?;

        code.context.cr2 = secret;
        let invalid = VcError::PageNotValidated { at: LinearAddr::new(secret) };
        same("0x404", code.refused(ExitCode::PAGE_NOT_VALIDATED, &[0x8b, 0x06])?, Err(invalid))?;

        code.context.cpl = 3;
        code.set(Gpr::RSI, DEVICE_PAGE);
        let user = VcError::UserDevice { rip: code.at };
        same("user device", code.refused(ExitCode::NPF, &[0x8b, 0x06])?, Err(user))?;
        for bytes in [&[0xe4, 0x60][..], &[0xee], &[0x6c], &[0xf3, 0x6f]] {
            same(&format!("user {bytes:02x?}"), code.refused(ExitCode::IOIO, bytes)?, GP)?;
        }
        same("user RDMSR", code.refused(ExitCode::MSR, &[0x0f, 0x32])?, GP)
    })?;
    same("exits", exits, [0, 0])
}

fn lying_hosts(bench: &mut Bench<Snp>) -> Check {
    use Policy::{BogusException, ClearValidBits, LieCpuid, LieMsr, WrongStatus};
    let mut asked = 0;
    let rows: [(Policy, Script); 7] = [
        (BogusException(0x8000_0b0d), |code| same("#GP", code.refused(ExitCode::IOIO, &[0xe4, 0x60])?, GP)),
        (BogusException(0x8000_0306), |code| same("#UD", code.refused(ExitCode::RDTSC, &[0x0f, 0x31])?, UD)),
        (BogusException(0x8000_030e), |code| {
            let error = VcError::Host(SnpError::ForbiddenException { info: 0x8000_030e });
            same("#PF", code.refused(ExitCode::RDTSC, &[0x0f, 0x31])?, Err(error))
        }),
        (WrongStatus(3), |code| {
            let error = VcError::Host(SnpError::UnknownStatus { status: 3 });
            same("status", code.refused(ExitCode::VMMCALL, &[0x0f, 0x01, 0xd9])?, Err(error))
        }),
        (ClearValidBits, |code| {
            let outcome = code.refused(ExitCode::MSR, &[0x0f, 0x32])?;
            ensure(matches!(outcome, Err(VcError::Host(SnpError::MissingField { .. }))), || format!("{outcome:?}"))
        }),
        (LieCpuid, |code| {
            cpuid_is_the_page(code, 0x8000_001f)?;
            // The host's own range is its own word.
            code.set(Gpr::RAX, 0x4000_0000);
            code.done(ExitCode::CPUID, &[0x0f, 0xa2])
        }),
        (LieMsr, |code| {
            // What cannot be intercepted is not asked for, and what can is the host's word.
            code.set(Gpr::RCX, 0xc001_0131);
            let error = VcError::ProtectedMsr { msr: 0xc001_0131 };
            same("SEV_STATUS", code.refused(ExitCode::MSR, &[0x0f, 0x32])?, Err(error))?;
            code.set(Gpr::RCX, 0x277);
            code.done(ExitCode::MSR, &[0x0f, 0x32])
        }),
    ];
    for (host, script) in rows {
        asked += at_both_levels(bench, &host, script)?.iter().sum::<u64>();
    }
    same("exits", asked, 14)
}
