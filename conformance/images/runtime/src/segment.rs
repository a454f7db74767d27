//! Descriptors of 64-bit mode as words: code and data of CPL 0 and CPL 3, task state, and interrupt gates.
//!
//! Source: 24593, chapter 4, long-mode descriptors.

use x86_64::VirtAddr;

/// Selector of the code segment.
pub const CODE: u16 = 0x08;
/// Selector of the data segments.
pub const DATA: u16 = 0x10;
/// Selector of the data segments of CPL 3. Data before code, as SYSRET has it.
pub const USER_DATA: u16 = 0x1b;
/// Selector of the code segment of CPL 3.
pub const USER_CODE: u16 = 0x23;
/// Selector of the first task state segment. Each has two words.
pub const TASK: u16 = 0x28;

/// 64-bit code at CPL 0, accessed.
pub const CODE_WORD: u64 = 0x00af_9b00_0000_ffff;
/// Flat data at CPL 0, writable, accessed.
pub const DATA_WORD: u64 = 0x00cf_9300_0000_ffff;
/// Flat data at CPL 3, writable, accessed.
pub const USER_DATA_WORD: u64 = 0x00cf_f300_0000_ffff;
/// 64-bit code at CPL 3, accessed.
pub const USER_CODE_WORD: u64 = 0x00af_fb00_0000_ffff;

/// Bytes of a task state segment without a permission map.
pub const TASK_BYTES: usize = 104;
/// Offset of the stack for CPL 0.
pub const RSP_0: usize = 0x04;
/// Offset of the first stack of the interrupt stack table.
pub const IST_1: usize = 0x24;
/// Offset of the address of the permission map; one behind the segment means that there is none.
pub const PERMISSION_MAP: usize = 0x64;

/// The descriptor of an available task state segment.
#[must_use]
pub const fn task(at: VirtAddr) -> [u64; 2] {
    let base = at.as_u64();
    let limit = TASK_BYTES as u64 - 1;
    [limit | (base & 0xff_ffff) << 16 | 0x89 << 40 | (base >> 24 & 0xff) << 56, base >> 32]
}

/// A gate that turns interrupts off and runs on stack `ist` of the interrupt stack table, or on the current one for 0.
#[must_use]
pub const fn gate(to: VirtAddr, ist: u8) -> [u64; 2] {
    let to = to.as_u64();
    let low = to & 0xffff | (CODE as u64) << 16 | (ist as u64) << 32 | 0x8e << 40 | (to >> 16 & 0xffff) << 48;
    [low, to >> 32]
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: VirtAddr = VirtAddr::new(0x0000_1122_3344_5566);

    #[test]
    fn a_task_descriptor_has_its_base_in_four_parts() {
        assert_eq!(task(AT), [0x3300_8944_5566_0067, 0x1122]);
    }

    #[test]
    fn a_gate_has_its_target_in_three_parts() {
        assert_eq!(gate(AT, 1), [0x3344_8e01_0008_5566, 0x1122]);
    }
}
