//! TDG.VP.VMCALL: the module hands registers to the host and back (vmcall.csv, `common`).

use alloc::boxed::Box;

use crate::tdx::exec::{Actor, Stopped};
use crate::tdx::guest_state::GuestState;
use crate::tdx::status::{OPERAND_INVALID, SUCCESS, operand};
use crate::tdx::vcpu::HostCall;
use crate::tdx::{Answer, Machine, NO_RBP_MOD, Regs, Resume, TdExit};

/// Bits of the mask that are always 0: RAX, RCX, RSP.
const NEVER: u64 = 1 << 0 | 1 << 1 | 1 << 4;
/// RBP.
const RBP: u64 = 1 << 5;

/// In the registers `from`, those that the mask in RCX of `call` selects; the others from `rest`.
fn select(call: &Regs, from: &Regs, rest: &Regs) -> Regs {
    let array = |regs: &Regs| {
        let mut state = GuestState::default();
        state.set_regs(regs);
        state.gpr
    };
    let (from, mut out) = (array(from), array(rest));
    for (bit, (slot, value)) in (0..).zip(out.iter_mut().zip(from)) {
        if call.rcx >> bit & 1 == 1 {
            *slot = value;
        }
    }
    GuestState { gpr: out, ..GuestState::default() }.regs()
}

/// What the host sees of the registers of a call: the selected ones, and the mask in RCX.
fn exposed(call: &Regs) -> Regs {
    Regs { rcx: call.rcx, ..select(call, call, &Regs::default()) }
}

/// What the caller finds after an answer of the host: RAX = 0, the selected registers from the host.
fn answered(call: &Regs, answer: &Regs) -> Regs {
    Regs { rax: SUCCESS, ..select(call, answer, call) }
}

impl Machine {
    /// Of L1, or of an L2 that may call the host (TDX-52).
    pub(crate) fn vp_vmcall(&mut self, actor: Actor, regs: &Regs) -> Result<Answer, Stopped> {
        let never = NEVER | if self.config.config_flags & NO_RBP_MOD != 0 { RBP } else { 0 };
        if regs.rcx & never != 0 || regs.rcx >> 32 != 0 {
            return Ok(Answer::Regs(Regs { rax: OPERAND_INVALID | operand::RCX, ..*regs }));
        }
        if let Some(state) = self.vcpu_mut(actor.vcpu) {
            state.call = Some(HostCall { level: actor.level, regs: *regs });
        }
        let shown = if self.rule("VMCALL-MASK") { exposed(regs) } else { *regs };
        self.oracle_host_call(actor, &shown);
        Err(Stopped::Td(TdExit::Vmcall { level: actor.level, regs: Box::new(shown) }))
    }

    /// The host's answer to the call of a vCPU: what it puts in registers. It reaches only what the caller selected.
    pub fn answer_call(&mut self, vcpu: crate::Vcpu, answer: &Regs) {
        let masked = self.rule("VMCALL-MASK");
        let Some(state) = self.vcpu_mut(vcpu) else { return };
        let Some(call) = state.call.take() else { return };
        let regs = if masked { answered(&call.regs, answer) } else { Regs { rax: SUCCESS, ..*answer } };
        let resume = Resume::Complete(Answer::Regs(regs));
        match state.guests.get_mut(usize::from(call.level).wrapping_sub(1)) {
            Some(guest) => {
                guest.state.set_regs(&regs);
                guest.resume = resume;
            }
            None => state.l1 = resume,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_sees_and_sets_the_selected_registers_alone() {
        let call =
            Regs { rcx: 1 << 10 | 1 << 11 | 1 << 3, rbx: 3, rdx: 2, r10: 10, r11: 11, r12: 12, ..Regs::default() };
        assert_eq!(exposed(&call), Regs { rcx: call.rcx, rbx: 3, r10: 10, r11: 11, ..Regs::default() });
        let host = Regs { rax: 9, rcx: 9, rbx: 99, rdx: 99, r10: 99, r11: 99, r12: 99, ..Regs::default() };
        assert_eq!(answered(&call, &host), Regs { rax: 0, rbx: 99, r10: 99, r11: 99, ..call });
    }
}
