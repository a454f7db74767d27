//! What a case says.

use core::fmt;

use coco_part_api::svsm::CallResult;
use coco_part_api::{CallRegs, ErrorKind, Level};

use crate::bed::Found;

/// Nothing, or what is wrong.
pub type Check = Result<(), Failed>;

/// Something that is not as it has to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failed {
    /// What was looked at.
    pub what: &'static str,
    /// What it is.
    pub got: Value,
    /// What it has to be.
    pub want: Value,
}

/// What a case compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value {
    /// A verb succeeded.
    Done,
    /// A verb failed, after so many frames where it has a range.
    Stopped(ErrorKind, u64),
    /// A call was answered.
    Result(CallResult),
    /// A list was answered, with its cursor.
    List(CallResult, u16),
    /// Registers of an answer.
    Regs(CallRegs),
    /// What an instruction left.
    Found(Found),
    /// A level.
    Level(Level),
    /// A number, or a word of memory.
    Word(u64),
    /// Something holds, or does not.
    Holds(bool),
}

macro_rules! values {
    ($($from:ty => $value:ident),*) => {
        $(impl From<$from> for Value {
            fn from(value: $from) -> Self {
                Self::$value(value)
            }
        })*
    };
}

values!(CallResult => Result, CallRegs => Regs, Found => Found, Level => Level, u64 => Word, bool => Holds);

impl From<ErrorKind> for Value {
    fn from(kind: ErrorKind) -> Self {
        Self::Stopped(kind, 0)
    }
}

impl From<(CallResult, u16)> for Value {
    fn from((result, cursor): (CallResult, u16)) -> Self {
        Self::List(result, cursor)
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Done => f.write_str("success"),
            Self::Stopped(kind, done) => write!(f, "{kind:?} after {done} frames"),
            Self::Result(result) => write!(f, "{result}"),
            Self::List(result, cursor) => write!(f, "{result} at entry {cursor}"),
            Self::Regs(regs) => write!(f, "{regs:x?}"),
            Self::Found(found) => write!(f, "{found:x?}"),
            Self::Level(level) => write!(f, "level {}", level.number()),
            Self::Word(word) => write!(f, "{word:#x}"),
            Self::Holds(holds) => write!(f, "{holds}"),
        }
    }
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: got {}, want {}", self.what, self.got, self.want)
    }
}

impl core::error::Error for Failed {}

/// Fails unless the two are equal.
pub(crate) fn same(what: &'static str, got: impl Into<Value>, want: impl Into<Value>) -> Check {
    let (got, want) = (got.into(), want.into());
    if got == want { Ok(()) } else { Err(Failed { what, got, want }) }
}

/// Fails unless it holds.
pub(crate) fn ensure(what: &'static str, holds: bool) -> Check {
    same(what, holds, true)
}
