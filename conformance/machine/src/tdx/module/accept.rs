//! TDG.MEM.PAGE.ACCEPT (page_accept.csv).

use super::{PAGE_ADDRESS, Refused, success};
use crate::nested::page_of;
use crate::tdx::exec::Actor;
use crate::tdx::status::{PAGE_ALREADY_ACCEPTED, PAGE_SIZE_MISMATCH, operand};
use crate::tdx::{EptCause, Machine, Regs, TdExit};
use crate::{LARGE_PAGE_SIZE, PAGE_SIZE};

impl Machine {
    /// In this order: operands, a walk that ends above the level, busy, size, blocked or not mapped, accepted before.
    pub(super) fn page_accept(&mut self, actor: Actor, regs: &Regs) -> Result<Regs, Refused> {
        let (level, gpa) = (regs.rcx & 7, regs.rcx & PAGE_ADDRESS);
        let size = if level == 0 { PAGE_SIZE } else { LARGE_PAGE_SIZE };
        let known = regs.rcx & !(PAGE_ADDRESS | 7) == 0 && level <= 1;
        if !known || !gpa.is_multiple_of(size) || !self.is_private(gpa) {
            return Err(Refused::operand(operand::RCX));
        }
        let page = page_of(gpa);
        let found = self.sept.get(page).filter(|found| !(found.leaf.blocked && self.rule("BLOCKED")));
        let cause = EptCause::Accept { level: level as u8 };
        let violation = TdExit::EptViolation { level: 0, gpa, cause };
        let accepted = found.filter(|found| found.leaf.accepted);
        if self.walk_ends_above(page, level) {
            return Err(accepted.map_or(violation.into(), |found| self.accepted_before(found.large)));
        }
        self.busy(actor, operand::RCX)?;
        if level == 1 && self.sept.is_split(page) {
            if self.rule("ACCEPT-SIZE") {
                return Err(Refused::Status(PAGE_SIZE_MISMATCH | level));
            }
            // Without the rule: whatever is pending there.
            (page..page + crate::PAGES_PER_LARGE).for_each(|page| self.accept_leaf(page));
            return Ok(success(*regs));
        }
        match (found, accepted) {
            (None, _) => return Err(violation.into()),
            (_, Some(found)) => return Err(self.accepted_before(found.large)),
            _ => self.accept_leaf(page),
        }
        Ok(success(*regs))
    }

    fn accepted_before(&self, large: bool) -> Refused {
        Refused::Status(if self.rule("ACCEPT-AGAIN") { PAGE_ALREADY_ACCEPTED | u64::from(large) } else { 0 })
    }

    /// A pending page becomes L1's, and the aliases of it usable.
    fn accept_leaf(&mut self, page: u64) {
        let Some(found) = self.sept.get(page) else { return };
        if found.leaf.accepted {
            return;
        }
        if self.rule("ACCEPT-ZERO") {
            self.private.zero(found.leaf.spa, found.pages());
        }
        self.sept.update(page, |leaf| leaf.accepted = true);
        self.oracle_accepted(found.first, found.pages());
    }
}
