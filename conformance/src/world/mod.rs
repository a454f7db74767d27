//! A world: one VM on one machine, its monitor, its guest programs, and what a case may ask of them.

pub mod devices;
mod gate;
pub mod layout;
mod monitor;
mod options;
pub(crate) mod tpm;

use std::cell::{Cell, OnceCell, RefCell};
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};

use coco_part_api::{FrameRange, GuestLevel};
use l1_monitor::Vtpm;

pub use gate::Gate;
pub use monitor::{Beside, BootMonitor, ModelProcessor, VCPUS};
pub use options::Options;
use tpm::BackwardsTpm;

use crate::platform::{Found, Home, Plain, Platform};
use crate::runner::{Body, Cpu, End, Model, Runner, Start};
use crate::suite::{Check, Stop};
use devices::{Devices, Told};

/// What happened in the worlds of a bench.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// Instructions of the vendor that ran.
    pub port_calls: u64,
    /// What the oracles found, programs that panicked, and what programs complained about.
    pub violations: Vec<String>,
    /// Traces of the worlds, if they were recorded.
    pub trace: Vec<String>,
    /// Turns of the longest run.
    pub turns: u64,
}

/// L1's side of a program: its backend object and processor.
pub struct L1<'y, P: Platform> {
    /// The backend on this vCPU.
    pub backend: P::Monitor<'y>,
    /// The processor as a monitor's integrator has it.
    pub processor: ModelProcessor<'y, P>,
    /// Bare access to the machine.
    pub cpu: Cpu<'y, P::Model>,
    /// Where it runs.
    pub start: Start,
}

/// A guest's side of a program.
pub struct L2<'y, P: Platform> {
    /// The backend's guest port on this vCPU.
    pub port: P::Guest<'y>,
    /// Bare access to the machine.
    pub cpu: Cpu<'y, P::Model>,
    /// Where it runs.
    pub start: Start,
    /// What it knows of its VM.
    pub home: &'y Home<P>,
}

impl<P: Platform> L2<'_, P> {
    /// Waits at a gate until the case opens it.
    pub fn wait(&self, gate: &Gate) {
        let cpu = self.cpu;
        gate.wait(|| P::pause(cpu));
    }
}

/// A guest on one vCPU that knows nothing of the vendor.
pub struct PlainGuest<'y, P: Platform> {
    /// Bare access to the machine.
    pub cpu: Cpu<'y, P::Model>,
    /// Where it runs.
    pub start: Start,
}

impl<P: Platform> PlainGuest<'_, P> {
    /// Executes an instruction and says what it left.
    ///
    /// # Errors
    /// An exception other than #GP, or an answer of another instruction.
    pub fn execute(&self, instruction: Plain) -> Result<Found, Stop> {
        P::plain(self.cpu, instruction).map_err(Stop::Wrong)
    }
}

type PlainBody<P> = Box<dyn for<'y> FnOnce(PlainGuest<'y, P>) -> Check>;
type L1Body<P> = Box<dyn for<'y> FnOnce(L1<'y, P>) -> Check>;
type L2Body<P> = Box<dyn for<'y> FnOnce(L2<'y, P>) -> Check>;

/// The program of a guest on one vCPU.
enum GuestBody<P: Platform> {
    /// With the backend's guest side, by which it asks L1.
    Asks(L2Body<P>),
    /// With nothing.
    Plain(PlainBody<P>),
}

/// What programs of one world share.
pub(crate) struct Common<P: Platform> {
    pub(crate) home: Home<P>,
    pub(crate) shared: P::Shared,
    pub(crate) ledger: Vec<AtomicU64>,
    pub(crate) storage: monitor::Storage<P>,
    pub(crate) vtpm: Vtpm<BackwardsTpm>,
    pub(crate) devices: Devices,
    pub(crate) beside: OnceCell<Box<dyn Beside<P>>>,
    /// What programs complained about.
    complaints: RefCell<Vec<String>>,
    /// Programs of the case that have not ended yet.
    unfinished: Cell<usize>,
}

/// One VM.
pub struct World<P: Platform> {
    /// The runner with its machine.
    pub runner: Runner<P::Model>,
    common: Rc<Common<P>>,
    guests: Rc<RefCell<Vec<Option<GuestBody<P>>>>>,
    record: Rc<RefCell<Record>>,
    counted: u64,
}

impl<P: Platform> World<P> {
    /// A VM that is launched and has not run yet. Its L1 is the monitor crate unless [`on_l1`](Self::on_l1) replaces it.
    pub fn new(options: Options<P>, record: Rc<RefCell<Record>>) -> Self {
        let guest = layout::range(layout::GUEST, options.guest_bytes);
        let home = Home {
            ram: vec![layout::range(layout::MONITOR, layout::MONITOR_BYTES), guest],
            guest_ram: vec![guest],
            levels: options.levels.clone(),
            options: options.clone(),
        };
        let machine = P::launch(&options);
        let common = Rc::new(Common {
            shared: P::shared(&options),
            ledger: monitor::ledger_words(&home),
            storage: monitor::Storage::<P>::new(),
            vtpm: Vtpm::new(BackwardsTpm),
            home,
            devices: Devices::default(),
            beside: OnceCell::new(),
            complaints: RefCell::default(),
            unfinished: Cell::new(0),
        });
        let guests = Rc::new(RefCell::new((0..VCPUS).map(|_| None).collect::<Vec<_>>()));
        let mut world = Self { runner: Runner::new(machine, options.seed), common, guests, record, counted: 0 };
        world.install_monitor();
        world.install_guests();
        world
    }

    /// Replaces the monitor by a program of the case, on L1's boot vCPU.
    pub fn on_l1(&mut self, body: impl for<'y> FnOnce(L1<'y, P>) -> Check + 'static) {
        let common = Rc::clone(&self.common);
        let mut body: Option<L1Body<P>> = Some(Box::new(body));
        common.begin();
        self.runner.at_entry(
            layout::ENTRY_MONITOR,
            Box::new(move |start| {
                let (common, body) = (Rc::clone(&common), body.take()?);
                Some(Box::new(move |cpu: Cpu<'_, P::Model>| {
                    let check = match P::monitor(cpu, &common.shared, &common.home) {
                        Ok(backend) => {
                            body(L1 { backend, processor: ModelProcessor::new(cpu, &common.devices), cpu, start })
                        }
                        Err(error) => Err(format!("L1 does not start: {error}").into()),
                    };
                    common.end("L1", check);
                    // A monitor never ends.
                    idle_for_ever::<P>(cpu);
                }) as Body<P::Model>)
            }),
        );
    }

    /// Has L1's boot vCPU run other levels beside the guest. Once for a world.
    pub fn beside_guest(&mut self, beside: impl Beside<P> + 'static) {
        // A second one would be left out; no case gives one.
        let _ = self.common.beside.set(Box::new(beside));
    }

    /// Gives the program of the guest on a vCPU; on vCPU 0 it starts with the VM, elsewhere when the guest creates it.
    pub fn on_guest(&mut self, vcpu: u8, body: impl for<'y> FnOnce(L2<'y, P>) -> Check + 'static) {
        self.common.begin();
        self.guests.borrow_mut()[usize::from(vcpu)] = Some(GuestBody::Asks(Box::new(body)));
    }

    /// As [`on_guest`](Self::on_guest) for a program that knows nothing of the vendor. Needs [`Options::traps`].
    pub fn on_plain_guest(&mut self, vcpu: u8, body: impl for<'y> FnOnce(PlainGuest<'y, P>) -> Check + 'static) {
        self.common.begin();
        self.guests.borrow_mut()[usize::from(vcpu)] = Some(GuestBody::Plain(Box::new(body)));
    }

    /// What guests that trap told L1's devices, in order.
    pub fn told(&self) -> Vec<Told> {
        self.common.devices.told()
    }

    fn install_guests(&mut self) {
        for entry in [layout::ENTRY_GUEST, layout::ENTRY_FURTHER] {
            let (common, guests) = (Rc::clone(&self.common), Rc::clone(&self.guests));
            self.runner.at_entry(
                entry,
                Box::new(move |start| {
                    let body = guests.borrow_mut().get_mut(usize::from(start.vcpu))?.take();
                    let common = Rc::clone(&common);
                    // A vCPU that no case has a program for ends at once.
                    let Some(body) = body else { return Some(Box::new(|_: Cpu<'_, P::Model>| ()) as Body<P::Model>) };
                    Some(Box::new(move |cpu: Cpu<'_, P::Model>| {
                        let check = match body {
                            GuestBody::Plain(body) => body(PlainGuest { cpu, start }),
                            GuestBody::Asks(body) => match P::guest(cpu, &common.home) {
                                Ok(port) => body(L2 { port, cpu, start, home: &common.home }),
                                Err(error) => Err(format!("the guest does not start: {error}").into()),
                            },
                        };
                        common.end("guest", check);
                    }) as Body<P::Model>)
                }),
            );
        }
    }

    /// Runs until every program of the case has ended.
    pub fn run(&mut self) -> End {
        let common = Rc::clone(&self.common);
        self.run_until(move |_| common.unfinished.get() == 0)
    }

    /// Runs until somebody waits at the gate.
    pub fn run_to(&mut self, gate: &Gate) -> End {
        let gate = gate.clone();
        self.run_until(move |_| gate.is_reached())
    }

    /// Runs until `reached` holds, nobody can go on, or the turns of the options are over.
    pub fn run_until(&mut self, reached: impl FnMut(&P::Model) -> bool) -> End {
        let before = self.runner.steps();
        let end = self.run_for(self.common.home.options.turns, reached);
        let turns = self.runner.steps() - before;
        let mut record = self.record.borrow_mut();
        record.turns = record.turns.max(turns);
        drop(record);
        end
    }

    /// As [`run_until`](Self::run_until) with a number of turns.
    pub fn run_for(&mut self, turns: u64, reached: impl FnMut(&P::Model) -> bool) -> End {
        let end = self.runner.run(turns, reached);
        self.note(&end);
        end
    }

    /// Runs to the end of all programs of the case and fails it if they do not get there or complain.
    ///
    /// # Errors
    /// [`Stop::Wrong`].
    pub fn finish(&mut self) -> Check {
        let end = self.run();
        self.expect(end)
    }

    /// Fails the case unless the run reached what it waited for and nobody complained.
    ///
    /// # Errors
    /// [`Stop::Wrong`].
    pub fn expect(&self, end: End) -> Check {
        let complaints = self.common.complaints.borrow();
        if !complaints.is_empty() {
            return Err(complaints.join("; ").into());
        }
        match end {
            End::Reached => Ok(()),
            other => Err(format!("the run ended with {other:?}; stopped vCPUs: {:?}", self.runner.stops()).into()),
        }
    }

    /// What programs complained about so far.
    pub fn complaints(&self) -> Vec<String> {
        self.common.complaints.borrow().clone()
    }

    fn note(&mut self, end: &End) {
        self.runner.machine.check_all();
        let mut record = self.record.borrow_mut();
        let calls = self.runner.machine.port_calls();
        record.port_calls += calls - self.counted;
        self.counted = calls;
        for violation in self.runner.machine.violations() {
            if !record.violations.contains(&violation) {
                record.violations.push(violation);
            }
        }
        if let End::Panicked { level, message } = end {
            record.violations.push(format!("a program of level {level} panicked: {message}"));
        }
        if self.common.home.options.trace {
            record.trace = self.runner.machine.trace();
        }
    }

    /// Everything that "state as before" compares: the machine's state and the ledger.
    pub fn snapshot(&self) -> Picture<P> {
        let ledger = self.common.ledger.iter().map(|word| word.load(Ordering::Relaxed)).collect();
        Picture { machine: self.runner.machine.snapshot(), ledger }
    }

    /// Memory as a level reads it, `None` for the host.
    pub fn peek(&self, at: u64, len: usize, level: Option<u8>) -> Option<Vec<u8>> {
        self.runner.machine.peek(at, len, level)
    }

    /// The guest's level.
    pub fn guest_level(&self) -> GuestLevel {
        self.common.home.options.guest_level()
    }

    /// The guest's RAM.
    pub fn guest_ram(&self) -> FrameRange {
        self.common.home.guest_ram[0]
    }
}

/// A monitor never ends; to do so is an error on an honest host.
fn idle_for_ever<P: Platform>(cpu: Cpu<'_, P::Model>) {
    let never = Cell::new(false);
    while !never.get() {
        P::idle(cpu);
    }
}

/// A world at one moment.
#[derive(Clone)]
pub struct Picture<P: Platform> {
    machine: <P::Model as Model>::Snapshot,
    ledger: Vec<u64>,
}

impl<P: Platform> Picture<P> {
    /// How another picture differs, a line each, but for what changes by running.
    pub fn diff_beside_running(&self, after: &Self) -> Vec<String> {
        self.diff(after).into_iter().filter(|line| !P::changes_by_running(line)).collect()
    }

    /// How another picture differs, a line each.
    pub fn diff(&self, after: &Self) -> Vec<String> {
        let mut lines = P::Model::diff(&self.machine, &after.machine);
        for (index, (before, after)) in self.ledger.iter().zip(&after.ledger).enumerate() {
            if before != after {
                lines.push(format!("ledger word {index}: {before:#x} became {after:#x}"));
            }
        }
        lines
    }
}

impl<P: Platform> Common<P> {
    fn begin(&self) {
        self.unfinished.set(self.unfinished.get() + 1);
    }

    fn end(&self, who: &str, check: Check) {
        self.unfinished.set(self.unfinished.get() - 1);
        if let Err(stop) = check {
            self.complaints.borrow_mut().push(format!("{who}: {stop:?}"));
        }
    }
}
