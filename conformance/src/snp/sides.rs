//! The two sides of `backend-snp` in a VM of this crate's layout: what an integrator of it writes.

use backend_snp::SnpError;
use backend_snp::guest::{GuestSide, Placement};
use backend_snp::message::MessagePages;
use backend_snp::monitor::{Setup, SwitchBy};
use coco_part_api::svsm::list::{Action, Entry};
use coco_part_api::svsm::{CALL_BUFFER, CORE, CallId, PVALIDATE};
use coco_part_api::{
    Block, CallMonitor, CallRegs, FrameRange, GuestMemory, GuestPort, HostState, MemoryMap, PageSize, VcpuId,
};
use x86_64::PhysAddr;

use super::defect::Defect;
use super::model::SnpModel;
use super::port::ModelPort;
use super::window::Window;
use crate::platform::{Home, Platform};
use crate::runner::Cpu;
use crate::world::layout::{
    CALL_AREA, CHANNEL, MONITOR_CHANNEL, MONITOR_FEATURES, MONITOR_SECRETS, PAGE, SECRETS, frame, page, range,
};

/// Pages of a channel to the host, per vCPU.
const CHANNEL_PAGES: u64 = 4;

/// What L1's side is started with on the vCPU of `cpu`: memory, its pages, and how it switches.
///
/// # Errors
/// RAM ranges that overlap.
pub fn l1_setup<'y, P: Platform>(
    cpu: Cpu<'y, SnpModel>,
    home: &'y Home<P>,
    defect: Option<Defect>,
) -> Result<Setup<'y, Window<'y>>, SnpError> {
    let vcpu = cpu.start().vcpu;
    let channel = page(MONITOR_CHANNEL, u64::from(vcpu) * CHANNEL_PAGES);
    Ok(Setup {
        vcpu: VcpuId(u32::from(vcpu)),
        map: MemoryMap::new(&home.ram).map_err(SnpError::Range)?,
        private: Window::private(cpu, defect),
        shared: Window::shared(cpu),
        ghcb: frame(channel),
        request: frame(page(channel, 1)),
        response: frame(page(channel, 2)),
        scratch: frame(page(channel, 3)),
        levels: &home.levels,
        reflect: if home.options.traps { &home.levels } else { &[] },
        secrets: frame(MONITOR_SECRETS),
        cpuid: frame(MONITOR_FEATURES),
        switch_by: if home.options.seed.is_multiple_of(2) { SwitchBy::Msr } else { SwitchBy::Page },
    })
}

/// A guest's side on the vCPU of `cpu`: finds its level, shares its channel with the host, and on vCPU 0 opens the channel
/// to the firmware.
///
/// # Errors
/// What a step of that says.
pub fn guest_side(cpu: Cpu<'_, SnpModel>) -> Result<GuestSide<ModelPort<'_>, Window<'_>>, SnpError> {
    let vcpu = u64::from(cpu.start().vcpu);
    let channel = page(CHANNEL, vcpu * CHANNEL_PAGES);
    let (memory, mut guest) = (Window::private(cpu, None), early_guest_side(cpu)?);
    let shared = range(channel, 3 * PAGE);
    share(&mut guest, &memory, shared)?;
    guest.use_ghcb(frame(channel))?;
    if vcpu == 0 {
        let pages = MessagePages::new(frame(page(channel, 1)), frame(page(channel, 2)))?;
        guest.open_channel(frame(SECRETS), pages)?;
    }
    Ok(guest)
}

/// A guest's side before it shares any page with the host: it speaks the MSR protocol.
///
/// # Errors
/// As [`Placement::find`].
pub fn early_guest_side(cpu: Cpu<'_, SnpModel>) -> Result<GuestSide<ModelPort<'_>, Window<'_>>, SnpError> {
    let vcpu = u64::from(cpu.start().vcpu);
    let scratch = frame(page(CHANNEL, vcpu * CHANNEL_PAGES + 3));
    let (mut port, memory) = (ModelPort::new(cpu, None), Window::private(cpu, None));
    let placement = Placement::find(&mut port, &memory, frame(SECRETS), scratch)?;
    let call_area = frame(page(CALL_AREA, vcpu));
    let id = VcpuId(cpu.start().vcpu.into());
    Ok(GuestSide::new(port, memory, Window::shared(cpu), &placement, id, call_area))
}

/// What an enlightened kernel does with its first pages: asks L1 to give them up, then shares them.
fn share<'y>(
    guest: &mut GuestSide<ModelPort<'y>, Window<'y>>,
    memory: &Window<'y>,
    pages: FrameRange,
) -> Result<(), SnpError> {
    let list = guest.call_area().start_address().as_u64() + CALL_BUFFER;
    let inaccessible = |_| SnpError::NotServed;
    for (index, block) in pages.small_blocks().enumerate() {
        // A vCPU that starts for the second time finds its pages shared.
        let entry =
            Entry { block: Block::new(block.start(), PageSize::Small)?, action: Action::Rescind, ignore_cf: true };
        let at = PhysAddr::new(list + 8 * (index as u64 + 1));
        memory.write_value(at, &entry.encode()).map_err(inaccessible)?;
    }
    memory.write_value(PhysAddr::new(list), &pages.frames()).map_err(inaccessible)?;
    loop {
        let answer = guest.call(CallRegs::call(CallId::new(CORE, PVALIDATE), list, 0, 0))?;
        if answer.result().is_success() {
            break;
        }
        if !answer.result().is_again() {
            return Err(SnpError::NotServed);
        }
    }
    guest.agree(pages, HostState::Shared).map_err(|stopped| stopped.cause)
}
