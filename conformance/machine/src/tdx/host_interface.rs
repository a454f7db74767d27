//! What a hypervisor can do to the TD: its calls to the module, and its accesses to shared memory.
//!
//! A real host has to block a page and to wait for the tracking of translations before it removes or splits it; the
//! calls here do all of it at once.

use super::sept::Leaf;
use super::{HostEvent, Machine};
use crate::nested::{offset_of, page_of};
use crate::{LARGE_PAGE_SIZE, PAGE_SIZE, PAGES_PER_LARGE, Vcpu};

/// The vCPU that host actions outside an exit are recorded under.
const BOOT_VCPU: Vcpu = Vcpu(0);
/// System pages from here on back pages whose own number is taken.
const SPARE: u64 = 1 << 40;

impl Machine {
    /// TDH.MEM.PAGE.AUG: adds a page of garbage, pending. False where something is mapped or the address is bad.
    pub fn host_add_page(&mut self, gpa: u64, large: bool) -> bool {
        let count = if large { PAGES_PER_LARGE } else { 1 };
        let spa = self.free_system_pages(page_of(gpa), count);
        self.host_add_system_page(gpa, large, spa * PAGE_SIZE)
    }

    /// The same with system memory of the host's choice. The module refuses what backs another page (PAMT).
    pub fn host_add_system_page(&mut self, gpa: u64, large: bool, spa: u64) -> bool {
        let taken = self.try_add(gpa, large, page_of(spa));
        self.note(BOOT_VCPU, HostEvent::Added { gpa, large, taken });
        taken
    }

    fn try_add(&mut self, gpa: u64, large: bool, spa: u64) -> bool {
        let (size, count) = if large { (LARGE_PAGE_SIZE, PAGES_PER_LARGE) } else { (PAGE_SIZE, 1) };
        let used = (spa..spa.saturating_add(count)).any(|page| *self.in_use.get(page));
        if !gpa.is_multiple_of(size) || !self.is_private(gpa) || used && self.rule("PAMT") {
            return false;
        }
        let page = page_of(gpa);
        let leaf = Leaf { accepted: !self.rule("TDX-25") && self.host.was_mapped(page), ..Leaf::pending(spa) };
        if !self.sept.add(page, large, leaf) {
            return false;
        }
        if !used {
            self.private.scramble(spa, count);
        }
        self.in_use.fill(spa, count, &true);
        self.oracle_added(page, used);
        true
    }

    /// System pages that back nothing: those of the same number if possible.
    fn free_system_pages(&self, page: u64, count: u64) -> u64 {
        let free = |first: u64| (first..first + count).all(|page| !*self.in_use.get(page));
        if free(page) {
            return page;
        }
        (1..).map(|copy| page + copy * SPARE).find(|first| free(*first)).unwrap_or(page)
    }

    /// TDH.MEM.RANGE.BLOCK, TRACK and PAGE.REMOVE: takes the page at `gpa` away, a large one as a whole, with its
    /// aliases. False where nothing is mapped.
    pub fn host_remove_page(&mut self, gpa: u64) -> bool {
        let page = page_of(gpa);
        let Some(found) = self.sept.remove(page) else { return false };
        self.in_use.fill(found.leaf.spa, found.pages(), &false);
        self.host.note_mapped(found.first, found.pages());
        self.oracles.contents_gone(found.first, found.pages());
        self.flush_pages(found.first, found.pages());
        self.note(BOOT_VCPU, HostEvent::Removed { gpa });
        true
    }

    /// TDH.MEM.RANGE.BLOCK and TRACK: nobody reaches the page until it is unblocked. False where nothing is mapped.
    pub fn host_block_page(&mut self, gpa: u64) -> bool {
        let Some(found) = self.sept.get(page_of(gpa)) else { return false };
        self.sept.update(found.first, |leaf| leaf.blocked = true);
        self.flush_pages(found.first, found.pages());
        self.note(BOOT_VCPU, HostEvent::Blocked { gpa });
        true
    }

    /// TDH.MEM.RANGE.UNBLOCK.
    pub fn host_unblock_page(&mut self, gpa: u64) {
        self.sept.update(page_of(gpa), |leaf| leaf.blocked = false);
    }

    /// TDH.MEM.PAGE.DEMOTE: splits a large page and gives every VM with an alias there its table page. False without
    /// one.
    pub fn host_demote_page(&mut self, gpa: u64) -> bool {
        let page = page_of(gpa);
        let Some(found) = self.sept.get(page).filter(|found| found.large) else { return false };
        self.sept.demote(page);
        for vm in (1..=3).filter(|vm| found.leaf.alias(*vm) != 0) {
            self.tables.insert((vm, page / PAGES_PER_LARGE));
        }
        self.flush_pages(found.first, found.pages());
        self.note(BOOT_VCPU, HostEvent::Demoted { gpa });
        true
    }

    /// TDH.MEM.SEPT.ADD for an L2: gives a VM the table page for the 2 MiB around an address.
    pub fn host_add_table(&mut self, vm: u8, gpa: u64) {
        self.tables.insert((vm, page_of(gpa) / PAGES_PER_LARGE));
        self.note(BOOT_VCPU, HostEvent::Table { vm, gpa });
    }

    /// Holds memory as shared, or as not shared; nothing happens to private pages.
    pub fn host_set_shared(&mut self, gpa: u64, len: u64, shared: bool) {
        let (first, end) = (page_of(gpa), page_of(gpa.saturating_add(len)));
        if shared {
            self.host.share(first, end);
            self.shared.scramble(first, end.saturating_sub(first));
        } else {
            self.host.unshare(first, end);
        }
    }

    /// Whether the host holds a page as shared.
    pub fn host_is_shared(&self, gpa: u64) -> bool {
        self.host.is_shared(page_of(gpa))
    }

    /// Reads shared memory, without the shared bit in the address; what is not shared reads as 0xff. May cross pages.
    pub fn host_read(&self, gpa: u64, buf: &mut [u8]) {
        for (index, byte) in (0..).zip(buf) {
            let at = gpa.wrapping_add(index);
            let page = page_of(at);
            let mut one = [0xff];
            if self.host.is_shared(page) {
                self.shared.read(page, offset_of(at), &mut one);
            }
            *byte = one[0];
        }
    }

    /// Writes shared memory; false, and nothing written, if a page is not shared. May cross pages.
    pub fn host_write(&mut self, gpa: u64, bytes: &[u8]) -> bool {
        let last = gpa.saturating_add((bytes.len() as u64).saturating_sub(1));
        if (page_of(gpa)..=page_of(last)).any(|page| !self.host.is_shared(page)) {
            return false;
        }
        for (index, byte) in (0..).zip(bytes) {
            let at = gpa.wrapping_add(index);
            self.shared.write(page_of(at), offset_of(at), &[*byte]);
        }
        true
    }

    /// Sends an interrupt to L1 of a vCPU, as a posted interrupt. It ends an L2 that runs there, or a VP.ENTER to come.
    pub fn host_post_interrupt(&mut self, to: Vcpu) {
        if let Some(state) = self.vcpu_mut(to) {
            state.posted = true;
        }
        self.note(to, HostEvent::Posted { to });
    }
}
