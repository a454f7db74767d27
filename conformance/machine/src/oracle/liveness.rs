//! O6, O8 and O9: who is dead stays dead, VMPL0 gives the vCPU back, and VMPL0 lives.

use alloc::format;

use crate::exec::Actor;
use crate::run::{exit_code, msr};
use crate::{ExitInfo, Machine, Op, Outcome, Regs, RunKey, Vcpu, vmsa};

/// GHCB MSR: terminate request in bits 11:0 (ghcb_msr.csv).
const MSR_TERMINATE: u64 = 0x100;
/// GHCB MSR: run VMPL request in bits 11:0 (ghcb_msr.csv).
const MSR_RUN_VMPL: u64 = 0x016;
/// GHCB page: SW_EXITCODE (ghcb_page.csv).
const SW_EXIT_CODE: u64 = 0x390;
/// GHCB page: run VMPL (ghcb_nae.csv).
const NAE_RUN_VMPL: u64 = 0x8000_0018;
/// SVSM call ids of protocol 0 whose work depends on a list (svsm_protocol.csv): PVALIDATE.
const CALL_PVALIDATE: u64 = 1;
/// DEPOSIT_MEM.
const CALL_DEPOSIT_MEM: u64 = 4;
/// WITHDRAW_MEM. Its list is an answer: as long as its page lets it.
const CALL_WITHDRAW_MEM: u64 = 5;
/// A list has no more entries than fit in its page.
const MAX_ENTRIES: u64 = 511;

/// How many steps VMPL0 may take for one call: `base`, and for a list of pages `per_entry` for each entry and `per_page` for
/// each 4 KiB page of a 2M entry (it may have to be done in small pages).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProgressLimit {
    /// For any call.
    pub base: u64,
    /// For each entry of a list.
    pub per_entry: u64,
    /// For each small page of a large entry.
    pub per_page: u64,
}

impl Default for ProgressLimit {
    fn default() -> Self {
        Self { base: 64, per_entry: 64, per_page: 8 }
    }
}

/// A guest that asked to be terminated.
#[derive(Clone, Copy, Debug)]
pub(super) struct Dead {
    vcpu: Vcpu,
    key: RunKey,
}

/// A level above 0 called on this vCPU.
#[derive(Clone, Copy, Debug)]
pub(super) struct Call {
    limit: u64,
    steps: u64,
    /// Who called. It is owed nothing once it is no vCPU any more.
    caller: RunKey,
}

/// What a vCPU does while it waits for its end.
fn is_dead_loop(op: &Op) -> bool {
    match op {
        Op::Vmgexit(_) | Op::Hlt | Op::Pause | Op::End => true,
        Op::Wrmsr(number, _) | Op::Rdmsr(number) => *number == msr::GHCB,
        _ => false,
    }
}

fn retired(op: &Op, outcome: &Outcome) -> bool {
    match outcome {
        Outcome::Done(_) | Outcome::Fault(_) => true,
        Outcome::Exit => matches!(op, Op::Vmgexit(_) | Op::Hlt | Op::End),
    }
}

impl Machine {
    pub(super) fn death_noticed(&mut self, vcpu: Vcpu, exit: &ExitInfo) {
        let terminate = exit.code == exit_code::VMGEXIT && exit.ghcb_msr & 0xfff == MSR_TERMINATE;
        if terminate && self.oracles.dead.is_none() {
            self.oracles.dead = Some(Dead { vcpu, key: exit.key });
        }
        if exit.vmpl == 0 && self.host_is_honest() {
            if terminate {
                let (set, code) = (exit.ghcb_msr >> 12 & 0xf, exit.ghcb_msr >> 16 & 0xff);
                self.violation("O9", format!("VMPL0 asks to be terminated: set {set} code {code}"));
            } else if exit.code == exit_code::END && !self.oracles.monitor_may_end {
                self.violation("O9", format!("the program of VMPL0 on vCPU {} ends", vcpu.0));
            }
        }
    }

    pub(super) fn check_dead(&mut self, actor: Actor, op: &Op, outcome: &Outcome) {
        let Some(dead) = self.oracles.dead else { return };
        if !retired(op, outcome) {
            return;
        }
        let run = self.running(actor.vcpu).or_else(|| self.exit_info(actor.vcpu).map(|exit| exit.key));
        let itself = dead.vcpu == actor.vcpu && run == Some(dead.key);
        if itself && !is_dead_loop(op) {
            self.violation("O6", format!("VMPL{} goes on after it asked to be terminated", actor.vmpl));
        } else if !itself && self.host_is_honest() {
            self.violation("O6", format!("VMPL{} of vCPU {} goes on in a terminated guest", actor.vmpl, actor.vcpu.0));
        }
    }

    pub(super) fn call_left(&mut self, vcpu: Vcpu, exit: &ExitInfo) {
        if exit.code != exit_code::VMGEXIT {
            return;
        }
        if exit.vmpl > 0 {
            // VMPL0 here owes nothing to a VMSA that a lying host took from another vCPU.
            let others = (0..self.config.vcpus).map(Vcpu).filter(|other| *other != vcpu);
            if others.into_iter().any(|other| self.host.vmsa(other, exit.vmpl) == Some(exit.key.vmsa)) {
                return;
            }
            let limit = self.call_limit(exit.key.vmsa);
            self.oracles.calls.insert(vcpu.0, Call { limit, steps: 0, caller: exit.key });
        } else if self.asks_to_run_a_level(exit.ghcb_msr) {
            self.oracles.calls.remove(&vcpu.0);
        } else if !self.host_is_honest()
            && let Some(call) = self.oracles.calls.get_mut(&vcpu.0)
        {
            // Its answer decides how often VMPL0 has to ask.
            call.steps = 0;
        }
    }

    pub(super) fn call_entered(&mut self, vcpu: Vcpu, vmpl: u8) {
        if vmpl > 0 {
            self.oracles.calls.remove(&vcpu.0);
        }
    }

    pub(super) fn call_stepped(&mut self, actor: Actor, op: &Op, outcome: &Outcome) {
        // Repetitions that the host or another vCPU causes are not VMPL0's work.
        if actor.vmpl != 0 || !retired(op, outcome) {
            return;
        }
        // Nor is a wait for another vCPU that such a host keeps.
        if *op == Op::Pause && !self.host_is_honest() {
            return;
        }
        let Some(call) = self.oracles.calls.get_mut(&actor.vcpu.0) else { return };
        call.steps += 1;
        if call.steps > call.limit {
            let Call { limit, caller, .. } = *call;
            self.oracles.calls.remove(&actor.vcpu.0);
            let is_gone = self.rmp_entry(caller.vmsa).is_none_or(|entry| !entry.vmsa);
            if is_gone || self.run_key(caller.vmsa) != caller {
                return;
            }
            self.violation("O8", format!("VMPL0 of vCPU {} takes more than {limit} steps for a call", actor.vcpu.0));
        }
    }

    fn asks_to_run_a_level(&self, ghcb_msr: u64) -> bool {
        if ghcb_msr & 0xfff != 0 {
            return ghcb_msr & 0xfff == MSR_RUN_VMPL;
        }
        let mut code = [0; 8];
        self.host_read(ghcb_msr.wrapping_add(SW_EXIT_CODE), &mut code);
        u64::from_le_bytes(code) == NAE_RUN_VMPL
    }

    /// Steps allowed for the call whose registers are in a VMSA.
    fn call_limit(&self, vmsa_gpa: u64) -> u64 {
        let limit = self.oracles.progress;
        let Some(page) = self.peek(vmsa_gpa, crate::PAGE_SIZE as usize, Some(0)) else { return limit.base };
        let registers =
            Regs { rax: vmsa::read_u64(&page, vmsa::RAX), rcx: vmsa::read_u64(&page, vmsa::RCX), ..Regs::default() };
        let list = registers.rcx;
        match registers.rax {
            CALL_PVALIDATE | CALL_DEPOSIT_MEM => {}
            CALL_WITHDRAW_MEM => {
                return limit.base + limit.per_entry * ((crate::PAGE_SIZE - list % crate::PAGE_SIZE) / 8);
            }
            _ => return limit.base,
        }
        let quad = |at: u64| {
            let bytes = self.peek(at, 8, Some(0))?;
            Some(vmsa::read_u64(&bytes, 0))
        };
        let Some(header) = quad(list) else { return limit.base };
        let entries = (header & 0xffff).min(MAX_ENTRIES);
        let large = (1..=entries)
            .filter_map(|index| quad(list.checked_add(index * 8)?))
            .filter(|entry| entry & 0b11 == 1)
            .count() as u64;
        limit.base + limit.per_entry * entries + limit.per_page * large * self.pages_per_large()
    }
}
