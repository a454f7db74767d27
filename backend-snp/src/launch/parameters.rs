//! What the host left in the monitor's own parameter areas.
//!
//! The pages are private to the guest since the launch, but nobody measured them: a host may have written anything. Read
//! them from a private copy, once. Layouts are those of `igvm_defs`; what they leave open is refused here: a list without
//! an end, ranges out of order, unknown types and reserved bits.

use core::ffi::CStr;

use coco_part_api::FrameRange;
use igvm_defs::{IGVM_VHS_MEMORY_MAP_ENTRY, IGVM_VHS_MMIO_RANGES, IgvmEnvironmentInfo, MemoryMapEntryType};
use x86_64::PhysAddr;
use zerocopy::{FromBytes, Immutable, KnownLayout};

/// Bits by which a page number becomes an address.
const PAGE_BITS: u32 = 12;

/// Why a parameter is of no use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror_no_std::Error)]
pub enum ParameterError {
    /// The area ends before the parameter does.
    #[error("the parameter does not end inside its area")]
    Truncated,
    /// A reserved field or an unknown flag is not zero.
    #[error("reserved bits are set in entry {index}")]
    Reserved {
        /// Number of the entry, from 0.
        index: usize,
    },
    /// A kind of memory that is not known.
    #[error("entry {index} is memory of unknown type {found:#x}")]
    MemoryType {
        /// Number of the entry, from 0.
        index: usize,
        /// The type.
        found: u16,
    },
    /// A range wraps or leaves the address space.
    #[error("entry {index}: {pages:#x} pages from page {first:#x} on leave the address space")]
    Wraps {
        /// Number of the entry, from 0.
        index: usize,
        /// Its first page.
        first: u64,
        /// Its pages.
        pages: u64,
    },
    /// An entry begins before the one before it ends.
    #[error("entry {index} begins before the end of the one before it")]
    Order {
        /// Number of the entry, from 0.
        index: usize,
    },
    /// More ranges of RAM than there is room for.
    #[error("more than {room} ranges of RAM")]
    TooManyRanges {
        /// Ranges that there is room for.
        room: usize,
    },
    /// A number of vCPUs that cannot be.
    #[error("{found} vCPUs, at least 1 and at most {most}")]
    VpCount {
        /// What the host says.
        found: u32,
        /// Most that the monitor serves.
        most: u32,
    },
    /// A text that is not ASCII.
    #[error("the command line is not ASCII")]
    NotAscii,
}

impl core::error::Error for ParameterError {}

/// What kind of memory a range is, as the host claims.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MemoryType {
    /// RAM.
    Ram,
    /// Reserved by the platform.
    Reserved,
    /// Persistent memory.
    Persistent,
    /// RAM from which a higher VTL can keep lower ones away.
    Vtl2Protectable,
    /// Memory for a special purpose.
    SpecificPurpose,
    /// Memory that is listed here alone.
    Hidden,
}

impl MemoryType {
    fn of(index: usize, found: MemoryMapEntryType) -> Result<Self, ParameterError> {
        Ok(match found {
            MemoryMapEntryType::MEMORY => Self::Ram,
            MemoryMapEntryType::PLATFORM_RESERVED => Self::Reserved,
            MemoryMapEntryType::PERSISTENT => Self::Persistent,
            MemoryMapEntryType::VTL2_PROTECTABLE => Self::Vtl2Protectable,
            MemoryMapEntryType::SPECIFIC_PURPOSE => Self::SpecificPurpose,
            MemoryMapEntryType::HIDDEN => Self::Hidden,
            found => return Err(ParameterError::MemoryType { index, found: found.0 }),
        })
    }
}

/// One entry of a memory map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryRange {
    /// Where it is.
    pub range: FrameRange,
    /// What it is.
    pub memory_type: MemoryType,
}

/// The entries of a memory map, up to the one without pages that ends it. `area` begins with the map.
///
/// An error ends the list. Entries before it may have been given out: collect before anything is done.
pub const fn memory_map(area: &[u8]) -> MemoryRanges<'_> {
    MemoryRanges { rest: area, index: 0, end: 0, is_over: false }
}

/// Entries of a memory map. Made by [`memory_map`].
#[derive(Clone, Debug)]
pub struct MemoryRanges<'a> {
    rest: &'a [u8],
    index: usize,
    /// First frame behind the last entry.
    end: u64,
    is_over: bool,
}

impl MemoryRanges<'_> {
    fn entry(&mut self) -> Result<Option<MemoryRange>, ParameterError> {
        let (entry, rest) =
            IGVM_VHS_MEMORY_MAP_ENTRY::read_from_prefix(self.rest).map_err(|_| ParameterError::Truncated)?;
        if entry.number_of_pages == 0 {
            return Ok(None);
        }
        let index = self.index;
        if entry.flags != 0 || entry.reserved != 0 {
            return Err(ParameterError::Reserved { index });
        }
        let memory_type = MemoryType::of(index, entry.entry_type)?;
        let (first, pages) = (entry.starting_gpa_page_number, entry.number_of_pages);
        let range = page_range(first, pages).ok_or(ParameterError::Wraps { index, first, pages })?;
        if range.first_number() < self.end {
            return Err(ParameterError::Order { index });
        }
        // The end of a range is below 2^41.
        self.end = range.first_number() + range.frames();
        self.rest = rest;
        self.index += 1;
        Ok(Some(MemoryRange { range, memory_type }))
    }
}

impl Iterator for MemoryRanges<'_> {
    type Item = Result<MemoryRange, ParameterError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.is_over {
            return None;
        }
        let entry = self.entry().transpose();
        self.is_over = !matches!(entry, Some(Ok(_)));
        entry
    }
}

fn page_range(first: u64, pages: u64) -> Option<FrameRange> {
    let shifted = |pages: u64| pages.checked_shl(PAGE_BITS).filter(|bytes| bytes >> PAGE_BITS == pages);
    FrameRange::new(PhysAddr::try_new(shifted(first)?).ok()?, shifted(pages)?).ok()
}

/// The RAM of a memory map without the ranges `own`, which are the monitor's or no guest's: what the ledger may give away.
/// Ranges that touch become one. `room` holds them; what is returned is the part of it that is used.
///
/// `own` need not be in order and may overlap.
///
/// # Errors
/// [`ParameterError`]; nothing of the map may be used then.
pub fn guest_ram<'r>(
    area: &[u8],
    own: &[FrameRange],
    room: &'r mut [FrameRange],
) -> Result<&'r [FrameRange], ParameterError> {
    let mut used = 0;
    for entry in memory_map(area) {
        let MemoryRange { range, memory_type } = entry?;
        let mut rest = Some(range).filter(|_| memory_type == MemoryType::Ram);
        while let Some(part) = rest {
            let first_own = own.iter().filter(|own| own.overlaps(part)).min_by_key(|own| own.first_number());
            let free = match first_own {
                None => core::mem::take(&mut rest),
                Some(own) => {
                    rest = part.skip(own.first_number() + own.frames() - part.first_number());
                    part.take(own.first_number().saturating_sub(part.first_number()))
                }
            };
            let Some(free) = free else { continue };
            used = push(room, used, free)?;
        }
    }
    Ok(room.get(..used).unwrap_or_default())
}

/// Puts a range behind those that are there, or makes the last one longer.
fn push(room: &mut [FrameRange], used: usize, new: FrameRange) -> Result<usize, ParameterError> {
    let full = ParameterError::TooManyRanges { room: room.len() };
    if let Some(last) = used.checked_sub(1).and_then(|last| room.get_mut(last))
        && last.first_number() + last.frames() == new.first_number()
        && let Ok(both) = FrameRange::new(last.start(), last.bytes() + new.bytes())
    {
        *last = both;
        return Ok(used);
    }
    *room.get_mut(used).ok_or(full)? = new;
    Ok(used + 1)
}

/// The number of vCPUs, which has to be from 1 to `most`. `area` begins with it.
///
/// # Errors
/// [`ParameterError::Truncated`], [`ParameterError::VpCount`].
pub fn vp_count(area: &[u8], most: u32) -> Result<u32, ParameterError> {
    let found = value::<u32>(area)?;
    if (1..=most).contains(&found) { Ok(found) } else { Err(ParameterError::VpCount { found, most }) }
}

/// The ranges of MMIO, as many as have pages.
///
/// # Errors
/// [`ParameterError::Truncated`], [`ParameterError::Wraps`], and [`ParameterError::Order`] for two ranges that overlap.
pub fn mmio_ranges(area: &[u8]) -> Result<[Option<FrameRange>; 2], ParameterError> {
    let mut ranges = [None; 2];
    let found = value::<IGVM_VHS_MMIO_RANGES>(area)?.mmio_ranges;
    for (index, (slot, found)) in ranges.iter_mut().zip(found).enumerate() {
        let (first, pages) = (found.starting_gpa_page_number, found.number_of_pages);
        if pages > 0 {
            *slot = Some(page_range(first, pages).ok_or(ParameterError::Wraps { index, first, pages })?);
        }
    }
    match ranges {
        [Some(one), Some(other)] if one.overlaps(other) => Err(ParameterError::Order { index: 1 }),
        ranges => Ok(ranges),
    }
}

/// Whether memory is shared with the host until the guest makes it its own.
///
/// # Errors
/// [`ParameterError::Truncated`], [`ParameterError::Reserved`].
pub fn memory_is_shared(area: &[u8]) -> Result<bool, ParameterError> {
    let found = value::<IgvmEnvironmentInfo>(area)?;
    if found.reserved() != 0 { Err(ParameterError::Reserved { index: 0 }) } else { Ok(found.memory_is_shared()) }
}

/// The command line without the zero that ends it.
///
/// # Errors
/// [`ParameterError::Truncated`] without such a zero, [`ParameterError::NotAscii`].
pub fn command_line(area: &[u8]) -> Result<&str, ParameterError> {
    let text = CStr::from_bytes_until_nul(area).map_err(|_| ParameterError::Truncated)?;
    text.to_str().ok().filter(|text| text.is_ascii()).ok_or(ParameterError::NotAscii)
}

fn value<T: FromBytes + KnownLayout + Immutable>(area: &[u8]) -> Result<T, ParameterError> {
    T::read_from_prefix(area).map(|(value, _)| value).map_err(|_| ParameterError::Truncated)
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use super::*;
    use crate::testing::range;

    /// First page, pages, type, flags, reserved.
    type Entry = (u64, u64, u16, u16, u32);

    const END: Entry = (0, 0, 0, 0, 0);

    fn map(entries: &[Entry]) -> Vec<u8> {
        let mut area = Vec::new();
        for (first, pages, memory_type, flags, reserved) in entries {
            area.extend_from_slice(&first.to_le_bytes());
            area.extend_from_slice(&pages.to_le_bytes());
            area.extend_from_slice(&memory_type.to_le_bytes());
            area.extend_from_slice(&flags.to_le_bytes());
            area.extend_from_slice(&reserved.to_le_bytes());
        }
        area
    }

    fn pages(first: u64, count: u64) -> FrameRange {
        range(first << 12, count << 12)
    }

    #[test]
    fn a_memory_map_ends_with_an_entry_without_pages() {
        let area = map(&[(0, 0xa0, 0, 0, 0), (0xa0, 0x60, 1, 0, 0), (0x100, 0x100, 0, 0, 0), END, (7, 7, 7, 7, 7)]);
        let found: Result<Vec<_>, _> = memory_map(&area).collect();
        let entry = |first, count, memory_type| MemoryRange { range: pages(first, count), memory_type };
        let want = [
            entry(0, 0xa0, MemoryType::Ram),
            entry(0xa0, 0x60, MemoryType::Reserved),
            entry(0x100, 0x100, MemoryType::Ram),
        ];
        assert_eq!(found.unwrap(), want);
    }

    #[test]
    fn a_bad_memory_map_is_a_named_error() {
        let wraps = |first, pages| ParameterError::Wraps { index: 1, first, pages };
        let rows: &[(Entry, ParameterError)] = &[
            ((10, 1, 6, 0, 0), ParameterError::MemoryType { index: 1, found: 6 }),
            ((10, 1, u16::MAX, 0, 0), ParameterError::MemoryType { index: 1, found: u16::MAX }),
            ((10, 1, 0, 1, 0), ParameterError::Reserved { index: 1 }),
            ((10, 1, 0, 0, 1 << 31), ParameterError::Reserved { index: 1 }),
            ((1 << 40, 1, 0, 0, 0), wraps(1 << 40, 1)),
            ((u64::MAX, 1, 0, 0, 0), wraps(u64::MAX, 1)),
            ((10, u64::MAX, 0, 0, 0), wraps(10, u64::MAX)),
            ((1 << 52, 1, 0, 0, 0), wraps(1 << 52, 1)),
            ((10, 1 << 52, 0, 0, 0), wraps(10, 1 << 52)),
            ((10, (1 << 40) - 9, 0, 0, 0), wraps(10, (1 << 40) - 9)),
            ((4, 1, 0, 0, 0), ParameterError::Order { index: 1 }),
            ((0, 1, 1, 0, 0), ParameterError::Order { index: 1 }),
        ];
        let mut room = [pages(0, 1); 4];
        for (entry, want) in rows {
            let area = map(&[(0, 5, 0, 0, 0), *entry, END]);
            assert_eq!(memory_map(&area).last(), Some(Err(*want)), "{entry:x?}");
            assert_eq!(guest_ram(&area, &[], &mut room), Err(*want), "{entry:x?}");
        }
        let area = map(&[(0, 5, 0, 0, 0), (10, 5, 0, 0, 0), END]);
        for len in 0..area.len() {
            assert_eq!(memory_map(&area[..len]).last(), Some(Err(ParameterError::Truncated)), "{len}");
        }
        assert!(memory_map(&area).all(|entry| entry.is_ok()));
    }

    #[test]
    fn ranges_of_the_monitor_are_taken_out_of_guest_ram_wherever_they_lie() {
        let area =
            map(&[(0, 0x100, 0, 0, 0), (0x100, 0x100, 0, 0, 0), (0x200, 0x10, 1, 0, 0), (0x210, 1, 0, 0, 0), END]);
        let mut room = [pages(0, 1); 4];
        let rows: &[(&[FrameRange], &[FrameRange])] = &[
            (&[], &[pages(0, 0x200), pages(0x210, 1)]),
            (&[pages(0, 0x10)], &[pages(0x10, 0x1f0), pages(0x210, 1)]),
            (&[pages(0x80, 0x100)], &[pages(0, 0x80), pages(0x180, 0x80), pages(0x210, 1)]),
            // Not in order, one inside the other, one beyond all RAM.
            (
                &[pages(0x1f0, 0x30), pages(0x10, 0x20), pages(0x18, 4), pages(0x999, 1)],
                &[pages(0, 0x10), pages(0x30, 0x1c0)],
            ),
            (&[pages(0, 0x1000)], &[]),
        ];
        for (own, want) in rows {
            assert_eq!(guest_ram(&area, own, &mut room), Ok(*want), "{own:?}");
        }
        let mut small = [pages(0, 1); 2];
        let full = guest_ram(&area, &[pages(0x80, 0x100)], &mut small);
        assert_eq!(full, Err(ParameterError::TooManyRanges { room: 2 }));
    }

    #[test]
    fn single_values_are_bounded() {
        assert_eq!(vp_count(&[4, 0, 0, 0, 9], 8), Ok(4));
        for (area, found) in [([0, 0, 0, 0], 0), ([9, 0, 0, 0], 9), ([0xff; 4], u32::MAX)] {
            assert_eq!(vp_count(&area, 8), Err(ParameterError::VpCount { found, most: 8 }));
        }
        assert_eq!(vp_count(&[1, 0, 0], 8), Err(ParameterError::Truncated));

        assert_eq!(memory_is_shared(&[1, 0, 0, 0]), Ok(true));
        assert_eq!(memory_is_shared(&[0, 0, 0, 0]), Ok(false));
        assert_eq!(memory_is_shared(&[3, 0, 0, 0]), Err(ParameterError::Reserved { index: 0 }));
        assert_eq!(memory_is_shared(&[]), Err(ParameterError::Truncated));

        assert_eq!(command_line(b"quiet\0more"), Ok("quiet"));
        assert_eq!(command_line(b"quiet"), Err(ParameterError::Truncated));
        assert_eq!(command_line(b"qu\xffet\0"), Err(ParameterError::NotAscii));
        assert_eq!(command_line("quä\0".as_bytes()), Err(ParameterError::NotAscii));
    }

    #[test]
    fn mmio_ranges_are_two_at_most_and_apart() {
        let area = |words: [u64; 4]| words.map(u64::to_le_bytes).concat();
        assert_eq!(mmio_ranges(&area([0x100, 2, 0x200, 3])), Ok([Some(pages(0x100, 2)), Some(pages(0x200, 3))]));
        assert_eq!(mmio_ranges(&area([0x100, 2, 9, 0])), Ok([Some(pages(0x100, 2)), None]));
        assert_eq!(mmio_ranges(&area([0x100, 2, 0x101, 1])), Err(ParameterError::Order { index: 1 }));
        let wraps = ParameterError::Wraps { index: 0, first: u64::MAX, pages: 2 };
        assert_eq!(mmio_ranges(&area([u64::MAX, 2, 0, 0])), Err(wraps));
        assert_eq!(mmio_ranges(&area([0; 4])[..31]), Err(ParameterError::Truncated));
    }
}
