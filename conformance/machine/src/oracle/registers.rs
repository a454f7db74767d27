//! O7: VMPL0 changes only the registers of another level that a call defines.

use alloc::format;

use crate::nested::{offset_of, page_of};
use crate::{Machine, PAGE_SIZE, vmsa};

/// Byte of EFER that holds SVME, and SVME in it.
const SVME_BYTE: usize = vmsa::EFER + 1;
const SVME_IN_BYTE: u8 = 0x10;

impl Machine {
    /// Before VMPL0 stores to a page: if it is the VMSA of another level that has run, the store is checked.
    pub(super) fn check_registers(&mut self, gpa: u64, spa_page: u64, bytes: &[u8]) {
        let entry = self.rmp.get(spa_page);
        if !entry.vmsa || entry.gpa != page_of(gpa) * PAGE_SIZE {
            return;
        }
        let Some(state) = self.keys.get(&self.run_key(entry.gpa)) else { return };
        let page = self.memory.page(spa_page);
        if !state.started || page[vmsa::VMPL] == 0 {
            return;
        }
        let reflected = state.reflected;
        let bad = (offset_of(gpa)..).zip(bytes).find(|(offset, new)| {
            let old = page.get(*offset).copied().unwrap_or(**new);
            let changed = old ^ **new;
            let is_svme = *offset == SVME_BYTE && changed == SVME_IN_BYTE;
            changed != 0 && !is_svme && vmsa::is_protected_register(*offset, reflected)
        });
        if let Some((offset, _)) = bad {
            let offset = offset & !7;
            self.violation("O7", format!("VMPL0 changes offset {offset:#x} of the VMSA at {:#x}", entry.gpa));
        }
    }
}
