//! Bytes to operations.

use thiserror_no_std::Error;

use super::Mode;
use super::modrm::ModRm;
use super::operand::{PortNumber, Register, SegmentName, Source, Width};
use super::operation::{Extension, Instruction, Operation};
use super::registers::Gpr;

/// Most bytes that an instruction has.
pub const MAX_LEN: usize = 15;

/// Two-byte opcodes.
const TWO_BYTES: u32 = 0xf00;
/// Opcodes 0f 01 with all of ModRM.
const THREE_BYTES: u32 = 0xf_0100;

/// Why bytes are no listed instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum DecodeError {
    /// The instruction goes on behind the bytes that are there.
    #[error("instruction is cut off")]
    Truncated,
    /// The instruction has more than [`MAX_LEN`] bytes.
    #[error("instruction of more than 15 bytes")]
    TooLong,
    /// An instruction that is not listed, or one that does not exist.
    #[error("instruction with opcode {opcode:#x} is not listed")]
    NotListed {
        /// Its bytes, the first one highest.
        opcode: u32,
    },
    /// A listed opcode with a LOCK prefix.
    #[error("locked instruction is not listed")]
    Locked,
    /// A listed opcode that works on registers only.
    #[error("instruction with opcode {opcode:#x} has no operand in memory")]
    NotMemory {
        /// As in [`NotListed`](Self::NotListed).
        opcode: u32,
    },
    /// There is no such control or debug register.
    #[error("there is no register {number:#x} of that kind")]
    NoSuchRegister {
        /// Its number.
        number: u8,
    },
}

impl core::error::Error for DecodeError {}

/// Decodes the instruction at the start of `bytes`. Bytes behind it do not matter; more than [`MAX_LEN`] are not read.
///
/// # Errors
/// [`DecodeError::Truncated`] if more bytes are needed to tell; the others say that it is no listed instruction.
pub fn decode(bytes: &[u8], mode: Mode) -> Result<Instruction, DecodeError> {
    let mut decoder = Decoder { bytes, at: 0, mode, prefixes: Prefixes::default() };
    let operation = decoder.operation()?;
    if decoder.prefixes.lock {
        return Err(DecodeError::Locked);
    }
    Ok(Instruction { operation, len: decoder.at })
}

/// Prefixes, as far as they count.
#[derive(Clone, Copy, Default)]
pub(super) struct Prefixes {
    pub(super) operand_size: bool,
    pub(super) address_size: bool,
    pub(super) repeat: Repeat,
    pub(super) segment: Option<SegmentName>,
    pub(super) rex: Option<u8>,
    lock: bool,
}

/// The last prefix of this kind.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Repeat {
    #[default]
    None,
    RepF3,
    RepneF2,
}

/// Place in the bytes, and what was seen so far.
pub(super) struct Decoder<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) at: u8,
    pub(super) mode: Mode,
    pub(super) prefixes: Prefixes,
}

impl Decoder<'_> {
    fn operation(&mut self) -> Result<Operation, DecodeError> {
        let opcode = u32::from(self.opcode()?);
        Ok(match opcode {
            0x63 if self.rex_w() => self.load(opcode, Some(Width::Dword), Extension::Sign)?,
            0x6c | 0x6d => Operation::Ins { width: self.port_width(opcode), form: self.string(SegmentName::Es) },
            0x6e | 0x6f => Operation::Outs { width: self.port_width(opcode), form: self.source_string() },
            0x88 | 0x89 => {
                let width = self.width(opcode);
                let (to, reg) = self.memory(opcode)?;
                Operation::Store { to, width, from: Source::Register(self.register(reg, width)) }
            }
            0x8a | 0x8b => self.load(opcode, None, Extension::Zero)?,
            0xa0 | 0xa1 => {
                let width = self.width(opcode);
                let from = self.absolute()?;
                Operation::Load { from, width, extension: Extension::Zero, into: Register::Low(Gpr::RAX, width) }
            }
            0xa2 | 0xa3 => {
                let width = self.width(opcode);
                let from = Source::Register(Register::Low(Gpr::RAX, width));
                Operation::Store { to: self.absolute()?, width, from }
            }
            0xa4 | 0xa5 => Operation::Movs { width: self.width(opcode), form: self.source_string() },
            0xaa | 0xab => Operation::Stos { width: self.width(opcode), form: self.string(SegmentName::Es) },
            0xc6 | 0xc7 => self.store_immediate(opcode)?,
            0xe4 | 0xe5 => Operation::In { width: self.port_width(opcode), port: self.port_immediate()? },
            0xe6 | 0xe7 => Operation::Out { width: self.port_width(opcode), port: self.port_immediate()? },
            0xec | 0xed => Operation::In { width: self.port_width(opcode), port: PortNumber::Dx },
            0xee | 0xef => Operation::Out { width: self.port_width(opcode), port: PortNumber::Dx },
            0xf4 => Operation::Hlt,
            0x0f => self.two_byte_operation()?,
            _ => return Err(DecodeError::NotListed { opcode }),
        })
    }

    fn two_byte_operation(&mut self) -> Result<Operation, DecodeError> {
        let opcode = TWO_BYTES | u32::from(self.byte()?);
        Ok(match opcode {
            0xf01 => self.extended_operation()?,
            0xf08 => Operation::Invd,
            0xf09 if self.prefixes.repeat == Repeat::RepF3 => Operation::Wbnoinvd,
            0xf09 => Operation::Wbinvd,
            0xf20..=0xf23 => self.move_special(opcode)?,
            0xf30 => Operation::Wrmsr,
            0xf31 => Operation::Rdtsc,
            0xf32 => Operation::Rdmsr,
            0xf33 => Operation::Rdpmc,
            0xfa2 => Operation::Cpuid,
            0xfb6 => self.load(opcode, Some(Width::Byte), Extension::Zero)?,
            0xfb7 => self.load(opcode, Some(Width::Word), Extension::Zero)?,
            0xfbe => self.load(opcode, Some(Width::Byte), Extension::Sign)?,
            0xfbf => self.load(opcode, Some(Width::Word), Extension::Sign)?,
            _ => return Err(DecodeError::NotListed { opcode }),
        })
    }

    fn extended_operation(&mut self) -> Result<Operation, DecodeError> {
        let opcode = THREE_BYTES | u32::from(self.byte()?);
        let plain = self.prefixes.repeat == Repeat::None;
        let bare = plain && !self.prefixes.operand_size;
        // With F3 or F2, D9 is VMGEXIT; with F3, FA is MCOMMIT.
        Ok(match opcode {
            0xf_01c8 if bare => Operation::Monitor,
            0xf_01c9 if bare => Operation::Mwait,
            0xf_01d9 if plain => Operation::Vmmcall,
            0xf_01f9 => Operation::Rdtscp,
            0xf_01fa if bare => Operation::Monitorx,
            0xf_01fb if bare => Operation::Mwaitx,
            _ => return Err(DecodeError::NotListed { opcode }),
        })
    }

    /// Reads prefixes and the first opcode byte.
    fn opcode(&mut self) -> Result<u8, DecodeError> {
        loop {
            let byte = self.byte()?;
            let prefixes = &mut self.prefixes;
            let long = self.mode == Mode::Bits64;
            match byte {
                0x26 if !long => prefixes.segment = Some(SegmentName::Es),
                0x2e if !long => prefixes.segment = Some(SegmentName::Cs),
                0x36 if !long => prefixes.segment = Some(SegmentName::Ss),
                0x3e if !long => prefixes.segment = Some(SegmentName::Ds),
                // Without effect in 64-bit mode.
                0x26 | 0x2e | 0x36 | 0x3e => {}
                0x64 => prefixes.segment = Some(SegmentName::Fs),
                0x65 => prefixes.segment = Some(SegmentName::Gs),
                0x66 => prefixes.operand_size = true,
                0x67 => prefixes.address_size = true,
                0xf0 => prefixes.lock = true,
                0xf2 => prefixes.repeat = Repeat::RepneF2,
                0xf3 => prefixes.repeat = Repeat::RepF3,
                0x40..=0x4f if long => {
                    prefixes.rex = Some(byte);
                    continue;
                }
                _ => return Ok(byte),
            }
            // REX counts directly before the opcode only.
            prefixes.rex = None;
        }
    }

    /// MOV from (opcodes 20, 21) or to (22, 23) control (even) or debug registers.
    fn move_special(&mut self, opcode: u32) -> Result<Operation, DecodeError> {
        // The upper two bits count as 11 always.
        let modrm = ModRm::from(self.byte()?);
        let mut number = self.reg(modrm.reg);
        let gpr = Gpr::new_truncate(self.base(modrm.rm));
        let is_debug = opcode & 1 == 1;
        if !is_debug && core::mem::take(&mut self.prefixes.lock) {
            // The way to CR8 outside of 64-bit mode, and another one inside.
            number = number.saturating_add(8);
        }
        if is_debug && number > 7 || !is_debug && !matches!(number, 0 | 2 | 3 | 4 | 8) {
            return Err(DecodeError::NoSuchRegister { number });
        }
        Ok(match opcode & 3 {
            0 => Operation::ReadControl { number, into: gpr },
            1 => Operation::ReadDebug { number, into: gpr },
            2 => Operation::WriteControl { number, from: gpr },
            _ => Operation::WriteDebug { number, from: gpr },
        })
    }

    /// A load with ModRM; `source` is the width read where it differs from the operand size.
    fn load(&mut self, opcode: u32, source: Option<Width>, extension: Extension) -> Result<Operation, DecodeError> {
        let into = match source {
            Some(_) => self.operand_size(),
            None => self.width(opcode),
        };
        let (from, reg) = self.memory(opcode)?;
        Ok(Operation::Load { from, width: source.unwrap_or(into), extension, into: self.register(reg, into) })
    }

    fn store_immediate(&mut self, opcode: u32) -> Result<Operation, DecodeError> {
        let width = self.width(opcode);
        let immediate = width.min(Width::Dword);
        let (to, reg) = self.memory(opcode)?;
        if reg & 7 != 0 {
            return Err(DecodeError::NotListed { opcode });
        }
        let value = immediate.sign_extend(self.value(immediate)?) & width.mask();
        Ok(Operation::Store { to, width, from: Source::Immediate(value) })
    }
}
