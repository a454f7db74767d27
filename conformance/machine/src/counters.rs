//! How often each instruction ran.

use alloc::vec::Vec;
use core::ops::AddAssign;

use crate::{Op, Vcpu};

/// Counts for one vCPU at one VMPL, or a sum of such.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// PVALIDATE executed, whatever it returned.
    pub pvalidate: u64,
    /// RMPADJUST.
    pub rmpadjust: u64,
    /// RMPQUERY.
    pub rmpquery: u64,
    /// VMGEXIT.
    pub vmgexit: u64,
    /// INVLPGB.
    pub invlpgb: u64,
    /// TLBSYNC.
    pub tlbsync: u64,
    /// RDMSR and WRMSR.
    pub msr: u64,
    /// CPUID.
    pub cpuid: u64,
    /// IN and OUT.
    pub ports: u64,
    /// Read operations.
    pub reads: u64,
    /// Write operations, atomics included.
    pub writes: u64,
    /// 4 KiB pages zeroed by zero operations that retired.
    pub zeroed_pages: u64,
    /// Nested page faults.
    pub npf: u64,
    /// Times a VMSA of this VMPL was entered on this vCPU.
    pub vmruns: u64,
    /// Instructions through a port: everything but memory access, PAUSE, HLT and the end of the program.
    pub port_calls: u64,
}

impl Counters {
    pub(crate) fn count(&mut self, op: &Op) {
        let (counter, is_port) = match op {
            Op::Read { .. } | Op::Fetch { .. } => (&mut self.reads, false),
            Op::Write { .. } | Op::Swap8 { .. } | Op::CompareExchange64 { .. } => (&mut self.writes, false),
            Op::Pvalidate { .. } => (&mut self.pvalidate, true),
            Op::Rmpadjust { .. } => (&mut self.rmpadjust, true),
            Op::Rmpquery { .. } => (&mut self.rmpquery, true),
            Op::Vmgexit(_) => (&mut self.vmgexit, true),
            Op::Rdmsr(_) | Op::Wrmsr(..) => (&mut self.msr, true),
            Op::Cpuid { .. } => (&mut self.cpuid, true),
            Op::In { .. } | Op::Out { .. } => (&mut self.ports, true),
            Op::ShadowStack { .. } => (&mut self.writes, false),
            Op::Invlpgb { .. } => (&mut self.invlpgb, true),
            Op::Tlbsync => (&mut self.tlbsync, true),
            Op::Zero { .. } | Op::Pause | Op::Hlt | Op::Intercepted { .. } | Op::End => return,
        };
        *counter += 1;
        self.port_calls += u64::from(is_port);
    }
}

impl AddAssign for Counters {
    fn add_assign(&mut self, other: Self) {
        self.pvalidate += other.pvalidate;
        self.rmpadjust += other.rmpadjust;
        self.rmpquery += other.rmpquery;
        self.vmgexit += other.vmgexit;
        self.invlpgb += other.invlpgb;
        self.tlbsync += other.tlbsync;
        self.msr += other.msr;
        self.cpuid += other.cpuid;
        self.ports += other.ports;
        self.reads += other.reads;
        self.writes += other.writes;
        self.zeroed_pages += other.zeroed_pages;
        self.npf += other.npf;
        self.vmruns += other.vmruns;
        self.port_calls += other.port_calls;
    }
}

/// Counters by vCPU and VMPL.
#[derive(Clone, Debug)]
pub(crate) struct CounterTable {
    by_vcpu: Vec<[Counters; 4]>,
}

impl CounterTable {
    pub(crate) fn new(vcpus: usize) -> Self {
        Self { by_vcpu: alloc::vec![[Counters::default(); 4]; vcpus] }
    }

    pub(crate) fn of(&self, vcpu: Vcpu, vmpl: u8) -> Counters {
        let row = self.by_vcpu.get(usize::from(vcpu.0));
        row.and_then(|row| row.get(usize::from(vmpl))).copied().unwrap_or_default()
    }

    pub(crate) fn change(&mut self, vcpu: Vcpu, vmpl: u8, change: impl FnOnce(&mut Counters)) {
        let row = self.by_vcpu.get_mut(usize::from(vcpu.0));
        if let Some(counters) = row.and_then(|row| row.get_mut(usize::from(vmpl))) {
            change(counters);
        }
    }

    pub(crate) fn of_vmpl(&self, vmpl: u8) -> Counters {
        let mut sum = Counters::default();
        self.by_vcpu.iter().filter_map(|row| row.get(usize::from(vmpl))).for_each(|c| sum += *c);
        sum
    }

    pub(crate) fn total(&self) -> Counters {
        let mut sum = Counters::default();
        (0..4).for_each(|vmpl| sum += self.of_vmpl(vmpl));
        sum
    }
}
