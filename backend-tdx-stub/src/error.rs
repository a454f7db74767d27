//! Errors of this backend, both sides. Each keeps the raw status.

use coco_part_api::range::RangeError;
use coco_part_api::{ErrorKind, GuestLevel, VcpuId};
use thiserror_no_std::Error as ThisError;
use x86_64::PhysAddr;

use crate::abi::fields::VmcsField;
use crate::abi::leaves::Leaf;
use crate::abi::status::Status;
use crate::abi::vmcall::HostStatus;

/// Why a verb did not succeed. `F` is the error of the memory handle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ThisError)]
pub enum Error<F> {
    /// A range is bad.
    #[error("{0}")]
    Range(RangeError),
    /// A page that the integrator handed in is misaligned, outside of the memory map, or overlaps another one.
    #[error("the page handed in at {at:#x} is misaligned, outside of the memory map or used twice")]
    BadPage {
        /// Where.
        at: PhysAddr,
    },
    /// Rights that are no legal set, or that name an L2 VM which this TD does not have.
    #[error("the rights are not legal or name an L2 VM that the TD does not have")]
    BadGrants,
    /// This TD has no such L2 VM, or this vCPU was given no pages for it.
    #[error("no L2 VM for {level:?} here")]
    NoSuchLevel {
        /// Which.
        level: GuestLevel,
    },
    /// The level has no vCPU here.
    #[error("{level:?} has no vCPU here")]
    NoVcpu {
        /// Which.
        level: GuestLevel,
    },
    /// There is no such vCPU.
    #[error("the TD has no {id}")]
    UnknownVcpu {
        /// Which.
        id: VcpuId,
    },
    /// A seed is for another vCPU.
    #[error("the seed is for {target}")]
    OtherVcpu {
        /// The vCPU it is for.
        target: VcpuId,
    },
    /// A call of the level waits for its answer.
    #[error("a call of {level:?} waits for its answer")]
    CallPending {
        /// Which level.
        level: GuestLevel,
    },
    /// No call of the level waits for an answer.
    #[error("no call of {level:?} waits for an answer")]
    NoCall {
        /// Which level.
        level: GuestLevel,
    },
    /// No instruction of the level waits to be completed, or not with this.
    #[error("no such instruction of {level:?} waits to be completed")]
    NoTrap {
        /// Which level.
        level: GuestLevel,
    },
    /// The module said that an instruction has no length that there is.
    #[error("the instruction of {level:?} is not 1 to 15 bytes long")]
    NoLength {
        /// Which level.
        level: GuestLevel,
    },
    /// The vCPU of a state frame runs.
    #[error("the vCPU of the state frame at {state:#x} runs")]
    StateInUse {
        /// Where the frame is.
        state: PhysAddr,
    },
    /// A state frame is not in the neutral layout, is for another level, or lacks what all layouts demand.
    #[error("the state frame is malformed or for another level")]
    BadFrame,
    /// A register has a value that an L2 of this TD cannot have.
    #[error("{register} cannot be {value:#x} in an L2")]
    BadRegister {
        /// Which.
        register: &'static str,
        /// The value.
        value: u64,
    },
    /// The module refused the value of a field of the L2's VMCS.
    #[error("the module refused {value:#x} for {field:?} with {status:#x}")]
    FieldRefused {
        /// Which field.
        field: VmcsField,
        /// The value.
        value: u64,
        /// What the module said.
        status: Status,
    },
    /// An event cannot be injected: no vector of an external interrupt.
    #[error("vector {vector} is no external interrupt")]
    BadVector {
        /// The vector.
        vector: u8,
    },
    /// Another event waits to be delivered, or the level cannot take this one now.
    #[error("{level:?} cannot take the event now")]
    EventPending {
        /// Which level.
        level: GuestLevel,
    },
    /// The page was accepted before: it was not zeroed.
    #[error("the page is accepted already ({status:#x})")]
    AlreadyAccepted {
        /// What the module said.
        status: Status,
    },
    /// The page is not accepted.
    #[error("the page at {at:#x} is not accepted")]
    NotAccepted {
        /// Where.
        at: PhysAddr,
    },
    /// A lower level still reaches the page.
    #[error("a lower level reaches the page at {at:#x}")]
    StillGranted {
        /// Where.
        at: PhysAddr,
    },
    /// The module has the page in a smaller size.
    #[error("{leaf:?}: the page is mapped smaller ({status:#x})")]
    SizeMismatch {
        /// What was called.
        leaf: Leaf,
        /// What the module said.
        status: Status,
    },
    /// Somebody else held the thing for as long as this side was willing to ask.
    #[error("{leaf:?} found its operand busy ({status:#x})")]
    Busy {
        /// What was called.
        leaf: Leaf,
        /// What the module said last.
        status: Status,
    },
    /// The host gave the TD no table page for an L2 where one is needed.
    #[error("the host has not provided a table page of an L2 ({status:#x})")]
    NoTablePage {
        /// What the module said: VM index and level.
        status: Status,
    },
    /// A page was accepted and then could not be granted: nobody below reaches it, and it cannot be put back.
    #[error("the page is accepted and cannot be granted ({status:#x})")]
    Stranded {
        /// What the module said when it was to be granted.
        status: Status,
    },
    /// The module refused.
    #[error("{leaf:?} was refused with {status:#x}")]
    Refused {
        /// What was called.
        leaf: Leaf,
        /// What the module said.
        status: Status,
    },
    /// The module said what the leaf does not say.
    #[error("{leaf:?} ended with unexpected {status:#x}")]
    Unexpected {
        /// What was called.
        leaf: Leaf,
        /// What the module said.
        status: Status,
    },
    /// A field or register of the module has a value that the specification does not have.
    #[error("{leaf:?} gave {value:#x}")]
    BadAnswer {
        /// What was called.
        leaf: Leaf,
        /// The value.
        value: u64,
    },
    /// The host declined to change a page state.
    #[error("the host declined with {status:#x}")]
    HostRefused {
        /// What the host said.
        status: HostStatus,
    },
    /// The host answered with a status that does not exist.
    #[error("the host answered with unlisted {status:#x}")]
    HostStatus {
        /// What the host said.
        status: HostStatus,
    },
    /// The host wants to go on at an address that is not ahead, in the range and page aligned.
    #[error("the host wants to go on at {next:#x}, from {from:#x}")]
    HostCursor {
        /// What the host said.
        next: u64,
        /// Where it was asked to begin.
        from: u64,
    },
    /// The buffer is too small for the evidence.
    #[error("evidence takes {needed} bytes, the buffer has {given}")]
    BufferTooSmall {
        /// Bytes needed.
        needed: usize,
        /// Bytes given.
        given: usize,
    },
    /// TDX hands no boot pages over.
    #[error("TDX has no such boot page")]
    NoBootPage,
    /// This backend or module cannot do it.
    #[error("unsupported: {reason}")]
    Unsupported {
        /// Why.
        reason: &'static str,
    },
    /// Memory could not be accessed.
    #[error("memory at {at:#x}: {fault}")]
    Memory {
        /// Where.
        at: PhysAddr,
        /// Why.
        fault: F,
    },
}

impl<F: core::error::Error + 'static> core::error::Error for Error<F> {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            Self::Range(range) => Some(range),
            Self::Memory { fault, .. } => Some(fault),
            _ => None,
        }
    }
}

impl<F: coco_part_api::Error> coco_part_api::Error for Error<F> {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Range(range) => ErrorKind::from(*range),
            Self::BadPage { .. }
            | Self::BadGrants
            | Self::OtherVcpu { .. }
            | Self::NoCall { .. }
            | Self::NoTrap { .. }
            | Self::BadVector { .. }
            | Self::BufferTooSmall { .. } => ErrorKind::InvalidArgument,
            Self::NoSuchLevel { .. } | Self::NoVcpu { .. } | Self::UnknownVcpu { .. } | Self::NoBootPage => {
                ErrorKind::NotFound
            }
            Self::CallPending { .. } | Self::StateInUse { .. } | Self::StillGranted { .. } => ErrorKind::InUse,
            Self::BadFrame | Self::BadRegister { .. } | Self::FieldRefused { .. } => ErrorKind::BadState,
            Self::AlreadyAccepted { .. } | Self::NotAccepted { .. } => ErrorKind::AlreadyInState,
            Self::SizeMismatch { .. } => ErrorKind::SizeMismatch,
            Self::Busy { .. } | Self::EventPending { .. } => ErrorKind::Busy,
            Self::NoTablePage { .. } | Self::HostRefused { .. } => ErrorKind::HostRefused,
            Self::HostStatus { .. } | Self::HostCursor { .. } => ErrorKind::HostMisbehaved,
            Self::Refused { .. } | Self::Unexpected { .. } | Self::BadAnswer { .. } | Self::NoLength { .. } => {
                ErrorKind::Refused
            }
            Self::Stranded { .. } => ErrorKind::Quarantined,
            Self::Unsupported { .. } => ErrorKind::Unsupported,
            Self::Memory { fault, .. } => fault.kind(),
        }
    }
}

impl<F> Error<F> {
    /// The same for a page that has been accepted before: what the module said makes it a stranded one.
    pub(crate) fn after_accepting(self) -> Self {
        match self {
            Self::AlreadyAccepted { status }
            | Self::SizeMismatch { status, .. }
            | Self::Busy { status, .. }
            | Self::NoTablePage { status }
            | Self::Refused { status, .. }
            | Self::Unexpected { status, .. } => Self::Stranded { status },
            other => other,
        }
    }

    /// What a status that is not plain success means for any leaf.
    pub(crate) fn from_status(leaf: Leaf, status: Status) -> Self {
        match status.name() {
            _ if status.is_busy() => Self::Busy { leaf, status },
            Status::PAGE_ALREADY_ACCEPTED => Self::AlreadyAccepted { status },
            Status::PAGE_SIZE_MISMATCH => Self::SizeMismatch { leaf, status },
            Status::L2_SEPT_WALK_FAILED => Self::NoTablePage { status },
            _ if status.is_error() && status.is_known() => Self::Refused { leaf, status },
            _ => Self::Unexpected { leaf, status },
        }
    }
}
