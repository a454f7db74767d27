//! What the other decoder says about bytes, in our terms.

use iced_x86::{Code, Decoder, DecoderOptions, Instruction as Other, Mnemonic, OpKind, Register as OtherRegister};

use super::super::*;

/// The other decoder's answer: operation, length, and the instruction itself for addresses. `None` is an instruction that
/// is not listed, or none at all.
pub(super) fn expected(bytes: &[u8], mode: Mode) -> Option<(Listed, Other)> {
    let bits = match mode {
        Mode::Bits64 => 64,
        Mode::Bits32 => 32,
        Mode::Bits16 => 16,
    };
    let other = Decoder::new(bits, bytes, DecoderOptions::AMD).decode();
    listed(&other).map(|listed| (listed, other))
}

/// An operation without its memory operand, which is compared by value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Listed {
    Plain(Operation),
    Load(Width, Extension, Register),
    Store(Width, Source),
}

impl From<Operation> for Listed {
    fn from(operation: Operation) -> Self {
        match operation {
            Operation::Load { from: _, width, extension, into } => Self::Load(width, extension, into),
            Operation::Store { to: _, width, from } => Self::Store(width, from),
            other => Self::Plain(other),
        }
    }
}

fn listed(other: &Other) -> Option<Listed> {
    let plain = match other.mnemonic() {
        Mnemonic::Cpuid => Operation::Cpuid,
        Mnemonic::Rdmsr => Operation::Rdmsr,
        Mnemonic::Wrmsr => Operation::Wrmsr,
        Mnemonic::Rdtsc => Operation::Rdtsc,
        Mnemonic::Rdtscp => Operation::Rdtscp,
        Mnemonic::Rdpmc => Operation::Rdpmc,
        Mnemonic::Invd => Operation::Invd,
        Mnemonic::Wbinvd => Operation::Wbinvd,
        Mnemonic::Wbnoinvd => Operation::Wbnoinvd,
        Mnemonic::Monitor => Operation::Monitor,
        Mnemonic::Monitorx => Operation::Monitorx,
        Mnemonic::Mwait => Operation::Mwait,
        Mnemonic::Mwaitx => Operation::Mwaitx,
        Mnemonic::Vmmcall => Operation::Vmmcall,
        Mnemonic::Hlt => Operation::Hlt,
        Mnemonic::In => Operation::In { port: port(other, 1), width: gpr(other.op0_register())?.width() },
        Mnemonic::Out => Operation::Out { port: port(other, 0), width: gpr(other.op1_register())?.width() },
        Mnemonic::Movzx | Mnemonic::Movsx | Mnemonic::Movsxd | Mnemonic::Mov => return moved(other),
        _ => return string(other).map(Listed::Plain),
    };
    Some(Listed::Plain(plain))
}

fn port(other: &Other, operand: u32) -> PortNumber {
    match other.op_kind(operand) {
        OpKind::Immediate8 => PortNumber::Immediate(other.immediate8()),
        kind => {
            assert_eq!((kind, other.op_register(operand)), (OpKind::Register, OtherRegister::DX));
            PortNumber::Dx
        }
    }
}

fn moved(other: &Other) -> Option<Listed> {
    let width = width(other.memory_size().size());
    let [to, from] = [0, 1].map(|operand| other.op_kind(operand));
    match (other.mnemonic(), to, from) {
        (Mnemonic::Mov, OpKind::Register, OpKind::Register) => special(other).map(Listed::Plain),
        (Mnemonic::Mov | Mnemonic::Movzx, OpKind::Register, OpKind::Memory) => {
            Some(Listed::Load(width, Extension::Zero, gpr(other.op0_register())?))
        }
        (Mnemonic::Movsx, OpKind::Register, OpKind::Memory) => {
            Some(Listed::Load(width, Extension::Sign, gpr(other.op0_register())?))
        }
        (Mnemonic::Movsxd, OpKind::Register, OpKind::Memory) if other.code() == Code::Movsxd_r64_rm32 => {
            Some(Listed::Load(width, Extension::Sign, gpr(other.op0_register())?))
        }
        (Mnemonic::Mov, OpKind::Memory, OpKind::Register) => {
            Some(Listed::Store(width, Source::Register(gpr(other.op1_register())?)))
        }
        (Mnemonic::Mov, OpKind::Memory, _) => {
            Some(Listed::Store(width, Source::Immediate(other.immediate(1) & width.mask())))
        }
        _ => None,
    }
}

fn special(other: &Other) -> Option<Operation> {
    let [to, from] = [other.op0_register(), other.op1_register()];
    let whole = |register| match gpr(register) {
        Some(Register::Low(gpr, _)) => gpr,
        _ => panic!("{register:?}"),
    };
    Some(match (to, from) {
        (to, from) if from.is_cr() => Operation::ReadControl { number: from.number() as u8, into: whole(to) },
        (to, from) if from.is_dr() => Operation::ReadDebug { number: from.number() as u8, into: whole(to) },
        (to, from) if to.is_cr() => Operation::WriteControl { number: to.number() as u8, from: whole(from) },
        (to, from) if to.is_dr() => Operation::WriteDebug { number: to.number() as u8, from: whole(from) },
        _ => return None,
    })
}

fn string(other: &Other) -> Option<Operation> {
    use Code::*;
    let repeat = other.has_rep_prefix() || other.has_repne_prefix();
    let address = match (other.op0_kind(), other.op1_kind()) {
        (OpKind::MemoryESRDI, _) | (_, OpKind::MemorySegRSI) => Width::Qword,
        (OpKind::MemoryESEDI, _) | (_, OpKind::MemorySegESI) => Width::Dword,
        (OpKind::MemoryESDI, _) | (_, OpKind::MemorySegSI) => Width::Word,
        _ => return None,
    };
    let width = width(other.memory_size().size());
    let to = StringForm { address, repeat, segment: SegmentName::Es };
    let from = StringForm { segment: segment(other), ..to };
    Some(match other.code() {
        Insb_m8_DX | Insw_m16_DX | Insd_m32_DX => Operation::Ins { width, form: to },
        Outsb_DX_m8 | Outsw_DX_m16 | Outsd_DX_m32 => Operation::Outs { width, form: from },
        Movsb_m8_m8 | Movsw_m16_m16 | Movsd_m32_m32 | Movsq_m64_m64 => Operation::Movs { width, form: from },
        Stosb_m8_AL | Stosw_m16_AX | Stosd_m32_EAX | Stosq_m64_RAX => Operation::Stos { width, form: to },
        _ => return None,
    })
}

/// The segment of a memory operand. In 64-bit mode, those without effect are all the default.
pub(super) fn segment(other: &Other) -> SegmentName {
    match other.memory_segment() {
        OtherRegister::FS => SegmentName::Fs,
        OtherRegister::GS => SegmentName::Gs,
        OtherRegister::ES if !is_long(other) => SegmentName::Es,
        OtherRegister::CS if !is_long(other) => SegmentName::Cs,
        OtherRegister::SS if !is_long(other) => SegmentName::Ss,
        _ if is_long(other) && is_stack(other.memory_base()) => SegmentName::Ss,
        _ => SegmentName::Ds,
    }
}

fn is_long(other: &Other) -> bool {
    other.code_size() == iced_x86::CodeSize::Code64
}

fn is_stack(base: OtherRegister) -> bool {
    matches!(base.full_register(), OtherRegister::RSP | OtherRegister::RBP)
}

fn width(bytes: usize) -> Width {
    match bytes {
        1 => Width::Byte,
        2 => Width::Word,
        4 => Width::Dword,
        _ => Width::Qword,
    }
}

fn gpr(register: OtherRegister) -> Option<Register> {
    if !register.is_gpr() {
        return None;
    }
    let full = Gpr::new_truncate(register.full_register().number() as u8);
    Some(match register {
        OtherRegister::AH | OtherRegister::CH | OtherRegister::DH | OtherRegister::BH => Register::High(full),
        _ => Register::Low(full, width(register.size())),
    })
}
