//! TDX: a port whose leaves succeed and do nothing, and L1 over it.

use std::mem::offset_of;

use backend_tdx_stub::abi::exit_reason::ExitReason;
use backend_tdx_stub::abi::fields::{ATTRIBUTE_SEPT_VE_DISABLE, FEATURE_TD_PARTITIONING, FieldId};
use backend_tdx_stub::abi::guest_state::{EnterGuestState, gpr};
use backend_tdx_stub::abi::leaves::Leaf;
use backend_tdx_stub::abi::regs::Regs;
use backend_tdx_stub::port::Port;
use backend_tdx_stub::{Error, L1, LevelPages, Pages, Seed, Shared, Slot};
use coco_part_api::level::GUEST_LEVELS;
use coco_part_api::svsm::state_frame::StateFrame;
use coco_part_api::{CallRegs, Context, GuestLevel, GuestMemory};
use x86_64::PhysAddr;
use zerocopy::IntoBytes;

use super::null::{NullMemory, Outside};
use super::vm::{LEVEL, NullVendor, VCPUS, ram};
use crate::world::layout::{MONITOR_CHANNEL, frame, page};

/// TDX on a null port.
pub(super) enum NullTdx {}

impl NullVendor for NullTdx {
    type Seed = Seed;
    type Backend = L1<'static, NullPort, NullMemory>;
    type Error = Error<Outside>;

    fn backend(memory: NullMemory) -> Result<Self::Backend, Self::Error> {
        let mut levels = [None; GUEST_LEVELS];
        let pages = LevelPages { registers: PhysAddr::new(MONITOR_CHANNEL), vapic: frame(page(MONITOR_CHANNEL, 1)) };
        if let Some(slot) = levels.get_mut(LEVEL.index()) {
            *slot = Some(pages);
        }
        let pages = Pages { levels, scratch: frame(page(MONITOR_CHANNEL, 2)) };
        L1::new(NullPort, memory, ram(), Box::leak(Box::new(Shared::<[Slot; VCPUS]>::new())), pages)
    }

    /// The registers go to the page from which the module would have stored them; the port does the rest.
    fn call(memory: NullMemory, regs: CallRegs) -> Result<(), Outside> {
        let values =
            [(gpr::RAX, regs.rax), (gpr::RCX, regs.rcx), (gpr::RDX, regs.rdx), (gpr::R8, regs.r8), (gpr::R9, regs.r9)];
        for (index, value) in values {
            let at = MONITOR_CHANNEL + (offset_of!(EnterGuestState, gpr) + 8 * index) as u64;
            memory.write_value(PhysAddr::new(at), &value)?;
        }
        Ok(())
    }

    fn image(context: &Context) -> Vec<u8> {
        StateFrame::new(LEVEL, *context).as_bytes().to_vec()
    }
}

/// The port. Every entry of a level ends with a call.
pub(super) struct NullPort;

/// What the leaves that read say about the TD and this vCPU.
fn discover(regs: &mut Regs) {
    let field = FieldId(regs.rdx);
    *regs = match Leaf(regs.rax as u16) {
        // GPAW 48, two vCPUs, this is the first; the module has partitioning.
        Leaf::VP_INFO => Regs { rcx: 48, rdx: ATTRIBUTE_SEPT_VE_DISABLE, r8: VCPUS as u64, r10: 1, ..Regs::default() },
        Leaf::SYS_RD => Regs { r8: FEATURE_TD_PARTITIONING, ..Regs::default() },
        Leaf::VM_RD if field == FieldId::NUM_L2_VMS => Regs { r8: LEVEL.number().into(), ..Regs::default() },
        _ => Regs::default(),
    };
}

impl Port for NullPort {
    #[inline]
    fn tdcall(&mut self, regs: &mut Regs) {
        uncounted::tdcall(regs);
    }

    #[inline]
    fn enter(&mut self, regs: &mut Regs) {
        uncounted::enter(regs);
    }

    fn reset(&mut self, _level: GuestLevel) {}

    fn pause(&mut self) {}
}

/// The instructions, as in [`null`](super::null).
mod uncounted {
    use std::hint::black_box;

    use super::{ExitReason, Leaf, Regs, discover};

    #[inline(never)]
    pub(super) fn tdcall(regs: &mut Regs) {
        match Leaf(black_box(&mut *regs).rax as u16) {
            Leaf::VP_INFO | Leaf::SYS_RD | Leaf::VM_RD => discover(regs),
            // Success, and for the host's answer as well.
            _ => (regs.rax, regs.r10) = black_box((0, 0)),
        }
    }

    #[inline(never)]
    pub(super) fn enter(regs: &mut Regs) {
        // A VMCALL of three bytes at CPL 0.
        *black_box(regs) = Regs { rax: ExitReason::VMCALL.0.into(), r11: 3 << 32, ..Regs::default() };
    }
}
