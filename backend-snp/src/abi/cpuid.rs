//! The CPUID page: the processor's answers, checked by the firmware at launch.
//!
//! Source: 56860, `facts/cpuid_page.csv`. What a guest has to compute itself (sizes of the extended state, values that
//! depend on control registers or come from the host) is not done here.

use thiserror_no_std::Error;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::cpuid_leaves::CpuidLeaf;

/// Entries in the page.
pub const MAX_ENTRIES: usize = 64;

/// One answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct CpuidEntry {
    /// Leaf.
    pub eax_in: u32,
    /// Sub-leaf.
    pub ecx_in: u32,
    /// XCR0 the answer is for; leaf 0xd only.
    pub xcr0_in: u64,
    /// IA32_XSS the answer is for; leaf 0xd only.
    pub xss_in: u64,
    /// Answer in EAX.
    pub eax: u32,
    /// Answer in EBX.
    pub ebx: u32,
    /// Answer in ECX.
    pub ecx: u32,
    /// Answer in EDX.
    pub edx: u32,
    _reserved_0x28: u64,
}

layout! { CpuidEntry: 0x30 {
    eax_in @ 0x00,
    ecx_in @ 0x04,
    xcr0_in @ 0x08,
    xss_in @ 0x10,
    eax @ 0x18,
    ebx @ 0x1c,
    ecx @ 0x20,
    edx @ 0x24,
    _reserved_0x28 @ 0x28,
} }

/// The CPUID page, 4096 bytes.
#[derive(Clone, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct CpuidPage {
    /// Number of entries that count, at most [`MAX_ENTRIES`].
    pub count: u32,
    _reserved_0x004: u32,
    _reserved_0x008: u64,
    /// The entries.
    pub entries: [CpuidEntry; MAX_ENTRIES],
    _reserved_0xc10: [u8; 1008],
}

layout! { CpuidPage: 0x1000 {
    count @ 0x000,
    _reserved_0x004 @ 0x004,
    _reserved_0x008 @ 0x008,
    entries @ 0x010,
    _reserved_0xc10 @ 0xc10,
} }

impl CpuidPage {
    /// Returns the entries that count, ready for look-ups.
    ///
    /// # Errors
    /// [`TooManyEntries`] if the count is above [`MAX_ENTRIES`].
    pub fn table(&self) -> Result<CpuidTable<'_>, TooManyEntries> {
        let entries = usize::try_from(self.count).ok().and_then(|count| self.entries.get(..count));
        entries.map(|entries| CpuidTable { entries }).ok_or(TooManyEntries { count: self.count })
    }
}

/// A CPUID page that counts more entries than it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("CPUID page counts {count:#x} entries")]
pub struct TooManyEntries {
    /// The count as it came.
    pub count: u32,
}

impl core::error::Error for TooManyEntries {}

/// The entries of a page with a checked count.
#[derive(Clone, Copy, Debug)]
pub struct CpuidTable<'a> {
    entries: &'a [CpuidEntry],
}

/// What the page says about a leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CpuidAnswer {
    /// There is an entry.
    Entry(CpuidEntry),
    /// The leaf is in a range of the processor but not in the page: all registers are zero.
    Zero,
    /// The leaf is in no range: the page does not know.
    OutOfRange,
}

impl CpuidTable<'_> {
    /// Looks a leaf up.
    ///
    /// The sub-leaf counts only for leaves that have sub-leaves. For leaf 0xd, sub-leaves 0 and 1, the entry for the
    /// basic state is taken (XCR0 1 or 3, XSS 0), whose EBX is not the caller's size.
    pub fn lookup(&self, leaf: u32, sub_leaf: u32) -> CpuidAnswer {
        let found = self.entries.iter().find(|entry| {
            entry.eax_in == leaf
                && (!HAS_SUB_LEAVES.contains(&leaf) || entry.ecx_in == sub_leaf)
                && (leaf != EXTENDED_STATE || sub_leaf > 1 || (matches!(entry.xcr0_in, 1 | 3) && entry.xss_in == 0))
        });
        match found {
            Some(entry) => CpuidAnswer::Entry(*entry),
            None if self.is_in_range(leaf) => CpuidAnswer::Zero,
            None => CpuidAnswer::OutOfRange,
        }
    }

    /// Says whether `leaf` is between the first leaf of its range and the last one, as that first leaf tells.
    fn is_in_range(&self, leaf: u32) -> bool {
        RANGES
            .iter()
            .any(|&first| self.entries.iter().any(|entry| entry.eax_in == first && (first..=entry.eax).contains(&leaf)))
    }
}

/// Leaf about the extended state.
const EXTENDED_STATE: u32 = CpuidLeaf::EXTENDED_STATE.0;

/// Leaves that have sub-leaves.
const HAS_SUB_LEAVES: [u32; 11] = [4, 7, 0xb, EXTENDED_STATE, 0xf, 0x10, 0x12, 0x14, 0x18, 0x1f, 0x8000_001d];

/// First leaves of the standard, hypervisor and extended ranges.
const RANGES: [u32; 3] = [0, 0x4000_0000, 0x8000_0000];

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(leaf: u32, sub_leaf: u32, xcr0: u64, eax: u32) -> CpuidEntry {
        CpuidEntry { eax_in: leaf, ecx_in: sub_leaf, xcr0_in: xcr0, eax, ..CpuidEntry::default() }
    }

    fn page(entries: &[CpuidEntry]) -> CpuidPage {
        let mut page = CpuidPage::read_from_bytes(&[0; 0x1000]).unwrap();
        page.count = entries.len() as u32;
        page.entries[..entries.len()].copy_from_slice(entries);
        page
    }

    #[test]
    fn refuses_a_count_above_the_page() {
        let mut page = page(&[]);
        page.count = 64;
        assert!(page.table().is_ok());
        for count in [65, u32::MAX] {
            page.count = count;
            assert_eq!(page.table().err(), Some(TooManyEntries { count }));
        }
    }

    #[test]
    fn the_sub_leaf_counts_only_where_there_are_sub_leaves() {
        let (plain, first) = (entry(1, 0, 0, 11), entry(7, 1, 0, 71));
        let page = page(&[entry(0, 0, 0, 0x10), plain, first]);
        let table = page.table().unwrap();
        assert_eq!(table.lookup(1, 5), CpuidAnswer::Entry(plain));
        assert_eq!(table.lookup(7, 1), CpuidAnswer::Entry(first));
        assert_eq!(table.lookup(7, 0), CpuidAnswer::Zero);
    }

    #[test]
    fn extended_state_is_answered_for_the_basic_state() {
        let (other, basic) = (entry(0xd, 0, 7, 1), entry(0xd, 0, 1, 2));
        let page = page(&[entry(0, 0, 0, 0x10), other, basic, entry(0xd, 2, 0, 3)]);
        let table = page.table().unwrap();
        assert_eq!(table.lookup(0xd, 0), CpuidAnswer::Entry(basic));
        assert_eq!(table.lookup(0xd, 1), CpuidAnswer::Zero);
        assert!(matches!(table.lookup(0xd, 2), CpuidAnswer::Entry(CpuidEntry { eax: 3, .. })));
    }

    #[test]
    fn a_missing_leaf_is_zero_inside_a_range_and_unknown_outside() {
        let page = page(&[entry(0, 0, 0, 0x10), entry(0x8000_0000, 0, 0, 0x8000_0028)]);
        let table = page.table().unwrap();
        assert_eq!(table.lookup(0x10, 0), CpuidAnswer::Zero);
        assert_eq!(table.lookup(0x11, 0), CpuidAnswer::OutOfRange);
        assert_eq!(table.lookup(0x4000_0001, 0), CpuidAnswer::OutOfRange);
        assert_eq!(table.lookup(0x8000_0028, 0), CpuidAnswer::Zero);
    }

    #[test]
    fn an_entry_beyond_the_count_is_not_used() {
        let mut page = page(&[entry(0, 0, 0, 0x10), entry(1, 0, 0, 11)]);
        page.count = 1;
        assert_eq!(page.table().unwrap().lookup(1, 0), CpuidAnswer::Zero);
    }
}
