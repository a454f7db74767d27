//! O6, O8 and O9: who is dead stays dead, L1 gives the vCPU back, and L1 lives.

use alloc::format;

use crate::Vcpu;
use crate::tdx::exec::Actor;
use crate::tdx::exit::L2Exit;
use crate::tdx::guest_state::gpr;
use crate::tdx::status::{OPERAND_BUSY, leaf, reason, vmcall};
use crate::tdx::{Answer, Machine, Op, Outcome, Regs, TdExit};

/// SVSM call ids of protocol 0 whose work depends on a list (svsm_protocol.csv): PVALIDATE.
const CALL_PVALIDATE: u64 = 1;
/// DEPOSIT_MEM.
const CALL_DEPOSIT_MEM: u64 = 4;
/// WITHDRAW_MEM. Its list is an answer: as long as its page lets it.
const CALL_WITHDRAW_MEM: u64 = 5;
/// A list has no more entries than fit in its page.
const MAX_ENTRIES: u64 = 511;

/// A TD that has reported a fatal error.
#[derive(Clone, Copy, Debug)]
pub(super) struct Dead {
    vcpu: Vcpu,
    level: u8,
}

/// An L2 called on this vCPU.
#[derive(Clone, Copy, Debug)]
pub(super) struct Call {
    limit: u64,
    steps: u64,
}

/// A leaf ended with OPERAND_BUSY.
fn is_busy(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Done(Answer::Regs(regs)) if regs.rax & !0xffff_ffff == OPERAND_BUSY)
}

/// What a vCPU does while it waits for its end.
fn is_dead_loop(op: &Op) -> bool {
    match op {
        Op::Tdcall(regs) => regs.rax as u16 == leaf::VP_VMCALL,
        Op::Hlt | Op::Pause | Op::End => true,
        _ => false,
    }
}

impl Machine {
    pub(super) fn death_noticed(&mut self, actor: Actor, shown: &Regs) {
        if shown.r10 != 0 || shown.r11 != vmcall::FATAL_ERROR {
            return;
        }
        if self.oracles.dead.is_none() {
            self.oracles.dead = Some(Dead { vcpu: actor.vcpu, level: actor.level });
        }
        if actor.level == 0 && self.host_is_honest() {
            self.violation("O9", format!("L1 reports the fatal error {:#x}", shown.r12));
        }
    }

    pub(super) fn end_noticed(&mut self, vcpu: Vcpu, exit: &TdExit) {
        if !self.host_is_honest() {
            // Its answer decides how often L1 has to ask.
            if let Some(call) = self.oracles.calls.get_mut(&vcpu.0) {
                call.steps = 0;
            }
            return;
        }
        match exit {
            TdExit::Ended if !self.oracles.monitor_may_end => {
                self.violation("O9", format!("the program of L1 on vCPU {} ends", vcpu.0));
            }
            TdExit::TripleFault => self.violation("O9", format!("L1 on vCPU {} has a triple fault", vcpu.0)),
            _ => {}
        }
    }

    pub(super) fn check_dead(&mut self, actor: Actor, op: &Op) {
        let Some(dead) = self.oracles.dead else { return };
        let itself = dead.vcpu == actor.vcpu && dead.level == actor.level;
        if itself && !is_dead_loop(op) {
            self.violation("O6", format!("level {} goes on after it reported a fatal error", actor.level));
        } else if !itself && self.host_is_honest() {
            self.violation("O6", format!("level {} of vCPU {} goes on in a dead TD", actor.level, actor.vcpu.0));
        }
    }

    pub(super) fn call_left(&mut self, vcpu: Vcpu, vm: u8, exit: &L2Exit) {
        if exit.reason == reason::VMCALL {
            let limit = self.call_limit(vcpu, vm);
            self.oracles.calls.insert(vcpu.0, Call { limit, steps: 0 });
        }
    }

    /// A wait that the host causes is not L1's work: leaves that find their operand busy, and, if it is not honest, PAUSE.
    pub(super) fn call_stepped(&mut self, actor: Actor, op: &Op, outcome: &Outcome) {
        if actor.level != 0 || is_busy(outcome) || *op == Op::Pause && !self.host_is_honest() {
            return;
        }
        if let Op::Enter(regs) | Op::Tdcall(regs) = op
            && regs.rax as u16 == leaf::VP_ENTER
        {
            self.oracles.calls.remove(&actor.vcpu.0);
            return;
        }
        let Some(call) = self.oracles.calls.get_mut(&actor.vcpu.0) else { return };
        call.steps += 1;
        if call.steps > call.limit {
            let limit = call.limit;
            self.oracles.calls.remove(&actor.vcpu.0);
            self.violation("O8", format!("L1 of vCPU {} takes more than {limit} steps for a call", actor.vcpu.0));
        }
    }

    /// Steps allowed for the call whose registers a VM has.
    fn call_limit(&self, vcpu: Vcpu, vm: u8) -> u64 {
        let limit = self.oracles.progress;
        let Some(guest) = self.guest(vcpu, vm) else { return limit.base };
        let (rax, list) = (guest.state.gpr[gpr::RAX], guest.state.gpr[gpr::RCX]);
        match rax {
            CALL_PVALIDATE | CALL_DEPOSIT_MEM => {}
            CALL_WITHDRAW_MEM => {
                return limit.base + limit.per_entry * ((crate::PAGE_SIZE - list % crate::PAGE_SIZE) / 8);
            }
            _ => return limit.base,
        }
        let quad = |at: u64| {
            let bytes = self.peek(at, 8, Some(0))?;
            Some(u64::from_le_bytes(bytes.try_into().ok()?))
        };
        let Some(header) = quad(list) else { return limit.base };
        let entries = (header & 0xffff).min(MAX_ENTRIES);
        let large = (1..=entries)
            .filter_map(|index| quad(list.checked_add(index * 8)?))
            .filter(|entry| entry & 0b11 == 1)
            .count() as u64;
        limit.base + limit.per_entry * entries + limit.per_page * large * crate::PAGES_PER_LARGE
    }
}
