//! O4: VMPL0 reads what VMPL0 wrote.

use alloc::boxed::Box;
use alloc::format;
use alloc::vec::Vec;

use crate::exec::Actor;
use crate::memory::{Content, PageBytes};
use crate::nested::{offset_of, page_of};
use crate::page_map::{Block, PAGES_PER_BLOCK, PageMap};
use crate::rmp::perm;
use crate::{Machine, PAGE_SIZE};

/// Bytes that are compared at once.
const CHUNK: usize = 128;

/// What VMPL0 wrote to a page.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Written {
    Unknown,
    Zero,
    Some(Box<Partly>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Partly {
    bytes: PageBytes,
    /// One bit per byte: VMPL0 wrote it last.
    known: [u64; 64],
}

impl Partly {
    fn is_known(&self, offset: usize) -> bool {
        self.known.get(offset / 64).is_some_and(|word| word >> (offset % 64) & 1 == 1)
    }

    /// Whether bytes at an offset are what is known of them.
    fn agrees(&self, offset: usize, bytes: &[u8]) -> bool {
        let mut at = offset;
        bytes.chunks(CHUNK).all(|part| {
            let start = at;
            at += part.len();
            // Equal bytes agree whatever is known: the common case is one comparison.
            self.bytes.get(start..).is_some_and(|known| known.starts_with(part))
                || (start..)
                    .zip(part)
                    .all(|(offset, byte)| self.bytes.get(offset) == Some(byte) || !self.is_known(offset))
        })
    }

    fn set_known(&mut self, offset: usize, known: bool) {
        if let Some(word) = self.known.get_mut(offset / 64) {
            let bit = 1 << (offset % 64);
            *word = if known { *word | bit } else { *word & !bit };
        }
    }
}

/// VMPL0's private memory by guest page.
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
    pub(super) fn forget_pages(&mut self, gpa_page: u64, count: u64) {
        self.pages.fill(gpa_page, count, &Written::Unknown);
    }

    fn partly(&mut self, gpa_page: u64) -> &mut Partly {
        let page = self.pages.get_mut(gpa_page);
        let known = match page {
            Written::Unknown => Some([0; 64]),
            Written::Zero => Some([u64::MAX; 64]),
            Written::Some(_) => None,
        };
        if let Some(known) = known {
            *page = Written::Some(Box::new(Partly { bytes: [0; PAGE_SIZE as usize], known }));
        }
        match page {
            Written::Some(partly) => partly,
            Written::Unknown | Written::Zero => unreachable!("was replaced above"),
        }
    }

    fn store(&mut self, gpa: u64, bytes: &[u8]) {
        let partly = self.partly(page_of(gpa));
        for (offset, byte) in (offset_of(gpa)..).zip(bytes) {
            if let Some(slot) = partly.bytes.get_mut(offset) {
                *slot = *byte;
                partly.set_known(offset, true);
            }
        }
    }

    fn forget(&mut self, gpa: u64, len: usize) {
        if *self.pages.get(page_of(gpa)) == Written::Unknown {
            return;
        }
        let partly = self.partly(page_of(gpa));
        (offset_of(gpa)..).take(len).for_each(|offset| partly.set_known(offset, false));
    }

    /// Whether bytes at an offset of a guest page are what is known of them.
    fn agrees(&self, gpa_page: u64, offset: usize, bytes: &[u8]) -> bool {
        match self.pages.get(gpa_page) {
            Written::Unknown => true,
            Written::Zero => bytes.iter().all(|byte| *byte == 0),
            Written::Some(partly) => partly.agrees(offset, bytes),
        }
    }
}

impl Machine {
    pub(super) fn check_read(&mut self, gpa: u64, bytes: &[u8]) {
        if !self.oracles.shadow.agrees(page_of(gpa), offset_of(gpa), bytes) {
            self.violation("O4", format!("VMPL0 reads at {gpa:#x} what it did not write"));
        }
    }

    pub(super) fn shadow_written(&mut self, actor: Actor, gpa: u64, spa_page: u64, private: bool, bytes: &[u8]) {
        if !private {
            return;
        }
        if actor.vmpl == 0 {
            self.oracles.shadow.store(gpa, bytes);
        } else if self.may_write(actor.vmpl, spa_page) {
            self.oracles.shadow.forget(gpa, bytes.len());
        }
    }

    pub(super) fn shadow_zeroed(&mut self, actor: Actor, gpa: u64, spa_page: u64, count: u64, private: bool) {
        if !private {
            return;
        }
        if actor.vmpl == 0 {
            self.oracles.shadow.pages.fill(page_of(gpa), count, &Written::Zero);
            return;
        }
        for index in 0..count {
            if self.may_write(actor.vmpl, spa_page + index) {
                self.oracles.shadow.forget_pages(page_of(gpa) + index, 1);
            }
        }
    }

    fn may_write(&self, vmpl: u8, spa_page: u64) -> bool {
        let entry = self.rmp.get(spa_page);
        let needed = perm::READ | perm::WRITE;
        entry.assigned && entry.validated && entry.rights(vmpl) & needed == needed
    }

    /// Every page that VMPL0 could read now holds what it wrote.
    pub(super) fn check_shadow(&mut self) {
        let mut wrong = Vec::new();
        for (number, block) in self.oracles.shadow.pages.blocks() {
            if *block == Block::Uniform(Written::Unknown) {
                continue;
            }
            for gpa_page in number * PAGES_PER_BLOCK..(number + 1) * PAGES_PER_BLOCK {
                let written = self.oracles.shadow.pages.get(gpa_page);
                if *written == Written::Unknown {
                    continue;
                }
                let Some((spa, _)) = self.nested.get(gpa_page) else { continue };
                let entry = self.rmp.get(spa);
                if !entry.validated || entry.gpa != gpa_page * PAGE_SIZE {
                    continue;
                }
                let same = match (written, self.memory.content(spa)) {
                    (Written::Zero, Content::Zero) => true,
                    (_, content) => {
                        let bytes = self.memory.bytes_of(spa, content);
                        self.oracles.shadow.agrees(gpa_page, 0, &bytes)
                    }
                };
                if !same {
                    wrong.push(gpa_page);
                }
            }
        }
        for gpa_page in wrong {
            self.violation("O4", format!("VMPL0 would read at {:#x} what it did not write", gpa_page * PAGE_SIZE));
        }
    }
}
