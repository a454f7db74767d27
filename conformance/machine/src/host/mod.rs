//! The untrusted host of the SNP machine: a hypervisor with its VMM.
//!
//! The honest one behaves like KVM with support for several VMPLs per vCPU; [`Policy`] has the others. It sees what a
//! host sees: exits, GHCB MSR values and shared pages, never the registers in a VMSA.
//!
//! Its rules, where the protocol leaves a choice:
//! - It never repairs memory on its own but for one case: when PVALIDATE or RMPADJUST meet an RMP entry or a nested
//!   mapping of the other size, it splits both to 4 KiB and the guest repeats. Every other nested page fault, a private
//!   access to a page that is not assigned and a denied VMPL included, ends the vCPU with
//!   [`Stop::NestedFault`].
//! - HLT gives the vCPU to a VMSA that waits to start there; otherwise it is over at once.
//! - A wake-up (x2APIC ICR) makes the target leave its lower level at the next step and return to VMPL0, whose pending
//!   run-VMPL then succeeds though nobody called. One that arrives while VMPL0 runs does so at its next run-VMPL.
//! - A VMSA created with "run now" starts when its vCPU has nothing to run or halts.
//! - Scratch areas lie in the shared buffer of the GHCB page, as version 2 wants it.
//! - It serves what its devices need: ports (one of them leads back to the guest), a page of device registers, a few MSRs, a
//!   clock of guest steps, a list of vCPUs. #HV IPI means what a write of the x2APIC ICR means, without a doorbell.
//! - A terminated guest does not run again, on any vCPU.
//! - #VC that a lower level reflects goes to VMPL0, and so does HLT of a level that was created with ReflectVC, once it is
//!   over. A program that has ended leaves its vCPU to the others, who are not
//!   told.
//! - An IPI of a level that has turned its x2APIC on there is an interrupt for that level of the target; programs on the step
//!   machine are not interrupted, see [`Machine::take_interrupt`].
//!
//! Not modelled: device interrupts and doorbell pages (feature bits 2 and 3 are off), NMIs, the secure interrupt
//! controller and the configuration of interrupt injection: their events are invalid. No page is a device that faults unless
//! a test or a liar marks it.

mod ap;
mod apic;
mod attack;
mod catalogue;
mod cpuid;
mod device;
mod exit;
mod ghcb;
mod interrupt;
mod kick;
mod memory;
mod message;
mod msr;
mod nae;
mod policy;
mod ports;
mod processor;
mod psc;
mod switch;
#[cfg(test)]
mod tests;

use alloc::vec::Vec;

pub use catalogue::all_policies;
pub use device::DEVICE_PAGE;
pub use policy::Policy;
pub use ports::{LOOPBACK_PORT, PortWrite};

use crate::Machine;
use crate::op::{HostStep, RunKey, Stop, Vcpu};

/// What the host remembers.
#[derive(Clone, Debug)]
pub struct HostState {
    vcpus: Vec<HostVcpu>,
    policy: Policy,
    /// Exits handled so far.
    exits: u64,
    /// Guest steps seen so far.
    steps: u64,
    /// How often the policy has done what it does a number of times.
    spent: u64,
    /// Set once the guest has asked to be terminated.
    dead: Option<Stop>,
    attack: attack::Progress,
    messages: message::Recorded,
    ports: ports::Ports,
    device: device::Device,
    /// Address that the guest named as its jump table.
    jump_table: u64,
    /// The embedder's clock, if there is one.
    clock: Option<u64>,
    /// vCPUs for which an interrupt has come, a bit each.
    posted: u8,
}

/// What the host knows about one vCPU.
#[derive(Clone, Debug, Default)]
struct HostVcpu {
    levels: [Level; 4],
    /// Entered and not exited yet: whose VMSA (its own but for a liar) at which VMPL.
    current: Option<(Vcpu, u8)>,
    /// VMPL that ran last.
    last: u8,
    /// A VMSA was created here and is to run as soon as the vCPU is free.
    start: Option<u8>,
    /// A VMSA was created here and is to run after INIT.
    on_init: Option<u8>,
    /// A wake-up has not reached VMPL0 yet.
    kicked: bool,
    /// A startup IPI has not ended a reset hold yet.
    sipi: bool,
    /// The guest that runs is to exit at its next step.
    interrupt: bool,
    /// Steps of lower levels, for a liar that interrupts them.
    lower_steps: u32,
    /// Fake returns to VMPL0 that a liar still owes.
    replays: u32,
    stopped: Option<Stop>,
    /// Interrupt controllers of its VMPLs, once used.
    apics: [Option<apic::Apic>; 4],
    /// Its registers, as far as the host emulates them.
    registers: processor::Registers,
}

/// One VMPL of one vCPU.
#[derive(Clone, Debug, Default)]
struct Level {
    vmsa: Option<u64>,
    /// GHCB page that this VMPL registered.
    ghcb: Option<u64>,
    /// It was created with ReflectVC.
    reflects: bool,
    state: LevelState,
}

/// How a VMPL that does not run goes on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum LevelState {
    /// By entering it: it never ran, or its exit is answered.
    #[default]
    Ready,
    /// Once `to` has run and asks for it.
    Switched { run: RunKey, to: u8, channel: Channel },
    /// It executed HLT.
    Halted { run: RunKey },
    /// Once a startup IPI has come.
    Held { run: RunKey, channel: Channel },
    /// Never: its program has ended.
    Ended,
}

/// By which protocol a request came, and so where its answer goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Channel {
    /// GHCB MSR.
    Msr,
    /// GHCB page at this address.
    Page(u64),
}

/// Who made the request at hand.
#[derive(Clone, Copy, Debug)]
struct At {
    /// vCPU it ran on.
    vcpu: Vcpu,
    /// vCPU its VMSA belongs to: another one only if the host lied.
    owner: Vcpu,
    vmpl: u8,
    run: RunKey,
}

/// Who runs next on a vCPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// The one that exited.
    Same,
    /// Another VMPL.
    Level(u8),
    /// Whoever is due.
    Anybody,
    /// Nobody any more.
    Stop(Stop),
}

impl HostState {
    /// The host of a machine with so many vCPUs.
    #[must_use]
    pub fn new(vcpus: u8, policy: Policy) -> Self {
        Self {
            vcpus: (0..vcpus).map(|_| HostVcpu::default()).collect(),
            policy,
            exits: 0,
            steps: 0,
            spent: 0,
            dead: None,
            attack: attack::Progress::default(),
            messages: message::Recorded::default(),
            ports: ports::Ports::default(),
            device: device::Device::default(),
            jump_table: 0,
            clock: None,
            posted: 0,
        }
    }

    /// Exits handled so far, over all vCPUs.
    #[must_use]
    pub fn exits(&self) -> u64 {
        self.exits
    }

    /// What guests wrote to ports so far.
    #[must_use]
    pub fn port_writes(&self) -> &[PortWrite] {
        &self.ports.log
    }

    /// Whether this vCPU is to leave its guest at the next step.
    pub(crate) fn is_wanted(&self, vcpu: Vcpu) -> bool {
        self.vcpus.get(usize::from(vcpu.0)).is_some_and(|state| state.interrupt)
    }

    /// What guests wrote to ports since the last time.
    pub(crate) fn take_port_writes(&mut self) -> Vec<PortWrite> {
        core::mem::take(&mut self.ports.log)
    }

    /// VMSA that the host knows for a VMPL of a vCPU.
    #[must_use]
    pub fn vmsa(&self, vcpu: Vcpu, vmpl: u8) -> Option<u64> {
        self.vcpus.get(usize::from(vcpu.0))?.levels.get(usize::from(vmpl))?.vmsa
    }

    /// GHCB page that a VMPL of a vCPU has registered.
    #[must_use]
    pub fn ghcb(&self, vcpu: Vcpu, vmpl: u8) -> Option<u64> {
        self.vcpus.get(usize::from(vcpu.0))?.levels.get(usize::from(vmpl))?.ghcb
    }

    /// Changes the policy from now on; what the host knows stays.
    pub fn set_policy(&mut self, policy: Policy) {
        self.policy = policy;
        self.spent = 0;
        self.attack = attack::Progress::default();
    }

    /// The policy as this vCPU sees it now.
    fn policy(&self, vcpu: Vcpu) -> Policy {
        self.policy.seen_by(vcpu, self.exits).clone()
    }

    /// Counts one use of a policy that does something `times` times; false once they are used up.
    fn spend(&mut self, times: u64) -> bool {
        let left = self.spent < times;
        self.spent += u64::from(left);
        left
    }

    fn level(&self, vcpu: Vcpu, vmpl: u8) -> Level {
        let level = self.vcpus.get(usize::from(vcpu.0)).and_then(|vcpu| vcpu.levels.get(usize::from(vmpl)));
        level.cloned().unwrap_or_default()
    }

    /// The record of a vCPU that exists, at a VMPL below 4.
    fn level_mut(&mut self, vcpu: Vcpu, vmpl: u8) -> &mut Level {
        &mut self.vcpus[usize::from(vcpu.0)].levels[usize::from(vmpl)]
    }

    fn vcpu_mut(&mut self, vcpu: Vcpu) -> &mut HostVcpu {
        &mut self.vcpus[usize::from(vcpu.0)]
    }
}

impl Machine {
    /// Tells the host which VMSA the launch made for a vCPU at VMPL0. [`host`](Self::host) enters it first; a vCPU
    /// without one stays parked until AP creation.
    ///
    /// # Panics
    /// If the machine has no such vCPU.
    pub fn host_set_launch_vmsa(&mut self, vcpu: Vcpu, gpa: u64) {
        let state = self.host.vcpu_mut(vcpu);
        state.levels[0] = Level { vmsa: Some(gpa), ..Level::default() };
        state.start = Some(0);
    }

    /// Gives a vCPU to the host: it handles the exit, if there was one, and enters the VMSA that is due.
    ///
    /// # Panics
    /// If the machine has no such vCPU, or if the vCPU runs.
    pub fn host(&mut self, vcpu: Vcpu) -> HostStep {
        if let Some(stop) = self.host.dead.or(self.host.vcpu_mut(vcpu).stopped) {
            return HostStep::Stopped(stop);
        }
        let next = self.handle_exit(vcpu);
        self.attack_memory(vcpu);
        self.smash(vcpu);
        let step = self.schedule(vcpu, next);
        if let HostStep::Stopped(stop) = step {
            self.host.vcpu_mut(vcpu).stopped = Some(stop);
        }
        step
    }
}
