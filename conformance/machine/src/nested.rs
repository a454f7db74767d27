//! The host's nested map from guest to system pages.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

use crate::PAGE_SIZE;
use crate::page_map::PageMap;

/// Size of a nested mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MapSize {
    /// As the RMP entry: the host keeps its map in step.
    Auto,
    Small,
    Large,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Slot {
    /// System page minus guest page, wrapping.
    delta: u64,
    size: MapSize,
}

/// Guest page number to system page number.
#[derive(Clone, Debug)]
pub(crate) struct NestedMap {
    slots: PageMap<Option<Slot>>,
    /// Guest pages whose entry has a reserved bit set: devices, or what the host calls so.
    devices: BTreeSet<u64>,
    /// System pages that a guest page was mapped to before and that were validated for it then.
    displaced: BTreeMap<u64, Vec<u64>>,
    pages_per_large: u64,
    /// Guest pages whose mapping changed: (first, count). Kept only for an embedder.
    pub(crate) changed: Option<Vec<(u64, u64)>>,
}

impl NestedMap {
    pub(crate) fn new(pages_per_large: u64) -> Self {
        Self {
            slots: PageMap::new(None),
            devices: BTreeSet::new(),
            displaced: BTreeMap::new(),
            pages_per_large,
            changed: None,
        }
    }

    pub(crate) fn map_identity(&mut self, page: u64, count: u64) {
        self.slots.fill(page, count, &Some(Slot { delta: 0, size: MapSize::Auto }));
    }

    /// System page of a guest page, and the size of the mapping.
    pub(crate) fn get(&self, page: u64) -> Option<(u64, MapSize)> {
        self.slots.get(page).map(|slot| (page.wrapping_add(slot.delta), slot.size))
    }

    pub(crate) fn set(&mut self, gpa_page: u64, large: bool, spa_page: Option<u64>) {
        let count = if large { self.pages_per_large } else { 1 };
        self.note(gpa_page, count);
        let size = if large { MapSize::Large } else { MapSize::Small };
        let slot = spa_page.map(|spa| Slot { delta: spa.wrapping_sub(gpa_page), size });
        if !large {
            self.break_up(gpa_page);
        }
        self.slots.fill(gpa_page, count, &slot);
    }

    /// Tells an embedder that the mapping of guest pages does not hold any more.
    pub(crate) fn note(&mut self, gpa_page: u64, count: u64) {
        if let Some(changed) = &mut self.changed {
            changed.push((gpa_page, count));
        }
    }

    pub(crate) fn set_device(&mut self, gpa_page: u64, is_device: bool) {
        self.note(gpa_page, 1);
        if is_device {
            self.devices.insert(gpa_page);
        } else {
            self.devices.remove(&gpa_page);
        }
    }

    pub(crate) fn is_device(&self, gpa_page: u64) -> bool {
        self.devices.contains(&gpa_page)
    }

    /// A 2M mapping of which one page changes becomes small mappings.
    fn break_up(&mut self, gpa_page: u64) {
        if self.slots.get(gpa_page).is_some_and(|slot| slot.size == MapSize::Large) {
            let first = gpa_page - gpa_page % self.pages_per_large;
            for page in first..first + self.pages_per_large {
                if let Some(slot) = self.slots.get_mut(page) {
                    slot.size = MapSize::Small;
                }
            }
        }
    }

    pub(crate) fn note_displaced(&mut self, gpa_page: u64, spa_page: u64) {
        let old = self.displaced.entry(gpa_page).or_default();
        if !old.contains(&spa_page) {
            old.push(spa_page);
        }
    }

    /// Former system pages of `count` guest pages, with the guest page.
    pub(crate) fn displaced(&self, gpa_page: u64, count: u64) -> impl Iterator<Item = (u64, u64)> {
        self.displaced
            .range(gpa_page..gpa_page.saturating_add(count))
            .flat_map(|(gpa, spas)| spas.iter().map(move |spa| (*gpa, *spa)))
    }
}

/// Guest page number of an address.
pub(crate) fn page_of(address: u64) -> u64 {
    address / PAGE_SIZE
}

/// Offset of an address in its page.
pub(crate) fn offset_of(address: u64) -> usize {
    (address % PAGE_SIZE) as usize
}
