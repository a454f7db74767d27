//! L1 on a scripted port: exact leaves and registers in, every kind of answer out.

mod attest;
mod discovery;
mod exits;
mod flush;
mod memory;
mod run;
mod state;
mod vcpu;

use std::boxed::Box;

use coco_part_api::{AdmitVcpu, Context, FrameRange, Grant, GuestLevel, MemoryMap, Source, Terms, VcpuId};
use x86_64::PhysAddr;
use x86_64::structures::paging::PhysFrame;

use super::vmcs;
use super::{L1, LevelPages, Pages};
use crate::abi::fields::{ATTRIBUTE_SEPT_VE_DISABLE, FEATURE_TD_PARTITIONING, FieldId, VmcsField};
use crate::abi::leaves::Leaf;
use crate::abi::regs::Regs;
use crate::error::Error;
use crate::mock::{Fault, RAM, Ram, Script};
use crate::shared::{Shared, Slot};

type Tested = L1<'static, Script, Ram>;

const ONE: GuestLevel = GuestLevel::ONE;
const TWO: GuestLevel = GuestLevel::TWO;

/// Register page of level 1 on vCPU 0; level 2 has the next one, vCPU 1 the next page.
const REGISTERS: u64 = 0x10_0000;
const VAPIC: u64 = 0x11_0000;
const SCRATCH: u64 = 0x12_0000;
/// A page for state frames.
const FRAME: u64 = 0x13_0000;
/// GPAW is 48.
const SHARED_BIT: u64 = 1 << 47;

fn frame(at: u64) -> PhysFrame {
    PhysFrame::from_start_address(PhysAddr::new(at)).unwrap()
}

fn range(start: u64, len: u64) -> FrameRange {
    FrameRange::new(PhysAddr::new(start), len).unwrap()
}

/// Registers of an answer with this status.
fn status(rax: u64) -> Regs {
    Regs { rax, ..Regs::default() }
}

/// What TDG.VP.INFO answers on a vCPU of two.
fn info(vcpu: u64) -> Regs {
    Regs { rcx: 48, rdx: ATTRIBUTE_SEPT_VE_DISABLE, r8: 2 << 32 | 2, r9: vcpu, r10: 1, ..Regs::default() }
}

fn discover(script: &Script, vcpu: u64, levels: u64) {
    let features = Regs { rdx: FieldId::TDX_FEATURES0.0, ..Regs::default() };
    let count = Regs { rdx: FieldId::NUM_L2_VMS.0, ..Regs::default() };
    script
        .call(Leaf::VP_INFO, Regs::default(), info(vcpu))
        .call(Leaf::SYS_RD, features, Regs { r8: FEATURE_TD_PARTITIONING, ..Regs::default() })
        .call(Leaf::VM_RD, count, Regs { r8: levels, ..Regs::default() });
}

fn pages(vcpu: u64) -> Pages {
    let level = |index: u64| LevelPages {
        registers: PhysAddr::new(REGISTERS + 0x1000 * vcpu + 0x100 * index),
        vapic: frame(VAPIC + 0x4000 * vcpu + 0x1000 * index),
    };
    Pages { levels: [Some(level(0)), Some(level(1)), None], scratch: frame(SCRATCH + 0x1000 * vcpu) }
}

fn map() -> MemoryMap<'static> {
    MemoryMap::new(Box::leak(Box::new([range(0, RAM)]))).unwrap()
}

fn shared() -> &'static Shared {
    Box::leak(Box::new(Shared::<[Slot; 2]>::new()))
}

/// L1 on one vCPU of a TD with two vCPUs and two L2 VMs.
fn l1_on(vcpu: u64, script: &Script, ram: &Ram, shared: &'static Shared) -> Tested {
    discover(script, vcpu, 2);
    let l1 = L1::new(script.clone(), ram.clone(), map(), shared, pages(vcpu)).unwrap();
    script.done();
    l1
}

fn l1() -> (Tested, Script, Ram) {
    let (script, ram) = (Script::default(), Ram::default());
    (l1_on(0, &script, &ram, shared()), script, ram)
}

/// A TDG.VP.WR.
fn write(script: &Script, level: GuestLevel, field: VmcsField, value: u64, mask: u64) {
    let takes = Regs { rdx: FieldId::vmcs(level, field).0, r8: value, r9: mask, ..Regs::default() };
    script.call(Leaf::VP_WR, takes, Regs::default());
}

/// A TDG.VP.RD.
fn read(script: &Script, level: GuestLevel, field: VmcsField, value: u64) {
    let takes = Regs { rdx: FieldId::vmcs(level, field).0, ..Regs::default() };
    script.call(Leaf::VP_RD, takes, Regs { r8: value, ..Regs::default() });
}

fn kernel() -> Context {
    let mut context = Context::long_mode(0x10_0000, 0x20_0000, 0x5000);
    context.gpr[7] = 0x77;
    context
}

fn terms(level: GuestLevel, target: u32) -> Terms {
    Terms { level, target: VcpuId(target), call_area: frame(0x14_0000) }
}

/// What installing `context` writes.
fn script_install(script: &Script, level: GuestLevel, vapic: u64, context: &Context) {
    let ctls = Regs { rdx: FieldId::l2_ctls(level).0, r8: 0, r9: 7, ..Regs::default() };
    script.reset(level).call(Leaf::VP_WR, ctls, Regs::default());
    let controls = [
        (VmcsField::VIRTUAL_APIC_ADDRESS, vapic, !0xfff),
        (VmcsField::SECONDARY_CONTROLS, 1 << 22, 1 << 22),
        (VmcsField::CR0_MASK, !0x8005_001f, u64::MAX),
        (VmcsField::CR4_MASK, !0x3ff_1fbf, u64::MAX),
        (VmcsField::ENTRY_INTERRUPTION, 0, u64::MAX),
        (VmcsField::INTERRUPTIBILITY, 0, u64::MAX),
        (VmcsField::PENDING_DEBUG, 0, u64::MAX),
        (VmcsField::DR7, 0x400, u64::MAX),
        (VmcsField::SYSENTER_CS, 0, u64::MAX),
        (VmcsField::SYSENTER_ESP, 0, u64::MAX),
        (VmcsField::SYSENTER_EIP, 0, u64::MAX),
    ];
    for (field, value, mask) in controls.into_iter().chain(vmcs::fields(context)) {
        write(script, level, field, value, mask);
    }
}

/// A vCPU of `level` with a kernel's state, installed on the vCPU of `l1`.
fn install(l1: &mut Tested, script: &Script, level: GuestLevel) {
    let vcpu = l1.td.vcpu.0;
    let proof = l1.redeem(super::Cut::default()).unwrap();
    let at = FRAME + 0x1000 * u64::from(vcpu) + 0x2000 * u64::from(level.number());
    let seed = l1.admit(frame(at), Source::Context(&kernel()), &terms(level, vcpu), &proof).unwrap();
    script_install(script, level, l1.pages.levels[level.index()].unwrap().vapic.start_address().as_u64(), &kernel());
    l1.install(seed).unwrap();
    script.done();
}

/// L1 with an installed vCPU of level 1.
fn ready() -> (Tested, Script, Ram) {
    let (mut l1, script, ram) = l1();
    install(&mut l1, &script, ONE);
    (l1, script, ram)
}

#[test]
fn l1_has_everything_that_a_monitor_needs() {
    const fn monitor<T: coco_part_api::Monitor + coco_part_api::GuestState + coco_part_api::HasMemory>() {}
    const fn guest<T: coco_part_api::GuestPort>() {}
    const fn crosses_vcpus<T: Send>() {}
    monitor::<Tested>();
    guest::<crate::L2Port<crate::native::NativeGuest, Ram>>();
    crosses_vcpus::<super::Seed>();
    const fn shared<T: Sync>() {}
    shared::<Shared<[Slot; 1]>>();
}

fn cause<T: core::fmt::Debug>(result: Result<T, coco_part_api::Stopped<Error<Fault>>>) -> (u64, Error<Fault>) {
    let stop = result.unwrap_err();
    (stop.done, stop.cause)
}
