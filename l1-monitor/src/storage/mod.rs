//! What the vCPUs of a monitor share besides the ledger: posted seeds, records of state frames, and the end of it all.
//!
//! No lifetimes: the integrator puts one in a `static` or wherever it lives as long as the monitor. Every lock in here is
//! held for a few instructions and never across a call of the backend or of the processor.

mod pool;
mod registry;

use core::fmt;
use core::mem;
use core::sync::atomic::{AtomicBool, Ordering};

use coco_part_api::{GuestLevel, VcpuId};
use spin::Mutex;
use x86_64::structures::paging::{PhysFrame, Size4KiB};

pub(crate) use pool::Pool;
pub use registry::{FRAMES_PER_VCPU, Phase, Record};
pub(crate) use registry::{Hold, NoRetire, Registry, Serving};

/// Storage that the vCPUs share, for vCPUs 0 to `VCPUS` - 1.
pub struct Storage<Seed, const VCPUS: usize> {
    slots: [Mutex<Slot<Seed>>; VCPUS],
    registry: Mutex<Registry<VCPUS>>,
    pool: Pool,
    is_dead: AtomicBool,
}

/// Where a target finds its next vCPU.
enum Slot<Seed> {
    Empty,
    /// Somebody is making, installing or deleting one.
    Reserved,
    Posted(PhysFrame<Size4KiB>, Seed),
}

/// Why a slot cannot be kept for a new seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoReserve {
    /// A seed waits there until its target takes it.
    Occupied,
    /// Somebody is making, installing or deleting one at this moment.
    Busy,
}

impl<Seed, const VCPUS: usize> Storage<Seed, VCPUS> {
    /// Empty storage.
    pub const fn new() -> Self {
        Self {
            slots: [const { Mutex::new(Slot::Empty) }; VCPUS],
            registry: Mutex::new(Registry::new()),
            pool: Pool::new(),
            is_dead: AtomicBool::new(false),
        }
    }

    /// Ends the monitor: no vCPU enters a guest level any more. For a broken invariant, or a host that gave up.
    pub fn declare_dead(&self) {
        self.is_dead.store(true, Ordering::Release);
    }

    /// True once somebody declared the monitor dead.
    pub fn is_dead(&self) -> bool {
        self.is_dead.load(Ordering::Acquire)
    }

    /// The record of a state frame of a vCPU, as it is now.
    pub fn record(&self, target: VcpuId, state: PhysFrame<Size4KiB>) -> Option<Record> {
        self.with(|registry| registry.find(target, state).map(|record| *record))
    }

    /// The record of the frame a vCPU runs, as it is now.
    pub fn current(&self, target: VcpuId) -> Option<Record> {
        self.with(|registry| registry.current(target).map(|record| *record))
    }

    /// How many state frames are registered.
    pub fn registered(&self) -> usize {
        self.with(|registry| registry.all().count())
    }

    /// How many 4 KiB pages a level has deposited that nobody uses.
    pub fn deposited(&self, level: GuestLevel) -> u64 {
        self.pool.unused(level)
    }

    pub(crate) const fn pool(&self) -> &Pool {
        &self.pool
    }

    /// True when a seed waits for this vCPU.
    pub fn is_posted(&self, target: VcpuId) -> bool {
        self.slots.get(target.index()).is_some_and(|slot| matches!(*slot.lock(), Slot::Posted(..)))
    }

    pub(crate) fn with<R>(&self, work: impl FnOnce(&mut Registry<VCPUS>) -> R) -> R {
        work(&mut self.registry.lock())
    }

    /// Keeps a target's empty slot for a seed to come.
    pub(crate) fn reserve(&self, target: VcpuId) -> Result<(), NoReserve> {
        let slot = self.slots.get(target.index()).ok_or(NoReserve::Occupied)?;
        let mut slot = slot.lock();
        match *slot {
            Slot::Empty => {
                *slot = Slot::Reserved;
                Ok(())
            }
            Slot::Reserved => Err(NoReserve::Busy),
            Slot::Posted(..) => Err(NoReserve::Occupied),
        }
    }

    /// Puts a seed into a slot that the caller reserved.
    pub(crate) fn post(&self, target: VcpuId, state: PhysFrame<Size4KiB>, seed: Seed) {
        if let Some(slot) = self.slots.get(target.index()) {
            *slot.lock() = Slot::Posted(state, seed);
        }
    }

    /// Empties a slot that the caller reserved.
    pub(crate) fn release(&self, target: VcpuId) {
        if let Some(slot) = self.slots.get(target.index()) {
            *slot.lock() = Slot::Empty;
        }
    }

    /// Takes a posted seed; the slot stays reserved for the caller.
    pub(crate) fn take(&self, target: VcpuId) -> Option<(PhysFrame<Size4KiB>, Seed)> {
        self.take_if(target, |_| true)
    }

    /// Takes the posted seed of one state frame; the slot stays reserved for the caller.
    pub(crate) fn take_for(&self, target: VcpuId, state: PhysFrame<Size4KiB>) -> Option<Seed> {
        self.take_if(target, |posted| posted == state).map(|(_, seed)| seed)
    }

    fn take_if(
        &self,
        target: VcpuId,
        wanted: impl FnOnce(PhysFrame<Size4KiB>) -> bool,
    ) -> Option<(PhysFrame<Size4KiB>, Seed)> {
        let mut slot = self.slots.get(target.index())?.lock();
        match mem::replace(&mut *slot, Slot::Reserved) {
            Slot::Posted(state, seed) if wanted(state) => Some((state, seed)),
            other => {
                *slot = other;
                None
            }
        }
    }
}

impl<Seed, const VCPUS: usize> Default for Storage<Seed, VCPUS> {
    fn default() -> Self {
        Self::new()
    }
}

impl<Seed, const VCPUS: usize> fmt::Debug for Storage<Seed, VCPUS> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Storage").field("vcpus", &VCPUS).field("is_dead", &self.is_dead()).finish_non_exhaustive()
    }
}
