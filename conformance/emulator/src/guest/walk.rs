//! A walk of the guest's own page tables, as the processor does it: tables are private whatever their entries say.

use machine::vmsa::{self, read_u64};

use super::{EFER_LMA, Registers, field, is_paged};
use crate::nested::C_BIT;
use crate::world::World;

const PRESENT: u64 = 1 << 0;
const WRITE: u64 = 1 << 1;
const LARGE: u64 = 1 << 7;
/// Bits 51:12, of which the C-bit is one.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
/// CR4.LA57.
const LA57: u64 = 1 << 12;

/// A guest-physical address without C-bit, and the C-bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GuestAddress {
    pub(crate) gpa: u64,
    pub(crate) private: bool,
}

/// Why an address leads nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WalkError {
    /// #PF with this error code.
    PageFault {
        /// Its error code.
        code: u32,
    },
    /// The level may not read its own tables there.
    Table,
    /// 32-bit paging, which is not walked here.
    Mode,
}

/// Where a linear address of a supervisor leads.
pub(crate) fn translate(
    world: &World,
    vmpl: u8,
    registers: &Registers,
    linear: u64,
    write: bool,
) -> Result<GuestAddress, WalkError> {
    if !is_paged(registers) {
        return Ok(GuestAddress { gpa: linear & 0xffff_ffff, private: true });
    }
    if read_u64(registers, vmsa::EFER) & EFER_LMA == 0 {
        return Err(WalkError::Mode);
    }
    let levels = if read_u64(registers, field::CR4) & LA57 != 0 { 5 } else { 4 };
    let mut table = read_u64(registers, field::CR3) & ADDRESS & !C_BIT;
    let code = |present: bool| WalkError::PageFault { code: u32::from(present) | u32::from(write) << 1 };
    for level in (0..levels).rev() {
        let shift = 12 + 9 * level;
        let at = table + (linear >> shift) % 512 * 8;
        let mut entry = [0; 8];
        if !world.read(vmpl, at, true, &mut entry) {
            return Err(WalkError::Table);
        }
        let entry = u64::from_le_bytes(entry);
        if entry & PRESENT == 0 {
            return Err(code(false));
        }
        if write && entry & WRITE == 0 {
            return Err(code(true));
        }
        if level == 0 || entry & LARGE != 0 && level <= 2 {
            let offset = linear & ((1 << shift) - 1);
            let base = entry & ADDRESS & !((1 << shift) - 1);
            return Ok(GuestAddress { gpa: base & !C_BIT | offset, private: entry & C_BIT != 0 });
        }
        table = entry & ADDRESS & !C_BIT;
    }
    Err(code(false))
}
