//! ATTEST of our own protocol: evidence for the caller's level.

use coco_part_api::range::SMALL;
use coco_part_api::svsm::CallResult;
use coco_part_api::svsm::own::AttestRequest;
use coco_part_api::{DataForm, Error, Evidence, FrameRange, Level, Monitor as Backend, Processor};
use x86_64::PhysAddr;
use x86_64::structures::paging::PhysFrame;

use crate::call::{Call, frame};

impl<B: Backend, P: Processor, const VCPUS: usize> Call<'_, '_, B, P, VCPUS> {
    /// Writes evidence to the page that the request names.
    ///
    /// The request is copied once (H1). The level comes from the caller's record, so evidence cannot name another one
    /// (A1), and report data is L1's digest, so the caller chooses no signed bytes.
    #[inline(never)]
    pub(crate) fn attest(&mut self) -> Result<Evidence, CallResult> {
        let request: AttestRequest = self.request()?;
        let out = frame(request.out)?;
        // One page for both is refused here rather than found busy below.
        if out == PhysFrame::containing_address(PhysAddr::new_truncate(self.regs.rcx)) {
            return Err(CallResult::INVALID_PARAMETER);
        }
        let _out = self.claim_own(FrameRange::of(out))?;

        let level = self.caller.level;
        let mut buffer = [0; SMALL as usize];
        let evidence = self
            .backend
            .attest_for(level, &request.nonce, &[], &mut buffer)
            .map_err(|error| CallResult::from(error.kind()))?;
        let is_ours = evidence.names == Level::Guest(level) && evidence.data == DataForm::Digest;
        let bytes = buffer.get(..evidence.len).filter(|_| is_ours).ok_or(CallResult::INVALID_REQUEST)?;
        self.write(out.start_address(), bytes)?;
        Ok(evidence)
    }
}
