//! One view of everything the vCPUs of a monitor share.

use coco_part_api::{GuestLevel, MemoryMap, VcpuId};

use crate::ledger::Ledger;
use crate::storage::Storage;
use crate::vtpm::{Vtpm, VtpmDevice};

/// Bounds on work and patience.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// 4 KiB frames that one call with a list changes before it answers "incomplete"; at least one entry is always done. In
    /// search of deposited pages a call looks at 16 times as many.
    pub frames_per_call: u64,
    /// How many vCPUs there are; never more than the storage has room for.
    pub vcpus: u32,
    /// Failures of [`run`](coco_part_api::RunLevel::run) in a row before [`Outcome::HostGaveUp`](crate::Outcome). Refusals of
    /// the host do not count.
    pub host_errors: u32,
    /// While a flush waits for other vCPUs: pauses between two rounds of kicks.
    pub pauses_per_kick: u32,
    /// While the host refuses to run the guest: pauses before each [`idle`](coco_part_api::Processor::idle).
    pub pauses_per_idle: u32,
}

impl Default for Limits {
    /// 32768 frames (128 MiB), as many vCPUs as the storage holds, 64 errors in a row, 256 pauses, 16 before idling.
    fn default() -> Self {
        Self { frames_per_call: 32768, vcpus: u32::MAX, host_errors: 64, pauses_per_kick: 256, pauses_per_idle: 16 }
    }
}

/// What the vCPUs share: references only, so every vCPU has its own copy of it.
#[derive(Debug)]
pub struct Shared<'a, Seed, const VCPUS: usize> {
    /// State of every frame that a guest may name, and of the monitor's own.
    pub ledger: Ledger<'a>,
    /// Seeds and records.
    pub storage: &'a Storage<Seed, VCPUS>,
    /// RAM that guests may use. A list of what is allowed: everything else is refused (rules M1 and M7).
    pub memory: MemoryMap<'a>,
    /// The level of the guest.
    pub level: GuestLevel,
    /// Bounds.
    pub limits: Limits,
    /// The vTPM that guests are served, if there is one. A `&Vtpm<D>` becomes this by itself.
    pub vtpm: Option<&'a Vtpm<dyn VtpmDevice>>,
}

impl<Seed, const VCPUS: usize> Clone for Shared<'_, Seed, VCPUS> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<Seed, const VCPUS: usize> Copy for Shared<'_, Seed, VCPUS> {}

impl<'a, Seed, const VCPUS: usize> Shared<'a, Seed, VCPUS> {
    /// True for a vCPU that exists.
    pub fn has_vcpu(&self, id: VcpuId) -> bool {
        id.0 < self.limits.vcpus && id.index() < VCPUS
    }

    /// The vTPM, as long as it works.
    pub(crate) fn vtpm(&self) -> Option<&'a Vtpm<dyn VtpmDevice>> {
        self.vtpm.filter(|vtpm| !vtpm.is_broken())
    }
}
