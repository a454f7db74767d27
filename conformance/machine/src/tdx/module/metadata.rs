//! TDG.VP.RD, VP.WR, VM.RD, VM.WR and SYS.RD.

use super::fields::{self, Field, L2_CTLS, Place, TSC_DEADLINE};
use super::{Refused, success};
use crate::Vcpu;
use crate::tdx::exec::Actor;
use crate::tdx::status::{
    METADATA_FIELD_CURRENTLY_NOT_WRITABLE, METADATA_FIELD_ID_INCORRECT, METADATA_FIELD_NOT_READABLE,
    METADATA_FIELD_NOT_WRITABLE, METADATA_FIELD_VALUE_NOT_VALID, METADATA_WR_MASK_NOT_VALID, operand,
};
use crate::tdx::vmcs::field;
use crate::tdx::{FLEXIBLE_PENDING_VE, Machine, NO_RBP_MOD, Regs};

/// The first id was asked for (completion_status.csv).
const METADATA_FIRST_FIELD_ID_IN_CONTEXT: u64 = 0x0000_0c0b_0000_0000;
/// TDX_FEATURES0: VP.RD and VP.WR, local attestation. TD partitioning is bit 7.
const FEATURES: u64 = 1 << 3 | 1 << 8;
const FEATURE_PARTITIONING: u64 = 1 << 7;

impl Machine {
    pub(super) fn vp_rd(&mut self, actor: Actor, regs: &Regs) -> Result<Regs, Refused> {
        let field = self.vp_field(regs)?;
        if field.read == 0 {
            return Err(Refused::Status(METADATA_FIELD_NOT_READABLE));
        }
        let value = self.vp_value(actor.vcpu, field.place);
        Ok(success(Regs { rdx: field.next, r8: value & field.read, ..*regs }))
    }

    pub(super) fn vp_wr(&mut self, actor: Actor, regs: &Regs) -> Result<Regs, Refused> {
        let field = self.vp_field(regs).map_err(|refused| match refused {
            Refused::Status(METADATA_FIELD_NOT_READABLE) => Refused::Status(METADATA_FIELD_NOT_WRITABLE),
            other => other,
        })?;
        let old = self.vp_value(actor.vcpu, field.place);
        let new = self.written(&field, old, regs)?;
        match field.place {
            Place::Vmcs { encoding: field::VIRTUAL_APIC, .. } if !self.is_private(new) => {
                return Err(Refused::Status(METADATA_FIELD_VALUE_NOT_VALID));
            }
            Place::Vmcs { vm, encoding } => {
                if let Some(guest) = self.guest_mut(actor.vcpu, vm) {
                    guest.has_vapic |= encoding == field::VIRTUAL_APIC;
                    guest.vmcs.set(encoding, new);
                }
            }
            Place::MsrBitmap { vm, word } => {
                if let Some(guest) = self.guest_mut(actor.vcpu, vm) {
                    guest.msr_bitmap.insert(word, new);
                }
            }
            // VM 0 has no controls of this kind.
            Place::Plain { class: 32, code: 0x50 } => return Err(Refused::Status(METADATA_FIELD_NOT_WRITABLE)),
            Place::Plain { class, code } => {
                if let Some(state) = self.vcpu_mut(actor.vcpu) {
                    state.fields.insert((class, code), new);
                }
            }
        }
        Ok(success(Regs { r8: old & field.read, ..*regs }))
    }

    pub(super) fn vm_rd(&mut self, regs: &Regs) -> Result<Regs, Refused> {
        let enumerates = regs.rax >> 16 & 0xff == 1;
        if regs.rcx != 0 {
            return Err(Refused::operand(operand::RCX));
        }
        if enumerates && regs.rdx == u64::MAX {
            let first = fields::VM.first().map_or(u64::MAX, |row| row.id);
            return Ok(Regs { rax: METADATA_FIRST_FIELD_ID_IN_CONTEXT, rdx: first, r8: 0, ..*regs });
        }
        let field = fields::find(fields::VM, regs.rdx).map_err(Refused::Status)?;
        let rdx = if enumerates { field.next } else { regs.rdx };
        Ok(success(Regs { rdx, r8: self.vm_value(field.place) & field.read, ..*regs }))
    }

    pub(super) fn vm_wr(&mut self, regs: &Regs) -> Result<Regs, Refused> {
        if regs.rcx != 0 {
            return Err(Refused::operand(operand::RCX));
        }
        let field = fields::find(fields::VM, regs.rdx).map_err(Refused::Status)?;
        let old = self.vm_value(field.place);
        let new = self.written(&field, old, regs)?;
        match field.place {
            Place::Plain { class: 17, code: 0x10 } => self.td.notify_enables = new,
            Place::Plain { class: 17, code: 0x17 } if self.config.config_flags & FLEXIBLE_PENDING_VE != 0 => {
                self.td.td_ctls = new;
            }
            _ => return Err(Refused::Status(METADATA_FIELD_CURRENTLY_NOT_WRITABLE)),
        }
        Ok(success(Regs { r8: old & field.read, ..*regs }))
    }

    pub(super) fn sys_rd(&mut self, regs: &Regs) -> Result<Regs, Refused> {
        let field = fields::find(fields::SYS, regs.rdx).map_err(Refused::Status)?;
        let value = match field.place {
            Place::Plain { class: 8, code } => [0x8086, 0, 0, 5, 1].get(code as usize).copied().unwrap_or(0),
            Place::Plain { class: 10, code: 1 } => 1,
            Place::Plain { class: 10, code: 8 } => {
                FEATURES | if self.config.partitioning { FEATURE_PARTITIONING } else { 0 }
            }
            Place::Plain { class: 34, .. } => 0x807f,
            _ => 0,
        };
        Ok(success(Regs { rdx: field.next, r8: value & field.read, ..*regs }))
    }

    fn vp_field(&self, regs: &Regs) -> Result<Field, Refused> {
        if regs.rcx != 0 {
            return Err(Refused::operand(operand::RCX));
        }
        let field = fields::find_vp(regs.rdx, self.config.l2_vms).map_err(Refused::Status)?;
        // Elements of VMs that are not there.
        if let Place::Plain { class: 32, code } = field.place {
            let vm =
                [L2_CTLS, TSC_DEADLINE].iter().find_map(|(_, first)| code.checked_sub(*first).filter(|vm| *vm < 4));
            if vm.is_some_and(|vm| vm > u32::from(self.config.l2_vms)) {
                return Err(Refused::Status(METADATA_FIELD_ID_INCORRECT));
            }
        }
        Ok(field)
    }

    /// The value after a write: bits of R9 that are L1's. What is not L1's to write is dropped, or, in a strict field,
    /// must not change.
    fn written(&self, field: &Field, old: u64, regs: &Regs) -> Result<u64, Refused> {
        if field.write == 0 {
            return Err(Refused::Status(METADATA_FIELD_NOT_WRITABLE));
        }
        let mut mask = regs.r9 & field.write;
        if mask == 0 {
            return Err(Refused::Status(METADATA_WR_MASK_NOT_VALID));
        }
        if !self.rule("TDX-56") {
            mask = regs.r9;
        } else if field.strict && (old ^ regs.r8) & regs.r9 & !field.write != 0 {
            return Err(Refused::Status(METADATA_FIELD_VALUE_NOT_VALID));
        }
        Ok(old & !mask | regs.r8 & mask)
    }

    fn vp_value(&self, vcpu: Vcpu, place: Place) -> u64 {
        match place {
            Place::Vmcs { vm, encoding } => self.guest(vcpu, vm).map_or(0, |guest| guest.vmcs.get(encoding)),
            Place::MsrBitmap { vm, word } => self.msr_word(vcpu, vm, word),
            Place::Plain { class: 32, code: 2 } => u64::from(vcpu.0),
            Place::Plain { class, code } => self.vp_plain(vcpu, (class, code)),
        }
    }

    /// A plain TDVPS field by class and code.
    pub(crate) fn vp_plain(&self, vcpu: Vcpu, at: (u8, u32)) -> u64 {
        let deadline = at.0 == TSC_DEADLINE.0 && at.1.wrapping_sub(TSC_DEADLINE.1) < 4;
        let start = if deadline { u64::MAX } else { 0 };
        self.vcpu(vcpu).and_then(|state| state.fields.get(&at)).copied().unwrap_or(start)
    }

    /// A word of the MSR bitmaps of a VM.
    pub(crate) fn msr_word(&self, vcpu: Vcpu, vm: u8, word: u16) -> u64 {
        self.guest(vcpu, vm).and_then(|guest| guest.msr_bitmap.get(&word)).copied().unwrap_or(u64::MAX)
    }

    /// L2_CTLS of a VM.
    pub(crate) fn l2_ctls(&self, vcpu: Vcpu, vm: u8) -> u64 {
        self.vp_plain(vcpu, (L2_CTLS.0, L2_CTLS.1 + u32::from(vm)))
    }

    fn vm_value(&self, place: Place) -> u64 {
        let Place::Plain { class, code } = place else { return 0 };
        let measured = |bytes: &[u8; 48], word: u32| {
            let mut quad = [0; 8];
            let at = word as usize * 8;
            bytes.get(at..at + 8).into_iter().for_each(|part| quad.copy_from_slice(part));
            u64::from_le_bytes(quad)
        };
        match (class, code) {
            (16, 1) | (17, 2) => u64::from(self.config.vcpus),
            (16, 5) => u64::from(self.config.l2_vms),
            (17, 0) => self.config.attributes,
            (17, 1) => super::report::XFAM,
            (17, 3) => u64::from(self.config.gpaw == 52),
            (17, 0xc) => 100,
            (17, 0x10) => self.td.notify_enables,
            (17, 0x16) => {
                self.config.config_flags & (FLEXIBLE_PENDING_VE | NO_RBP_MOD) | u64::from(self.config.gpaw == 52)
            }
            (17, 0x17) => self.pending_ve_disable().into(),
            (19, 0..6) => measured(&self.td.mrtd.0, code),
            (19, 0x40..0x58) => {
                let word = code - 0x40;
                self.td.rtmr.get(word as usize / 6).map_or(0, |rtmr| measured(&rtmr.0, word % 6))
            }
            _ => 0,
        }
    }

    /// TD_CTLS.PENDING_VE_DISABLE, which starts as the attribute says.
    pub(crate) fn pending_ve_disable(&self) -> bool {
        self.td.td_ctls & 1 != 0
    }
}
