//! Memory of the SNP machine, with the C-bit or without it.

use machine::{Answer, Op};

use super::defect::Defect;
use super::model::SnpModel;
use crate::window::{self, Accessed, MemoryModel, MemoryOp};

/// Memory through mappings with the C-bit, or without it.
pub type Window<'y> = window::Window<'y, SnpModel>;

/// An access raised an exception.
pub type MemoryFault = window::MemoryFault<machine::Fault>;

impl MemoryModel for SnpModel {
    type Defect = Defect;

    fn access(op: MemoryOp, private: bool) -> Op {
        match op {
            MemoryOp::Read { gpa, len } => Op::Read { gpa, len, private },
            MemoryOp::Write { gpa, bytes } => Op::Write { gpa, bytes, private },
            MemoryOp::Zero { gpa, pages } => Op::Zero { gpa, pages, private },
            // Atomic accesses are to private memory alone.
            MemoryOp::Swap8 { gpa, value } => Op::Swap8 { gpa, value },
            MemoryOp::CompareExchange64 { gpa, expected, new } => Op::CompareExchange64 { gpa, expected, new },
        }
    }

    fn accessed(answer: Answer) -> Accessed {
        match answer {
            Answer::Bytes(bytes) => Accessed::Bytes(bytes),
            Answer::Value(value) => Accessed::Value(value),
            _ => Accessed::Done,
        }
    }

    fn pause() -> Op {
        Op::Pause
    }
}
