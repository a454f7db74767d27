//! Records of state frames: which frame serves which vCPU, and in what phase it is.

use coco_part_api::{GuestLevel, Terms, VcpuId};
use x86_64::structures::paging::{PhysFrame, Size4KiB};

/// State frames that one vCPU can have at a time: the current one, older ones, and one on its way.
pub const FRAMES_PER_VCPU: usize = 4;

/// How far a state frame has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Being admitted by some vCPU.
    Admitting,
    /// Admitted; its seed waits for the target.
    Posted,
    /// What the target runs.
    Current,
    /// Admitted, but the target does not run it: an older one, or its guest is over.
    Parked,
}

/// Who keeps a record from being changed by others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hold {
    Free,
    /// Its vCPU serves a call of it.
    Serving,
    /// Some vCPU deletes it.
    Retiring,
}

/// One registered state frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// The frame.
    pub state: PhysFrame<Size4KiB>,
    /// Its target, level and call area.
    pub terms: Terms,
    /// True for the guest's first vCPU, which cannot be deleted.
    pub is_boot: bool,
    /// How far it has come.
    pub phase: Phase,
    pub(crate) hold: Hold,
}

/// Why a record cannot be retired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoRetire {
    /// It is none the caller may delete.
    NotYours,
    /// Its vCPU serves a call of it. The caller's own always is in that state.
    InUse,
    /// Somebody is at work on it.
    Busy,
}

/// What became of an attempt to serve a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Serving {
    /// It may be served.
    Yes(Record),
    /// Another vCPU is deleting the caller; ask again.
    Wait,
    /// The caller is gone.
    Gone,
}

/// All records, under the storage's lock.
#[derive(Debug)]
pub(crate) struct Registry<const VCPUS: usize> {
    records: [[Option<Record>; FRAMES_PER_VCPU]; VCPUS],
}

impl<const VCPUS: usize> Registry<VCPUS> {
    pub(crate) const fn new() -> Self {
        Self { records: [[None; FRAMES_PER_VCPU]; VCPUS] }
    }

    /// Adds a record; false when its vCPU has no room for one, or does not exist.
    pub(crate) fn add(&mut self, record: Record) -> bool {
        let room = self.records.get_mut(record.terms.target.index());
        match room.and_then(|of| of.iter_mut().find(|slot| slot.is_none())) {
            Some(slot) => {
                *slot = Some(record);
                true
            }
            None => false,
        }
    }

    pub(crate) fn remove(&mut self, target: VcpuId, state: PhysFrame<Size4KiB>) {
        for slot in self.records.get_mut(target.index()).into_iter().flatten() {
            if slot.is_some_and(|record| record.state == state) {
                *slot = None;
            }
        }
    }

    pub(crate) fn of(&mut self, target: VcpuId) -> impl Iterator<Item = &mut Record> {
        self.records.get_mut(target.index()).into_iter().flatten().flatten()
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = &Record> {
        self.records.iter().flatten().flatten()
    }

    /// True when some vCPU has this call area. A vCPU and the older one that it replaces may share theirs.
    pub(crate) fn uses_area(&self, area: PhysFrame<Size4KiB>) -> bool {
        self.all().any(|record| record.terms.call_area == area)
    }

    pub(crate) fn find(&mut self, target: VcpuId, state: PhysFrame<Size4KiB>) -> Option<&mut Record> {
        self.of(target).find(|record| record.state == state)
    }

    pub(crate) fn current(&mut self, target: VcpuId) -> Option<&mut Record> {
        self.of(target).find(|record| record.phase == Phase::Current)
    }

    /// Makes a frame its vCPU's current one and parks the older one.
    pub(crate) fn make_current(&mut self, target: VcpuId, state: PhysFrame<Size4KiB>) {
        for record in self.of(target) {
            if record.state == state {
                record.phase = Phase::Current;
            } else if record.phase == Phase::Current {
                record.phase = Phase::Parked;
            }
        }
    }

    /// Takes a frame out of the running. One that has left phase `from` meanwhile belongs to somebody else by now.
    pub(crate) fn park(&mut self, target: VcpuId, state: PhysFrame<Size4KiB>, from: Phase) -> bool {
        match self.find(target, state) {
            Some(record) if record.phase == from => {
                record.phase = Phase::Parked;
                true
            }
            _ => false,
        }
    }

    pub(crate) fn begin_serving(&mut self, own: VcpuId, state: PhysFrame<Size4KiB>, level: GuestLevel) -> Serving {
        match self.find(own, state) {
            Some(record) if record.terms.level == level && record.phase == Phase::Current => match record.hold {
                Hold::Free | Hold::Serving => {
                    record.hold = Hold::Serving;
                    Serving::Yes(*record)
                }
                Hold::Retiring => Serving::Wait,
            },
            _ => Serving::Gone,
        }
    }

    /// Ends serving or retiring: the record is as it was before.
    pub(crate) fn end_hold(&mut self, target: VcpuId, state: PhysFrame<Size4KiB>) {
        if let Some(record) = self.find(target, state) {
            record.hold = Hold::Free;
        }
    }

    /// Marks a frame as being deleted (rules V1 and V4).
    pub(crate) fn begin_retire(&mut self, state: PhysFrame<Size4KiB>, level: GuestLevel) -> Result<Record, NoRetire> {
        let found = self.records.iter_mut().flatten().flatten().find(|record| record.state == state);
        let record = found.ok_or(NoRetire::NotYours)?;
        if record.is_boot || record.terms.level != level {
            return Err(NoRetire::NotYours);
        }
        match (record.hold, record.phase) {
            (Hold::Serving, _) => Err(NoRetire::InUse),
            (Hold::Retiring, _) | (_, Phase::Admitting) => Err(NoRetire::Busy),
            (Hold::Free, _) => {
                record.hold = Hold::Retiring;
                Ok(*record)
            }
        }
    }
}
