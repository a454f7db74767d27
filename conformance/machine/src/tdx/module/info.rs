//! TDG.VP.INFO, VP.VEINFO.GET, VP.CPUIDVE.SET.

use alloc::boxed::Box;

use super::{Refused, success};
use crate::tdx::exec::Actor;
use crate::tdx::module::fields::{CPUID_SUPERVISOR_VE, CPUID_USER_VE};
use crate::tdx::status::{NO_VALID_VE_INFO, operand};
use crate::tdx::{Machine, Regs};

impl Machine {
    pub(super) fn vp_info(&self, actor: Actor, regs: &Regs) -> Regs {
        let vcpus = u64::from(self.config.vcpus);
        success(Regs {
            rcx: u64::from(self.config.gpaw),
            rdx: self.config.attributes,
            r8: vcpus | vcpus << 32,
            r9: u64::from(actor.vcpu.0),
            // SYS.RD is there.
            r10: 1,
            r11: 0,
            ..*regs
        })
    }

    /// Reading clears (ve_info.csv).
    pub(super) fn veinfo_get(&mut self, actor: Actor, regs: &Regs) -> Result<Regs, Refused> {
        let ve = self.vcpu_mut(actor.vcpu).and_then(|state| state.ve.take());
        let Some(ve) = ve else {
            let none = Regs { rax: NO_VALID_VE_INFO, rcx: 0, rdx: 0, r8: 0, r9: 0, r10: 0, ..*regs };
            return Err(Refused::Regs(Box::new(none)));
        };
        let (rcx, r10) = (u64::from(ve.reason), u64::from(ve.length));
        Ok(success(Regs { rcx, rdx: ve.qualification, r8: ve.gla, r9: ve.gpa, r10, ..*regs }))
    }

    pub(super) fn cpuidve_set(&mut self, actor: Actor, regs: &Regs) -> Result<Regs, Refused> {
        if regs.rcx & !3 != 0 {
            return Err(Refused::operand(operand::RCX));
        }
        if let Some(state) = self.vcpu_mut(actor.vcpu) {
            state.fields.insert(CPUID_SUPERVISOR_VE, regs.rcx & 1);
            state.fields.insert(CPUID_USER_VE, regs.rcx >> 1 & 1);
        }
        Ok(success(*regs))
    }
}
