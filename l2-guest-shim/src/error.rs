//! The shim's error: the port's own, or what the shim found wrong with an answer of L1.

use coco_part_api::svsm::{CallId, CallResult};
use coco_part_api::{Error, ErrorKind, Level, RangeError, VcpuId};
use x86_64::PhysAddr;

/// Why a verb of the shim did not succeed. `E` is the port's error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror_no_std::Error)]
pub enum ShimError<E> {
    /// A range that is not in the memory map (rule M1).
    #[error("{0}")]
    Range(RangeError),
    /// The port failed.
    #[error("{0}")]
    Port(E),
    /// Guest memory that the shim itself uses was not accessible.
    #[error("memory at {at:#x} is not accessible")]
    Memory {
        /// Where.
        at: PhysAddr,
        /// What the memory handle said.
        kind: ErrorKind,
    },
    /// The frame is the call area in use, or is to serve two purposes.
    #[error("frame {at:#x} is in use")]
    FrameInUse {
        /// The frame.
        at: PhysAddr,
    },
    /// The buffer for evidence or a response is too small.
    #[error("buffer of {given:#x} bytes, {needed:#x} needed")]
    BufferTooSmall {
        /// Bytes needed.
        needed: usize,
        /// Bytes given.
        given: usize,
    },
    /// A command for the vTPM has no bytes, or more than its frame has room for.
    #[error("vTPM command of {given:#x} bytes, 1 to {most:#x} possible")]
    CommandLength {
        /// Bytes given.
        given: usize,
        /// Most bytes of a command.
        most: usize,
    },
    /// Neither backend nor L1 can do it.
    #[error("{what} is not available")]
    Unsupported {
        /// What was asked for.
        what: &'static str,
    },

    /// L1 did not serve a call, as often as it was made.
    #[error("call not served in {tries} tries: {last}")]
    NotServed {
        /// How often it was made.
        tries: u32,
        /// What the port said at the last try.
        last: E,
    },
    /// L1 answered "busy" or "incomplete" again and again without progress.
    #[error("call {:#x} without progress for {rounds} rounds", call.to_rax())]
    Stalled {
        /// The call.
        call: CallId,
        /// Answers without progress.
        rounds: u32,
    },
    /// L1 refused a call.
    #[error("call {:#x} refused with {result}", call.to_rax())]
    Refused {
        /// The call.
        call: CallId,
        /// Its result.
        result: CallResult,
    },
    /// The frame to be deleted is no state frame of this level.
    #[error("frame {at:#x} is no state frame")]
    NotAStateFrame {
        /// The frame.
        at: PhysAddr,
    },
    /// L1 did not take a vCPU back that could not be started: its frame stays L1's.
    #[error("state frame {at:#x} is left behind after: {cause}")]
    LeftBehind {
        /// The frame. It must not be used.
        at: PhysAddr,
        /// Why the vCPU could not be started.
        cause: E,
    },
    /// L1 refused a new vCPU with a result that leaves open whether the frame is the guest's again.
    #[error("state frame {at:#x} is in doubt after {result}")]
    FrameInDoubt {
        /// The frame. It must not be used; it may still hold the registers of the vCPU.
        at: PhysAddr,
        /// What L1 said.
        result: CallResult,
    },

    /// L1 does not speak the core protocol in the version that is needed.
    #[error("L1 speaks core protocol versions {lowest:#x} to {highest:#x}")]
    CoreVersion {
        /// Lowest version; 0 if it does not speak it at all.
        lowest: u32,
        /// Highest version.
        highest: u32,
    },
    /// Machine and L1 disagree about the level (CP-07): this is not the L1 that the guest was meant for.
    #[error("the machine says level {}, L1 says {monitor:#x}", port.number())]
    LevelMismatch {
        /// What the port found.
        port: Level,
        /// What L1 says.
        monitor: u64,
    },
    /// Port and L1 disagree about the vCPU.
    #[error("the port says {port}, L1 says {monitor:#x}")]
    VcpuMismatch {
        /// What the port says.
        port: VcpuId,
        /// What L1 says.
        monitor: u64,
    },
    /// The cursor in a list went back, went too far, or does not fit the result.
    #[error("list cursor went from {was:#x} to {now:#x} of {entries:#x}, result {result}")]
    BadCursor {
        /// Cursor before the call.
        was: u16,
        /// Cursor after it.
        now: u16,
        /// Entries of the list.
        entries: u16,
        /// Result of the call.
        result: CallResult,
    },
    /// L1 returned a value that the protocol does not allow.
    #[error("L1 returned {value:#x} as {what}")]
    BadAnswer {
        /// What it stands for.
        what: &'static str,
        /// The value.
        value: u64,
    },
}

impl<E: Error> core::error::Error for ShimError<E> {}

impl<E: Error> Error for ShimError<E> {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Range(error) => (*error).into(),
            Self::Port(error) | Self::LeftBehind { cause: error, .. } => error.kind(),
            Self::Memory { kind, .. } => *kind,
            Self::FrameInUse { .. } => ErrorKind::InUse,
            Self::BufferTooSmall { .. } | Self::CommandLength { .. } => ErrorKind::InvalidArgument,
            Self::Unsupported { .. } | Self::CoreVersion { .. } => ErrorKind::Unsupported,
            Self::NotServed { .. } | Self::LevelMismatch { .. } | Self::VcpuMismatch { .. } => {
                ErrorKind::HostMisbehaved
            }
            Self::Stalled { .. } => ErrorKind::Busy,
            Self::Refused { result, .. } | Self::FrameInDoubt { result, .. } => result.kind(),
            Self::NotAStateFrame { .. } => ErrorKind::NotFound,
            Self::BadCursor { .. } | Self::BadAnswer { .. } => ErrorKind::Refused,
        }
    }
}

impl<E> From<RangeError> for ShimError<E> {
    fn from(error: RangeError) -> Self {
        Self::Range(error)
    }
}

impl<E> ShimError<E> {
    /// Turns an error of a memory handle into one of the shim.
    pub(crate) fn memory<F: Error>(at: PhysAddr) -> impl FnOnce(F) -> Self {
        move |fault| Self::Memory { at, kind: fault.kind() }
    }
}
