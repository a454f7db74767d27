//! Executes one operation of a program.

mod access;
mod memory_ops;
mod msr;
mod reflect;
pub(crate) mod rmp_ops;
mod system;

pub(crate) use access::Access;
pub(crate) use system::Flush;

use crate::run::{Leave, Pending, exit_code};
use crate::trace::outcome_line;
use crate::{Answer, EventKind, Fault, Machine, Op, OpSummary, Outcome, Vcpu};

/// Why an operation did not retire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stopped {
    Fault(Fault),
    Exit(Leave),
}

impl Stopped {
    pub(crate) const GENERAL_PROTECTION: Self = Self::Fault(Fault::GeneralProtection);
    pub(crate) const INVALID_OPCODE: Self = Self::Fault(Fault::InvalidOpcode);

    /// #VC of an instruction.
    pub(crate) const fn intercepted(code: u64) -> Self {
        Self::Fault(Fault::Vc { code, gpa: 0 })
    }

    /// #VC: the host has marked the page as a device (RMP-047).
    pub(crate) const fn device(gpa: u64) -> Self {
        Self::Fault(Fault::Vc { code: exit_code::NPF, gpa })
    }

    /// #VC: the page is not validated (RMP-033).
    pub(crate) fn not_validated(gpa: u64) -> Self {
        Self::Fault(Fault::Vc { code: exit_code::PAGE_NOT_VALIDATED, gpa })
    }

    /// Nested page fault with EXITINFO1 and the address; the operation is repeated after it.
    pub(crate) fn nested_fault(info1: u64, gpa: u64) -> Self {
        let leave = Leave { info1, info2: gpa, ..Leave::plain(exit_code::NPF, Pending::Retry) };
        Self::Exit(leave)
    }
}

/// Who executes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Actor {
    pub(crate) vcpu: Vcpu,
    pub(crate) vmpl: u8,
}

impl Machine {
    /// Executes one operation of the program that runs on a vCPU.
    ///
    /// [`Outcome::Exit`] means that the vCPU is the host's now. A vCPU that runs no VMSA exits at once and nothing happens.
    pub fn step(&mut self, vcpu: Vcpu, op: Op) -> Outcome {
        let Some(vmpl) = self.running_vmpl(vcpu) else { return Outcome::Exit };
        self.steps += 1;
        let actor = Actor { vcpu, vmpl };
        if self.host_between_steps(vcpu) {
            self.leave(vcpu, &Leave::plain(exit_code::INTR, Pending::Retry));
            return Outcome::Exit;
        }
        let summary = self.trace.on.then(|| OpSummary::from(&op));
        self.counters.change(vcpu, vmpl, |c| c.count(&op));
        let outcome = match self.execute(actor, &op) {
            Ok(answer) => Outcome::Done(answer),
            Err(Stopped::Fault(fault)) => self.deliver(actor, &op, fault),
            Err(Stopped::Exit(leave)) => {
                self.leave(vcpu, &leave);
                Outcome::Exit
            }
        };
        if let Some(op) = summary {
            let outcome = outcome_line(&outcome);
            self.trace.push(self.steps, vcpu, Some(vmpl), EventKind::Step { op, outcome });
        }
        self.oracle_stepped(actor, &op, &outcome);
        outcome
    }

    fn execute(&mut self, actor: Actor, op: &Op) -> Result<Answer, Stopped> {
        match op {
            Op::Read { gpa, len, private } => self.read(actor, *gpa, *len, *private),
            Op::Write { gpa, bytes, private } => self.write(actor, *gpa, bytes, *private),
            Op::Zero { gpa, pages, private } => self.zero(actor, *gpa, *pages, *private),
            Op::Swap8 { gpa, value } => self.swap8(actor, *gpa, *value),
            Op::CompareExchange64 { gpa, expected, new } => self.compare_exchange(actor, *gpa, *expected, *new),
            Op::Fetch { gpa, user } => self.fetch(actor, *gpa, *user),
            Op::Pvalidate { gpa, ecx, edx } => self.pvalidate(actor, *gpa, *ecx, *edx),
            Op::Rmpadjust { gpa, rcx, rdx } => self.rmpadjust(actor, *gpa, *rcx, *rdx),
            Op::Rmpquery { gpa, rdx } => self.rmpquery(actor, *gpa, *rdx),
            Op::Vmgexit(regs) => {
                // RIP is behind it when it exits.
                let leave = Leave::plain(exit_code::VMGEXIT, Pending::Regs);
                Err(Stopped::Exit(Leave { advance: 4, regs: Some(*regs), ..leave }))
            }
            Op::Rdmsr(number) => self.rdmsr(actor, *number),
            Op::Wrmsr(number, value) => self.wrmsr(actor, *number, *value),
            Op::Cpuid { .. } => Err(Stopped::intercepted(exit_code::CPUID)),
            Op::In { size: 1 | 2 | 4, .. } | Op::Out { size: 1 | 2 | 4, .. } => {
                Err(Stopped::intercepted(exit_code::IOIO))
            }
            Op::In { .. } | Op::Out { .. } => Err(Stopped::INVALID_OPCODE),
            Op::Intercepted { code, length: 1..=15, .. } => Err(Stopped::intercepted(*code)),
            Op::Intercepted { .. } => Err(Stopped::INVALID_OPCODE),
            Op::ShadowStack { gpa } => self.shadow_stack(actor, *gpa),
            Op::Invlpgb { rax, ecx, .. } => self.invlpgb(actor, *rax, *ecx),
            Op::Tlbsync => self.tlbsync(actor),
            Op::Pause => Ok(Answer::None),
            Op::Hlt => Err(Stopped::Exit(Leave { advance: 1, ..Leave::plain(exit_code::HLT, Pending::Nothing) })),
            Op::End => Err(Stopped::Exit(Leave::plain(exit_code::END, Pending::Nothing))),
        }
    }
}
