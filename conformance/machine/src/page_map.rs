//! A value per 4 KiB page, kept once per 2 MiB where all 512 agree.

use alloc::collections::BTreeMap;
use alloc::vec;
use alloc::vec::Vec;

/// Pages of a block. It is how values are stored, whatever the size of the machine's large pages.
pub(crate) const PAGES_PER_BLOCK: u64 = 512;

/// The values of one 2 MiB block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Block<T> {
    /// All 512 pages have this one.
    Uniform(T),
    /// One per page, 512.
    Pages(Vec<T>),
}

/// A sparse map from page number to `T`; pages never set have the default.
#[derive(Clone, Debug)]
pub(crate) struct PageMap<T> {
    blocks: BTreeMap<u64, Block<T>>,
    default: T,
}

fn split(page: u64) -> (u64, usize) {
    // The remainder is below 512.
    (page / PAGES_PER_BLOCK, (page % PAGES_PER_BLOCK) as usize)
}

impl<T: Clone> PageMap<T> {
    pub(crate) fn new(default: T) -> Self {
        Self { blocks: BTreeMap::new(), default }
    }

    pub(crate) fn get(&self, page: u64) -> &T {
        let (block, index) = split(page);
        match self.blocks.get(&block) {
            None => &self.default,
            Some(Block::Uniform(value)) => value,
            Some(Block::Pages(values)) => values.get(index).unwrap_or(&self.default),
        }
    }

    pub(crate) fn get_mut(&mut self, page: u64) -> &mut T {
        let (number, index) = split(page);
        let default = &self.default;
        let block = self.blocks.entry(number).or_insert_with(|| Block::Uniform(default.clone()));
        if let Block::Uniform(value) = block {
            *block = Block::Pages(vec![value.clone(); PAGES_PER_BLOCK as usize]);
        }
        match block {
            Block::Pages(values) => &mut values[index],
            Block::Uniform(value) => value,
        }
    }

    pub(crate) fn set(&mut self, page: u64, value: T) {
        *self.get_mut(page) = value;
    }

    /// Sets `count` pages from `page` on; whole blocks cost one insertion.
    pub(crate) fn fill(&mut self, page: u64, count: u64, value: &T) {
        let end = page.saturating_add(count);
        let mut at = page;
        while at < end {
            let (block, index) = split(at);
            if index == 0 && end - at >= PAGES_PER_BLOCK {
                self.blocks.insert(block, Block::Uniform(value.clone()));
                at += PAGES_PER_BLOCK;
            } else {
                self.set(at, value.clone());
                at += 1;
            }
        }
    }

    /// The blocks that were ever set, by 2 MiB number.
    pub(crate) fn blocks(&self) -> impl Iterator<Item = (u64, &Block<T>)> {
        self.blocks.iter().map(|(number, block)| (*number, block))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fills_whole_blocks_at_once_and_splits_on_demand() {
        let mut map = PageMap::new(0u8);
        map.fill(511, 514, &7);
        assert_eq!([510, 511, 512, 1023, 1024, 1025].map(|p| *map.get(p)), [0, 7, 7, 7, 7, 0]);
        assert!(map.blocks().any(|(number, block)| number == 1 && *block == Block::Uniform(7)));
        map.set(600, 9);
        assert_eq!([599, 600, 601].map(|p| *map.get(p)), [7, 9, 7]);
    }
}
