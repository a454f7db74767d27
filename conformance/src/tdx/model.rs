//! The TDX step machine as the runner sees it, and its memory.

use machine::Vcpu;
use machine::tdx::{Answer, Counters, Fault, HostStep, Machine, Op, Outcome, Resume as Resumed, RunKey, Snapshot};

use super::defect::Defect;
use crate::runner::{Model, Resume, Step, Turn};
use crate::window::{self, Accessed, MemoryModel, MemoryOp};

/// A TDX machine under the runner.
#[derive(Clone, Debug)]
pub struct TdxModel(pub Machine);

/// Memory without the shared bit in its addresses, or with it.
pub type Window<'y> = window::Window<'y, TdxModel>;

/// An access raised an exception.
pub type MemoryFault = window::MemoryFault<Fault>;

impl TdxModel {
    /// What all vCPUs executed at one level, 0 for L1.
    pub fn at_level(&self, level: u8) -> Counters {
        self.0.counters_of_level(level)
    }
}

impl Model for TdxModel {
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
                key: entry.key,
                level: entry.level,
                resume: match entry.resume {
                    Resumed::Start { rip, .. } => Resume::Start(rip),
                    Resumed::Complete(answer) => Resume::Complete(answer),
                    Resumed::Retry => Resume::Retry,
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

impl MemoryModel for TdxModel {
    type Defect = Defect;

    fn access(op: MemoryOp, private: bool) -> Op {
        match op {
            MemoryOp::Read { gpa, len } => Op::Read { gpa, len, private },
            MemoryOp::Write { gpa, bytes } => Op::Write { gpa, bytes, private },
            MemoryOp::Zero { gpa, pages } => Op::Zero { gpa, pages, private },
            MemoryOp::Swap8 { gpa, value } => Op::Swap8 { gpa, value, private },
            MemoryOp::CompareExchange64 { gpa, expected, new } => Op::CompareExchange64 { gpa, expected, new, private },
        }
    }

    fn accessed(answer: Answer) -> Accessed {
        match answer {
            Answer::Bytes(bytes) => Accessed::Bytes(bytes),
            Answer::Value(value) => Accessed::Value(value),
            _ => Accessed::Done,
        }
    }

    fn pause() -> Op {
        Op::Pause
    }
}
