//! One vCPU of the monitor, from its backend to its last words.

use core::panic::PanicInfo;
use core::sync::atomic::AtomicU64;

use backend_snp::SnpError;
use backend_snp::host::reason;
use backend_snp::instr::{NativePort, NativeWindow};
use backend_snp::monitor::{L1, Seed, Setup, SwitchBy};
use coco_part_api::{Context, Emulate, Error, FrameRange, GuestLevel, MemoryMap, NewVcpu, Processor, Stopped, VcpuId};
use image_layout::{CPUID, PAGE, SECRETS};
use image_runtime::console::install_log;
use image_runtime::exceptions::Frame;
use image_runtime::link::{LINKS, Link};
use image_runtime::paging::{CBit, Table};
use image_runtime::space::Space;
use image_runtime::vcpu::{self, VCPUS};
use image_runtime::{cpu, end, println};
use l1_monitor::{Ledger, Limits, Monitor, SetupError, Shared, State, Step, Stop, Storage};
use spin::{Mutex, Once};
use x86_64::structures::paging::PhysFrame;
use x86_64::{PhysAddr, VirtAddr};

use crate::beside;
use crate::guest;
use crate::reason::{self, EarlyError, StartError};
use crate::start::{CHANNEL_FRAMES, frame};

/// Level of the guest.
pub(crate) const LEVEL: GuestLevel = GuestLevel::TWO;
/// Pages of the launch beside the image, from [`SECRETS`] on.
const LAUNCH_FRAMES: u64 = 4;

/// Memory as the backend gets it.
#[cfg(not(feature = "defect"))]
type Memory = NativeWindow;
#[cfg(feature = "defect")]
type Memory = crate::defect::Memory;

/// Makes it of a window.
#[cfg(not(feature = "defect"))]
const fn memory(window: NativeWindow) -> Memory {
    window
}
#[cfg(feature = "defect")]
const fn memory(window: NativeWindow) -> Memory {
    crate::defect::Memory(window)
}

/// The monitor on this machine.
pub(crate) type Vcpu = Monitor<'static, L1<'static, NativePort, Memory>, Own, VCPUS>;

/// What the vCPUs share.
pub(crate) struct World {
    pub(crate) space: Space,
    pub(crate) vcpus: u32,
    /// The monitor's part of RAM.
    pub(crate) monitor: FrameRange,
    /// What of it is valid, but for the pages of the launch.
    pub(crate) valid: FrameRange,
    /// What the ledger knows.
    pub(crate) span: FrameRange,
    pub(crate) all: MemoryMap<'static>,
    pub(crate) guests: MemoryMap<'static>,
    pub(crate) words: &'static [AtomicU64],
    pub(crate) storage: &'static Storage<Seed, VCPUS>,
    pub(crate) shared: &'static backend_snp::monitor::Shared<VCPUS>,
    pub(crate) channels: FrameRange,
    /// Becomes the VMSA of the guest's first vCPU.
    pub(crate) guest_state: PhysFrame,
    /// Where the guest's first page tables are made.
    pub(crate) guest_tables: Mutex<&'static mut [Table]>,
    pub(crate) c_bit: CBit,
}

/// A vCPU of the monitor that is to be started.
pub(crate) struct Secondary {
    pub(crate) id: VcpuId,
    pub(crate) context: Context,
    pub(crate) state: PhysFrame,
}

static WORLD: Once<World> = Once::new();

/// Makes the world known to all vCPUs.
pub(crate) fn publish(world: World) {
    WORLD.call_once(|| world);
}

/// The first vCPU: everything before the guest's first instruction, then the guest.
pub(crate) fn first_vcpu(secondaries: &[Option<Secondary>]) -> ! {
    let Some(world) = WORLD.get() else { end::terminate(reason::PANIC) };
    let mut monitor = begin(world, VcpuId(0));
    install_log();
    match prepare(world, &mut monitor, secondaries) {
        Ok(()) => run(world, &mut monitor),
        Err(error) => {
            println!("the monitor does not start: {error}");
            monitor.backend().terminate(backend_snp::host::reason(error.code()))
        }
    }
}

/// Where further vCPUs begin: [`secondary`].
pub(crate) fn secondary_entry() -> u64 {
    secondary as extern "sysv64" fn(u64, u64) -> ! as usize as u64
}

/// A further vCPU, with its number and the end of its stack for exceptions.
extern "sysv64" fn secondary(id: u64, exception_stack: u64) -> ! {
    let Some(world) = WORLD.get() else { end::terminate(reason::PANIC) };
    // Below the number of vCPUs.
    let id = VcpuId(id as u32);
    // SAFETY: the first vCPU took this stack for this vCPU, and numbers each vCPU once.
    unsafe { vcpu::begin(id, VirtAddr::new_truncate(exception_stack)) };
    let mut monitor = begin(world, id);
    run(world, &mut monitor)
}

/// The monitor of this vCPU, with a console.
#[inline(never)]
fn begin(world: &'static World, id: VcpuId) -> Vcpu {
    assemble(world, id).unwrap_or_else(|error| end::terminate(error.0))
}

fn assemble(world: &'static World, id: VcpuId) -> Result<Vcpu, EarlyError> {
    let backend = |_: SnpError| EarlyError::BACKEND;
    let channel = |index| frame(world.channels, CHANNEL_FRAMES * u64::from(id.0) + index);
    let missing = EarlyError::MEMORY;
    let (private, shared) = (world.space.private(), world.space.shared());
    // SAFETY: CPL 0, and exceptions have handlers. The pages that are changed belong to the channels or stand in the ledger.
    let [port, link_port] = [(); 2].map(|()| unsafe { world.space.port() });
    let ghcb = channel(0).ok_or(missing)?;
    let setup = Setup {
        vcpu: id,
        map: world.all,
        private: memory(private),
        shared: memory(shared),
        ghcb,
        request: channel(1).ok_or(missing)?,
        response: channel(2).ok_or(missing)?,
        scratch: channel(3).ok_or(missing)?,
        levels: beside::LEVELS,
        reflect: &[],
        secrets: launch_frame(SECRETS),
        cpuid: launch_frame(CPUID),
        // Half the instructions of a switch by page, which is cleared each time.
        switch_by: SwitchBy::Msr,
    };
    #[cfg(feature = "own-page-granted")]
    let mut port = port;
    #[cfg(feature = "own-page-granted")]
    crate::defect::grant_own_page(&mut port);
    let l1 = L1::start(port, setup, world.shared).map_err(backend)?;
    LINKS.set(Link::open(link_port, shared, ghcb).map_err(backend)?);
    let view = Shared {
        ledger: Ledger::new(world.words, world.span).map_err(|_| EarlyError::MEMORY)?,
        storage: world.storage,
        memory: world.guests,
        level: LEVEL,
        limits: Limits { vcpus: world.vcpus, ..Limits::default() },
        vtpm: None,
    };
    Ok(Monitor::new(l1, Own, view))
}

/// A page of the layout.
pub(crate) fn launch_frame(at: u64) -> PhysFrame {
    PhysFrame::containing_address(PhysAddr::new_truncate(at))
}

/// Puts the own memory on the books, starts the other vCPUs, then makes the guest ready.
#[inline(never)]
fn prepare(world: &World, monitor: &mut Vcpu, secondaries: &[Option<Secondary>]) -> Result<(), StartError> {
    println!("monitor on {} of {} vCPUs, C-bit {}", VcpuId(0), world.vcpus, world.c_bit.position());
    let ledger = monitor.shared().ledger;
    let refused = |_| StartError::Refused { step: "monitor's memory in the ledger" };
    let launch = FrameRange::new(PhysAddr::new_truncate(SECRETS), LAUNCH_FRAMES * PAGE);
    let launch = launch.map_err(|_| StartError::Memory("a layout that cannot be"))?;
    for range in [world.valid, launch] {
        ledger.adopt(range, State::NotPrivate, State::Monitor).map_err(refused)?;
    }
    for Secondary { id, context, state } in secondaries.iter().flatten() {
        // L1 has no use for a call area.
        let new = NewVcpu { id: *id, context, state: *state, call_area: *state };
        monitor.start_secondary(new).map_err(step("start of a monitor's vCPU"))?;
    }
    beside::start(world, monitor)?;
    guest::launch(world, monitor)
}

/// Names a step that the backend or the ledger refused.
pub(crate) fn step(step: &'static str) -> impl Fn(SetupError<SnpError>) -> StartError {
    move |error| match error {
        SetupError::Backend(Stopped { cause, .. }) => StartError::Guest { step, kind: cause.kind() },
        _ => StartError::Refused { step },
    }
}

/// Serves the guest for ever.
fn run(world: &World, monitor: &mut Vcpu) -> ! {
    let code = loop {
        match monitor.step() {
            Step::Stopped(stop) => println!("the guest's vCPU here has stopped: {}", why(stop)),
            Step::HostGaveUp => break reason::HOST_GAVE_UP,
            Step::Dead => break reason::DEAD,
            Step::Idle | Step::Served(_) | Step::Emulated | Step::Again => {}
        }
        beside::step(monitor);
    };
    world.storage.declare_dead();
    println!("the monitor ends with reason {code:#x}");
    monitor.backend().terminate(reason(code))
}

/// Why the guest's part on a vCPU is over.
const fn why(stop: Stop) -> &'static str {
    match stop {
        Stop::Shutdown => "it shut itself down",
        Stop::Msr => "a register that it does not have",
        Stop::NotCompleted => "an instruction that could not be completed",
        Stop::Memory => "memory that does not answer",
        Stop::HostCall => "a request to the host",
        Stop::Other { .. } => "an exit that nobody serves",
        Stop::StateLost => "its state cannot be reached any more",
    }
}

/// The processor as the monitor sees it: wake-ups go through the host, waiting is HLT.
#[derive(Debug)]
pub(crate) struct Own;

impl Processor for Own {
    fn kick(&mut self, who: VcpuId) {
        // A host that does not carry it stops progress only.
        let _ = LINKS.with(|link| link.wake(who));
    }

    fn idle(&mut self) {
        // SAFETY: interrupts have a handler.
        if unsafe { cpu::wait_for_interrupt() } {
            let _ = LINKS.with(Link::end_of_interrupt);
        }
    }

    fn pause(&mut self) {
        core::hint::spin_loop();
    }
}

/// A guest that traps is not served here: it finds the processor that the machine vouches for and nothing else.
impl Emulate for Own {}

/// Nobody expects an exception in the monitor. What it says is the processor's word; no register of the guest is among it.
pub(crate) fn exception(frame: &mut Frame) {
    let Frame { vector, error, rip, .. } = *frame;
    println!("exception {vector} with code {error:#x} at {rip:#x}, CR2 {:#x}", cpu::fault_address());
    end::terminate(reason::EXCEPTION)
}

/// Says no more than that. The message may hold values of the guest, and the places of all panics would take two more pages of
/// the image, for paths of the machine that built it.
#[panic_handler]
fn panic(_: &PanicInfo<'_>) -> ! {
    println!("panic");
    end::terminate(reason::PANIC)
}
