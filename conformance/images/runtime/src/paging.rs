//! Page tables of 64-bit mode with the C-bit: entries, and a builder over tables that lie side by side.
//!
//! Nothing here touches a register: the tables are data until somebody loads [`Builder::root`].

use coco_part_api::PageSize;
use thiserror_no_std::Error;
use x86_64::{PhysAddr, VirtAddr};

/// Entries of a table.
const ENTRIES: usize = 512;
/// Bytes that a table of the lowest level maps, and each level above maps 512 times as many.
const REACH_OF_PAGES: u64 = 0x20_0000;

const PRESENT: u64 = 1 << 0;
const WRITABLE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
const LARGE: u64 = 1 << 7;
const NO_EXECUTE: u64 = 1 << 63;
/// Bits 51:12.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// The bit of a page-table entry that marks private memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CBit(u8);

impl CBit {
    /// The bit at a position. `None` for one that no processor has it at: it lies among the upper physical address bits.
    #[must_use]
    pub const fn new(position: u64) -> Option<Self> {
        // In range.
        if 32 <= position && position <= 51 { Some(Self(position as u8)) } else { None }
    }

    /// Bit number.
    #[must_use]
    pub const fn position(self) -> u8 {
        self.0
    }

    /// The bit itself.
    #[must_use]
    pub const fn mask(self) -> u64 {
        1 << self.0
    }
}

/// What a mapping allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rights {
    /// Read and execute.
    Code,
    /// Read.
    Constants,
    /// Read and write.
    Data,
    /// Everything, for a program that has yet to make tables of its own.
    All,
    /// Read and execute, at CPL 3 too.
    UserCode,
    /// Read and write, at CPL 3 too.
    UserData,
}

impl Rights {
    const fn bits(self) -> u64 {
        match self {
            Self::Code => 0,
            Self::Constants => NO_EXECUTE,
            Self::Data => NO_EXECUTE | WRITABLE,
            Self::All => WRITABLE,
            Self::UserCode => USER,
            Self::UserData => USER | NO_EXECUTE | WRITABLE,
        }
    }
}

/// To whom mapped memory belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    /// To this guest alone: C=1.
    Private,
    /// To the host as well: C=0.
    Shared,
}

/// A range of addresses and what is behind it.
#[derive(Clone, Copy, Debug)]
pub struct Mapping {
    /// First linear address.
    pub at: VirtAddr,
    /// Guest-physical address there, without the C-bit.
    pub to: PhysAddr,
    /// Length; like both addresses a multiple of the page size.
    pub len_bytes: u64,
    /// Size of the pages.
    pub size: PageSize,
    /// What it allows.
    pub rights: Rights,
    /// To whom the memory belongs.
    pub view: View,
}

/// One table of any level.
#[derive(Clone, Debug)]
#[repr(C, align(4096))]
pub struct Table([u64; ENTRIES]);

impl Table {
    /// A table without entries.
    pub const EMPTY: Self = Self([0; ENTRIES]);

    /// The bytes as they lie in memory.
    pub fn bytes(&self) -> impl Iterator<Item = [u8; 8]> {
        self.0.iter().map(|entry| entry.to_le_bytes())
    }
}

/// Why something could not be mapped. What was mapped before the error stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum MapError {
    /// An address or the length is not a multiple of the page size.
    #[error("mapping of {at:#x} is not aligned to its pages")]
    Unaligned {
        /// First linear address.
        at: VirtAddr,
    },
    /// Something is mapped there.
    #[error("{at:#x} is mapped already")]
    Occupied {
        /// Linear address.
        at: VirtAddr,
    },
    /// All tables are used.
    #[error("no table is left for {at:#x}")]
    Full {
        /// Linear address.
        at: VirtAddr,
    },
}

impl core::error::Error for MapError {}

/// Tables that map `len_bytes` from a multiple of 512 GiB on with large pages, without the root.
#[must_use]
pub const fn large_tables(len_bytes: u64) -> u64 {
    len_bytes.div_ceil(REACH_OF_PAGES << 9) + len_bytes.div_ceil(REACH_OF_PAGES << 18)
}

/// Builds page tables out of empty tables, of which the first becomes the root.
#[derive(Debug)]
pub struct Builder<'t> {
    tables: &'t mut [Table],
    first: PhysAddr,
    used: usize,
    c_bit: CBit,
}

impl<'t> Builder<'t> {
    /// `tables` are empty, and their memory begins at `first`.
    pub const fn new(tables: &'t mut [Table], first: PhysAddr, c_bit: CBit) -> Self {
        Self { tables, first, used: 1, c_bit }
    }

    /// The value for CR3.
    #[must_use]
    pub const fn root(&self) -> u64 {
        self.first.as_u64() | self.c_bit.mask()
    }

    /// Maps a range.
    ///
    /// # Errors
    /// [`MapError`].
    pub fn map(&mut self, mapping: &Mapping) -> Result<(), MapError> {
        let Mapping { at, to, len_bytes, size, rights, view } = *mapping;
        let page = size.bytes();
        let aligned = at.is_aligned(page) && to.is_aligned(page) && len_bytes.is_multiple_of(page);
        if !aligned {
            return Err(MapError::Unaligned { at });
        }
        let (levels, large) = match size {
            PageSize::Small => (4, 0),
            PageSize::Large => (3, LARGE),
        };
        let private = match view {
            View::Private => self.c_bit.mask(),
            View::Shared => 0,
        };
        for offset in (0..len_bytes).step_by(page as usize) {
            // The half of the address space does not end inside of a mapping that anybody asks for; if it did, the index wraps
            // onto an entry that is checked like any other.
            let at = VirtAddr::new_truncate(at.as_u64().wrapping_add(offset));
            let bits = PRESENT | ACCESSED | DIRTY | large | private | rights.bits();
            let entry = to.as_u64().wrapping_add(offset) & ADDRESS | bits;
            let place = self.place(at, levels).ok_or(MapError::Full { at })?;
            if *place != 0 {
                return Err(MapError::Occupied { at });
            }
            *place = entry;
        }
        Ok(())
    }

    /// The entry of an address at the last of so many levels; tables on the way are made.
    fn place(&mut self, at: VirtAddr, levels: u32) -> Option<&mut u64> {
        let mut table = 0;
        for level in 0..levels {
            // Nine bits, from 47 down.
            let index = (at.as_u64() >> (39 - 9 * level) & 0x1ff) as usize;
            if level + 1 == levels {
                return self.tables.get_mut(table)?.0.get_mut(index);
            }
            let entry = *self.tables.get(table)?.0.get(index)?;
            table = if entry & PRESENT == 0 {
                let new = self.used;
                self.tables.get(new)?;
                self.used += 1;
                let to = self.first.as_u64() + (new * size_of::<Table>()) as u64;
                // The last entry alone says what is allowed.
                let bits = PRESENT | WRITABLE | USER | ACCESSED | self.c_bit.mask();
                *self.tables.get_mut(table)?.0.get_mut(index)? = to | bits;
                new
            } else if entry & LARGE != 0 {
                return self.tables.get_mut(table)?.0.get_mut(index);
            } else {
                let to = (entry & ADDRESS & !self.c_bit.mask()).checked_sub(self.first.as_u64())?;
                to as usize / size_of::<Table>()
            };
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const C: CBit = CBit(51);
    const FIRST: u64 = 0x12_3000;

    fn builder(tables: &mut [Table]) -> Builder<'_> {
        Builder::new(tables, PhysAddr::new(FIRST), C)
    }

    fn mapping(at: u64, to: u64, len_bytes: u64, size: PageSize, rights: Rights, view: View) -> Mapping {
        Mapping { at: VirtAddr::new(at), to: PhysAddr::new(to), len_bytes, size, rights, view }
    }

    /// The last entry of a walk, as a processor walks: every table it comes to is private.
    fn walk(tables: &[Table], at: u64) -> Option<u64> {
        let mut table = 0;
        for level in 0..4 {
            let entry = tables[table].0[(at >> (39 - 9 * level) & 0x1ff) as usize];
            if entry & PRESENT == 0 {
                return None;
            }
            if level == 3 || entry & LARGE != 0 {
                return Some(entry);
            }
            assert_eq!(entry & C.mask(), C.mask(), "table entry {entry:#x}");
            table = ((entry & ADDRESS & !C.mask()) - FIRST) as usize / 4096;
        }
        None
    }

    #[test]
    fn a_walk_finds_what_was_mapped_and_nothing_beside_it() {
        let mut tables = vec![Table::EMPTY; 8];
        let mut builder = builder(&mut tables);
        assert_eq!(builder.root(), FIRST | 1 << 51);
        let code = mapping(0x10_0000, 0x10_0000, 0x2000, PageSize::Small, Rights::Code, View::Private);
        let window = mapping(1 << 39, 0, 0x40_0000, PageSize::Large, Rights::Data, View::Shared);
        builder.map(&code).unwrap();
        builder.map(&window).unwrap();
        assert_eq!(builder.used, 6);
        assert_eq!(walk(&tables, 0x10_1000), Some(0x10_1061 | 1 << 51));
        assert_eq!(walk(&tables, 0x10_2000), None);
        assert_eq!(walk(&tables, 0xf_f000), None);
        assert_eq!(walk(&tables, (1 << 39) + 0x20_0000), Some(0x20_00e3 | 1 << 63));
        assert_eq!(walk(&tables, (1 << 39) + 0x40_0000), None);
    }

    #[test]
    fn nothing_is_writable_and_executable_unless_it_has_to_be() {
        let all = [Rights::Code, Rights::Constants, Rights::Data, Rights::All];
        assert_eq!(all.map(Rights::bits), [0, 1 << 63, 1 << 63 | 2, 2]);
    }

    #[test]
    fn cpl_3_reaches_what_is_mapped_for_it() {
        assert_eq!([Rights::UserCode, Rights::UserData].map(Rights::bits), [4, 1 << 63 | 6]);
    }

    #[test]
    fn nothing_is_mapped_twice() {
        let mut tables = vec![Table::EMPTY; 8];
        let mut builder = builder(&mut tables);
        let small = |at| mapping(at, 0, 0x1000, PageSize::Small, Rights::Data, View::Private);
        let large = |at| mapping(at, 0, 0x20_0000, PageSize::Large, Rights::Data, View::Private);
        builder.map(&small(0x3000)).unwrap();
        builder.map(&large(0x20_0000)).unwrap();
        for again in [small(0x3000), large(0), small(0x20_1000)] {
            assert_eq!(builder.map(&again), Err(MapError::Occupied { at: again.at }));
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let mut tables = vec![Table::EMPTY; 3];
        let mut builder = builder(&mut tables);
        let large = |at, to, len| mapping(at, to, len, PageSize::Large, Rights::Data, View::Private);
        for (at, to, len) in [(0x1000, 0, 0x20_0000), (0, 0x1000, 0x20_0000), (0, 0, 0x1000)] {
            assert_eq!(builder.map(&large(at, to, len)), Err(MapError::Unaligned { at: VirtAddr::new(at) }));
        }
        let gib = 1 << 30;
        assert_eq!(builder.map(&large(0, 0, gib + 0x20_0000)), Err(MapError::Full { at: VirtAddr::new(gib) }));
    }

    #[test]
    fn so_many_tables_are_enough() {
        for len in [0x20_0000, 1 << 30, (1 << 30) + 0x20_0000, 5 << 30] {
            let count = large_tables(len) as usize + 1;
            let mut tables = vec![Table::EMPTY; count];
            let mut builder = builder(&mut tables);
            builder.map(&mapping(1 << 39, 0, len, PageSize::Large, Rights::Data, View::Private)).unwrap();
            assert_eq!(builder.used, count);
        }
    }

    #[test]
    fn the_encryption_bit_is_an_upper_address_bit() {
        assert_eq!([31, 52, u64::MAX].map(CBit::new), [None; 3]);
        assert_eq!(CBit::new(47).map(CBit::mask), Some(1 << 47));
    }
}
