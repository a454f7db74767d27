//! Page sizes of the RMP and a page with its size.

use core::fmt;

use coco_part_api::{Block, PageSize as BlockSize};
use thiserror_no_std::Error;
use x86_64::PhysAddr;

/// Size of an RMP entry. There are only these two; a 1 GiB mapping is checked as 2 MiB (RMP-004).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum PageSize {
    /// 4 KiB.
    Size4KiB = 0,
    /// 2 MiB.
    Size2MiB = 1,
}

impl PageSize {
    /// Returns the size in bytes.
    #[inline]
    pub const fn bytes(self) -> u64 {
        match self {
            Self::Size4KiB => 0x1000,
            Self::Size2MiB => 0x20_0000,
        }
    }

    /// Returns the number that stands for the size in registers and descriptors.
    #[inline]
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// Returns the size that a single bit stands for; other bits of `value` are ignored.
    pub const fn from_bit(value: u64) -> Self {
        if value & 1 == 0 { Self::Size4KiB } else { Self::Size2MiB }
    }
}

/// A guest-physical page, aligned to its size.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Page {
    at: PhysAddr,
    size: PageSize,
}

impl Page {
    /// Makes a page from its guest-physical start and its size.
    ///
    /// # Errors
    /// [`PageMisaligned`] if `at` is not a multiple of the size.
    #[inline]
    pub const fn try_new(at: PhysAddr, size: PageSize) -> Result<Self, PageMisaligned> {
        if at.as_u64() & (size.bytes() - 1) == 0 { Ok(Self { at, size }) } else { Err(PageMisaligned { at, size }) }
    }

    /// Returns the guest-physical address of the first byte.
    #[inline]
    pub const fn at(self) -> PhysAddr {
        self.at
    }

    /// Returns the size.
    #[inline]
    pub const fn size(self) -> PageSize {
        self.size
    }
}

impl From<Block> for Page {
    /// The same page: a block is aligned to its size too.
    #[inline]
    fn from(block: Block) -> Self {
        let size = match block.size() {
            BlockSize::Small => PageSize::Size4KiB,
            BlockSize::Large => PageSize::Size2MiB,
        };
        Self { at: block.start(), size }
    }
}

impl fmt::Debug for Page {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Page({:#x}, {:?})", self.at.as_u64(), self.size)
    }
}

/// A page that does not start at a multiple of its size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("address {:#x} is not aligned for {size:?}", .at.as_u64())]
pub struct PageMisaligned {
    /// The address as it came.
    pub at: PhysAddr,
    /// The size that was asked for.
    pub size: PageSize,
}

impl core::error::Error for PageMisaligned {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_an_address_that_is_not_a_multiple_of_the_size() {
        for (at, size, fits) in [
            (0x1000, PageSize::Size4KiB, true),
            (0x1001, PageSize::Size4KiB, false),
            (0x1800, PageSize::Size4KiB, false),
            (0x20_0000, PageSize::Size2MiB, true),
            (0x1000, PageSize::Size2MiB, false),
            (0x30_0000, PageSize::Size2MiB, false),
        ] {
            let page = Page::try_new(PhysAddr::new(at), size);
            assert_eq!(page.is_ok(), fits, "{at:#x} {size:?}");
            if let Err(error) = page {
                assert_eq!(error, PageMisaligned { at: PhysAddr::new(at), size });
            }
        }
    }
}
