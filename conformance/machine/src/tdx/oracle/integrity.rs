//! O4: L1 reads what L1 wrote.

use alloc::boxed::Box;
use alloc::format;
use alloc::vec::Vec;

use crate::memory::{Content, PageBytes};
use crate::nested::{offset_of, page_of};
use crate::page_map::{Block, PageMap};
use crate::tdx::Machine;
use crate::tdx::exec::Actor;
use crate::tdx::sept::attr;
use crate::{PAGE_SIZE, PAGES_PER_LARGE};

/// What L1 wrote to a page.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Written {
    Unknown,
    Zero,
    Some(Box<Partly>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Partly {
    bytes: PageBytes,
    /// One bit per byte: L1 wrote it last.
    known: [u64; 64],
}

impl Partly {
    fn is_known(&self, offset: usize) -> bool {
        self.known.get(offset / 64).is_some_and(|word| word >> (offset % 64) & 1 == 1)
    }

    /// Whether bytes at an offset are what is known of them. Equal bytes are, whatever is known: one comparison.
    fn agrees(&self, offset: usize, bytes: &[u8]) -> bool {
        self.bytes.get(offset..).is_some_and(|known| known.starts_with(bytes))
            || (offset..).zip(bytes).all(|(at, byte)| self.bytes.get(at) == Some(byte) || !self.is_known(at))
    }

    fn set_known(&mut self, offset: usize, known: bool) {
        if let Some(word) = self.known.get_mut(offset / 64) {
            let bit = 1 << (offset % 64);
            *word = if known { *word | bit } else { *word & !bit };
        }
    }
}

/// L1's private memory by guest page.
#[derive(Clone, Debug)]
pub(super) struct Shadow {
    pages: PageMap<Written>,
}

impl Default for Shadow {
    fn default() -> Self {
        Self { pages: PageMap::new(Written::Unknown) }
    }
}

impl Shadow {
    pub(super) fn forget_pages(&mut self, page: u64, count: u64) {
        self.pages.fill(page, count, &Written::Unknown);
    }

    pub(super) fn zero_pages(&mut self, page: u64, count: u64) {
        self.pages.fill(page, count, &Written::Zero);
    }

    fn partly(&mut self, page: u64) -> Option<&mut Partly> {
        let written = self.pages.get_mut(page);
        let known = match written {
            Written::Unknown => Some([0; 64]),
            Written::Zero => Some([u64::MAX; 64]),
            Written::Some(_) => None,
        };
        if let Some(known) = known {
            *written = Written::Some(Box::new(Partly { bytes: [0; PAGE_SIZE as usize], known }));
        }
        match written {
            Written::Some(partly) => Some(partly),
            Written::Unknown | Written::Zero => None,
        }
    }

    fn store(&mut self, gpa: u64, bytes: &[u8]) {
        let Some(partly) = self.partly(page_of(gpa)) else { return };
        for (offset, byte) in (offset_of(gpa)..).zip(bytes) {
            if let Some(slot) = partly.bytes.get_mut(offset) {
                *slot = *byte;
                partly.set_known(offset, true);
            }
        }
    }

    pub(super) fn forget(&mut self, gpa: u64, len: usize) {
        if *self.pages.get(page_of(gpa)) == Written::Unknown {
            return;
        }
        if let Some(partly) = self.partly(page_of(gpa)) {
            (offset_of(gpa)..).take(len).for_each(|offset| partly.set_known(offset, false));
        }
    }

    /// Whether bytes at an offset of a guest page are what is known of them.
    fn agrees(&self, page: u64, offset: usize, bytes: &[u8]) -> bool {
        match self.pages.get(page) {
            Written::Unknown => true,
            Written::Zero => bytes.iter().all(|byte| *byte == 0),
            Written::Some(partly) => partly.agrees(offset, bytes),
        }
    }
}

impl Machine {
    pub(super) fn check_read(&mut self, gpa: u64, bytes: &[u8]) {
        if !self.oracles.shadow.agrees(page_of(gpa), offset_of(gpa), bytes) {
            self.violation("O4", format!("L1 reads at {gpa:#x} what it did not write"));
        }
    }

    pub(super) fn shadow_written(&mut self, actor: Actor, gpa: u64, bytes: &[u8]) {
        if actor.level == 0 {
            self.oracles.shadow.store(gpa, bytes);
        } else if self.may_write(actor.level, page_of(gpa)) {
            self.oracles.shadow.forget(gpa, bytes.len());
        }
    }

    pub(super) fn shadow_zeroed(&mut self, actor: Actor, gpa: u64, count: u64) {
        let first = page_of(gpa);
        if actor.level == 0 {
            self.oracles.shadow.zero_pages(first, count);
            return;
        }
        for page in first..first.saturating_add(count) {
            if self.may_write(actor.level, page) {
                self.oracles.shadow.forget_pages(page, 1);
            }
        }
    }

    /// The alias of a VM has W now.
    fn may_write(&self, vm: u8, page: u64) -> bool {
        self.sept.get(page).is_some_and(|found| found.leaf.accepted && found.leaf.alias(vm) & attr::WRITE != 0)
    }

    /// Every page that L1 could read now holds what it wrote.
    pub(super) fn check_shadow(&mut self) {
        let mut wrong = Vec::new();
        for (number, block) in self.oracles.shadow.pages.blocks() {
            if *block == Block::Uniform(Written::Unknown) {
                continue;
            }
            for page in number * PAGES_PER_LARGE..(number + 1) * PAGES_PER_LARGE {
                let written = self.oracles.shadow.pages.get(page);
                let Some(found) = self.sept.get(page).filter(|found| found.leaf.accepted) else { continue };
                let same = match (written, self.private.content(found.spa_of(page))) {
                    (Written::Unknown, _) | (Written::Zero, Content::Zero) => true,
                    (_, content) => {
                        let bytes = self.private.bytes_of(found.spa_of(page), content);
                        self.oracles.shadow.agrees(page, 0, &bytes)
                    }
                };
                if !same {
                    wrong.push(page);
                }
            }
        }
        for page in wrong {
            self.violation("O4", format!("L1 would read at {:#x} what it did not write", page * PAGE_SIZE));
        }
    }
}
