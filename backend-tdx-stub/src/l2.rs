//! A guest's side: what the shim needs of TDX.
//!
//! A guest level has one way out that is worth having: VMCALL, which the module always takes to L1 (TDX-49). The registers
//! are those of the SVSM calling convention. The host has no part in it, so what comes back is L1's answer.

use coco_part_api::svsm::state_frame::StateFrame;
use coco_part_api::{
    CallMonitor, CallRegs, Capabilities, ErrorType, FrameRange, GuestLevel, GuestMemory, GuestPort, HasMemory, NewVcpu,
    VcpuId,
};
use x86_64::structures::paging::{PhysFrame, Size4KiB};

use crate::error::Error;
use crate::port::GuestCall;

/// The guest side on one vCPU.
#[derive(Debug)]
pub struct L2Port<P, M> {
    port: P,
    memory: M,
    vcpu: VcpuId,
    call_area: PhysFrame<Size4KiB>,
}

impl<P: GuestCall, M: GuestMemory> L2Port<P, M> {
    /// The guest side on `vcpu` with the call area that L1 gave it. The area is a buffer for arguments and nothing more.
    pub const fn new(port: P, memory: M, vcpu: VcpuId, call_area: PhysFrame<Size4KiB>) -> Self {
        Self { port, memory, vcpu, call_area }
    }
}

impl<P, M: GuestMemory> ErrorType for L2Port<P, M> {
    type Error = Error<M::Fault>;
}

impl<P: GuestCall, M: GuestMemory> CallMonitor for L2Port<P, M> {
    fn call(&mut self, regs: CallRegs) -> Result<CallRegs, Self::Error> {
        let mut regs = regs;
        self.port.vmcall(&mut regs);
        Ok(regs)
    }
}

impl<P, M: GuestMemory> HasMemory for L2Port<P, M> {
    type Memory = M;

    fn memory(&self) -> M {
        self.memory.clone()
    }
}

impl<P: GuestCall, M: GuestMemory> GuestPort for L2Port<P, M> {
    /// No instruction of an L2 tells which VM it is; L1 does (rule H3).
    fn level(&self) -> Option<GuestLevel> {
        None
    }

    fn vcpu(&self) -> VcpuId {
        self.vcpu
    }

    fn capabilities(&self) -> Option<Capabilities> {
        None
    }

    fn call_area(&self) -> PhysFrame<Size4KiB> {
        self.call_area
    }

    fn set_call_area(&mut self, at: PhysFrame<Size4KiB>) {
        self.call_area = at;
    }

    /// The neutral layout of [`coco_part_api::svsm::state_frame`], the rest of the page zero.
    fn write_image(&mut self, new: &NewVcpu<'_>, level: GuestLevel) -> Result<(), Self::Error> {
        let at = new.state.start_address();
        let image = StateFrame::new(level, *new.context);
        let written = self.memory.zero(FrameRange::of(new.state)).and_then(|()| self.memory.write_value(at, &image));
        written.map_err(|fault| Error::Memory { at, fault })
    }
}

#[cfg(test)]
mod tests {
    use coco_part_api::{Context, HostState};
    use x86_64::PhysAddr;

    use super::*;
    use crate::mock::{Fault, Ram};

    /// L1 that answers with each register incremented.
    struct Incrementing;

    impl GuestCall for Incrementing {
        fn vmcall(&mut self, regs: &mut CallRegs) {
            let CallRegs { rax, rcx, rdx, r8, r9 } = *regs;
            *regs = CallRegs { rax: rax + 1, rcx: rcx + 1, rdx: rdx + 1, r8: r8 + 1, r9: r9 + 1 };
        }
    }

    fn frame(at: u64) -> PhysFrame<Size4KiB> {
        PhysFrame::containing_address(PhysAddr::new(at))
    }

    fn port() -> (L2Port<Incrementing, Ram>, Ram) {
        let ram = Ram::default();
        (L2Port::new(Incrementing, ram.clone(), VcpuId(3), frame(0x4000)), ram)
    }

    #[test]
    fn a_call_is_one_instruction_and_needs_no_pending_mark() {
        let (mut port, ram) = port();
        let regs = CallRegs { rax: 1, rcx: 2, rdx: 3, r8: 4, r9: 5 };
        assert_eq!(port.call(regs), Ok(CallRegs { rax: 2, rcx: 3, rdx: 4, r8: 5, r9: 6 }));
        assert!(ram.snapshot().is_empty());
    }

    #[test]
    fn the_level_and_what_there_is_are_asked_of_l1() {
        let (mut port, _ram) = port();
        assert_eq!((port.level(), port.vcpu()), (None, VcpuId(3)));
        assert!(port.capabilities().is_none() && port.attest(&[0; 64], &mut []).is_none());
        port.set_call_area(frame(0x7000));
        assert_eq!(port.call_area(), frame(0x7000));
        let range = FrameRange::of(frame(0x7000));
        assert_eq!(port.agree(range, HostState::Shared), Ok(()));
    }

    #[test]
    fn a_state_frame_has_the_neutral_layout_and_nothing_else() {
        let (mut port, ram) = port();
        ram.write(PhysAddr::new(0x5ff0), &[1; 16]).unwrap();
        let context = Context::long_mode(1, 2, 3);
        let new = NewVcpu { id: VcpuId(1), context: &context, state: frame(0x5000), call_area: frame(0x6000) };
        port.write_image(&new, GuestLevel::TWO).unwrap();
        assert_eq!(port.memory().read_value(PhysAddr::new(0x5000)), Ok(StateFrame::new(GuestLevel::TWO, context)));
        assert_eq!(ram.read_value(PhysAddr::new(0x5ff0)), Ok([0_u8; 16]));
        ram.break_at(0x5000);
        let error = port.write_image(&new, GuestLevel::TWO);
        assert_eq!(error, Err(Error::Memory { at: PhysAddr::new(0x5000), fault: Fault }));
    }
}
