//! Messages to the firmware, which the host carries.

use coco_part_api::{FrameRange, GuestMemory, RangeError};
use x86_64::structures::paging::PhysFrame;

use super::Paged;
use crate::abi::firmware_status::{GuestRequestStatus, VmmError};
use crate::abi::nae::NaeCode;
use crate::error::SnpError;
use crate::host::GhcbPage;
use crate::host::request::{Fields, Request};
use crate::instr::Port;

impl<M: GuestMemory> GhcbPage<M> {
    /// Has the host carry a guest message to the firmware. Both pages are shared, and they differ.
    ///
    /// The two status numbers are the host's word. A failure of any kind leaves open whether the firmware saw the message.
    ///
    /// # Errors
    /// [`SnpError::Range`] for one page twice, or the GHCB page: nothing was sent. Else the answer errors.
    pub fn guest_request<P: Port>(
        &mut self,
        port: &mut P,
        request: PhysFrame,
        response: PhysFrame,
    ) -> Result<GuestRequestStatus, SnpError> {
        let event = message(NaeCode::GUEST_REQUEST, self.frame(), request, response)?;
        Ok(GuestRequestStatus::from_bits_retain(self.ask_for_detail(port, &event)?))
    }

    /// The same, and the host puts its certificates into `data`: shared pages that hold neither message. `None` has no room
    /// for any, which asks how many pages it takes.
    ///
    /// A host that demands pages says that the firmware did not see the message; that is its word as well. The message may
    /// go out again unchanged, and only unchanged (rule A2). What is in the pages proves itself by signatures alone.
    ///
    /// # Errors
    /// [`SnpError::Range`] when pages overlap: nothing was sent. [`SnpError::PagesNeeded`] for a demand that cannot be; else
    /// the answer errors.
    pub fn extended_guest_request<P: Port>(
        &mut self,
        port: &mut P,
        request: PhysFrame,
        response: PhysFrame,
        data: Option<FrameRange>,
    ) -> Result<Paged<GuestRequestStatus>, SnpError> {
        let event = message(NaeCode::EXTENDED_GUEST_REQUEST, self.frame(), request, response)?;
        let in_use = [self.frame(), request, response].map(FrameRange::of);
        if let Some(data) = data.filter(|data| in_use.iter().any(|page| page.overlaps(*data))) {
            return Err(RangeError::Overlap { at: data.start() }.into());
        }
        let (at, pages) = data.map_or((0, 0), |data| (data.start().as_u64(), data.frames()));
        let event = event.with(Fields { rax: Some(at), rbx: Some(pages), ..Fields::default() });
        let registers = self.ask_for_registers(port, &event)?;
        let status = GuestRequestStatus::from_bits_retain(registers.answer().detail()?);
        match status.vmm() {
            VmmError::INVALID_LEN => Paged::demanded(pages, registers.rbx()?),
            _ => Ok(Paged::Done(status)),
        }
    }
}

/// A message event with its two pages, neither of which is the GHCB page.
fn message(
    code: NaeCode,
    ghcb: PhysFrame,
    request: PhysFrame,
    response: PhysFrame,
) -> Result<Request<'static>, SnpError> {
    if [request, response].contains(&ghcb) {
        return Err(RangeError::Overlap { at: ghcb.start_address() }.into());
    }
    if request == response {
        return Err(RangeError::Overlap { at: request.start_address() }.into());
    }
    Ok(Request::new(code, request.start_address().as_u64(), response.start_address().as_u64()))
}
