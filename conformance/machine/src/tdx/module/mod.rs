//! The TDCALL leaves of L1 (tdcall_leaves.csv).
//!
//! A leaf takes the register file and gives it back with what it outputs; registers that are no output keep their
//! value. A leaf that cannot go on without the host leaves to it, and is executed again when the host resumes L1.

mod accept;
mod attr;
mod enter;
pub(crate) mod fields;
pub(crate) mod hash;
mod info;
mod invalidate;
mod metadata;
pub(crate) mod report;
mod vmcall;

use super::exec::{Actor, Stopped};
use super::status::{self, OPERAND_INVALID, leaf, operand};
use super::{Answer, Machine, Regs, TdExit};
use crate::nested::page_of;

/// Address bits 51:12 of a page operand.
const PAGE_ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// How a leaf ended without plain success.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// With this completion status; other registers as given.
    Status(u64),
    /// With these registers.
    Regs(alloc::boxed::Box<Regs>),
    /// It goes on without a status: to the host, or with an exception.
    Stopped(Stopped),
}

impl Refused {
    /// OPERAND_INVALID with an operand id.
    pub(crate) const fn operand(id: u64) -> Self {
        Self::Status(OPERAND_INVALID | id)
    }
}

impl From<u64> for Refused {
    fn from(status: u64) -> Self {
        Self::Status(status)
    }
}

impl From<TdExit> for Refused {
    fn from(exit: TdExit) -> Self {
        Self::Stopped(Stopped::Td(exit))
    }
}

impl From<Stopped> for Refused {
    fn from(stopped: Stopped) -> Self {
        Self::Stopped(stopped)
    }
}

impl Machine {
    /// TDCALL of L1 at CPL 0.
    pub(crate) fn tdcall(&mut self, actor: Actor, regs: &Regs) -> Result<Answer, Stopped> {
        let number = regs.rax as u16;
        let known = regs.rax >> 24 == 0 && self.has_version(number, (regs.rax >> 16) as u8);
        if !known {
            return Ok(Answer::Regs(Regs { rax: OPERAND_INVALID | operand::RAX, ..*regs }));
        }
        match number {
            leaf::VP_VMCALL => return self.vp_vmcall(actor, regs),
            leaf::VP_ENTER => return self.vp_enter(actor, regs),
            _ => {}
        }
        let result = match number {
            leaf::VP_INFO => Ok(self.vp_info(actor, regs)),
            leaf::MR_RTMR_EXTEND => self.rtmr_extend(actor, regs),
            leaf::VP_VEINFO_GET => self.veinfo_get(actor, regs),
            leaf::MR_REPORT => self.mr_report(actor, regs),
            leaf::VP_CPUIDVE_SET => self.cpuidve_set(actor, regs),
            leaf::MEM_PAGE_ACCEPT => self.page_accept(actor, regs),
            leaf::VM_RD => self.vm_rd(regs),
            leaf::VM_WR => self.vm_wr(actor, regs),
            leaf::VP_RD => self.vp_rd(actor, regs),
            leaf::VP_WR => self.vp_wr(actor, regs),
            leaf::SYS_RD => self.sys_rd(regs),
            leaf::MR_VERIFYREPORT => self.verify_report(actor, regs),
            leaf::MEM_PAGE_ATTR_RD => self.attr_rd(actor, regs),
            leaf::MEM_PAGE_ATTR_WR => self.attr_wr(actor, regs),
            leaf::VP_INVEPT => self.invept(actor, regs),
            leaf::VP_INVVPID => self.invvpid(actor, regs),
            _ => Err(Refused::operand(operand::RAX)),
        };
        match result {
            Ok(out) => Ok(Answer::Regs(out)),
            Err(Refused::Status(rax)) => Ok(Answer::Regs(Regs { rax, ..*regs })),
            Err(Refused::Regs(out)) => Ok(Answer::Regs(*out)),
            Err(Refused::Stopped(stopped)) => Err(stopped),
        }
    }

    fn has_version(&self, number: u16, version: u8) -> bool {
        match number {
            leaf::VM_RD => version <= 1,
            leaf::MEM_PAGE_ATTR_RD | leaf::MEM_PAGE_ATTR_WR | leaf::VP_ENTER | leaf::VP_INVEPT | leaf::VP_INVVPID => {
                version == 0 && self.config.partitioning
            }
            leaf::VP_VMCALL..=leaf::SYS_RD | leaf::MR_VERIFYREPORT => version == 0,
            _ => false,
        }
    }

    /// The system page of the register or virtual-APIC page of an L2: accepted and not blocked, else it is the host's
    /// turn.
    pub(crate) fn operand_page(&self, gpa: u64) -> Result<u64, TdExit> {
        let page = page_of(gpa);
        let usable = |accepted: bool, blocked: bool| accepted && !(blocked && self.rule("BLOCKED"));
        match self.sept.get(page) {
            Some(found) if usable(found.leaf.accepted, found.leaf.blocked) => Ok(found.spa_of(page)),
            _ => Err(TdExit::EptViolation { level: 0, gpa, cause: super::EptCause::Operand }),
        }
    }

    /// Whether a leaf finds its operand busy now: a lock that the host holds.
    pub(crate) fn busy(&mut self, actor: Actor, id: u64) -> Result<(), u64> {
        if self.host_holds_lock(actor.vcpu) { Err(status::OPERAND_BUSY | id) } else { Ok(()) }
    }
}

/// The registers with plain success.
fn success(regs: Regs) -> Regs {
    Regs { rax: status::SUCCESS, ..regs }
}
