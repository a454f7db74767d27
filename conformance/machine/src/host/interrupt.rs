//! Interrupts on their way to a level: what the host's [controllers](super::apic) have for it.

use super::At;
use super::apic::Apic;
use crate::Machine;
use crate::op::Vcpu;

impl Machine {
    /// Sets the clock that timers and counters follow, in ticks of any length. It should not go back. Timers that are due fire.
    /// Without an embedder's clock the host counts guest steps, and no timer fires.
    pub fn set_clock(&mut self, ticks: u64) {
        self.host.clock = Some(ticks);
        for (number, vcpu) in self.host.vcpus.iter_mut().enumerate() {
            let fired = vcpu.apics.iter_mut().flatten().fold(false, |fired, apic| apic.tick(ticks) | fired);
            self.host.posted |= u8::from(fired) << number;
        }
    }

    /// The vector that interrupts the level that runs on a vCPU as soon as it can be interrupted.
    pub fn pending_interrupt(&self, vcpu: Vcpu) -> Option<u8> {
        let (owner, vmpl) = self.host.vcpus.get(usize::from(vcpu.0))?.current?;
        self.host.vcpus.get(usize::from(owner.0))?.apics.get(usize::from(vmpl))?.as_ref()?.pending()
    }

    /// The same; its controller counts it as delivered then.
    pub fn take_interrupt(&mut self, vcpu: Vcpu) -> Option<u8> {
        self.running_apic(vcpu)?.take()
    }

    /// An interrupt that was taken did not get through and is pending again.
    pub fn give_interrupt_back(&mut self, vcpu: Vcpu, vector: u8) {
        if let Some(apic) = self.running_apic(vcpu) {
            apic.give_back(vector);
        }
    }

    /// vCPUs for which an interrupt has come since the last time, a bit each.
    pub fn take_posted(&mut self) -> u8 {
        core::mem::take(&mut self.host.posted)
    }

    fn running_apic(&mut self, vcpu: Vcpu) -> Option<&mut Apic> {
        let (owner, vmpl) = self.host.vcpus.get(usize::from(vcpu.0))?.current?;
        self.host.vcpus.get_mut(usize::from(owner.0))?.apics.get_mut(usize::from(vmpl))?.as_mut()
    }

    /// What the host takes for the time.
    pub(super) fn ticks(&self) -> u64 {
        self.host.clock.unwrap_or(self.host.steps)
    }

    fn apic(&mut self, vcpu: Vcpu, vmpl: u8) -> Option<&mut Apic> {
        let slot = self.host.vcpu_mut(vcpu).apics.get_mut(usize::from(vmpl))?;
        Some(slot.get_or_insert_with(|| Apic::new(vcpu)))
    }

    pub(super) fn read_apic(&mut self, at: At, number: u64) -> Option<u64> {
        let now = self.ticks();
        self.apic(at.owner, at.vmpl)?.read(number, now)
    }

    pub(super) fn write_apic(&mut self, at: At, number: u64, value: u64) -> Option<()> {
        let now = self.ticks();
        self.apic(at.owner, at.vmpl)?.write(number, value, now)
    }

    /// An interrupt for a level of a vCPU; false if its controller is off.
    pub(super) fn post(&mut self, vcpu: Vcpu, vmpl: u8, vector: u8) -> bool {
        let posted = self.apic(vcpu, vmpl).is_some_and(|apic| apic.is_enabled() && apic.post(vector));
        self.host.posted |= u8::from(posted) << (vcpu.0 & 7);
        posted
    }
}
