//! The translations that one vCPU has cached.
//!
//! The worst TLB that the architecture allows: it never evicts by itself. An entry is made by a successful access and keeps
//! the rights of that moment; a 2M RMP entry makes a 2M TLB entry. A later access that its rights allow is served without a
//! look at the RMP. An access that they do not allow walks again and replaces the entry.
//!
//! Entries go by INVLPGB and TLBSYNC ([`crate::Op::Invlpgb`]), by VMRUN of a VMSA with PCPU_ID = 0 or one that ran elsewhere last,
//! by RMPUPDATE (every entry that leads to that system page, on every vCPU) and by the host's changes of the nested map (every
//! entry of that guest page, on every vCPU). PVALIDATE, RMPADJUST and PSMASH drop nothing.

use alloc::collections::{BTreeMap, BTreeSet};

/// Page numbers of a cached translation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cached {
    /// First guest page.
    pub(crate) gpa: u64,
    /// First system page.
    pub(crate) spa: u64,
    /// Small pages it covers: one, or those of a large page.
    pub(crate) pages: u64,
    /// Rights at the time of the walk.
    pub(crate) rights: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    vmpl: u8,
    private: bool,
    large: bool,
    gpa: u64,
}

/// Translations of one vCPU by VMPL and C-bit.
#[derive(Clone, Debug)]
pub(crate) struct Tlb {
    pages_per_large: u64,
    entries: BTreeMap<Key, Cached>,
    by_spa: BTreeSet<(u64, Key)>,
}

impl Tlb {
    pub(crate) fn new(pages_per_large: u64) -> Self {
        Self { pages_per_large, entries: BTreeMap::new(), by_spa: BTreeSet::new() }
    }

    /// First small page of the large one around a page.
    fn block(&self, page: u64) -> u64 {
        page - page % self.pages_per_large
    }

    pub(crate) fn find(&self, vmpl: u8, private: bool, gpa_page: u64) -> Option<Cached> {
        let small = Key { vmpl, private, large: false, gpa: gpa_page };
        let large = Key { vmpl, private, large: true, gpa: self.block(gpa_page) };
        self.entries.get(&small).or_else(|| self.entries.get(&large)).copied()
    }

    pub(crate) fn insert(&mut self, vmpl: u8, private: bool, entry: Cached) {
        for page in [entry.gpa, self.block(entry.gpa)] {
            for large in [false, true] {
                self.drop_key(Key { vmpl, private, large, gpa: page });
            }
        }
        let key = Key { vmpl, private, large: entry.pages > 1, gpa: entry.gpa };
        self.by_spa.insert((entry.spa, key));
        self.entries.insert(key, entry);
    }

    fn drop_key(&mut self, key: Key) {
        if let Some(old) = self.entries.remove(&key) {
            self.by_spa.remove(&(old.spa, key));
        }
    }

    pub(crate) fn flush_all(&mut self) {
        self.entries.clear();
        self.by_spa.clear();
    }

    pub(crate) fn flush_vmpl(&mut self, vmpl: u8) {
        self.retain(|key, _| key.vmpl != vmpl);
    }

    /// Drops what one VMPL cached for a guest page.
    pub(crate) fn flush_page(&mut self, vmpl: u8, gpa_page: u64) {
        for private in [false, true] {
            self.drop_key(Key { vmpl, private, large: false, gpa: gpa_page });
            self.drop_key(Key { vmpl, private, large: true, gpa: self.block(gpa_page) });
        }
    }

    /// Drops what all VMPLs cached for guest pages.
    pub(crate) fn flush_guest_pages(&mut self, gpa_page: u64, count: u64) {
        if count >= self.pages_per_large && self.entries.len() as u64 <= count {
            self.retain(|_, e| e.gpa >= gpa_page.saturating_add(count) || e.gpa + e.pages <= gpa_page);
            return;
        }
        for page in gpa_page..gpa_page.saturating_add(count) {
            for vmpl in 0..4 {
                self.flush_page(vmpl, page);
            }
        }
    }

    /// Drops everything that leads to system pages.
    pub(crate) fn flush_system_pages(&mut self, spa_page: u64, count: u64) {
        let lowest = Key { vmpl: 0, private: false, large: false, gpa: 0 };
        let doomed: alloc::vec::Vec<Key> = self
            .by_spa
            .range(
                (spa_page.saturating_sub(self.pages_per_large - 1), lowest)..(spa_page.saturating_add(count), lowest),
            )
            .filter(|(spa, key)| key.large || *spa >= spa_page)
            .map(|(_, key)| *key)
            .collect();
        for key in doomed {
            self.drop_key(key);
        }
    }

    fn retain(&mut self, keep: impl Fn(&Key, &Cached) -> bool) {
        self.entries.retain(|key, entry| keep(key, entry));
        let entries = &self.entries;
        self.by_spa.retain(|(_, key)| entries.contains_key(key));
    }

    /// The VMPLs above 0 that still have a private translation with these rights to a system page, with the entry.
    pub(crate) fn lower_with(&self, spa_page: u64, rights: u8) -> impl Iterator<Item = (u8, Cached)> {
        let lowest = Key { vmpl: 0, private: false, large: false, gpa: 0 };
        self.by_spa
            .range((spa_page.saturating_sub(self.pages_per_large - 1), lowest)..(spa_page.saturating_add(1), lowest))
            .filter(move |(spa, key)| key.private && key.vmpl > 0 && (key.large || *spa == spa_page))
            .filter_map(move |(_, key)| {
                let entry = self.entries.get(key)?;
                (entry.rights & rights == rights).then_some((key.vmpl, *entry))
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(gpa: u64, spa: u64, large: bool) -> Cached {
        Cached { gpa, spa, pages: if large { 512 } else { 1 }, rights: 3 }
    }

    #[test]
    fn a_small_flush_drops_the_large_entry_around_it() {
        let mut tlb = Tlb::new(512);
        tlb.insert(1, true, entry(512, 1024, true));
        assert!(tlb.find(1, true, 700).is_some());
        assert!(tlb.find(0, true, 700).is_none());
        tlb.flush_page(1, 513);
        assert!(tlb.find(1, true, 700).is_none());
        assert!(tlb.by_spa.is_empty());
    }

    #[test]
    fn a_flush_by_system_page_finds_small_and_large_entries_under_any_guest_page() {
        let mut tlb = Tlb::new(512);
        tlb.insert(1, true, entry(512, 1024, true));
        tlb.insert(2, false, entry(7, 1030, false));
        tlb.insert(2, true, entry(8, 1031, false));
        tlb.flush_system_pages(1030, 1);
        assert!(tlb.find(1, true, 512).is_none());
        assert!(tlb.find(2, false, 7).is_none());
        assert!(tlb.find(2, true, 8).is_some());
    }

    #[test]
    fn a_flush_of_guest_pages_takes_all_levels() {
        let mut tlb = Tlb::new(512);
        for vmpl in 0..4 {
            tlb.insert(vmpl, true, entry(9, 9, false));
        }
        tlb.flush_guest_pages(9, 1);
        assert!(tlb.entries.is_empty());
        tlb.insert(1, true, entry(600, 600, false));
        tlb.insert(1, true, entry(9, 9, false));
        tlb.flush_guest_pages(512, 512);
        assert!(tlb.find(1, true, 600).is_none() && tlb.find(1, true, 9).is_some());
    }
}
