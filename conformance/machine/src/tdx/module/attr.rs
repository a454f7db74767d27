//! TDG.MEM.PAGE.ATTR.RD and ATTR.WR (page_attr.csv).

use alloc::boxed::Box;

use super::{PAGE_ADDRESS, Refused, success};
use crate::PAGES_PER_LARGE;
use crate::nested::page_of;
use crate::tdx::exec::Actor;
use crate::tdx::sept::{Found, Leaf, attr};
use crate::tdx::status::{L2_SEPT_WALK_FAILED, PAGE_ATTR_INVALID, PAGE_SIZE_MISMATCH, operand};
use crate::tdx::{EptCause, Machine, Regs, TdExit};

/// Bit of RCX: the page is pending.
const PENDING: u64 = 1 << 62;

/// The 16 bits of a VM in a word.
fn part(word: u64, vm: u8) -> u16 {
    (word >> (16 * u32::from(vm & 3))) as u16
}

/// Attributes of all VMs as a word.
fn word(aliases: &[u16; 3]) -> u64 {
    aliases.iter().rev().fold(0, |word, alias| (word | u64::from(*alias)) << 16)
}

/// RCX as the leaves give it back.
fn page_word(found: &Found) -> u64 {
    let pending = if found.leaf.accepted { 0 } else { PENDING };
    (found.first * crate::PAGE_SIZE) | u64::from(found.large) | pending
}

/// W and PWA need R; nothing but R, W, Xs, Xu, VGP, PWA, SSS exists to be written.
fn is_legal(asked: u16, new: u16) -> bool {
    let needs_read = new & (attr::WRITE | attr::PAGING_WRITE) != 0;
    asked & !(attr::MANAGED | attr::VALID) == 0 && (!needs_read || new & attr::READ != 0)
}

impl Machine {
    pub(super) fn attr_rd(&mut self, actor: Actor, regs: &Regs) -> Result<Regs, Refused> {
        let gpa = regs.rcx & PAGE_ADDRESS;
        if regs.rcx & !(PAGE_ADDRESS | 7) != 0 || !self.is_private(gpa) {
            return Err(Refused::operand(operand::RCX));
        }
        self.busy(actor, operand::RCX)?;
        let found = self.usable_leaf(gpa, EptCause::AttrRead)?;
        Ok(success(Regs { rcx: page_word(&found), rdx: word(&found.leaf.aliases), ..*regs }))
    }

    /// In this order: RCX, RDX, R8, busy, not mapped or of another size, blocked, legality, table pages. Then all VMs
    /// at once.
    pub(super) fn attr_wr(&mut self, actor: Actor, regs: &Regs) -> Result<Regs, Refused> {
        let result = self.try_attr_wr(actor, regs);
        match result {
            Err(Refused::Status(rax)) => Err(Refused::Regs(Box::new(Regs { rax, rcx: 0, rdx: 0, ..*regs }))),
            result => result,
        }
    }

    fn try_attr_wr(&mut self, actor: Actor, regs: &Regs) -> Result<Regs, Refused> {
        let (level, gpa) = (regs.rcx & 7, regs.rcx & PAGE_ADDRESS);
        let pages = PAGES_PER_LARGE.pow(level.min(2) as u32);
        let page = page_of(gpa);
        let known = regs.rcx & !(PAGE_ADDRESS | 7) == 0 && level <= 2;
        if !known || !page.is_multiple_of(pages) || !self.is_private(gpa) {
            return Err(Refused::operand(operand::RCX));
        }
        self.check_words(regs)?;
        self.busy(actor, operand::RCX)?;

        let cause = EptCause::AttrWrite { level: level as u8 };
        let mismatch = Refused::Status(PAGE_SIZE_MISMATCH | level);
        match self.sept.get(page) {
            _ if level == 1 && self.sept.is_split(page) => return Err(mismatch),
            Some(_) if level == 2 => return Err(mismatch),
            None if level == 2 && self.sept.is_split(page) => return Err(mismatch),
            Some(found) if found.large && level == 0 => {
                return Err(TdExit::EptViolation { level: 0, gpa, cause }.into());
            }
            _ => {}
        }
        let found = self.usable_leaf(gpa, cause)?;

        let mut aliases = found.leaf.aliases;
        for (vm, alias) in (1..).zip(&mut aliases) {
            let (asked, mask) = (part(regs.rdx, vm), part(regs.r8, vm) & attr::MANAGED);
            if asked & attr::VALID == 0 {
                continue;
            }
            let new = *alias & attr::MANAGED & !mask | asked & mask;
            if self.rule("ATTR-LEGAL") && !is_legal(asked, new) {
                let rdx = word(&found.leaf.aliases);
                return Err(Refused::Regs(Box::new(Regs { rax: PAGE_ATTR_INVALID, rcx: 0, rdx, ..*regs })));
            }
            *alias = if new & attr::RIGHTS == 0 { 0 } else { new | attr::VALID };
        }
        for (vm, alias) in (1..).zip(aliases) {
            if alias != 0 && found.leaf.alias(vm) == 0 {
                self.need_table(actor, vm, level, gpa)?;
            }
        }

        self.sept.update(page, |leaf| leaf.aliases = aliases);
        self.oracle_aliases_changed(found.first, found.pages());
        for vm in self.vms().filter(|vm| part(regs.r8, *vm) & attr::VALID != 0) {
            self.invalidate(actor.vcpu, vm);
        }
        let found = Found { leaf: Leaf { aliases, ..found.leaf }, ..found };
        Ok(success(Regs { rcx: page_word(&found), rdx: word(&aliases), ..*regs }))
    }

    /// RDX and R8 name no VM that is not there, and RDX says nothing about a VM without VALID.
    fn check_words(&self, regs: &Regs) -> Result<(), Refused> {
        if !self.rule("ATTR-OPERANDS") {
            return Ok(());
        }
        let there = |vm: u8| self.vms().contains(&vm);
        let value_ok = |vm: u8| {
            let asked = part(regs.rdx, vm);
            asked == 0 || there(vm) && asked & attr::VALID != 0
        };
        if !(0..4).all(value_ok) {
            return Err(Refused::operand(operand::RDX));
        }
        if !(0..4).all(|vm| part(regs.r8, vm) == 0 || there(vm)) {
            return Err(Refused::operand(operand::R8));
        }
        Ok(())
    }

    /// The entry of a page, mapped and not blocked, else it is the host's turn.
    fn usable_leaf(&self, gpa: u64, cause: EptCause) -> Result<Found, TdExit> {
        let usable = |found: &Found| !(found.leaf.blocked && self.rule("BLOCKED"));
        self.sept.get(page_of(gpa)).filter(usable).ok_or(TdExit::EptViolation { level: 0, gpa, cause })
    }

    /// The table page for an alias (TDX-24).
    fn need_table(&self, actor: Actor, vm: u8, level: u64, gpa: u64) -> Result<(), Refused> {
        if self.has_table(actor.vcpu, vm, gpa) || !self.rule("TDX-24") {
            return Ok(());
        }
        if self.table_exits(actor.vcpu) {
            let cause = EptCause::Table { vm, level: level as u8 + 1 };
            return Err(TdExit::EptViolation { level: 0, gpa, cause }.into());
        }
        Err(Refused::Status(L2_SEPT_WALK_FAILED | u64::from(vm) << 16 | (level + 1)))
    }

    /// INVEPT of one VM on one vCPU.
    pub(crate) fn invalidate(&mut self, vcpu: crate::Vcpu, vm: u8) {
        if let Some(guest) = self.guest_mut(vcpu, vm) {
            guest.tlb.flush_all();
        }
    }
}
