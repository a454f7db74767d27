//! The host's part of a page state: MapGPA (fact table `vmcall`).

use coco_part_api::range::SMALL;
use coco_part_api::{FrameRange, GuestMemory, HostState, Stopped};

use super::L1;
use crate::abi::leaves::Leaf;
use crate::abi::regs::Regs;
use crate::abi::vmcall::{EXPOSED, HostStatus, SubFunction};
use crate::error::Error;
use crate::port::Port;

impl<P: Port, M: GuestMemory> L1<'_, P, M> {
    /// Asks the host to hold the range as private or as shared.
    ///
    /// The host may do it in parts and name an address to go on at. That address has to lie behind the one it was asked
    /// to begin at and inside the range, so the loop ends after as many steps as the range has frames. Whatever the host
    /// claims to have done changes nothing about what is private to the module.
    pub(super) fn map_gpa(&mut self, range: FrameRange, state: HostState) -> Result<(), Stopped<Error<M::Fault>>> {
        let bit = match state {
            HostState::Private => 0,
            HostState::Shared => self.td.shared_bit,
        };
        // The range lies below the shared bit, which is below 2^52: no sum here overflows.
        let start = range.start().as_u64() | bit;
        let end = start + range.bytes();
        let mut from = start;
        loop {
            let done = (from - start) / SMALL;
            let stopped = |cause| Stopped { done, cause };
            let operands =
                Regs { rcx: EXPOSED, r11: SubFunction::MAP_GPA.0, r12: from, r13: end - from, ..Regs::default() };
            let answer = self.call(Leaf::VP_VMCALL, operands).map_err(stopped)?;
            let next = answer.r11;
            match HostStatus(answer.r10) {
                HostStatus::SUCCESS => return Ok(()),
                HostStatus::RETRY if next > from && next < end && next.is_multiple_of(SMALL) => from = next,
                HostStatus::RETRY => return Err(stopped(Error::HostCursor { next, from })),
                status @ (HostStatus::INVALID_OPERAND
                | HostStatus::GPA_INUSE
                | HostStatus::ALIGN_ERROR
                | HostStatus::SUBFUNC_UNSUPPORTED) => return Err(stopped(Error::HostRefused { status })),
                status => return Err(stopped(Error::HostStatus { status })),
            }
        }
    }
}
