//! Why the monitor ends the guest: codes in the reason set of this project, which is the last that the host hears of it.

use coco_part_api::ErrorKind;
use thiserror_no_std::Error;

/// SEV, SEV-ES and SNP are not all on.
pub(crate) const NOT_SNP: u8 = 0x10;
/// The CPUID page does not say where the C-bit is, or not a possible place.
pub(crate) const NO_C_BIT: u8 = 0x11;
/// What was written while all memory is private does not read back through a page table with the C-bit.
pub(crate) const WRONG_C_BIT: u8 = 0x12;
/// The processor gives no random number.
pub(crate) const NO_RANDOM: u8 = 0x13;
/// An exception that nobody expected.
pub(crate) const EXCEPTION: u8 = 0x20;
/// A panic.
pub(crate) const PANIC: u8 = 0x21;
/// The monitor was declared dead.
pub(crate) const DEAD: u8 = 0x22;
/// The host misbehaved too often in a row.
pub(crate) const HOST_GAVE_UP: u8 = 0x23;
/// The host did not carry out the end that was asked for.
pub(crate) const NOT_ENDED: u8 = 0x24;

/// Why the monitor does not start, at a time without a console: the code by which the guest ends is all that anybody hears.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EarlyError(pub(crate) u8);

impl EarlyError {
    /// The host has no common protocol version, or does not make memory private.
    pub(crate) const HOST: Self = Self(0x30);
    /// The parameters of the host cannot be.
    pub(crate) const PARAMETERS: Self = Self(0x31);
    /// The memory map has no room for the monitor, or is larger than its tables.
    pub(crate) const MEMORY: Self = Self(0x32);
    /// The own memory cannot be validated.
    pub(crate) const VALIDATE: Self = Self(0x33);
    /// The backend does not start.
    pub(crate) const BACKEND: Self = Self(0x34);
}

/// Why the monitor does not start, at a time with a console.
#[derive(Clone, Copy, Debug, Error)]
pub(crate) enum StartError {
    /// The memory map has no room for what the launch says.
    #[error("memory map: {0}")]
    Memory(&'static str),
    /// The page with the guest's place is none.
    #[error("no description of the guest's image")]
    NoGuestImage,
    /// The backend failed in a step towards the guest.
    #[error("{step}: {kind:?}")]
    Guest {
        /// Which one.
        step: &'static str,
        /// Why.
        kind: ErrorKind,
    },
    /// A step towards the guest is not allowed: the ledger has the frames in another state, or a table is full.
    #[error("{step}: refused")]
    Refused {
        /// Which one.
        step: &'static str,
    },
}

impl core::error::Error for StartError {}

impl StartError {
    /// The code by which the guest ends.
    pub(crate) const fn code(&self) -> u8 {
        match self {
            Self::Memory(_) => EarlyError::MEMORY.0,
            Self::NoGuestImage => 0x35,
            Self::Guest { .. } | Self::Refused { .. } => 0x36,
        }
    }
}
