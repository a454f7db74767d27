//! What the runner needs of a machine: any step machine whose programs hand over one operation at a time.

use std::fmt::Debug;

/// How a step ended.
#[derive(Clone, Debug)]
pub enum Step<A, F> {
    /// The operation retired.
    Done(A),
    /// The operation raised an exception in the program.
    Fault(F),
    /// The program lost the processor; the host has it.
    Exit,
}

/// How the program of an entered state goes on.
#[derive(Clone, Debug)]
pub enum Resume<A> {
    /// It begins, at this entry address.
    Start(u64),
    /// The operation that exited retires with this answer.
    Complete(A),
    /// The operation that exited runs again.
    Retry,
}

/// What the host did with a vCPU.
#[derive(Clone, Debug)]
pub enum Turn<K, A> {
    /// It entered the program of this key.
    Entered {
        /// Which state frame, in which incarnation.
        key: K,
        /// Vendor number of the level that runs, 0 for L1.
        level: u8,
        /// How its program goes on.
        resume: Resume<A>,
    },
    /// Nothing to run for now.
    Parked,
    /// The vCPU will never run again; why, for a person.
    Stopped(String),
}

/// A pure step machine with its host.
pub trait Model: 'static {
    /// One operation of a program.
    type Op: Clone + Debug + 'static;
    /// What a retired operation gives back.
    type Answer: Clone + Debug + 'static;
    /// An exception.
    type Fault: Copy + Debug + 'static;
    /// Names one incarnation of a vCPU's state.
    type Key: Copy + Ord + Debug + 'static;
    /// Everything that "state as before" compares.
    type Snapshot: Clone + PartialEq;

    /// Number of vCPUs.
    fn vcpus(&self) -> u8;

    /// Executes one operation of the program that runs on `vcpu`.
    fn step(&mut self, vcpu: u8, op: Self::Op) -> Step<Self::Answer, Self::Fault>;

    /// Lets the host act on a vCPU that is not in the guest.
    fn host(&mut self, vcpu: u8) -> Turn<Self::Key, Self::Answer>;

    /// The answer that carries nothing.
    fn nothing() -> Self::Answer;

    /// The operation by which a program says that it is over.
    fn end() -> Self::Op;

    /// Instructions of the vendor executed so far by levels 0 to 3 together.
    fn port_calls(&self) -> u64;

    /// State to compare with.
    fn snapshot(&self) -> Self::Snapshot;

    /// How two states differ, a line each.
    fn diff(before: &Self::Snapshot, after: &Self::Snapshot) -> Vec<String>;

    /// What the oracles found, a line each; empty is good.
    fn violations(&self) -> Vec<String>;

    /// Runs the complete oracle checks that are too slow for every step.
    fn check_all(&mut self);

    /// Memory as a level reads it, `None` for the host: what it would get, or nothing when it may not.
    fn peek(&self, at: u64, len: usize, level: Option<u8>) -> Option<Vec<u8>>;

    /// Lines of the recorded trace, if recording is on.
    fn trace(&self) -> Vec<String>;
}
