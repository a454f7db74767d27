//! One call to L1, with patience that ends.

use coco_part_api::svsm::CallId;
use coco_part_api::{CallRegs, Error, ErrorKind, FrameRange, GuestMemory, GuestPort};
use x86_64::PhysAddr;
use x86_64::structures::paging::{PhysFrame, Size4KiB};

use crate::codec::{CallResult, REMAP};
use crate::{Limits, Shim, ShimError};

impl<P: GuestPort> Shim<'_, P> {
    /// Moves this vCPU's call area to another page of the guest.
    ///
    /// # Errors
    /// [`ShimError::Range`], [`ShimError::Refused`] and the errors of a call; the old one is then still in use.
    pub fn remap_call_area(&mut self, to: PhysFrame<Size4KiB>) -> Result<(), ShimError<P::Error>> {
        self.check_frame(to)?;
        if to == self.port.call_area() {
            return Ok(());
        }
        self.clear_call_area(to)?;
        self.call(REMAP, to.start_address().as_u64(), 0, 0)?;
        self.port.set_call_area(to);
        Ok(())
    }

    /// Makes a call until L1 has served it and is not busy. Gives the answer of a success.
    pub(crate) fn call(&mut self, id: CallId, rcx: u64, rdx: u64, r8: u64) -> Result<CallRegs, ShimError<P::Error>> {
        complete(&mut self.port, &self.limits, id, [rcx, rdx, r8])
    }

    /// Makes a call until L1 has served it, and gives its result whatever it is.
    pub(crate) fn call_once(&mut self, id: CallId, rcx: u64) -> Result<CallResult, ShimError<P::Error>> {
        serve(&mut self.port, self.limits.unserved_tries, CallRegs::call(id, rcx, 0, 0)).map(|answer| answer.result())
    }

    /// Clears the mark and its neighbours in a page that is to be a call area.
    pub(crate) fn clear_call_area(&self, page: PhysFrame<Size4KiB>) -> Result<(), ShimError<P::Error>> {
        let at = page.start_address();
        self.port.memory().write(at, &[0; 8]).map_err(ShimError::memory(at))
    }

    pub(crate) fn check_frame(&self, frame: PhysFrame<Size4KiB>) -> Result<(), ShimError<P::Error>> {
        Ok(self.map.check(FrameRange::of(frame))?)
    }

    /// Address in the call area, `offset` below 4096: the low bits of a frame are zero.
    pub(crate) fn in_call_area(&self, offset: u64) -> PhysAddr {
        PhysAddr::new_truncate(self.port.call_area().start_address().as_u64() | offset)
    }
}

/// Makes a call until L1 has served it and is not busy. Gives the answer of a success.
pub(crate) fn complete<P: GuestPort>(
    port: &mut P,
    limits: &Limits,
    id: CallId,
    [rcx, rdx, r8]: [u64; 3],
) -> Result<CallRegs, ShimError<P::Error>> {
    for _ in 0..=limits.idle_rounds {
        let answer = serve(port, limits.unserved_tries, CallRegs::call(id, rcx, rdx, r8))?;
        match answer.result() {
            result if result.is_success() => return Ok(answer),
            result if result.is_again() => {}
            result => return Err(ShimError::Refused { call: id, result }),
        }
    }
    Err(ShimError::Stalled { call: id, rounds: limits.idle_rounds })
}

/// Makes a call until L1 has served it. The port says `HostMisbehaved` when it did not, and all registers are loaded anew.
fn serve<P: GuestPort>(port: &mut P, tries: u32, regs: CallRegs) -> Result<CallRegs, ShimError<P::Error>> {
    let mut made = 1;
    loop {
        match port.call(regs) {
            Ok(answer) => return Ok(answer),
            Err(error) if error.kind() != ErrorKind::HostMisbehaved => return Err(ShimError::Port(error)),
            Err(last) if made >= tries => return Err(ShimError::NotServed { tries: made, last }),
            Err(_) => made += 1,
        }
    }
}
