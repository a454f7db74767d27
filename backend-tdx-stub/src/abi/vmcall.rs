//! TDVMCALL: what L1 asks the host (fact table `vmcall`).

codes! {
    /// A sub-function, R11 of TDG.VP.VMCALL with R10 = 0.
    pub struct SubFunction(u64) {
        /// MapGPA. R12: start, with the shared bit for shared; R13: bytes. Out: R11 the next address on RETRY.
        MAP_GPA = 0x10001;
    }
}

codes! {
    /// What the host says in R10. Untrusted.
    pub struct HostStatus(u64) {
        /// Done.
        SUCCESS = 0;
        /// Done in part; call again from the address in R11.
        RETRY = 1;
        /// An operand is bad.
        INVALID_OPERAND = 0x8000_0000_0000_0000;
        /// The address is in use.
        GPA_INUSE = 0x8000_0000_0000_0001;
        /// Something is not aligned.
        ALIGN_ERROR = 0x8000_0000_0000_0002;
        /// No such sub-function.
        SUBFUNC_UNSUPPORTED = 0x8000_0000_0000_0003;
    }
}

/// RCX of TDG.VP.VMCALL: the registers that the host sees and may set, here R10 to R13 and no more.
pub const EXPOSED: u64 = 0x3C00;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::Table;

    #[test]
    fn sub_functions_and_codes_are_those_of_the_table() {
        let table = Table::parse(include_str!("../../facts/vmcall.csv"));
        assert_eq!(table.one("name", "MapGPA").number("subfunction"), SubFunction::MAP_GPA.0);
        let codes = table.one("name", "common").text("status_codes");
        for (name, status) in HostStatus::KNOWN {
            let text = match status.0 {
                0 => continue,
                value if value < 10 => std::format!("{value} {name}"),
                value => std::format!("0x{value:x} {name}"),
            };
            assert!(codes.split("; ").any(|code| code == text), "{text} not in {codes}");
        }
    }

    #[test]
    fn the_host_sees_the_registers_of_the_call_alone() {
        assert_eq!(EXPOSED, 1 << 10 | 1 << 11 | 1 << 12 | 1 << 13);
    }
}
