//! Memory that guests deposited: taken by the monitor's integrator when it needs some, withdrawn by the guest when not.
//!
//! The ledger is the pool: a page is [`State::Deposited`] while nobody uses it and [`State::Lent`] while the monitor does.
//! Only the level that deposited a page gets it back, and a page of the monitor's own never comes to be one of these.

use coco_part_api::{FrameRange, GuestLevel, GuestMemory, Monitor as Backend, Processor};
use x86_64::structures::paging::{PhysFrame, Size4KiB};

use crate::launch::SetupError;
use crate::ledger::{Claim, State};
use crate::monitor::Monitor;
use crate::shared::Shared;

/// Frames that one search looks at, for each frame that a call may change.
const LOOKS: u64 = 16;

impl<'a, Seed, const VCPUS: usize> Shared<'a, Seed, VCPUS> {
    /// How many frames a call may look at in search of deposited ones: once around the ledger, or less in a large one.
    pub(crate) fn looks(&self) -> u64 {
        self.limits.frames_per_call.saturating_mul(LOOKS).clamp(1, self.ledger.span().frames())
    }

    /// Claims a page that `level` deposited and nobody uses, and counts it out. `None` when there is none, or none among the
    /// frames that may still be looked at; the next search goes on from there.
    ///
    /// Whoever does not use the page [restores](Self::restore_deposited) it.
    pub(crate) fn claim_deposited(&self, level: GuestLevel, looks: &mut u64) -> Option<Claim<'a>> {
        let pool = self.storage.pool();
        let (state, span) = (State::Deposited(level), self.ledger.span().frames());
        let mut at = pool.next();
        while *looks > 0 && pool.unused(level) > 0 {
            if at >= span {
                at = 0;
            }
            let ahead = (span - at).min(*looks);
            let found = self.ledger.find(state, at, ahead);
            let seen = found.map_or(ahead, |place| place - at + 1);
            *looks -= seen;
            at += seen;
            // Somebody may have been quicker.
            let claim = found.and_then(|place| self.ledger.claim(FrameRange::of(self.ledger.frame(place)), state).ok());
            if claim.is_some() {
                pool.set_next(at);
                pool.take(level);
                return claim;
            }
        }
        pool.set_next(at);
        None
    }

    /// Notes pages as deposited by `level` and unused, to be found soon.
    pub(crate) fn keep_deposited(&self, claim: Claim<'a>, level: GuestLevel) {
        if let Some(range) = claim.rest() {
            let place = range.first_number().saturating_sub(self.ledger.span().first_number());
            self.storage.pool().lower_next(place);
        }
        self.restore_deposited(claim, level);
    }

    /// Undoes [`claim_deposited`](Self::claim_deposited). A search does not begin with the page: it may be no good.
    pub(crate) fn restore_deposited(&self, claim: Claim<'a>, level: GuestLevel) {
        self.storage.pool().add(level, claim.rest().map_or(0, FrameRange::frames));
        claim.commit(State::Deposited(level));
    }
}

impl<'a, B: Backend, P: Processor, const VCPUS: usize> Monitor<'a, B, P, VCPUS> {
    /// Takes a page that the guest deposited, zeroed, for the monitor's own use. The guest cannot withdraw it until it is
    /// [put back](Self::put_deposited). `None` when there is none; in a large VM, none among those that one search looks at.
    ///
    /// # Errors
    /// [`SetupError::Inaccessible`]; the page is still deposited.
    pub fn take_deposited(&mut self) -> Result<Option<PhysFrame<Size4KiB>>, SetupError<B::Error>> {
        let level = self.shared.level;
        let Some(claim) = self.shared.claim_deposited(level, &mut self.shared.looks()) else { return Ok(None) };
        let Some(range) = claim.rest() else { return Ok(None) };
        if self.backend.memory().zero(range).is_err() {
            self.shared.restore_deposited(claim, level);
            return Err(SetupError::Inaccessible(range.first()));
        }
        claim.commit(State::Lent(level));
        Ok(Some(range.first()))
    }

    /// Gives a page back that [`take_deposited`](Self::take_deposited) gave; the guest may withdraw it then. What it holds is
    /// not shown to the guest.
    ///
    /// # Errors
    /// [`SetupError::Ledger`] for any other page.
    pub fn put_deposited(&mut self, frame: PhysFrame<Size4KiB>) -> Result<(), SetupError<B::Error>> {
        let level = self.shared.level;
        let claim = self.shared.ledger.claim(FrameRange::of(frame), State::Lent(level))?;
        self.shared.keep_deposited(claim, level);
        Ok(())
    }
}
