//! What the monitor does on its own: hand memory over, start the guest, start its own secondary vCPUs.

use core::fmt;

use coco_part_api::range::FRAMES_PER_LARGE;
use coco_part_api::svsm::{CALL_PENDING, MEM_AVAILABLE};
use coco_part_api::{
    BootInfo, BootPage, Context, CreateVcpu, Error, ErrorKind, FrameRange, Grants, GuestMemory, Monitor as Backend,
    NewVcpu, Origin, Processor, Rights, Source, Stopped, Terms,
};
use x86_64::structures::paging::{PhysFrame, Size4KiB};

use crate::call::flush;
use crate::ledger::{Claim, Refusal, State};
use crate::monitor::Monitor;
use crate::storage::{Hold, Phase, Record};

/// Everything the first vCPU of the guest starts with. All frames are the monitor's, except where noted.
#[derive(Clone, Copy, Debug)]
pub struct GuestLaunch<'a> {
    /// Becomes the state frame. A backend may refuse one that is aligned to 2 MiB.
    pub state: PhysFrame<Size4KiB>,
    /// Becomes the call area: a page of the monitor, which is zeroed and handed over, or one the guest has already.
    pub call_area: PhysFrame<Size4KiB>,
    /// Registers.
    pub context: &'a Context,
    /// A page for each [`BootPage`] that the backend's machine wants handed over.
    pub pages: &'a [(BootPage, PhysFrame<Size4KiB>)],
    /// Memory of L1, as the guest is told.
    pub monitor: FrameRange,
}

/// Why setting up stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetupError<E> {
    /// The ledger has the frames in another state than needed. Nothing has changed.
    Ledger(Refusal),
    /// The backend failed. Frames before `done` are handed over, the others are as they were.
    Backend(Stopped<E>),
    /// The memory handle of the backend failed on a frame that it should reach. The frame is the monitor's.
    Inaccessible(PhysFrame<Size4KiB>),
    /// The launch names no page for this one.
    Missing(BootPage),
    /// The vCPU has no room for another state frame, or is none of the storage's.
    NoRoom,
    /// The monitor was declared dead.
    Dead,
}

impl<E: fmt::Display> fmt::Display for SetupError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ledger(refusal) => write!(f, "page ledger refused: {refusal}"),
            Self::Backend(stopped) => write!(f, "stopped after {} frames: {}", stopped.done, stopped.cause),
            Self::Inaccessible(frame) => write!(f, "frame {:#x} does not answer", frame.start_address()),
            Self::Missing(page) => write!(f, "no frame for boot page {page:?}"),
            Self::NoRoom => f.write_str("no room for another state frame"),
            Self::Dead => f.write_str("monitor was declared dead"),
        }
    }
}

impl<E: core::error::Error> core::error::Error for SetupError<E> {}

impl<E> From<Refusal> for SetupError<E> {
    fn from(refusal: Refusal) -> Self {
        Self::Ledger(refusal)
    }
}

impl<E> From<Stopped<E>> for SetupError<E> {
    fn from(stopped: Stopped<E>) -> Self {
        Self::Backend(stopped)
    }
}

impl<'a, B: Backend, P: Processor, const VCPUS: usize> Monitor<'a, B, P, VCPUS> {
    /// Validates memory for the guest: zeroed, with full rights. `range` is not private yet.
    ///
    /// # Errors
    /// [`SetupError::Ledger`], [`SetupError::Backend`] with the frames that are done.
    pub fn hand_over(&mut self, range: FrameRange) -> Result<(), SetupError<B::Error>> {
        let claim = self.shared.ledger.claim(range, State::NotPrivate)?;
        let done = self.backend.validate_for(range, &self.guest_grants(), Origin::Monitor);
        self.give(claim, done)
    }

    /// Hands pages to the guest that the monitor holds and filled on purpose, with their contents (rule M3).
    ///
    /// # Errors
    /// As [`hand_over`](Self::hand_over).
    pub fn publish(&mut self, range: FrameRange) -> Result<(), SetupError<B::Error>> {
        let claim = self.shared.ledger.claim(range, State::Monitor)?;
        let done = self.backend.publish(range, &self.guest_grants());
        self.give(claim, done)
    }

    /// Starts the guest's first vCPU on this one: boot pages, call area, state frame. [`run`](Self::run) then serves it.
    ///
    /// # Errors
    /// [`SetupError`]; pages that were handed over before the failing step stay handed over.
    pub fn start_guest(&mut self, launch: &GuestLaunch<'_>) -> Result<(), SetupError<B::Error>> {
        let level = self.shared.level;
        let info = BootInfo { level, call_area: launch.call_area, monitor: launch.monitor };
        for page in B::PAGES {
            let named = launch.pages.iter().find(|(named, _)| named == page);
            let (_, at) = named.ok_or(SetupError::Missing(*page))?;
            let claim = self.shared.ledger.claim(FrameRange::of(*at), State::Monitor)?;
            self.backend.fill(*page, *at, &info).map_err(Stopped::at_start)?;
            let done = self.backend.publish(FrameRange::of(*at), &self.guest_grants());
            self.give(claim, done)?;
        }

        let state = launch.state;
        let state_claim = self.shared.ledger.claim(FrameRange::of(state), State::Monitor)?;
        let area_claim = self.prepare_call_area(launch.call_area)?;
        let terms = Terms { level, target: self.own(), call_area: launch.call_area };
        let record = Record { state, terms, is_boot: true, phase: Phase::Admitting, hold: Hold::Free };
        if !self.shared.storage.with(|registry| registry.add(record)) {
            return Err(SetupError::NoRoom);
        }
        let admitted = self.admit_first(launch.context, &record, state_claim);
        self.shared.storage.with(|registry| match admitted {
            Ok(()) => registry.make_current(self.own(), state),
            Err(_) => registry.remove(self.own(), state),
        });
        admitted?;
        area_claim.commit(State::CallArea);
        Ok(())
    }

    fn admit_first(
        &mut self,
        context: &Context,
        record: &Record,
        claim: Claim<'a>,
    ) -> Result<(), SetupError<B::Error>> {
        let own = self.own();
        // A page of the monitor: no lower level ever had a right on it, so there is nothing to flush.
        let cut = B::Cut::default();
        let proof = flush(&mut self.backend, &mut self.processor, &self.shared, own, cut).ok_or(SetupError::Dead)?;
        let seed = match self.backend.admit(record.state, Source::Context(context), &record.terms, &proof) {
            Ok(seed) => seed,
            Err(error) => return Err(give_up(claim, error)),
        };
        if let Err((_, error)) = self.backend.install(seed) {
            // A frame that is admitted but not installed must not stay one, or must never be used again.
            if self.backend.retire(record.state, &record.terms).is_err() {
                claim.commit(State::Quarantined);
            }
            return Err(Stopped::at_start(error).into());
        }
        claim.commit(State::VcpuState);
        Ok(())
    }

    /// Claims the call area as the guest's: one that it has already, or a page of the monitor, zeroed first.
    fn prepare_call_area(&mut self, area: PhysFrame<Size4KiB>) -> Result<Claim<'a>, SetupError<B::Error>> {
        let range = FrameRange::of(area);
        let own = State::Guest(self.shared.level);
        if self.shared.ledger.state(area) == Some(State::Monitor) {
            let claim = self.shared.ledger.claim(range, State::Monitor)?;
            self.backend.memory().zero(range).map_err(|_| SetupError::Inaccessible(area))?;
            let done = self.backend.publish(range, &self.guest_grants());
            self.give(claim, done)?;
        }
        let claim = self.shared.ledger.claim(range, own)?;
        let marks = [0; 2];
        const { assert!(CALL_PENDING == 0 && MEM_AVAILABLE == 1) };
        self.backend.memory().write(area.start_address(), &marks).map_err(|_| SetupError::Inaccessible(area))?;
        Ok(claim)
    }

    /// Commits what the backend handed over.
    fn give(&mut self, mut claim: Claim<'a>, done: Result<(), Stopped<B::Error>>) -> Result<(), SetupError<B::Error>> {
        let own = State::Guest(self.shared.level);
        match done {
            Ok(()) => {
                claim.commit(own);
                Ok(())
            }
            Err(stopped) => {
                claim.commit_first(stopped.done, own);
                if stopped.cause.kind() == ErrorKind::Quarantined
                    && let Some(rest) = claim.rest()
                {
                    // The block that could not be put back ends at the next large page at the latest.
                    let block = FRAMES_PER_LARGE - rest.first_number() % FRAMES_PER_LARGE;
                    claim.commit_first(block.min(rest.frames()), State::Quarantined);
                }
                Err(stopped.into())
            }
        }
    }

    fn guest_grants(&self) -> Grants {
        Grants::one(self.shared.level, Rights::RAM)
    }
}

impl<'a, B: Backend + CreateVcpu, P: Processor, const VCPUS: usize> Monitor<'a, B, P, VCPUS> {
    /// Starts another vCPU of the monitor itself. Its state frame is a page of the monitor and stays reserved.
    ///
    /// Start the monitor's vCPUs before the guest's: without them nobody answers a guest's vCPU there. Where the host starts
    /// them with the VM, a backend has no [`CreateVcpu`] at L1 and they only have to [`run`](Self::run).
    ///
    /// # Errors
    /// [`SetupError::Ledger`], [`SetupError::Backend`]; nothing is left behind. Only a frame that could not be put back
    /// ([`ErrorKind::Quarantined`]) is quarantined.
    pub fn start_secondary(&mut self, new: NewVcpu<'_>) -> Result<(), SetupError<B::Error>> {
        let claim = self.shared.ledger.claim(FrameRange::of(new.state), State::Monitor)?;
        match self.backend.create_vcpu(new) {
            Ok(()) => {
                claim.commit(State::VcpuState);
                Ok(())
            }
            Err(error) => Err(give_up(claim, error)),
        }
    }
}

/// Ends the claim on a state frame that was refused: it is the monitor's again, unless the backend could not put it back.
fn give_up<E: Error>(claim: Claim<'_>, error: E) -> SetupError<E> {
    if error.kind() == ErrorKind::Quarantined {
        claim.commit(State::Quarantined);
    }
    Stopped::at_start(error).into()
}
