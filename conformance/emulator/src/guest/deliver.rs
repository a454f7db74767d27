//! #VC, delivered in software: QEMU pushes no error code for vector 29.

use machine::vmsa::{self, read_u64, write_u64};

use super::{EFER_LMA, GuestAddress, Registers, field, translate};
use crate::world::World;

/// Vector of #VC.
const VC: u64 = 29;
/// RFLAGS: TF, IF, NT, RF and VM.
const TF: u64 = 1 << 8;
const IF: u64 = 1 << 9;
const CLEARED: u64 = TF | 1 << 14 | 1 << 16 | 1 << 17;
/// Limit of a flat segment.
const FLAT: u64 = 0xffff_ffff;

/// Why the exception could not be delivered; the guest is lost then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Undelivered(pub(crate) &'static str);

/// Memory of the level by linear addresses of its supervisor.
struct Memory<'a> {
    world: &'a World,
    vmpl: u8,
}

impl Memory<'_> {
    fn at(&self, registers: &Registers, linear: u64, write: bool) -> Option<GuestAddress> {
        translate(self.world, self.vmpl, registers, linear, write).ok()
    }

    /// A quadword, which may cross a page: the stack pointers of a task state are not aligned.
    fn read(&self, registers: &Registers, linear: u64) -> Option<u64> {
        let mut bytes = [0; 8];
        for (byte, offset) in bytes.iter_mut().zip(0..) {
            let GuestAddress { gpa, private } = self.at(registers, linear.wrapping_add(offset), false)?;
            self.world.read(self.vmpl, gpa, private, core::slice::from_mut(byte)).then_some(())?;
        }
        Some(u64::from_le_bytes(bytes))
    }

    /// A quadword of a stack that is aligned.
    fn write(&self, registers: &Registers, linear: u64, value: u64) -> Option<()> {
        let GuestAddress { gpa, private } = self.at(registers, linear, true)?;
        self.world.write(self.vmpl, gpa, private, &value.to_le_bytes()).then_some(())
    }
}

/// Enters the level's handler for #VC with an error code.
///
/// # Errors
/// What of it is not there.
pub(crate) fn deliver_vc(world: &mut World, vmpl: u8, registers: &mut Registers, code: u64) -> Result<(), Undelivered> {
    if read_u64(registers, vmsa::EFER) & EFER_LMA == 0 {
        return Err(Undelivered("#VC outside of long mode"));
    }
    let memory = Memory { world, vmpl };
    let limit = read_u64(registers, field::IDTR) >> 32;
    if limit < VC * 16 + 15 {
        return Err(Undelivered("no gate for #VC"));
    }
    let gate_at = read_u64(registers, field::IDTR + 8).wrapping_add(VC * 16);
    let gate = memory.read(registers, gate_at).zip(memory.read(registers, gate_at.wrapping_add(8)));
    let (low, high) = gate.ok_or(Undelivered("the gate for #VC cannot be read"))?;
    let kind = low >> 40 & 0xf;
    if low >> 47 & 1 == 0 || kind | 1 != 0xf {
        return Err(Undelivered("the gate for #VC is none"));
    }
    let handler = low & 0xffff | low >> 48 << 16 | (high & 0xffff_ffff) << 32;
    let selector = low >> 16 & 0xffff;
    let table = read_u64(registers, field::GDTR + 8).wrapping_add(selector & 0xfff8);
    let descriptor = memory.read(registers, table).ok_or(Undelivered("the code segment for #VC cannot be read"))?;
    // Present, code, 64-bit.
    if selector & 4 != 0 || descriptor >> 47 & 1 == 0 || descriptor >> 43 & 3 != 3 || descriptor >> 53 & 1 == 0 {
        return Err(Undelivered("the code segment for #VC is none for 64-bit code"));
    }
    let cpl = u64::from(registers[field::CPL]);
    let new_cpl = descriptor >> 45 & 3;
    let stacks = read_u64(registers, field::TR + 8);
    let stack_index = low >> 32 & 7;
    let old_stack = read_u64(registers, vmsa::RSP);
    let stack = match stack_index {
        0 if new_cpl == cpl => Some(old_stack),
        0 => memory.read(registers, stacks.wrapping_add(4 + 8 * new_cpl)),
        index => memory.read(registers, stacks.wrapping_add(0x24 + 8 * (index - 1))),
    };
    let mut stack = stack.ok_or(Undelivered("the task state for #VC cannot be read"))? & !15;
    let flags = read_u64(registers, vmsa::RFLAGS);
    let old_code = read_u64(registers, field::CS) & 0xffff;
    let old_data = read_u64(registers, field::SS) & 0xffff;
    for value in [old_data, old_stack, flags, old_code, read_u64(registers, vmsa::RIP), code] {
        stack = stack.wrapping_sub(8);
        memory.write(registers, stack, value).ok_or(Undelivered("the stack for #VC cannot be written"))?;
    }
    let masked = if kind == 0xe { IF } else { 0 };
    write_u64(registers, vmsa::RFLAGS, flags & !(CLEARED | masked));
    write_u64(registers, vmsa::RSP, stack);
    write_u64(registers, vmsa::RIP, handler);
    // Attributes: bits 47:40 and 55:52 of the descriptor.
    let attributes = descriptor >> 40 & 0xff | (descriptor >> 52 & 0xf) << 8;
    write_u64(registers, field::CS, selector & 0xfffc | new_cpl | attributes << 16 | FLAT << 32);
    write_u64(registers, field::CS + 8, 0);
    if new_cpl != cpl {
        // A null selector with the new privilege level.
        write_u64(registers, field::SS, new_cpl | (0x93 | new_cpl << 5) << 16 | FLAT << 32);
        write_u64(registers, field::SS + 8, 0);
        registers[field::CPL] = new_cpl as u8;
    }
    Ok(())
}
