//! Instructions of a program that knows nothing of the vendor, on the TDX machine.

use machine::tdx::{Answer, Fault, Op};

use super::model::TdxModel;
use crate::platform::{Found, Plain};
use crate::runner::Cpu;

/// Executes one.
///
/// # Errors
/// An exception other than #GP, or an answer of another instruction.
pub(super) fn execute(cpu: Cpu<'_, TdxModel>, instruction: Plain) -> Result<Found, String> {
    let op = match instruction {
        Plain::Cpuid { leaf, subleaf } => Op::Cpuid { leaf, subleaf },
        Plain::ReadMsr(msr) => Op::Rdmsr(msr),
        Plain::WriteMsr(msr, value) => Op::Wrmsr(msr, value),
        Plain::In { port, size } => Op::In { port, size },
        Plain::Out { port, size, value } => Op::Out { port, size, value },
        Plain::Halt => Op::Hlt,
        Plain::Load { at } => Op::Read { gpa: at, len: 8, private: true },
    };
    match cpu.execute(op) {
        Ok(Answer::None) => Ok(Found::Nothing),
        Ok(Answer::Cpuid(registers)) => Ok(Found::Cpuid(registers)),
        Ok(Answer::Value(value)) => Ok(Found::Value(value)),
        Ok(Answer::Bytes(bytes)) => Ok(Found::word(&bytes)),
        Err(Fault::GeneralProtection) => Ok(Found::GeneralProtection),
        other => Err(format!("{instruction:x?} gave {other:x?}")),
    }
}
