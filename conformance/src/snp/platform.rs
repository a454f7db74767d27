//! The platform: `backend-snp` over the model port, on the SNP machine.

use backend_snp::SnpError;
use backend_snp::guest::GuestSide;
use backend_snp::instr::Port;
use backend_snp::monitor::{L1, Seed, Shared};
use coco_part_api::{NewVcpu, VcpuId};
use machine::host::Policy;
use machine::{Config, Machine, PageType, Vcpu, VmsaWrite, vmsa};

use super::defect::Defect;
use super::igvm::{Claims, LoadError, load};
use super::model::SnpModel;
use super::port::ModelPort;
use super::sides::{early_guest_side, guest_side, l1_setup};
use super::window::Window;
use crate::mutants;
use crate::platform::{Found, Home, Liar, Mutant, Plain, Platform, Property};
use crate::runner::Cpu;
use crate::suite::Case;
use crate::world::layout::{
    self, BOOT_STATE, GUEST, MONITOR, MONITOR_BYTES, MONITOR_DATA, MONITOR_FEATURES, MONITOR_SECRETS, MONITOR_STATE,
    PAGE, page, pattern,
};
use crate::world::{BootMonitor, Options, VCPUS};

/// Guest steps that a host waits before it attacks memory: after the VM has started.
const PATIENCE: u64 = 150;

/// `backend-snp` on the SNP machine.
#[derive(Clone, Copy, Debug)]
pub enum Snp {}

/// What L1's vCPUs share. With the defect that message numbers are used again, each has storage of its own.
#[derive(Debug)]
pub struct SnpShared {
    common: Shared<VCPUS>,
    alone: [Shared<VCPUS>; VCPUS],
}

impl Platform for Snp {
    type Model = SnpModel;
    type Host = Policy;
    type Error = SnpError;
    type Seed = Seed;
    type Shared = SnpShared;
    type Monitor<'y> = L1<'y, ModelPort<'y>, Window<'y>>;
    type Guest<'y> = GuestSide<ModelPort<'y>, Window<'y>>;

    const NAME: &'static str = "snp";
    const VARIANTS: &'static [&'static str] = &["a write to a running VMSA waits", "a write to a running VMSA is lost"];

    const PROPERTIES: &'static [Property] = &[
        Property::MarkTellsCall,
        Property::GuestStartsVcpus,
        Property::RunsThroughKick,
        Property::MissingIsTold,
        Property::LevelIsSigned,
    ];

    fn launch(options: &Options<Self>) -> SnpModel {
        SnpModel(launch(options))
    }

    fn shared(_: &Options<Self>) -> SnpShared {
        SnpShared { common: Shared::new(), alone: [const { Shared::new() }; VCPUS] }
    }

    fn monitor<'y>(
        cpu: Cpu<'y, SnpModel>,
        shared: &'y SnpShared,
        home: &'y Home<Self>,
    ) -> Result<Self::Monitor<'y>, SnpError> {
        let defect = home.options.defect.and_then(Defect::by_name);
        let vcpu = cpu.start().vcpu;
        let setup = l1_setup(cpu, home, defect)?;
        let shared = match defect {
            Some(Defect::SequenceReused) => &shared.alone[usize::from(vcpu)],
            _ => &shared.common,
        };
        L1::start(ModelPort::new(cpu, defect), setup, shared)
    }

    fn guest<'y>(cpu: Cpu<'y, SnpModel>, _: &'y Home<Self>) -> Result<Self::Guest<'y>, SnpError> {
        guest_side(cpu)
    }

    fn early_guest<'y>(cpu: Cpu<'y, SnpModel>, _: &'y Home<Self>) -> Result<Self::Guest<'y>, SnpError> {
        early_guest_side(cpu)
    }

    fn start_secondary(monitor: &mut BootMonitor<'_, '_, Self>, new: NewVcpu<'_>) -> Result<(), String> {
        monitor.start_secondary(new).map_err(|error| error.to_string())
    }

    /// State frames of L1, and that of the boot vCPU.
    fn changes_by_running(line: &str) -> bool {
        let mut frames = (0..VCPUS as u64).map(|vcpu| page(MONITOR_STATE, vcpu)).chain([BOOT_STATE]);
        frames.any(|at| line.contains(&format!(" {at:#x}: ")))
    }

    fn plain(cpu: Cpu<'_, SnpModel>, instruction: Plain) -> Result<Found, String> {
        super::plain::execute(cpu, instruction)
    }

    /// An idle vCPU is asked again by the runner; a running one leaves at its next exit, and no flush waits for that.
    fn kick(_: Cpu<'_, SnpModel>, _: VcpuId) {}

    fn pause(cpu: Cpu<'_, SnpModel>) {
        ModelPort::new(cpu, None).pause();
    }

    fn idle(cpu: Cpu<'_, SnpModel>) {
        ModelPort::new(cpu, None).halt();
    }

    fn liar(liar: Liar) -> Option<Policy> {
        Some(match liar {
            Liar::NeverSwitches => Policy::NeverSwitchFrom(0),
            Liar::FakesCompletion => Policy::After { exits: 24, inner: Box::new(Policy::NeverSwitchFrom(2)) },
            Liar::SwitchesAgain => Policy::ReturnAgain(3),
            Liar::ReturnsForNothing => Policy::SpuriousReturn { every: 5 },
            Liar::WrongLevel => Policy::WrongLevel(3),
            Liar::PageStateNothing => Policy::PscDoesNothing,
            Liar::PageStateEdits => Policy::PscEditsEntries,
            Liar::SwapsPage { at } => Policy::SwapPage { gpa: at, after_steps: PATIENCE },
            Liar::SwapsPageLate { at, steps } => Policy::SwapPage { gpa: at, after_steps: steps },
            Liar::MovesPage { from, to } => Policy::RemapInto { from, to, after_steps: PATIENCE },
            Liar::ReplaysMessage => Policy::ReplayMessage,
            Liar::CorruptsMessage => Policy::CorruptMessage(0x80),
            Liar::LosesRequest => Policy::DropMessageWithError(0xff << 32),
            Liar::LosesAnswer => Policy::DropResponseWithError(0x16),
            Liar::SaysBusy { times } => Policy::ReportBusy(times),
            Liar::Features => Policy::LieFeatures(0),
            Liar::WithholdsKick => Policy::NoKick,
        })
    }

    fn own_cases() -> Vec<Case<Self>> {
        super::cases::cases()
    }

    fn mutants() -> Vec<Mutant<Self>> {
        mutants::of(Defect::ALL.iter().map(|(name, defect)| (*name, defect.of())), RULES)
    }
}

/// Machine rules whose absence the suite must notice.
pub(super) const RULES: &[&str] = &[
    "RMP-005",
    "RMP-006",
    "RMP-008",
    "RMP-010",
    "RMP-011",
    "RMP-014",
    "RMP-015",
    "RMP-017",
    "RMP-018",
    "RMP-020",
    "RMP-023",
    "RMP-032",
    "RMP-033",
    "RMP-034",
    "RMP-035",
    "RMP-036",
    "RMP-052",
    "RMP-055",
    "PVALIDATE-VMPL0",
];

/// The VM as it is before its first instruction: L1's MiB in small pages, the guest's RAM with the host.
pub(super) fn launch<P: Platform<Host = Policy>>(options: &Options<P>) -> Machine {
    launch_with(options, vmsa::features::SNP_ACTIVE, &super::features::page())
}

/// The same with other features of L1's boot vCPU and another CPUID page.
pub(super) fn launch_with<P: Platform<Host = Policy>>(
    options: &Options<P>,
    features: u64,
    cpuid: &[u8; PAGE as usize],
) -> Machine {
    let mut machine = empty(options, cpuid);
    let mut add = |at: u64, kind: PageType, contents: &[u8; PAGE as usize]| {
        machine.launch_page(at, kind, contents).expect("the layout names each launch page once");
    };
    for index in 0..MONITOR_BYTES / PAGE {
        let at = page(MONITOR, index);
        match at {
            MONITOR_STATE => add(at, PageType::Vmsa, &first_vmsa(features)),
            MONITOR_SECRETS => add(at, PageType::Secrets, &[0; PAGE as usize]),
            MONITOR_FEATURES => add(at, PageType::Cpuid, cpuid),
            // One page of an image is measured as any; the rest only costs time in every world.
            MONITOR => add(at, PageType::Normal, &pattern(at)),
            _ => add(at, PageType::Unmeasured, &pattern(at)),
        }
    }
    machine.launch_finish().expect("the launch is finished once");
    machine.host_set_launch_vmsa(Vcpu(0), MONITOR_STATE);
    declare(&mut machine, options);
    machine
}

/// The VM launched from an IGVM file of L1, by a host that claims this about it.
pub(super) fn launch_from<P: Platform<Host = Policy>>(
    options: &Options<P>,
    file: &[u8],
    claims: &Claims,
) -> Result<Machine, LoadError> {
    let mut machine = empty(options, &super::features::page());
    if let Some(vmsa) = load(&mut machine, file, claims)? {
        machine.host_set_launch_vmsa(Vcpu(0), vmsa);
    }
    declare(&mut machine, options);
    Ok(machine)
}

/// The machine before its launch.
fn empty<P: Platform<Host = Policy>>(options: &Options<P>, cpuid: &[u8; PAGE as usize]) -> Machine {
    Machine::new(Config {
        ram: vec![(MONITOR, MONITOR_BYTES), (GUEST, options.guest_bytes)],
        vcpus: options.vcpus,
        seed: options.seed,
        vmpl_sss: super::features::has_shadow_stack_right(cpuid),
        vmsa_write: if options.variant == 0 { VmsaWrite::Waits } else { VmsaWrite::Plain },
        broken_rules: options.broken_rules.clone(),
        trace: options.trace,
        policy: options.host.clone(),
        honest_host: options.host == Policy::Honest,
        ..Config::default()
    })
}

/// Tells the oracles what is whose.
fn declare<P: Platform<Host = Policy>>(machine: &mut Machine, options: &Options<P>) {
    machine.declare_monitor_pages(MONITOR, MONITOR_BYTES);
    for vcpu in 0..u64::from(options.vcpus) {
        machine.declare_vmsa(page(MONITOR_STATE, vcpu), 0);
    }
    machine.declare_guest_level(options.levels.first().map_or(1, |level| level.number()));
    machine.tag_secret(MONITOR_DATA, MONITOR + MONITOR_BYTES - MONITOR_DATA);
    machine.tag_secret(MONITOR_SECRETS, PAGE);
    let keys: Vec<[u8; 32]> = (0..options.levels.first().map_or(1, |level| level.number()))
        .filter_map(|number| machine.psp().vmpck(number).copied())
        .collect();
    for key in keys {
        machine.tag_secret_bytes(&key);
    }
}

/// The launch VMSA of L1's boot vCPU.
pub(super) fn first_vmsa(features: u64) -> [u8; PAGE as usize] {
    let mut bytes = [0; PAGE as usize];
    vmsa::write_u64(&mut bytes, vmsa::EFER, vmsa::EFER_SVME);
    vmsa::write_u64(&mut bytes, vmsa::RIP, layout::ENTRY_MONITOR);
    vmsa::write_u64(&mut bytes, vmsa::RFLAGS, 2);
    vmsa::write_u64(&mut bytes, vmsa::SEV_FEATURES, features);
    bytes
}
