//! The loop of one vCPU: run the guest, look at the exit, serve it, run again.

use coco_part_api::svsm::CallResult;
use coco_part_api::svsm::list::MOST;
use coco_part_api::{
    Emulate, Error, ErrorKind, Exit, FaultCause, GuestLevel, MemoryFault, Monitor as Backend, PendingCall, Processor,
    VcpuId,
};
use x86_64::structures::paging::{PhysFrame, Size4KiB};

use crate::call::{Call, Caller};
use crate::ledger::State;
use crate::service;
use crate::shared::Shared;
use crate::storage::{Phase, Record, Serving};
use crate::trap::Tried;

/// The monitor on one vCPU. It owns that vCPU's backend; everything else is shared.
#[derive(Debug)]
pub struct Monitor<'a, B: Backend, P, const VCPUS: usize> {
    pub(crate) backend: B,
    pub(crate) processor: P,
    pub(crate) shared: Shared<'a, B::Seed, VCPUS>,
    own: VcpuId,
    host_errors: u32,
    refusals: u32,
    /// For the list of a call: zeroing a new place would cost more than the rest of a short one.
    room: [u64; MOST],
}

/// Why the guest's part on this vCPU is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// It shut itself down (triple fault or the like).
    Shutdown,
    /// It accessed a model-specific register that it does not have, and L1 cannot raise #GP on this machine.
    Msr,
    /// An instruction of it that traps could not be completed.
    NotCompleted,
    /// It accessed memory that does not answer.
    Memory,
    /// It asked for the host, which is not passed on in this version.
    HostCall,
    /// Anything else, with the vendor's code.
    Other {
        /// Vendor's exit code.
        code: u64,
    },
    /// Its state cannot be reached any more, so an answer could not be given.
    StateLost,
}

/// What one iteration of the loop did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// No vCPU of the guest here that the host can run, or it halted: idled once.
    Idle,
    /// Served a call with this result.
    Served(CallResult),
    /// Played an instruction that trapped.
    Emulated,
    /// Nothing came of it; running again is right.
    Again,
    /// The guest's vCPU here does not run any more. Another one may be posted later.
    Stopped(Stop),
    /// The host misbehaved too often in a row.
    HostGaveUp,
    /// The monitor was declared dead.
    Dead,
}

/// Why the loop ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The guest's vCPU here does not run any more. Run the loop again to wait for another one.
    Stopped(Stop),
    /// The host misbehaved too often in a row. One that only refuses is borne for ever.
    HostGaveUp,
    /// The monitor was declared dead.
    Dead,
}

impl<'a, B: Backend, P: Processor + Emulate, const VCPUS: usize> Monitor<'a, B, P, VCPUS> {
    /// The monitor of the vCPU that `backend` is for.
    pub fn new(backend: B, processor: P, shared: Shared<'a, B::Seed, VCPUS>) -> Self {
        let own = backend.vcpu();
        Self { backend, processor, shared, own, host_errors: 0, refusals: 0, room: [0; MOST] }
    }

    /// The backend, for integrators that need more of it than the monitor does.
    pub fn backend(&mut self) -> &mut B {
        &mut self.backend
    }

    /// What this vCPU's monitor shares with the others.
    pub const fn shared(&self) -> &Shared<'a, B::Seed, VCPUS> {
        &self.shared
    }

    /// Serves the guest on this vCPU until that is over.
    pub fn run(&mut self) -> Outcome {
        loop {
            match self.step() {
                Step::Stopped(stop) => return Outcome::Stopped(stop),
                Step::HostGaveUp => return Outcome::HostGaveUp,
                Step::Dead => return Outcome::Dead,
                Step::Idle | Step::Served(_) | Step::Emulated | Step::Again => {}
            }
        }
    }

    /// One iteration: takes a posted vCPU, then runs the guest once, or idles when there is none.
    pub fn step(&mut self) -> Step {
        if self.shared.storage.is_dead() {
            return Step::Dead;
        }
        self.take_posted();
        let Some(current) = self.shared.storage.current(self.own) else {
            self.processor.idle();
            return Step::Idle;
        };
        match self.backend.run(current.terms.level) {
            Ok(exit) => {
                self.host_errors = 0;
                self.refusals = 0;
                self.look_at(exit, &current)
            }
            Err(error) => self.did_not_run(error.kind(), &current),
        }
    }

    /// Installs what was posted for this vCPU. An older vCPU stays retirable but does not run any more.
    fn take_posted(&mut self) {
        let storage = self.shared.storage;
        let Some((state, seed)) = storage.take(self.own) else { return };
        match self.backend.install(seed) {
            Ok(()) => {
                storage.with(|registry| registry.make_current(self.own, state));
                storage.release(self.own);
            }
            Err((seed, error)) if matches!(error.kind(), ErrorKind::InUse | ErrorKind::Busy) => {
                storage.post(self.own, state, seed);
            }
            Err((_, error)) => {
                log::debug!("{}: cannot install a posted vCPU: {:?}", self.own, error.kind());
                self.park(state, Phase::Posted);
                storage.release(self.own);
            }
        }
    }

    /// Every exit by name: a new one must be decided on here.
    fn look_at(&mut self, exit: Exit, current: &Record) -> Step {
        let stop = match exit {
            Exit::Call(pending) => return self.serve(pending, current, false),
            Exit::MalformedCall(pending) => return self.serve(pending, current, true),
            Exit::Spurious | Exit::InterruptPending => {
                self.processor.pause();
                return Step::Again;
            }
            Exit::Halt => {
                self.processor.idle();
                return Step::Idle;
            }
            Exit::Shutdown => Stop::Shutdown,
            Exit::Cpuid { leaf, subleaf } => return self.emulate(Tried::Cpuid { leaf, subleaf }, current),
            Exit::Msr(access) => return self.emulate(Tried::Msr(access), current),
            Exit::Port(access) => return self.emulate(Tried::Port(access), current),
            Exit::Memory(fault) if self.is_hosts(&fault, current) => {
                self.processor.pause();
                return Step::Again;
            }
            Exit::Memory(_) => Stop::Memory,
            Exit::HostCall(pending) => {
                self.let_go(pending);
                Stop::HostCall
            }
            Exit::Other { code } => Stop::Other { code },
        };
        self.stop(stop, current)
    }

    /// Whether a fault is the host's to resolve: it has not mapped a page that the ledger has as the guest's, or as being changed
    /// for it at this moment. Running again is right then, until the host does its part.
    fn is_hosts(&self, fault: &MemoryFault, current: &Record) -> bool {
        let state = self.shared.ledger.state(PhysFrame::containing_address(fault.at));
        let is_guests = match state {
            Some(State::Guest(level)) => level == current.terms.level,
            Some(State::CallArea | State::Changing) => true,
            _ => false,
        };
        fault.cause == FaultCause::NotMapped && is_guests
    }

    /// Ends a call that nobody serves, with its registers as they were. Dropped, it would keep its frame from being retired for
    /// ever (rule V4).
    fn let_go(&mut self, pending: PendingCall) {
        let regs = pending.regs();
        if let Err(error) = self.backend.answer(pending, regs) {
            // The frame is gone, or its state cannot be reached: nothing is kept.
            log::debug!("{}: a call was not let go: {:?}", self.own, error.kind());
        }
    }

    /// Serves a pending call once (S1). It belongs to the frame that was current when this vCPU ran the guest.
    fn serve(&mut self, pending: PendingCall, current: &Record, is_malformed: bool) -> Step {
        // Deleted since it called, or of another level: nobody waits for an answer, and none is given.
        let Some(record) = self.hold(current, pending.level()) else {
            self.let_go(pending);
            return Step::Again;
        };
        let regs = pending.regs();
        let caller = Caller {
            vcpu: self.own,
            level: record.terms.level,
            state: record.state,
            call_area: record.terms.call_area,
        };
        let answer = if is_malformed {
            regs.with_result(CallResult::INVALID_FORMAT)
        } else {
            let Self { backend, processor, shared, room, .. } = self;
            service::serve(&mut Call { backend, processor, shared, caller, regs, room })
        };
        let answered = self.backend.answer(pending, answer);
        self.release(&record);
        match answered {
            Ok(()) => Step::Served(answer.result()),
            Err(error) => {
                log::debug!("{}: no answer could be given: {:?}", self.own, error.kind());
                self.stop(Stop::StateLost, &record)
            }
        }
    }

    /// Keeps the frame that was current when this vCPU ran the guest from being deleted. `None` when it is gone, or of another
    /// level.
    #[inline(always)]
    pub(crate) fn hold(&mut self, current: &Record, level: GuestLevel) -> Option<Record> {
        loop {
            match self.shared.storage.with(|registry| registry.begin_serving(self.own, current.state, level)) {
                Serving::Yes(record) => return Some(record),
                Serving::Wait => self.processor.pause(),
                Serving::Gone => return None,
            }
        }
    }

    /// Ends a [`hold`](Self::hold).
    #[inline(always)]
    pub(crate) fn release(&mut self, record: &Record) {
        self.shared.storage.with(|registry| registry.end_hold(self.own, record.state));
    }

    fn did_not_run(&mut self, kind: ErrorKind, current: &Record) -> Step {
        if kind == ErrorKind::NotFound {
            // Deleted by another vCPU between the look at the registry and the run.
            self.park(current.state, Phase::Current);
            self.processor.idle();
            return Step::Idle;
        }
        if kind == ErrorKind::HostRefused {
            // The guest has not told the host about its vCPU yet, or has had it stopped and kept it, for as long as it likes.
            // That is nobody's failure: wait as for a vCPU that was never created. Nobody kicks when the host has been told, so
            // ask a few times more before each sleep.
            if self.refusals < self.shared.limits.pauses_per_idle {
                self.refusals = self.refusals.saturating_add(1);
                self.processor.pause();
                return Step::Again;
            }
            self.refusals = 0;
            self.processor.idle();
            return Step::Idle;
        }
        self.host_errors = self.host_errors.saturating_add(1);
        log::debug!("{}: guest did not run: {kind:?}", self.own);
        if self.host_errors >= self.shared.limits.host_errors {
            self.host_errors = 0;
            return Step::HostGaveUp;
        }
        self.processor.pause();
        Step::Again
    }

    pub(crate) fn stop(&mut self, stop: Stop, current: &Record) -> Step {
        log::debug!("{}: guest stopped: {stop:?}", self.own);
        if self.park(current.state, Phase::Current) {
            Step::Stopped(stop)
        } else {
            // Deleted meanwhile: what it did last concerns nobody.
            Step::Again
        }
    }

    /// Keeps a frame admitted but runs it no more; DELETE_VCPU may still take it. False when it is not in phase `from`.
    fn park(&mut self, state: PhysFrame<Size4KiB>, from: Phase) -> bool {
        self.shared.storage.with(|registry| registry.park(self.own, state, from))
    }
}

impl<B: Backend, P, const VCPUS: usize> Monitor<'_, B, P, VCPUS> {
    pub(crate) const fn own(&self) -> VcpuId {
        self.own
    }
}
