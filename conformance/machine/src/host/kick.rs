//! Waking vCPUs, and what the host does between two steps of a guest.

use super::At;
use super::policy::Policy;
use crate::Machine;
use crate::op::Vcpu;

/// x2APIC ICR: delivery mode.
const ICR_MODE: u64 = 7 << 8;
/// x2APIC ICR: INIT.
const ICR_INIT: u64 = 5 << 8;
/// x2APIC ICR: startup.
const ICR_STARTUP: u64 = 6 << 8;
/// x2APIC ICR: everybody.
const ICR_BROADCAST: u64 = 0xffff_ffff;

/// x2APIC ICR: fixed and lowest-priority delivery.
const ICR_LOWEST: u64 = 1 << 8;
/// x2APIC ICR: the destination is a logical one.
const ICR_LOGICAL: u64 = 1 << 11;

/// To whom an ICR value goes, of so many vCPUs.
fn targets(icr: u64, from: Vcpu, vcpus: u8) -> impl Iterator<Item = Vcpu> {
    let destination = icr >> 32;
    (0..vcpus).map(Vcpu).filter(move |vcpu| match icr >> 18 & 3 {
        0 if destination == ICR_BROADCAST => true,
        // All of them are in the first cluster.
        0 if icr & ICR_LOGICAL != 0 => destination >> 16 == 0 && destination >> vcpu.0 & 1 != 0,
        0 => destination == u64::from(vcpu.0),
        1 => *vcpu == from,
        2 => true,
        _ => *vcpu != from,
    })
}

impl Machine {
    /// A guest wrote its x2APIC ICR.
    pub(super) fn send_ipi(&mut self, at: At, icr: u64) {
        if self.host.policy(at.vcpu) == Policy::NoKick {
            return;
        }
        for vcpu in targets(icr, at.owner, self.host.vcpus.len() as u8) {
            let state = self.host.vcpu_mut(vcpu);
            match icr & ICR_MODE {
                ICR_INIT => state.start = state.on_init.take().or(state.start),
                ICR_STARTUP => state.sipi = true,
                // Bits 7:0.
                0 | ICR_LOWEST if self.post(vcpu, at.vmpl, icr as u8) => {}
                _ => self.wake(vcpu),
            }
        }
    }

    /// Called before every step of a guest: the host runs on other processors too and may act between any two steps.
    /// True if it interrupts this vCPU, which then exits with INTR in place of the step.
    pub(crate) fn host_between_steps(&mut self, vcpu: Vcpu) -> bool {
        self.host.steps += 1;
        self.attack_memory(vcpu);
        let every = match self.host.policy(vcpu) {
            Policy::SpuriousReturn { every } => every.max(2),
            Policy::KickForever => 2,
            _ => 0,
        };
        if every != 0
            && let Some(state) = self.host.vcpus.get_mut(usize::from(vcpu.0))
            && state.current.is_some_and(|(owner, vmpl)| owner == vcpu && vmpl != 0)
        {
            state.lower_steps = state.lower_steps.wrapping_add(1);
            if state.lower_steps % every == 0 {
                self.wake(vcpu);
            }
        }
        self.host.is_wanted(vcpu)
    }

    /// A wake-up for VMPL0 of a vCPU; a lower level that runs there leaves at its next step.
    pub(super) fn wake(&mut self, vcpu: Vcpu) {
        let state = self.host.vcpu_mut(vcpu);
        state.kicked = true;
        state.interrupt |= state.current.is_some_and(|(_, vmpl)| vmpl != 0);
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
        assert_eq!(to(0b1010 << 32 | ICR_LOGICAL), [1, 3]);
        assert_eq!(to(0x1_0001 << 32 | ICR_LOGICAL), []);
    }
}
