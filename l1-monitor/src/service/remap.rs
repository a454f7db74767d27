//! REMAP_CA: the caller's call area moves to another of its pages.

use coco_part_api::memory::offset;
use coco_part_api::svsm::{CALL_PENDING, CallResult};
use coco_part_api::{Error, FrameRange, Monitor as Backend, Processor};

use crate::call::{Call, frame, refused};
use crate::ledger::State;

impl<B: Backend, P: Processor, const VCPUS: usize> Call<'_, '_, B, P, VCPUS> {
    /// Moves the call area to the page in RCX.
    ///
    /// The page must be an ordinary page of the caller: nothing of L1, no state frame, no call area of anybody (M7). A
    /// refused page is not written to, and the old area stays in use.
    #[inline(never)]
    pub(crate) fn remap(&mut self) -> Result<(), CallResult> {
        let new = frame(self.regs.rcx)?;
        let old = self.caller.call_area;
        if new == old {
            return Ok(());
        }
        let claim = self.claim_own(FrameRange::of(new))?;
        let left = self.shared.ledger.claim(FrameRange::of(old), State::CallArea).map_err(refused)?;

        // A page that does not answer is found out before anything is changed.
        let pending = offset(new.start_address(), CALL_PENDING).ok_or(CallResult::INVALID_ADDRESS)?;
        self.read(pending, &mut [0])?;
        let level = self.caller.level;
        self.backend.set_call_area(level, new).map_err(|error| CallResult::from(error.kind()))?;
        if let Err(result) = self.write(pending, &[0]) {
            return match self.backend.set_call_area(level, old) {
                Ok(()) => Err(result),
                Err(_) => {
                    // Neither area can be relied on; both stay out of use.
                    claim.commit(State::Quarantined);
                    left.commit(State::Quarantined);
                    Err(CallResult::INVALID_REQUEST)
                }
            };
        }
        if let Some(pending) = offset(old.start_address(), CALL_PENDING) {
            // The old page is the caller's own; if it does not answer any more, nobody else is harmed.
            let _ = self.write(pending, &[0]);
        }

        let is_shared = self.shared.storage.with(|registry| {
            if let Some(record) = registry.find(self.caller.vcpu, self.caller.state) {
                record.terms.call_area = new;
            }
            // By an older vCPU that this one replaced.
            registry.uses_area(old)
        });
        self.caller.call_area = new;
        claim.commit(State::CallArea);
        left.commit(if is_shared { State::CallArea } else { self.caller.own() });
        Ok(())
    }
}
