//! Where the kernel has its things. The loader has validated all of it.

use super::memory::{Mapping, Region};
use crate::world::layout::{DATA, FREE, LARGE, PAGE, page};

/// The decompressor's `boot_ghcb_page`.
pub(super) const DECOMPRESSOR_GHCB: u64 = page(DATA, 0);
/// `boot_svsm_ca_page`.
pub(super) const BOOT_AREA: u64 = page(DATA, 1);
/// A page that a driver shares for a while.
pub(super) const DRIVER_PAGE: u64 = page(DATA, 2);
/// VMSAs of CPU 1: the second page of two each, so that none begins at a multiple of 2 MiB.
pub(super) const STATES: [Region; 2] =
    [Region::page("first VMSA", page(DATA, 5)), Region::page("second VMSA", page(DATA, 7))];
/// `.bss..decrypted`; its first page is the kernel's `boot_ghcb_page`.
pub(super) const BSS_DECRYPTED: u64 = FREE;
/// Where the DMA buffers begin, behind `.bss..decrypted`.
pub(super) const POOL_START: u64 = BSS_DECRYPTED + LARGE;
/// Real-mode address of the trampoline; the machine fetches nothing there.
pub(super) const TRAMPOLINE: u64 = 0x9_9060;

/// GHCB page of a CPU.
pub(super) const fn ghcb(cpu: u64) -> u64 {
    page(DATA, 0x10 + cpu)
}

/// Call area of a CPU.
pub(super) const fn area(cpu: u64) -> u64 {
    page(DATA, 0x18 + cpu)
}

/// The DMA buffers, mapped in one of two ways.
pub(super) const fn pool(bytes: u64, mapping: Mapping) -> Region {
    Region { name: "pool", start: POOL_START, pages: bytes / PAGE, mapping }
}
