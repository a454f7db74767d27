//! Where things lie in the memory of a test VM. The same on every vendor.
//!
//! ```text
//! 0x0010_0000  L1's own MiB (256 pages)
//! 0x0020_0000  a hole: in nobody's memory map
//! 0x0040_0000  guest RAM; its first 2 MiB belong to the guest from the start
//! 0x0060_0000  guest RAM that nobody has validated yet
//! ```

use coco_part_api::FrameRange;
use coco_part_api::vcpu::frame_at;
use x86_64::PhysAddr;
use x86_64::structures::paging::{PhysFrame, Size4KiB};

/// Bytes of a small page.
pub const PAGE: u64 = 0x1000;
/// Bytes of a large page.
pub const LARGE: u64 = 0x20_0000;

/// Start of L1's own memory.
pub const MONITOR: u64 = 0x10_0000;
/// Bytes of it.
pub const MONITOR_BYTES: u64 = 0x10_0000;
/// An address that no memory map holds.
pub const HOLE: u64 = 0x20_0000;
/// Start of guest RAM.
pub const GUEST: u64 = 0x40_0000;
/// Bytes of it that the guest has from the start.
pub const HANDED_OVER: u64 = LARGE;
/// Start of guest RAM that is not validated when the guest starts.
pub const FREE: u64 = GUEST + HANDED_OVER;

/// L1: state frame of its boot vCPU, and from there of the secondary ones.
pub const MONITOR_STATE: u64 = MONITOR + 0x1000;
/// L1: the machine's secrets page.
pub const MONITOR_SECRETS: u64 = MONITOR + 0x1_0000;
/// L1: the machine's features page.
pub const MONITOR_FEATURES: u64 = MONITOR + 0x1_1000;
/// L1: pages of its channel to the host, four per vCPU.
pub const MONITOR_CHANNEL: u64 = MONITOR + 0x2_0000;
/// L1: plain data pages, with recognisable contents.
pub const MONITOR_DATA: u64 = MONITOR + 0x8_0000;

/// Guest: its copy of the secrets page.
pub const SECRETS: u64 = GUEST + 0x1000;
/// Guest: its copy of the features page.
pub const FEATURES: u64 = GUEST + 0x2000;
/// Guest: state frame of its boot vCPU.
pub const BOOT_STATE: u64 = GUEST + 0x3000;
/// Guest: call areas, one per vCPU.
pub const CALL_AREA: u64 = GUEST + 0x1_0000;
/// Guest: pages of its channel to the host, four per vCPU.
pub const CHANNEL: u64 = GUEST + 0x2_0000;
/// Guest: state frames of further vCPUs.
pub const STATE: u64 = GUEST + 0x6_1000;
/// Guest: plain RAM from here to the end of what it has from the start.
pub const DATA: u64 = GUEST + 0x8_0000;

/// The address of page `index` of an area.
pub const fn page(area: u64, index: u64) -> u64 {
    area + index * PAGE
}

/// Contents by which a page of L1 is recognised, from the launch on.
pub fn pattern(at: u64) -> [u8; PAGE as usize] {
    let mut bytes = [0; PAGE as usize];
    for (index, word) in bytes.chunks_exact_mut(8).enumerate() {
        word.copy_from_slice(&(0x4c31_0000_0000_0000 | at | index as u64).to_le_bytes());
    }
    bytes
}

/// The frame at an address of this layout.
pub fn frame(address: u64) -> PhysFrame<Size4KiB> {
    frame_at(address).expect("addresses of the layout are page aligned")
}

/// The range of `bytes` from an address of this layout.
pub fn range(address: u64, bytes: u64) -> FrameRange {
    FrameRange::new(PhysAddr::new(address), bytes).expect("ranges of the layout are page aligned")
}

/// Entry address of L1's boot vCPU.
pub const ENTRY_MONITOR: u64 = 0x1000;
/// Entry address of L1's secondary vCPUs.
pub const ENTRY_SECONDARY: u64 = 0x2000;
/// Entry address of the guest's boot vCPU.
pub const ENTRY_GUEST: u64 = 0x3000;
/// Entry address of the guest's further vCPUs.
pub const ENTRY_FURTHER: u64 = 0x4000;
