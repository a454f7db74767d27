//! What happened, step by step.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use crate::{Answer, Fault, Op, Outcome, Vcpu, exit_code};

/// One recorded event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Steps that the machine had executed when it happened.
    pub step: u64,
    /// Where.
    pub vcpu: Vcpu,
    /// The VMPL that ran, `None` for the host.
    pub vmpl: Option<u8>,
    /// What.
    pub kind: EventKind,
}

/// What an [`Event`] is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// A program's operation and how it ended.
    Step {
        /// The operation.
        op: OpSummary,
        /// How it ended, without page contents.
        outcome: String,
    },
    /// A VMSA was entered.
    Entered {
        /// Guest-physical address of the VMSA.
        vmsa: u64,
        /// Its VMPL.
        vmpl: u8,
    },
    /// A VMSA left.
    Left {
        /// Exit code.
        code: u64,
        /// EXITINFO1.
        info1: u64,
        /// EXITINFO2.
        info2: u64,
        /// GHCB MSR: the request, if this was VMGEXIT.
        ghcb_msr: u64,
    },
    /// The host did something.
    Host(HostEvent),
}

/// An [`Op`] without the bytes it moves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpSummary {
    /// Instruction in the architecture's words, lower case: `read`, `pvalidate`, `vmgexit`, ...
    pub name: &'static str,
    /// Up to three operands, by name.
    pub operands: Vec<(&'static str, u64)>,
}

/// What a host did. The host module pushes these with `Machine::note`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostEvent {
    /// It answered a GHCB MSR request.
    MsrProtocol {
        /// The guest's value.
        request: u64,
        /// The host's value.
        response: u64,
    },
    /// It answered a request in a GHCB page.
    GhcbPage {
        /// SW_EXITCODE.
        code: u64,
        /// SW_EXITINFO1 of the request.
        info1: u64,
        /// SW_EXITINFO2 of the request.
        info2: u64,
    },
    /// RMPUPDATE, with its return code.
    Rmpupdate {
        /// System address.
        spa: u64,
        /// Guest address it assigns to, `None` to take the page.
        gpa: Option<u64>,
        /// 2 MiB.
        large: bool,
        /// Return code.
        code: u32,
    },
    /// PSMASH, with its return code.
    Psmash {
        /// System address.
        spa: u64,
        /// Return code.
        code: u32,
    },
    /// It changed the nested map.
    Mapped {
        /// Guest address.
        gpa: u64,
        /// System address, `None` to unmap.
        spa: Option<u64>,
        /// 2 MiB.
        large: bool,
    },
    /// It set or cleared a reserved bit in a nested entry.
    MarkedDevice {
        /// Guest address.
        gpa: u64,
        /// Set.
        is_device: bool,
    },
    /// VMRUN failed.
    VmrunRefused {
        /// The VMSA.
        vmsa: u64,
    },
    /// The guest asked to be terminated.
    Terminated {
        /// Reason set.
        set: u8,
        /// Reason code.
        code: u8,
    },
    /// The vCPU is parked or stopped.
    Idle(&'static str),
    /// Anything else, in words.
    Text(String),
}

/// Collects events when it is on.
#[derive(Clone, Debug, Default)]
pub(crate) struct Trace {
    pub(crate) on: bool,
    pub(crate) events: Vec<Event>,
}

impl Trace {
    pub(crate) fn push(&mut self, step: u64, vcpu: Vcpu, vmpl: Option<u8>, kind: EventKind) {
        if self.on {
            self.events.push(Event { step, vcpu, vmpl, kind });
        }
    }
}

impl From<&Op> for OpSummary {
    fn from(op: &Op) -> Self {
        let (name, operands): (_, &[(&'static str, u64)]) = match op {
            Op::Read { gpa, len, private } => {
                ("read", &[("gpa", *gpa), ("len", *len as u64), ("c", u64::from(*private))])
            }
            Op::Write { gpa, bytes, private } => {
                ("write", &[("gpa", *gpa), ("len", bytes.len() as u64), ("c", u64::from(*private))])
            }
            Op::Zero { gpa, pages, private } => {
                ("zero", &[("gpa", *gpa), ("pages", *pages), ("c", u64::from(*private))])
            }
            Op::Swap8 { gpa, value } => ("xchg", &[("gpa", *gpa), ("value", u64::from(*value))]),
            Op::CompareExchange64 { gpa, expected, new } => {
                ("cmpxchg", &[("gpa", *gpa), ("expected", *expected), ("new", *new)])
            }
            Op::Fetch { gpa, user } => ("fetch", &[("gpa", *gpa), ("user", u64::from(*user))]),
            Op::Pvalidate { gpa, ecx, edx } => {
                ("pvalidate", &[("gpa", *gpa), ("ecx", u64::from(*ecx)), ("edx", u64::from(*edx))])
            }
            Op::Rmpadjust { gpa, rcx, rdx } => ("rmpadjust", &[("gpa", *gpa), ("rcx", *rcx), ("rdx", *rdx)]),
            Op::Rmpquery { gpa, rdx } => ("rmpquery", &[("gpa", *gpa), ("rdx", *rdx)]),
            Op::Vmgexit(regs) => ("vmgexit", &[("rax", regs.rax), ("rcx", regs.rcx), ("rdx", regs.rdx)]),
            Op::In { port, size } => ("in", &[("port", u64::from(*port)), ("size", u64::from(*size))]),
            Op::Out { port, size, value } => {
                ("out", &[("port", u64::from(*port)), ("size", u64::from(*size)), ("eax", u64::from(*value))])
            }
            Op::Intercepted { code, info1, length } => {
                ("intercepted", &[("code", *code), ("info1", *info1), ("length", u64::from(*length))])
            }
            Op::ShadowStack { gpa } => ("shadow stack", &[("gpa", *gpa)]),
            Op::Rdmsr(msr) => ("rdmsr", &[("msr", u64::from(*msr))]),
            Op::Wrmsr(msr, value) => ("wrmsr", &[("msr", u64::from(*msr)), ("value", *value)]),
            Op::Cpuid { leaf, subleaf } => ("cpuid", &[("eax", u64::from(*leaf)), ("ecx", u64::from(*subleaf))]),
            Op::Invlpgb { rax, ecx, edx } => {
                ("invlpgb", &[("rax", *rax), ("ecx", u64::from(*ecx)), ("edx", u64::from(*edx))])
            }
            Op::Tlbsync => ("tlbsync", &[]),
            Op::Pause => ("pause", &[]),
            Op::Hlt => ("hlt", &[]),
            Op::End => ("end", &[]),
        };
        Self { name, operands: operands.to_vec() }
    }
}

/// One line for how a step ended.
pub(crate) fn outcome_line(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Done(Answer::None) => String::from("done"),
        Outcome::Done(Answer::Bytes(bytes)) => alloc::format!("{} bytes", bytes.len()),
        Outcome::Done(Answer::Value(value)) => alloc::format!("{value:#x}"),
        Outcome::Done(Answer::Pvalidate { eax, carry }) => alloc::format!("eax={eax} cf={}", u8::from(*carry)),
        Outcome::Done(Answer::Rmpadjust { eax }) => alloc::format!("eax={eax}"),
        Outcome::Done(Answer::Rmpquery { eax, rcx, rdx }) => alloc::format!("eax={eax} rcx={rcx:#x} rdx={rdx:#x}"),
        Outcome::Done(Answer::Cpuid([eax, ebx, ecx, edx])) => alloc::format!("{eax:#x} {ebx:#x} {ecx:#x} {edx:#x}"),
        Outcome::Done(Answer::Regs(regs)) => alloc::format!("rax={:#x}", regs.rax),
        Outcome::Fault(Fault::GeneralProtection) => String::from("#GP"),
        Outcome::Fault(Fault::InvalidOpcode) => String::from("#UD"),
        Outcome::Fault(Fault::Vc { code, gpa }) => alloc::format!("#VC {code:#x} at {gpa:#x}"),
        Outcome::Exit => String::from("exit"),
    }
}

impl fmt::Display for OpSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)?;
        for (name, value) in &self.operands {
            write!(f, " {name}={value:#x}")?;
        }
        Ok(())
    }
}

impl fmt::Display for HostEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let size = |large: &bool| if *large { "2M" } else { "4K" };
        match self {
            Self::MsrProtocol { request, response } => write!(f, "ghcb msr {request:#x} -> {response:#x}"),
            Self::GhcbPage { code, info1, info2 } => write!(f, "ghcb page {code:#x} info {info1:#x} {info2:#x}"),
            Self::Rmpupdate { spa, gpa: Some(gpa), large, code } => {
                write!(f, "rmpupdate {} {spa:#x} assigned to {gpa:#x}: {code}", size(large))
            }
            Self::Rmpupdate { spa, gpa: None, large, code } => {
                write!(f, "rmpupdate {} {spa:#x} taken: {code}", size(large))
            }
            Self::Psmash { spa, code } => write!(f, "psmash {spa:#x}: {code}"),
            Self::Mapped { gpa, spa: Some(spa), large } => write!(f, "map {} {gpa:#x} to {spa:#x}", size(large)),
            Self::Mapped { gpa, spa: None, large } => write!(f, "unmap {} {gpa:#x}", size(large)),
            Self::MarkedDevice { gpa, is_device: true } => write!(f, "{gpa:#x} is a device"),
            Self::MarkedDevice { gpa, is_device: false } => write!(f, "{gpa:#x} is no device"),
            Self::VmrunRefused { vmsa } => write!(f, "vmrun {vmsa:#x} refused"),
            Self::Terminated { set, code } => write!(f, "terminated ({set},{code})"),
            Self::Idle(why) => f.write_str(why),
            Self::Text(text) => f.write_str(text),
        }
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>8} cpu{} ", self.step, self.vcpu.0)?;
        match self.vmpl {
            Some(vmpl) => write!(f, "vmpl{vmpl} ")?,
            None => f.write_str("host  ")?,
        }
        match &self.kind {
            EventKind::Step { op, outcome } => write!(f, "{op} -> {outcome}"),
            EventKind::Entered { vmsa, vmpl } => write!(f, "enters vmsa {vmsa:#x} at vmpl{vmpl}"),
            EventKind::Left { code, info1, info2, ghcb_msr } => match *code {
                exit_code::VMGEXIT => write!(f, "leaves with {code:#x}, ghcb msr {ghcb_msr:#x}"),
                exit_code::NPF => write!(f, "leaves with {code:#x} at {info2:#x}, info {info1:#x}"),
                _ => write!(f, "leaves with {code:#x}"),
            },
            EventKind::Host(event) => write!(f, "{event}"),
        }
    }
}
