//! The vocabulary between a program and the machine it runs on.
//!
//! A program (monitor, guest) hands one [`Op`] at a time to [`Machine::step`](crate::Machine::step) and gets an
//! [`Outcome`]. When the outcome is [`Outcome::Exit`] the program has lost the processor: the host acts
//! ([`Machine::host`](crate::Machine::host)) until it enters some VMSA again, and the [`Entry`] says how the program of
//! that VMSA goes on.

use alloc::vec::Vec;

/// A virtual CPU, which is its APIC id too: 0 to 7.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Vcpu(pub u8);

/// The general registers that travel over a VMGEXIT (the SVSM calling convention).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Regs {
    /// RAX: call in, result out.
    pub rax: u64,
    /// RCX.
    pub rcx: u64,
    /// RDX.
    pub rdx: u64,
    /// R8.
    pub r8: u64,
    /// R9.
    pub r9: u64,
}

/// One operation of a program. Addresses are guest-physical; `private` is the C-bit of the mapping used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Read `len` bytes (at most one page, not crossing one).
    Read {
        /// First byte.
        gpa: u64,
        /// Bytes.
        len: usize,
        /// C-bit.
        private: bool,
    },
    /// Write bytes (at most one page, not crossing one).
    Write {
        /// First byte.
        gpa: u64,
        /// What to write.
        bytes: Vec<u8>,
        /// C-bit.
        private: bool,
    },
    /// Zero whole 4 KiB pages.
    Zero {
        /// First page, 4 KiB aligned.
        gpa: u64,
        /// How many 4 KiB pages.
        pages: u64,
        /// C-bit.
        private: bool,
    },
    /// Exchange one private byte (XCHG).
    Swap8 {
        /// The byte.
        gpa: u64,
        /// New value.
        value: u8,
    },
    /// Compare and exchange a private quadword (LOCK CMPXCHG), 8-byte aligned.
    CompareExchange64 {
        /// The quadword.
        gpa: u64,
        /// Value it must have.
        expected: u64,
        /// Value to store then.
        new: u64,
    },
    /// Fetch an instruction at a private address.
    Fetch {
        /// Address.
        gpa: u64,
        /// CPL 3 (else CPL 0).
        user: bool,
    },
    /// PVALIDATE with its raw operands.
    Pvalidate {
        /// RAX, through an identity map.
        gpa: u64,
        /// ECX.
        ecx: u32,
        /// EDX.
        edx: u32,
    },
    /// RMPADJUST with its raw operands.
    Rmpadjust {
        /// RAX, through an identity map.
        gpa: u64,
        /// RCX.
        rcx: u64,
        /// RDX.
        rdx: u64,
    },
    /// RMPQUERY with its raw operands.
    Rmpquery {
        /// RAX, through an identity map.
        gpa: u64,
        /// RDX.
        rdx: u64,
    },
    /// VMGEXIT; the registers are saved in the VMSA and reloaded from it on the way back.
    Vmgexit(Regs),
    /// RDMSR: #VC but for what the VMSA has a field for ([`msr`](crate::msr)).
    Rdmsr(u32),
    /// WRMSR, likewise.
    Wrmsr(u32, u64),
    /// IN (always #VC in an SNP guest).
    In {
        /// Port.
        port: u16,
        /// Bytes: 1, 2 or 4.
        size: u8,
    },
    /// OUT (always #VC in an SNP guest).
    Out {
        /// Port.
        port: u16,
        /// Bytes: 1, 2 or 4.
        size: u8,
        /// EAX.
        value: u32,
    },
    /// Any other instruction that the host intercepts: #VC with this code. Its registers are the VMSA's.
    Intercepted {
        /// Code of the #VC.
        code: u64,
        /// EXITINFO1.
        info1: u64,
        /// Bytes of the instruction.
        length: u8,
    },
    /// Write to a supervisor shadow stack in a private page.
    ShadowStack {
        /// Address.
        gpa: u64,
    },
    /// CPUID (always #VC in an SNP guest).
    Cpuid {
        /// EAX.
        leaf: u32,
        /// ECX.
        subleaf: u32,
    },
    /// INVLPGB with its raw operands.
    Invlpgb {
        /// RAX.
        rax: u64,
        /// ECX.
        ecx: u32,
        /// EDX.
        edx: u32,
    },
    /// TLBSYNC.
    Tlbsync,
    /// PAUSE: lets other vCPUs step.
    Pause,
    /// HLT: exits to the host, which resumes when it likes.
    Hlt,
    /// The program ended (returned or gave up). The vCPU never runs this VMSA again.
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
    /// CPUID: EAX, EBX, ECX, EDX.
    Cpuid([u32; 4]),
    /// PVALIDATE: EAX and CF.
    Pvalidate {
        /// EAX.
        eax: u32,
        /// RFLAGS.CF.
        carry: bool,
    },
    /// RMPADJUST: EAX.
    Rmpadjust {
        /// EAX.
        eax: u32,
    },
    /// RMPQUERY: EAX, RCX and RDX.
    Rmpquery {
        /// EAX.
        eax: u32,
        /// RCX.
        rcx: u64,
        /// RDX.
        rdx: u64,
    },
    /// Registers as the VMSA has them when it is entered again after VMGEXIT.
    Regs(Regs),
}

/// An exception delivered to the program itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// #GP(0).
    GeneralProtection,
    /// #UD.
    InvalidOpcode,
    /// #VC with its exit code; for 0x404 (page not validated) the address that was touched.
    Vc {
        /// Error code of the #VC.
        code: u64,
        /// Address, if the code has one.
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
    /// The vCPU left the guest; the host has it now.
    Exit,
}

/// Which incarnation of which VMSA runs: a page that is made a VMSA again is another key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RunKey {
    /// Guest-physical address of the VMSA page.
    pub vmsa: u64,
    /// Counts how often this page became a VMSA.
    pub generation: u64,
}

/// How the program of an entered VMSA goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resume {
    /// First entry: start the program that belongs to this RIP, with these registers.
    Start {
        /// RIP in the VMSA.
        rip: u64,
        /// Registers in the VMSA.
        regs: Regs,
    },
    /// The operation that exited retires now with this answer.
    Complete(Answer),
    /// The operation that exited is executed again (a nested page fault was repaired, or not).
    Retry,
}

/// A VMSA was entered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Which.
    pub run: RunKey,
    /// At which VMPL.
    pub vmpl: u8,
    /// How its program goes on.
    pub resume: Resume,
}

/// What the host did when it had the vCPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostStep {
    /// It entered a VMSA.
    Entered(Entry),
    /// It has nothing to run on this vCPU for now.
    Parked,
    /// It keeps the vCPU from running for ever (a nested fault it does not repair, a refusal, a terminated guest).
    Stopped(Stop),
}

/// Why a vCPU stopped for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The guest asked to be terminated: GHCB reason set and code.
    Terminated {
        /// Reason set.
        set: u8,
        /// Reason code.
        code: u8,
    },
    /// A nested page fault that the host does not repair.
    NestedFault {
        /// Address.
        gpa: u64,
        /// EXITINFO1.
        info: u64,
    },
    /// VMRUN refused the VMSA (VMEXIT_INVALID or BUSY).
    VmrunRefused,
    /// The host will not run this vCPU any more.
    Refused,
}
