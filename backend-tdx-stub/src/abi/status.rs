//! Completion status of a TDCALL (fact table `completion_status`).

codes! {
    /// What RAX holds after a TDCALL.
    ///
    /// Bits 31:0 are details (an operand id, a level, an exit reason), 39:32 the code within its class, 47:40 the class,
    /// 59:48 zero, 60 a hint for the host, 61 fatal, 62 not recoverable, 63 error. The named values have no details;
    /// [`Status::name`] takes them off. Only what a guest can meet has a name.
    pub struct Status(u64) {
        /// Done.
        SUCCESS = 0;
        /// An operand is bad; details: which.
        OPERAND_INVALID = 0xC000_0100_0000_0000;
        /// Somebody holds what an operand names; details: which.
        OPERAND_BUSY = 0x8000_0200_0000_0000;
        /// The same, and the host comes first.
        OPERAND_BUSY_HOST_PRIORITY = 0x8000_0204_0000_0000;
        /// No #VE is pending.
        NO_VALID_VE_INFO = 0xC000_0704_0000_0000;
        /// The page is accepted and was not zeroed; details: its level. Bit 63 is clear: no error to the module.
        PAGE_ALREADY_ACCEPTED = 0x0000_0B0A_0000_0000;
        /// The page is mapped smaller than asked; details: the level asked for.
        PAGE_SIZE_MISMATCH = 0xC000_0B0B_0000_0000;
        /// A table page of an L2 is missing; details: VM index in 31:16, level in 15:0.
        L2_SEPT_WALK_FAILED = 0xC000_0B0F_0000_0000;
        /// The attributes are no legal set.
        PAGE_ATTR_INVALID = 0xC000_0B11_0000_0000;
        /// A field id names no field.
        METADATA_FIELD_ID_INCORRECT = 0xC000_0C00_0000_0000;
        /// L1 may not write the field.
        METADATA_FIELD_NOT_WRITABLE = 0xC000_0C01_0000_0000;
        /// L1 may not read the field.
        METADATA_FIELD_NOT_READABLE = 0xC000_0C02_0000_0000;
        /// The value is not allowed in the field.
        METADATA_FIELD_VALUE_NOT_VALID = 0xC000_0C03_0000_0000;
        /// L1 may not write the field now.
        METADATA_FIELD_CURRENTLY_NOT_WRITABLE = 0xC000_0C09_0000_0000;
        /// The write mask selects nothing that may be written.
        METADATA_WR_MASK_NOT_VALID = 0xC000_0C0A_0000_0000;
        /// VP.ENTER: the host ended the L2's run and resumed L1; details: exit reason.
        L2_EXIT_HOST_ROUTED_ASYNC = 0x0000_1100_0000_0000;
        /// VP.ENTER: the host completed a TDVMCALL of the L2 and resumed L1; details: 77.
        L2_EXIT_HOST_ROUTED_TDVMCALL = 0x0000_1101_0000_0000;
        /// VP.ENTER: the L2 left because L1 has an interrupt to take; details: 1.
        L2_EXIT_PENDING_INTERRUPT = 0x0000_1102_0000_0000;
        /// VP.ENTER of newer modules: the L2 could not be entered.
        L2_VM_ENTRY_FAILED = 0x8000_1103_0000_0000;
        /// VP.ENTER: L1 has an interrupt to take, the L2 was not entered.
        PENDING_INTERRUPT = 0x0000_1120_0000_0000;
    }
}

/// Operand ids that details name (fact table `completion_status`, "id" rows).
pub mod operand {
    /// RCX.
    pub const RCX: u32 = 1;
    /// RDX.
    pub const RDX: u32 = 2;
    /// R8.
    pub const R8: u32 = 8;
    /// The virtual-APIC page of an L2.
    pub const L2_VAPIC_GPA: u32 = 170;
}

impl Status {
    const ERROR: u64 = 1 << 63;
    const NON_RECOVERABLE: u64 = 1 << 62;

    /// The status without its details.
    pub const fn name(self) -> Self {
        Self(self.0 & !0xffff_ffff)
    }

    /// The status with these details.
    pub const fn with_details(self, details: u32) -> Self {
        Self(self.name().0 | details as u64)
    }

    /// Bits 31:0.
    pub const fn details(self) -> u32 {
        self.0 as u32
    }

    /// Class, bits 47:40.
    pub const fn class(self) -> u8 {
        (self.0 >> 40) as u8
    }

    /// The operation did not happen. Clear for success and for "already in that state".
    pub const fn is_error(self) -> bool {
        self.0 & Self::ERROR != 0
    }

    /// The same call can succeed later: error without the not-recoverable bit.
    pub const fn is_recoverable(self) -> bool {
        self.is_error() && self.0 & Self::NON_RECOVERABLE == 0
    }

    /// Somebody else holds the thing: to be asked again, a bounded number of times.
    pub const fn is_busy(self) -> bool {
        matches!(self.name(), Self::OPERAND_BUSY | Self::OPERAND_BUSY_HOST_PRIORITY)
    }

    /// The status without details has a name here.
    pub fn is_known(self) -> bool {
        Self::KNOWN.iter().any(|(_, known)| *known == self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::{Table, number};

    fn table() -> Table {
        Table::parse(include_str!("../../facts/completion_status.csv"))
    }

    #[test]
    fn values_are_those_of_the_table() {
        for (name, status) in Status::KNOWN {
            let table = table();
            let row = table.one("name", name);
            assert_eq!(row.number("value"), status.0, "{name}");
            assert_eq!(row.number("class"), u64::from(status.class()), "{name}");
        }
    }

    #[test]
    fn error_and_retry_bits_agree_with_the_table() {
        for row in table().rows().filter(|row| row.text("value").starts_with("0x")) {
            let status = Status(number(row.text("value")).unwrap());
            let kind = row.text("kind");
            if kind == "error" {
                assert!(status.is_error(), "{status:?}");
                assert_eq!(status.is_recoverable(), row.text("recoverable").starts_with("yes"), "{status:?}");
            } else {
                assert!(!status.is_recoverable(), "{status:?} is {kind}");
            }
        }
    }

    #[test]
    fn every_status_that_a_guest_meets_by_leaves_used_here_is_known() {
        let leaves = ["PAGE_", "OPERAND_BUSY", "OPERAND_INVALID", "L2_EXIT", "PENDING_INTERRUPT", "NO_VALID_VE"];
        for row in table().with("seen_by", "guest (TDCALL)") {
            if leaves.iter().any(|start| row.text("name").starts_with(start)) {
                assert!(Status(row.number("value")).is_known(), "{}", row.text("name"));
            }
        }
    }

    #[test]
    fn operand_ids_are_those_of_the_table() {
        let ids = [("RCX", operand::RCX), ("RDX", operand::RDX), ("R8", operand::R8)];
        for (name, id) in ids.into_iter().chain([("L2_VAPIC_GPA", operand::L2_VAPIC_GPA)]) {
            let name = std::format!("OPERAND_ID_{name}");
            assert_eq!(table().one("name", &name).text("value"), std::format!("id {id}"));
        }
    }

    #[test]
    fn details_come_off_and_on() {
        let status = Status::OPERAND_BUSY.with_details(operand::RCX);
        assert_eq!(status.0, 0x8000_0200_0000_0001);
        assert_eq!((status.name(), status.details(), status.class()), (Status::OPERAND_BUSY, 1, 2));
        assert!(status.is_busy() && !Status::OPERAND_INVALID.is_busy());
    }
}
