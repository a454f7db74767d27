//! L1 of a world: the monitor crate, set up as an integrator would.

use std::rc::Rc;
use std::sync::atomic::AtomicU64;

use coco_part_api::{BootPage, Context, MemoryMap, NewVcpu, Processor, Validate, VcpuId};
use l1_monitor::{GuestLaunch, Ledger, Limits, Monitor, Shared, State, Step, Vtpm, VtpmDevice};

use super::devices::Devices;
use super::layout::{self, frame, page, range};
use super::{Common, World};
use crate::platform::{Home, Platform};
use crate::runner::{Body, Cpu};

/// Most vCPUs of a world.
pub const VCPUS: usize = 8;

/// What the monitor's vCPUs share.
pub(crate) type Storage<P> = l1_monitor::Storage<<P as Platform>::Seed, VCPUS>;

/// The processor as a monitor's integrator has it: on the machine everybody is woken by being scheduled.
pub struct ModelProcessor<'y, P: Platform> {
    cpu: Cpu<'y, P::Model>,
    pub(super) devices: &'y Devices,
}

impl<'y, P: Platform> ModelProcessor<'y, P> {
    /// The processor of a program.
    pub fn new(cpu: Cpu<'y, P::Model>, devices: &'y Devices) -> Self {
        Self { cpu, devices }
    }
}

impl<P: Platform> Processor for ModelProcessor<'_, P> {
    fn kick(&mut self, who: VcpuId) {
        P::kick(self.cpu, who);
        P::pause(self.cpu);
    }

    fn idle(&mut self) {
        P::idle(self.cpu);
    }

    fn pause(&mut self) {
        P::pause(self.cpu);
    }
}

/// Ledger storage for all memory of a VM.
pub(super) fn ledger_words<P: Platform>(home: &Home<P>) -> Vec<AtomicU64> {
    let words = Ledger::words_for(span(home).frames());
    (0..words).map(|_| AtomicU64::new(0)).collect()
}

/// From L1's first page to the guest's last one, the hole included.
fn span<P: Platform>(home: &Home<P>) -> coco_part_api::FrameRange {
    range(layout::MONITOR, layout::GUEST - layout::MONITOR + home.options.guest_bytes)
}

impl<P: Platform> World<P> {
    pub(super) fn install_monitor(&mut self) {
        for (entry, is_boot) in [(layout::ENTRY_MONITOR, true), (layout::ENTRY_SECONDARY, false)] {
            let common = Rc::clone(&self.common);
            self.runner.at_entry(
                entry,
                Box::new(move |_| {
                    let common = Rc::clone(&common);
                    Some(Box::new(move |cpu: Cpu<'_, P::Model>| {
                        if let Err(complaint) = serve::<P>(cpu, &common, is_boot) {
                            common.complaints.borrow_mut().push(complaint);
                        }
                    }) as Body<P::Model>)
                }),
            );
        }
    }
}

/// One vCPU of the monitor, from its start until the host gives up on it.
fn serve<P: Platform>(cpu: Cpu<'_, P::Model>, common: &Common<P>, is_boot: bool) -> Result<(), String> {
    let home = &common.home;
    let backend = P::monitor(cpu, &common.shared, home).map_err(|error| format!("L1 does not start: {error}"))?;
    let ledger = Ledger::new(&common.ledger, span(home)).map_err(|refusal| refusal.to_string())?;
    let shared = Shared {
        ledger,
        storage: &common.storage,
        memory: MemoryMap::new(&home.guest_ram).map_err(|error| error.to_string())?,
        level: home.options.guest_level(),
        limits: Limits { vcpus: u32::from(home.options.vcpus), ..Limits::default() },
        vtpm: home.options.vtpm.then_some(&common.vtpm as &Vtpm<dyn VtpmDevice>),
    };
    let mut monitor = Monitor::<_, _, VCPUS>::new(backend, ModelProcessor::<P>::new(cpu, &common.devices), shared);
    let beside = common.beside.get().filter(|_| is_boot);
    if let Some(beside) = beside {
        beside.start(monitor.backend(), &shared.ledger)?;
    }
    if is_boot {
        start(&mut monitor, &shared, home)?;
    }
    while !matches!(monitor.step(), Step::HostGaveUp | Step::Dead) {
        if let Some(beside) = beside {
            beside.step(monitor.backend());
        }
    }
    Ok(())
}

/// What L1's boot vCPU does at levels beside the guest's.
pub trait Beside<P: Platform> {
    /// Before the guest starts.
    ///
    /// # Errors
    /// What is wrong.
    fn start(&self, backend: &mut P::Monitor<'_>, ledger: &Ledger<'_>) -> Result<(), String>;

    /// Between two steps of the monitor.
    fn step(&self, backend: &mut P::Monitor<'_>);
}

/// The monitor of a world on one vCPU.
pub type BootMonitor<'a, 'y, P> = Monitor<'a, <P as Platform>::Monitor<'y>, ModelProcessor<'y, P>, VCPUS>;

/// Everything before the guest's first instruction.
fn start<'a, 'y, P: Platform>(
    monitor: &mut BootMonitor<'a, 'y, P>,
    shared: &Shared<'a, P::Seed, VCPUS>,
    home: &Home<P>,
) -> Result<(), String> {
    let refused = |refusal: l1_monitor::ledger::Refusal| refusal.to_string();
    shared
        .ledger
        .adopt(range(layout::MONITOR, layout::MONITOR_BYTES), State::NotPrivate, State::Monitor)
        .map_err(refused)?;

    // L1 makes the guest's first pages itself, so they are its own until they are handed over.
    let first = range(layout::GUEST, layout::CALL_AREA + layout::PAGE - layout::GUEST);
    monitor.backend().validate(first).map_err(|stop| format!("first pages: {}", stop.cause))?;
    shared.ledger.adopt(first, State::NotPrivate, State::Monitor).map_err(refused)?;
    let rest = layout::CALL_AREA + layout::PAGE;
    let end = layout::GUEST + home.options.handed_over;
    monitor.hand_over(range(rest, end - rest)).map_err(|error| format!("hand over: {error}"))?;

    for vcpu in 1..home.options.vcpus {
        let new = NewVcpu {
            id: VcpuId(u32::from(vcpu)),
            context: &Context::long_mode(layout::ENTRY_SECONDARY, 0, 0),
            state: frame(page(layout::MONITOR_STATE, u64::from(vcpu))),
            call_area: frame(layout::CALL_AREA),
        };
        P::start_secondary(monitor, new).map_err(|error| format!("secondary vCPU {vcpu}: {error}"))?;
    }
    let launch = GuestLaunch {
        state: frame(layout::BOOT_STATE),
        call_area: frame(layout::CALL_AREA),
        context: &Context::long_mode(layout::ENTRY_GUEST, 0, 0),
        pages: &[(BootPage::Secrets, frame(layout::SECRETS)), (BootPage::Features, frame(layout::FEATURES))],
        monitor: range(layout::MONITOR, layout::MONITOR_BYTES),
    };
    monitor.start_guest(&launch).map_err(|error| format!("start of the guest: {error}"))
}
