//! The launch: the firmware adds pages to the guest before it runs (launch_measurement.csv).

use alloc::boxed::Box;

use crate::memory::PageBytes;
use crate::nested::page_of;
use crate::rmp::{GUEST_ASID, RmpEntry, perm};
use crate::{Machine, PAGE_SIZE, psp, vmsa};

/// Guest address of the boot vCPU's VMSA on Milan, and in every digest (RMP-026).
const MILAN_VMSA: u64 = 0xffff_ffff_f000;
/// Guest address of the boot vCPU's VMSA on Genoa (RMP-026).
const GENOA_VMSA: u64 = 0x7_ffff_ffff_f000;

/// Types of launch pages with their numbers in PAGE_INFO.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum PageType {
    /// Contents measured.
    Normal = 1,
    /// Contents measured; the page becomes a VMSA.
    Vmsa = 2,
    /// Zeroed by the firmware.
    Zero = 3,
    /// Contents loaded, not measured.
    Unmeasured = 4,
    /// Filled by the firmware.
    Secrets = 5,
    /// CPUID table, checked by the firmware on silicon; here taken as it is.
    Cpuid = 6,
}

/// Why a page could not be added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LaunchError {
    /// The address is not 4 KiB aligned.
    Misaligned,
    /// The page is the guest's already.
    Assigned,
    /// The launch is finished.
    Finished,
    /// The firmware refused, with its status.
    Firmware(u32),
}

impl Machine {
    /// Adds a page without rights for lower VMPLs.
    ///
    /// # Errors
    /// As [`LaunchError`]; nothing changes then.
    pub fn launch_page(&mut self, gpa: u64, page_type: PageType, contents: &PageBytes) -> Result<(), LaunchError> {
        self.launch_page_with_rights(gpa, page_type, contents, [0; 3])
    }

    /// Adds a page that VMPL1, 2 and 3 have these rights on. It is assigned, validated and 4 KiB; VMPL0 has all rights. An
    /// address outside RAM (the VMSA of the boot vCPU has such a one) gets system memory of its own there.
    ///
    /// # Errors
    /// As [`LaunchError`]; nothing changes then.
    pub fn launch_page_with_rights(
        &mut self,
        gpa: u64,
        page_type: PageType,
        contents: &PageBytes,
        rights: [u8; 3],
    ) -> Result<(), LaunchError> {
        if self.launched {
            return Err(LaunchError::Finished);
        }
        if !gpa.is_multiple_of(PAGE_SIZE) {
            return Err(LaunchError::Misaligned);
        }
        let page = page_of(gpa);
        let spa = match self.nested.get(page) {
            Some((spa, _)) => spa,
            None => page,
        };
        if self.rmp.get(spa).assigned {
            return Err(LaunchError::Assigned);
        }
        self.psp.measure(page_type as u8, measured_address(page_type, gpa), contents).map_err(LaunchError::Firmware)?;
        if self.nested.get(page).is_none() {
            self.rmp.cover(page, 1);
            self.nested.map_identity(page, 1);
        }
        self.rmp.update(spa, |entry| {
            *entry = RmpEntry {
                assigned: true,
                asid: GUEST_ASID,
                gpa,
                large: false,
                immutable: false,
                vmsa: page_type == PageType::Vmsa,
                validated: true,
                perms: [perm::ALL, rights[0], rights[1], rights[2]],
            };
        });
        match page_type {
            PageType::Zero => self.memory.zero(spa, 1),
            PageType::Secrets => {
                let page: Box<PageBytes> = self.psp.secrets_page();
                self.memory.write(spa, 0, &page[..]);
            }
            _ => self.memory.write(spa, 0, contents),
        }
        if page_type == PageType::Vmsa {
            *self.generations.entry(gpa).or_insert(0) += 1;
            self.declare_vmsa(gpa, contents[vmsa::VMPL]);
        }
        Ok(())
    }

    /// Ends the launch with the default policy and no host data; from now on reports can be had.
    ///
    /// # Errors
    /// [`LaunchError::Finished`], or [`LaunchError::Firmware`] with the status.
    pub fn launch_finish(&mut self) -> Result<(), LaunchError> {
        self.launch_finish_with(psp::DEFAULT_POLICY, [0; 32], None)
    }

    /// Ends the launch with a guest policy, the host's data and an ID block.
    ///
    /// # Errors
    /// As [`launch_finish`](Self::launch_finish).
    pub fn launch_finish_with(
        &mut self,
        policy: u64,
        host_data: [u8; 32],
        id_block: Option<&psp::IdBlock>,
    ) -> Result<(), LaunchError> {
        if self.launched {
            return Err(LaunchError::Finished);
        }
        self.psp.finish(policy, host_data, id_block).map_err(LaunchError::Firmware)?;
        self.launched = true;
        Ok(())
    }
}

/// Where processors put the VMSA of the boot vCPU differs, and the digest does not (RMP-026).
fn measured_address(page_type: PageType, gpa: u64) -> u64 {
    if page_type == PageType::Vmsa && gpa == GENOA_VMSA { MILAN_VMSA } else { gpa }
}
