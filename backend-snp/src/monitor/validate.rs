//! Pages of L1 itself.

use coco_part_api::{After, Block, FrameRange, GuestMemory, HostState, Origin, Stopped};

use super::L1;
use super::blocks::{OnMismatch, next_part};
use super::grant::Cut;
use crate::abi::exit_codes::ExitCode;
use crate::error::SnpError;
use crate::host::HostChannel;
use crate::instr::{Fault, Port, PvalidateOp};

impl<P: Port, M: GuestMemory> L1<'_, P, M> {
    /// Agrees the page state in parts, then validates and zeroes block by block.
    ///
    /// Where it stops, pages from there on that were not valid before are shared with the host, whether they were shared or
    /// unassigned before: the two cannot be told apart.
    pub fn validate(&mut self, range: FrameRange) -> Result<(), Stopped<SnpError>> {
        self.map.check(range).map_err(at_start)?;
        self.with_private(range, |l1: &mut Self, block: Block| l1.validate_block(block, &[]))
    }

    /// Takes what rights lower levels may have on the pages, flushes once, takes the validation away block by block, and
    /// shares what is to be shared in parts. PVALIDATE keeps the rights of a page: one that was published and is validated
    /// again would come back with them (M5). Which rights there are is not known, so they are always taken.
    ///
    /// Where it stops, pages behind may have lost rights of lower levels, and nothing else. If the host does not do its part for pages that are not valid any more, they count as not done; they are unassigned.
    pub fn rescind(&mut self, range: FrameRange, then: After) -> Result<(), Stopped<SnpError>> {
        let mut cut = Cut::default();
        let withdrawn = self.withdraw(range, Origin::Monitor, &mut cut);
        if cut.is_pending() {
            self.flush();
        }
        let bare = match &withdrawn {
            Ok(()) => Some(range),
            Err(stopped) => range.take(stopped.done),
        };
        if let Some(bare) = bare {
            self.give_up(bare, OnMismatch::Split, then == After::Shared)?;
        }
        withdrawn.map_err(|Stopped { done, cause }| Stopped { done, cause: said_by_rmpadjust(cause) })
    }

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

/// RMPADJUST faults on a page that is not valid, where PVALIDATE says that it changes nothing.
fn said_by_rmpadjust(cause: SnpError) -> SnpError {
    match cause {
        SnpError::Fault(Fault::Vc { code }) if ExitCode(code) == ExitCode::PAGE_NOT_VALIDATED => SnpError::NoChange,
        other => other,
    }
}

/// A refusal before the first instruction.
pub(super) fn at_start<E: Into<SnpError>>(cause: E) -> Stopped<SnpError> {
    Stopped::at_start(cause.into())
}
