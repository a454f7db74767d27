//! Leaves of TDCALL (fact table `tdcall_leaves`).

codes! {
    /// A leaf: RAX bits 15:0 of TDCALL; bits 23:16 are the version, here always 0, and the rest is zero.
    ///
    /// Only the leaves that this crate uses have names.
    pub struct Leaf(u16) {
        /// TDG.VP.VMCALL: hands registers to the host.
        VP_VMCALL = 0;
        /// TDG.VP.INFO: who am I.
        VP_INFO = 1;
        /// TDG.VP.VEINFO.GET: why #VE was raised.
        VP_VEINFO_GET = 3;
        /// TDG.MR.REPORT: a local report.
        MR_REPORT = 4;
        /// TDG.MEM.PAGE.ACCEPT: takes a pending page, zeroed.
        MEM_PAGE_ACCEPT = 6;
        /// TDG.VM.RD: reads a field of the TD.
        VM_RD = 7;
        /// TDG.VP.RD: reads a field of the vCPU.
        VP_RD = 9;
        /// TDG.VP.WR: writes a field of the vCPU.
        VP_WR = 10;
        /// TDG.SYS.RD: reads a field of the module.
        SYS_RD = 11;
        /// TDG.MEM.PAGE.ATTR.RD: reads the attributes of a page.
        MEM_PAGE_ATTR_RD = 23;
        /// TDG.MEM.PAGE.ATTR.WR: writes them.
        MEM_PAGE_ATTR_WR = 24;
        /// TDG.VP.ENTER: runs an L2 VM.
        VP_ENTER = 25;
    }
}

impl Leaf {
    /// What RAX has to hold for version 0 of the leaf.
    pub const fn to_rax(self) -> u64 {
        self.0 as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::Table;

    #[test]
    fn leaves_are_those_of_the_table() {
        let table = Table::parse(include_str!("../../facts/tdcall_leaves.csv"));
        for (name, leaf) in Leaf::KNOWN {
            let spoken = std::format!("TDG.{}", name.replace('_', "."));
            assert_eq!(table.one("name", &spoken).number("leaf"), leaf.to_rax(), "{spoken}");
        }
    }
}
