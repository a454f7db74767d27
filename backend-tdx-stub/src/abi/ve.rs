//! What TDG.VP.VEINFO.GET tells a #VE handler of L1 (fact table `ve_info`).
//!
//! No verb of this crate takes a #VE. The handler belongs to the integrator; it has to call this leaf first and once,
//! since a second #VE before that becomes a double fault.

use super::exit_reason::ExitReason;
use super::regs::Regs;

/// Why a #VE was raised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VeInfo {
    /// Reason of the exit that became a #VE.
    pub reason: ExitReason,
    /// Its qualification.
    pub qualification: u64,
    /// Guest linear address, for an EPT violation.
    pub gla: u64,
    /// Guest physical address with the shared bit, for an EPT violation.
    pub gpa: u64,
    /// Bytes of the instruction.
    pub instruction_length: u32,
    /// Instruction information.
    pub instruction_info: u32,
}

impl VeInfo {
    /// From the registers of a call that succeeded.
    pub const fn from_regs(regs: &Regs) -> Self {
        Self {
            reason: ExitReason(regs.rcx as u16),
            qualification: regs.rdx,
            gla: regs.r8,
            gpa: regs.r9,
            instruction_length: regs.r10 as u32,
            instruction_info: (regs.r10 >> 32) as u32,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::Table;

    #[test]
    fn registers_are_those_of_the_table() {
        let table = Table::parse(include_str!("../../facts/ve_info.csv"));
        let at = |item| table.with("group", "output").find(|row| row.text("item") == item).unwrap().text("location");
        let regs = Regs { rcx: 0x1_0000_0030, rdx: 2, r8: 3, r9: 4, r10: 0x6_0000_0005, ..Regs::default() };
        let info = VeInfo::from_regs(&regs);
        assert_eq!((at("EXIT_REASON"), info.reason), ("RCX[31:0]", ExitReason::EPT_VIOLATION));
        assert_eq!((at("EXIT_QUALIFICATION"), info.qualification), ("RDX", 2));
        assert_eq!((at("GLA"), info.gla), ("R8", 3));
        assert_eq!((at("GPA"), info.gpa), ("R9", 4));
        assert_eq!((at("INSTRUCTION_LENGTH"), info.instruction_length), ("R10[31:0]", 5));
        assert_eq!((at("INSTRUCTION_INFO"), info.instruction_info), ("R10[63:32]", 6));
    }
}
