//! Commands for the vTPM of L1.

use coco_part_api::memory::offset;
use coco_part_api::{GuestMemory, GuestPort};
use x86_64::structures::paging::{PhysFrame, Size4KiB};

use crate::codec::{
    CommandHeader, MOST_COMMAND, MOST_RESPONSE, ResponseHeader, SEND_COMMAND, TPM_COMMAND, TPM_QUERY, VTPM,
    VTPM_VERSION,
};
use crate::negotiate::versions;
use crate::{Shim, ShimError};

impl<P: GuestPort> Shim<'_, P> {
    /// Whether L1 has a vTPM that takes commands.
    ///
    /// # Errors
    /// Those of a call.
    pub fn has_vtpm(&mut self) -> Result<bool, ShimError<P::Error>> {
        if !versions(&mut self.port, &self.limits, VTPM, VTPM_VERSION)?.includes(VTPM_VERSION) {
            return Ok(false);
        }
        Ok(self.call(TPM_QUERY, 0, 0, 0)?.rcx >> SEND_COMMAND & 1 == 1)
    }

    /// Has the vTPM execute a command, 1 to 4087 bytes, at locality 0. Gives the length of its response, at most 4092.
    ///
    /// `buffer` is a page of the guest that command and response go through. Nobody else may use it meanwhile; it holds the
    /// response afterwards.
    ///
    /// # Errors
    /// [`ShimError::CommandLength`], [`ShimError::Range`] and [`ShimError::FrameInUse`] before L1 is asked;
    /// [`ShimError::BufferTooSmall`] when the response is longer than `response`, the command being executed;
    /// [`ShimError::Refused`] with `UNSUPPORTED_PROTOCOL` where there is no vTPM, and the errors of a call.
    pub fn vtpm_command(
        &mut self,
        buffer: PhysFrame<Size4KiB>,
        command: &[u8],
        response: &mut [u8],
    ) -> Result<usize, ShimError<P::Error>> {
        let given = command.len();
        let header = CommandHeader::send(given).map_err(|_| ShimError::CommandLength { given, most: MOST_COMMAND })?;
        self.check_frame(buffer)?;
        let at = buffer.start_address();
        if buffer == self.port.call_area() {
            return Err(ShimError::FrameInUse { at });
        }
        let memory = self.port.memory();
        // The low bits of a frame's address are zero.
        let behind = |bytes: usize| offset(at, bytes as u64).unwrap_or(at);
        memory.write_value(at, &header).map_err(ShimError::memory(at))?;
        memory.write(behind(size_of::<CommandHeader>()), command).map_err(ShimError::memory(at))?;
        self.call(TPM_COMMAND, at.as_u64(), 0, 0)?;
        let header: ResponseHeader = memory.read_value(at).map_err(ShimError::memory(at))?;
        let needed = header.out_size.get() as usize;
        if needed > MOST_RESPONSE {
            return Err(ShimError::BadAnswer {
                what: "length of a vTPM response",
                value: header.out_size.get().into(),
            });
        }
        let given = response.len();
        let into = response.get_mut(..needed).ok_or(ShimError::BufferTooSmall { needed, given })?;
        memory.read(behind(size_of::<ResponseHeader>()), into).map_err(ShimError::memory(at))?;
        Ok(needed)
    }
}
