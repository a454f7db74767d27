//! The translations that one vCPU has cached for one L2 VM.
//!
//! The worst TLB that the architecture allows, as in the SNP machine: it never evicts by itself, an entry keeps the
//! rights of the access that made it, and it holds guest-physical mappings. So INVVPID, in RCX of VP.ENTER or as a
//! leaf, drops nothing here: new linear mappings may be made of what is cached. INVEPT drops all of a VM on the
//! executing vCPU.
//!
//! L1 has none: its rights change only by the host's doing, and that drops translations everywhere (TDX-33).

use alloc::collections::BTreeMap;

use crate::PAGES_PER_LARGE;

/// A cached translation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cached {
    /// First guest page.
    pub(crate) first: u64,
    /// First system page.
    pub(crate) spa: u64,
    pub(crate) large: bool,
    /// Rights at the time of the walk.
    pub(crate) rights: u16,
}

impl Cached {
    pub(crate) fn pages(&self) -> u64 {
        if self.large { PAGES_PER_LARGE } else { 1 }
    }

    pub(crate) fn covers(&self, spa_page: u64) -> bool {
        spa_page.wrapping_sub(self.spa) < self.pages()
    }
}

/// Translations of one VM by guest page.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tlb {
    small: BTreeMap<u64, Cached>,
    large: BTreeMap<u64, Cached>,
}

fn block(page: u64) -> u64 {
    page - page % PAGES_PER_LARGE
}

impl Tlb {
    pub(crate) fn find(&self, page: u64) -> Option<Cached> {
        self.small.get(&page).or_else(|| self.large.get(&block(page))).copied()
    }

    pub(crate) fn insert(&mut self, entry: Cached) {
        self.large.remove(&block(entry.first));
        if entry.large {
            self.flush(entry.first, PAGES_PER_LARGE);
            self.large.insert(entry.first, entry);
        } else {
            self.small.insert(entry.first, entry);
        }
    }

    pub(crate) fn flush_all(&mut self) {
        self.small.clear();
        self.large.clear();
    }

    /// Drops what is cached for guest pages.
    pub(crate) fn flush(&mut self, page: u64, count: u64) {
        let end = page.saturating_add(count);
        if count == 1 {
            self.small.remove(&page);
        } else {
            let mut rest = self.small.split_off(&page);
            let mut behind = rest.split_off(&end);
            self.small.append(&mut behind);
        }
        let mut at = block(page);
        while at < end {
            self.large.remove(&at);
            at += PAGES_PER_LARGE;
        }
    }

    /// The entry that leads to a system page with these rights, under any guest page near `page`.
    pub(crate) fn leads_to(&self, page: u64, spa_page: u64, rights: u16) -> Option<Cached> {
        self.find(page).filter(|entry| entry.covers(spa_page) && entry.rights & rights == rights)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(first: u64, large: bool) -> Cached {
        Cached { first, spa: first + 10_000, large, rights: 3 }
    }

    #[test]
    fn a_small_flush_drops_the_large_entry_around_it() {
        let mut tlb = Tlb::default();
        tlb.insert(entry(512, true));
        tlb.insert(entry(9, false));
        assert!(tlb.find(700).is_some_and(|entry| entry.covers(10_700)));
        tlb.flush(513, 1);
        assert!(tlb.find(700).is_none() && tlb.find(9).is_some());
    }

    #[test]
    fn a_large_flush_drops_small_entries_inside_and_no_others() {
        let mut tlb = Tlb::default();
        for page in [511, 512, 1023, 1024] {
            tlb.insert(entry(page, false));
        }
        tlb.flush(512, 512);
        assert_eq!([511, 512, 1023, 1024].map(|page| tlb.find(page).is_some()), [true, false, false, true]);
        tlb.flush_all();
        assert!(tlb.find(511).is_none());
    }

    #[test]
    fn an_entry_replaces_what_it_overlaps() {
        let mut tlb = Tlb::default();
        tlb.insert(entry(512, true));
        tlb.insert(entry(600, false));
        assert!(tlb.find(601).is_none());
        tlb.insert(entry(512, true));
        assert!(tlb.small.is_empty());
        assert!(tlb.leads_to(600, 10_600, 1).is_some() && tlb.leads_to(600, 10_600, 4).is_none());
    }
}
