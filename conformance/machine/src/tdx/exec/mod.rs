//! Executes one operation of a program.

mod access;
mod instructions;
mod memory_ops;
pub(crate) mod routes;

pub(crate) use access::Access;

use super::exit::{L2Exit, MEMORY_LENGTH};
use super::status::{self, reason};
use super::trace::{outcome_line, summary};
use super::vcpu::Finish;
use super::{Answer, EventKind, Fault, Machine, Op, Outcome, TdExit};
use crate::Vcpu;

/// Why an operation did not retire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Stopped {
    Fault(Fault),
    /// To the host.
    Td(TdExit),
    /// From an L2 to L1.
    ToL1(L2Exit),
    /// VP.ENTER: the L2 has the vCPU.
    Switched,
}

impl Stopped {
    pub(crate) const GENERAL_PROTECTION: Self = Self::Fault(Fault::GeneralProtection);
    pub(crate) const INVALID_OPCODE: Self = Self::Fault(Fault::InvalidOpcode);

    /// The operation is executed again after it.
    fn retries(&self) -> bool {
        matches!(self, Self::Td(exit) if !matches!(exit, TdExit::Vmcall { .. }))
    }
}

/// Who executes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Actor {
    pub(crate) vcpu: Vcpu,
    /// 0 for L1, else the VM.
    pub(crate) level: u8,
}

/// How a memory access completes if L1 emulates it.
fn finish_of(op: &Op) -> Finish {
    match op {
        Op::Read { len, .. } => Finish::Load(*len),
        Op::Swap8 { .. } | Op::CompareExchange64 { .. } => Finish::Value,
        _ => Finish::Nothing,
    }
}

impl Machine {
    /// Executes one operation of the program that runs on a vCPU.
    ///
    /// [`Outcome::Exit`] means that the program lost the vCPU; [`host`](Self::host) says to whom. A vCPU that runs
    /// nobody exits at once and nothing happens.
    pub fn step(&mut self, vcpu: Vcpu, op: Op) -> Outcome {
        let Some(level) = self.running_level(vcpu) else { return Outcome::Exit };
        self.steps += 1;
        let actor = Actor { vcpu, level };
        if self.interrupted_before_step(actor) {
            return Outcome::Exit;
        }
        let line = self.trace.on.then(|| summary(&op));
        self.oracle_stepping(actor, &op);
        let result = match self.injected(actor) {
            Some(fault) => Err(Stopped::Fault(fault)),
            None => self.execute(actor, &op),
        };
        let retired = !result.as_ref().is_err_and(Stopped::retries);
        if retired {
            self.counters.change(vcpu, level, |c| c.count(&op));
        }
        let outcome = match result {
            Ok(answer) => Outcome::Done(answer),
            Err(Stopped::Fault(fault)) => Outcome::Fault(fault),
            Err(Stopped::Td(exit)) => {
                self.remember(actor, finish_of(&op));
                self.td_exit(vcpu, exit);
                Outcome::Exit
            }
            Err(Stopped::ToL1(exit)) => {
                let exit = if exit.reason == reason::EPT_VIOLATION {
                    L2Exit { finish: finish_of(&op), advance: Some(MEMORY_LENGTH), ..exit }
                } else {
                    exit
                };
                self.leave_l2(vcpu, exit);
                Outcome::Exit
            }
            Err(Stopped::Switched) => Outcome::Exit,
        };
        if let Some(op) = line {
            let outcome = outcome_line(&outcome);
            self.trace.push(self.steps, vcpu, Some(level), EventKind::Step { op, outcome });
        }
        self.oracle_stepped(actor, &op, &outcome, retired);
        outcome
    }

    fn execute(&mut self, actor: Actor, op: &Op) -> Result<Answer, Stopped> {
        match op {
            Op::Read { gpa, len, private } => self.read(actor, *gpa, *len, *private),
            Op::Write { gpa, bytes, private } => self.write(actor, *gpa, bytes, *private),
            Op::Zero { gpa, pages, private } => self.zero(actor, *gpa, *pages, *private),
            Op::Swap8 { gpa, value, private } => self.swap8(actor, *gpa, *value, *private),
            Op::CompareExchange64 { gpa, expected, new, private } => {
                self.compare_exchange(actor, *gpa, *expected, *new, *private)
            }
            Op::Fetch { gpa, user, private } => self.fetch(actor, *gpa, *user, *private),
            Op::Tdcall(regs) | Op::Enter(regs) if actor.level == 0 => self.tdcall(actor, regs),
            Op::Tdcall(regs) | Op::Enter(regs) => self.tdcall_of_l2(actor, regs, 0),
            Op::UserTdcall(_) if actor.level == 0 => Err(Stopped::GENERAL_PROTECTION),
            Op::UserTdcall(regs) => self.tdcall_of_l2(actor, regs, 3),
            Op::ReadUnswitched => self.read_unswitched(actor),
            Op::WriteUnswitched(value) => self.write_unswitched(actor, value),
            Op::Vmcall { regs, cpl } => self.vmcall(actor, regs, *cpl),
            Op::Cpuid { leaf, subleaf } => self.cpuid(actor, *leaf, *subleaf),
            Op::Rdmsr(number) => self.rdmsr(actor, *number),
            Op::Wrmsr(number, value) => self.wrmsr(actor, *number, *value),
            Op::Xsetbv(value) => self.xsetbv(actor, *value),
            Op::In { port, size } => self.port(actor, *port, *size, None),
            Op::Out { port, size, value } => self.port(actor, *port, *size, Some(*value)),
            Op::Hlt => self.hlt(actor),
            Op::Pause => self.pause(actor),
            Op::Other { reason, qualification, length } => self.other(actor, *reason, *qualification, *length),
            Op::Raise { vector, error } => self.raise(actor, *vector, *error),
            Op::TripleFault if actor.level == 0 => Err(Stopped::Td(TdExit::TripleFault)),
            Op::TripleFault => Err(Stopped::ToL1(L2Exit::of(reason::TRIPLE_FAULT))),
            Op::End => self.end(actor),
        }
    }

    /// An exception that L1 injected into the L2 that runs.
    fn injected(&mut self, actor: Actor) -> Option<Fault> {
        self.guest_mut(actor.vcpu, actor.level)?.inject.take()
    }

    /// Notes how an operation of an L2 that left to the host would complete if L1 emulated it.
    fn remember(&mut self, actor: Actor, finish: Finish) {
        if let Some(program) = self.guest_mut(actor.vcpu, actor.level).and_then(|guest| guest.program.as_mut()) {
            program.finish = finish;
        }
    }

    /// What comes in place of a step: an interrupt of the host, or an exit of an L2 that its instruction has no part in,
    /// as by an interrupt for L1 (TDX-40).
    fn interrupted_before_step(&mut self, actor: Actor) -> bool {
        if self.host_between_steps(actor) {
            self.td_exit(actor.vcpu, TdExit::Interrupt { level: actor.level });
            return true;
        }
        if actor.level == 0 {
            return false;
        }
        if let Some(exit) = self.due_exit(actor) {
            self.leave_l2(actor.vcpu, exit);
            return true;
        }
        let posted = self.vcpu_mut(actor.vcpu).is_some_and(|state| core::mem::take(&mut state.posted));
        if posted {
            let status = status::L2_EXIT_PENDING_INTERRUPT;
            self.leave_l2(actor.vcpu, L2Exit { status, ..L2Exit::of(reason::EXTERNAL_INTERRUPT) });
        }
        posted
    }
}
