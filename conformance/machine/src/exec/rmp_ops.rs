//! PVALIDATE, RMPADJUST and RMPQUERY (instructions.csv).

use super::{Actor, Stopped};
use crate::nested::page_of;
use crate::rmp::{GUEST_ASID, RmpEntry, code, npf, perm};
use crate::{Answer, Machine, PAGE_SIZE};

/// RMPADJUST RDX: VMSA attribute.
pub(crate) const RDX_VMSA: u64 = 1 << 16;
/// RMPADJUST RDX: reserved, together with the reserved bits of the mask.
pub(crate) const RDX_RESERVED: u64 = !0x1_1fff;

/// What an instruction works on.
struct Page {
    /// System page of the address.
    spa_page: u64,
    entry: RmpEntry,
}

impl Machine {
    fn size_of(&self, large: bool) -> u64 {
        if large { self.large_page_size() } else { PAGE_SIZE }
    }

    /// The page must be the guest's, at this address, and a 4K request must not meet a 2M entry: else a nested fault.
    fn owned_page(&self, gpa: u64, large: Option<bool>) -> Result<Page, Stopped> {
        let info = npf::FINAL | npf::ENC;
        let Some((spa_page, _)) = self.nested.get(page_of(gpa)) else {
            return Err(Stopped::nested_fault(info, gpa));
        };
        let entry = self.rmp.get(spa_page);
        let owned = entry.assigned && entry.asid == GUEST_ASID && entry.gpa == gpa && !entry.immutable;
        if !owned && (self.rule("RMP-032") || !entry.assigned) {
            return Err(Stopped::nested_fault(info | npf::PRESENT | npf::RMP, gpa));
        }
        if large == Some(false) && entry.large && self.rule("RMP-010") {
            return Err(Stopped::nested_fault(info | npf::PRESENT | npf::RMP | npf::SIZEM, gpa));
        }
        Ok(Page { spa_page, entry })
    }

    /// PVALIDATE. Order: VMPL0, operands, ownership, 4K on 2M, 2M on 4K, no change, in use, done.
    pub(super) fn pvalidate(&mut self, actor: Actor, gpa: u64, ecx: u32, edx: u32) -> Result<Answer, Stopped> {
        if actor.vmpl != 0 && self.rule("PVALIDATE-VMPL0") {
            return Err(Stopped::GENERAL_PROTECTION);
        }
        let answer = |eax, carry| Ok(Answer::Pvalidate { eax, carry });
        let (large, validate) = (ecx == 1, edx == 1);
        if ecx > 1 || edx > 1 || !gpa.is_multiple_of(self.size_of(large)) {
            return answer(code::FAIL_INPUT, false);
        }
        let page = self.owned_page(gpa, Some(large))?;
        if large && !page.entry.large && self.rule("RMP-011") {
            return answer(code::FAIL_SIZEMISMATCH, false);
        }
        if page.entry.validated == validate {
            self.oracle_pvalidated(actor, gpa, large, validate, false);
            return answer(code::SUCCESS, self.rule("RMP-008"));
        }
        if self.rule("RMP-020") && self.is_running_vmsa(page.spa_page) {
            return answer(code::FAIL_INUSE, false);
        }
        self.rmp.update(page.spa_page, |entry| entry.validated = validate);
        self.oracle_pvalidated(actor, gpa, page.entry.large, validate, true);
        self.oracle_rights_changed(page.spa_page, if page.entry.large { self.pages_per_large() } else { 1 });
        answer(code::SUCCESS, false)
    }

    /// RMPADJUST. Order: operands, target VMPL, ownership, 4K on 2M, validated, 2M on 4K, in use, mask, done.
    ///
    /// Choices where the sources are silent: a target beyond the implemented VMPLs is 2, reserved bits (the one for supervisor
    /// shadow stacks among them where the processor lacks VmplSSS) and a 2M VMSA are 1.
    pub(super) fn rmpadjust(&mut self, actor: Actor, gpa: u64, rcx: u64, rdx: u64) -> Result<Answer, Stopped> {
        let answer = |eax| Ok(Answer::Rmpadjust { eax });
        let large = rcx == 1;
        let shadow_stack = rdx >> 8 & u64::from(perm::SHADOW_STACK) != 0;
        let reserved = rdx & RDX_RESERVED != 0 || shadow_stack && !self.config.vmpl_sss;
        if rcx > 1 || !gpa.is_multiple_of(self.size_of(large)) || reserved {
            return answer(code::FAIL_INPUT);
        }
        let target = (rdx & 0xff) as u8;
        let exists = target < self.config.vmpls.min(4);
        if !exists || (target <= actor.vmpl && self.rule("RMP-014")) {
            return answer(code::FAIL_PERMISSION);
        }
        let page = self.owned_page(gpa, Some(large))?;
        if !page.entry.validated && self.rule("RMP-017") {
            return Err(Stopped::not_validated(gpa));
        }
        if large && !page.entry.large {
            return answer(code::FAIL_SIZEMISMATCH);
        }
        let count = if page.entry.large { self.pages_per_large() } else { 1 };
        let first = page.spa_page - page.spa_page % count;
        if self.rule("RMP-020") && (first..first + count).any(|page| self.is_running_vmsa(page)) {
            return answer(code::FAIL_INUSE);
        }
        let mask = (rdx >> 8) as u8 & perm::ALL;
        if mask & !page.entry.rights(actor.vmpl) != 0 && self.rule("RMP-015") {
            return answer(code::FAIL_PERMISSION);
        }
        let may_flag = actor.vmpl == 0 || !self.rule("RMP-018");
        let vmsa = if may_flag { rdx & RDX_VMSA != 0 } else { page.entry.vmsa };
        if vmsa && page.entry.large {
            return answer(code::FAIL_INPUT);
        }
        self.rmp.update(page.spa_page, |entry| {
            if let Some(rights) = entry.perms.get_mut(usize::from(target)) {
                *rights = mask;
            }
            entry.vmsa = vmsa;
        });
        if vmsa && !page.entry.vmsa {
            *self.generations.entry(gpa).or_insert(0) += 1;
        }
        self.oracle_rights_changed(first, count);
        answer(code::SUCCESS)
    }

    /// RMPQUERY. Order: target VMPL, ownership, validated.
    pub(super) fn rmpquery(&mut self, actor: Actor, gpa: u64, rdx: u64) -> Result<Answer, Stopped> {
        if !self.config.rmpquery {
            return Err(Stopped::INVALID_OPCODE);
        }
        let failed = |eax| Ok(Answer::Rmpquery { eax, rcx: 0, rdx: 0 });
        let gpa = gpa - gpa % PAGE_SIZE;
        let target = (rdx & 0xff) as u8;
        if target < actor.vmpl || target >= self.config.vmpls.min(4) {
            return failed(code::FAIL_PERMISSION);
        }
        let entry = self.owned_page(gpa, None)?.entry;
        if !entry.validated {
            return Err(Stopped::not_validated(gpa));
        }
        Ok(Answer::Rmpquery {
            eax: code::SUCCESS,
            rcx: u64::from(entry.large),
            rdx: (u64::from(entry.vmsa) << 16) | (u64::from(entry.rights(target)) << 8) | u64::from(target),
        })
    }
}
