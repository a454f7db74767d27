//! TDG.VP.RD, VP.WR, VM.RD, VM.WR and SYS.RD.

use alloc::boxed::Box;

use super::fields::{self, Field, L2_CTLS, Place, TSC_DEADLINE};
use super::{Refused, success};
use crate::Vcpu;
use crate::tdx::exec::Actor;
use crate::tdx::sept::attr;
use crate::tdx::status::{
    METADATA_FIELD_ID_INCORRECT, METADATA_FIELD_NOT_READABLE, METADATA_FIELD_NOT_WRITABLE,
    METADATA_FIELD_VALUE_NOT_VALID, METADATA_FIRST_FIELD_ID_IN_CONTEXT, OPERAND_INVALID, operand,
};
use crate::tdx::vmcs::field;
use crate::tdx::{FLEXIBLE_PENDING_VE, Machine, NO_RBP_MOD, Regs};

/// TDX_FEATURES0: VP.RD and VP.WR, local attestation. TD partitioning is bit 7.
const FEATURES: u64 = 1 << 3 | 1 << 8;
const FEATURE_PARTITIONING: u64 = 1 << 7;

/// CR4 bits that L1 may write only if the TD has the feature: key locker, PKE, CET, PKS, UINTR. This TD may have PKS.
const CR4_FEATURES: u64 = 1 << 19 | 1 << 22 | 1 << 23 | 1 << 24 | 1 << 25;
const CR4_PKS: u64 = 1 << 24;
/// ATTRIBUTES: PKS.
const ATTRIBUTE_PKS: u64 = 1 << 30;

/// Which registers a reading leaf gives back beside RAX when it fails.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reading {
    /// R8 = 0.
    Value,
    /// R8 = 0, and no next field in RDX.
    ValueAndNext,
}

impl Machine {
    pub(super) fn vp_rd(&mut self, actor: Actor, regs: &Regs) -> Result<Regs, Refused> {
        self.read_field(regs, Reading::ValueAndNext, fields::VP, |machine| {
            let field = machine.vp_field(regs)?;
            Ok((field, machine.vp_value(actor.vcpu, field.place)))
        })
    }

    pub(super) fn vp_wr(&mut self, actor: Actor, regs: &Regs) -> Result<Regs, Refused> {
        self.try_vp_wr(actor, regs).map_err(|status| failed(regs, Reading::Value, status))
    }

    pub(super) fn vm_rd(&mut self, regs: &Regs) -> Result<Regs, Refused> {
        let enumerates = regs.rax >> 16 & 0xff == 1;
        let reading = if enumerates { Reading::ValueAndNext } else { Reading::Value };
        self.read_field(regs, reading, fields::VM, |machine| {
            let field = vm_field(regs)?;
            Ok((field, machine.vm_value(field.place)))
        })
    }

    pub(super) fn vm_wr(&mut self, actor: Actor, regs: &Regs) -> Result<Regs, Refused> {
        self.try_vm_wr(actor, regs).map_err(|status| failed(regs, Reading::Value, status))
    }

    pub(super) fn sys_rd(&mut self, regs: &Regs) -> Result<Regs, Refused> {
        self.read_field(regs, Reading::ValueAndNext, fields::SYS, |machine| {
            let field = fields::find(fields::SYS, regs.rdx)?;
            Ok((field, machine.sys_value(field.place)))
        })
    }

    /// Reads the field that `find` finds, or names the first one of a table.
    fn read_field(
        &self,
        regs: &Regs,
        reading: Reading,
        table: &[fields::Row],
        find: impl FnOnce(&Self) -> Result<(Field, u64), u64>,
    ) -> Result<Regs, Refused> {
        let enumerates = reading == Reading::ValueAndNext;
        match find(self) {
            Err(METADATA_FIELD_ID_INCORRECT) if enumerates && fields::asks_for_first(regs.rdx) => {
                let rdx = table.first().map_or(fields::NO_FIELD, |row| row.id);
                Ok(Regs { rax: METADATA_FIRST_FIELD_ID_IN_CONTEXT, rdx, r8: 0, ..*regs })
            }
            Ok((field, value)) if field.read != 0 => {
                let rdx = if enumerates { field.next } else { regs.rdx };
                Ok(success(Regs { rdx, r8: value & field.read, ..*regs }))
            }
            Ok(_) => Err(failed(regs, reading, METADATA_FIELD_NOT_READABLE)),
            Err(status) => Err(failed(regs, reading, status)),
        }
    }

    fn try_vp_wr(&mut self, actor: Actor, regs: &Regs) -> Result<Regs, u64> {
        let field = self.vp_field(regs).map_err(|status| match status {
            METADATA_FIELD_NOT_READABLE => METADATA_FIELD_NOT_WRITABLE,
            other => other,
        })?;
        let old = self.vp_value(actor.vcpu, field.place);
        let new = self.written(&field, old, regs)?;
        self.check_value(field.place, new)?;
        match field.place {
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
            Place::Plain { class, code } => {
                if let Some(state) = self.vcpu_mut(actor.vcpu) {
                    state.fields.insert((class, code), new);
                }
            }
        }
        Ok(success(Regs { r8: old & field.read, ..*regs }))
    }

    /// What a field demands of its value beyond the masks.
    fn check_value(&self, place: Place, new: u64) -> Result<(), u64> {
        let pks = if self.config.attributes & ATTRIBUTE_PKS != 0 { CR4_PKS } else { 0 };
        let valid = match place {
            Place::Vmcs { encoding: field::VIRTUAL_APIC, .. } => self.is_private(new),
            Place::Vmcs { encoding: field::CR4, .. } if self.rule("TDX-56") => new & CR4_FEATURES & !pks == 0,
            // Too far in the future (TDX-46).
            Place::Plain { class, code } if self.vms().any(|vm| (class, code) == of_vm(TSC_DEADLINE, vm)) => {
                let ahead = new.saturating_sub(self.virtual_tsc());
                return if new != u64::MAX && ahead >> 63 != 0 { Err(OPERAND_INVALID) } else { Ok(()) };
            }
            _ => true,
        };
        if valid { Ok(()) } else { Err(METADATA_FIELD_VALUE_NOT_VALID) }
    }

    fn try_vm_wr(&mut self, actor: Actor, regs: &Regs) -> Result<Regs, u64> {
        let field = vm_field(regs)?;
        let old = self.vm_value(field.place);
        let new = self.written(&field, old, regs)?;
        let flexible = self.config.config_flags & FLEXIBLE_PENDING_VE != 0;
        match field.place {
            // L1 may not change PENDING_VE_DISABLE of this TD.
            Place::Plain { class: 17, code: 0x17 } if new != old && !flexible => {
                return Err(METADATA_FIELD_VALUE_NOT_VALID);
            }
            _ => {}
        }
        self.busy(actor, operand::METADATA_FIELD)?;
        match field.place {
            Place::Plain { class: 17, code: 0x10 } => self.td.notify_enables = new,
            _ => self.td.td_ctls = new,
        }
        Ok(success(Regs { r8: old & field.read, ..*regs }))
    }

    fn vp_field(&self, regs: &Regs) -> Result<Field, u64> {
        if regs.rcx != 0 {
            return Err(OPERAND_INVALID | operand::RCX);
        }
        fields::find_vp(regs.rdx, self.config.l2_vms)
    }

    /// The value after a write: bits of R9 that are L1's. What R9 selects and is not L1's must not change.
    fn written(&self, field: &Field, old: u64, regs: &Regs) -> Result<u64, u64> {
        let mut mask = regs.r9 & field.write;
        if mask == 0 {
            return Err(METADATA_FIELD_NOT_WRITABLE);
        }
        if !self.rule("TDX-56") {
            mask = regs.r9;
        } else if (old ^ regs.r8) & regs.r9 & !field.write != 0 {
            return Err(METADATA_FIELD_VALUE_NOT_VALID);
        }
        Ok(old & !mask | regs.r8 & mask)
    }

    fn sys_value(&self, place: Place) -> u64 {
        match place {
            Place::Plain { class: 8, code } => [0x8086, 0, 0, 5, 1].get(code as usize).copied().unwrap_or(0),
            Place::Plain { class: 10, code: 1 } => 1,
            Place::Plain { class: 10, code: 8 } => {
                FEATURES | if self.config.partitioning { FEATURE_PARTITIONING } else { 0 }
            }
            Place::Plain { class: 34, .. } => u64::from(attr::VALID | attr::MANAGED),
            _ => 0,
        }
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
        let start = if (0..4).any(|vm| at == of_vm(TSC_DEADLINE, vm)) { u64::MAX } else { 0 };
        self.vcpu(vcpu).and_then(|state| state.fields.get(&at)).copied().unwrap_or(start)
    }

    /// A word of the MSR bitmaps of a VM.
    pub(crate) fn msr_word(&self, vcpu: Vcpu, vm: u8, word: u16) -> u64 {
        self.guest(vcpu, vm).and_then(|guest| guest.msr_bitmap.get(&word)).copied().unwrap_or(u64::MAX)
    }

    /// L2_CTLS of a VM.
    pub(crate) fn l2_ctls(&self, vcpu: Vcpu, vm: u8) -> u64 {
        self.vp_plain(vcpu, of_vm(L2_CTLS, vm))
    }

    /// TSC_DEADLINE of a VM.
    pub(crate) fn deadline(&self, vcpu: Vcpu, vm: u8) -> u64 {
        self.vp_plain(vcpu, of_vm(TSC_DEADLINE, vm))
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

/// The registers of a leaf that names no field, or one that cannot be accessed so.
fn failed(regs: &Regs, reading: Reading, rax: u64) -> Refused {
    let rdx = if reading == Reading::ValueAndNext { fields::NO_FIELD } else { regs.rdx };
    Refused::Regs(Box::new(Regs { rax, rdx, r8: 0, ..*regs }))
}

fn vm_field(regs: &Regs) -> Result<Field, u64> {
    if regs.rcx != 0 {
        return Err(OPERAND_INVALID | operand::RCX);
    }
    fields::find(fields::VM, regs.rdx)
}

/// The element of a VM in an array of one for each.
pub(crate) fn of_vm(array: (u8, u32), vm: u8) -> (u8, u32) {
    (array.0, array.1 + u32::from(vm))
}
