//! Ranges of guest-physical memory, with checked arithmetic only (rules M1 and H2).

use core::fmt;

use x86_64::PhysAddr;
use x86_64::structures::paging::{PhysFrame, Size4KiB};

/// Bytes of a small page.
pub const SMALL: u64 = 4096;
/// Bytes of a large page.
pub const LARGE: u64 = 2 * 1024 * 1024;
/// Small frames in a large page.
pub const FRAMES_PER_LARGE: u64 = LARGE / SMALL;

/// Frames below the architectural limit of 52 physical address bits.
const FRAME_LIMIT: u64 = 1 << 40;

/// A page size the vendors' tables know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PageSize {
    /// 4 KiB.
    Small,
    /// 2 MiB.
    Large,
}

impl PageSize {
    /// Bytes of a page of this size.
    #[inline]
    pub const fn bytes(self) -> u64 {
        match self {
            Self::Small => SMALL,
            Self::Large => LARGE,
        }
    }

    /// 4 KiB frames in a page of this size.
    #[inline]
    pub const fn frames(self) -> u64 {
        self.bytes() / SMALL
    }
}

/// One page of either size, aligned to its size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Block {
    /// Number of its first frame.
    first: u64,
    size: PageSize,
}

impl Block {
    /// The page of `size` that begins at `start`.
    ///
    /// # Errors
    /// [`RangeError::Unaligned`] when `start` is not a multiple of the size.
    #[inline]
    pub fn new(start: PhysAddr, size: PageSize) -> Result<Self, RangeError> {
        if !start.is_aligned(size.bytes()) {
            return Err(RangeError::Unaligned { at: start });
        }
        Ok(Self { first: start.as_u64() / SMALL, size })
    }

    /// First byte.
    #[inline]
    pub fn start(self) -> PhysAddr {
        self.range().start()
    }

    /// 4 KiB or 2 MiB.
    #[inline]
    pub const fn size(self) -> PageSize {
        self.size
    }

    /// The same page as a range of small frames.
    #[inline]
    pub const fn range(self) -> FrameRange {
        FrameRange { first: self.first, count: self.size.frames() }
    }
}

/// A non-empty range of 4 KiB frames that lies below 2^52 and does not wrap.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct FrameRange {
    first: u64,
    count: u64,
}

impl FrameRange {
    /// The range of `len` bytes from `start`.
    ///
    /// # Errors
    /// [`RangeError`]: empty, start or length not a multiple of 4 KiB, or an end beyond 2^52.
    #[inline]
    pub fn new(start: PhysAddr, len: u64) -> Result<Self, RangeError> {
        if len == 0 {
            return Err(RangeError::Empty { at: start });
        }
        if !start.is_aligned(SMALL) || !len.is_multiple_of(SMALL) {
            return Err(RangeError::Unaligned { at: start });
        }
        Self::of_frames(start.as_u64() / SMALL, len / SMALL).ok_or(RangeError::Wraps { at: start, len })
    }

    /// One small frame.
    #[inline]
    pub fn of(frame: PhysFrame<Size4KiB>) -> Self {
        Self { first: frame.start_address().as_u64() / SMALL, count: 1 }
    }

    /// The range of `count` pages of the size of `first`, which is the first of them. `None` when it is empty or ends beyond
    /// 2^52.
    #[inline]
    pub fn of_blocks(first: Block, count: u64) -> Option<Self> {
        Self::of_frames(first.first, count.checked_mul(first.size.frames())?)
    }

    #[inline]
    fn of_frames(first: u64, count: u64) -> Option<Self> {
        let end = first.checked_add(count)?;
        (count > 0 && end <= FRAME_LIMIT).then_some(Self { first, count })
    }

    /// First byte.
    #[inline]
    pub fn start(self) -> PhysAddr {
        // Below 2^52 by construction.
        PhysAddr::new_truncate(self.first << SMALL.trailing_zeros())
    }

    /// First frame.
    #[inline]
    pub fn first(self) -> PhysFrame<Size4KiB> {
        PhysFrame::containing_address(self.start())
    }

    /// Number of the first frame: its address over 4 KiB.
    #[inline]
    pub const fn first_number(self) -> u64 {
        self.first
    }

    /// Length in 4 KiB frames, at least 1.
    #[inline]
    pub const fn frames(self) -> u64 {
        self.count
    }

    /// Length in bytes.
    #[inline]
    pub const fn bytes(self) -> u64 {
        self.count * SMALL
    }

    /// True when every frame of `other` is one of this range.
    #[inline]
    pub const fn contains(self, other: Self) -> bool {
        self.first <= other.first && other.first + other.count <= self.first + self.count
    }

    /// True when the two share a frame.
    #[inline]
    pub const fn overlaps(self, other: Self) -> bool {
        self.first < other.first + other.count && other.first < self.first + self.count
    }

    /// The slots of `part` in a table with one slot per frame of this range.
    ///
    /// # Errors
    /// [`RangeError::OutsideMap`] when `part` is not inside this range, or the table is too short.
    pub fn slots_mut<T>(self, part: Self, table: &mut [T]) -> Result<&mut [T], RangeError> {
        let outside = RangeError::OutsideMap { at: part.start() };
        if !self.contains(part) {
            return Err(outside);
        }
        let first = usize::try_from(part.first - self.first).map_err(|_| outside)?;
        let count = usize::try_from(part.count).map_err(|_| outside)?;
        table.get_mut(first..).and_then(|rest| rest.get_mut(..count)).ok_or(outside)
    }

    /// What is left when `frames` are done: the point to resume a stopped operation from. `None` when nothing is left.
    #[inline]
    pub const fn skip(self, frames: u64) -> Option<Self> {
        if frames < self.count { Some(Self { first: self.first + frames, count: self.count - frames }) } else { None }
    }

    /// The first `frames` of it, or all of it. `None` for zero frames.
    #[inline]
    pub const fn take(self, frames: u64) -> Option<Self> {
        if frames == 0 {
            None
        } else if frames < self.count {
            Some(Self { first: self.first, count: frames })
        } else {
            Some(self)
        }
    }

    /// The page with which it begins, as large as alignment, length and `largest` allow.
    #[inline]
    pub const fn first_block(self, largest: PageSize) -> Block {
        let fits_large = self.first.is_multiple_of(FRAMES_PER_LARGE) && self.count >= FRAMES_PER_LARGE;
        match largest {
            PageSize::Large if fits_large => Block { first: self.first, size: PageSize::Large },
            _ => Block { first: self.first, size: PageSize::Small },
        }
    }

    /// The pages it consists of, as large as alignment and length allow.
    #[inline]
    pub const fn blocks(self) -> Blocks {
        Blocks { rest: Some(self), largest: PageSize::Large }
    }

    /// The small pages it consists of.
    #[inline]
    pub const fn small_blocks(self) -> Blocks {
        Blocks { rest: Some(self), largest: PageSize::Small }
    }
}

impl fmt::Debug for FrameRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}+{:#x}", self.first * SMALL, self.count * SMALL)
    }
}

/// The pages of a range in ascending order. Made by [`FrameRange::blocks`].
#[derive(Clone, Debug)]
pub struct Blocks {
    rest: Option<FrameRange>,
    largest: PageSize,
}

impl Iterator for Blocks {
    type Item = Block;

    #[inline]
    fn next(&mut self) -> Option<Block> {
        let rest = self.rest?;
        let block = rest.first_block(self.largest);
        self.rest = rest.skip(block.size.frames());
        Some(block)
    }
}

/// The guest-physical memory an operation may touch: RAM, in ranges that do not overlap.
#[derive(Clone, Copy, Debug)]
pub struct MemoryMap<'a> {
    ranges: &'a [FrameRange],
}

impl<'a> MemoryMap<'a> {
    /// A map of these ranges.
    ///
    /// # Errors
    /// [`RangeError::Overlap`] when two of them share a frame.
    #[inline]
    pub fn new(ranges: &'a [FrameRange]) -> Result<Self, RangeError> {
        for (index, range) in ranges.iter().enumerate() {
            if let Some(other) = ranges.iter().skip(index + 1).find(|other| other.overlaps(*range)) {
                return Err(RangeError::Overlap { at: other.start() });
            }
        }
        Ok(Self { ranges })
    }

    /// The ranges.
    pub const fn ranges(&self) -> &'a [FrameRange] {
        self.ranges
    }

    /// Checks that the whole of `range` lies inside one range of the map (rule M1).
    ///
    /// # Errors
    /// [`RangeError::OutsideMap`].
    #[inline]
    pub fn check(&self, range: FrameRange) -> Result<(), RangeError> {
        if self.ranges.iter().any(|part| part.contains(range)) {
            Ok(())
        } else {
            Err(RangeError::OutsideMap { at: range.start() })
        }
    }
}

/// Why a range was refused. Nothing has changed when this is returned (rule M1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror_no_std::Error)]
pub enum RangeError {
    /// The length is zero.
    #[error("empty range at {at:#x}")]
    Empty {
        /// Where it would begin.
        at: PhysAddr,
    },
    /// Start or length is not a multiple of the page size.
    #[error("range at {at:#x} is not page aligned")]
    Unaligned {
        /// Where it begins.
        at: PhysAddr,
    },
    /// The end lies beyond the 52 bits of physical addresses.
    #[error("range at {at:#x} of {len:#x} bytes leaves the address space")]
    Wraps {
        /// Where it begins.
        at: PhysAddr,
        /// Its length in bytes.
        len: u64,
    },
    /// Some of it is not RAM of the memory map.
    #[error("range at {at:#x} leaves the memory map")]
    OutsideMap {
        /// Where it begins.
        at: PhysAddr,
    },
    /// Two ranges of a memory map share a frame.
    #[error("memory map ranges overlap at {at:#x}")]
    Overlap {
        /// Start of the second one.
        at: PhysAddr,
    },
}

impl core::error::Error for RangeError {}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: u64, len: u64) -> Result<FrameRange, RangeError> {
        FrameRange::new(PhysAddr::new(start), len)
    }

    #[test]
    fn refuses_empty_unaligned_and_wrapping_ranges() {
        assert!(matches!(range(0x1000, 0), Err(RangeError::Empty { .. })));
        assert!(matches!(range(0x1001, 0x1000), Err(RangeError::Unaligned { .. })));
        assert!(matches!(range(0x1000, 0x1001), Err(RangeError::Unaligned { .. })));
        assert!(matches!(range(0xf_ffff_ffff_f000, 0x2000), Err(RangeError::Wraps { .. })));
        assert!(matches!(range(0x1000, 0xffff_ffff_ffff_f000), Err(RangeError::Wraps { .. })));
        assert!(range(0xf_ffff_ffff_f000, 0x1000).is_ok());
    }

    #[test]
    fn uses_large_pages_wherever_both_ends_allow() {
        let pages: [PageSize; 4] = [PageSize::Small, PageSize::Large, PageSize::Small, PageSize::Small];
        let blocks = range(LARGE - SMALL, LARGE + 3 * SMALL).unwrap().blocks();
        assert!(blocks.clone().map(Block::size).eq(pages));
        assert_eq!(blocks.map(|block| block.size().frames()).sum::<u64>(), 515);
    }

    #[test]
    fn resumes_where_it_stopped() {
        let all = range(0x10_0000, 0x4000).unwrap();
        assert_eq!(all.skip(3), Some(range(0x10_3000, 0x1000).unwrap()));
        assert_eq!(all.skip(4), None);
        assert_eq!(all.take(0), None);
        assert_eq!(all.take(9), Some(all));
    }

    #[test]
    fn slots_of_a_part_outside_are_refused() {
        let all = range(0x10_0000, 0x4000).unwrap();
        let mut table = [0, 1, 2, 3];
        assert_eq!(all.slots_mut(range(0x10_1000, 0x2000).unwrap(), &mut table), Ok(&mut [1, 2][..]));
        assert!(all.slots_mut(range(0x10_3000, 0x2000).unwrap(), &mut table).is_err());
        assert!(all.slots_mut(all, &mut table[..3]).is_err());
    }

    #[test]
    fn a_map_holds_a_range_only_as_a_whole() {
        let parts = [range(0, 0x4000).unwrap(), range(0x8000, 0x4000).unwrap()];
        let map = MemoryMap::new(&parts).unwrap();
        assert!(map.check(range(0x1000, 0x3000).unwrap()).is_ok());
        assert!(matches!(map.check(range(0x3000, 0x2000).unwrap()), Err(RangeError::OutsideMap { .. })));
        let twice = [parts[0], range(0x3000, 0x2000).unwrap()];
        assert!(matches!(MemoryMap::new(&twice), Err(RangeError::Overlap { .. })));
    }
}
