//! Further vCPUs of L1.

use coco_part_api::{CreateVcpu, GuestMemory, NewVcpu, VcpuId};
use x86_64::structures::paging::PhysFrame;

use super::L1;
use super::admit::demand_usable;
use super::frames::Phase;
use crate::abi::ap::{ApCreation, ApRequest};
use crate::abi::vmsa::Vmsa;
use crate::error::SnpError;
use crate::instr::{Port, Vmpl};
use crate::vmsa_image;

impl<P: Port, M: GuestMemory> CreateVcpu for L1<'_, P, M> {
    /// Makes a VMSA of VMPL0 with L1's own features and has the host run it now.
    ///
    /// # Errors
    /// [`SnpError::UnknownVcpu`]; [`SnpError::FrameInUse`] for a frame that serves a vCPU; [`SnpError::VcpuRuns`] for this
    /// vCPU or one that was created already; [`SnpError::VmsaAligned2m`], [`SnpError::Range`]; and what machine and host
    /// say. The frame is then an ordinary page with its old contents, or [`SnpError::Quarantined`].
    fn create_vcpu(&mut self, new: NewVcpu<'_>) -> Result<(), SnpError> {
        let NewVcpu { id, context, state, .. } = new;
        self.check_frame(state)?;
        demand_usable(state)?;
        self.frames.check(id)?;
        let at = state.start_address();
        if id == self.vcpu || self.frames.has_any(id, Vmpl::VMPL0) {
            return Err(SnpError::VcpuRuns { at });
        }
        let place = self.frames.claim(id, Vmpl::VMPL0, state)?;
        let image = vmsa_image::image(context, Vmpl::VMPL0, self.features);
        let before = self.gate(state).read::<Vmsa>(0);
        let created = before.and_then(|before| {
            self.publish_own(state, image)?;
            let request = ApRequest::Create { features: self.features };
            self.tell(id, state, request).or_else(|cause| {
                // The host said no, and may run it all the same: then it keeps its page.
                self.gate(state).stop().map_err(|_| SnpError::Quarantined { at })?;
                self.gate(state).write(0, &before)?;
                Err(cause)
            })
        });
        match created {
            Ok(()) => {
                place.shift(Phase::Changing, Phase::Ready);
                Ok(())
            }
            Err(cause @ SnpError::Quarantined { .. }) => Err(cause),
            Err(cause) => {
                place.free();
                Err(cause)
            }
        }
    }

    /// Has the host stop the vCPU, then takes the VMSA back.
    ///
    /// # Errors
    /// [`SnpError::NotAStateFrame`]; [`SnpError::FrameBusy`] while another vCPU does the same; [`SnpError::VcpuRuns`] while
    /// it runs; and what the host says. The VMSA stays then.
    fn destroy_vcpu(&mut self, id: VcpuId, state: PhysFrame) -> Result<(), SnpError> {
        let at = state.start_address();
        let place = self.frames.find(id, Vmpl::VMPL0, state).ok_or(SnpError::NotAStateFrame { at })?;
        if !place.shift(Phase::Ready, Phase::Changing) {
            return Err(SnpError::FrameBusy { at });
        }
        let stopped = match id == self.vcpu {
            true => Err(SnpError::VcpuRuns { at }),
            false => self.tell(id, state, ApRequest::Destroy).and_then(|()| self.gate(state).stop()),
        };
        match stopped {
            Ok(()) => place.free(),
            Err(_) => {
                place.shift(Phase::Changing, Phase::Ready);
            }
        }
        stopped
    }
}

impl<P: Port, M: GuestMemory> L1<'_, P, M> {
    fn tell(&mut self, id: VcpuId, vmsa: PhysFrame, request: ApRequest) -> Result<(), SnpError> {
        let creation = ApCreation { request, vmpl: Vmpl::VMPL0, apic_id: id.0, vmsa };
        self.host.ap_creation(&mut self.port, &creation)
    }
}
