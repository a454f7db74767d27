//! Verb 4: evidence from the port, or from L1 through a page.

use coco_part_api::range::SMALL;
use coco_part_api::{Attest, Binding, CallRegs, DataForm, Evidence, GuestMemory, GuestPort, Level, REPORT_DATA};

use crate::codec::{ATTEST, AttestRequest, CALL_BUFFER};
use crate::{Shim, ShimError};

impl<P: GuestPort> Attest for Shim<'_, P> {
    fn attest(&mut self, data: &[u8; REPORT_DATA], out: &mut [u8]) -> Result<Evidence, Self::Error> {
        if let Some(evidence) = self.port.attest(data, out) {
            return evidence.map_err(ShimError::Port);
        }
        if !self.has_own {
            return Err(ShimError::Unsupported { what: "attestation" });
        }
        let page = self.evidence_page.ok_or(ShimError::Unsupported { what: "attestation without an evidence page" })?;
        let from = page.start_address();
        let memory = self.port.memory();
        let at = self.in_call_area(CALL_BUFFER);
        let request = AttestRequest { out: from.as_u64(), nonce: *data };
        memory.write_value(at, &request).map_err(ShimError::memory(at))?;
        let CallRegs { rcx, rdx, .. } = self.call(ATTEST, at.as_u64(), 0, 0)?;
        let bound_by = match rdx {
            0 => Binding::Monitor,
            1 => Binding::Hardware,
            value => return Err(ShimError::BadAnswer { what: "who vouches for the level", value }),
        };
        let len = usize::try_from(rcx).ok().filter(|_| (1..=SMALL).contains(&rcx));
        let len = len.ok_or(ShimError::BadAnswer { what: "length of evidence", value: rcx })?;
        let given = out.len();
        let out = out.get_mut(..len).ok_or(ShimError::BufferTooSmall { needed: len, given })?;
        memory.read(from, out).map_err(ShimError::memory(from))?;
        Ok(Evidence { len, names: Level::Guest(self.level), bound_by, data: DataForm::Digest })
    }
}
