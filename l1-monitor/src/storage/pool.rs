//! How much memory guests deposited. Which pages these are only the ledger says.

use core::sync::atomic::{AtomicU64, Ordering};

use coco_part_api::GuestLevel;
use coco_part_api::level::GUEST_LEVELS;

/// Counts of deposited pages that nobody uses, and where to look for the next one.
///
/// A page is counted before the ledger calls it deposited, and is counted out after it was claimed: a count never
/// says less than there is to claim.
#[derive(Debug)]
pub(crate) struct Pool {
    unused: [AtomicU64; GUEST_LEVELS],
    next: AtomicU64,
}

impl Pool {
    pub(crate) const fn new() -> Self {
        Self { unused: [const { AtomicU64::new(0) }; GUEST_LEVELS], next: AtomicU64::new(0) }
    }

    pub(crate) fn unused(&self, level: GuestLevel) -> u64 {
        self.of(level).load(Ordering::Acquire)
    }

    /// Counts pages in, before the ledger says that they are there.
    pub(crate) fn add(&self, level: GuestLevel, frames: u64) {
        self.of(level).fetch_add(frames, Ordering::AcqRel);
    }

    /// Counts a page out that was claimed.
    pub(crate) fn take(&self, level: GuestLevel) {
        // None are counted only if a page was adopted into the state.
        let less = |count: u64| count.checked_sub(1);
        let _ = self.of(level).fetch_update(Ordering::AcqRel, Ordering::Acquire, less);
    }

    /// The place in the ledger where the next search begins: a hint, whatever two vCPUs make of it.
    pub(crate) fn next(&self) -> u64 {
        self.next.load(Ordering::Relaxed)
    }

    pub(crate) fn set_next(&self, place: u64) {
        self.next.store(place, Ordering::Relaxed);
    }

    /// Has the next search begin here, unless it begins before.
    pub(crate) fn lower_next(&self, place: u64) {
        self.next.fetch_min(place, Ordering::Relaxed);
    }

    fn of(&self, level: GuestLevel) -> &AtomicU64 {
        &self.unused[level.index()]
    }
}
