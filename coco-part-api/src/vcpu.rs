//! Verb 2: create a vCPU.
//!
//! # For callers
//! A stopped vCPU's registers live in a **state frame**, a page of guest memory. For the own level [`CreateVcpu`] fills it
//! and starts the vCPU. For a level below L1 goes three steps: any vCPU *admits* the frame and gets a [`AdmitVcpu::Seed`],
//! posts it where the target finds it, and the target *installs* it on itself. Only the seed crosses vCPUs.
//!
//! # For backend authors
//! - [`AdmitVcpu::admit`] checks level, features and run bit on the copy that no lower level can reach any more (V2), makes
//!   the frame runnable last, and on any error leaves frame and rights as they were.
//! - The frame is out of reach of all lower levels from before the check until after [`AdmitVcpu::retire`] (V1).
//! - A running vCPU is neither edited nor retired: `InUse`, and nothing changed (V4).
//! - Nobody creates a vCPU above its own level (V3); [`GuestLevel`] cannot name the monitor.

use x86_64::PhysAddr;
use x86_64::structures::paging::{PhysFrame, Size4KiB};

use crate::context::Context;
use crate::error::ErrorType;
use crate::level::{GuestLevel, VcpuId};
use crate::trap::Completion;
use crate::validate::Grant;

/// A vCPU to create at the own level.
#[derive(Clone, Copy, Debug)]
pub struct NewVcpu<'a> {
    /// Which vCPU.
    pub id: VcpuId,
    /// What it starts with.
    pub context: &'a Context,
    /// A private page of the creator, which becomes the state frame. A backend may refuse frames aligned to 2 MiB as
    /// `Misaligned`.
    pub state: PhysFrame<Size4KiB>,
    /// A private page of the creator, which becomes the new vCPU's call area. L1 has no use for one and ignores it.
    pub call_area: PhysFrame<Size4KiB>,
}

/// vCPUs of the own level. Guests have it everywhere; L1 only where it makes its own vCPUs. Where the host starts those with
/// the VM, L1 does not implement it.
pub trait CreateVcpu: ErrorType {
    /// Fills the state frame and has the vCPU started.
    ///
    /// # Errors
    /// `NotFound` for a vCPU that does not exist, `InUse` for a frame that already serves one, `BadState`,
    /// `Misaligned`, `HostRefused`; nothing is left behind. `Quarantined` when the frame could not be put back: nobody may
    /// use it again.
    #[doc(alias = "VMSA")]
    fn create_vcpu(&mut self, new: NewVcpu<'_>) -> Result<(), Self::Error>;

    /// Stops the vCPU of a state frame for good; the frame becomes ordinary memory of the own level again.
    ///
    /// # Errors
    /// `InUse` while it runs, `NotFound` for a frame that is no state frame of this level.
    fn destroy_vcpu(&mut self, id: VcpuId, state: PhysFrame<Size4KiB>) -> Result<(), Self::Error>;
}

impl<T: CreateVcpu + ?Sized> CreateVcpu for &mut T {
    fn create_vcpu(&mut self, new: NewVcpu<'_>) -> Result<(), Self::Error> {
        (**self).create_vcpu(new)
    }

    fn destroy_vcpu(&mut self, id: VcpuId, state: PhysFrame<Size4KiB>) -> Result<(), Self::Error> {
        (**self).destroy_vcpu(id, state)
    }
}

/// Where the state in a frame comes from.
#[derive(Clone, Copy, Debug)]
pub enum Source<'a> {
    /// A guest filled the frame; L1 checks what is in it.
    Image,
    /// L1 fills the frame.
    Context(&'a Context),
}

/// What L1 demands of a vCPU below.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Level it runs at; an image that says otherwise is `BadState`.
    pub level: GuestLevel,
    /// vCPU it runs on.
    pub target: VcpuId,
    /// Its call area.
    pub call_area: PhysFrame<Size4KiB>,
}

/// vCPUs of the levels below. L1 only.
pub trait AdmitVcpu: Grant {
    /// What the target installs. The only thing that crosses vCPUs.
    type Seed: Send;

    /// Adopts a frame that no lower level can reach (its rights are withdrawn, or it was L1's) as the state of a vCPU.
    ///
    /// # Errors
    /// `BadState` for contents that are not allowed, `Misaligned`, `NotFound` for an unknown target; the frame is then as
    /// it was, still withdrawn. `Quarantined` when it could not be put back: nobody may use it again.
    fn admit(
        &mut self,
        state: PhysFrame<Size4KiB>,
        from: Source<'_>,
        terms: &Terms,
        proof: &Self::Flushed,
    ) -> Result<Self::Seed, Self::Error>;

    /// Makes an admitted vCPU the current one of its level on this vCPU. An older one stays retirable but does not run.
    ///
    /// # Errors
    /// With the seed, to be tried again: `InUse` while the older one runs; `InvalidArgument` on another vCPU than the target.
    fn install(&mut self, seed: Self::Seed) -> Result<(), (Self::Seed, Self::Error)>;

    /// Makes the frame ordinary memory again, out of reach of the lower levels until it is granted.
    ///
    /// A frame that serves no vCPU stays as it is.
    ///
    /// # Errors
    /// `InUse` while it runs (V4): it stays as it is. `NotFound` for a frame that serves no vCPU, where the machine shows that.
    fn retire(&mut self, state: PhysFrame<Size4KiB>, terms: &Terms) -> Result<(), Self::Error>;
}

/// An event for a lower level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// An external interrupt with its vector, 32 to 255.
    Interrupt(u8),
    /// A non-maskable interrupt.
    Nmi,
    /// #GP with its error code.
    GeneralProtection(u32),
    /// #UD.
    InvalidOpcode,
}

/// Registers of a level below that has left for L1. For guests that trap instead of calling. L1 only.
pub trait GuestState: ErrorType {
    /// The state of this vCPU's part of `level`.
    ///
    /// # Errors
    /// `NotFound` without a vCPU there, `InUse` while it runs.
    fn context(&mut self, level: GuestLevel) -> Result<Context, Self::Error>;

    /// Replaces it.
    ///
    /// # Errors
    /// As [`context`](Self::context), and `BadState` for values the machine would refuse.
    fn set_context(&mut self, level: GuestLevel, context: &Context) -> Result<(), Self::Error>;

    /// Has the level take an event when it runs next.
    ///
    /// # Errors
    /// As [`context`](Self::context); `Unsupported` where [`Capabilities::inject`](crate::Capabilities) says no.
    fn inject(&mut self, level: GuestLevel, event: Event) -> Result<(), Self::Error>;

    /// Completes the instruction by which the level left last: registers, and RIP behind it. See [`trap`](crate::trap).
    ///
    /// # Errors
    /// As [`context`](Self::context). `InvalidArgument` when no instruction waits for that: the last exit was no
    /// [`Trap`](crate::Trap), it is completed already, the level has been run again since, or `with` does not fit. `Refused`
    /// for an instruction of no length that there is. Nothing has changed then.
    fn complete(&mut self, level: GuestLevel, with: Completion) -> Result<(), Self::Error>;

    /// What the machine vouches for as the answer to CPUID in the level as it is now: EAX, EBX, ECX, EDX. `None` for a leaf
    /// about which it says nothing, on some machines for every leaf.
    ///
    /// # Errors
    /// As [`context`](Self::context), `Inaccessible`.
    fn cpuid(&mut self, level: GuestLevel, leaf: u32, subleaf: u32) -> Result<Option<[u32; 4]>, Self::Error>;
}

/// The 4 KiB frame at an address that came from outside.
///
/// # Errors
/// `None` when it is no multiple of 4 KiB or beyond 2^52.
pub fn frame_at(address: u64) -> Option<PhysFrame<Size4KiB>> {
    PhysFrame::from_start_address(PhysAddr::try_new(address).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unaligned_or_too_large_address_is_no_frame() {
        assert!(frame_at(0x1000).is_some());
        assert!(frame_at(0x1008).is_none());
        assert!(frame_at(1 << 52).is_none());
        assert!(frame_at(u64::MAX).is_none());
    }
}
