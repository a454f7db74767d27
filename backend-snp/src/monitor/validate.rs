//! Pages of L1 itself.

use coco_part_api::{After, Block, FrameRange, Grants, GuestMemory, HostState, Stopped, Validate};

use super::L1;
use super::blocks::{OnMismatch, next_part};
use crate::error::SnpError;
use crate::host::HostChannel;
use crate::instr::{Port, PvalidateOp};

impl<P: Port, M: GuestMemory> Validate for L1<'_, P, M> {
    /// Agrees the page state in parts, then validates and zeroes block by block.
    ///
    /// Where it stops, pages from there on that were not valid before are shared with the host, whether they were shared or
    /// unassigned before: the two cannot be told apart.
    fn validate(&mut self, range: FrameRange) -> Result<(), Stopped<SnpError>> {
        self.map.check(range).map_err(at_start)?;
        self.with_private(range, |l1: &mut Self, block: Block| l1.validate_block(block, &Grants::NONE))
    }

    /// Takes the validation away block by block, and shares what is to be shared in parts.
    ///
    /// If the host does not do its part for pages that are not valid any more, they count as not done; they are unassigned.
    fn rescind(&mut self, range: FrameRange, then: After) -> Result<(), Stopped<SnpError>> {
        self.map.check(range).map_err(at_start)?;
        self.give_up(range, OnMismatch::Split, then == After::Shared)
    }
}

impl<P: Port, M: GuestMemory> L1<'_, P, M> {
    /// PVALIDATE to not valid, and the host's part if `share`.
    pub(super) fn give_up(
        &mut self,
        range: FrameRange,
        mismatch: OnMismatch,
        share: bool,
    ) -> Result<(), Stopped<SnpError>> {
        let mut done = 0;
        while let Some(part) = range.skip(done).map(next_part) {
            let outcome = self.each(part, mismatch, |l1, block| l1.pvalidate(block, PvalidateOp::Rescind));
            let rescinded = match &outcome {
                Ok(()) => Some(part),
                Err(stopped) => part.take(stopped.done),
            };
            if let Some(rescinded) = rescinded {
                if share {
                    let shared = self.host.page_state(&mut self.port, rescinded, HostState::Shared);
                    shared.map_err(|stopped| Stopped { done: done + stopped.done, cause: stopped.cause })?;
                }
                done += rescinded.frames();
            }
            outcome.map_err(|stopped| Stopped { done, cause: stopped.cause })?;
        }
        Ok(())
    }
}

/// A refusal before the first instruction.
pub(super) fn at_start<E: Into<SnpError>>(cause: E) -> Stopped<SnpError> {
    Stopped::at_start(cause.into())
}
