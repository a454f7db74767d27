//! Memory for L1: pages of the guest that it may use, and back.

use coco_part_api::range::SMALL;
use coco_part_api::vcpu::frame_at;
use coco_part_api::{FrameRange, GuestMemory, GuestPort, Stopped};
use x86_64::structures::paging::{PhysFrame, Size4KiB};
use zerocopy::IntoBytes;

use crate::codec::{Job, LIST_ENTRIES, MEM_AVAILABLE, WITHDRAW, WORD, WithdrawnHeader};
use crate::{Shim, ShimError};

impl<P: GuestPort> Shim<'_, P> {
    /// Gives pages to L1. They are valid private memory of the guest, and out of its reach from then on; what they hold is lost.
    ///
    /// # Errors
    /// [`ShimError::Range`] for a range that is not in the memory map; [`ShimError::Refused`] for a page that L1 does not take,
    /// such as a call area, with the frames before it done; and the errors of a call.
    pub fn deposit(&mut self, range: FrameRange) -> Result<(), Stopped<ShimError<P::Error>>> {
        self.map.check(range).map_err(|error| Stopped::at_start(error.into()))?;
        self.change(range, Job::Deposit)
    }

    /// Whether L1 said, at the last deposit or withdrawal of this vCPU, that there is something to withdraw.
    ///
    /// # Errors
    /// [`ShimError::Memory`] when the call area does not answer.
    pub fn has_deposits(&self) -> Result<bool, ShimError<P::Error>> {
        let at = self.in_call_area(MEM_AVAILABLE);
        let mark: u8 = self.port.memory().read_value(at).map_err(ShimError::memory(at))?;
        Ok(mark != 0)
    }

    /// Takes pages back that L1 does not use: at most as many as `into` has room for, and 510. They read as zero. Gives how many.
    ///
    /// None may be given although there are some, see [`has_deposits`](Self::has_deposits); asking again is right then.
    ///
    /// # Errors
    /// [`ShimError::BadAnswer`] for more than asked or pages that the guest cannot have, and the errors of a call. What L1 gave
    /// in that call is then in nobody's use.
    pub fn withdraw(&mut self, into: &mut [PhysFrame<Size4KiB>]) -> Result<usize, ShimError<P::Error>> {
        let room = into.len().min(LIST_ENTRIES);
        if room == 0 {
            return Ok(0);
        }
        // At the end of the page, so that L1 gives no more than fits.
        let list = self.in_call_area(SMALL - WORD * (1 + room as u64));
        self.call(WITHDRAW, list.as_u64(), 0, 0)?;
        let memory = self.port.memory();
        let header: WithdrawnHeader = memory.read_value(list).map_err(ShimError::memory(list))?;
        let mut words = [0_u64; LIST_ENTRIES];
        let count = usize::from(header.entries);
        let bad = ShimError::BadAnswer { what: "number of withdrawn pages", value: header.entries.into() };
        let words = words.get_mut(..count).filter(|_| count <= room).ok_or(bad)?;
        let first = self.in_call_area(SMALL - WORD * room as u64);
        memory.read(first, words.as_mut_bytes()).map_err(ShimError::memory(first))?;
        for (frame, word) in into.iter_mut().zip(words) {
            *frame = self.withdrawn(*word)?;
        }
        Ok(count)
    }

    fn withdrawn(&self, value: u64) -> Result<PhysFrame<Size4KiB>, ShimError<P::Error>> {
        let is_plain = |frame: &PhysFrame| self.check_frame(*frame).is_ok() && *frame != self.port.call_area();
        frame_at(value).filter(is_plain).ok_or(ShimError::BadAnswer { what: "withdrawn page", value })
    }
}
