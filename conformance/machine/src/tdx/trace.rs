//! What happened, step by step.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use super::{Answer, EptCause, Fault, Op, Outcome, TdExit};
use crate::{OpSummary, Vcpu};

/// One recorded event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Steps that the machine had executed when it happened.
    pub step: u64,
    /// Where.
    pub vcpu: Vcpu,
    /// The level that ran, 0 for L1; `None` for the host.
    pub level: Option<u8>,
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
    /// A program has the vCPU.
    Entered {
        /// 0 for L1, else the VM.
        level: u8,
    },
    /// The vCPU left the TD.
    TdExit(TdExit),
    /// An L2 left to L1.
    L2Exit {
        /// RAX as L1 finds it.
        status: u64,
        /// Guest-physical address, for an EPT violation.
        gpa: u64,
    },
    /// The host did something.
    Host(HostEvent),
}

/// What a host did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostEvent {
    /// It answered a TDVMCALL.
    Answered {
        /// Sub-function.
        sub_function: u64,
        /// R10.
        status: u64,
    },
    /// It added a page.
    Added {
        /// Guest address.
        gpa: u64,
        /// 2 MiB.
        large: bool,
        /// Whether the module took it.
        taken: bool,
    },
    /// It removed a page.
    Removed {
        /// Guest address.
        gpa: u64,
    },
    /// It blocked a page.
    Blocked {
        /// Guest address.
        gpa: u64,
    },
    /// It split a page.
    Demoted {
        /// Guest address.
        gpa: u64,
    },
    /// It added a table page of a VM.
    Table {
        /// VM.
        vm: u8,
        /// Guest address.
        gpa: u64,
    },
    /// It resumed L1 in place of an L2.
    ResumedL1,
    /// It sent an interrupt to L1 of a vCPU.
    Posted {
        /// vCPU.
        to: Vcpu,
    },
    /// Anything else, in words.
    Text(&'static str),
}

/// Collects events when it is on.
#[derive(Clone, Debug, Default)]
pub(crate) struct Trace {
    pub(crate) on: bool,
    pub(crate) events: Vec<Event>,
}

impl Trace {
    pub(crate) fn push(&mut self, step: u64, vcpu: Vcpu, level: Option<u8>, kind: EventKind) {
        if self.on {
            self.events.push(Event { step, vcpu, level, kind });
        }
    }
}

/// An operation without the bytes it moves.
pub(crate) fn summary(op: &Op) -> OpSummary {
    let (name, operands): (_, &[(&'static str, u64)]) = match op {
        Op::Read { gpa, len, private } => {
            ("read", &[("gpa", *gpa), ("len", *len as u64), ("private", u64::from(*private))])
        }
        Op::Write { gpa, bytes, private } => {
            ("write", &[("gpa", *gpa), ("len", bytes.len() as u64), ("private", u64::from(*private))])
        }
        Op::Zero { gpa, pages, private } => {
            ("zero", &[("gpa", *gpa), ("pages", *pages), ("private", u64::from(*private))])
        }
        Op::Swap8 { gpa, value, .. } => ("xchg", &[("gpa", *gpa), ("value", u64::from(*value))]),
        Op::CompareExchange64 { gpa, expected, new, .. } => {
            ("cmpxchg", &[("gpa", *gpa), ("expected", *expected), ("new", *new)])
        }
        Op::Fetch { gpa, user, .. } => ("fetch", &[("gpa", *gpa), ("user", u64::from(*user))]),
        Op::Tdcall(regs) => ("tdcall", &[("rax", regs.rax), ("rcx", regs.rcx), ("rdx", regs.rdx), ("r8", regs.r8)]),
        Op::UserTdcall(regs) => ("tdcall-cpl3", &[("rax", regs.rax)]),
        Op::Enter(regs) => ("vp.enter", &[("rax", regs.rax), ("rcx", regs.rcx), ("rdx", regs.rdx)]),
        Op::ReadUnswitched => ("xsave", &[]),
        Op::WriteUnswitched(_) => ("xrstor", &[]),
        Op::Vmcall { regs, cpl } => ("vmcall", &[("rax", regs.rax), ("rcx", regs.rcx), ("cpl", u64::from(*cpl))]),
        Op::Cpuid { leaf, subleaf } => ("cpuid", &[("eax", u64::from(*leaf)), ("ecx", u64::from(*subleaf))]),
        Op::Rdmsr(msr) => ("rdmsr", &[("msr", u64::from(*msr))]),
        Op::Wrmsr(msr, value) => ("wrmsr", &[("msr", u64::from(*msr)), ("value", *value)]),
        Op::Xsetbv(value) => ("xsetbv", &[("value", *value)]),
        Op::In { port, size } => ("in", &[("port", u64::from(*port)), ("size", u64::from(*size))]),
        Op::Out { port, size, value } => {
            ("out", &[("port", u64::from(*port)), ("size", u64::from(*size)), ("value", u64::from(*value))])
        }
        Op::Hlt => ("hlt", &[]),
        Op::Pause => ("pause", &[]),
        Op::Raise { vector, error } => {
            ("raise", &[("vector", u64::from(*vector)), ("error", u64::from(error.unwrap_or(0)))])
        }
        Op::Other { reason, qualification, .. } => {
            ("other", &[("reason", u64::from(*reason)), ("qualification", *qualification)])
        }
        Op::TripleFault => ("triple-fault", &[]),
        Op::End => ("end", &[]),
    };
    OpSummary { name, operands: operands.to_vec() }
}

/// One line for how a step ended.
pub(crate) fn outcome_line(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Done(Answer::None | Answer::Unswitched(_)) => String::from("done"),
        Outcome::Done(Answer::Bytes(bytes)) => alloc::format!("{} bytes", bytes.len()),
        Outcome::Done(Answer::Value(value)) => alloc::format!("{value:#x}"),
        Outcome::Done(Answer::Regs(regs)) => alloc::format!("rax={:#x}", regs.rax),
        Outcome::Done(Answer::Call(regs)) => alloc::format!("rax={:#x}", regs.rax),
        Outcome::Done(Answer::Cpuid([eax, ..])) => alloc::format!("eax={eax:#x}"),
        Outcome::Fault(Fault::GeneralProtection) => String::from("#GP"),
        Outcome::Fault(Fault::InvalidOpcode) => String::from("#UD"),
        Outcome::Fault(Fault::Ve { reason, gpa }) => alloc::format!("#VE {reason} at {gpa:#x}"),
        Outcome::Exit => String::from("exit"),
    }
}

impl fmt::Display for HostEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let size = |large: &bool| if *large { "2M" } else { "4K" };
        match self {
            Self::Answered { sub_function, status } => write!(f, "tdvmcall {sub_function:#x} -> {status:#x}"),
            Self::Added { gpa, large, taken: true } => write!(f, "adds {} {gpa:#x}", size(large)),
            Self::Added { gpa, large, taken: false } => write!(f, "adds {} {gpa:#x}: refused", size(large)),
            Self::Removed { gpa } => write!(f, "removes {gpa:#x}"),
            Self::Blocked { gpa } => write!(f, "blocks {gpa:#x}"),
            Self::Demoted { gpa } => write!(f, "splits {gpa:#x}"),
            Self::Table { vm, gpa } => write!(f, "adds table of vm{vm} for {gpa:#x}"),
            Self::ResumedL1 => f.write_str("resumes L1"),
            Self::Posted { to } => write!(f, "interrupt for cpu{}", to.0),
            Self::Text(text) => f.write_str(text),
        }
    }
}

impl fmt::Display for EptCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read => f.write_str("read"),
            Self::Write => f.write_str("write"),
            Self::Fetch => f.write_str("fetch"),
            Self::Accept { level } => write!(f, "accept level {level}"),
            Self::AttrRead => f.write_str("attr.rd"),
            Self::AttrWrite { level } => write!(f, "attr.wr level {level}"),
            Self::Table { vm, level } => write!(f, "table of vm{vm} level {level}"),
            Self::Operand => f.write_str("operand"),
        }
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>8} cpu{} ", self.step, self.vcpu.0)?;
        match self.level {
            Some(0) => f.write_str("l1    ")?,
            Some(vm) => write!(f, "vm{vm}   ")?,
            None => f.write_str("host  ")?,
        }
        match &self.kind {
            EventKind::Step { op, outcome } => write!(f, "{op} -> {outcome}"),
            EventKind::Entered { level: 0 } => f.write_str("enters l1"),
            EventKind::Entered { level } => write!(f, "enters vm{level}"),
            EventKind::TdExit(TdExit::Vmcall { regs, .. }) => write!(f, "leaves with tdvmcall {:#x}", regs.r11),
            EventKind::TdExit(TdExit::EptViolation { gpa, cause, .. }) => {
                write!(f, "leaves with ept violation at {gpa:#x}: {cause}")
            }
            EventKind::TdExit(TdExit::Interrupt { .. }) => f.write_str("leaves with interrupt"),
            EventKind::TdExit(TdExit::TripleFault) => f.write_str("leaves with triple fault"),
            EventKind::TdExit(TdExit::Ended) => f.write_str("ends"),
            EventKind::L2Exit { status, gpa: 0 } => write!(f, "leaves to l1 with {status:#x}"),
            EventKind::L2Exit { status, gpa } => write!(f, "leaves to l1 with {status:#x} at {gpa:#x}"),
            EventKind::Host(event) => write!(f, "{event}"),
        }
    }
}
