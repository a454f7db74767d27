//! Verb 2: vCPUs of the levels below.
//!
//! The module has no call that makes an L2 vCPU: the host gave each vCPU of the TD its L2 VMCSs at the start (TDX-07).
//! "Creating" one is filling that VMCS, which works on the vCPU itself and nowhere else (TDX-10). So admitting copies
//! and checks the state frame, the seed carries the registers, and installing writes them. There is one VMCS per vCPU and
//! level: installing another vCPU there ends the older one.

use core::fmt;

use coco_part_api::svsm::state_frame::StateFrame;
use coco_part_api::{AdmitVcpu, Context, FrameRange, GuestLevel, GuestMemory, Source, Terms, VcpuId};
use x86_64::structures::paging::{PhysFrame, Size4KiB};

use super::memory::Flushed;
use super::{L1, admission};
use crate::abi::guest_state::EnterGuestState;
use crate::error::Error;
use crate::port::Port;

/// An admitted vCPU on its way to its processor: checked registers, for one level of one vCPU.
pub struct Seed {
    level: GuestLevel,
    target: VcpuId,
    frame: PhysFrame<Size4KiB>,
    context: Context,
}

/// Prints no register: they are the guest's.
impl fmt::Debug for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { level, target, frame, context: _ } = self;
        f.debug_struct("Seed")
            .field("level", level)
            .field("target", target)
            .field("frame", frame)
            .finish_non_exhaustive()
    }
}

impl<P: Port, M: GuestMemory> L1<'_, P, M> {
    fn check_terms(&self, terms: &Terms) -> Result<(), Error<M::Fault>> {
        if terms.target.0 >= self.td.vcpus {
            return Err(Error::UnknownVcpu { id: terms.target });
        }
        if terms.level.number() > self.td.levels {
            return Err(Error::NoSuchLevel { level: terms.level });
        }
        Ok(())
    }

    fn write_frame(&self, frame: PhysFrame<Size4KiB>, image: &StateFrame) -> Result<(), Error<M::Fault>> {
        let at = frame.start_address();
        let written = self.memory.zero(FrameRange::of(frame)).and_then(|()| self.memory.write_value(at, image));
        written.map_err(|fault| Error::Memory { at, fault })
    }

    fn set_up(&mut self, seed: &Seed) -> Result<(), Error<M::Fault>> {
        let pages = self.level_pages(seed.level)?;
        self.port.reset(seed.level);
        self.write_controls(seed.level, pages)?;
        self.write_fields(seed.level, &seed.context, None)?;
        let Context { gpr, rip, rflags, .. } = seed.context;
        self.set_registers(pages.registers, &EnterGuestState::new(gpr, rip, rflags))
    }
}

impl<P: Port, M: GuestMemory> AdmitVcpu for L1<'_, P, M> {
    type Seed = Seed;

    /// Copies the frame once, in the neutral layout of [`coco_part_api::svsm::state_frame`], and checks the copy.
    fn admit(
        &mut self,
        state: PhysFrame<Size4KiB>,
        from: Source<'_>,
        terms: &Terms,
        _proof: &Flushed,
    ) -> Result<Seed, Self::Error> {
        let range = FrameRange::of(state);
        self.map.check(range).map_err(Error::Range)?;
        self.check_terms(terms)?;
        let Terms { level, target, .. } = *terms;
        let at = state.start_address();
        let image = match from {
            Source::Image => self.memory.read_value::<StateFrame>(at).map_err(|fault| Error::Memory { at, fault })?,
            Source::Context(context) => StateFrame::new(level, *context),
        };
        admission::check_frame(&image, level, self.td.shared_bit)?;
        if let Source::Context(_) = from {
            self.write_frame(state, &image)?;
        }
        Ok(Seed { level, target, frame: state, context: image.context })
    }

    /// Writes controls and registers. After an error the level has no vCPU here; the seed comes back.
    fn install(&mut self, seed: Seed) -> Result<(), (Seed, Self::Error)> {
        let level = seed.level;
        if seed.target != self.td.vcpu {
            let target = seed.target;
            return Err((seed, Error::OtherVcpu { target }));
        }
        if self.levels[level.index()].awaiting.is_some() {
            return Err((seed, Error::CallPending { level }));
        }
        // From here on the older vCPU's registers are overwritten: it must not run again, not even after an error (S3).
        self.slot.clear(level);
        self.levels[level.index()].trapped = None;
        match self.set_up(&seed) {
            Ok(()) => {
                self.slot.put(level, seed.frame);
                Ok(())
            }
            Err(error) => Err((seed, error)),
        }
    }

    /// Makes sure that no vCPU runs with this frame. From any vCPU; `InUse` while it runs or waits for an answer.
    ///
    /// A seed of the frame that was not installed yet is the caller's to drop.
    fn retire(&mut self, state: PhysFrame<Size4KiB>, terms: &Terms) -> Result<(), Self::Error> {
        self.check_terms(terms)?;
        let slot = self.shared.slot(terms.target).ok_or(Error::UnknownVcpu { id: terms.target })?;
        slot.retire(terms.level, state).map_err(|_| Error::StateInUse { state: state.start_address() })
    }
}
