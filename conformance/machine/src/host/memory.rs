//! How the host gives memory to the guest and takes it back: RMPUPDATE, PSMASH and its nested map.

use crate::{LARGE_PAGE_SIZE, Machine, PAGE_SIZE, PAGES_PER_LARGE};

/// Whether sizes were made to fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fit {
    /// Something was split; the guest may repeat.
    Changed,
    /// There was nothing to split.
    Already,
}

impl Machine {
    /// Gives a 4 KiB page to the guest. One that the guest has already stays as it is.
    pub(super) fn make_private(&mut self, gpa: u64) -> bool {
        let Some(spa) = self.translate(gpa) else { return false };
        let entry = self.rmp_entry_at(spa);
        if entry.assigned {
            return entry.gpa == gpa;
        }
        self.rmpupdate(spa, false, Some(gpa)) == 0
    }

    /// Gives a 2 MiB page to the guest by one RMP entry; false if it has to be done by small ones.
    pub(super) fn make_private_large(&mut self, gpa: u64) -> bool {
        let Some(spa) = self.block(gpa) else { return false };
        let entry = self.rmp_entry_at(spa);
        if entry.assigned {
            return entry.large && entry.gpa == gpa;
        }
        // RMPUPDATE refuses if any small entry of the block is assigned.
        self.rmpupdate(spa, true, Some(gpa)) == 0
    }

    /// Takes a 4 KiB page back. One that is the host's already stays as it is.
    pub(super) fn make_shared(&mut self, gpa: u64) -> bool {
        let Some(spa) = self.translate(gpa) else { return false };
        let entry = self.rmp_entry_at(spa);
        if !entry.assigned {
            return true;
        }
        if entry.large && self.psmash(spa & !(LARGE_PAGE_SIZE - 1)) != 0 {
            return false;
        }
        self.rmpupdate(spa, false, None) == 0
    }

    /// Takes a 2 MiB page back by one RMP entry; false if it has to be done by small ones.
    pub(super) fn make_shared_large(&mut self, gpa: u64) -> bool {
        let Some(spa) = self.block(gpa) else { return false };
        self.rmp_entry_at(spa).large && self.rmpupdate(spa, true, None) == 0
    }

    /// System address of a 2 MiB guest page that is one aligned block of system memory.
    fn block(&self, gpa: u64) -> Option<u64> {
        let spa = self.translate(gpa)?;
        let whole = spa % LARGE_PAGE_SIZE == 0
            && (0..PAGES_PER_LARGE).all(|page| {
                let at = gpa.checked_add(page * PAGE_SIZE);
                at.and_then(|gpa| self.translate(gpa)) == Some(spa + page * PAGE_SIZE)
            });
        whole.then_some(spa)
    }

    /// Brings RMP entry and nested mapping of an address to 4 KiB both.
    pub(super) fn fit_sizes(&mut self, gpa: u64) -> Fit {
        let page = gpa & !(PAGE_SIZE - 1);
        let Some(spa) = self.translate(page) else { return Fit::Already };
        if self.rmp_entry_at(spa).large {
            if self.psmash(spa & !(LARGE_PAGE_SIZE - 1)) != 0 {
                return Fit::Already;
            }
        } else if !self.is_mapped_large(page) {
            return Fit::Already;
        }
        if self.is_mapped_large(page) {
            self.map(page, false, Some(spa));
        }
        Fit::Changed
    }
}
