//! The trait between the safe logic and a machine.

use x86_64::PhysAddr;

use super::types::{CallFrame, Fault, PvalidateResult, RmpQueryResult};
use crate::abi::invlpgb::Invlpgb;
use crate::abi::page::Page;
use crate::abi::rmp::{PvalidateOp, RmpAttributes, RmpCode};
use crate::abi::vmpl::Vmpl;

/// The instructions of one vCPU at one level.
///
/// Source: 24593, `facts/instructions.csv`. All of them need CPL 0.
pub trait Port {
    /// Sets or clears the Validated flag of a page.
    ///
    /// VMPL0 only. Success with carry means that nothing changed: for a caller that did not expect it, an attack
    /// (RMP-008). Contents, rights and TLBs are left as they are. A 4 KiB request on a 2 MiB RMP entry leaves to the
    /// host, which splits the entry, and is repeated by the processor; a 2 MiB request on 4 KiB entries returns
    /// `FAIL_SIZEMISMATCH`. A page that the host has not assigned leaves to the host and may never come back.
    ///
    /// # Errors
    /// [`Fault::GeneralProtection`] at VMPL1 to 3; [`Fault::InvalidOpcode`] outside of an SNP guest.
    #[doc(alias = "PVALIDATE")]
    fn pvalidate(&mut self, page: Page, op: PvalidateOp) -> Result<PvalidateResult, Fault>;

    /// Replaces the rights of a less privileged level to a page, and the VMSA mark of the page.
    ///
    /// Any level that has one below it. `FAIL_PERMISSION` if the target is not below the caller or the mask holds a right
    /// that the caller lacks; `FAIL_SIZEMISMATCH` for 2 MiB on 4 KiB RMP entries. Only VMPL0 changes the VMSA mark;
    /// elsewhere the bit is ignored. TLBs are left as they are: a cut right lives on until a flush (RMP-055).
    ///
    /// # Errors
    /// [`Fault::Vc`] with `PAGE_NOT_VALIDATED` for a page that is not validated.
    #[doc(alias = "RMPADJUST")]
    fn rmpadjust(&mut self, page: Page, attributes: RmpAttributes) -> Result<RmpCode, Fault>;

    /// Reads the rights of a level to the page at `at`, whether it is a VMSA, and the size of its RMP entry.
    ///
    /// Any level. `FAIL_PERMISSION` if `target` is more privileged than the caller. Only where CPUID 0x8000_001F EAX bit 6
    /// says so: elsewhere the same bytes are another instruction and the result means nothing.
    ///
    /// # Errors
    /// [`Fault::Vc`] with `PAGE_NOT_VALIDATED` for a page that is not validated; [`Fault::InvalidOpcode`] without the
    /// instruction, if the other one does not exist either.
    #[doc(alias = "RMPQUERY")]
    fn rmpquery(&mut self, at: PhysAddr, target: Vmpl) -> Result<RmpQueryResult, Fault>;

    /// Leaves to the host with the request in the GHCB MSR or in the GHCB page that it names.
    ///
    /// Any level. The MSR has to be written before, with nothing in between that could use it too. When the method
    /// returns, the host resumed this vCPU; that proves nothing else.
    #[doc(alias = "VMGEXIT")]
    fn vmgexit(&mut self);

    /// Leaves as [`vmgexit`](Port::vmgexit) with the registers of an SVSM call loaded, and stores them afterwards.
    ///
    /// Any level. Whether the other level ran has to be seen from the calling area; if not, the registers come back as
    /// they were.
    #[doc(alias = "VMGEXIT")]
    fn vmgexit_call(&mut self, regs: &mut CallFrame);

    /// Reads the GHCB MSR. After a VMGEXIT it holds whatever the host put there.
    #[doc(alias = "RDMSR")]
    fn read_ghcb_msr(&mut self) -> u64;

    /// Writes the GHCB MSR: a request of the MSR protocol or the address of the GHCB page.
    #[doc(alias = "WRMSR")]
    fn write_ghcb_msr(&mut self, value: u64);

    /// Reads SEV_STATUS: features of the executing level. It cannot be intercepted.
    #[doc(alias = "RDMSR")]
    fn read_sev_status(&mut self) -> u64;

    /// Starts a TLB flush on all processors for this guest.
    ///
    /// Only where CPUID 0x8000_0008 EBX bit 3 says so. Not complete before [`tlbsync`](Port::tlbsync).
    #[doc(alias = "INVLPGB")]
    fn invlpgb(&mut self, request: Invlpgb);

    /// Waits until all flushes that this vCPU started are complete everywhere.
    #[doc(alias = "TLBSYNC")]
    fn tlbsync(&mut self);

    /// Hints that this is a spin loop. A cooperative machine runs somebody else.
    #[doc(alias = "PAUSE")]
    fn pause(&mut self);

    /// Stops until an event arrives. The host decides when it returns; with interrupts off it may be never.
    #[doc(alias = "HLT")]
    fn halt(&mut self);
}

impl<T: Port + ?Sized> Port for &mut T {
    fn pvalidate(&mut self, page: Page, op: PvalidateOp) -> Result<PvalidateResult, Fault> {
        T::pvalidate(self, page, op)
    }

    fn rmpadjust(&mut self, page: Page, attributes: RmpAttributes) -> Result<RmpCode, Fault> {
        T::rmpadjust(self, page, attributes)
    }

    fn rmpquery(&mut self, at: PhysAddr, target: Vmpl) -> Result<RmpQueryResult, Fault> {
        T::rmpquery(self, at, target)
    }

    fn vmgexit(&mut self) {
        T::vmgexit(self);
    }

    fn vmgexit_call(&mut self, regs: &mut CallFrame) {
        T::vmgexit_call(self, regs);
    }

    fn read_ghcb_msr(&mut self) -> u64 {
        T::read_ghcb_msr(self)
    }

    fn write_ghcb_msr(&mut self, value: u64) {
        T::write_ghcb_msr(self, value);
    }

    fn read_sev_status(&mut self) -> u64 {
        T::read_sev_status(self)
    }

    fn invlpgb(&mut self, request: Invlpgb) {
        T::invlpgb(self, request);
    }

    fn tlbsync(&mut self) {
        T::tlbsync(self);
    }

    fn pause(&mut self) {
        T::pause(self);
    }

    fn halt(&mut self) {
        T::halt(self);
    }
}
