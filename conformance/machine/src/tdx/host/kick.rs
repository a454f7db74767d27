//! Waking vCPUs, and what the host does between two steps of a guest.

use super::policy::Policy;
use super::{Machine, Next};
use crate::Vcpu;
use crate::tdx::exec::Actor;

/// x2APIC ICR: everybody.
const ICR_BROADCAST: u64 = 0xffff_ffff;

/// To whom an ICR value goes, of so many vCPUs.
fn targets(icr: u64, from: Vcpu, vcpus: u8) -> impl Iterator<Item = Vcpu> {
    let destination = icr >> 32;
    (0..vcpus).map(Vcpu).filter(move |vcpu| match icr >> 18 & 3 {
        0 => destination == u64::from(vcpu.0) || destination == ICR_BROADCAST,
        1 => *vcpu == from,
        2 => true,
        _ => *vcpu != from,
    })
}

impl Machine {
    /// L1, or an L2 that may call the host, wrote the x2APIC ICR. INIT and startup mean nothing in a TD, which starts
    /// all vCPUs.
    pub(super) fn send_ipi(&mut self, from: Vcpu, icr: u64) {
        if self.host.policy(from) == Policy::NoKick {
            return;
        }
        for vcpu in targets(icr, from, self.config.vcpus) {
            self.host_post_interrupt(vcpu);
        }
    }

    /// A vCPU in TDVMCALL HLT goes on when an interrupt waits for it.
    pub(super) fn wait_for_wake_up(&mut self, vcpu: Vcpu) -> Next {
        let woken = self.vcpu_mut(vcpu).is_some_and(|state| core::mem::take(&mut state.posted));
        if !woken {
            return Next::Park;
        }
        self.host.vcpu_mut(vcpu).halted = false;
        Next::Same
    }

    /// Called before every step of a guest: the host runs on other processors too and may act between any two steps.
    /// True if it interrupts this vCPU, which then leaves to it in place of the step.
    pub(crate) fn host_between_steps(&mut self, actor: Actor) -> bool {
        self.host.steps += 1;
        self.attack_memory(actor.vcpu);
        if actor.level > 0 {
            self.post_if_due(actor.vcpu);
        }
        let policy = self.host.policy(actor.vcpu);
        let state = self.host.vcpu_mut(actor.vcpu);
        state.l2_steps = state.l2_steps.wrapping_add(u32::from(actor.level > 0));
        let l2_steps = state.l2_steps;
        match policy {
            _ if self.host.dead.is_some() => true,
            Policy::NeverRun => true,
            Policy::StopAfter(exits) => self.host.exits >= exits,
            Policy::ResumeL1 { every } | Policy::Interrupt { every } => {
                actor.level > 0 && l2_steps.is_multiple_of(every.max(2))
            }
            _ => false,
        }
    }

    /// Called before every step of an L2 and every VP.ENTER, for a liar that sends interrupts.
    pub(crate) fn post_if_due(&mut self, vcpu: Vcpu) {
        let Policy::PostInterrupts { every } = self.host.policy(vcpu) else { return };
        let state = self.host.vcpu_mut(vcpu);
        state.chances = state.chances.wrapping_add(1);
        if state.chances.is_multiple_of(every.max(1)) {
            self.host_post_interrupt(vcpu);
        }
    }

    /// Whether the host holds the lock of what a leaf names.
    pub(crate) fn host_holds_lock(&mut self, vcpu: Vcpu) -> bool {
        match self.host.policy(vcpu) {
            Policy::Busy(times) => self.host.spend(times),
            Policy::BusyEach(times) => {
                let state = self.host.vcpu_mut(vcpu);
                let busy = state.busy < times;
                state.busy = if busy { state.busy + 1 } else { 0 };
                busy
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::*;

    fn to(icr: u64) -> Vec<u8> {
        targets(icr, Vcpu(1), 4).map(|vcpu| vcpu.0).collect()
    }

    #[test]
    fn an_ipi_goes_where_the_icr_says() {
        assert_eq!(to(2 << 32), [2]);
        assert_eq!(to(9 << 32), []);
        assert_eq!(to(0xffff_ffff << 32), [0, 1, 2, 3]);
        assert_eq!(to(2 << 32 | 1 << 18), [1]);
        assert_eq!(to(2 << 18), [0, 1, 2, 3]);
        assert_eq!(to(3 << 18), [0, 2, 3]);
    }
}
