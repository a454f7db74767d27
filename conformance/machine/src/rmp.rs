//! The reverse map table: who owns a system page, at which guest address, with which rights.
//!
//! Sources: rmp_semantics.csv, vmpl_perms.csv and the return codes of instructions.csv.

use alloc::collections::BTreeMap;
use alloc::vec;
use alloc::vec::Vec;

use crate::ranges::RangeSet;

/// Rights of a VMPL on a page (vmpl_perms.csv, perm_mask).
pub mod perm {
    numbers! {
        pub u8:
        /// Data read.
        READ = 0x01;
        /// Data write.
        WRITE = 0x02;
        /// Fetch at CPL 3.
        EXECUTE_USER = 0x04;
        /// Fetch at CPL 0 to 2.
        EXECUTE_SUPERVISOR = 0x08;
        /// Supervisor shadow stack.
        SHADOW_STACK = 0x10;
    }
    /// Every right that exists.
    pub const ALL: u8 = 0x1f;
}

/// Return codes of PVALIDATE, RMPADJUST, RMPQUERY, RMPUPDATE and PSMASH (instructions.csv).
pub mod code {
    numbers! {
        pub u32:
        /// Done.
        SUCCESS = 0;
        /// Bad operand.
        FAIL_INPUT = 1;
        /// Not allowed.
        FAIL_PERMISSION = 2;
        /// The entry or its VMSA is in use.
        FAIL_INUSE = 3;
        /// A 4K and a 2M entry collide.
        FAIL_OVERLAP = 4;
        /// 2M request on a 4K entry.
        FAIL_SIZEMISMATCH = 6;
    }
}

/// Bits of EXITINFO1 of a nested page fault (RMP-040 to RMP-045).
pub mod npf {
    numbers! {
        pub u64:
        /// The nested mapping was present.
        PRESENT = 1 << 0;
        /// Write.
        WRITE = 1 << 1;
        /// CPL 3.
        USER = 1 << 2;
        /// A reserved bit was set in the nested entry: the host marks a device (RMP-047).
        RESERVED = 1 << 3;
        /// Instruction fetch.
        FETCH = 1 << 4;
        /// Shadow stack access.
        SHADOW_STACK = 1 << 6;
        /// Caused by an RMP or VMPL check.
        RMP = 1 << 31;
        /// Fault on the final guest address.
        FINAL = 1 << 32;
        /// The effective C-bit was 1.
        ENC = 1 << 34;
        /// Size conflict of PVALIDATE or RMPADJUST with the entry.
        SIZEM = 1 << 35;
        /// Denied by the permission mask.
        VMPL = 1 << 36;
        /// Denied by its bit for supervisor shadow stacks.
        SSS = 1 << 37;
    }
}

/// The one guest of this machine.
pub(crate) const GUEST_ASID: u16 = 1;

/// An RMP entry as a test sees it (RMP-001).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RmpEntry {
    /// Assigned to a guest or to the secure processor.
    pub assigned: bool,
    /// Assigned guest, 0 for none.
    pub asid: u16,
    /// Guest-physical address of the 4 KiB page (inside a 2M entry: of this page of it).
    pub gpa: u64,
    /// Part of a 2M entry.
    pub large: bool,
    /// Immutable.
    pub immutable: bool,
    /// Register save area.
    pub vmsa: bool,
    /// Validated.
    pub validated: bool,
    /// Rights by VMPL, bits of [`perm`].
    pub perms: [u8; 4],
}

impl RmpEntry {
    /// A page of the hypervisor (RMP-002).
    pub(crate) const HOST: Self = Self {
        assigned: false,
        asid: 0,
        gpa: 0,
        large: false,
        immutable: false,
        vmsa: false,
        validated: false,
        perms: [0; 4],
    };

    pub(crate) fn rights(&self, vmpl: u8) -> u8 {
        self.perms.get(usize::from(vmpl)).copied().unwrap_or(0)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Region {
    /// One entry; its address is that of the 2M page.
    Large(RmpEntry),
    /// An entry for each small page.
    Small(Vec<RmpEntry>),
}

/// The table, by system page number.
#[derive(Clone, Debug)]
pub(crate) struct Rmp {
    covered: RangeSet,
    regions: BTreeMap<u64, Region>,
    pages_per_large: u64,
    /// Pages whose entry changed: (first, count). Kept only for an embedder.
    pub(crate) changed: Option<Vec<(u64, u64)>>,
}

impl Rmp {
    pub(crate) fn new(covered: RangeSet, pages_per_large: u64) -> Self {
        Self { covered, regions: BTreeMap::new(), pages_per_large, changed: None }
    }

    pub(crate) fn cover(&mut self, page: u64, count: u64) {
        self.covered.insert(page, page.saturating_add(count));
    }

    pub(crate) fn is_covered(&self, page: u64, count: u64) -> bool {
        self.covered.covers(page, page.saturating_add(count))
    }

    /// The entry of a page; a page outside the table is the hypervisor's (RMP-003).
    pub(crate) fn get(&self, page: u64) -> RmpEntry {
        let index = page % self.pages_per_large;
        match self.regions.get(&(page / self.pages_per_large)) {
            None => RmpEntry::HOST,
            Some(Region::Large(entry)) => RmpEntry { gpa: entry.gpa.wrapping_add(index << 12), ..*entry },
            Some(Region::Small(entries)) => entries.get(index as usize).copied().unwrap_or(RmpEntry::HOST),
        }
    }

    pub(crate) fn is_large(&self, page: u64) -> bool {
        matches!(self.regions.get(&(page / self.pages_per_large)), Some(Region::Large(_)))
    }

    /// Whether any of the small entries around `page` is assigned.
    pub(crate) fn has_small_assigned(&self, page: u64) -> bool {
        match self.regions.get(&(page / self.pages_per_large)) {
            Some(Region::Small(entries)) => entries.iter().any(|e| e.assigned),
            _ => false,
        }
    }

    /// Notes a change of `page`, or of its whole block.
    fn note(&mut self, page: u64, is_block: bool) {
        let pages = self.pages_per_large;
        if let Some(changed) = &mut self.changed {
            changed.push(if is_block { (page - page % pages, pages) } else { (page, 1) });
        }
    }

    /// Changes the entry that covers `page`: the 2M one if there is one, else the 4K one.
    pub(crate) fn update(&mut self, page: u64, change: impl FnOnce(&mut RmpEntry)) {
        self.note(page, self.is_large(page));
        let region = self
            .regions
            .entry(page / self.pages_per_large)
            .or_insert_with(|| Region::Small(vec![RmpEntry::HOST; self.pages_per_large as usize]));
        match region {
            Region::Large(entry) => change(entry),
            Region::Small(entries) => {
                if let Some(entry) = entries.get_mut((page % self.pages_per_large) as usize) {
                    change(entry);
                }
            }
        }
    }

    /// Replaces a whole block by one 2M entry, or by host-owned pages.
    pub(crate) fn set_block(&mut self, page: u64, entry: Option<RmpEntry>) {
        self.note(page, true);
        let number = page / self.pages_per_large;
        match entry {
            Some(entry) => {
                self.regions.insert(number, Region::Large(RmpEntry { large: true, ..entry }));
            }
            None => {
                self.regions.remove(&number);
            }
        }
    }

    /// Splits a 2M entry into small ones that keep everything (RMP-012).
    pub(crate) fn smash(&mut self, page: u64) {
        self.note(page, true);
        let number = page / self.pages_per_large;
        if let Some(Region::Large(entry)) = self.regions.get(&number) {
            let entries = (0..self.pages_per_large)
                .map(|index| RmpEntry { gpa: entry.gpa.wrapping_add(index << 12), large: false, ..*entry })
                .collect();
            self.regions.insert(number, Region::Small(entries));
        }
    }

    /// Every assigned entry: first system page, pages it covers, entry.
    pub(crate) fn assigned(&self) -> impl Iterator<Item = (u64, u64, &RmpEntry)> {
        self.regions.iter().flat_map(|(number, region)| {
            let first = number * self.pages_per_large;
            let (entries, pages) = match region {
                Region::Large(entry) => (core::slice::from_ref(entry), self.pages_per_large),
                Region::Small(entries) => (entries.as_slice(), 1),
            };
            (first..).zip(entries).filter(|(_, e)| e.assigned).map(move |(page, e)| (page, pages, e))
        })
    }
}
