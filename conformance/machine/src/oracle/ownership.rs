//! O2 and O3: the monitor's pages are its own, and nobody makes a VMSA that may do more than it should.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::vec::Vec;

use crate::nested::page_of;
use crate::rmp::{RmpEntry, perm};
use crate::{Machine, PAGE_SIZE, vmsa};

impl Machine {
    /// Checks the entries of system pages; a 2M entry is checked once.
    pub(super) fn check_ownership(&mut self, spa_page: u64, count: u64) {
        let per_large = self.pages_per_large();
        let mut page = spa_page;
        let end = spa_page.saturating_add(count);
        while page < end {
            let entry = self.rmp.get(page);
            let covered = if entry.large { per_large - page % per_large } else { 1 }.min(end - page);
            if entry.assigned {
                self.check_monitor_pages(&entry, covered);
                if entry.vmsa {
                    self.check_vmsa(page, &entry);
                }
            }
            page += covered;
        }
    }

    fn check_monitor_pages(&mut self, entry: &RmpEntry, count: u64) {
        let first = page_of(entry.gpa);
        let Some(page) = self.oracles.monitor.first_within(first, first.saturating_add(count)) else { return };
        for vmpl in 1..4 {
            let rights = entry.rights(vmpl);
            if rights != 0 {
                self.violation(
                    "O2",
                    format!("VMPL{vmpl} has rights {rights:#x} on the monitor's page {:#x}", page * PAGE_SIZE),
                );
            }
        }
    }

    /// VMPL0 validated guest pages: no other system page may be valid for one of them.
    pub(super) fn check_displaced(&mut self, gpa_page: u64, count: u64) {
        let doubled: Vec<u64> = self
            .nested
            .displaced(gpa_page, count)
            .filter(|(gpa, spa)| {
                let entry = self.rmp.get(*spa);
                let current = self.nested.get(*gpa).map(|(page, _)| page);
                entry.validated && entry.gpa == gpa * PAGE_SIZE && current != Some(*spa)
            })
            .map(|(gpa, _)| gpa)
            .collect();
        for gpa in doubled {
            self.report_double(gpa);
        }
    }

    fn report_double(&mut self, gpa_page: u64) {
        self.violation("O2", format!("two system pages are validated for {:#x}", gpa_page * PAGE_SIZE));
    }

    pub(super) fn check_double_validation(&mut self) {
        let mut large: BTreeMap<u64, u64> = BTreeMap::new();
        let mut small: BTreeMap<u64, u64> = BTreeMap::new();
        for (_, _, entry) in self.rmp.assigned().filter(|(_, _, entry)| entry.validated) {
            let by_size = if entry.large { &mut large } else { &mut small };
            *by_size.entry(page_of(entry.gpa)).or_insert(0) += 1;
        }
        let twice = large.iter().chain(&small).filter(|(_, times)| **times > 1).map(|(page, _)| *page);
        let per_large = self.pages_per_large();
        let mixed = small.keys().filter(|page| large.contains_key(&(*page - *page % per_large))).copied();
        let doubled: Vec<u64> = twice.chain(mixed).collect();
        for page in doubled {
            self.report_double(page);
        }
    }

    /// Checks the entry of a guest page, if it is a VMSA.
    pub(super) fn check_vmsa_at(&mut self, gpa: u64) {
        let Some((page, _)) = self.nested.get(page_of(gpa)) else { return };
        let entry = self.rmp.get(page);
        if entry.vmsa {
            self.check_vmsa(page, &entry);
        }
    }

    fn check_vmsa(&mut self, spa_page: u64, entry: &RmpEntry) {
        let gpa = entry.gpa;
        let mut level = [0];
        self.memory.read(spa_page, vmsa::VMPL, &mut level);
        let [level] = level;
        let declared = self.oracles.declared_vmsas.get(&gpa).copied();
        let guest_level = self.oracles.guest_level.unwrap_or(1);
        let level_fits = declared.map_or(level >= guest_level, |declared| level == declared);
        if !level_fits {
            self.violation("O3", format!("the VMSA at {gpa:#x} has VMPL {level}"));
        }
        if let Some((vmpl, how)) = self.lower_level_with(spa_page, perm::WRITE) {
            self.violation("O3", format!("VMPL{vmpl} can write the VMSA at {gpa:#x} {how}"));
        }
        let listed = self.oracles.registry.as_ref().is_none_or(|registry| registry.contains(&gpa));
        if !listed && declared.is_none() {
            self.violation("O3", format!("the VMSA at {gpa:#x} is not in the registry"));
        }
    }

    /// Every page of the registry is a VMSA.
    pub(super) fn check_registry(&mut self) {
        let listed: Vec<u64> = self.oracles.registry.iter().flatten().copied().collect();
        for gpa in listed {
            if !self.rmp_entry(gpa).is_some_and(|entry| entry.vmsa && entry.gpa == gpa) {
                self.violation("O3", format!("the registry lists {gpa:#x}, which is no VMSA"));
            }
        }
    }
}
