//! Reasons of a VM exit of an L2 (fact table `vmx_exit_reasons`), and what their qualification says.

codes! {
    /// A basic exit reason.
    ///
    /// Only those that this crate tells apart have names.
    pub struct ExitReason(u16) {
        /// A triple fault.
        TRIPLE_FAULT = 2;
        /// CPUID.
        CPUID = 10;
        /// HLT.
        HLT = 12;
        /// VMCALL: a call to L1.
        VMCALL = 18;
        /// IN, OUT and their string forms.
        IO_INSTRUCTION = 30;
        /// RDMSR.
        RDMSR = 31;
        /// WRMSR.
        WRMSR = 32;
        /// A memory access failed.
        EPT_VIOLATION = 48;
        /// TDCALL.
        TDCALL = 77;
    }
}

/// Exit qualification of an I/O instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IoQualification(pub u64);

impl IoQualification {
    /// Bytes: 1, 2 or 4; `None` for a size that does not exist.
    pub const fn size(self) -> Option<u8> {
        match self.0 & 7 {
            0 => Some(1),
            1 => Some(2),
            3 => Some(4),
            _ => None,
        }
    }

    /// IN.
    pub const fn is_in(self) -> bool {
        self.0 & 1 << 3 != 0
    }

    /// A string instruction.
    pub const fn is_string(self) -> bool {
        self.0 & 1 << 4 != 0
    }

    /// Port number.
    pub const fn port(self) -> u16 {
        (self.0 >> 16) as u16
    }
}

/// Exit qualification of an EPT violation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EptQualification(pub u64);

impl EptQualification {
    /// A write.
    pub const fn is_write(self) -> bool {
        self.0 & 1 << 1 != 0
    }

    /// An instruction fetch.
    pub const fn is_fetch(self) -> bool {
        self.0 & 1 << 2 != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::Table;

    #[test]
    fn reasons_are_those_of_the_table() {
        let table = Table::parse(include_str!("../../facts/vmx_exit_reasons.csv"));
        for (name, reason) in ExitReason::KNOWN {
            let row = table.rows().find(|row| row.text("name").split(' ').next() == Some(name)).expect(name);
            assert_eq!(row.number("basic_reason"), u64::from(reason.0), "{name}");
            assert_ne!(row.text("delivered_to_L1"), "no", "{name}");
        }
    }

    #[test]
    fn sizes_and_directions_of_port_accesses_are_told_apart() {
        let out = IoQualification(0x03f8_0000);
        assert_eq!((out.size(), out.port(), out.is_in(), out.is_string()), (Some(1), 0x3f8, false, false));
        let string = IoQualification(0x60_001b);
        assert_eq!((string.size(), string.port(), string.is_in(), string.is_string()), (Some(4), 0x60, true, true));
        assert_eq!(IoQualification(2).size(), None);
    }
}
