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

/// RCX and RDX are 0 where a leaf fails with a status.
fn cleared(regs: &Regs, refused: Refused) -> Refused {
    match refused {
        Refused::Status(rax) => Refused::Regs(Box::new(Regs { rax, rcx: 0, rdx: 0, ..*regs })),
        other => other,
    }
}

/// W and PWA need R. SVE and reserved bits are never set.
fn is_legal(new: u16) -> bool {
    let needs_read = new & (attr::WRITE | attr::PAGING_WRITE) != 0;
    new & !(attr::MANAGED | attr::VALID) == 0 && (!needs_read || new & attr::READ != 0)
}

impl Machine {
    pub(super) fn attr_rd(&mut self, actor: Actor, regs: &Regs) -> Result<Regs, Refused> {
        self.try_attr_rd(actor, regs).map_err(|refused| cleared(regs, refused))
    }

    fn try_attr_rd(&mut self, actor: Actor, regs: &Regs) -> Result<Regs, Refused> {
        let gpa = regs.rcx & PAGE_ADDRESS;
        if regs.rcx & !(PAGE_ADDRESS | 0xfff) != 0 || !self.is_private(gpa) {
            return Err(Refused::operand(operand::RCX));
        }
        self.busy(actor, operand::RCX)?;
        let found = self.usable_leaf(gpa, EptCause::AttrRead)?;
        Ok(success(Regs { rcx: page_word(&found), rdx: word(&found.leaf.aliases), ..*regs }))
    }

    /// In this order: RDX and R8 by VM, RCX, a walk that ends above the level, busy, size, not mapped or blocked; then
    /// by VM legality and table page. Then all VMs at once.
    pub(super) fn attr_wr(&mut self, actor: Actor, regs: &Regs) -> Result<Regs, Refused> {
        self.try_attr_wr(actor, regs).map_err(|refused| cleared(regs, refused))
    }

    fn try_attr_wr(&mut self, actor: Actor, regs: &Regs) -> Result<Regs, Refused> {
        self.check_words(regs)?;
        let (level, gpa) = (regs.rcx & 7, regs.rcx & PAGE_ADDRESS);
        let pages = PAGES_PER_LARGE.pow(level.min(2) as u32);
        let page = page_of(gpa);
        let known = regs.rcx & !(PAGE_ADDRESS | 7) == 0 && level <= 2;
        if !known || !page.is_multiple_of(pages) || !self.is_private(gpa) {
            return Err(Refused::operand(operand::RCX));
        }
        let cause = EptCause::AttrWrite { level: level as u8 };
        if self.walk_ends_above(page, level) {
            return Err(TdExit::EptViolation { level: 0, gpa, cause }.into());
        }
        self.busy(actor, operand::RCX)?;
        if level == 1 && self.sept.is_split(page) || level == 2 && self.sept.has_gib(page) {
            return Err(Refused::Status(PAGE_SIZE_MISMATCH | level));
        }
        let found = self.usable_leaf(gpa, cause)?;
        let Change { aliases, answer, legal } = self.changed(actor, regs, &found.leaf)?;
        if !legal {
            return Err(Refused::Regs(Box::new(Regs { rax: PAGE_ATTR_INVALID, rcx: 0, rdx: answer, ..*regs })));
        }
        self.sept.update(page, |leaf| leaf.aliases = aliases);
        self.oracle_aliases_changed(found.first, found.pages());
        for vm in self.vms().filter(|vm| part(regs.r8, *vm) & attr::VALID != 0) {
            self.invalidate(actor.vcpu, vm);
        }
        Ok(success(Regs { rcx: page_word(&found), rdx: answer, ..*regs }))
    }

    /// What ATTR.WR makes of the aliases of a leaf. Bits that R8 does not select keep their value, and are 0 in a fresh
    /// alias; an alias without a right goes.
    fn changed(&self, actor: Actor, regs: &Regs, leaf: &Leaf) -> Result<Change, Refused> {
        let mut change = Change { aliases: leaf.aliases, answer: 0, legal: true };
        let (level, gpa) = (regs.rcx & 7, regs.rcx & PAGE_ADDRESS);
        for (vm, alias) in (1..).zip(&mut change.aliases) {
            let (asked, mask) = (part(regs.rdx, vm), part(regs.r8, vm) | attr::VALID);
            if asked & attr::VALID == 0 {
                continue;
            }
            let now = *alias;
            let new = now & !mask | asked & mask;
            let answer = if new & attr::RIGHTS == 0 {
                *alias = 0;
                if now == 0 { asked } else { attr::VALID }
            } else if self.rule("ATTR-LEGAL") && !is_legal(new) {
                change.legal = false;
                now
            } else {
                if now == 0 {
                    self.need_table(actor, vm, level, gpa)?;
                }
                *alias = new;
                new
            };
            change.answer |= u64::from(answer) << (16 * u32::from(vm));
        }
        Ok(change)
    }

    /// RDX and R8 name no VM that is not there, and RDX says nothing about a VM without VALID.
    fn check_words(&self, regs: &Regs) -> Result<(), Refused> {
        if !self.rule("ATTR-OPERANDS") {
            return Ok(());
        }
        for vm in 0..4 {
            let (asked, mask) = (part(regs.rdx, vm), part(regs.r8, vm));
            let there = self.vms().contains(&vm);
            if asked != 0 && (!there || asked & attr::VALID == 0) {
                return Err(Refused::operand(operand::RDX));
            }
            if mask != 0 && !there {
                return Err(Refused::operand(operand::R8));
            }
        }
        Ok(())
    }

    /// The walk to an entry of this level ends at one above it: a larger leaf, or none.
    pub(super) fn walk_ends_above(&self, page: u64, level: u64) -> bool {
        level == 0 && !self.sept.is_split(page)
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
        self.counters.change(vcpu, 0, |c| c.invalidations += 1);
        if let Some(guest) = self.guest_mut(vcpu, vm) {
            guest.tlb.flush_all();
        }
    }
}

/// What TDG.MEM.PAGE.ATTR.WR is about to do.
struct Change {
    aliases: [u16; 3],
    /// RDX: what the VMs have then that RDX named; one whose attributes would be illegal, what it has now.
    answer: u64,
    legal: bool,
}
