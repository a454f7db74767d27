//! The lists of PVALIDATE, DEPOSIT_MEM and WITHDRAW_MEM (fact table `svsm_protocol`, "PVALIDATE list" and the others).
//!
//! An 8-byte header and 8-byte entries, at an 8-byte aligned address, all within one 4 KiB page. The list lies in memory
//! that the caller's other vCPUs may change at any time: header and entries are copied once and decoded from the copy.

use x86_64::PhysAddr;
use x86_64::structures::paging::PhysFrame;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::CallResult;
use crate::error::{Error, ErrorKind};
use crate::memory::{GuestMemory, offset};
use crate::range::{Block, FrameRange, PageSize, SMALL};

/// Bytes of the header, and of each entry.
pub const WORD: u64 = 8;

/// Most entries a list can have: one that begins its page.
pub const MOST: usize = (SMALL / WORD - 1) as usize;

/// Head of a list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct ListHeader {
    /// How many entries there are, at least 1.
    pub entries: u16,
    /// Index of the next entry to process, below `entries`; L1 writes it back.
    pub next: u16,
    /// Zero.
    pub reserved: u32,
}

const _: () = assert!(core::mem::offset_of!(ListHeader, next) == 2);
const _: () = assert!(core::mem::offset_of!(ListHeader, reserved) == 4);
const _: () = assert!(size_of::<ListHeader>() == 8);

/// Offset of the cursor in the header.
pub const NEXT: u64 = 2;

/// Bit of an entry: validate.
const ACTION: u64 = 1 << 2;
/// Bit of an entry: "no change" is no error.
const IGNORE_CF: u64 = 1 << 3;

/// What an entry asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Give the page up.
    Rescind,
    /// Make it private and zero.
    Validate,
}

/// One decoded entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The page.
    pub block: Block,
    /// What to do.
    pub action: Action,
    /// "No change" is no error.
    pub ignore_cf: bool,
}

impl Entry {
    /// Decodes an entry's quadword.
    ///
    /// # Errors
    /// `InvalidArgument` for a reserved size or a reserved bit, `Misaligned` for a 2 MiB page that is not, `OutOfRange`
    /// for a frame beyond 2^52.
    #[inline(always)]
    pub fn decode(word: u64) -> Result<Self, ErrorKind> {
        Ok(Self {
            block: page(word, ACTION | IGNORE_CF)?,
            action: if word & ACTION == 0 { Action::Rescind } else { Action::Validate },
            ignore_cf: word & IGNORE_CF != 0,
        })
    }

    /// The frames to validate.
    ///
    /// # Errors
    /// `Unsupported` for an entry that asks to rescind.
    pub fn to_validate(&self) -> Result<FrameRange, ErrorKind> {
        match self.action {
            Action::Validate => Ok(self.block.range()),
            Action::Rescind => Err(ErrorKind::Unsupported),
        }
    }

    /// The quadword of an entry.
    pub fn encode(&self) -> u64 {
        let action = match self.action {
            Action::Rescind => 0,
            Action::Validate => ACTION,
        };
        let ignore_cf = if self.ignore_cf { IGNORE_CF } else { 0 };
        encode_page(self.block) | action | ignore_cf
    }
}

/// The page that an entry of DEPOSIT_MEM names.
///
/// # Errors
/// As [`Entry::decode`]; it has no action and no flag, so those bits are reserved.
pub fn decode_page(word: u64) -> Result<Block, ErrorKind> {
    page(word, 0)
}

/// The quadword of an entry that names a page and nothing else.
pub fn encode_page(block: Block) -> u64 {
    let size = match block.size() {
        PageSize::Small => 0,
        PageSize::Large => 1,
    };
    block.start().as_u64() | size
}

/// Page size and frame of an entry whose other bits may be those of `flags`.
#[inline(always)]
fn page(word: u64, flags: u64) -> Result<Block, ErrorKind> {
    let size = match word & 3 {
        0 => PageSize::Small,
        1 => PageSize::Large,
        _ => return Err(ErrorKind::InvalidArgument),
    };
    if word & 0xffc & !flags != 0 {
        return Err(ErrorKind::InvalidArgument);
    }
    let start = PhysAddr::try_new(word & !0xfff).map_err(|_| ErrorKind::OutOfRange)?;
    Ok(Block::new(start, size)?)
}

/// Head of the list that L1 writes for WITHDRAW_MEM. Addresses of 4 KiB pages follow, 8 bytes each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct WithdrawnHeader {
    /// How many addresses follow; 0 when L1 has nothing to give back.
    pub entries: u16,
    /// Zero.
    pub unused: [u8; 6],
}

const _: () = assert!(core::mem::offset_of!(WithdrawnHeader, unused) == 2);
const _: () = assert!(size_of::<WithdrawnHeader>() as u64 == WORD);

/// Where a list is, checked for alignment only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListPlace(PhysAddr);

impl ListPlace {
    /// A list at an address from a register.
    ///
    /// # Errors
    /// `OutOfRange` beyond 2^52, `Misaligned` when not a multiple of 8.
    #[inline]
    pub fn new(address: u64) -> Result<Self, ErrorKind> {
        let at = PhysAddr::try_new(address).map_err(|_| ErrorKind::OutOfRange)?;
        if !at.is_aligned(WORD) {
            return Err(ErrorKind::Misaligned);
        }
        Ok(Self(at))
    }

    /// Address of the header.
    #[inline]
    pub const fn header(self) -> PhysAddr {
        self.0
    }

    /// Address of the cursor.
    #[inline]
    pub fn cursor(self) -> Option<PhysAddr> {
        offset(self.0, NEXT)
    }

    /// Address of an entry.
    #[inline]
    pub fn entry(self, index: u16) -> Option<PhysAddr> {
        offset(self.0, WORD * (1 + u64::from(index)))
    }

    /// How many entries fit between the header and the end of its page.
    #[inline]
    pub fn room(self) -> u64 {
        (SMALL - self.0.as_u64() % SMALL) / WORD - 1
    }

    /// A list at an address from a register that must lie in `home`.
    ///
    /// # Errors
    /// As [`new`](Self::new), and `OutOfRange` outside `home`.
    pub fn inside(address: u64, home: FrameRange) -> Result<Self, ErrorKind> {
        let place = Self::new(address)?;
        if home.contains(place.page()) { Ok(place) } else { Err(ErrorKind::OutOfRange) }
    }

    /// The page that holds the list.
    #[inline]
    pub fn page(self) -> FrameRange {
        FrameRange::of(PhysFrame::containing_address(self.0))
    }

    /// Copies the header and the entry at its cursor, each once, and checks the copies.
    ///
    /// # Errors
    /// As [`check`](Self::check) and [`Entry::decode`]; the memory's own kind for a fault.
    pub fn next_entry(self, memory: &impl GuestMemory) -> Result<(ListHeader, Entry), ErrorKind> {
        let header: ListHeader = memory.read_value(self.0).map_err(|fault| fault.kind())?;
        self.check(&header)?;
        let at = self.entry(header.next).ok_or(ErrorKind::OutOfRange)?;
        Ok((header, Entry::decode(memory.read_value(at).map_err(|fault| fault.kind())?)?))
    }

    /// Writes the cursor one entry further and says whether the list is done: `SUCCESS` or `INCOMPLETE`.
    ///
    /// # Errors
    /// The memory's own kind for a fault.
    pub fn advance(self, memory: &impl GuestMemory, header: ListHeader) -> Result<CallResult, ErrorKind> {
        let next = header.next.saturating_add(1);
        let at = self.cursor().ok_or(ErrorKind::OutOfRange)?;
        memory.write_value(at, &next).map_err(|fault| fault.kind())?;
        Ok(if next < header.entries { CallResult::INCOMPLETE } else { CallResult::SUCCESS })
    }

    /// Checks a header against the place it was read from.
    ///
    /// # Errors
    /// `InvalidArgument`: no entries, a cursor not below them, reserved bytes that are not zero, or entries beyond the page.
    #[inline]
    pub fn check(self, header: &ListHeader) -> Result<(), ErrorKind> {
        // So there is at least one entry.
        let fits = header.next < header.entries && u64::from(header.entries) <= self.room() && header.reserved == 0;
        if fits { Ok(()) } else { Err(ErrorKind::InvalidArgument) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_reserved_sizes_bits_and_alignments() {
        assert_eq!(Entry::decode(0x20_0002), Err(ErrorKind::InvalidArgument));
        assert_eq!(Entry::decode(0x20_0003), Err(ErrorKind::InvalidArgument));
        for bit in 4..12 {
            assert_eq!(Entry::decode(0x20_0000 | 1 << bit), Err(ErrorKind::InvalidArgument));
        }
        assert_eq!(Entry::decode(0x1001), Err(ErrorKind::Misaligned));
        assert_eq!(Entry::decode(1 << 52), Err(ErrorKind::OutOfRange));
    }

    #[test]
    fn every_entry_survives_the_round_trip() {
        for low in [0, 1, 4, 5, 8, 9, 12, 13] {
            let word = 0x7f_ffe0_0000 | low;
            assert_eq!(Entry::decode(word).map(|entry| entry.encode()), Ok(word));
        }
    }

    #[test]
    fn an_entry_of_a_deposit_has_no_flags() {
        for low in [0, 1] {
            let word = 0x7f_ffe0_0000 | low;
            assert_eq!(decode_page(word).map(encode_page), Ok(word));
        }
        for bit in 1..12 {
            assert_eq!(decode_page(0x20_0000 | 1 << bit), Err(ErrorKind::InvalidArgument));
        }
        assert_eq!(decode_page(0x1001), Err(ErrorKind::Misaligned));
        assert_eq!(decode_page(1 << 52), Err(ErrorKind::OutOfRange));
    }

    #[test]
    fn a_list_ends_with_its_page() {
        assert_eq!(ListPlace::new(0x1000).unwrap().room() as usize, MOST);
        assert_eq!(ListPlace::new(0x1008).unwrap().room(), 510);
        let last = ListPlace::new(0x1ff8).unwrap();
        assert_eq!(last.room(), 0);
        assert_eq!(last.check(&ListHeader { entries: 1, next: 0, reserved: 0 }), Err(ErrorKind::InvalidArgument));
        assert_eq!(ListPlace::new(0x1004), Err(ErrorKind::Misaligned));
    }

    #[test]
    fn refuses_headers_that_count_wrong() {
        let place = ListPlace::new(0x1008).unwrap();
        let header = |entries, next, reserved| ListHeader { entries, next, reserved };
        assert!(place.check(&header(510, 509, 0)).is_ok());
        for bad in [header(0, 0, 0), header(3, 3, 0), header(511, 0, 0), header(0xffff, 0, 0), header(1, 0, 1)] {
            assert_eq!(place.check(&bad), Err(ErrorKind::InvalidArgument));
        }
    }
}
