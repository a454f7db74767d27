//! RDMSR and WRMSR. What the VMSA has a field for is the level's own and never a #VC; every other MSR is intercepted.
//!
//! Values are refused where every processor with SNP refuses them (24593, where it has each MSR). SPEC_CTRL, PAT, XSS and DEBUGCTL
//! are values only: this machine predicts, caches and traces nothing.

use super::{Actor, Stopped};
use crate::run::{KeyState, Running, exit_code, msr};
use crate::{Answer, Machine, vmsa};

/// EFER: SCE, LME, LMA, NXE, SVME, LMSLE, FFXSR, TCE, MCOMMIT, INTWB, UAIE, automatic IBRS.
const EFER_DEFINED: u64 = 1 | 1 << 8 | 0xf << 10 | 3 << 14 | 3 << 17 | 3 << 20;
/// EFER: LME, which stays as it is under paging.
const EFER_LME: u64 = 1 << 8;
/// CR0: PG.
const CR0_PG: u64 = 1 << 31;
/// SPEC_CTRL: IBRS, STIBP, SSBD, PSFD.
const SPEC_CTRL_DEFINED: u64 = 0b111 | 1 << 7;
/// PRED_CMD: IBPB, SBPB.
const PRED_CMD_DEFINED: u64 = 1 | 1 << 7;
/// DEBUGCTL: LBR, BTF, and the pins of old or the bus lock trap.
const DEBUGCTL_DEFINED: u64 = 0x3f;
/// XSS: shadow stacks, of user code and of supervisor code.
const XSS_DEFINED: u64 = 3 << 11;
/// Bits of a linear address where there are most.
const LINEAR_BITS: u32 = 57;

/// Which values an MSR takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Takes {
    /// All.
    Any,
    /// Those without other bits.
    Bits(u64),
    /// Addresses.
    Canonical,
    /// Eight memory types.
    Types,
    /// All, of which the lower half is kept.
    Lower,
}

impl Takes {
    /// The value as it is kept; `None` for one that raises #GP.
    fn kept(self, value: u64) -> Option<u64> {
        let is_right = match self {
            Self::Any => true,
            Self::Lower => return Some(value & 0xffff_ffff),
            Self::Bits(bits) => value & !bits == 0,
            Self::Canonical => {
                // Sign extended from the highest bit of an address.
                let unused = 64 - LINEAR_BITS;
                (value << unused).cast_signed() >> unused == value.cast_signed()
            }
            // UC, WC, WT, WP, WB, UC-.
            Self::Types => value.to_le_bytes().iter().all(|kind| matches!(kind, 0 | 1 | 4..=7)),
        };
        is_right.then_some(value)
    }
}

/// An MSR that a field of the VMSA holds.
#[derive(Clone, Copy, Debug)]
struct Own {
    offset: usize,
    bytes: usize,
    takes: Takes,
}

impl Own {
    fn of(number: u32) -> Option<Self> {
        let (offset, takes) = match number {
            msr::SPEC_CTRL => (vmsa::SPEC_CTRL, Takes::Bits(SPEC_CTRL_DEFINED)),
            msr::SYSENTER_CS => (vmsa::SYSENTER_CS, Takes::Any),
            // No check: only the lower halves are used.
            msr::SYSENTER_ESP => (vmsa::SYSENTER_ESP, Takes::Any),
            msr::SYSENTER_EIP => (vmsa::SYSENTER_EIP, Takes::Any),
            msr::DEBUGCTL => (vmsa::DBGCTL, Takes::Bits(DEBUGCTL_DEFINED)),
            msr::PAT => (vmsa::G_PAT, Takes::Types),
            msr::XSS => (vmsa::XSS, Takes::Bits(XSS_DEFINED)),
            msr::EFER => (vmsa::EFER, Takes::Bits(EFER_DEFINED)),
            msr::STAR => (vmsa::STAR, Takes::Any),
            msr::LSTAR => (vmsa::LSTAR, Takes::Canonical),
            msr::CSTAR => (vmsa::CSTAR, Takes::Canonical),
            msr::SFMASK => (vmsa::SFMASK, Takes::Any),
            msr::FS_BASE => (vmsa::FS + vmsa::SEGMENT_BASE, Takes::Canonical),
            msr::GS_BASE => (vmsa::GS + vmsa::SEGMENT_BASE, Takes::Canonical),
            msr::KERNEL_GS_BASE => (vmsa::KERNEL_GS_BASE, Takes::Canonical),
            msr::TSC_AUX => (vmsa::TSC_AUX, Takes::Lower),
            _ => return None,
        };
        Some(Self { offset, bytes: if offset == vmsa::TSC_AUX { 4 } else { 8 }, takes })
    }

    fn read(self, running: &Running) -> u64 {
        let value = vmsa::read_u64(&running.registers[..], self.offset);
        if self.bytes == 4 { value & 0xffff_ffff } else { value }
    }

    fn write(self, running: &mut Running, value: u64) {
        let field = running.registers[self.offset..].iter_mut().take(self.bytes);
        field.zip(value.to_le_bytes()).for_each(|(to, from)| *to = from);
    }
}

impl Machine {
    pub(super) fn rdmsr(&self, actor: Actor, number: u32) -> Result<Answer, Stopped> {
        let state = self.vcpus.get(usize::from(actor.vcpu.0));
        let Some(running) = state.and_then(|state| state.running.as_ref()) else {
            return Err(Stopped::GENERAL_PROTECTION);
        };
        let value = match (number, Own::of(number)) {
            (msr::GHCB, _) => self.ghcb_msr(running.key),
            // SEV, SEV-ES, then the features from bit 2 on.
            (msr::SEV_STATUS, _) => (vmsa::read_u64(&running.registers[..], vmsa::SEV_FEATURES) << 2) | 0b11,
            // A command has no value.
            (msr::PRED_CMD, _) => return Err(Stopped::GENERAL_PROTECTION),
            (_, Some(own)) => own.read(running),
            (_, None) => return Err(Stopped::intercepted(exit_code::MSR)),
        };
        Ok(Answer::Value(value))
    }

    pub(super) fn wrmsr(&mut self, actor: Actor, number: u32, value: u64) -> Result<Answer, Stopped> {
        let state = self.vcpus.get_mut(usize::from(actor.vcpu.0));
        let Some(running) = state.and_then(|state| state.running.as_mut()) else {
            return Err(Stopped::GENERAL_PROTECTION);
        };
        match (number, Own::of(number)) {
            (msr::GHCB, _) => self.keys.entry(running.key).or_insert(KeyState::NEW).ghcb_msr = value,
            (msr::SEV_STATUS, _) => return Err(Stopped::GENERAL_PROTECTION),
            // Nothing is predicted.
            (msr::PRED_CMD, _) if value & !PRED_CMD_DEFINED == 0 => {}
            (msr::PRED_CMD, _) => return Err(Stopped::GENERAL_PROTECTION),
            (_, Some(own)) => {
                let kept = own.takes.kept(value).ok_or(Stopped::GENERAL_PROTECTION)?;
                let kept = if number == msr::EFER { new_efer(running, kept)? } else { kept };
                own.write(running, kept);
            }
            (_, None) => return Err(Stopped::intercepted(exit_code::MSR)),
        }
        Ok(Answer::None)
    }
}

/// The running guest cannot change EFER.SVME (RMP-024), nor LME while it pages.
fn new_efer(running: &Running, value: u64) -> Result<u64, Stopped> {
    let field = |offset| vmsa::read_u64(&running.registers[..], offset);
    if (field(vmsa::EFER) ^ value) & EFER_LME != 0 && field(vmsa::CR0) & CR0_PG != 0 {
        return Err(Stopped::GENERAL_PROTECTION);
    }
    Ok(value | vmsa::EFER_SVME)
}
