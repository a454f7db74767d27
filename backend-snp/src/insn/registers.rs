//! The registers that instructions read and write.

use core::fmt;

use super::Mode;
use super::operand::{Register, Width};

/// Number of a general-purpose register, 0 to 15, as in encodings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Gpr(u8);

impl Gpr {
    /// RAX.
    pub const RAX: Self = Self(0);
    /// RCX.
    pub const RCX: Self = Self(1);
    /// RDX.
    pub const RDX: Self = Self(2);
    /// RBX.
    pub const RBX: Self = Self(3);
    /// RSP.
    pub const RSP: Self = Self(4);
    /// RBP.
    pub const RBP: Self = Self(5);
    /// RSI.
    pub const RSI: Self = Self(6);
    /// RDI.
    pub const RDI: Self = Self(7);

    /// Takes the low four bits of `number`.
    pub const fn new_truncate(number: u8) -> Self {
        Self(number & 0xf)
    }

    /// The number.
    pub const fn number(self) -> u8 {
        self.0
    }

    const fn index(self) -> usize {
        (self.0 & 0xf) as usize
    }
}

/// General-purpose registers, RIP and RFLAGS. `Debug` prints RIP only.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Registers {
    /// RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8 to R15.
    pub gprs: [u64; 16],
    /// RIP.
    pub rip: u64,
    /// RFLAGS.
    pub rflags: u64,
}

impl Registers {
    /// RFLAGS.DF: string instructions go downwards.
    pub const DIRECTION: u64 = 1 << 10;

    /// All bits of a register.
    pub const fn gpr(&self, gpr: Gpr) -> u64 {
        self.gprs[gpr.index()]
    }

    /// Replaces all bits of a register.
    pub const fn set_gpr(&mut self, gpr: Gpr, value: u64) {
        self.gprs[gpr.index()] = value;
    }

    /// A part of a register, zero-extended.
    pub const fn read(&self, register: Register) -> u64 {
        match register {
            Register::Low(gpr, width) => self.gpr(gpr) & width.mask(),
            Register::High(gpr) => (self.gpr(gpr) >> 8) & 0xff,
        }
    }

    /// Replaces a part of a register. The rest stays for 8 and 16 bits, and becomes zero for 32.
    pub const fn write(&mut self, register: Register, value: u64) {
        match register {
            Register::Low(gpr, Width::Dword) => self.set_gpr(gpr, value & Width::Dword.mask()),
            Register::Low(gpr, width) => self.set_gpr(gpr, self.gpr(gpr) & !width.mask() | value & width.mask()),
            Register::High(gpr) => self.set_gpr(gpr, self.gpr(gpr) & !0xff00 | (value & 0xff) << 8),
        }
    }

    /// The address behind an instruction of `len` bytes at RIP. It wraps at the size of the mode.
    pub const fn next_rip(&self, len: u8, mode: Mode) -> u64 {
        let next = self.rip.wrapping_add(len as u64);
        match mode {
            Mode::Bits64 => next,
            Mode::Bits32 => next & Width::Dword.mask(),
            Mode::Bits16 => next & Width::Word.mask(),
        }
    }
}

impl fmt::Debug for Registers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registers").field("rip", &format_args!("{:#x}", self.rip)).finish_non_exhaustive()
    }
}
