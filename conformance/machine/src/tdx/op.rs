//! The vocabulary between a program and the TDX machine it runs on.
//!
//! A program (L1, an L2) hands one [`Op`] at a time to [`Machine::step`](super::Machine::step) and gets an
//! [`Outcome`]. When the outcome is [`Outcome::Exit`] the program has lost the processor;
//! [`Machine::host`](super::Machine::host) then says who has it. Often that is the module's doing alone: VP.ENTER and
//! an exit from an L2 to L1 do not pass through the host.

use alloc::boxed::Box;
use alloc::vec::Vec;

use super::{CallRegs, Regs, Unswitched};
use crate::Vcpu;

/// One operation of a program. Addresses are guest-physical; without `private` the shared bit is added to them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Read `len` bytes (at most one page, not crossing one).
    Read {
        /// First byte.
        gpa: u64,
        /// Bytes.
        len: usize,
        /// Without the shared bit.
        private: bool,
    },
    /// Write bytes (at most one page, not crossing one).
    Write {
        /// First byte.
        gpa: u64,
        /// What to write.
        bytes: Vec<u8>,
        /// Without the shared bit.
        private: bool,
    },
    /// Zero whole 4 KiB pages.
    Zero {
        /// First page, 4 KiB aligned.
        gpa: u64,
        /// How many 4 KiB pages.
        pages: u64,
        /// Without the shared bit.
        private: bool,
    },
    /// Exchange one byte (XCHG).
    Swap8 {
        /// The byte.
        gpa: u64,
        /// New value.
        value: u8,
        /// Without the shared bit.
        private: bool,
    },
    /// Compare and exchange a quadword (LOCK CMPXCHG), 8-byte aligned.
    CompareExchange64 {
        /// The quadword.
        gpa: u64,
        /// Value it must have.
        expected: u64,
        /// Value to store then.
        new: u64,
        /// Without the shared bit.
        private: bool,
    },
    /// Fetch an instruction. Nobody executes shared memory.
    Fetch {
        /// Address.
        gpa: u64,
        /// CPL 3 (else CPL 0).
        user: bool,
        /// Without the shared bit.
        private: bool,
    },
    /// TDCALL at CPL 0, in L1 or in an L2.
    Tdcall(Regs),
    /// TDCALL at CPL 3: #GP in L1, an exit in an L2.
    UserTdcall(Regs),
    /// TDCALL of L1 with the leaf TDG.VP.ENTER in RAX. It does what [`Op::Tdcall`] does with the same registers; a
    /// port that switches [`Unswitched`] around it does so with [`Op::ReadUnswitched`] and [`Op::WriteUnswitched`].
    Enter(Regs),
    /// Read what the module does not switch (XSAVE, RDMSR, MOV from CR2 and DRs).
    ReadUnswitched,
    /// Write it. In an L2 only vector registers, CR2 and debug registers change: XSETBV and WRMSR are operations of
    /// their own.
    WriteUnswitched(Box<Unswitched>),
    /// VMCALL: in an L2 a call to L1, in L1 #UD.
    Vmcall {
        /// Registers of the call.
        regs: CallRegs,
        /// CPL, 0 to 3.
        cpl: u8,
    },
    /// CPUID.
    Cpuid {
        /// EAX.
        leaf: u32,
        /// ECX.
        subleaf: u32,
    },
    /// RDMSR.
    Rdmsr(u32),
    /// WRMSR.
    Wrmsr(u32, u64),
    /// XSETBV of XCR0.
    Xsetbv(u64),
    /// IN.
    In {
        /// Port.
        port: u16,
        /// Bytes: 1, 2 or 4.
        size: u8,
    },
    /// OUT.
    Out {
        /// Port.
        port: u16,
        /// Bytes: 1, 2 or 4.
        size: u8,
        /// EAX.
        value: u32,
    },
    /// HLT.
    Hlt,
    /// PAUSE: lets other vCPUs step.
    Pause,
    /// An exception of the program itself. An L2 exits to L1 where the exception bitmap of its VMCS says so; otherwise,
    /// and in L1, a handler of its own takes it.
    Raise {
        /// Vector, 0 to 31 but NMI and machine check.
        vector: u8,
        /// Error code, of those that have one.
        error: Option<u32>,
    },
    /// Any other instruction or event that has a basic exit reason (vmx_exit_reasons.csv). An L2 exits to L1 always or
    /// where its controls say so, or to the host; otherwise it retires without effect. In L1 it is #UD or #VE if it
    /// always exits from an L2.
    Other {
        /// Basic exit reason.
        reason: u32,
        /// Exit qualification.
        qualification: u64,
        /// Bytes of the instruction, 0 for an event.
        length: u32,
    },
    /// An exception that no handler takes. In L1 the end of the vCPU.
    TripleFault,
    /// The program ended (returned or gave up). In an L2 this is a triple fault, so that L1 learns of it.
    End,
}

/// What an operation that retired gives back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Nothing but that it retired.
    None,
    /// Bytes read.
    Bytes(Vec<u8>),
    /// A register value: MSR, IN, old value of an atomic.
    Value(u64),
    /// All registers after TDCALL.
    Regs(Regs),
    /// Registers after VMCALL.
    Call(CallRegs),
    /// CPUID: EAX, EBX, ECX, EDX.
    Cpuid([u32; 4]),
    /// What the module does not switch.
    Unswitched(Box<Unswitched>),
}

/// An exception delivered to the program itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// #GP(0).
    GeneralProtection,
    /// #UD.
    InvalidOpcode,
    /// #VE, in L1 only. TDG.VP.VEINFO.GET has the details.
    Ve {
        /// Exit reason.
        reason: u32,
        /// Address with the shared bit, for an EPT violation.
        gpa: u64,
    },
}

/// How a step ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The operation retired.
    Done(Answer),
    /// The operation raised an exception.
    Fault(Fault),
    /// The program lost the processor: to the host, to an L2 or to L1.
    Exit,
}

/// Which program: L1 of a vCPU, or one incarnation of an L2 of a vCPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RunKey {
    /// vCPU.
    pub vcpu: Vcpu,
    /// 0 for L1, else the VM.
    pub level: u8,
    /// Counts the programs that began there.
    pub generation: u64,
}

/// How the program that has the processor goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resume {
    /// Begin the program that belongs to this RIP, with these registers.
    Start {
        /// RIP.
        rip: u64,
        /// Registers; of an L2 those of its register page.
        regs: Box<Regs>,
    },
    /// The operation that exited retires now with this answer.
    Complete(Answer),
    /// The operation that exited is executed again.
    Retry,
}

/// A program has the processor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Which.
    pub key: RunKey,
    /// 0 for L1, else the VM.
    pub level: u8,
    /// How it goes on.
    pub resume: Resume,
}

/// Who has a vCPU after a program lost it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostStep {
    /// A program: the host or the module entered it.
    Entered(Entry),
    /// The host, which does not run it for now.
    Parked,
    /// The host, for ever.
    Stopped(Stop),
}

/// Why a vCPU stopped for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// L1 asked for it with ReportFatalError: R12.
    FatalError(u64),
    /// An EPT violation that the host does not repair.
    EptViolation {
        /// Address with the shared bit.
        gpa: u64,
        /// Who touched it: 0 for L1, else the VM.
        level: u8,
    },
    /// L1 had a triple fault, or a #VE while the information of another one had not been read.
    TripleFault,
    /// The program of L1 ended.
    Ended,
    /// The host will not run this vCPU any more.
    Refused,
}
