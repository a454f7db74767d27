//! What a backend implements for the guest shim.
//!
//! The shim offers the own-level traits once, over this port: it speaks the call protocol, the port does what differs by
//! vendor. The provided bodies are those of a vendor where L1 does that part by itself.

use x86_64::structures::paging::{PhysFrame, Size4KiB};

use crate::attest::{Evidence, REPORT_DATA};
use crate::error::Stopped;
use crate::identify::Capabilities;
use crate::level::{GuestLevel, VcpuId};
use crate::memory::HasMemory;
use crate::range::FrameRange;
use crate::switch::CallMonitor;
use crate::vcpu::NewVcpu;

/// A page state that is agreed with the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostState {
    /// Assigned to the VM; not valid yet.
    Private,
    /// The host's.
    Shared,
}

/// The guest side of a backend, on one vCPU.
pub trait GuestPort: CallMonitor + HasMemory {
    /// The level this vCPU runs at, from the machine or from protected memory (H3).
    ///
    /// `None` where only L1 can tell; the shim then asks L1.
    fn level(&self) -> Option<GuestLevel>;

    /// This vCPU.
    fn vcpu(&self) -> VcpuId;

    /// What backend and machine can do, if this side knows without asking L1.
    fn capabilities(&self) -> Option<Capabilities>;

    /// The call area in use.
    fn call_area(&self) -> PhysFrame<Size4KiB>;

    /// Uses another call area from now on: L1 has accepted it.
    fn set_call_area(&mut self, at: PhysFrame<Size4KiB>);

    /// Agrees a page state with the host, before validating and after rescinding. Nothing to do where L1 does it.
    ///
    /// # Errors
    /// `HostRefused`, `HostMisbehaved`, with the frames that are done.
    fn agree(&mut self, range: FrameRange, state: HostState) -> Result<(), Stopped<Self::Error>> {
        let _ = (range, state);
        Ok(())
    }

    /// Writes a vCPU's start state into its state frame, in the layout that L1 expects from this vendor's guests.
    ///
    /// # Errors
    /// `Inaccessible`; `Misaligned` for a frame that may not hold one.
    fn write_image(&mut self, new: &NewVcpu<'_>, level: GuestLevel) -> Result<(), Self::Error>;

    /// Tells the host to run a vCPU that L1 has accepted. Nothing to do where the host runs it anyway.
    ///
    /// # Errors
    /// `HostRefused`.
    fn start(&mut self, id: VcpuId, state: PhysFrame<Size4KiB>, level: GuestLevel) -> Result<(), Self::Error> {
        let _ = (id, state, level);
        Ok(())
    }

    /// Tells the host to stop running a vCPU, before L1 is asked to delete it.
    ///
    /// # Errors
    /// `HostRefused`.
    fn stop(&mut self, id: VcpuId, state: PhysFrame<Size4KiB>, level: GuestLevel) -> Result<(), Self::Error> {
        let _ = (id, state, level);
        Ok(())
    }

    /// Evidence for the own level that this side gets without L1. `None` where only L1 can attest.
    fn attest(&mut self, data: &[u8; REPORT_DATA], out: &mut [u8]) -> Option<Result<Evidence, Self::Error>> {
        let _ = (data, out);
        None
    }
}
