//! Neutral layout of the state frame of CREATE_VCPU.
//!
//! On SNP the frame is a VMSA, as the protocol says. On vendors without such a page a guest fills this layout instead, and
//! L1 copies it once, checks it, and writes the registers where its vendor keeps them.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::context::{Context, Segment};
use crate::error::ErrorKind;
use crate::level::GuestLevel;

/// First quadword of a frame: "COCOFRM1", little endian.
pub const MAGIC: u64 = u64::from_le_bytes(*b"COCOFRM1");

/// The head of a state frame; the rest of its page is zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct StateFrame {
    /// [`MAGIC`].
    pub magic: u64,
    /// Level the vCPU is meant for, 1 to 3.
    pub level: u64,
    /// Registers it starts with.
    pub context: Context,
}

const _: () = assert!(core::mem::offset_of!(StateFrame, level) == 0x8);
const _: () = assert!(core::mem::offset_of!(StateFrame, context) == 0x10);
const _: () = assert!(size_of::<StateFrame>() == 0x10 + size_of::<Context>());

impl StateFrame {
    /// A frame for a vCPU of `level`.
    pub const fn new(level: GuestLevel, context: Context) -> Self {
        Self { magic: MAGIC, level: level.number() as u64, context }
    }

    /// Checks a copy of a frame that a guest filled.
    ///
    /// # Errors
    /// `BadState`: not this layout, another level than `level`, RFLAGS without its fixed bit, CR0 with its upper half set, or attributes
    /// with reserved bits.
    pub fn check(&self, level: GuestLevel) -> Result<(), ErrorKind> {
        let context = &self.context;
        let segments =
            [context.cs, context.ss, context.ds, context.es, context.fs, context.gs, context.ldtr, context.tr];
        let sound = self.magic == MAGIC
            && self.level == u64::from(level.number())
            && context.rflags & 2 != 0
            && context.cr0 >> 32 == 0
            && segments.iter().all(|segment: &Segment| segment.attributes & 0xf000 == 0);
        if sound { Ok(()) } else { Err(ErrorKind::BadState) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_a_frame_for_another_level_or_layout() {
        let frame = StateFrame::new(GuestLevel::TWO, Context::long_mode(0, 0, 0));
        assert!(frame.check(GuestLevel::TWO).is_ok());
        assert_eq!(frame.check(GuestLevel::ONE), Err(ErrorKind::BadState));
        assert_eq!(StateFrame { magic: 0, ..frame }.check(GuestLevel::TWO), Err(ErrorKind::BadState));
        assert_eq!(StateFrame { level: 0x1_0000_0002, ..frame }.check(GuestLevel::TWO), Err(ErrorKind::BadState));
    }
}
