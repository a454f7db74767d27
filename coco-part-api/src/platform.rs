//! What the integrator supplies, and what the machine wants handed over when the first guest starts.

use x86_64::structures::paging::{PhysFrame, Size4KiB};

use crate::error::ErrorType;
use crate::level::{GuestLevel, VcpuId};
use crate::range::FrameRange;

/// Things about processors that only the integrator of a monitor knows: interrupts and idling.
pub trait Processor {
    /// Makes another vCPU leave the lower levels soon, and ends its [`idle`](Self::idle): one under way, and also one that
    /// begins just after the kick. A wake-up must not get lost between its look for work and its sleep; an interrupt or a
    /// flag that stays pending until it is taken does it. A host that withholds the kick stops progress only (M5).
    fn kick(&mut self, who: VcpuId);

    /// Waits until there may be something to do; may return at any time. Returns at once when this vCPU was kicked since it
    /// was here last.
    fn idle(&mut self);

    /// Lets another vCPU go on; in every loop that waits for one. Also lets L1 take an interrupt that waits for it: until
    /// that is taken, [`Exit::InterruptPending`](crate::Exit::InterruptPending) comes again.
    fn pause(&mut self);
}

impl<T: Processor + ?Sized> Processor for &mut T {
    fn kick(&mut self, who: VcpuId) {
        (**self).kick(who);
    }

    fn idle(&mut self) {
        (**self).idle();
    }

    fn pause(&mut self) {
        (**self).pause();
    }
}

/// A page that the machine wants a guest to have from its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BootPage {
    /// Keys of the guest's own level and where to find L1.
    Secrets,
    /// Processor features as the firmware vouches for them.
    Features,
}

/// What a boot page tells the guest.
#[derive(Clone, Copy, Debug)]
pub struct BootInfo {
    /// Level the guest runs at. Keys of all more privileged levels are erased from its copy (rule A3).
    pub level: GuestLevel,
    /// Call area of the first vCPU.
    pub call_area: PhysFrame<Size4KiB>,
    /// Memory that belongs to L1.
    pub monitor: FrameRange,
}

/// Boot pages of the first guest. L1 only.
pub trait BootGuest: ErrorType {
    /// Pages the machine wants handed over, in this order; empty where it wants none.
    const PAGES: &'static [BootPage];

    /// Fills a page of L1 with the guest's copy. The caller publishes it afterwards.
    ///
    /// # Errors
    /// `Inaccessible`, `OutOfRange`; `NotFound` for a page the machine does not have.
    fn fill(&mut self, page: BootPage, at: PhysFrame<Size4KiB>, info: &BootInfo) -> Result<(), Self::Error>;
}
