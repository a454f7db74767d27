//! Contents of system memory.

use alloc::boxed::Box;

use crate::page_map::{Block, PAGES_PER_BLOCK, PageMap};
use crate::{Frames, PAGE_SIZE};

/// Top 16 bits of every quadword of a page whose contents are undefined: it changed hands and nobody wrote it.
pub const GARBAGE_TAG: u16 = 0xbad0;
/// Top 16 bits of every quadword that somebody without the key reads from a private page.
pub const CIPHERTEXT_TAG: u16 = 0xc1f0;

/// A page as bytes.
pub(crate) type PageBytes = [u8; PAGE_SIZE as usize];

/// What a page holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    Zero,
    /// Derived from address, seed and this count of conversions.
    Garbage(u32),
    Data(Box<PageBytes>),
}

/// System memory by page number.
#[derive(Clone, Debug)]
pub(crate) struct Memory {
    pages: PageMap<Content>,
    seed: u64,
    conversions: u32,
    /// Where contents are instead, if somebody embeds the machine; then `pages` stays empty.
    frames: Option<&'static dyn Frames>,
}

/// A well mixed function of its input (the finalizer of splitmix64).
fn mix(value: u64) -> u64 {
    let a = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let b = (a ^ (a >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    b ^ (b >> 31)
}

fn pattern(tag: u16, seed: u64, page: u64, salt: u64) -> PageBytes {
    let base = mix(seed ^ mix(page) ^ mix(salt.wrapping_add(0x9e37_79b9)));
    let mut bytes = [0; PAGE_SIZE as usize];
    for (index, word) in (0u64..).zip(bytes.chunks_exact_mut(8)) {
        let value = u64::from(tag) << 48 | mix(base.wrapping_add(index)) >> 16;
        word.copy_from_slice(&value.to_le_bytes());
    }
    bytes
}

impl Memory {
    pub(crate) fn new(seed: u64) -> Self {
        Self { pages: PageMap::new(Content::Zero), seed, conversions: 0, frames: None }
    }

    pub(crate) fn keep_in(&mut self, frames: &'static dyn Frames) {
        self.frames = Some(frames);
    }

    pub(crate) fn content(&self, page: u64) -> &Content {
        self.pages.get(page)
    }

    pub(crate) fn blocks(&self) -> impl Iterator<Item = (u64, &Block<Content>)> {
        self.pages.blocks()
    }

    pub(crate) fn page(&self, page: u64) -> PageBytes {
        let mut bytes = [0; PAGE_SIZE as usize];
        self.read(page, 0, &mut bytes);
        bytes
    }

    pub(crate) fn bytes_of(&self, page: u64, content: &Content) -> PageBytes {
        match content {
            Content::Zero => [0; PAGE_SIZE as usize],
            Content::Garbage(conversion) => pattern(GARBAGE_TAG, self.seed, page, u64::from(*conversion)),
            Content::Data(bytes) => **bytes,
        }
    }

    /// What the page looks like to somebody without the key.
    pub(crate) fn ciphertext(&self, page: u64) -> PageBytes {
        pattern(CIPHERTEXT_TAG, self.seed, page, 0)
    }

    /// Copies from `offset` of a page; the caller keeps to the page.
    pub(crate) fn read(&self, page: u64, offset: usize, out: &mut [u8]) {
        if let Some(frames) = self.frames {
            return frames.read(page, offset, out);
        }
        match self.pages.get(page) {
            Content::Zero => out.fill(0),
            Content::Data(bytes) => copy_from(&bytes[..], offset, out),
            content @ Content::Garbage(_) => copy_from(&self.bytes_of(page, content), offset, out),
        }
    }

    /// Copies to `offset` of a page; the caller keeps to the page.
    pub(crate) fn write(&mut self, page: u64, offset: usize, bytes: &[u8]) {
        if let Some(frames) = self.frames {
            return frames.write(page, offset, bytes);
        }
        let old = self.pages.get(page);
        if let Content::Data(_) = old {
        } else {
            let start = self.bytes_of(page, old);
            self.pages.set(page, Content::Data(Box::new(start)));
        }
        if let Content::Data(data) = self.pages.get_mut(page)
            && let Some(target) = data.get_mut(offset..offset.saturating_add(bytes.len()))
        {
            target.copy_from_slice(bytes);
        }
    }

    pub(crate) fn zero(&mut self, page: u64, count: u64) {
        if let Some(frames) = self.frames {
            return (page..page.saturating_add(count)).for_each(|page| frames.write(page, 0, &[0; PAGE_SIZE as usize]));
        }
        self.pages.fill(page, count, &Content::Zero);
    }

    /// The pages change hands: from now on their contents are undefined.
    pub(crate) fn scramble(&mut self, page: u64, count: u64) {
        self.conversions = self.conversions.wrapping_add(1);
        if let Some(frames) = self.frames {
            for page in page..page.saturating_add(count) {
                let garbage = pattern(GARBAGE_TAG, self.seed, page, u64::from(self.conversions));
                frames.write(page, 0, &garbage);
            }
            return;
        }
        self.pages.fill(page, count, &Content::Garbage(self.conversions));
    }

    /// The contents of the 512 pages of a block.
    pub(crate) fn block_pages(block: &Block<Content>) -> impl Iterator<Item = &Content> {
        (0..PAGES_PER_BLOCK as usize).map(move |index| match block {
            Block::Uniform(content) => content,
            Block::Pages(pages) => &pages[index],
        })
    }
}

fn copy_from(source: &[u8], offset: usize, out: &mut [u8]) {
    if let Some(bytes) = source.get(offset..offset.saturating_add(out.len())) {
        out.copy_from_slice(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn garbage_is_recognisable_and_differs_after_each_conversion() {
        let mut memory = Memory::new(5);
        assert_eq!(memory.page(3), [0; 4096]);
        memory.scramble(3, 1);
        let first = memory.page(3);
        assert!(first.chunks(8).all(|w| w[6..] == GARBAGE_TAG.to_le_bytes()));
        memory.scramble(3, 1);
        assert_ne!(first, memory.page(3));
        memory.write(3, 4094, &[1, 2]);
        let mut two = [0; 2];
        memory.read(3, 4094, &mut two);
        assert_eq!(two, [1, 2]);
        assert_eq!(memory.page(3)[7], GARBAGE_TAG.to_le_bytes()[1]);
        memory.zero(3, 1);
        assert_eq!(*memory.content(3), Content::Zero);
    }
}
