//! Who runs next on a vCPU, and the run-VMPL request (MSR 0x016, event 0x80000018).

use super::ghcb::Reply;
use super::policy::Policy;
use super::{At, Channel, Level, LevelState, Next, msr};
use crate::op::{Answer, HostStep, Resume, RunKey, Stop, Vcpu};
use crate::{HostEvent, Machine};

/// VMPLs that a vCPU can have.
pub(super) const VMPLS: u8 = 4;

/// How a run-VMPL ends for the one who asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Switch {
    /// The other level ran, or so the host says.
    Done,
    /// The other level cannot run here.
    NoSuchLevel,
}

impl Machine {
    /// Handles run-VMPL: remembers that the caller waits, or answers it at once.
    pub(super) fn run_vmpl(&mut self, at: At, to: u8, channel: Channel) -> Next {
        let here = to != at.vmpl && self.host.level(at.vcpu, to).can_run();
        // A level that a liar runs on another vCPU than its own may wait for one that only its own vCPU has.
        let exists = here || at.owner != at.vcpu && self.host.level(at.owner, to).can_run();
        // Only a liar has let it run elsewhere; what an honest host meets here ends at VMRUN.
        let stolen = here && self.is_stolen(at.vcpu, to);
        let policy = self.host.policy(at.vcpu);
        let state = self.host.vcpu_mut(at.vcpu);
        let kicked = at.vmpl == 0 && core::mem::take(&mut state.kicked);
        let at_once = match policy {
            _ if state.owes_a_replay(at) => Some(Switch::Done),
            Policy::NeverSwitch => Some(Switch::Done),
            Policy::NeverSwitchFrom(from) if from == at.vmpl => Some(Switch::Done),
            Policy::RefuseSwitch => Some(Switch::NoSuchLevel),
            _ if !exists => Some(Switch::NoSuchLevel),
            _ if kicked || stolen => Some(Switch::Done),
            _ => None,
        };
        if let Some(end) = at_once {
            return if self.answer_switch(at, channel, end) { Next::Same } else { Next::Stop(Stop::Refused) };
        }
        if let Policy::ReturnAgain(times) = policy
            && to == 0
        {
            self.host.vcpu_mut(at.vcpu).replays = times;
        }
        self.host.level_mut(at.owner, at.vmpl).state = LevelState::Switched { run: at.run, to, channel };
        if here { Next::Level(to) } else { Next::Anybody }
    }

    /// Decides who is due and enters that VMSA.
    pub(super) fn schedule(&mut self, vcpu: Vcpu, next: Next) -> HostStep {
        let last = self.host.vcpu_mut(vcpu).current.take();
        // These return to VMPL0 after every exit of a lower level.
        let spurious = matches!(self.host.policy(vcpu), Policy::SpuriousReturn { .. } | Policy::KickForever);
        if spurious && matches!((next, last), (Next::Same, Some((_, 1..)))) {
            self.host.vcpu_mut(vcpu).kicked = true;
        }
        let (owner, vmpl) = match (next, last) {
            (Next::Stop(stop), _) => {
                self.host.vcpu_mut(vcpu).current = last;
                return HostStep::Stopped(stop);
            }
            (Next::Same, Some((owner, vmpl))) if owner != vcpu || vmpl == 0 => (owner, vmpl),
            (Next::Same, Some((_, vmpl))) => (vcpu, self.kicked_level(vcpu).unwrap_or(vmpl)),
            (Next::Level(vmpl), _) => self.target(vcpu, vmpl),
            (Next::Anybody | Next::Same, _) => {
                // A vCPU that has halted is idle, too.
                if let Some(step) = self.stolen(vcpu) {
                    return step;
                }
                match self.due(vcpu) {
                    Some(vmpl) => (vcpu, vmpl),
                    None => {
                        self.note(vcpu, HostEvent::Idle("parked"));
                        return HostStep::Parked;
                    }
                }
            }
        };
        let entered = self.enter(vcpu, owner, vmpl).or_else(|| match next {
            // What a liar would rather run cannot run at this moment.
            Next::Level(asked) if (owner, vmpl) != (vcpu, asked) => self.enter(vcpu, vcpu, asked),
            _ => None,
        });
        entered.unwrap_or(HostStep::Stopped(Stop::VmrunRefused))
    }

    /// Whether [`host`](Self::host) would do anything for a vCPU that does not run: false for one that is parked with
    /// nothing changed, or stopped.
    #[must_use]
    pub fn host_ready(&self, vcpu: Vcpu) -> bool {
        let Some(state) = self.host.vcpus.get(usize::from(vcpu.0)) else { return false };
        if self.host.dead.or(state.stopped).is_some() {
            return false;
        }
        state.current.is_some() || self.due(vcpu).is_some() || self.stealable(vcpu).is_some()
    }

    /// VMPL of an idle vCPU that is to run, if any: a new VMSA, then VMPL0 if it was woken, then whoever halted, then
    /// whoever waits for a level that is gone.
    fn due(&self, vcpu: Vcpu) -> Option<u8> {
        let state = self.host.vcpus.get(usize::from(vcpu.0))?;
        let is_free = |vmpl: u8| {
            let vmsa = state.levels[usize::from(vmpl)].vmsa;
            vmsa.is_some_and(|vmsa| self.vmsa_running_on(vmsa).is_none())
        };
        if let Some(vmpl) = state.start.filter(|vmpl| is_free(*vmpl)) {
            return Some(vmpl);
        }
        if let Some(vmpl) = self.kicked_level(vcpu) {
            return Some(vmpl);
        }
        let find = |wanted: &dyn Fn(&LevelState) -> bool| {
            // The one that ran last comes last.
            (1..=VMPLS)
                .map(|step| (state.last + step) % VMPLS)
                .find(|vmpl| is_free(*vmpl) && wanted(&state.levels[usize::from(*vmpl)].state))
        };
        let endless = self.host.policy(vcpu) == Policy::KickForever;
        find(&|level| matches!(level, LevelState::Halted { .. }))
            .or_else(|| find(&|level| matches!(level, LevelState::Held { .. }) && (state.sipi || endless)))
            .or_else(|| {
                find(&|level| match level {
                    LevelState::Switched { to, .. } => self.host.level(vcpu, *to).vmsa.is_none(),
                    _ => false,
                })
            })
    }

    /// VMPL0 if a wake-up is for it and it waits.
    fn kicked_level(&self, vcpu: Vcpu) -> Option<u8> {
        let state = self.host.vcpus.get(usize::from(vcpu.0))?;
        let waits = matches!(state.levels[0].state, LevelState::Switched { .. } | LevelState::Halted { .. });
        (state.kicked && waits && state.levels[0].vmsa.is_some()).then_some(0)
    }

    /// Whose VMSA is entered for a run-VMPL: the right one, unless the host lies.
    fn target(&self, vcpu: Vcpu, vmpl: u8) -> (Vcpu, u8) {
        let can_run = |owner: Vcpu, vmpl: u8| {
            let level = self.host.level(owner, vmpl);
            level.can_run() && level.vmsa.is_some_and(|vmsa| self.vmsa_running_on(vmsa).is_none())
        };
        match self.host.policy(vcpu) {
            Policy::WrongLevel(wrong) if vmpl != 0 && wrong != 0 && can_run(vcpu, wrong) => (vcpu, wrong),
            Policy::WrongVcpu => {
                let others = (0..self.host.vcpus.len()).map(|other| Vcpu(other as u8));
                let other = others.into_iter().find(|other| *other != vcpu && can_run(*other, vmpl));
                (other.unwrap_or(vcpu), vmpl)
            }
            _ => (vcpu, vmpl),
        }
    }

    /// Enters a VMSA: whatever it waits for is over. Nothing changes for the guest if VMRUN refuses.
    fn enter(&mut self, vcpu: Vcpu, owner: Vcpu, vmpl: u8) -> Option<HostStep> {
        let Level { vmsa, state, .. } = self.host.level(owner, vmpl);
        let vmsa = vmsa?;
        if !self.end_wait(vcpu, owner, vmpl, state) {
            return Some(HostStep::Stopped(Stop::Refused));
        }
        let Ok(entry) = self.vmrun(vcpu, vmsa) else {
            self.note(vcpu, HostEvent::VmrunRefused { vmsa });
            return None;
        };
        self.host.level_mut(owner, vmpl).state = LevelState::Ready;
        let own = self.host.vcpu_mut(vcpu);
        own.current = Some((owner, vmpl));
        own.interrupt = false;
        if owner == vcpu {
            own.last = vmpl;
            own.kicked &= vmpl != 0;
            own.start = own.start.filter(|start| *start != vmpl);
        }
        self.flip_ghcb(vcpu, owner, vmpl);
        Some(HostStep::Entered(entry))
    }

    /// Gives a waiting level its answer.
    fn end_wait(&mut self, vcpu: Vcpu, owner: Vcpu, vmpl: u8, state: LevelState) -> bool {
        let at = |run| At { vcpu, owner, vmpl, run };
        match state {
            LevelState::Ready | LevelState::Ended => true,
            LevelState::Halted { run } => {
                self.retire(run);
                true
            }
            LevelState::Switched { run, channel, .. } => self.answer_switch(at(run), channel, Switch::Done),
            LevelState::Held { run, channel } => {
                let sipi = core::mem::take(&mut self.host.vcpu_mut(owner).sipi);
                self.answer_hold(at(run), channel, sipi)
            }
        }
    }

    /// Answers a run-VMPL; false if the GHCB page cannot be written.
    fn answer_switch(&mut self, at: At, channel: Channel, end: Switch) -> bool {
        let policy = self.host.policy(at.vcpu);
        let written = match channel {
            Channel::Msr => {
                let honest = msr::run_vmpl_response(end == Switch::Done);
                let response = match policy {
                    Policy::WrongResponseCode(code) => honest & !0xfff | u64::from(code) & 0xfff,
                    Policy::SwitchErrorBits(bits) => honest | u64::from(bits) << 32,
                    _ => honest,
                };
                self.set_ghcb_msr(at.run, response);
                true
            }
            Channel::Page(gpa) => {
                let mut reply = match end {
                    Switch::Done => Reply::default(),
                    Switch::NoSuchLevel => super::ghcb::Malformed::InvalidInput.into(),
                };
                match policy {
                    Policy::WrongResponseCode(code) => reply.info1 = u64::from(code),
                    Policy::SwitchErrorBits(bits) => reply.info1 = u64::from(bits),
                    _ => {}
                }
                self.write_reply(at, gpa, reply)
            }
        };
        self.retire(at.run);
        written
    }

    /// Lets the instruction that exited retire; registers come from the VMSA.
    pub(super) fn retire(&mut self, run: RunKey) {
        self.complete(run, Resume::Complete(Answer::None));
    }

    /// Whether a liar lets a level of this vCPU run on another one.
    fn is_stolen(&self, vcpu: Vcpu, vmpl: u8) -> bool {
        let stolen = |state: &super::HostVcpu| state.current == Some((vcpu, vmpl));
        let mut others = self.host.vcpus.iter().zip(0..).filter(|(_, number)| *number != vcpu.0);
        others.any(|(state, _)| stolen(state))
    }

    /// A lower level of another vCPU whose call VMPL0 serves at this moment, for a host that runs it here.
    fn stealable(&self, vcpu: Vcpu) -> Option<(Vcpu, u8)> {
        if self.host.policy(vcpu) != Policy::RunDuringService {
            return None;
        }
        let victims = self.host.vcpus.iter().enumerate().map(|(number, state)| (Vcpu(number as u8), state));
        victims.filter(|(victim, state)| *victim != vcpu && state.current == Some((*victim, 0))).find_map(
            |(victim, state)| {
                let called = |level: &Level| matches!(level.state, LevelState::Switched { to: 0, .. });
                (1..VMPLS).find(|vmpl| called(&state.levels[usize::from(*vmpl)])).map(|vmpl| (victim, vmpl))
            },
        )
    }

    /// Runs such a level here; `None` if there is none or VMRUN refuses it.
    fn stolen(&mut self, vcpu: Vcpu) -> Option<HostStep> {
        let (victim, vmpl) = self.stealable(vcpu)?;
        self.enter(vcpu, victim, vmpl)
    }
}

impl Level {
    /// Whether there is a VMSA whose program has not ended.
    fn can_run(&self) -> bool {
        self.vmsa.is_some() && self.state != LevelState::Ended
    }
}

impl super::HostVcpu {
    /// Whether a liar still owes VMPL0 a fake return.
    fn owes_a_replay(&mut self, at: At) -> bool {
        let owed = at.vmpl == 0 && self.replays > 0;
        self.replays -= u32::from(owed);
        owed
    }
}
