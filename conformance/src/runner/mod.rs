//! Runs programs of the levels on a step machine, deterministically.
//!
//! Each program is a coroutine. In every turn one vCPU, chosen by the seed, either executes one operation of the program
//! that the machine runs on it, or is with the host, which then acts once. So every interleaving of vCPUs at the
//! granularity of single operations can happen, and the same seed gives the same run to the byte.

mod coroutine;
mod model;
mod rng;

use std::collections::BTreeMap;

pub use coroutine::{Body, Cpu, Program, Progress, Reply, Start, is_in_program};
pub use model::{Model, Resume, Step, Turn};
pub use rng::Rng;

/// Makes the body of a program for an entry address.
pub type Entry<M> = Box<dyn FnMut(Start) -> Option<Body<M>>>;

/// Why a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// The condition that was waited for holds.
    Reached,
    /// Nobody can go on: every vCPU is parked or stopped.
    Quiet,
    /// The step budget is used up.
    Budget,
    /// A program panicked; its level and what it said.
    Panicked {
        /// Vendor number of the level.
        level: u8,
        /// Message of the panic.
        message: String,
    },
    /// A state was entered for which no program was given: its entry address.
    NoProgram(u64),
}

enum State<M: Model> {
    /// In the guest: this program, and what it gets next.
    Guest(M::Key, Option<Reply<M>>),
    /// With the host.
    Host,
    /// For ever out of the game.
    Stopped,
}

/// The runner: programs, a machine, and a seed that decides who steps.
pub struct Runner<M: Model> {
    /// The machine.
    pub machine: M,
    states: Vec<State<M>>,
    programs: BTreeMap<M::Key, (Start, Program<M>)>,
    entry: BTreeMap<u64, Entry<M>>,
    rng: Rng,
    steps: u64,
    stops: Vec<(u8, String)>,
}

impl<M: Model> Runner<M> {
    /// A runner in which the host has every vCPU.
    pub fn new(machine: M, seed: u64) -> Self {
        let states = (0..machine.vcpus()).map(|_| State::Host).collect();
        Self {
            machine,
            states,
            programs: BTreeMap::new(),
            entry: BTreeMap::new(),
            rng: Rng::new(seed),
            steps: 0,
            stops: Vec::new(),
        }
    }

    /// Gives the programs that begin at this entry address.
    pub fn at_entry(&mut self, address: u64, entry: Entry<M>) {
        self.entry.insert(address, entry);
    }

    /// Turns taken so far.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// vCPUs that stopped for ever, and why.
    pub fn stops(&self) -> &[(u8, String)] {
        &self.stops
    }

    /// Runs until `reached` holds, nobody can go on, or `budget` turns are taken.
    pub fn run(&mut self, budget: u64, mut reached: impl FnMut(&M) -> bool) -> End {
        let mut parked = vec![false; self.states.len()];
        for _ in 0..budget {
            if reached(&self.machine) {
                return End::Reached;
            }
            let able = self.able(&parked).count();
            if able == 0 {
                return End::Quiet;
            }
            let chosen = self.rng.below(able);
            let Some(vcpu) = self.able(&parked).nth(chosen) else { return End::Quiet };
            self.steps += 1;
            match self.turn(vcpu) {
                Ok(true) => parked.fill(false),
                // A parked vCPU is asked again when somebody else has done something.
                Ok(false) => parked[usize::from(vcpu)] = true,
                Err(end) => return end,
            }
        }
        if reached(&self.machine) { End::Reached } else { End::Budget }
    }

    /// vCPUs that may take a turn.
    fn able(&self, parked: &[bool]) -> impl Iterator<Item = u8> {
        (0u8..)
            .zip(self.states.iter().zip(parked))
            .filter(|(_, (state, parked))| !matches!(state, State::Stopped) && !**parked)
            .map(|(vcpu, _)| vcpu)
    }

    /// One turn of one vCPU. False when it is parked.
    fn turn(&mut self, vcpu: u8) -> Result<bool, End> {
        let index = usize::from(vcpu);
        match std::mem::replace(&mut self.states[index], State::Host) {
            State::Stopped => self.states[index] = State::Stopped,
            State::Guest(key, reply) => self.guest_turn(vcpu, key, reply)?,
            State::Host => match self.machine.host(vcpu) {
                Turn::Parked => return Ok(false),
                Turn::Stopped(why) => {
                    self.stops.push((vcpu, why));
                    self.states[index] = State::Stopped;
                }
                Turn::Entered { key, level, resume } => {
                    let reply = match resume {
                        Resume::Start(address) => {
                            self.begin(Start { vcpu, level }, key, address)?;
                            None
                        }
                        Resume::Complete(answer) => Some(Ok(answer)),
                        Resume::Retry => None,
                    };
                    self.states[index] = State::Guest(key, reply);
                }
            },
        }
        Ok(true)
    }

    fn begin(&mut self, start: Start, key: M::Key, address: u64) -> Result<(), End> {
        let body = self.entry.get_mut(&address).and_then(|entry| entry(start)).ok_or(End::NoProgram(address))?;
        self.programs.insert(key, (start, Program::new(start, body)));
        Ok(())
    }

    fn guest_turn(&mut self, vcpu: u8, key: M::Key, reply: Option<Reply<M>>) -> Result<(), End> {
        let Some((start, program)) = self.programs.get_mut(&key) else {
            return Err(End::NoProgram(0));
        };
        let level = start.level;
        let (op, over) = match (reply, program.waits_for.clone()) {
            (None, Some(op)) => (op, false),
            (reply, _) => match program.resume(reply.unwrap_or_else(|| Self::first_reply())) {
                Progress::Wants(op) => (op, false),
                Progress::Over => {
                    // The host may interrupt before the end has retired; then it is executed again.
                    program.waits_for = Some(M::end());
                    (M::end(), true)
                }
                Progress::Panicked(message) => return Err(End::Panicked { level, message }),
            },
        };
        let next = match self.machine.step(vcpu, op) {
            Step::Done(answer) => State::Guest(key, Some(Ok(answer))),
            Step::Fault(fault) => State::Guest(key, Some(Err(fault))),
            Step::Exit => State::Host,
        };
        self.states[usize::from(vcpu)] = if over { State::Host } else { next };
        Ok(())
    }

    /// A program's first resumption takes a reply that nobody reads.
    fn first_reply() -> Reply<M> {
        Ok(M::nothing())
    }
}
