//! What the host leaves in the GHCB page: copied once, checked on the copy (GH-01 to GH-04).

use core::mem::offset_of;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::abi::ghcb::{Ghcb, ValidBit, ValidBitmap};
use crate::abi::nae::NaeStatus;
use crate::abi::vmsa_control::{EventInj, EventType};
use crate::error::SnpError;

/// SW_EXITINFO1 to the valid bitmap: all that an event without result registers gets back.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub(super) struct Answer {
    sw_exit_info_1: u64,
    sw_exit_info_2: u64,
    between: [u8; 0x48],
    valid_bitmap: ValidBitmap,
}

/// RAX to the valid bitmap: the answer to an event with result registers.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub(super) struct Registers {
    rax: u64,
    between_rax_and_rcx: [u8; 0x108],
    rcx: u64,
    rdx: u64,
    rbx: u64,
    between_rbx_and_answer: [u8; 0x78],
    answer: Answer,
}

/// A part of the page that is copied out in one go.
pub(super) trait Part: FromBytes + IntoBytes {
    /// Its offset in the page.
    const OFFSET: usize;
}

impl Part for Answer {
    const OFFSET: usize = offset_of!(Ghcb, sw_exit_info_1);
}

impl Part for Registers {
    const OFFSET: usize = offset_of!(Ghcb, rax);
}

const _: () = assert!(offset_of!(Ghcb, sw_exit_info_2) == Answer::OFFSET + offset_of!(Answer, sw_exit_info_2));
const _: () = assert!(offset_of!(Ghcb, valid_bitmap) == Answer::OFFSET + offset_of!(Answer, valid_bitmap));
const _: () = assert!(offset_of!(Ghcb, rcx) == Registers::OFFSET + offset_of!(Registers, rcx));
const _: () = assert!(offset_of!(Ghcb, rdx) == Registers::OFFSET + offset_of!(Registers, rdx));
const _: () = assert!(offset_of!(Ghcb, rbx) == Registers::OFFSET + offset_of!(Registers, rbx));
const _: () = assert!(Answer::OFFSET == Registers::OFFSET + offset_of!(Registers, answer));

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

/// Each register counts only with its valid bit; without it the error is [`SnpError::MissingField`].
impl Registers {
    /// Status and SW_EXITINFO2.
    pub(super) const fn answer(&self) -> &Answer {
        &self.answer
    }

    /// RAX.
    pub(super) fn rax(&self) -> Result<u64, SnpError> {
        self.answer.demand(ValidBit::RAX)?;
        Ok(self.rax)
    }

    /// RBX.
    pub(super) fn rbx(&self) -> Result<u64, SnpError> {
        self.answer.demand(ValidBit::RBX)?;
        Ok(self.rbx)
    }

    /// RCX.
    pub(super) fn rcx(&self) -> Result<u64, SnpError> {
        self.answer.demand(ValidBit::RCX)?;
        Ok(self.rcx)
    }

    /// RDX.
    pub(super) fn rdx(&self) -> Result<u64, SnpError> {
        self.answer.demand(ValidBit::RDX)?;
        Ok(self.rdx)
    }

    /// EDX:EAX. The upper halves do not count, as in the instructions that return their result so.
    pub(super) fn edx_eax(&self) -> Result<u64, SnpError> {
        let (high, low) = (self.rdx()?, self.rax()?);
        Ok(high << 32 | u64::from(low as u32))
    }
}
