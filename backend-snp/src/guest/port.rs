//! The traits that the shim is written over.

use coco_part_api::svsm::CALL_PENDING;
use coco_part_api::{
    Binding, CallMonitor, CallRegs, Capabilities, DataForm, ErrorType, Evidence, FlushReach, FrameRange, GuestLevel,
    GuestMemory, GuestPort, HasMemory, Hierarchy, HostReach, HostState, Level, NewVcpu, REPORT_DATA, Stopped, Support,
    VcpuId,
};
use x86_64::PhysAddr;
use x86_64::structures::paging::PhysFrame;
use zerocopy::IntoBytes;

use super::GuestSide;
use crate::abi::ap::{ApCreation, ApRequest};
use crate::abi::sev_features::SevFeatures;
use crate::abi::vmpl::Vmpl;
use crate::error::SnpError;
use crate::host::HostChannel;
use crate::instr::{CallFrame, Port};
use crate::message::REPORT_LEN;
use crate::vmsa_image;

/// Bytes of a large page, at whose multiples no VMSA may begin.
const LARGE: u64 = coco_part_api::range::LARGE;

impl<P: Port, M: GuestMemory> ErrorType for GuestSide<P, M> {
    type Error = SnpError;
}

impl<P: Port, M: GuestMemory> HasMemory for GuestSide<P, M> {
    type Memory = M;

    fn memory(&self) -> M {
        self.private.clone()
    }
}

impl<P: Port, M: GuestMemory> CallMonitor for GuestSide<P, M> {
    /// Sets the mark in the call area as the last thing before it leaves to the host, and takes the mark back in one step:
    /// only L1 can have cleared it (SW-07).
    fn call(&mut self, regs: CallRegs) -> Result<CallRegs, SnpError> {
        let mark = PhysAddr::new_truncate(self.call_area.start_address().as_u64() | CALL_PENDING);
        let CallRegs { rax, rcx, rdx, r8, r9 } = regs;
        let mut frame = CallFrame { rax, rcx, rdx, r8, r9 };
        let mut is_marked = false;
        let private = &self.private;
        let switch = self.host.call_vmpl0(&mut self.port, &mut frame, || {
            private.swap_u8(mark, 1).map_err(SnpError::memory(mark))?;
            is_marked = true;
            Ok(())
        });
        if !is_marked {
            return Err(switch.err().unwrap_or(SnpError::NotServed));
        }
        let is_served = self.private.swap_u8(mark, 0).map_err(SnpError::memory(mark))? == 0;
        match switch {
            Ok(()) if is_served => {}
            Err(error) if is_served => return Err(SnpError::SwitchInDoubt { got: raw(&error) }),
            Err(error @ SnpError::Memory { .. }) => return Err(error),
            _ => return Err(SnpError::NotServed),
        }
        let CallFrame { rax, rcx, rdx, r8, r9 } = frame;
        Ok(CallRegs { rax, rcx, rdx, r8, r9 })
    }
}

impl<P: Port, M: GuestMemory> GuestPort for GuestSide<P, M> {
    fn level(&self) -> Option<GuestLevel> {
        Some(self.level)
    }

    fn vcpu(&self) -> VcpuId {
        self.vcpu
    }

    /// What follows from the vendor. How L1 flushes and whether it injects only L1 knows: both are answered cautiously.
    fn capabilities(&self) -> Option<Capabilities> {
        Some(Capabilities {
            hierarchy: Hierarchy::Ordered,
            guest_levels: 3,
            host_reach: HostReach::Direct,
            rescind_unassigned: Support::Yes,
            flush: FlushReach::OwnVcpu,
            binding: Binding::Hardware,
            inject: Support::No,
        })
    }

    fn call_area(&self) -> PhysFrame {
        self.call_area
    }

    fn set_call_area(&mut self, at: PhysFrame) {
        self.call_area = at;
    }

    fn agree(&mut self, range: FrameRange, state: HostState) -> Result<(), Stopped<SnpError>> {
        self.host.page_state(&mut self.port, range, state)
    }

    /// Writes a VMSA. Not for a level with the secure TSC, whose values only the firmware tells.
    fn write_image(&mut self, new: &NewVcpu<'_>, level: GuestLevel) -> Result<(), SnpError> {
        let at = new.state.start_address();
        if at.is_aligned(LARGE) {
            return Err(SnpError::VmsaAligned2m { at });
        }
        if self.features.contains(SevFeatures::SECURE_TSC) {
            return Err(SnpError::Unsupported { what: "VMSA image with the secure TSC" });
        }
        let image = vmsa_image::image(new.context, vmpl(level), self.features);
        self.private.write(at, image.as_bytes()).map_err(SnpError::memory(at))
    }

    fn start(&mut self, id: VcpuId, state: PhysFrame, level: GuestLevel) -> Result<(), SnpError> {
        let request = ApRequest::Create { features: self.features };
        self.host.ap_creation(&mut self.port, &ApCreation { request, vmpl: vmpl(level), apic_id: id.0, vmsa: state })
    }

    fn stop(&mut self, id: VcpuId, state: PhysFrame, level: GuestLevel) -> Result<(), SnpError> {
        let request = ApRequest::Destroy;
        self.host.ap_creation(&mut self.port, &ApCreation { request, vmpl: vmpl(level), apic_id: id.0, vmsa: state })
    }

    /// A report under the key of the own level, when this vCPU has the channel.
    fn attest(&mut self, data: &[u8; REPORT_DATA], out: &mut [u8]) -> Option<Result<Evidence, SnpError>> {
        let channel = self.channel.as_mut()?;
        let given = out.len();
        let Some(out) = out.get_mut(..REPORT_LEN) else {
            return Some(Err(SnpError::BufferTooSmall { needed: REPORT_LEN, given }));
        };
        let report = channel.report(&mut self.port, &mut self.host, data, self.vmpl);
        Some(report.map(|report| {
            out.copy_from_slice(&report);
            Evidence {
                len: REPORT_LEN,
                names: Level::Guest(self.level),
                bound_by: Binding::Hardware,
                data: DataForm::Verbatim,
            }
        }))
    }
}

/// The vendor's name of a guest level.
const fn vmpl(level: GuestLevel) -> Vmpl {
    match level {
        GuestLevel::ONE => Vmpl::VMPL1,
        GuestLevel::TWO => Vmpl::VMPL2,
        _ => Vmpl::VMPL3,
    }
}

/// The number in an answer error, for the log.
fn raw(error: &SnpError) -> u64 {
    match *error {
        SnpError::UnexpectedResponse { got, .. } => got,
        SnpError::RunVmpl { code } => u64::from(code),
        SnpError::UnknownStatus { status } => status,
        SnpError::MalformedRequest { code } => code,
        SnpError::Exception { info } | SnpError::ForbiddenException { info } => info,
        _ => 0,
    }
}
