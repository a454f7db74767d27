//! TDG.VP.INVEPT and TDG.VP.INVVPID.

use super::{Refused, success};
use crate::PAGE_SIZE;
use crate::tdx::exec::{Access, Actor};
use crate::tdx::status::{GLA_NOT_CANONICAL, operand};
use crate::tdx::vmcs::is_canonical;
use crate::tdx::{Machine, Regs};

/// INVVPID: address of the list page in RDX 51:12.
const LIST_ADDRESS: u64 = 0x000f_ffff_ffff_f000;
/// INVVPID: entries of a list page.
const LIST_ENTRIES: u64 = 512;

impl Machine {
    /// Only on this processor (TDX-34).
    pub(super) fn invept(&mut self, actor: Actor, regs: &Regs) -> Result<Regs, Refused> {
        let allowed = self.vms().fold(0, |bits, vm| bits | 1 << vm);
        if regs.rcx & !allowed != 0 {
            return Err(Refused::operand(operand::RCX));
        }
        for vm in self.vms().filter(|vm| regs.rcx & 1 << vm != 0) {
            self.invalidate(actor.vcpu, vm);
        }
        Ok(success(*regs))
    }

    /// Its operands are checked; it drops linear mappings, and this machine caches none.
    pub(super) fn invvpid(&mut self, actor: Actor, regs: &Regs) -> Result<Regs, Refused> {
        let vm = (regs.rcx >> 52 & 3) as u8;
        let list = regs.rcx & 1 != 0;
        if regs.rcx & !(3 << 52 | 1) != 0 || !self.vms().contains(&vm) {
            return Err(Refused::operand(operand::RCX));
        }
        if !list {
            return if covers_canonical(regs.rdx) { Ok(success(*regs)) } else { Err(GLA_NOT_CANONICAL.into()) };
        }
        let (first, count, gpa) = (regs.rdx & 0x1ff, regs.rdx >> 52 & 0x3ff, regs.rdx & LIST_ADDRESS);
        let known = regs.rdx >> 62 == 0 && regs.rdx & 0xe00 == 0;
        if !known || first + count > LIST_ENTRIES || !self.is_private(gpa) {
            return Err(Refused::operand(operand::RDX));
        }
        let page = self.memory_operand(actor, gpa, Access::Read)?;
        for index in first..first + count {
            let mut entry = [0; 8];
            self.private.read(page.page, (index * 8) as usize, &mut entry);
            if !covers_canonical(u64::from_le_bytes(entry)) {
                return Err(GLA_NOT_CANONICAL.into());
            }
        }
        // All entries are done; the position is 9 bits wide.
        Ok(success(Regs { rdx: gpa | (first + count) & 0x1ff, ..*regs }))
    }
}

/// Whether all pages of an entry are canonical: the first one in 63:12, how many more in 11:0.
fn covers_canonical(entry: u64) -> bool {
    let (first, more) = (entry & !0xfff, entry & 0xfff);
    first.checked_add(more * PAGE_SIZE).is_some_and(|last| is_canonical(first) && is_canonical(last))
}
