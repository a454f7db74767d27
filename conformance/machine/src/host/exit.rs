//! One exit of a guest: which kind it is, and who runs next.

use super::memory::Fit;
use super::policy::Policy;
use super::{At, LevelState, Next};
use crate::op::{Resume, Stop, Vcpu};
use crate::rmp::{GUEST_ASID, npf};
use crate::{ExitInfo, HostEvent, Machine, PAGE_SIZE, exit_code};

/// Bits 11:0 of the GHCB MSR tell the MSR protocol from the address of a page.
const MSR_CODE: u64 = 0xfff;

impl Machine {
    /// Handles the exit of whatever ran on a vCPU.
    pub(super) fn handle_exit(&mut self, vcpu: Vcpu) -> Next {
        let Some((owner, vmpl)) = self.host.vcpu_mut(vcpu).current else { return Next::Anybody };
        let exit = self.exit_info(vcpu);
        assert!(exit.is_some(), "the host was given a vCPU that runs");
        let Some(exit) = exit else { return Next::Stop(Stop::Refused) };
        self.host.exits += 1;
        if let Policy::StopAfter(exits) = self.host.policy(vcpu)
            && self.host.exits > exits
        {
            return Next::Stop(Stop::Refused);
        }
        if self.host.level(owner, vmpl).vmsa != Some(exit.key.vmsa) {
            // Replaced or destroyed while it ran: nobody waits for an answer.
            return Next::Anybody;
        }
        let at = At { vcpu, owner, vmpl, run: exit.key };
        match exit.code {
            exit_code::VMGEXIT if exit.ghcb_msr & MSR_CODE == 0 => self.page_request(at, exit.ghcb_msr),
            exit_code::VMGEXIT => self.msr_request(at, exit.ghcb_msr),
            // It is over; whoever reflects wants VMPL0 to know.
            exit_code::HLT if self.host.level(owner, vmpl).reflects && self.monitor_waits(vcpu) => {
                self.retire(exit.key);
                Next::Level(0)
            }
            exit_code::HLT => {
                self.host.level_mut(owner, vmpl).state = LevelState::Halted { run: exit.key };
                Next::Anybody
            }
            exit_code::INTR => {
                self.complete(exit.key, Resume::Retry);
                Next::Same
            }
            exit_code::NPF => self.nested_fault(at, exit),
            exit_code::VC if vmpl != 0 && self.monitor_waits(vcpu) => self.reflected(at),
            exit_code::VC => Next::Stop(Stop::Refused),
            exit_code::END => {
                self.host.level_mut(owner, vmpl).state = LevelState::Ended;
                Next::Anybody
            }
            _ => Next::Stop(Stop::Refused),
        }
    }

    /// Whether VMPL0 waits for a level that it had run.
    fn monitor_waits(&self, vcpu: Vcpu) -> bool {
        matches!(self.host.level(vcpu, 0).state, LevelState::Switched { .. })
    }

    /// A lower level has an instruction for VMPL0.
    fn reflected(&mut self, at: At) -> Next {
        match self.host.policy(at.vcpu) {
            Policy::KeepReflected(times) if self.host.spend(times) => {
                self.retire(at.run);
                return Next::Same;
            }
            Policy::ReturnAgain(times) => self.host.vcpu_mut(at.vcpu).replays = times,
            _ => {}
        }
        Next::Level(0)
    }

    /// Splits what has the wrong size, and repeats what it finds nothing wrong with (RMP-039); anything else ends the vCPU.
    fn nested_fault(&mut self, at: At, exit: ExitInfo) -> Next {
        let (gpa, info) = (exit.info2, exit.info1);
        let is_rmp_check = info & npf::RMP != 0 && info & npf::VMPL == 0;
        if is_rmp_check && (self.fit_sizes(gpa) == Fit::Changed || self.is_spurious(&exit)) {
            self.complete(at.run, Resume::Retry);
            return Next::Same;
        }
        Next::Stop(Stop::NestedFault { gpa, info })
    }

    /// An RMP fault of a private access to a page that is the guest's there: its entry was busy.
    fn is_spurious(&self, exit: &ExitInfo) -> bool {
        let entry = self.rmp_entry(exit.info2);
        exit.info1 & npf::ENC != 0
            && exit.info1 & npf::SIZEM == 0
            && entry.is_some_and(|entry| {
                entry.assigned
                    && entry.asid == GUEST_ASID
                    && !entry.immutable
                    && entry.gpa == exit.info2 & !(PAGE_SIZE - 1)
            })
    }

    /// The guest asked to be terminated.
    pub(super) fn terminate(&mut self, at: At, set: u8, code: u8) -> Next {
        self.note(at.vcpu, HostEvent::Terminated { set, code });
        let stop = Stop::Terminated { set, code };
        match self.host.policy(at.vcpu) {
            Policy::IgnoreTerminate => {
                self.retire(at.run);
                return Next::Same;
            }
            Policy::TerminateOne => {}
            _ => {
                self.host.dead = Some(stop);
                for vcpu in &mut self.host.vcpus {
                    vcpu.interrupt = true;
                }
            }
        }
        Next::Stop(stop)
    }
}
