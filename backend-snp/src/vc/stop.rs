//! Why an instruction is not done: inside the handler, exceptions and errors take the same way.

use super::error::VcError;
use super::space::PageFault;
use crate::abi::vmsa_control::EventInj;
use crate::error::SnpError;
use crate::insn::{AddressFault, LinearAddr};

/// An exception to raise in the code that was interrupted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exception {
    /// Vector.
    pub vector: u8,
    /// Error code, for vectors that have one.
    pub error_code: Option<u32>,
    /// The value of CR2 that goes with #PF.
    pub address: Option<LinearAddr>,
}

impl Exception {
    /// #DB.
    pub const DEBUG: Self = Self::new(1, None);
    /// #UD.
    pub const INVALID_OPCODE: Self = Self::new(6, None);
    /// #SS with error code 0.
    pub const STACK: Self = Self::new(12, Some(0));
    /// #GP with error code 0.
    pub const GENERAL_PROTECTION: Self = Self::new(13, Some(0));
    /// #AC, whose error code is 0.
    pub const ALIGNMENT_CHECK: Self = Self::new(17, Some(0));

    const fn new(vector: u8, error_code: Option<u32>) -> Self {
        Self { vector, error_code, address: None }
    }
}

/// How far the instruction came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// To its end.
    Finished,
    /// To the end of a piece.
    Piece,
}

/// What stops an instruction.
#[derive(Debug)]
pub(super) enum Stop {
    Raise(Exception),
    Fatal(VcError),
}

pub(super) type Run<T> = Result<T, Stop>;

impl From<Exception> for Stop {
    fn from(exception: Exception) -> Self {
        Self::Raise(exception)
    }
}

impl From<VcError> for Stop {
    fn from(error: VcError) -> Self {
        Self::Fatal(error)
    }
}

impl From<PageFault> for Stop {
    fn from(fault: PageFault) -> Self {
        let PageFault { at, error_code } = fault;
        Self::Raise(Exception { vector: 14, error_code: Some(error_code), address: Some(at) })
    }
}

impl From<AddressFault> for Stop {
    fn from(fault: AddressFault) -> Self {
        Self::Raise(match fault {
            AddressFault::GeneralProtection => Exception::GENERAL_PROTECTION,
            AddressFault::Stack => Exception::STACK,
        })
    }
}

impl From<SnpError> for Stop {
    /// [`SnpError::Exception`] is one that the host may ask for. Its error code is not the host's to choose.
    fn from(error: SnpError) -> Self {
        let SnpError::Exception { info } = error else { return Self::Fatal(VcError::Host(error)) };
        let vector = EventInj::from_bits_retain(info).vector();
        let known = [Exception::INVALID_OPCODE, Exception::GENERAL_PROTECTION];
        match known.into_iter().find(|exception| u64::from(exception.vector) == vector) {
            Some(exception) => Self::Raise(exception),
            None => Self::Fatal(VcError::Host(SnpError::ForbiddenException { info })),
        }
    }
}
