//! The part of the GHCB page that holds the host's answer: copied once, checked on the copy (GH-01 to GH-04).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::abi::ghcb::{Ghcb, ValidBit, ValidBitmap};
use crate::abi::nae::NaeStatus;
use crate::abi::vmsa_control::{EventInj, EventType};
use crate::error::SnpError;

/// Offset of the copied part in the page.
pub(super) const OFFSET: usize = 0x398;

/// SW_EXITINFO1 to the valid bitmap: all that a request of this crate gets back.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub(super) struct Answer {
    sw_exit_info_1: u64,
    sw_exit_info_2: u64,
    between: [u8; 0x48],
    valid_bitmap: ValidBitmap,
}

const _: () = assert!(core::mem::offset_of!(Ghcb, sw_exit_info_1) == OFFSET);
const _: () = assert!(core::mem::offset_of!(Ghcb, sw_exit_info_2) == OFFSET + 0x8);
const _: () = assert!(core::mem::offset_of!(Ghcb, valid_bitmap) == OFFSET + 0x58);
const _: () = assert!(core::mem::offset_of!(Answer, sw_exit_info_2) == 0x8);
const _: () = assert!(core::mem::offset_of!(Answer, valid_bitmap) == 0x58);

/// Vector of #UD.
const INVALID_OPCODE: u64 = 6;
/// Vector of #GP.
const GENERAL_PROTECTION: u64 = 13;

impl Answer {
    /// Checks that the host says success.
    ///
    /// # Errors
    /// The answer errors of [`SnpError`].
    pub(super) fn check(&self) -> Result<(), SnpError> {
        self.demand(ValidBit::SW_EXIT_INFO_1)?;
        // The status is in bits 31:0.
        match NaeStatus(self.sw_exit_info_1 as u32) {
            NaeStatus::SUCCESS => Ok(()),
            NaeStatus::EXCEPTION => Err(self.exception()?),
            NaeStatus::MALFORMED => Err(SnpError::MalformedRequest { code: self.detail()? }),
            _ => Err(SnpError::UnknownStatus { status: self.sw_exit_info_1 }),
        }
    }

    /// SW_EXITINFO2.
    ///
    /// # Errors
    /// [`SnpError::MissingField`].
    pub(super) fn detail(&self) -> Result<u64, SnpError> {
        self.demand(ValidBit::SW_EXIT_INFO_2)?;
        Ok(self.sw_exit_info_2)
    }

    /// The exception that the host wants: one it may ask for, or one it may not (GH-03).
    fn exception(&self) -> Result<SnpError, SnpError> {
        let info = self.detail()?;
        let event = EventInj::from_bits_retain(info);
        let allowed = event.valid() == 1
            && event.event_type() == u64::from(EventType::EXCEPTION.0)
            && matches!(event.vector(), GENERAL_PROTECTION | INVALID_OPCODE);
        Ok(if allowed { SnpError::Exception { info } } else { SnpError::ForbiddenException { info } })
    }

    fn demand(&self, field: ValidBit) -> Result<(), SnpError> {
        if self.valid_bitmap.is_set(field) { Ok(()) } else { Err(SnpError::MissingField { field }) }
    }
}
