//! MapGPA: private memory becomes shared and back.

use super::Machine;
use super::policy::Policy;
use crate::nested::page_of;
use crate::tdx::status::vmcall;
use crate::{PAGE_SIZE, PAGES_PER_LARGE, Vcpu};

impl Machine {
    /// R10 and R11 for R12 (start with or without the shared bit) and R13 (bytes).
    pub(super) fn map_gpa(&mut self, vcpu: Vcpu, from: u64, len: u64) -> (u64, u64) {
        let bit = self.shared_bit();
        let (start, shared) = (from & !bit, from & bit != 0);
        if !(start | len).is_multiple_of(PAGE_SIZE) {
            return (vmcall::ALIGN_ERROR, 0);
        }
        let end = start.checked_add(len).filter(|end| *end <= bit);
        let Some(end) = end.filter(|end| self.ram.covers(page_of(start), page_of(*end))) else {
            return (vmcall::INVALID_OPERAND, 0);
        };
        let part = |pages: u64| end.min(start.saturating_add(pages.saturating_mul(PAGE_SIZE)));
        let with_bit = |address: u64| if shared { address | bit } else { address };
        let (until, answer) = match self.host.policy(vcpu) {
            Policy::MapGpaRefuse(status) => (start, (status, 0)),
            Policy::MapGpaPretend => (start, (0, 0)),
            Policy::MapGpaChunks(pages) if part(pages.max(1)) < end => {
                let next = part(pages.max(1));
                (next, (vmcall::RETRY, with_bit(next)))
            }
            Policy::MapGpaStuck => (start, (vmcall::RETRY, from)),
            Policy::MapGpaBackwards => (part(1), (vmcall::RETRY, from.wrapping_sub(PAGE_SIZE))),
            Policy::MapGpaOutside => (part(1), (vmcall::RETRY, with_bit(end).wrapping_add(PAGE_SIZE))),
            Policy::MapGpaAtEnd => (end, (vmcall::RETRY, with_bit(end))),
            Policy::MapGpaUnaligned => (part(1), (vmcall::RETRY, with_bit(part(1)).wrapping_sub(1))),
            Policy::MapGpaOtherBit => (part(1), (vmcall::RETRY, with_bit(part(1)) ^ bit)),
            _ => (end, (0, 0)),
        };
        self.set_page_state(page_of(start), page_of(until), shared);
        answer
    }

    /// Pages that are in that state already stay as they are.
    fn set_page_state(&mut self, first: u64, end: u64, shared: bool) {
        if !shared {
            self.host.unshare(first, end);
            return;
        }
        let mut page = first;
        while page < end {
            if self.host.is_shared(page) {
                page += 1;
                continue;
            }
            let large = self.sept.get(page).is_some_and(|found| found.large);
            let whole = large && page.is_multiple_of(PAGES_PER_LARGE) && end - page >= PAGES_PER_LARGE;
            if large && !whole {
                self.host_demote_page(page * PAGE_SIZE);
            }
            self.host_remove_page(page * PAGE_SIZE);
            let count = if whole { PAGES_PER_LARGE } else { 1 };
            self.host.share(page, page + count);
            self.shared.scramble(page, count);
            page += count;
        }
    }
}
