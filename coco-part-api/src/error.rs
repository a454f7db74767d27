//! Errors: each backend keeps its own type with the raw status; [`ErrorKind`] is what all of them have in common.

use crate::range::RangeError;

/// The common view of a backend's error.
pub trait Error: core::error::Error + 'static {
    /// The kind that generic code decides by.
    fn kind(&self) -> ErrorKind;
}

/// Gives the verbs of one object their error type.
pub trait ErrorType {
    /// Error of every fallible method.
    type Error: Error;
}

impl<T: ErrorType + ?Sized> ErrorType for &mut T {
    type Error = T::Error;
}

/// What went wrong, as fine as the answers of the call protocol need. [`blame`](ErrorKind::blame) says whose fault it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// An address or a length is not aligned as the operation needs it.
    Misaligned,
    /// A range is empty, wraps, or leaves the memory that the operation may touch.
    OutOfRange,
    /// An argument has a value that the operation does not take.
    InvalidArgument,
    /// The caller lacks the right it wants to use or to give.
    NotPermitted,
    /// The page already is in the state that was asked for; possibly an attack (rule M2).
    AlreadyInState,
    /// The machine holds the page in another size than asked for.
    SizeMismatch,
    /// The thing runs or is held by somebody, and stays as it is (rule V4).
    InUse,
    /// A vCPU's state image has contents that are not allowed (rule V2).
    BadState,
    /// There is no such vCPU, level or frame in use.
    NotFound,
    /// Somebody is at work on it right now; asking again later may succeed. Nothing was changed.
    Busy,
    /// An access faulted: the memory is not reachable by this level.
    Inaccessible,
    /// The machine refused with a status the operation does not expect.
    Refused,
    /// A step could not be undone: frame `done` is in no state that anybody asked for, and nobody can rely on it. A ledger
    /// marks it so for good (rule M4).
    Quarantined,
    /// The host declined to do its part.
    HostRefused,
    /// The host answered what it cannot honestly answer.
    HostMisbehaved,
    /// A secure channel was closed for good because its next message could repeat a sequence number (rule A2).
    ChannelClosed,
    /// A lower level left something in a state that it cannot reach by the protocol.
    LevelMisbehaved,
    /// This backend, machine or firmware cannot do it.
    Unsupported,
}

/// Who is at fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Blame {
    /// Who called: other arguments would have succeeded.
    Caller,
    /// Nobody: another one was quicker.
    Nobody,
    /// The machine (processor, firmware, module).
    Machine,
    /// The untrusted host.
    Host,
    /// A lower level.
    Level,
    /// The combination of backend and machine.
    Platform,
}

impl ErrorKind {
    /// Whose fault it is.
    pub const fn blame(self) -> Blame {
        match self {
            Self::Misaligned
            | Self::OutOfRange
            | Self::InvalidArgument
            | Self::NotPermitted
            | Self::AlreadyInState
            | Self::SizeMismatch
            | Self::InUse
            | Self::BadState
            | Self::NotFound => Blame::Caller,
            Self::Busy => Blame::Nobody,
            Self::Inaccessible | Self::Refused | Self::Quarantined => Blame::Machine,
            Self::HostRefused | Self::HostMisbehaved | Self::ChannelClosed => Blame::Host,
            Self::LevelMisbehaved => Blame::Level,
            Self::Unsupported => Blame::Platform,
        }
    }
}

impl From<RangeError> for ErrorKind {
    fn from(error: RangeError) -> Self {
        match error {
            RangeError::Unaligned { .. } => Self::Misaligned,
            RangeError::Empty { .. }
            | RangeError::Wraps { .. }
            | RangeError::OutsideMap { .. }
            | RangeError::Overlap { .. } => Self::OutOfRange,
        }
    }
}

/// A range operation that did not finish: exact partial progress (rule M4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stopped<E> {
    /// 4 KiB frames done, from the start of the range. `range.skip(done)` is what is left.
    pub done: u64,
    /// Why frame `done` was not.
    pub cause: E,
}

impl<E> Stopped<E> {
    /// Nothing was done.
    #[inline]
    pub const fn at_start(cause: E) -> Self {
        Self { done: 0, cause }
    }

    /// The same stop with another error type.
    pub fn map<F>(self, into: impl FnOnce(E) -> F) -> Stopped<F> {
        Stopped { done: self.done, cause: into(self.cause) }
    }
}
