#![doc = include_str!("../README.md")]
#![no_std]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate std;

mod attest;
mod call;
mod codec;
mod deposit;
mod error;
mod negotiate;
mod pages;
#[cfg(test)]
mod tests;
mod vcpu;
mod vtpm;

use coco_part_api::{Capabilities, ErrorType, GuestLevel, GuestPort, Identify, Level, MemoryMap, VcpuId};
use x86_64::structures::paging::{PhysFrame, Size4KiB};

pub use error::ShimError;

/// How patient the shim is. Both bounds count attempts in a row that led nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// How often one call is made when L1 does not serve it; 0 counts as 1.
    pub unserved_tries: u32,
    /// How many answers "busy" or "incomplete" without progress are taken for one call.
    pub idle_rounds: u32,
}

impl Default for Limits {
    /// 16 tries, 1024 rounds.
    fn default() -> Self {
        Self { unserved_tries: 16, idle_rounds: 1024 }
    }
}

/// The own-level verbs of a guest, on one vCPU.
#[derive(Debug)]
pub struct Shim<'m, P: GuestPort> {
    port: P,
    map: MemoryMap<'m>,
    limits: Limits,
    level: GuestLevel,
    vcpu: VcpuId,
    capabilities: Capabilities,
    /// L1 speaks the own protocol.
    has_own: bool,
    /// Where L1 writes evidence.
    evidence_page: Option<PhysFrame<Size4KiB>>,
}

impl<P: GuestPort> Shim<'_, P> {
    /// Names a page of the guest into which L1 writes evidence. Needed where the port gets none by itself.
    ///
    /// # Errors
    /// [`ShimError::Range`] for a page that is not in the memory map.
    pub fn set_evidence_page(&mut self, at: PhysFrame<Size4KiB>) -> Result<(), ShimError<P::Error>> {
        self.check_frame(at)?;
        self.evidence_page = Some(at);
        Ok(())
    }

    /// The port, for what only the vendor's side can do.
    pub const fn port(&self) -> &P {
        &self.port
    }

    /// The port, to be changed. The call area is moved by [`remap_call_area`](Self::remap_call_area) alone.
    pub const fn port_mut(&mut self) -> &mut P {
        &mut self.port
    }
}

impl<P: GuestPort> ErrorType for Shim<'_, P> {
    type Error = ShimError<P::Error>;
}

impl<P: GuestPort> Identify for Shim<'_, P> {
    fn level(&self) -> Level {
        Level::Guest(self.level)
    }

    fn vcpu(&self) -> VcpuId {
        self.vcpu
    }

    fn capabilities(&self) -> Capabilities {
        self.capabilities
    }
}
