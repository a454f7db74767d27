//! The secure EPT with the aliases of the L2 VMs.

use alloc::collections::BTreeMap;
use alloc::vec;
use alloc::vec::Vec;

use crate::PAGES_PER_LARGE;

/// Bits of an attribute word of one VM (page_attr.csv).
pub mod attr {
    /// Read.
    pub const READ: u16 = 1 << 0;
    /// Write.
    pub const WRITE: u16 = 1 << 1;
    /// Execute in supervisor mode; in any mode without mode-based execute control.
    pub const EXECUTE_SUPERVISOR: u16 = 1 << 2;
    /// Execute in user mode.
    pub const EXECUTE_USER: u16 = 1 << 3;
    /// Paging-write access.
    pub const PAGING_WRITE: u16 = 1 << 5;
    /// The VM has an alias, or is to be changed.
    pub const VALID: u16 = 1 << 15;
    /// The four rights.
    pub const RIGHTS: u16 = 0xf;
    /// What L1 may manage without VALID (GUEST_L2_GPA_ATTR_MASK is 0x807F).
    pub const MANAGED: u16 = 0x7f;
}

/// An entry that maps a page, as a test sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SeptEntry {
    /// 2 MiB instead of 4 KiB.
    pub large: bool,
    /// L1 has accepted it; else it is pending.
    pub accepted: bool,
    /// The host has blocked it.
    pub blocked: bool,
    /// Attributes of VM 1, 2 and 3; 0 without an alias.
    pub aliases: [u16; 3],
}

/// An entry that maps a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Leaf {
    /// First system page.
    pub(crate) spa: u64,
    pub(crate) accepted: bool,
    pub(crate) blocked: bool,
    pub(crate) aliases: [u16; 3],
}

impl Leaf {
    /// A page that the host has just added.
    pub(crate) fn pending(spa: u64) -> Self {
        Self { spa, accepted: false, blocked: false, aliases: [0; 3] }
    }

    /// The attributes of a VM, 1 to 3.
    pub(crate) fn alias(&self, vm: u8) -> u16 {
        usize::from(vm).checked_sub(1).and_then(|index| self.aliases.get(index)).copied().unwrap_or(0)
    }
}

/// A leaf and where it begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) leaf: Leaf,
    /// First guest page.
    pub(crate) first: u64,
    pub(crate) large: bool,
}

impl Found {
    pub(crate) fn pages(&self) -> u64 {
        if self.large { PAGES_PER_LARGE } else { 1 }
    }

    /// System page of a guest page inside.
    pub(crate) fn spa_of(&self, page: u64) -> u64 {
        self.leaf.spa.wrapping_add(page.wrapping_sub(self.first))
    }
}

#[derive(Clone, Debug)]
enum Node {
    Large(Leaf),
    /// A table of 512; never without an entry.
    Table(Vec<Option<Leaf>>),
}

/// Entries by 2 MiB number.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sept {
    nodes: BTreeMap<u64, Node>,
}

fn split(page: u64) -> (u64, usize) {
    // The remainder is below 512.
    (page / PAGES_PER_LARGE, (page % PAGES_PER_LARGE) as usize)
}

impl Sept {
    pub(crate) fn get(&self, page: u64) -> Option<Found> {
        let (number, index) = split(page);
        match self.nodes.get(&number)? {
            Node::Large(leaf) => Some(Found { leaf: *leaf, first: number * PAGES_PER_LARGE, large: true }),
            Node::Table(leaves) => {
                let leaf = (*leaves.get(index)?)?;
                Some(Found { leaf, first: page, large: false })
            }
        }
    }

    /// Small entries are in the 2 MiB around a page.
    pub(crate) fn is_split(&self, page: u64) -> bool {
        matches!(self.nodes.get(&split(page).0), Some(Node::Table(_)))
    }

    /// Nothing at all is mapped in the 2 MiB around a page.
    pub(crate) fn is_empty(&self, page: u64) -> bool {
        !self.nodes.contains_key(&split(page).0)
    }

    /// Something is mapped in the 1 GiB around a page.
    pub(crate) fn has_gib(&self, page: u64) -> bool {
        let first = split(page).0 & !(PAGES_PER_LARGE - 1);
        self.nodes.range(first..first + PAGES_PER_LARGE).next().is_some()
    }

    /// Maps what is not mapped; false, and nothing changed, where something is.
    pub(crate) fn add(&mut self, page: u64, large: bool, leaf: Leaf) -> bool {
        let (number, index) = split(page);
        if large {
            if index != 0 || self.nodes.contains_key(&number) {
                return false;
            }
            self.nodes.insert(number, Node::Large(leaf));
            return true;
        }
        let node = self.nodes.entry(number).or_insert_with(|| Node::Table(vec![None; PAGES_PER_LARGE as usize]));
        let Node::Table(leaves) = node else { return false };
        match leaves.get_mut(index) {
            Some(slot @ None) => {
                *slot = Some(leaf);
                true
            }
            _ => false,
        }
    }

    /// Changes the leaf of a page, if there is one.
    pub(crate) fn update(&mut self, page: u64, change: impl FnOnce(&mut Leaf)) {
        let (number, index) = split(page);
        match self.nodes.get_mut(&number) {
            Some(Node::Large(leaf)) => change(leaf),
            Some(Node::Table(leaves)) => {
                if let Some(Some(leaf)) = leaves.get_mut(index) {
                    change(leaf);
                }
            }
            None => {}
        }
    }

    /// Takes the leaf of a page away.
    pub(crate) fn remove(&mut self, page: u64) -> Option<Found> {
        let found = self.get(page)?;
        let (number, index) = split(page);
        let empty = match self.nodes.get_mut(&number) {
            Some(Node::Table(leaves)) => {
                if let Some(slot) = leaves.get_mut(index) {
                    *slot = None;
                }
                leaves.iter().all(Option::is_none)
            }
            _ => true,
        };
        if empty {
            self.nodes.remove(&number);
        }
        Some(found)
    }

    /// Splits the large leaf of a page into 512 that differ in nothing else. False without one.
    pub(crate) fn demote(&mut self, page: u64) -> bool {
        let Some(node) = self.nodes.get_mut(&split(page).0) else { return false };
        let Node::Large(leaf) = *node else { return false };
        let small = |index| Some(Leaf { spa: leaf.spa.wrapping_add(index), ..leaf });
        *node = Node::Table((0..PAGES_PER_LARGE).map(small).collect());
        true
    }

    /// All leaves in the order of guest pages.
    pub(crate) fn leaves(&self) -> impl Iterator<Item = Found> {
        self.nodes.iter().flat_map(|(number, node)| {
            let first = number * PAGES_PER_LARGE;
            let (large, small) = match node {
                Node::Large(leaf) => (Some(Found { leaf: *leaf, first, large: true }), None),
                Node::Table(leaves) => (None, Some(leaves)),
            };
            let small = small.into_iter().flat_map(move |leaves| {
                (first..).zip(leaves).filter_map(|(first, leaf)| Some(Found { leaf: (*leaf)?, first, large: false }))
            });
            large.into_iter().chain(small)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_goes_with_its_last_entry() {
        let mut sept = Sept::default();
        assert!(sept.add(513, false, Leaf::pending(7)));
        assert!(!sept.add(513, false, Leaf::pending(8)) && !sept.add(512, true, Leaf::pending(8)));
        assert!(sept.is_split(600) && sept.get(600).is_none());
        assert_eq!(sept.remove(513).map(|found| found.leaf.spa), Some(7));
        assert!(sept.is_empty(512) && sept.remove(513).is_none());
        assert!(sept.add(512, true, Leaf::pending(1024)));
    }

    #[test]
    fn demotion_keeps_state_and_contents() {
        let mut sept = Sept::default();
        assert!(sept.add(512, true, Leaf { aliases: [0x8003, 0, 0], ..Leaf::pending(1024) }));
        assert!(!sept.add(513, true, Leaf::pending(0)) && !sept.add(513, false, Leaf::pending(0)));
        assert!(sept.demote(700) && !sept.demote(700));
        let found = sept.get(700).unwrap();
        assert_eq!((found.leaf.spa, found.first, found.large, found.leaf.alias(1)), (1212, 700, false, 0x8003));
        assert_eq!(sept.leaves().count(), 512);
    }
}
