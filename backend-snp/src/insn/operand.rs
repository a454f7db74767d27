//! What instructions work on: registers, memory, ports.

use super::registers::{Gpr, Registers};

/// Size of an operand or an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Width {
    /// 8 bits.
    Byte,
    /// 16 bits.
    Word,
    /// 32 bits.
    Dword,
    /// 64 bits.
    Qword,
}

impl Width {
    /// Size in bytes: 1, 2, 4 or 8.
    pub const fn bytes(self) -> usize {
        match self {
            Self::Byte => 1,
            Self::Word => 2,
            Self::Dword => 4,
            Self::Qword => 8,
        }
    }

    /// All bits of that size.
    pub const fn mask(self) -> u64 {
        match self {
            Self::Byte => 0xff,
            Self::Word => 0xffff,
            Self::Dword => 0xffff_ffff,
            Self::Qword => u64::MAX,
        }
    }

    /// Sign-extends the low bits of that size to 64.
    pub const fn sign_extend(self, value: u64) -> u64 {
        match self {
            Self::Byte => value as u8 as i8 as u64,
            Self::Word => value as u16 as i16 as u64,
            Self::Dword => value as u32 as i32 as u64,
            Self::Qword => value,
        }
    }
}

/// A general-purpose register, or a part of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Register {
    /// The low bits.
    Low(Gpr, Width),
    /// Bits 15:8: AH, CH, DH or BH.
    High(Gpr),
}

impl Register {
    /// Size of the part.
    pub const fn width(self) -> Width {
        match self {
            Self::Low(_, width) => width,
            Self::High(_) => Width::Byte,
        }
    }
}

/// Where a stored value comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// A register.
    Register(Register),
    /// An immediate value, sign-extended to the width of the store and cut to it.
    Immediate(u64),
}

/// The port of an I/O instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortNumber {
    /// In the instruction.
    Immediate(u8),
    /// In DX.
    Dx,
}

/// A segment register, by its number in encodings and in [`IoioInfo`](crate::abi::nae::IoioInfo).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum SegmentName {
    /// ES.
    Es = 0,
    /// CS.
    Cs = 1,
    /// SS.
    Ss = 2,
    /// DS.
    Ds = 3,
    /// FS.
    Fs = 4,
    /// GS.
    Gs = 5,
}

/// The first summand of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Base {
    /// Nothing.
    None,
    /// A register.
    Gpr(Gpr),
    /// The address of the next instruction.
    NextRip,
}

/// An operand in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryOperand {
    /// The segment: an override, or the default. In 64-bit mode only FS and GS are overrides.
    pub segment: SegmentName,
    /// First summand.
    pub base: Base,
    /// Second summand: a register, shifted left by up to 3.
    pub index: Option<(Gpr, u8)>,
    /// Third summand, sign-extended.
    pub displacement: u64,
    /// Size of the address, and of the registers in it.
    pub address: Width,
}

impl MemoryOperand {
    /// Offset in the segment; `next_rip` is the address of the next instruction.
    pub const fn offset(&self, registers: &Registers, next_rip: u64) -> u64 {
        let base = match self.base {
            Base::None => 0,
            Base::Gpr(gpr) => registers.gpr(gpr),
            Base::NextRip => next_rip,
        };
        let index = match self.index {
            Some((gpr, shift)) => registers.gpr(gpr) << (shift & 3),
            None => 0,
        };
        // Cut at the end: carries go upwards only.
        base.wrapping_add(index).wrapping_add(self.displacement) & self.address.mask()
    }
}
