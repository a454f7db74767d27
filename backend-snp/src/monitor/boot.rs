//! Boot pages of the first guest: its copies of secrets page and CPUID page.

use coco_part_api::svsm::CORE_VERSION;
use coco_part_api::{BootGuest, BootInfo, BootPage, GuestMemory};
use x86_64::structures::paging::PhysFrame;
use zerocopy::IntoBytes;
use zeroize::Zeroize;

use super::{L1, vmpl};
use crate::abi::cpuid::CpuidPage;
use crate::abi::secrets::SecretsPage;
use crate::abi::vmpl::Vmpl;
use crate::error::SnpError;
use crate::instr::Port;

impl<P: Port, M: GuestMemory> BootGuest for L1<'_, P, M> {
    const PAGES: &'static [BootPage] = &[BootPage::Secrets, BootPage::Features];

    /// Secrets: the keys of all VMPLs above the guest's are erased (A3), the guest's own fields are zero, and the SVSM
    /// fields name L1. Features: the CPUID page as the firmware checked it.
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
        let mut page: SecretsPage = self.memory.read_value(from).map_err(SnpError::memory(from))?;
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
        let to = to.start_address();
        self.memory.write_value(to, &page).map_err(SnpError::memory(to))
        // The keys in `page` are wiped when it is dropped.
    }

    fn fill_features(&mut self, to: PhysFrame) -> Result<(), SnpError> {
        let from = self.cpuid.start_address();
        let page: CpuidPage = self.memory.read_value(from).map_err(SnpError::memory(from))?;
        page.table().map_err(|_| SnpError::Unsupported { what: "CPUID page with more than 64 entries" })?;
        let to = to.start_address();
        self.memory.write(to, page.as_bytes()).map_err(SnpError::memory(to))
    }
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
