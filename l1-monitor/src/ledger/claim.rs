//! A claim on frames.

use core::mem;

use coco_part_api::FrameRange;

use super::{Ledger, State};

/// Frames that are being changed, by the owner of this value alone.
///
/// Frames that are not committed go back to where they came from when it is dropped.
#[derive(Debug)]
#[must_use = "dropping a claim puts its frames back"]
pub struct Claim<'a> {
    ledger: Ledger<'a>,
    rest: Option<FrameRange>,
    from: State,
}

impl<'a> Claim<'a> {
    #[inline]
    pub(super) fn new(ledger: Ledger<'a>, range: FrameRange, from: State) -> Self {
        Self { ledger, rest: Some(range), from }
    }

    /// Frames that are still claimed, `None` when all are committed.
    #[inline]
    pub const fn rest(&self) -> Option<FrameRange> {
        self.rest
    }

    /// Gives all frames that are still claimed the state `to`.
    #[inline]
    pub fn commit(self, to: State) {
        if let Some(rest) = self.rest {
            self.ledger.release(rest, to);
        }
        mem::forget(self);
    }

    /// [`commit`](Self::commit) without a call, for the one place where it counts.
    #[inline(always)]
    pub(crate) fn commit_here(self, to: State) {
        if let Some(rest) = self.rest {
            self.ledger.release_here(rest, to);
        }
        mem::forget(self);
    }

    /// Gives the first `frames` of those that are still claimed the state `to`: partial progress (rule M4).
    #[inline(never)]
    pub fn commit_first(&mut self, frames: u64, to: State) {
        let Some(rest) = self.rest else { return };
        if let Some(done) = rest.take(frames) {
            self.rest = rest.skip(done.frames());
            self.ledger.release(done, to);
        }
    }

    /// Takes the guard off, for a holder that keeps many claims in less space. The frames stay claimed.
    pub(crate) fn into_raw(self) {
        mem::forget(self);
    }

    /// Puts the guard back on.
    ///
    /// The frames must be those of a claim that [`into_raw`](Self::into_raw) took the guard off, and no other.
    pub(crate) fn from_raw(ledger: Ledger<'a>, range: FrameRange, from: State) -> Self {
        Self::new(ledger, range, from)
    }
}

impl Drop for Claim<'_> {
    #[inline]
    fn drop(&mut self) {
        if let Some(rest) = self.rest.take() {
            self.ledger.release(rest, self.from);
        }
    }
}
