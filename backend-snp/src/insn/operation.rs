//! What an instruction asks for.

use super::operand::{MemoryOperand, PortNumber, Register, SegmentName, Source, Width};
use super::registers::Gpr;

/// A decoded instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instruction {
    /// What it does.
    pub operation: Operation,
    /// Length in bytes, 1 to 15.
    pub len: u8,
}

/// The listed operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// CPUID.
    Cpuid,
    /// RDMSR.
    Rdmsr,
    /// WRMSR.
    Wrmsr,
    /// RDTSC.
    Rdtsc,
    /// RDTSCP.
    Rdtscp,
    /// RDPMC.
    Rdpmc,
    /// INVD.
    Invd,
    /// WBINVD.
    Wbinvd,
    /// WBNOINVD.
    Wbnoinvd,
    /// MONITOR.
    Monitor,
    /// MONITORX.
    Monitorx,
    /// MWAIT.
    Mwait,
    /// MWAITX.
    Mwaitx,
    /// VMMCALL.
    Vmmcall,
    /// HLT.
    Hlt,
    /// IN to AL, AX or EAX.
    In {
        /// Where from.
        port: PortNumber,
        /// How much; never a [`Width::Qword`].
        width: Width,
    },
    /// OUT from AL, AX or EAX.
    Out {
        /// Where to.
        port: PortNumber,
        /// How much; never a [`Width::Qword`].
        width: Width,
    },
    /// INS from the port in DX to ES:rDI.
    Ins {
        /// Size of an element; never a [`Width::Qword`].
        width: Width,
        /// The rest; its segment is ES.
        form: StringForm,
    },
    /// OUTS from segment:rSI to the port in DX.
    Outs {
        /// Size of an element; never a [`Width::Qword`].
        width: Width,
        /// The rest.
        form: StringForm,
    },
    /// MOVS from segment:rSI to ES:rDI.
    Movs {
        /// Size of an element.
        width: Width,
        /// The rest.
        form: StringForm,
    },
    /// STOS of rAX to ES:rDI.
    Stos {
        /// Size of an element.
        width: Width,
        /// The rest; its segment is ES.
        form: StringForm,
    },
    /// MOV from a debug register.
    ReadDebug {
        /// Which one, 0 to 7.
        number: u8,
        /// Where to.
        into: Gpr,
    },
    /// MOV to a debug register.
    WriteDebug {
        /// Which one, 0 to 7.
        number: u8,
        /// Where from.
        from: Gpr,
    },
    /// MOV from a control register.
    ReadControl {
        /// Which one: 0, 2, 3, 4 or 8.
        number: u8,
        /// Where to.
        into: Gpr,
    },
    /// MOV to a control register.
    WriteControl {
        /// Which one: 0, 2, 3, 4 or 8.
        number: u8,
        /// Where from.
        from: Gpr,
    },
    /// MOV, MOVZX, MOVSX or MOVSXD from memory to a register.
    Load {
        /// Where from.
        from: MemoryOperand,
        /// How much is read.
        width: Width,
        /// What happens to it on the way to the width of `into`.
        extension: Extension,
        /// Where to.
        into: Register,
    },
    /// MOV from a register or an immediate to memory.
    Store {
        /// Where to.
        to: MemoryOperand,
        /// How much is written.
        width: Width,
        /// Where from.
        from: Source,
    },
}

/// What happens to a loaded value that is narrower than its register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extension {
    /// It fills up with zeros, or has the width of the register.
    Zero,
    /// It fills up with its sign.
    Sign,
}

impl Extension {
    /// Extends the low `width` of `value` to 64 bits.
    pub const fn apply(self, width: Width, value: u64) -> u64 {
        match self {
            Self::Zero => value & width.mask(),
            Self::Sign => width.sign_extend(value),
        }
    }
}

/// What string instructions have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StringForm {
    /// Size of rSI, rDI and rCX.
    pub address: Width,
    /// Whether rCX counts the elements.
    pub repeat: bool,
    /// Segment of the source where memory is one, else ES.
    pub segment: SegmentName,
}
