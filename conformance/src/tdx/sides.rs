//! The two sides of `backend-tdx-stub` in a VM of this crate's layout: what an integrator of it writes.

use backend_tdx_stub::abi::regs::Regs;
use backend_tdx_stub::abi::vmcall::EXPOSED;
use backend_tdx_stub::{Error, L1, L2Port, LevelPages, Pages, Shared};
use coco_part_api::level::GUEST_LEVELS;
use coco_part_api::{GuestLevel, MemoryMap, VcpuId};
use machine::tdx::{Op, Unswitched};
use x86_64::PhysAddr;

use super::defect::Defect;
use super::model::{MemoryFault, TdxModel, Window};
use super::platform::Tdx;
use super::port::{GuestPort, ModelPort};
use crate::platform::Home;
use crate::runner::Cpu;
use crate::world::layout::{CALL_AREA, MONITOR_CHANNEL, frame, page};

/// Pages of L1 for each of its vCPUs: registers of all levels, virtual-APIC pages, and the scratch page.
pub(super) const PAGES_PER_VCPU: u64 = 8;
/// Which of them is the first virtual-APIC page, and which the scratch page.
const VAPIC: u64 = 1;
const SCRATCH: u64 = 4;
/// Bytes from the registers of one level to those of the next (`l2_vp_enter`: 256 bytes, aligned).
const REGISTERS: u64 = 256;

/// First of the pages of a vCPU.
pub(super) fn first_page(vcpu: u64) -> u64 {
    page(MONITOR_CHANNEL, vcpu * PAGES_PER_VCPU)
}

/// The pages that L1 on a vCPU runs these levels with.
fn pages(vcpu: u8, levels: &[GuestLevel]) -> Pages {
    let first = first_page(u64::from(vcpu));
    let mut all: [Option<LevelPages>; GUEST_LEVELS] = [None; GUEST_LEVELS];
    for level in levels {
        let index = level.index() as u64;
        let registers = PhysAddr::new(first + index * REGISTERS);
        all[level.index()] = Some(LevelPages { registers, vapic: frame(page(first, VAPIC + index)) });
    }
    Pages { levels: all, scratch: frame(page(first, SCRATCH)) }
}

/// What L1 has in the state that the module does not switch: values by which they are recognised, as far as they are legal.
pub(super) fn unswitched_of_l1() -> Unswitched {
    let mut vector = [0; 64];
    vector.iter_mut().zip(0..).for_each(|(byte, index)| *byte = 0xa0 ^ index);
    Unswitched {
        vector,
        xcr0: 7,
        cr2: 0x4c31_0000_0000_0002,
        dr: [0x4c31_00d0, 0x4c31_00d1, 0x4c31_00d2, 0x4c31_00d3],
        dr6: 0xffff_0ff1,
        star: 0x0023_0010_0000_0000,
        lstar: 0xffff_8000_4c31_0000,
        fmask: 0x4700,
        kernel_gs_base: 0xffff_8000_4c31_8000,
        tsc_aux: 0x4c31,
        xss: 0,
    }
}

/// L1's side on the vCPU of `cpu`.
///
/// # Errors
/// As [`L1::new`].
pub(super) fn l1_side<'y>(
    cpu: Cpu<'y, TdxModel>,
    shared: &'y Shared,
    home: &'y Home<Tdx>,
) -> Result<L1<'y, ModelPort<'y>, Window<'y>>, Error<MemoryFault>> {
    let defect = home.options.defect.and_then(Defect::by_name);
    // A vCPU of L1 that is started again finds what it had, or values after reset.
    let _ = cpu.execute(Op::WriteUnswitched(Box::new(unswitched_of_l1())));
    let map = MemoryMap::new(&home.ram).map_err(Error::Range)?;
    let pages = pages(cpu.start().vcpu, &home.levels);
    L1::new(ModelPort::new(cpu, defect), Window::private(cpu, defect), map, shared, pages)
}

/// A guest's side on the vCPU of `cpu`.
pub(super) fn guest_side(cpu: Cpu<'_, TdxModel>) -> L2Port<GuestPort<'_>, Window<'_>> {
    let vcpu = cpu.start().vcpu;
    let area = frame(page(CALL_AREA, u64::from(vcpu)));
    L2Port::new(GuestPort(cpu), Window::private(cpu, None), VcpuId(vcpu.into()), area)
}

/// A TDVMCALL of L1 whose answer nobody needs.
fn tell_host(cpu: Cpu<'_, TdxModel>, sub_function: u64, r12: u64, r13: u64) {
    use backend_tdx_stub::port::Port;
    let mut regs = Regs { rcx: EXPOSED, r11: sub_function, r12, r13, ..Regs::default() };
    ModelPort::new(cpu, None).tdcall(&mut regs);
}

/// TDVMCALL HLT: waits for an interrupt, which may be there already.
pub(super) fn halt(cpu: Cpu<'_, TdxModel>) {
    const HLT: u64 = 12;
    tell_host(cpu, HLT, 0, 0);
}

/// TDVMCALL WRMSR of the x2APIC ICR: an interrupt for another vCPU.
pub(super) fn interrupt(cpu: Cpu<'_, TdxModel>, who: VcpuId) {
    const WRMSR: u64 = 32;
    const ICR: u64 = 0x830;
    const VECTOR: u64 = 0xf2;
    tell_host(cpu, WRMSR, ICR, u64::from(who.0) << 32 | VECTOR);
}
