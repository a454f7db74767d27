//! The few instructions that have to be told apart by their bytes: QEMU's SVM has no decode assists.

use machine::PAGE_SIZE;

use super::{GuestAddress, Registers, instruction, translate};
use crate::world::World;

/// Longest instruction.
const LONGEST: usize = 15;

/// The bytes of an instruction, as far as they can be read.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Bytes {
    bytes: [u8; LONGEST],
    len: usize,
}

impl Bytes {
    /// Reads them where the level executes.
    pub(crate) fn fetch(world: &World, vmpl: u8, registers: &Registers) -> Self {
        let mut code = Self::default();
        let start = instruction(registers);
        while code.len < LONGEST {
            let linear = start.wrapping_add(code.len as u64);
            // Up to the end of the page; both are small.
            let room = ((PAGE_SIZE - linear % PAGE_SIZE) as usize).min(LONGEST - code.len);
            let Ok(GuestAddress { gpa, private }) = translate(world, vmpl, registers, linear, false) else { break };
            let part = &mut code.bytes[code.len..code.len + room];
            if !world.read(vmpl, gpa, private, part) {
                break;
            }
            code.len += room;
        }
        code
    }

    fn begins_with(&self, bytes: &[u8]) -> bool {
        self.bytes[..self.len].starts_with(bytes)
    }
}

/// Instructions that QEMU does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unknown {
    Pvalidate,
    Rmpadjust,
    Rmpquery,
    Invlpgb,
    Tlbsync,
}

impl Unknown {
    /// Which of them raised #UD, and its length.
    pub(crate) fn of(code: &Bytes) -> Option<(Self, u64)> {
        let known: [(&[u8], Self); 5] = [
            (&[0xf2, 0x0f, 0x01, 0xff], Self::Pvalidate),
            (&[0xf3, 0x0f, 0x01, 0xfe], Self::Rmpadjust),
            (&[0xf3, 0x0f, 0x01, 0xfd], Self::Rmpquery),
            (&[0x0f, 0x01, 0xfe], Self::Invlpgb),
            (&[0x0f, 0x01, 0xff], Self::Tlbsync),
        ];
        let found = known.iter().find(|(bytes, _)| code.begins_with(bytes));
        found.map(|(bytes, instruction)| (*instruction, bytes.len() as u64))
    }
}

/// Whether an exit for VMMCALL was VMGEXIT, which QEMU takes for the same.
pub(crate) fn is_vmgexit(code: &Bytes) -> bool {
    code.begins_with(&[0xf3, 0x0f, 0x01, 0xd9]) || code.begins_with(&[0xf2, 0x0f, 0x01, 0xd9])
}

/// Whether an exit for WBINVD was INVD, for which QEMU exits so too.
pub(crate) fn is_invd(code: &Bytes) -> bool {
    code.begins_with(&[0x0f, 0x08])
}

/// A write of CR0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cr0Write {
    /// MOV from a general register.
    Move {
        /// Its number.
        from: u8,
    },
    /// CLTS.
    ClearTaskSwitched,
}

impl Cr0Write {
    /// Which one it is, and its length.
    pub(crate) fn of(code: &Bytes, is_long: bool) -> Option<(Self, u64)> {
        let rex = (is_long && code.bytes[0] & 0xf0 == 0x40).then_some(code.bytes[0]);
        let at = usize::from(rex.is_some());
        let upper = rex.unwrap_or(0) & 1;
        match code.bytes.get(at..at + 3)? {
            [0x0f, 0x22, modrm] if modrm >> 3 & 7 == 0 && rex.unwrap_or(0) & 4 == 0 => {
                Some((Self::Move { from: modrm & 7 | upper << 3 }, at as u64 + 3))
            }
            [0x0f, 0x06, _] => Some((Self::ClearTaskSwitched, at as u64 + 2)),
            _ => None,
        }
    }
}

/// Length of an instruction of two or three opcode bytes without operands, behind its prefixes.
pub(crate) fn plain_length(code: &Bytes) -> u64 {
    let prefixes = code.bytes.iter().take_while(|byte| matches!(byte, 0x66 | 0x67 | 0xf2 | 0xf3 | 0x40..=0x4f)).count();
    let opcode = match code.bytes.get(prefixes..prefixes + 2) {
        Some([0x0f, 0x01]) => 3,
        Some([0x0f, _]) => 2,
        _ => 1,
    };
    prefixes as u64 + opcode
}
