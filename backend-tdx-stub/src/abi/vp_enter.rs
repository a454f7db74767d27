//! Operands and exit information of TDG.VP.ENTER (fact table `l2_vp_enter`).

use coco_part_api::GuestLevel;

use super::exit_reason::ExitReason;
use super::regs::Regs;
use super::status::Status;

/// What is invalidated before the L2 runs: RCX bits 1:0. The values 2 and 3 need a feature of newer modules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Invalidate {
    /// Nothing.
    Nothing = 0,
    /// All translations of that L2 on this processor (INVEPT, single context).
    All = 1,
}

/// RCX: what to invalidate in bits 1:0, VM index in 53:52, the rest zero.
pub const fn operand(level: GuestLevel, invalidate: Invalidate) -> u64 {
    (level.number() as u64) << 52 | invalidate as u64
}

/// The VM index in RCX, 0 to 3.
pub const fn vm_index(rcx: u64) -> u8 {
    (rcx >> 52 & 3) as u8
}

/// The registers after a return from an L2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExitInfo(pub Regs);

impl ExitInfo {
    /// Extended qualification type: the L2 touched a page that L1 has not accepted.
    pub const PENDING_EPT_VIOLATION: u8 = 6;

    /// Completion status; its details are the exit reason.
    pub const fn status(&self) -> Status {
        Status(self.0.rax)
    }

    /// RAX 15:0: basic exit reason.
    pub const fn reason(&self) -> ExitReason {
        ExitReason(self.0.rax as u16)
    }

    /// RAX bit 31: the VM entry failed, the L2 did not run.
    pub const fn entry_failed(&self) -> bool {
        self.0.rax & 1 << 31 != 0
    }

    /// RCX: exit qualification.
    pub const fn qualification(&self) -> u64 {
        self.0.rcx
    }

    /// R8: guest physical address of an EPT violation.
    pub const fn gpa(&self) -> u64 {
        self.0.r8
    }

    /// R10 31:0: the event that was being delivered; bit 31: there was one.
    pub const fn idt_vectoring(&self) -> u32 {
        self.0.r10 as u32
    }

    /// R10 63:32: its error code.
    pub const fn idt_vectoring_error(&self) -> u32 {
        (self.0.r10 >> 32) as u32
    }

    /// R11 63:32: bytes of the instruction, 1 to 15; `None` for anything else.
    pub fn instruction_length(&self) -> Option<u8> {
        u8::try_from(self.0.r11 >> 32).ok().filter(|length| (1..=15).contains(length))
    }

    /// R12 1:0: CPL of the L2.
    pub const fn cpl(&self) -> u8 {
        (self.0.r12 & 3) as u8
    }

    /// R13 3:0: type of the extended qualification.
    pub const fn extended_type(&self) -> u8 {
        (self.0.r13 & 0xf) as u8
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::Table;

    fn table() -> Table {
        Table::parse(include_str!("../../facts/l2_vp_enter.csv"))
    }

    #[test]
    fn operands_are_those_of_the_table() {
        let table = table();
        let bits = |item: &str| {
            let row = table.with("group", "input").find(|row| row.text("item") == item).expect(item);
            (row.text("location"), row.text("width_or_bits"))
        };
        assert_eq!(bits("INVD_TRANSLATIONS"), ("RCX", "1:0"));
        assert_eq!(bits("VM_INDEX"), ("RCX", "53:52"));
        assert_eq!(operand(GuestLevel::THREE, Invalidate::All), 3 << 52 | 1);
        assert_eq!(operand(GuestLevel::ONE, Invalidate::Nothing), 1 << 52);
        assert_eq!(vm_index(operand(GuestLevel::TWO, Invalidate::All)), 2);
    }

    #[test]
    fn exit_information_is_where_the_table_has_it() {
        let table = table();
        let at = |start: &str| {
            let row = table.with("group", "exit_output").find(|row| row.text("meaning").starts_with(start));
            let row = row.expect(start);
            (row.text("location"), row.text("width_or_bits"))
        };
        let info = ExitInfo(Regs {
            rax: 0x1100_8000_0030,
            rcx: 7,
            r8: 0x5000,
            r10: 0x5_8000_0b0e,
            r11: 0x3_0000_0000,
            r12: 3,
            r13: 6,
            ..Regs::default()
        });
        assert_eq!((at("VMX exit reason"), info.reason()), (("RAX", "31:0"), ExitReason::EPT_VIOLATION));
        assert!(info.entry_failed());
        assert_eq!((at("VMX exit qualification"), info.qualification()), (("RCX", "63:0"), 7));
        assert_eq!((at("guest physical address"), info.gpa()), (("R8", "63:0"), 0x5000));
        assert_eq!((at("IDT-vectoring information"), info.idt_vectoring()), (("R10", "31:0"), 0x8000_0b0e));
        assert_eq!((at("IDT-vectoring error code"), info.idt_vectoring_error()), (("R10", "63:32"), 5));
        assert_eq!((at("VM-exit instruction length"), info.instruction_length()), (("R11", "63:32"), Some(3)));
        assert_eq!((at("L2 CPL"), info.cpl()), (("R12", "1:0"), 3));
        assert_eq!((at("extended exit qualification type"), info.extended_type()), (("R13", "3:0"), 6));
    }

    #[test]
    fn an_instruction_length_that_cannot_be_is_none() {
        for length in [0, 16, 0x100, 0xffff_ffff] {
            assert_eq!(ExitInfo(Regs { r11: length << 32, ..Regs::default() }).instruction_length(), None);
        }
    }

    #[test]
    fn statuses_of_an_entry_are_those_of_the_table() {
        let table = table();
        for row in table.with("group", "status") {
            let Some(upper) = crate::facts::number(row.text("width_or_bits")) else { continue };
            if row.text("item").starts_with("TD_EXIT") {
                continue; // seen by the host
            }
            let known = Status::KNOWN.iter().find(|(name, _)| *name == row.text("item")).expect("named");
            assert_eq!(known.1.0 >> 32, upper, "{}", row.text("item"));
        }
    }
}
