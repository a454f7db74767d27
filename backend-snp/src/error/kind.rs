//! The common view of an error: who is at fault, as finely as the protocol's answers need it.

use coco_part_api::{Error, ErrorKind, RangeError};

use super::SnpError;
use crate::abi::rmp::{PvalidateCode, RmpCode};
use crate::instr::Fault;

impl From<RangeError> for SnpError {
    fn from(error: RangeError) -> Self {
        Self::Range(error)
    }
}

impl From<Fault> for SnpError {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl core::error::Error for SnpError {}

impl Error for SnpError {
    fn kind(&self) -> ErrorKind {
        match *self {
            Self::Range(error) => error.into(),
            Self::IllegalGrants
            | Self::BufferTooSmall { .. }
            | Self::WrongVcpu { .. }
            | Self::BadVector { .. }
            | Self::BadLength { .. }
            | Self::PrivateAddress { .. }
            | Self::NoTrap { .. }
            | Self::WrongCompletion { .. } => ErrorKind::InvalidArgument,
            Self::VmsaAligned2m { .. } => ErrorKind::Misaligned,
            Self::UnknownVcpu { .. } | Self::NoVcpu { .. } | Self::NotAStateFrame { .. } => ErrorKind::NotFound,
            Self::VcpuRuns { .. } | Self::CallUnanswered { .. } | Self::FrameInUse { .. } | Self::NoRoom { .. } => {
                ErrorKind::InUse
            }
            Self::FrameBusy { .. } | Self::ChannelBusy => ErrorKind::Busy,
            Self::Quarantined { .. } => ErrorKind::Quarantined,
            Self::BadVmsa { .. } | Self::BadSecrets { .. } => ErrorKind::BadState,
            Self::Unsupported { .. }
            | Self::NoGhcbPage
            | Self::SevStatus { .. }
            | Self::NoSvsm
            | Self::MissingFeatures { .. } => ErrorKind::Unsupported,
            Self::VersionRange { min, max } if min <= max => ErrorKind::Unsupported,
            Self::Pvalidate { code: PvalidateCode::FAIL_SIZEMISMATCH } => ErrorKind::SizeMismatch,
            Self::Pvalidate { .. } => ErrorKind::Refused,
            Self::NoChange => ErrorKind::AlreadyInState,
            Self::Rmpadjust { code } | Self::Rmpquery { code } => match code {
                RmpCode::FAIL_PERMISSION => ErrorKind::NotPermitted,
                RmpCode::FAIL_INUSE => ErrorKind::InUse,
                RmpCode::FAIL_SIZEMISMATCH => ErrorKind::SizeMismatch,
                _ => ErrorKind::Refused,
            },
            Self::Fault(Fault::InvalidOpcode) => ErrorKind::Unsupported,
            Self::Fault(_) => ErrorKind::Inaccessible,
            Self::Memory { kind, .. } => kind,
            Self::PageState { .. }
            | Self::RunVmpl { .. }
            | Self::SwitchInDoubt { .. }
            | Self::Exception { .. }
            | Self::MalformedRequest { .. }
            | Self::GuestRequest { .. } => ErrorKind::HostRefused,
            Self::GhcbRefused { got: NO_FRAME, .. } => ErrorKind::HostRefused,
            Self::GhcbRefused { .. }
            | Self::LevelMismatch { .. }
            | Self::UnexpectedResponse { .. }
            | Self::VersionRange { .. }
            | Self::PageStateHeader { .. }
            | Self::PageStateStalled { .. }
            | Self::NotServed
            | Self::MissingField { .. }
            | Self::ForbiddenException { .. }
            | Self::UnknownStatus { .. }
            | Self::PagesNeeded { .. }
            | Self::ListTooLong { .. }
            | Self::BadResponse { .. }
            | Self::NotAuthentic => ErrorKind::HostMisbehaved,
            Self::Firmware { .. } | Self::NextRip { .. } => ErrorKind::Refused,
            Self::ChannelClosed => ErrorKind::ChannelClosed,
        }
    }
}

/// Frame number in an answer that names no frame.
const NO_FRAME: u64 = u64::MAX >> 12;
