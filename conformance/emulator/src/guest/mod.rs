//! The guest that runs: its linear addresses, its instructions, its exceptions.

mod deliver;
pub(crate) mod insn;
mod walk;

use machine::vmsa::{self, read_u64};

pub(crate) use deliver::deliver_vc;
pub(crate) use walk::{GuestAddress, WalkError, translate};

/// Offsets of a VMSA that the machine itself has no use for (vmsa.csv).
pub(crate) mod field {
    pub(crate) const CS: usize = 0x010;
    pub(crate) const SS: usize = 0x020;
    pub(crate) const GDTR: usize = 0x060;
    pub(crate) const IDTR: usize = 0x080;
    pub(crate) const TR: usize = 0x090;
    pub(crate) const CPL: usize = 0x0cb;
    pub(crate) const CR4: usize = 0x148;
    pub(crate) const CR3: usize = 0x150;
    pub(crate) const CR2: usize = 0x240;
}

/// CR0.PG.
pub(crate) const CR0_PG: u64 = 1 << 31;
/// EFER.LME and EFER.LMA.
pub(crate) const EFER_LME: u64 = 1 << 8;
pub(crate) const EFER_LMA: u64 = 1 << 10;

/// The registers of what runs, in the layout of a VMSA.
pub(crate) type Registers = [u8; 4096];

/// Whether paging is on.
pub(crate) fn is_paged(registers: &Registers) -> bool {
    read_u64(registers, vmsa::CR0) & CR0_PG != 0
}

/// Whether it executes 64-bit code.
pub(crate) fn is_long(registers: &Registers) -> bool {
    // Bit 9 of the attributes of CS.
    let attributes = read_u64(registers, field::CS) >> 16;
    read_u64(registers, vmsa::EFER) & EFER_LMA != 0 && attributes & 1 << 9 != 0
}

/// The linear address of the next instruction.
pub(crate) fn instruction(registers: &Registers) -> u64 {
    let base = if is_long(registers) { 0 } else { read_u64(registers, field::CS + 8) };
    base.wrapping_add(read_u64(registers, vmsa::RIP))
}

/// Offset of a general register, by its number in an instruction.
pub(crate) fn general(number: u8) -> usize {
    match number & 15 {
        0 => vmsa::RAX,
        4 => vmsa::RSP,
        number => 0x300 + usize::from(number) * 8,
    }
}

/// Moves RIP over an instruction.
pub(crate) fn advance(registers: &mut Registers, bytes: u64) {
    let rip = read_u64(registers, vmsa::RIP).wrapping_add(bytes);
    let rip = if is_long(registers) { rip } else { rip & 0xffff_ffff };
    vmsa::write_u64(registers, vmsa::RIP, rip);
}
