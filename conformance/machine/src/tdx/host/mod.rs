//! The untrusted host of the TDX machine: a hypervisor with its VMM.
//!
//! The honest one behaves like KVM; [`Policy`] has the others. It sees TD exits, the registers that a TDVMCALL shows,
//! and shared memory.
//!
//! Its rules, where the protocol leaves a choice:
//! - It maps private memory when an EPT violation asks for it: 2 MiB for a leaf that wants 2 MiB where nothing is
//!   mapped and all of it is private RAM, else 4 KiB. It splits a large page that a leaf wants small, and gives an L2
//!   the table page it lacks.
//! - Every other EPT violation of L1 ends the vCPU with [`Stop::EptViolation`]; one of an L2 (memory that is shared or
//!   no RAM) resumes L1 (TDX-28).
//! - MapGPA to shared removes the private pages; to private it maps nothing yet. It does the whole range at once.
//! - TDVMCALL HLT is over at once, or ends with a wake-up if [`Config::hlt_waits`](super::Config::hlt_waits) says so.
//! - A wake-up (x2APIC ICR by TDVMCALL WRMSR) is a posted interrupt: it ends an L2 that runs on the target, or the
//!   next VP.ENTER there.
//! - GetQuote is done before it returns. The quote is [`QUOTE_TAG`] and the report.
//! - After ReportFatalError nobody runs again. A program of L1 that ended, or a triple fault, ends its vCPU.
//!
//! Not modelled: devices, timers, Service and MigTD calls (SUBFUNC_UNSUPPORTED).

mod attack;
mod catalogue;
mod kick;
mod map_gpa;
mod policy;
mod quote;
mod repair;
mod vmcall;

use alloc::collections::BTreeSet;
use alloc::vec::Vec;

pub use catalogue::all_policies;
pub use policy::Policy;
pub use quote::QUOTE_TAG;

use super::{HostStep, Machine, Stop, TdExit};
use crate::Vcpu;
use crate::ranges::RangeSet;

/// What the host remembers.
#[derive(Clone, Debug)]
pub struct HostState {
    vcpus: Vec<HostVcpu>,
    policy: Policy,
    /// TD exits handled so far.
    exits: u64,
    /// Guest steps seen so far.
    steps: u64,
    /// How often the policy has done what it does a number of times.
    spent: u64,
    /// Set once the TD has asked to be terminated.
    dead: Option<Stop>,
    attack: attack::Progress,
    /// Guest pages that are shared.
    shared: RangeSet,
    /// Guest pages that were mapped as private once.
    mapped_before: RangeSet,
    /// Guest pages that it does not map again.
    withheld: BTreeSet<u64>,
    /// The last quote.
    quote: Option<Vec<u8>>,
}

/// What the host knows about one vCPU.
#[derive(Clone, Debug, Default)]
struct HostVcpu {
    /// It waits in TDVMCALL HLT.
    halted: bool,
    /// Steps of L2s, for a liar that interrupts them.
    l2_steps: u32,
    /// Steps of L2s and VP.ENTERs, for a liar that sends interrupts.
    chances: u32,
    /// Busy answers given to the operation at hand.
    busy: u64,
    stopped: Option<Stop>,
}

/// Who runs next on a vCPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// Who left.
    Same,
    /// L1, though an L2 left.
    L1,
    /// Nobody for now.
    Park,
    /// Nobody any more.
    Stop(Stop),
}

impl HostState {
    pub(crate) fn new(vcpus: u8, policy: Policy) -> Self {
        Self {
            vcpus: (0..vcpus).map(|_| HostVcpu::default()).collect(),
            policy,
            exits: 0,
            steps: 0,
            spent: 0,
            dead: None,
            attack: attack::Progress::default(),
            shared: RangeSet::default(),
            mapped_before: RangeSet::default(),
            withheld: BTreeSet::new(),
            quote: None,
        }
    }

    /// TD exits handled so far, over all vCPUs. What the module does between L1 and an L2 is none.
    #[must_use]
    pub fn exits(&self) -> u64 {
        self.exits
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

    fn vcpu_mut(&mut self, vcpu: Vcpu) -> &mut HostVcpu {
        &mut self.vcpus[usize::from(vcpu.0)]
    }

    pub(crate) fn is_shared(&self, page: u64) -> bool {
        self.shared.contains(page)
    }

    pub(crate) fn share(&mut self, first: u64, end: u64) {
        self.shared.insert(first, end);
    }

    pub(crate) fn unshare(&mut self, first: u64, end: u64) {
        self.shared.remove(first, end);
    }

    pub(crate) fn note_mapped(&mut self, page: u64, count: u64) {
        self.mapped_before.insert(page, page.saturating_add(count));
    }

    pub(crate) fn was_mapped(&self, page: u64) -> bool {
        self.mapped_before.contains(page)
    }
}

impl Machine {
    /// Says who has a vCPU that its program lost. If it is the host, the host handles the exit and resumes somebody;
    /// if the module moved the vCPU to an L2 or to L1, the host has no part in it.
    ///
    /// # Panics
    /// If the machine has no such vCPU, or if the vCPU runs.
    pub fn host(&mut self, vcpu: Vcpu) -> HostStep {
        if let Some(entry) = self.take_switch(vcpu) {
            return HostStep::Entered(entry);
        }
        assert!(self.running(vcpu).is_none(), "the vCPU runs");
        if let Some(stop) = self.host.dead.or(self.host.vcpu_mut(vcpu).stopped) {
            return HostStep::Stopped(stop);
        }
        if self.host.policy(vcpu) == Policy::NeverRun {
            return HostStep::Parked;
        }
        let next = self.handle_exit(vcpu);
        self.attack_memory(vcpu);
        self.split_all(vcpu);
        let entry = match next {
            Next::Same => self.td_enter(vcpu),
            Next::L1 => self.td_enter_l1(vcpu),
            Next::Park => return HostStep::Parked,
            Next::Stop(stop) => {
                self.host.vcpu_mut(vcpu).stopped = Some(stop);
                return HostStep::Stopped(stop);
            }
        };
        match entry {
            Some(entry) => HostStep::Entered(entry),
            // The module could not store the registers of an L2: another exit.
            None => self.host(vcpu),
        }
    }

    fn handle_exit(&mut self, vcpu: Vcpu) -> Next {
        if self.host.vcpu_mut(vcpu).halted {
            return self.wait_for_wake_up(vcpu);
        }
        let Some(exit) = self.td_exit_info(vcpu).cloned() else { return Next::Same };
        self.host.exits += 1;
        if let Policy::StopAfter(exits) = self.host.policy(vcpu)
            && self.host.exits > exits
        {
            return Next::Stop(Stop::Refused);
        }
        match exit {
            TdExit::Vmcall { level, regs } => self.host_call(vcpu, level, &regs),
            TdExit::EptViolation { level, gpa, cause } => self.repair(vcpu, level, gpa, cause),
            TdExit::Interrupt { .. } => match self.host.policy(vcpu) {
                Policy::ResumeL1 { .. } => self.resume_l1(vcpu),
                _ => Next::Same,
            },
            TdExit::TripleFault => Next::Stop(Stop::TripleFault),
            TdExit::Ended => Next::Stop(Stop::Ended),
        }
    }

    fn resume_l1(&mut self, vcpu: Vcpu) -> Next {
        self.note(vcpu, super::HostEvent::ResumedL1);
        Next::L1
    }
}
