//! Nested page tables: one set per VMPL, filled at faults, with a half for accesses with the C-bit and one for those without.
//!
//! Five levels: the entry that bit 51 selects in the uppermost table leads to the private half. All leaves are 4 KiB: that is what
//! the machine's rules speak of, and QEMU drops single translations faster so.

use core::sync::atomic::{AtomicU64, Ordering};

use alloc::boxed::Box;
use machine::PAGE_SIZE;

/// The C-bit.
pub(crate) const C_BIT: u64 = 1 << 51;
/// Slot of the private half in the uppermost table.
const PRIVATE_SLOT: usize = 8;
/// Guest addresses in a half.
const HALF: u64 = 1 << 48;

const PRESENT: u64 = 1 << 0;
const WRITE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const NO_EXECUTE: u64 = 1 << 63;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// A table. The processor reads it, and sets accessed and dirty bits, while we write.
#[repr(C, align(4096))]
struct Table([AtomicU64; 512]);

impl Table {
    fn leak() -> &'static Self {
        Box::leak(Box::new(Self([const { AtomicU64::new(0) }; 512])))
    }

    fn address(&'static self) -> u64 {
        core::ptr::from_ref(self) as u64
    }

    /// The table that an entry leads to.
    fn below(entry: u64) -> Option<&'static Self> {
        // SAFETY: every present entry above the last level was made by `leaf` from a leaked table.
        (entry & PRESENT != 0).then(|| unsafe { &*((entry & ADDRESS) as *const Self) })
    }
}

/// How a page is mapped.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mapping {
    /// Address in our memory.
    pub(crate) to: u64,
    pub(crate) write: bool,
    pub(crate) execute: bool,
}

/// The tables of one VMPL.
pub(crate) struct Tables {
    shared: &'static Table,
    private: &'static Table,
    paged: &'static Table,
    unpaged: &'static Table,
}

impl Tables {
    /// Empty ones.
    pub(crate) fn new() -> Self {
        let (shared, private) = (Table::leak(), Table::leak());
        let (paged, unpaged) = (Table::leak(), Table::leak());
        let entry = |table: &'static Table| table.address() | PRESENT | WRITE | USER;
        paged.0[0].store(entry(shared), Ordering::Relaxed);
        paged.0[PRIVATE_SLOT].store(entry(private), Ordering::Relaxed);
        // Without paging there is no C-bit, and every access is private.
        unpaged.0[0].store(entry(private), Ordering::Relaxed);
        Self { shared, private, paged, unpaged }
    }

    /// What nCR3 holds while this VMPL runs.
    pub(crate) fn root(&self, is_paged: bool) -> u64 {
        if is_paged { self.paged.address() } else { self.unpaged.address() }
    }

    fn half(&self, private: bool) -> &'static Table {
        if private { self.private } else { self.shared }
    }

    /// The last entry for a page; with `make`, tables on the way are made.
    fn leaf(&self, gpa: u64, private: bool, make: bool) -> Option<&'static AtomicU64> {
        if gpa >= HALF {
            return None;
        }
        let mut table = self.half(private);
        for shift in [39, 30, 21] {
            let slot = &table.0[(gpa >> shift) as usize % 512];
            table = match Table::below(slot.load(Ordering::Relaxed)) {
                Some(table) => table,
                None if make => {
                    let new = Table::leak();
                    slot.store(new.address() | PRESENT | WRITE | USER, Ordering::Release);
                    new
                }
                None => return None,
            };
        }
        Some(&table.0[(gpa / PAGE_SIZE) as usize % 512])
    }

    /// Maps the page of a guest address without C-bit; false if it is beyond the half.
    pub(crate) fn map(&self, gpa: u64, private: bool, mapping: Mapping) -> bool {
        let Some(leaf) = self.leaf(gpa, private, true) else { return false };
        let write = if mapping.write { WRITE } else { 0 };
        let execute = if mapping.execute { 0 } else { NO_EXECUTE };
        leaf.store(mapping.to & ADDRESS | PRESENT | USER | write | execute, Ordering::Release);
        true
    }

    /// Forgets a page in both halves; true if it was mapped in one.
    pub(crate) fn unmap(&self, gpa: u64) -> bool {
        let mut was_mapped = false;
        for private in [false, true] {
            if let Some(leaf) = self.leaf(gpa, private, false) {
                was_mapped |= leaf.swap(0, Ordering::AcqRel) & PRESENT != 0;
            }
        }
        was_mapped
    }

    /// Forgets everything.
    pub(crate) fn clear(&self) {
        clear(self.shared, 3);
        clear(self.private, 3);
    }
}

/// Clears the last entries under a table that has so many levels below it.
fn clear(table: &'static Table, levels: u32) {
    for slot in &table.0 {
        if levels == 0 {
            slot.store(0, Ordering::Release);
        } else if let Some(below) = Table::below(slot.load(Ordering::Relaxed)) {
            clear(below, levels - 1);
        }
    }
}
