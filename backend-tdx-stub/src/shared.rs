//! What the vCPUs of L1 share: who is inside a lower level since when, and which state frame each of them runs.
//!
//! # Cutting rights (rule M5)
//! An INVEPT reaches the processor that executes it and no other (TDX-34). So a cut is done when every other vCPU either
//! has left the lower levels since, or entered them after the cut and dropped its old translations on the way in. The
//! cutter itself is outside; it drops its own on the way in as well, once for however many pages:
//!
//! - **cutter**: takes the rights away (TDG.MEM.PAGE.ATTR.WR), then adds one to `epoch` (E), and later looks at every
//!   slot (L);
//! - **enterer**: publishes in its slot that it is inside (S), then reads `epoch` (R), invalidates on entry if it has
//!   not yet done so for that epoch, enters, and publishes that it is outside after the return.
//!
//! E, L, S and R are sequentially consistent, so there is one order of all of them. If L does not see S, then S comes
//! after L and R after E: the enterer reads the new epoch and invalidates. Since E releases and R acquires, the rights
//! were gone before it invalidates, and no old translation can come back. If L does see S, the cutter waits, unless the
//! slot names an epoch that is not older than the cut: then the enterer knew of E before S, and R reads no older one. If L
//! sees the "outside" that followed, the next entry is judged by the first case. A vCPU that reads an old epoch therefore
//! always has been seen.

use core::sync::atomic::{AtomicU64, Ordering};

use coco_part_api::level::GUEST_LEVELS;
use coco_part_api::{GuestLevel, VcpuId};
use x86_64::structures::paging::{PhysFrame, Size4KiB};

/// Storage that the vCPUs of L1 share, one [`Slot`] per vCPU.
///
/// Made as `Shared<[Slot; N]>`, used by reference as `&Shared`.
#[derive(Debug)]
pub struct Shared<S: ?Sized = [Slot]> {
    /// How many cuts there were.
    epoch: AtomicU64,
    slots: S,
}

/// What one vCPU tells the others.
#[derive(Debug)]
pub struct Slot {
    /// [`INSIDE`] and the epoch known at the entry, or 0.
    inside: AtomicU64,
    /// For each level the address of the installed state frame with [`INSTALLED`] and [`RUNNING`], or 0.
    frames: [AtomicU64; GUEST_LEVELS],
}

const INSIDE: u64 = 1 << 63;
const INSTALLED: u64 = 1;
const RUNNING: u64 = 2;

/// The vCPU of a state frame runs, or waits for the answer of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Running;

impl<const N: usize> Shared<[Slot; N]> {
    /// Storage for `N` vCPUs: no cut yet, nobody inside, no vCPU below.
    pub const fn new() -> Self {
        Self { epoch: AtomicU64::new(0), slots: [const { Slot::new() }; N] }
    }
}

impl<const N: usize> Default for Shared<[Slot; N]> {
    fn default() -> Self {
        Self::new()
    }
}

impl Shared {
    /// How many vCPUs there is room for.
    pub fn room(&self) -> usize {
        self.slots.len()
    }

    /// The slot of a vCPU; `None` without room for it.
    pub(crate) fn slot(&self, vcpu: VcpuId) -> Option<&Slot> {
        self.slots.get(vcpu.index())
    }

    /// Begins a new epoch and gives its number. Rights have been taken away before (E above).
    pub(crate) fn begin_epoch(&self) -> u64 {
        self.epoch.fetch_add(1, Ordering::SeqCst).wrapping_add(1)
    }

    /// Publishes that the vCPU of `slot` goes inside, and gives the epoch for which it has to invalidate (S, then R).
    pub(crate) fn go_inside(&self, slot: &Slot) -> u64 {
        // What is published may be older than what is read next; a cut in between then waits for one exit more.
        slot.inside.store(INSIDE | self.epoch.load(Ordering::SeqCst), Ordering::SeqCst);
        self.epoch.load(Ordering::SeqCst)
    }

    /// Publishes that the vCPU of `slot` is outside again.
    pub(crate) fn go_outside(&self, slot: &Slot) {
        slot.inside.store(0, Ordering::SeqCst);
    }

    /// True when no vCPU can use a right that was cut before `epoch` began (L above).
    pub(crate) fn all_left_since(&self, epoch: u64) -> bool {
        self.slots.iter().map(|slot| slot.inside.load(Ordering::SeqCst)).all(|inside| {
            // 0 is outside; else the epoch it entered with.
            inside & INSIDE == 0 || inside & !INSIDE >= epoch
        })
    }
}

impl Slot {
    const fn new() -> Self {
        Self { inside: AtomicU64::new(0), frames: [const { AtomicU64::new(0) }; GUEST_LEVELS] }
    }

    fn word(&self, level: GuestLevel) -> &AtomicU64 {
        &self.frames[level.index()]
    }

    fn idle(frame: PhysFrame<Size4KiB>) -> u64 {
        frame.start_address().as_u64() | INSTALLED
    }

    /// Makes the frame the current one of its level. Only by the vCPU of the slot, outside.
    pub(crate) fn put(&self, level: GuestLevel, frame: PhysFrame<Size4KiB>) {
        self.word(level).store(Self::idle(frame), Ordering::Release);
    }

    /// Leaves the level without a vCPU. Only by the vCPU of the slot, outside.
    pub(crate) fn clear(&self, level: GuestLevel) {
        self.word(level).store(0, Ordering::Release);
    }

    /// The level has a vCPU here.
    pub(crate) fn is_installed(&self, level: GuestLevel) -> bool {
        self.word(level).load(Ordering::Acquire) & INSTALLED != 0
    }

    /// Marks the level's vCPU as running, so that nobody retires it. False without one.
    pub(crate) fn start(&self, level: GuestLevel) -> bool {
        let word = self.word(level).load(Ordering::Acquire);
        // Another vCPU can only change the word to 0, by `retire`: then there is nothing to run.
        word & INSTALLED != 0
            && self.word(level).compare_exchange(word, word | RUNNING, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// Takes the mark away.
    pub(crate) fn stop(&self, level: GuestLevel) {
        self.word(level).fetch_and(!RUNNING, Ordering::AcqRel);
    }

    /// Makes sure that the frame is not the current one of the level. By any vCPU.
    pub(crate) fn retire(&self, level: GuestLevel, frame: PhysFrame<Size4KiB>) -> Result<(), Running> {
        let idle = Self::idle(frame);
        match self.word(level).compare_exchange(idle, 0, Ordering::AcqRel, Ordering::Acquire) {
            Err(word) if word == idle | RUNNING => Err(Running),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use x86_64::PhysAddr;

    use super::*;

    const LEVEL: GuestLevel = GuestLevel::ONE;

    fn frame(at: u64) -> PhysFrame {
        PhysFrame::containing_address(PhysAddr::new(at))
    }

    #[test]
    fn a_cut_waits_for_whoever_entered_before_it() {
        let shared: &Shared = &Shared::<[Slot; 2]>::new();
        let other = shared.slot(VcpuId(1)).unwrap();
        assert_eq!(shared.go_inside(other), 0);
        let epoch = shared.begin_epoch();
        assert!(!shared.all_left_since(epoch));
        shared.go_outside(other);
        assert!(shared.all_left_since(epoch));
    }

    #[test]
    fn a_cut_does_not_wait_for_whoever_entered_after_it() {
        let shared: &Shared = &Shared::<[Slot; 2]>::new();
        let other = shared.slot(VcpuId(1)).unwrap();
        let epoch = shared.begin_epoch();
        assert_eq!(shared.go_inside(other), epoch);
        assert!(shared.all_left_since(epoch));
        assert!(!shared.all_left_since(shared.begin_epoch()));
    }

    #[test]
    fn a_running_frame_is_not_retired_and_a_retired_frame_does_not_run() {
        let slot = Slot::new();
        assert!(!slot.start(LEVEL));
        slot.put(LEVEL, frame(0x5000));
        assert!(slot.start(LEVEL));
        assert_eq!(slot.retire(LEVEL, frame(0x5000)), Err(Running));
        assert_eq!(slot.retire(LEVEL, frame(0x6000)), Ok(()));
        slot.stop(LEVEL);
        assert_eq!(slot.retire(LEVEL, frame(0x5000)), Ok(()));
        assert!(!slot.is_installed(LEVEL) && !slot.start(LEVEL));
    }

    /// All interleavings of one cutter (cut, new epoch, look) with the steps of [`Shared::go_inside`] and a run that
    /// never ends: whoever runs with the old right has been seen by the look.
    #[test]
    fn no_interleaving_lets_an_old_translation_survive_a_redeemed_cut() {
        let (mut redeemed, mut waited) = (0, 0);
        for schedule in (0..1_u32 << 6).filter(|schedule| schedule.count_ones() == 3) {
            let shared: &Shared = &Shared::<[Slot; 1]>::new();
            let slot = shared.slot(VcpuId(0)).unwrap();
            let (mut inner, mut outer) = (0, 0);
            let (mut read, mut cut, mut runs_stale) = (0, false, false);
            let (mut epoch, mut all_left) = (0, false);
            for step in 0..6 {
                if schedule >> step & 1 == 0 {
                    match inner {
                        0 => slot.inside.store(INSIDE | shared.epoch.load(Ordering::SeqCst), Ordering::SeqCst),
                        1 => read = shared.epoch.load(Ordering::SeqCst),
                        // It invalidates on entry for every epoch but the first; that helps only after the cut.
                        _ => runs_stale = !(read > 0 && cut),
                    }
                    inner += 1;
                } else {
                    match outer {
                        0 => cut = true,
                        1 => epoch = shared.begin_epoch(),
                        _ => all_left = shared.all_left_since(epoch),
                    }
                    outer += 1;
                }
            }
            assert!(!(all_left && runs_stale), "schedule {schedule:06b}");
            redeemed += u32::from(all_left);
            waited += u32::from(!all_left);
        }
        assert_eq!(redeemed + waited, 20);
        assert!(redeemed > 0 && waited > 0);
    }
}
