//! Decoder for the instructions that a machine cannot finish by itself: those that leave to somebody who has to do their
//! work from the bytes.
//!
//! [`decode`] gives a neutral description: what is to be done, with which registers, at which address. It reads nothing
//! but its argument; who fetched the bytes, and why, is the caller's matter. An instruction that is not listed in
//! [`Operation`] is an error, never a guess. [`Registers`] and [`Segments`] turn the description into values and linear
//! addresses.
//!
//! The bytes may come from anybody. Decoding is bounded by [`MAX_LEN`] steps, has no state and cannot panic.
//!
//! It is a decoder of its own and not a general one (`yaxpeax-x86` was weighed): two dozen instructions are needed, and
//! whatever meets bytes of lower levels is to be short enough to read.
//!
//! Source: 24593 and 24594 for the encodings; the tests compare with another decoder.

mod address;
mod decode;
mod modrm;
mod operand;
mod operation;
mod registers;
#[cfg(test)]
mod tests;

pub(crate) use address::is_canonical;
pub use address::{Access, AddressFault, LinearAddr, Segments};
pub use decode::{DecodeError, MAX_LEN, decode};
pub use operand::{Base, MemoryOperand, PortNumber, Register, SegmentName, Source, Width};
pub use operation::{Extension, Instruction, Operation, StringForm};
pub use registers::{Gpr, Registers};

use crate::abi::segment::Segment;

/// What the code segment says about sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// 64-bit mode.
    Bits64,
    /// Protected or compatibility mode with a 32-bit code segment.
    Bits32,
    /// Real mode, or protected or compatibility mode with a 16-bit code segment.
    Bits16,
}

impl Mode {
    /// The mode of code in `cs`; `long_mode_active` is EFER.LMA.
    pub const fn of(cs: &Segment, long_mode_active: bool) -> Self {
        if long_mode_active && cs.attributes.l() == 1 {
            Self::Bits64
        } else if cs.attributes.d_b() == 1 {
            Self::Bits32
        } else {
            Self::Bits16
        }
    }
}
