//! A vCPU whose host is a closure over the input.

use backend_snp::abi::invlpgb::Invlpgb;
use backend_snp::abi::page::Page;
use backend_snp::abi::rmp::{PvalidateOp, RmpAttributes, RmpCode};
use backend_snp::abi::vmpl::Vmpl;
use backend_snp::instr::{CallFrame, Fault, Port, PvalidateResult, RmpQueryResult};
use x86_64::PhysAddr;

/// What a level executes. Instructions on the RMP do not exist but for RMPADJUST, which answers from a closure.
pub(super) struct HostilePort<'a> {
    pub(super) msr: u64,
    pub(super) sev_status: u64,
    /// VMGEXITs so far.
    pub(super) exits: u64,
    host: &'a mut dyn FnMut(&mut u64),
    adjust: &'a mut dyn FnMut(Page, RmpAttributes) -> Result<RmpCode, Fault>,
}

/// A processor without RMPADJUST.
pub(super) fn no_adjust(_: Page, _: RmpAttributes) -> Result<RmpCode, Fault> {
    Err(Fault::InvalidOpcode)
}

impl<'a> HostilePort<'a> {
    /// `host` gets the GHCB MSR at each VMGEXIT and leaves its answer there.
    pub(super) fn new(
        host: &'a mut dyn FnMut(&mut u64),
        adjust: &'a mut dyn FnMut(Page, RmpAttributes) -> Result<RmpCode, Fault>,
    ) -> Self {
        Self { msr: 0, sev_status: 0, exits: 0, host, adjust }
    }
}

impl Port for HostilePort<'_> {
    fn pvalidate(&mut self, _: Page, _: PvalidateOp) -> Result<PvalidateResult, Fault> {
        Err(Fault::InvalidOpcode)
    }

    fn rmpadjust(&mut self, page: Page, attributes: RmpAttributes) -> Result<RmpCode, Fault> {
        (self.adjust)(page, attributes)
    }

    fn rmpquery(&mut self, _: PhysAddr, _: Vmpl) -> Result<RmpQueryResult, Fault> {
        Err(Fault::InvalidOpcode)
    }

    fn vmgexit(&mut self) {
        self.exits += 1;
        (self.host)(&mut self.msr);
    }

    fn vmgexit_call(&mut self, _: &mut CallFrame) {
        self.vmgexit();
    }

    fn read_ghcb_msr(&mut self) -> u64 {
        self.msr
    }

    fn write_ghcb_msr(&mut self, value: u64) {
        self.msr = value;
    }

    fn read_sev_status(&mut self) -> u64 {
        self.sev_status
    }

    fn invlpgb(&mut self, _: Invlpgb) {}

    fn tlbsync(&mut self) {}

    fn pause(&mut self) {}

    fn halt(&mut self) {}
}
