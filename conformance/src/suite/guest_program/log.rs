//! What the program writes down, and why it gives up.

use std::fmt;

use coco_part_api::{Error, ErrorKind, FrameRange, Stopped};
use x86_64::PhysAddr;

/// Verbs and their results, a line each. The same on every vendor, variant and schedule.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Log(Vec<String>);

impl Log {
    /// The lines so far.
    pub fn lines(&self) -> &[String] {
        &self.0
    }

    pub(super) fn note(&mut self, line: impl fmt::Display) {
        self.0.push(line.to_string());
    }

    /// Notes what became of a range operation and passes it on.
    fn range<E: Error>(
        &mut self,
        verb: &'static str,
        range: FrameRange,
        result: Result<(), Stopped<E>>,
    ) -> Result<(), (u64, ErrorKind)> {
        let result = result.map_err(|stopped| (stopped.done, stopped.cause.kind()));
        match result {
            Ok(()) => self.note(format_args!("{verb} {range:?}: done")),
            Err((done, kind)) => self.note(format_args!("{verb} {range:?}: {kind:?} after {done} frames")),
        }
        result
    }

    /// As [`range`](Self::range) for what has to succeed.
    pub(super) fn must<E: Error>(
        &mut self,
        verb: &'static str,
        range: FrameRange,
        result: Result<(), Stopped<E>>,
    ) -> Result<(), Failed> {
        self.range(verb, range, result).map_err(|(_, kind)| Failed::Verb { verb, kind })
    }

    /// As [`range`](Self::range) for what has to be refused before it begins.
    pub(super) fn range_refused<E: Error>(
        &mut self,
        verb: &'static str,
        range: FrameRange,
        result: Result<(), Stopped<E>>,
        want: ErrorKind,
    ) -> Result<(), Failed> {
        match self.range(verb, range, result) {
            Err((0, kind)) if kind == want => Ok(()),
            _ => Err(Failed::NotRefused { verb }),
        }
    }

    /// Notes what became of a verb that has to be refused, and with what arguments.
    pub(super) fn refused<T, E: Error>(
        &mut self,
        verb: &'static str,
        arguments: impl fmt::Display,
        result: Result<T, E>,
        want: ErrorKind,
    ) -> Result<(), Failed> {
        let refusal = result.map(drop).map_err(|error| error.kind());
        match refusal {
            Ok(()) => self.note(format_args!("{verb} {arguments}: done")),
            Err(kind) => self.note(format_args!("{verb} {arguments}: {kind:?}")),
        }
        if refusal == Err(want) { Ok(()) } else { Err(Failed::NotRefused { verb }) }
    }
}

/// Why a program gave up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror_no_std::Error)]
pub enum Failed {
    /// A verb failed.
    #[error("{verb}: {kind:?}")]
    Verb {
        /// Which.
        verb: &'static str,
        /// Its error.
        kind: ErrorKind,
    },
    /// A verb did not give the error that it has to.
    #[error("{verb} was not refused as it has to be")]
    NotRefused {
        /// Which.
        verb: &'static str,
    },
    /// An access to own memory failed.
    #[error("memory at {at:#x}: {kind:?}")]
    Memory {
        /// Where.
        at: PhysAddr,
        /// Its error.
        kind: ErrorKind,
    },
    /// Memory does not hold what it has to.
    #[error("memory at {at:#x} holds {got:#x}, not {want:#x}")]
    Contents {
        /// Where.
        at: PhysAddr,
        /// The word there.
        got: u64,
        /// What it has to be.
        want: u64,
    },
    /// Evidence names another level or is longer than its buffer.
    #[error("evidence does not fit the request")]
    Evidence,
    /// The further vCPU did not answer.
    #[error("the further vCPU says nothing")]
    NoAnswer,
}

impl std::error::Error for Failed {}
