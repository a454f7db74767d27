//! Bytes, sizes and memory operands: what encodings have in common.

use super::Mode;
use super::decode::{DecodeError, Decoder, MAX_LEN, Repeat};
use super::operand::{Base, MemoryOperand, PortNumber, Register, SegmentName, Width};
use super::operation::StringForm;
use super::registers::Gpr;

/// Parts of a ModRM byte, without REX.
#[derive(Clone, Copy)]
pub(super) struct ModRm {
    mode: u8,
    pub(super) reg: u8,
    pub(super) rm: u8,
}

impl From<u8> for ModRm {
    fn from(byte: u8) -> Self {
        Self { mode: byte >> 6, reg: byte >> 3 & 7, rm: byte & 7 }
    }
}

/// Bits of REX.
const REX_B: u8 = 1 << 0;
const REX_X: u8 = 1 << 1;
const REX_R: u8 = 1 << 2;
const REX_W: u8 = 1 << 3;

impl Decoder<'_> {
    pub(super) fn byte(&mut self) -> Result<u8, DecodeError> {
        let at = usize::from(self.at);
        if at >= MAX_LEN {
            return Err(DecodeError::TooLong);
        }
        let byte = *self.bytes.get(at).ok_or(DecodeError::Truncated)?;
        self.at = self.at.saturating_add(1);
        Ok(byte)
    }

    /// A little-endian number.
    pub(super) fn value(&mut self, width: Width) -> Result<u64, DecodeError> {
        let mut bytes = [0; 8];
        for byte in bytes.iter_mut().take(width.bytes()) {
            *byte = self.byte()?;
        }
        Ok(u64::from_le_bytes(bytes))
    }

    pub(super) fn port_immediate(&mut self) -> Result<PortNumber, DecodeError> {
        self.byte().map(PortNumber::Immediate)
    }

    pub(super) fn rex_w(&self) -> bool {
        self.rex(REX_W) != 0
    }

    /// A number of four bits for a register: `low` extended by REX.R.
    pub(super) fn reg(&self, low: u8) -> u8 {
        low | self.rex(REX_R) << 1
    }

    /// The same, extended by REX.B.
    pub(super) fn base(&self, low: u8) -> u8 {
        low | self.rex(REX_B) << 3
    }

    pub(super) fn operand_size(&self) -> Width {
        let wide = self.mode != Mode::Bits16;
        if self.rex_w() {
            Width::Qword
        } else if wide != self.prefixes.operand_size {
            Width::Dword
        } else {
            Width::Word
        }
    }

    /// Opcodes come in pairs: the even one is for bytes, the odd one for the operand size.
    pub(super) fn width(&self, opcode: u32) -> Width {
        if opcode & 1 == 0 { Width::Byte } else { self.operand_size() }
    }

    /// As [`width`](Self::width), for ports: they have no 64 bits.
    pub(super) fn port_width(&self, opcode: u32) -> Width {
        self.width(opcode).min(Width::Dword)
    }

    fn address_size(&self) -> Width {
        match (self.mode, self.prefixes.address_size) {
            (Mode::Bits64, false) => Width::Qword,
            (Mode::Bits32, false) | (Mode::Bits64 | Mode::Bits16, true) => Width::Dword,
            (Mode::Bits16, false) | (Mode::Bits32, true) => Width::Word,
        }
    }

    pub(super) fn string(&self, segment: SegmentName) -> StringForm {
        StringForm { address: self.address_size(), repeat: self.prefixes.repeat != Repeat::None, segment }
    }

    /// With a source in memory, whose segment can be overridden.
    pub(super) fn source_string(&self) -> StringForm {
        self.string(self.prefixes.segment.unwrap_or(SegmentName::Ds))
    }

    /// The part of a register that a number stands for.
    pub(super) fn register(&self, number: u8, width: Width) -> Register {
        match number {
            4..=7 if width == Width::Byte && self.prefixes.rex.is_none() => {
                Register::High(Gpr::new_truncate(number & 3))
            }
            _ => Register::Low(Gpr::new_truncate(number), width),
        }
    }

    /// An address as large as addresses are, without ModRM.
    pub(super) fn absolute(&mut self) -> Result<MemoryOperand, DecodeError> {
        let displacement = self.value(self.address_size())?;
        Ok(self.operand(Base::None, None, displacement))
    }

    /// ModRM, SIB and displacement: the memory operand, and the number in ModRM.reg with REX.R.
    pub(super) fn memory(&mut self, opcode: u32) -> Result<(MemoryOperand, u8), DecodeError> {
        let modrm = ModRm::from(self.byte()?);
        if modrm.mode == 3 {
            return Err(DecodeError::NotMemory { opcode });
        }
        let operand = if self.address_size() == Width::Word { self.memory_16(modrm)? } else { self.memory_32(modrm)? };
        Ok((operand, self.reg(modrm.reg)))
    }

    fn memory_16(&mut self, modrm: ModRm) -> Result<MemoryOperand, DecodeError> {
        let (base, index) = match modrm.rm {
            0 => (Base::Gpr(Gpr::RBX), Some(Gpr::RSI)),
            1 => (Base::Gpr(Gpr::RBX), Some(Gpr::RDI)),
            2 => (Base::Gpr(Gpr::RBP), Some(Gpr::RSI)),
            3 => (Base::Gpr(Gpr::RBP), Some(Gpr::RDI)),
            4 => (Base::Gpr(Gpr::RSI), None),
            5 => (Base::Gpr(Gpr::RDI), None),
            6 if modrm.mode == 0 => (Base::None, None),
            6 => (Base::Gpr(Gpr::RBP), None),
            _ => (Base::Gpr(Gpr::RBX), None),
        };
        let displacement = match (modrm.mode, base) {
            (0, Base::None) | (2, _) => Some(Width::Word),
            (1, _) => Some(Width::Byte),
            _ => None,
        };
        let displacement = self.displacement(displacement)?;
        Ok(self.operand(base, index.map(|gpr| (gpr, 0)), displacement))
    }

    fn memory_32(&mut self, modrm: ModRm) -> Result<MemoryOperand, DecodeError> {
        let (base, index) = match modrm.rm {
            4 => self.sib(modrm)?,
            5 if modrm.mode == 0 && self.mode == Mode::Bits64 => (Base::NextRip, None),
            5 if modrm.mode == 0 => (Base::None, None),
            rm => (Base::Gpr(Gpr::new_truncate(self.base(rm))), None),
        };
        let displacement = match (modrm.mode, base) {
            (0, Base::None | Base::NextRip) | (2, _) => Some(Width::Dword),
            (1, _) => Some(Width::Byte),
            _ => None,
        };
        let displacement = self.displacement(displacement)?;
        Ok(self.operand(base, index, displacement))
    }

    fn sib(&mut self, modrm: ModRm) -> Result<(Base, Option<(Gpr, u8)>), DecodeError> {
        let sib = self.byte()?;
        let index = Gpr::new_truncate(sib >> 3 & 7 | self.rex(REX_X) << 2);
        // No index is a number, not a register: REX.X makes R12 of it.
        let index = (index != Gpr::RSP).then_some((index, sib >> 6));
        let base = match sib & 7 {
            5 if modrm.mode == 0 => Base::None,
            low => Base::Gpr(Gpr::new_truncate(self.base(low))),
        };
        Ok((base, index))
    }

    fn displacement(&mut self, width: Option<Width>) -> Result<u64, DecodeError> {
        match width {
            Some(width) => Ok(width.sign_extend(self.value(width)?)),
            None => Ok(0),
        }
    }

    fn operand(&self, base: Base, index: Option<(Gpr, u8)>, displacement: u64) -> MemoryOperand {
        let segment = self.prefixes.segment.unwrap_or(match base {
            Base::Gpr(Gpr::RSP | Gpr::RBP) => SegmentName::Ss,
            _ => SegmentName::Ds,
        });
        MemoryOperand { segment, base, index, displacement, address: self.address_size() }
    }

    fn rex(&self, bit: u8) -> u8 {
        self.prefixes.rex.unwrap_or(0) & bit
    }
}
