//! What the handler knows of the interrupted code and of the guest.

use x86_64::PhysAddr;

use super::stop::Run;
use crate::abi::cpuid::CpuidTable;
use crate::abi::sev_features::SevStatus;
use crate::cpuid::LevelState;
use crate::insn::{Access, LinearAddr, Mode, Registers, SegmentName, Segments};
use crate::vc::Privilege;

/// The interrupted code: the exception frame, and what has to be read beside it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VcContext {
    /// General-purpose registers, RIP and RFLAGS.
    pub registers: Registers,
    /// Privilege level of the interrupted code, 0 to 3.
    pub cpl: u8,
    /// Segments. For 64-bit code, attributes of CS and bases of FS and GS are enough.
    pub segments: Segments,
    /// EFER.
    pub efer: u64,
    /// CR0.
    pub cr0: u64,
    /// CR2 as the exception found it.
    pub cr2: u64,
    /// CR4.
    pub cr4: u64,
    /// XCR0.
    pub xcr0: u64,
    /// IA32_XSS.
    pub xss: u64,
    /// DR7 as this vCPU wrote it last, 0x400 after reset. The host has a copy and is not asked for it.
    pub dr7: u64,
}

/// What is known of the guest, and does not change.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// The CPUID page.
    pub cpuid: CpuidTable<'a>,
    /// APIC id of this vCPU, as the guest knows it.
    pub apic_id: u32,
    /// SEV_STATUS.
    pub sev_status: SevStatus,
    /// The call area, at a level that an SVSM serves. RDMSR of its register is answered with it.
    pub call_area: Option<PhysAddr>,
}

/// RFLAGS.VM: virtual 8086 mode.
const VM: u64 = 1 << 17;
/// RFLAGS.AC.
const AC: u64 = 1 << 18;
/// CR0.PE.
const PE: u64 = 1 << 0;
/// CR0.AM.
const AM: u64 = 1 << 18;
/// CR4.TSD.
const TSD: u64 = 1 << 2;
/// CR4.PCE.
const PCE: u64 = 1 << 8;
/// CR4.LA57.
const LA57: u64 = 1 << 12;
/// EFER.LMA.
const LMA: u64 = 1 << 10;

impl VcContext {
    /// Sizes of the interrupted code.
    pub const fn mode(&self) -> Mode {
        Mode::of(&self.segments.cs, self.efer & LMA != 0)
    }

    /// Size of canonical addresses.
    pub(super) const fn address_bits(&self) -> u32 {
        if self.cr4 & LA57 != 0 { 57 } else { 48 }
    }

    pub(super) const fn privilege(&self) -> Privilege {
        if self.cpl == 3 { Privilege::User } else { Privilege::Supervisor }
    }

    /// Whether port I/O is allowed without a look at an I/O permission bitmap.
    pub(super) const fn has_ports(&self) -> bool {
        let iopl = (self.registers.rflags >> 12 & 3) as u8;
        self.cr0 & PE == 0 || self.registers.rflags & VM == 0 && self.cpl <= iopl
    }

    /// Whether alignment is checked.
    pub(super) const fn checks_alignment(&self) -> bool {
        self.cpl == 3 && self.registers.rflags & AC != 0 && self.cr0 & AM != 0
    }

    pub(super) const fn has_tsc(&self) -> bool {
        self.cpl == 0 || self.cr4 & TSD == 0
    }

    pub(super) const fn has_counters(&self) -> bool {
        self.cpl == 0 || self.cr4 & PCE != 0
    }

    /// Linear address of data.
    pub(super) fn linear(&self, name: SegmentName, offset: u64, len: usize, access: Access) -> Run<LinearAddr> {
        Ok(self.segments.linear(self.mode(), self.address_bits(), name, offset, len, access)?)
    }

    pub(super) const fn level_state(&self, facts: &Facts<'_>) -> LevelState {
        LevelState { cr4: self.cr4, xcr0: self.xcr0, xss: self.xss, apic_id: facts.apic_id }
    }
}
