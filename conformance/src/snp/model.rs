//! The SNP step machine as the runner sees it.

use machine::{Answer, Counters, Fault, HostStep, Machine, Op, Outcome, RunKey, Snapshot, Vcpu};

use crate::runner::{Model, Resume, Step, Turn};

/// An SNP machine under the runner.
#[derive(Clone, Debug)]
pub struct SnpModel(pub Machine);

impl SnpModel {
    /// What all vCPUs executed at one VMPL.
    pub fn at_vmpl(&self, vmpl: u8) -> Counters {
        self.0.counters_of_vmpl(vmpl)
    }
}

impl Model for SnpModel {
    type Op = Op;
    type Answer = Answer;
    type Fault = Fault;
    type Key = RunKey;
    type Snapshot = Snapshot;

    fn vcpus(&self) -> u8 {
        self.0.config().vcpus
    }

    fn step(&mut self, vcpu: u8, op: Op) -> Step<Answer, Fault> {
        match self.0.step(Vcpu(vcpu), op) {
            Outcome::Done(answer) => Step::Done(answer),
            Outcome::Fault(fault) => Step::Fault(fault),
            Outcome::Exit => Step::Exit,
        }
    }

    fn host(&mut self, vcpu: u8) -> Turn<RunKey, Answer> {
        match self.0.host(Vcpu(vcpu)) {
            HostStep::Parked => Turn::Parked,
            HostStep::Stopped(stop) => Turn::Stopped(format!("{stop:x?}")),
            HostStep::Entered(entry) => Turn::Entered {
                key: entry.run,
                level: entry.vmpl,
                resume: match entry.resume {
                    machine::Resume::Start { rip, .. } => Resume::Start(rip),
                    machine::Resume::Complete(answer) => Resume::Complete(answer),
                    machine::Resume::Retry => Resume::Retry,
                },
            },
        }
    }

    fn nothing() -> Answer {
        Answer::None
    }

    fn end() -> Op {
        Op::End
    }

    fn port_calls(&self) -> u64 {
        self.0.total_counters().port_calls
    }

    fn snapshot(&self) -> Snapshot {
        self.0.snapshot()
    }

    fn diff(before: &Snapshot, after: &Snapshot) -> Vec<String> {
        before.diff(after)
    }

    fn violations(&self) -> Vec<String> {
        self.0.violations().iter().map(|found| format!("{}: {}", found.oracle, found.text)).collect()
    }

    fn check_all(&mut self) {
        self.0.check_all();
    }

    fn peek(&self, at: u64, len: usize, level: Option<u8>) -> Option<Vec<u8>> {
        self.0.peek(at, len, level)
    }

    fn trace(&self) -> Vec<String> {
        self.0.trace().iter().map(ToString::to_string).collect()
    }
}
