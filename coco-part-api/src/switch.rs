//! Verb 3: switch level.
//!
//! L1 *runs* a level and gets an [`Exit`]; a guest *calls* L1 and gets an answer. These are two traits because no code
//! could be generic over both.
//!
//! # For callers
//! The switch is not trusted. Where the host carries it out, it may not run the level at all, run another one, or come
//! back twice: then [`Exit::Spurious`] says so, nothing was lost, and running again is right. Every other exit is proved
//! by protected state.
//!
//! # For backend authors
//! - [`Exit`] is derived from protected state only, never from what the host says (S3).
//! - Before [`RunLevel::run`] reports a call, its pending mark is gone and the caller cannot run: a second return finds no
//!   call (S1). The caller stays stopped until [`RunLevel::answer`].
//! - `answer` changes the registers of the answer and no other (S2).
//! - State that the vendor does not switch is saved and restored around `run` (S4).

use x86_64::PhysAddr;
use x86_64::structures::paging::{PhysFrame, Size4KiB};

use crate::error::ErrorType;
use crate::level::GuestLevel;

/// The registers of a call to L1 and of its answer (SVSM calling convention).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CallRegs {
    /// Call in (protocol in the upper half, call in the lower), result out (lower half).
    pub rax: u64,
    /// First argument or result.
    pub rcx: u64,
    /// Second.
    pub rdx: u64,
    /// Third.
    pub r8: u64,
    /// Fourth.
    pub r9: u64,
}

/// A call that waits for its answer. Not `Clone`, and taken by [`RunLevel::answer`]: it cannot be answered twice.
///
/// Dropping one leaves the caller stopped: the next [`RunLevel::run`] of its level is refused as `InUse`.
#[must_use = "the caller stays stopped until its call is answered"]
#[derive(Debug)]
pub struct PendingCall {
    level: GuestLevel,
    regs: CallRegs,
}

impl PendingCall {
    /// For backends: a call whose pending mark is taken and whose caller is stopped.
    #[inline]
    pub const fn new(level: GuestLevel, regs: CallRegs) -> Self {
        Self { level, regs }
    }

    /// The level that called.
    #[inline]
    pub const fn level(&self) -> GuestLevel {
        self.level
    }

    /// The registers as they were at the call: one copy, taken after the caller was stopped.
    #[inline]
    pub const fn regs(&self) -> CallRegs {
        self.regs
    }
}

/// Read or write of a model-specific register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MsrAccess {
    /// RDMSR.
    Read {
        /// Which.
        msr: u32,
    },
    /// WRMSR.
    Write {
        /// Which.
        msr: u32,
        /// The value.
        value: u64,
    },
}

/// Direction of a port access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// IN: the answer goes to the guest.
    In,
    /// OUT.
    Out,
}

/// Access to an I/O port, not of a string instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortAccess {
    /// Port number.
    pub port: u16,
    /// Bytes: 1, 2 or 4.
    pub size: u8,
    /// IN or OUT.
    pub direction: Direction,
    /// Value of an OUT; zero for IN.
    pub value: u32,
}

/// What kind of access a lower level tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Data read.
    Read,
    /// Data write.
    Write,
    /// Instruction fetch.
    Execute,
}

/// Why memory did not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultCause {
    /// The page is not validated.
    NotValidated,
    /// The level lacks the right.
    NoRight,
    /// The host has not mapped it, or it is a device: memory-mapped I/O.
    NotMapped,
}

/// A memory access of a lower level that did not succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryFault {
    /// Guest-physical address.
    pub at: PhysAddr,
    /// What was tried.
    pub access: Access,
    /// Why it failed.
    pub cause: FaultCause,
}

/// Why a lower level came back. Not `#[non_exhaustive]`: a wildcard arm in a monitor would swallow a new exit.
#[derive(Debug)]
pub enum Exit {
    /// It called L1.
    Call(PendingCall),
    /// It called L1 with a pending mark the protocol reserves; the answer is "invalid format", and nothing is served.
    MalformedCall(PendingCall),
    /// CPUID, with EAX and ECX.
    Cpuid {
        /// EAX.
        leaf: u32,
        /// ECX.
        subleaf: u32,
    },
    /// RDMSR or WRMSR.
    Msr(MsrAccess),
    /// IN or OUT.
    Port(PortAccess),
    /// A memory access that failed.
    Memory(MemoryFault),
    /// HLT.
    Halt,
    /// It wants the host, which it reaches only through L1; the registers are its own.
    HostCall(PendingCall),
    /// L1 itself has an interrupt to take before the level can run.
    InterruptPending,
    /// Triple fault or the like: the vCPU cannot go on.
    Shutdown,
    /// It did something that none of the above describes; the vendor's code is for the log.
    Other {
        /// Vendor's exit code.
        code: u64,
    },
    /// The level did not run, or ran and did nothing that concerns L1. Nothing is lost by running it again.
    Spurious,
}

/// Running a level below on this vCPU. L1 only.
pub trait RunLevel: ErrorType {
    /// Runs the level until it exits.
    ///
    /// # Errors
    /// `NotFound` without a vCPU of that level here (S3); `InUse` while a call of it is unanswered; `HostMisbehaved` for an
    /// answer that belongs to another request.
    #[doc(alias = "VMGEXIT")]
    #[doc(alias = "TDG.VP.ENTER")]
    fn run(&mut self, level: GuestLevel) -> Result<Exit, Self::Error>;

    /// Writes the answer of a call into its caller's registers and lets it run again.
    ///
    /// # Errors
    /// `Inaccessible` when its state cannot be reached any more.
    fn answer(&mut self, call: PendingCall, regs: CallRegs) -> Result<(), Self::Error>;

    /// Moves the call area of this vCPU's part of `level`. The caller has checked that the page belongs to the level.
    ///
    /// # Errors
    /// `NotFound` without a vCPU of that level here.
    fn set_call_area(&mut self, level: GuestLevel, at: PhysFrame<Size4KiB>) -> Result<(), Self::Error>;
}

/// Calling L1: the one primitive below it. Guests only.
pub trait CallMonitor: ErrorType {
    /// Calls L1 and comes back with its answer.
    ///
    /// # Errors
    /// `HostMisbehaved` when L1 did not serve the call: no register of the answer means anything then, and calling again is
    /// right.
    fn call(&mut self, regs: CallRegs) -> Result<CallRegs, Self::Error>;
}

impl<T: CallMonitor + ?Sized> CallMonitor for &mut T {
    fn call(&mut self, regs: CallRegs) -> Result<CallRegs, Self::Error> {
        (**self).call(regs)
    }
}
