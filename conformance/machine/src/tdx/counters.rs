//! How often each instruction ran.

use alloc::vec::Vec;
use core::ops::AddAssign;

use super::Op;
use super::status::leaf;
use crate::Vcpu;

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Counts for one vCPU at one level, or a sum of such. What is executed again after the host repaired something
        /// counts once.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Counters {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl AddAssign for Counters {
            fn add_assign(&mut self, other: Self) {
                $(self.$name += other.$name;)*
            }
        }
    };
}

counters! {
    /// TDG.MEM.PAGE.ACCEPT, whatever it returned.
    accept,
    /// TDG.MEM.PAGE.ATTR.RD.
    attr_rd,
    /// TDG.MEM.PAGE.ATTR.WR.
    attr_wr,
    /// TDG.VP.ENTER executed by L1.
    enter,
    /// Times an L2 was entered.
    entered,
    /// TDG.VP.RD.
    vp_rd,
    /// TDG.VP.WR.
    vp_wr,
    /// TDG.VM.RD, VM.WR and SYS.RD.
    td_fields,
    /// TDG.VP.INVEPT.
    invept,
    /// What is cached for one L2 dropped on the executing processor, as L1 asked by ATTR.WR, VP.ENTER or VP.INVEPT.
    invalidations,
    /// TDG.VP.INVVPID.
    invvpid,
    /// TDG.VP.VMCALL.
    tdvmcall,
    /// TDG.MR.REPORT.
    report,
    /// TDG.MR.RTMR.EXTEND.
    rtmr_extend,
    /// TDG.MR.VERIFYREPORT.
    verify_report,
    /// TDG.VP.INFO.
    vp_info,
    /// TDG.VP.VEINFO.GET.
    veinfo_get,
    /// TDG.VP.CPUIDVE.SET.
    cpuidve_set,
    /// Leaves that do not exist.
    other_leaves,
    /// VMCALL.
    vmcall,
    /// CPUID.
    cpuid,
    /// RDMSR, WRMSR and XSETBV.
    msr,
    /// IN and OUT.
    io,
    /// TD exits: to the host.
    td_exits,
    /// Those of them that L1 had between a VMCALL of an L2 and the VP.ENTER that enters an L2 again on the same vCPU.
    td_exits_in_calls,
    /// Exits of an L2 to L1.
    l2_exits,
    /// Read operations.
    reads,
    /// Write operations, atomics included.
    writes,
    /// 4 KiB pages zeroed by zero operations that retired.
    zeroed_pages,
    /// Reads and writes of what the module does not switch.
    unswitched,
    /// Instructions through a port: TDCALL, VMCALL, CPUID, MSR and port accesses.
    port_calls,
}

impl Counters {
    pub(crate) fn count(&mut self, op: &Op) {
        let (counter, is_port) = match op {
            Op::Read { .. } | Op::Fetch { .. } => (&mut self.reads, false),
            Op::Write { .. } | Op::Swap8 { .. } | Op::CompareExchange64 { .. } => (&mut self.writes, false),
            Op::Tdcall(regs) | Op::UserTdcall(regs) | Op::Enter(regs) => (self.leaf(regs.rax as u16), true),
            Op::ReadUnswitched | Op::WriteUnswitched(_) => (&mut self.unswitched, false),
            Op::Vmcall { .. } => (&mut self.vmcall, true),
            Op::Cpuid { .. } => (&mut self.cpuid, true),
            Op::Rdmsr(_) | Op::Wrmsr(..) | Op::Xsetbv(_) => (&mut self.msr, true),
            Op::In { .. } | Op::Out { .. } => (&mut self.io, true),
            Op::Raise { .. } | Op::Other { .. } => return,
            Op::Zero { .. } | Op::Pause | Op::Hlt | Op::TripleFault | Op::End => return,
        };
        *counter += 1;
        self.port_calls += u64::from(is_port);
    }

    fn leaf(&mut self, number: u16) -> &mut u64 {
        match number {
            leaf::VP_VMCALL => &mut self.tdvmcall,
            leaf::VP_INFO => &mut self.vp_info,
            leaf::VP_VEINFO_GET => &mut self.veinfo_get,
            leaf::VP_CPUIDVE_SET => &mut self.cpuidve_set,
            leaf::MR_VERIFYREPORT => &mut self.verify_report,
            leaf::MR_RTMR_EXTEND => &mut self.rtmr_extend,
            leaf::MR_REPORT => &mut self.report,
            leaf::MEM_PAGE_ACCEPT => &mut self.accept,
            leaf::VM_RD | leaf::VM_WR | leaf::SYS_RD => &mut self.td_fields,
            leaf::VP_RD => &mut self.vp_rd,
            leaf::VP_WR => &mut self.vp_wr,
            leaf::MEM_PAGE_ATTR_RD => &mut self.attr_rd,
            leaf::MEM_PAGE_ATTR_WR => &mut self.attr_wr,
            leaf::VP_ENTER => &mut self.enter,
            leaf::VP_INVEPT => &mut self.invept,
            leaf::VP_INVVPID => &mut self.invvpid,
            _ => &mut self.other_leaves,
        }
    }
}

/// Counters by vCPU and level.
#[derive(Clone, Debug)]
pub(crate) struct CounterTable {
    by_vcpu: Vec<[Counters; 4]>,
}

impl CounterTable {
    pub(crate) fn new(vcpus: usize) -> Self {
        Self { by_vcpu: alloc::vec![[Counters::default(); 4]; vcpus] }
    }

    pub(crate) fn of(&self, vcpu: Vcpu, level: u8) -> Counters {
        let row = self.by_vcpu.get(usize::from(vcpu.0));
        row.and_then(|row| row.get(usize::from(level))).copied().unwrap_or_default()
    }

    pub(crate) fn change(&mut self, vcpu: Vcpu, level: u8, change: impl FnOnce(&mut Counters)) {
        let row = self.by_vcpu.get_mut(usize::from(vcpu.0));
        if let Some(counters) = row.and_then(|row| row.get_mut(usize::from(level))) {
            change(counters);
        }
    }

    pub(crate) fn of_level(&self, level: u8) -> Counters {
        let mut sum = Counters::default();
        self.by_vcpu.iter().filter_map(|row| row.get(usize::from(level))).for_each(|c| sum += *c);
        sum
    }

    pub(crate) fn total(&self) -> Counters {
        let mut sum = Counters::default();
        (0..4).for_each(|level| sum += self.of_level(level));
        sum
    }
}
