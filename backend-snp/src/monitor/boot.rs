//! Boot pages of the first guest: its copies of secrets page and CPUID page.

use core::mem::offset_of;

use coco_part_api::memory::offset;
use coco_part_api::svsm::CORE_VERSION;
use coco_part_api::{BootGuest, BootInfo, BootPage, FrameRange, GuestMemory, RangeError};
use x86_64::structures::paging::PhysFrame;
use zerocopy::{FromZeros, IntoBytes};
use zeroize::Zeroize;

use super::{L1, vmpl};
use crate::abi::cpuid::{CpuidPage, CpuidTable};
use crate::abi::secrets::{SecretsPage, Vmpck};
use crate::abi::vmpl::Vmpl;
use crate::error::SnpError;
use crate::instr::Port;

impl<P: Port, M: GuestMemory> BootGuest for L1<'_, P, M> {
    const PAGES: &'static [BootPage] = &[BootPage::Secrets, BootPage::Features];

    /// Secrets: the keys of all VMPLs above the guest's are erased (A3), the guest's own fields are zero, and the SVSM
    /// fields name L1. The keys that the guest gets are zero in L1's own page afterwards: each is handed out once, so that it
    /// has one user (A2), and a page that is filled again has none. Features: the CPUID page as the firmware checked it.
    ///
    /// # Errors
    /// [`SnpError::Range`], [`SnpError::Memory`]; [`SnpError::Unsupported`] for a CPUID page that counts more than 64
    /// entries. Nothing is written then.
    fn fill(&mut self, page: BootPage, at: PhysFrame, info: &BootInfo) -> Result<(), SnpError> {
        self.check_frame(at)?;
        match page {
            BootPage::Secrets => self.fill_secrets(at, info),
            BootPage::Features => self.fill_features(at),
        }
    }
}

impl<P: Port, M: GuestMemory> L1<'_, P, M> {
    fn fill_secrets(&mut self, to: PhysFrame, info: &BootInfo) -> Result<(), SnpError> {
        let from = self.secrets.start_address();
        // Read in place and wiped when dropped, so that no key stays on the stack.
        let mut page = SecretsPage::new_zeroed();
        self.memory.read(from, page.as_mut_bytes()).map_err(SnpError::memory(from))?;
        let level = vmpl(info.level);
        for above in Vmpl::ALL.into_iter().filter(|other| other.is_above(level)) {
            page.vmpck_mut(above).zeroize();
        }
        clear_os_area(&mut page);
        page.svsm_base = info.monitor.start().as_u64();
        page.svsm_size = info.monitor.bytes();
        page.svsm_caa = info.call_area.start_address().as_u64();
        page.svsm_max_version = CORE_VERSION;
        page.svsm_guest_vmpl = level.number();
        let at = to.start_address();
        self.memory.write_value(at, &page).map_err(SnpError::memory(at))?;
        self.erase_handed_out(level).inspect_err(|_| {
            // Two users are worse than none.
            let _ = self.memory.zero(FrameRange::of(to));
        })
    }

    /// Zeroes the keys of a level and those below it in L1's own page.
    fn erase_handed_out(&self, level: Vmpl) -> Result<(), SnpError> {
        let page = self.secrets.start_address();
        for given in Vmpl::ALL.into_iter().filter(|other| !other.is_above(level)) {
            let field = offset_of!(SecretsPage, vmpck0) + size_of::<Vmpck>() * usize::from(given.number());
            let at = offset(page, field as u64).ok_or(RangeError::OutsideMap { at: page })?;
            self.memory.write(at, &[0; size_of::<Vmpck>()]).map_err(SnpError::memory(at))?;
        }
        Ok(())
    }

    fn fill_features(&mut self, to: PhysFrame) -> Result<(), SnpError> {
        let page = self.cpuid_page()?;
        table(&page)?;
        let to = to.start_address();
        self.memory.write(to, page.as_bytes()).map_err(SnpError::memory(to))
    }
}

impl<P: Port, M: GuestMemory> L1<'_, P, M> {
    /// A copy of the page that the firmware checked.
    pub(super) fn cpuid_page(&self) -> Result<CpuidPage, SnpError> {
        let from = self.cpuid.start_address();
        self.memory.read_value(from).map_err(SnpError::memory(from))
    }
}

/// The entries of a CPUID page.
pub(super) fn table(page: &CpuidPage) -> Result<CpuidTable<'_>, SnpError> {
    page.table().map_err(|_| SnpError::Unsupported { what: "CPUID page with more than 64 entries" })
}

/// Zeroes what belongs to guests: message numbers and the like.
fn clear_os_area(page: &mut SecretsPage) {
    page.os_msg_seqno_0_lo = 0;
    page.os_msg_seqno_1_lo = 0;
    page.os_msg_seqno_2_lo = 0;
    page.os_msg_seqno_3_lo = 0;
    page.os_ap_jump_table_pa = 0;
    page.os_msg_seqno_0_hi = 0;
    page.os_msg_seqno_1_hi = 0;
    page.os_msg_seqno_2_hi = 0;
    page.os_msg_seqno_3_hi = 0;
    page.os_area_version = 0;
    page.os_guest_usage = [0; 32];
}
