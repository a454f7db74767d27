//! Verb 2 by asking L1: fill the frame, have it accepted, have it started.

use coco_part_api::{CreateVcpu, FrameRange, GuestMemory, GuestPort, NewVcpu, VcpuId};
use x86_64::structures::paging::{PhysFrame, Size4KiB};

use crate::codec::{CREATE, CallResult, DELETE};
use crate::{Shim, ShimError};

impl<P: GuestPort> CreateVcpu for Shim<'_, P> {
    fn create_vcpu(&mut self, new: NewVcpu<'_>) -> Result<(), Self::Error> {
        self.check_frame(new.state)?;
        self.check_frame(new.call_area)?;
        let [state, call_area] = [new.state, new.call_area].map(PhysFrame::start_address);
        for taken in [new.state, new.call_area] {
            if taken == self.port.call_area() {
                return Err(ShimError::FrameInUse { at: taken.start_address() });
            }
        }
        if state == call_area {
            return Err(ShimError::FrameInUse { at: state });
        }
        self.clear_call_area(new.call_area)?;
        self.port.write_image(&new, self.level).map_err(ShimError::Port)?;
        match self.call(CREATE, state.as_u64(), call_area.as_u64(), u64::from(new.id.0)) {
            Ok(_) => {}
            // The answer is lost: L1 may have taken the frame.
            Err(ShimError::Port(cause)) => return Err(self.give_up(new.state, cause)),
            // L1 says so too when it could neither take the frame nor give it back. Then an access to it would fault.
            Err(ShimError::Refused { result: result @ CallResult::INVALID_REQUEST, .. }) => {
                return Err(ShimError::FrameInDoubt { at: state, result });
            }
            Err(error) => {
                self.wipe(new.state);
                return Err(error);
            }
        }
        self.port.start(new.id, new.state, self.level).map_err(|cause| self.give_up(new.state, cause))
    }

    fn destroy_vcpu(&mut self, id: VcpuId, state: PhysFrame<Size4KiB>) -> Result<(), Self::Error> {
        self.check_frame(state)?;
        let at = state.start_address();
        self.port.stop(id, state, self.level).map_err(ShimError::Port)?;
        match self.call(DELETE, at.as_u64(), 0, 0) {
            Ok(_) => {
                self.wipe(state);
                Ok(())
            }
            Err(ShimError::Refused { result: CallResult::INVALID_PARAMETER, .. }) => {
                Err(ShimError::NotAStateFrame { at })
            }
            Err(error) => Err(error),
        }
    }
}

impl<P: GuestPort> Shim<'_, P> {
    /// Has L1 forget a vCPU that does not run. The error to report then.
    fn give_up(&mut self, state: PhysFrame<Size4KiB>, cause: P::Error) -> ShimError<P::Error> {
        let at = state.start_address();
        match self.call(DELETE, at.as_u64(), 0, 0) {
            Ok(_) | Err(ShimError::Refused { result: CallResult::INVALID_PARAMETER, .. }) => {
                self.wipe(state);
                ShimError::Port(cause)
            }
            Err(_) => ShimError::LeftBehind { at, cause },
        }
    }

    /// Zeroes a frame that held registers and is ordinary memory again. That it cannot be reached is no error of the verb.
    fn wipe(&self, frame: PhysFrame<Size4KiB>) {
        let _ = self.port.memory().zero(FrameRange::of(frame));
    }
}
