//! The page state change descriptor, in the shared buffer of the GHCB.
//!
//! Source: 56421 version 2, `facts/psc.csv`.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::page::{Page, PageSize};

/// Entries that fit into the shared buffer.
pub const MAX_ENTRIES: usize = 253;

/// Head of the descriptor. The host advances `cur_entry`; a value that goes back, or a change elsewhere, is the host's
/// fault.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct PscHeader {
    /// Index of the entry to process next.
    pub cur_entry: u16,
    /// Index of the last entry.
    pub end_entry: u16,
    _reserved_0x4: u32,
}

layout! { PscHeader: 0x8 {
    cur_entry @ 0x0,
    end_entry @ 0x2,
    _reserved_0x4 @ 0x4,
} }

impl PscHeader {
    /// Makes a head that starts at entry 0 and ends with `end_entry`, inclusive.
    pub const fn new(end_entry: u16) -> Self {
        Self { cur_entry: 0, end_entry, _reserved_0x4: 0 }
    }

    /// Says whether the reserved word is zero, as it has to stay.
    pub const fn is_reserved_zero(&self) -> bool {
        self._reserved_0x4 == 0
    }
}

bit_struct! {
    /// One entry of the descriptor.
    pub struct PscEntry(u64) {
        /// 4 KiB pages of this entry that are done. What a host leaves here in a finished entry differs.
        cur_page / with_cur_page @ 11:0,
        /// Guest frame number; a multiple of 512 for 2 MiB.
        gfn / with_gfn @ 51:12,
        /// See [`PscOperation`].
        operation_bits / with_operation_bits @ 55:52,
        /// 0 for 4 KiB, 1 for 2 MiB.
        page_size_bit / with_page_size_bit @ 56:56,
    }
}

impl PscEntry {
    /// Asks for `operation` on `page`.
    pub const fn new(page: Page, operation: PscOperation) -> Self {
        Self(0)
            .with_gfn(page.at().as_u64() >> 12)
            .with_operation_bits(operation.0 as u64)
            .with_page_size_bit(page.size().number() as u64)
    }

    /// Returns the operation.
    pub const fn operation(self) -> PscOperation {
        PscOperation(self.operation_bits() as u8)
    }

    /// Returns the page size.
    pub const fn page_size(self) -> PageSize {
        PageSize::from_bit(self.page_size_bit())
    }
}

codes! {
    /// What is asked for in an entry.
    pub struct PscOperation(u8) {
        /// Make private.
        PRIVATE = 1;
        /// Make shared.
        SHARED = 2;
        /// Hint: split the 2 MiB RMP entry.
        SPLIT = 3;
        /// Hint: join 512 RMP entries.
        JOIN = 4;
    }
}

codes! {
    /// SW_EXITINFO2 after a page state change.
    pub struct PscError(u64) {
        /// No error.
        SUCCESS = 0;
        /// Head refused.
        INVALID_HEADER = 0x0000_0001_0000_0001;
        /// Entry `cur_entry` refused.
        INVALID_ENTRY = 0x0000_0001_0000_0002;
        /// Something else went wrong.
        OTHER_FAILURE = 0x0000_0100_0000_0000;
    }
}

/// The descriptor: as large as the shared buffer of the GHCB.
#[derive(Clone, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct PscDescriptor {
    /// Head.
    pub header: PscHeader,
    /// Entries; those up to `header.end_entry` count.
    pub entries: [PscEntry; MAX_ENTRIES],
}

layout! { PscDescriptor: 0x7f0 {
    header @ 0x0,
    entries @ 0x8,
} }

#[cfg(test)]
mod tests {
    use x86_64::PhysAddr;

    use super::*;

    #[test]
    fn an_entry_holds_frame_operation_and_size() {
        let page = Page::try_new(PhysAddr::new(0x4020_0000), PageSize::Size2MiB).unwrap();
        let entry = PscEntry::new(page, PscOperation::SHARED);
        assert_eq!(entry.bits(), 0x0120_0000_4020_0000);
        assert_eq!(entry.operation(), PscOperation::SHARED);
        assert_eq!(entry.page_size(), PageSize::Size2MiB);
    }
}
