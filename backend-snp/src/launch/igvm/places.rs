//! Which guest-physical pages a file uses, without an allocator.

use coco_part_api::{FrameRange, RangeError};
use x86_64::PhysAddr;

use super::IgvmError;

/// Most separate ranges of pages in one file. Ranges that touch count as one.
pub const MAX_RANGES: usize = 128;
/// Most 4 KiB pages that one file adds: 4 GiB.
pub const MAX_PAGES: u64 = 1 << 20;

/// Why a guest-physical range cannot be what it is meant to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror_no_std::Error)]
pub enum PlaceFault {
    /// It has no page.
    #[error("empty")]
    Empty,
    /// Start or length is not a multiple of 4 KiB, or of 2 MiB where the page is a large one.
    #[error("not aligned to its page size")]
    Unaligned,
    /// It leaves the 52 bits of physical addresses.
    #[error("leaves the address space")]
    OutsideAddressSpace,
    /// Pages of it are used by an earlier header.
    #[error("overlaps pages of an earlier header")]
    Overlap,
}

/// The range of `bytes` bytes at `gpa`.
pub(super) fn place(at: usize, gpa: u64, bytes: u64) -> Result<FrameRange, IgvmError> {
    let wrong = |fault| IgvmError::Place { at, gpa, bytes, fault };
    let start = PhysAddr::try_new(gpa).map_err(|_| wrong(PlaceFault::OutsideAddressSpace))?;
    FrameRange::new(start, bytes).map_err(|error| {
        wrong(match error {
            RangeError::Empty { .. } => PlaceFault::Empty,
            RangeError::Unaligned { .. } => PlaceFault::Unaligned,
            _ => PlaceFault::OutsideAddressSpace,
        })
    })
}

/// The pages used so far: sorted ranges that neither overlap nor touch.
#[derive(Clone, Debug)]
pub(super) struct Places {
    ranges: [(u64, u64); MAX_RANGES],
    used: usize,
    pages: u64,
}

impl Places {
    pub(super) const fn new() -> Self {
        Self { ranges: [(0, 0); MAX_RANGES], used: 0, pages: 0 }
    }

    /// Notes the pages of a range.
    pub(super) fn add(&mut self, at: usize, range: FrameRange) -> Result<(), IgvmError> {
        // Ends of ranges are below 2^41, counts too.
        let pages = self.pages + range.frames();
        if pages > MAX_PAGES {
            return Err(IgvmError::TooManyPages { at });
        }
        let (first, end) = (range.first_number(), range.first_number() + range.frames());
        let used = self.ranges.get(..self.used).unwrap_or_default();
        let behind = used.partition_point(|&(start, _)| start < first);
        let before = behind.checked_sub(1).and_then(|index| used.get(index)).copied();
        let after = used.get(behind).copied();
        if before.is_some_and(|(_, stop)| stop > first) || after.is_some_and(|(start, _)| start < end) {
            let (gpa, bytes) = (range.start().as_u64(), range.bytes());
            return Err(IgvmError::Place { at, gpa, bytes, fault: PlaceFault::Overlap });
        }
        let merged = (
            before.filter(|(_, stop)| *stop == first).map_or(first, |(start, _)| start),
            after.filter(|(start, _)| *start == end).map_or(end, |(_, stop)| stop),
        );
        let (low, high) = (behind - usize::from(merged.0 != first), behind + usize::from(merged.1 != end));
        self.replace(low, high, merged).ok_or(IgvmError::TooManyRanges { at })?;
        self.pages = pages;
        Ok(())
    }

    /// Puts one range in the place of those from `low` to before `high`.
    fn replace(&mut self, low: usize, high: usize, merged: (u64, u64)) -> Option<()> {
        let used = (self.used + 1).checked_sub(high - low).filter(|used| *used <= MAX_RANGES)?;
        // One range less or one more: the rest moves by one, or stays.
        let rest = self.ranges.get_mut(low..self.used.max(used))?;
        match high - low {
            0 => rest.rotate_right(1),
            2 => rest.rotate_left(1),
            _ => (),
        }
        *rest.first_mut()? = merged;
        self.used = used;
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::vec::Vec;

    use super::*;
    use crate::testing::range;

    fn pages(first: u64, count: u64) -> FrameRange {
        range(first * 0x1000, count * 0x1000)
    }

    #[test]
    fn touching_ranges_become_one_and_overlaps_are_refused() {
        let mut places = Places::new();
        for (first, count) in [(10, 2), (20, 5), (12, 8), (0, 1), (25, 1), (9, 1)] {
            assert_eq!(places.add(0, pages(first, count)), Ok(()));
        }
        assert_eq!(places.ranges[..places.used], [(0, 1), (9, 26)]);
        for (first, count) in [(0, 1), (8, 2), (25, 9), (9, 17), (0, 100), (15, 1)] {
            let refused = places.add(7, pages(first, count));
            assert!(matches!(refused, Err(IgvmError::Place { at: 7, fault: PlaceFault::Overlap, .. })), "{first}");
        }
        assert_eq!((places.used, places.pages), (2, 18));
    }

    /// Every order of single pages, against a set that needs an allocator.
    #[test]
    fn agrees_with_a_set_of_pages() {
        let (mut places, mut set) = (Places::new(), BTreeSet::new());
        let mut state = 1_u32;
        for _ in 0..4000 {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let (first, count) = (u64::from(state >> 24), u64::from(state >> 22 & 3) + 1);
            let is_free = (first..first + count).all(|page| !set.contains(&page));
            assert_eq!(places.add(0, pages(first, count)).is_ok(), is_free, "{first}+{count}");
            if is_free {
                set.extend(first..first + count);
            }
        }
        let kept: Vec<u64> = places.ranges[..places.used].iter().flat_map(|&(start, end)| start..end).collect();
        assert!(set.into_iter().eq(kept));
    }

    #[test]
    fn more_ranges_or_pages_than_there_is_room_for_are_refused_and_change_nothing() {
        let mut places = Places::new();
        for index in 0..MAX_RANGES as u64 {
            assert_eq!(places.add(0, pages(2 * index, 1)), Ok(()));
        }
        assert_eq!(places.add(3, pages(1000, 1)), Err(IgvmError::TooManyRanges { at: 3 }));
        assert_eq!(places.used, MAX_RANGES);
        // One that joins two others needs no room.
        assert_eq!(places.add(3, pages(1, 1)), Ok(()));
        assert_eq!(places.add(3, pages(1000, 1)), Ok(()));
        assert_eq!(places.add(3, pages(1 << 24, MAX_PAGES)), Err(IgvmError::TooManyPages { at: 3 }));
    }
}
