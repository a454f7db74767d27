//! The VMCB: control area, and a save area that begins like a VMSA.

use alloc::boxed::Box;

use machine::{msr, vmsa};

use crate::frames::Page;

/// Offsets of the control area.
pub(crate) mod control {
    pub(crate) const INTERCEPT_CR: usize = 0x000;
    pub(crate) const INTERCEPT_EXCEPTIONS: usize = 0x008;
    pub(crate) const INTERCEPT_FIRST: usize = 0x00c;
    pub(crate) const INTERCEPT_SECOND: usize = 0x010;
    pub(crate) const IO_MAP: usize = 0x040;
    pub(crate) const MSR_MAP: usize = 0x048;
    pub(crate) const ASID: usize = 0x058;
    pub(crate) const INTERRUPTS: usize = 0x060;
    pub(crate) const SHADOW: usize = 0x068;
    pub(crate) const EXIT_CODE: usize = 0x070;
    pub(crate) const EXIT_INFO_1: usize = 0x078;
    pub(crate) const EXIT_INFO_2: usize = 0x080;
    pub(crate) const INTERRUPTED: usize = 0x088;
    pub(crate) const NESTED_ENABLE: usize = 0x090;
    pub(crate) const EVENT: usize = 0x0a8;
    pub(crate) const NESTED_CR3: usize = 0x0b0;
}

/// Start of the save area.
const SAVE: usize = 0x400;
/// Bytes in which a VMSA is laid out like it.
const COMMON: usize = 0x298;

/// Writes of CR0.
const CR0_WRITE: u64 = 1 << 16;
/// #UD.
const INVALID_OPCODE: u64 = 1 << 6;
/// INTR, NMI, INIT, VINTR, RDPMC, CPUID, INVD, HLT, INVLPGA, IOIO, MSR and SHUTDOWN.
const FIRST: u64 =
    1 | 1 << 1 | 1 << 3 | 1 << 4 | 1 << 15 | 1 << 18 | 1 << 22 | 1 << 24 | 1 << 26 | 1 << 27 | 1 << 28 | 1 << 31;
/// VMRUN, VMMCALL, VMLOAD, VMSAVE, STGI, CLGI, SKINIT, WBINVD, MONITOR and both kinds of MWAIT.
const SECOND: u64 = 0x7f | 1 << 9 | 1 << 10 | 1 << 11 | 1 << 12;
/// V_INTR_MASKING: our own RFLAGS.IF says whether interrupts make the guest exit.
const MASKED: u64 = 1 << 24;
/// V_IRQ with V_IGN_TPR: makes the guest exit as soon as it can be interrupted.
const WINDOW: u64 = 1 << 8 | 1 << 20;
/// MSRs that VMSAVE and VMLOAD move between the processor and the save area, and that take any value: a guest reads and writes
/// them without an exit.
const FREE_MSRS: [u32; 5] = [msr::STAR, msr::SFMASK, msr::SYSENTER_CS, msr::SYSENTER_ESP, msr::SYSENTER_EIP];
/// Those that take addresses: QEMU would take anything, so a write is the machine's to look at.
const ADDRESS_MSRS: [u32; 5] = [msr::LSTAR, msr::CSTAR, msr::FS_BASE, msr::GS_BASE, msr::KERNEL_GS_BASE];
/// EFER as QEMU's VMRUN takes it: SCE, LME, LMA, NXE, SVME and FFXSR. What else a guest sets there changes nothing in QEMU.
const EFER_KNOWN: u64 = 1 | 1 << 8 | 7 << 10 | 1 << 14;

/// The VMCB of one processor.
#[derive(Debug)]
pub(crate) struct Vmcb(Box<Page>);

impl Vmcb {
    /// With all intercepts, before it has run anything.
    pub(crate) fn new() -> Self {
        let mut vmcb = Self(Box::new(Page([0; 4096])));
        // 12 KiB of ones, and 8 KiB.
        let io = alloc::vec![Page([0xff; 4096]); 3].leak();
        let msrs = alloc::vec![Page([0xff; 4096]); 2].leak();
        for (number, free) in
            FREE_MSRS.map(|number| (number, 3)).into_iter().chain(ADDRESS_MSRS.map(|number| (number, 1)))
        {
            // Two bits per MSR, of which the lower one is for reads; the block of the upper ones begins at 0x800.
            let index = (number & 0x1fff) as usize;
            let at = if number >> 31 == 1 { 0x800 } else { 0 } + index / 4;
            msrs[at / 4096].0[at % 4096] &= !(free << (index % 4 * 2));
        }
        vmcb.set(control::INTERCEPT_CR, CR0_WRITE);
        vmcb.set32(control::INTERCEPT_EXCEPTIONS, INVALID_OPCODE as u32);
        vmcb.set32(control::INTERCEPT_FIRST, FIRST as u32);
        vmcb.set32(control::INTERCEPT_SECOND, SECOND as u32);
        vmcb.set(control::IO_MAP, io.as_ptr() as u64);
        vmcb.set(control::MSR_MAP, msrs.as_ptr() as u64);
        vmcb.set(control::ASID, 1);
        vmcb.set(control::INTERRUPTS, MASKED);
        vmcb.set(control::NESTED_ENABLE, 1);
        vmcb
    }

    /// Its address; memory is identity mapped.
    pub(crate) fn address(&mut self) -> u64 {
        core::ptr::from_mut(&mut *self.0) as u64
    }

    /// A quadword at one of the offsets of [`control`].
    pub(crate) fn get(&self, offset: usize) -> u64 {
        vmsa::read_u64(&self.0.0, offset)
    }

    /// Sets it.
    pub(crate) fn set(&mut self, offset: usize, value: u64) {
        vmsa::write_u64(&mut self.0.0, offset, value);
    }

    fn set32(&mut self, offset: usize, value: u32) {
        self.0.0[offset..offset + 4].copy_from_slice(&value.to_le_bytes());
    }

    /// Whether the guest is to exit once it can be interrupted.
    pub(crate) fn ask_for_window(&mut self, ask: bool) {
        self.set(control::INTERRUPTS, MASKED | if ask { WINDOW } else { 0 });
    }

    /// Takes the state of a VMSA.
    pub(crate) fn load(&mut self, registers: &[u8; 4096]) {
        self.0.0[SAVE..SAVE + COMMON].copy_from_slice(&registers[..COMMON]);
        self.set(SAVE + vmsa::EFER, vmsa::read_u64(registers, vmsa::EFER) & EFER_KNOWN);
    }

    /// Gives it back. What a VMSA has that is no part of a save area is as [`load`](Self::load) found it.
    pub(crate) fn save(&self, registers: &mut [u8; 4096]) {
        let unknown = vmsa::read_u64(registers, vmsa::EFER) & !EFER_KNOWN;
        registers[..COMMON].copy_from_slice(&self.0.0[SAVE..SAVE + COMMON]);
        vmsa::write_u64(registers, vmsa::EFER, self.get(SAVE + vmsa::EFER) | unknown);
    }
}
