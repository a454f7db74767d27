//! The port with real opcodes.
//!
//! One function per instruction in `raw`, one `asm!` in each, no branch and no decision. `nostack` everywhere: none of
//! these instructions pushes anything. No block is `pure`, so the compiler neither drops nor reorders them among each
//! other. `nomem` is left out wherever an instruction changes who sees which memory, since accesses before and after it
//! must stay there. `preserves_flags` is left out wherever another party decides what comes back.

use core::marker::PhantomData;

use x86_64::PhysAddr;

use super::direct_map::DirectMap;
use super::port::Port;
use super::types::{CallFrame, Fault, PvalidateResult, RmpQueryResult};
use crate::abi::invlpgb::Invlpgb;
use crate::abi::page::{Page, PageSize};
use crate::abi::rmp::{PvalidateCode, PvalidateOp, RmpAttributes, RmpCode};
use crate::abi::sev_features::Msr;
use crate::abi::vmpl::Vmpl;

/// The instructions of the vCPU that runs this code, at the level at which it runs.
///
/// An exception of an instruction goes to the handler that the integrator has installed; a handler may end the guest or
/// resume, so a method that returns `Ok` has retired. The only error is [`Fault::GeneralProtection`] for an address
/// outside of the direct map.
///
/// The port belongs to one vCPU and cannot be sent to another one.
#[derive(Debug)]
pub struct NativePort {
    map: DirectMap,
    not_send: PhantomData<*mut ()>,
}

impl NativePort {
    /// Makes the port of the executing vCPU.
    ///
    /// # Safety
    /// - The code runs at CPL 0 in an SNP guest, with a handler for #GP, #UD and #VC.
    /// - `map` mirrors guest-physical memory privately (encrypted): where a linear address of it is mapped, it is mapped
    ///   to that guest-physical address and no other, and where large pages are operated on, by pages at least as large
    ///   (PG-12).
    /// - Whoever holds the port changes only pages that hold no Rust object and no code or page table in use, and writes
    ///   to the GHCB MSR only values that are requests or the address of a page meant as GHCB. In this crate that is the
    ///   code above the port, which the monitor's page ledger guards.
    pub const unsafe fn new(map: DirectMap) -> Self {
        Self { map, not_send: PhantomData }
    }

    fn linear(&self, page: Page) -> Result<u64, Fault> {
        self.map.linear(page.at(), page.size().bytes()).ok_or(Fault::GeneralProtection)
    }
}

impl Port for NativePort {
    fn pvalidate(&mut self, page: Page, op: PvalidateOp) -> Result<PvalidateResult, Fault> {
        let linear = self.linear(page)?;
        // SAFETY: `linear` is the page's address in the direct map; `new` had the caller promise the rest.
        let (code, carry) = unsafe { raw::pvalidate(linear, u32::from(page.size().number()), op as u32) };
        Ok(PvalidateResult { code: PvalidateCode(code), carry: carry != 0 })
    }

    fn rmpadjust(&mut self, page: Page, attributes: RmpAttributes) -> Result<RmpCode, Fault> {
        let linear = self.linear(page)?;
        // SAFETY: `linear` is the page's address in the direct map; `new` had the caller promise the rest.
        let code = unsafe { raw::rmpadjust(linear, u64::from(page.size().number()), attributes.bits()) };
        Ok(RmpCode(code))
    }

    fn rmpquery(&mut self, at: PhysAddr, target: Vmpl) -> Result<RmpQueryResult, Fault> {
        let linear = self.map.linear(at, 1).ok_or(Fault::GeneralProtection)?;
        // SAFETY: the instruction only reads the RMP; CPL 0 was promised to `new`.
        let (code, rcx, rdx) = unsafe { raw::rmpquery(linear, u64::from(target.number())) };
        Ok(RmpQueryResult {
            code: RmpCode(code),
            attributes: RmpAttributes::from_bits_retain(rdx),
            size: PageSize::from_bit(rcx),
        })
    }

    fn vmgexit(&mut self) {
        // SAFETY: the host sees the GHCB MSR and the page it names, both meant for it, as promised to `new`.
        unsafe { raw::vmgexit() }
    }

    fn vmgexit_call(&mut self, regs: &mut CallFrame) {
        // SAFETY: as for `vmgexit`; the more privileged level changes the five registers that are outputs here.
        unsafe { raw::vmgexit_call(regs) }
    }

    fn read_ghcb_msr(&mut self) -> u64 {
        // SAFETY: the register exists in every guest with encrypted registers, as promised to `new`.
        unsafe { raw::rdmsr(Msr::GHCB.0) }
    }

    fn write_ghcb_msr(&mut self, value: u64) {
        // SAFETY: the value has no effect before VMGEXIT, and was promised to `new` to be meant for the host.
        unsafe { raw::wrmsr(Msr::GHCB.0, value) }
    }

    fn read_sev_status(&mut self) -> u64 {
        // SAFETY: the register exists in every guest with encrypted memory, as promised to `new`.
        unsafe { raw::rdmsr(Msr::SEV_STATUS.0) }
    }

    fn invlpgb(&mut self, request: Invlpgb) {
        // SAFETY: dropping translations changes no memory and no rights; CPL 0 was promised to `new`.
        unsafe { raw::invlpgb(request.rax().bits(), request.ecx().bits(), request.edx().bits()) }
    }

    fn tlbsync(&mut self) {
        // SAFETY: the instruction only waits; CPL 0 was promised to `new`.
        unsafe { raw::tlbsync() }
    }

    fn pause(&mut self) {
        raw::pause();
    }

    fn halt(&mut self) {
        // SAFETY: the instruction only waits; CPL 0 was promised to `new`.
        unsafe { raw::hlt() }
    }
}

/// The instructions alone. All unsafe functions need CPL 0; other obligations are said by each.
mod raw {
    use core::arch::asm;

    use super::CallFrame;

    /// Returns EAX and the carry flag.
    ///
    /// # Safety
    /// `linear` is mapped privately to a page whose contents nobody relies on across the change.
    pub(super) unsafe fn pvalidate(linear: u64, size: u32, op: u32) -> (u32, u8) {
        let rax: u64;
        let carry: u8;
        // SAFETY: the caller vouches for the page. SETC stands in the same block, because the flags do not outlive one.
        unsafe {
            asm!(
                "pvalidate",
                "setc {carry}",
                carry = out(reg_byte) carry,
                inout("rax") linear => rax,
                in("ecx") size,
                in("edx") op,
                options(nostack),
            );
        }
        (rax as u32, carry)
    }

    /// Returns EAX.
    ///
    /// # Safety
    /// `linear` is mapped privately to a page on whose rights at lower levels nobody relies across the change.
    pub(super) unsafe fn rmpadjust(linear: u64, size: u64, attributes: u64) -> u32 {
        let rax: u64;
        // SAFETY: the caller vouches for the page.
        unsafe {
            asm!(
                "rmpadjust",
                inout("rax") linear => rax,
                in("rcx") size,
                in("rdx") attributes,
                options(nostack),
            );
        }
        rax as u32
    }

    /// Returns EAX, RCX and RDX.
    ///
    /// # Safety
    /// None beyond CPL 0. A processor without the instruction executes another one, which reads a counter.
    pub(super) unsafe fn rmpquery(linear: u64, target: u64) -> (u32, u64, u64) {
        let (rax, rcx, rdx): (u64, u64, u64);
        // SAFETY: the instruction changes registers only.
        unsafe {
            asm!(
                "rmpquery",
                inout("rax") linear => rax,
                inout("rcx") 0_u64 => rcx,
                inout("rdx") target => rdx,
                options(nostack),
            );
        }
        (rax as u32, rcx, rdx)
    }

    /// # Safety
    /// What the GHCB MSR holds is meant for the host.
    pub(super) unsafe fn vmgexit() {
        // SAFETY: the caller vouches for the request. The registers come back from the encrypted save area.
        unsafe { asm!("rep vmmcall", options(nostack)) }
    }

    /// # Safety
    /// What the GHCB MSR holds asks for a more privileged level, which changes no register but those of `regs`.
    pub(super) unsafe fn vmgexit_call(regs: &mut CallFrame) {
        // SAFETY: the caller vouches for the request; a more privileged level is part of what this level trusts.
        unsafe {
            asm!(
                "rep vmmcall",
                inout("rax") regs.rax,
                inout("rcx") regs.rcx,
                inout("rdx") regs.rdx,
                inout("r8") regs.r8,
                inout("r9") regs.r9,
                options(nostack),
            );
        }
    }

    /// # Safety
    /// The register exists and reading it has no effect.
    pub(super) unsafe fn rdmsr(number: u32) -> u64 {
        let (low, high): (u32, u32);
        // SAFETY: the caller vouches for the register. Not `nomem`: the host may have written shared memory with it.
        unsafe {
            asm!(
                "rdmsr",
                in("ecx") number,
                out("eax") low,
                out("edx") high,
                options(nostack, preserves_flags),
            );
        }
        u64::from(high) << 32 | u64::from(low)
    }

    /// # Safety
    /// The register exists and the value breaks nothing.
    pub(super) unsafe fn wrmsr(number: u32, value: u64) {
        let (low, high) = (value as u32, (value >> 32) as u32);
        // SAFETY: the caller vouches for register and value. Not `nomem`: the value may publish memory.
        unsafe {
            asm!(
                "wrmsr",
                in("ecx") number,
                in("eax") low,
                in("edx") high,
                options(nostack, preserves_flags),
            );
        }
    }

    /// # Safety
    /// None beyond CPL 0.
    pub(super) unsafe fn invlpgb(rax: u64, ecx: u32, edx: u32) {
        // SAFETY: translations are dropped, none is made.
        unsafe {
            asm!(
                "invlpgb",
                in("rax") rax,
                in("ecx") ecx,
                in("edx") edx,
                options(nostack, preserves_flags),
            );
        }
    }

    /// # Safety
    /// None beyond CPL 0.
    pub(super) unsafe fn tlbsync() {
        // SAFETY: waits only.
        unsafe { asm!("tlbsync", options(nostack, preserves_flags)) }
    }

    pub(super) fn pause() {
        // SAFETY: a hint; it touches neither memory nor registers.
        unsafe { asm!("pause", options(nomem, nostack, preserves_flags)) }
    }

    /// # Safety
    /// None beyond CPL 0.
    pub(super) unsafe fn hlt() {
        // SAFETY: waits only. Not `nomem`: what ends the wait may have written memory.
        unsafe { asm!("hlt", options(nostack, preserves_flags)) }
    }
}

#[cfg(test)]
#[path = "native_tests.rs"]
mod tests;
