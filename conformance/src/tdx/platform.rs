//! The platform: `backend-tdx-stub` over the model port, on the TDX machine.

use backend_tdx_stub::{Error, L1, L2Port, Seed, Shared, Slot};
use coco_part_api::{NewVcpu, VcpuId};
use machine::Vcpu;
use machine::tdx::host::Policy;
use machine::tdx::{Config, Machine, Op, Unswitched as Values};

use super::defect::Defect;
use super::model::{MemoryFault, TdxModel, Window};
use super::port::{GuestPort, ModelPort, read_unswitched};
use super::sides::{first_page, guest_side, halt, interrupt, l1_side, unswitched_of_l1};
use crate::mutants;
use crate::platform::{Found, Home, Liar, Mutant, Plain, Platform, Property, Unswitched};
use crate::runner::Cpu;
use crate::suite::Case;
use crate::world::layout::{GUEST, MONITOR, MONITOR_BYTES, MONITOR_DATA, PAGE, page, pattern};
use crate::world::{BootMonitor, Options, VCPUS};

/// Guest steps that a host waits before it attacks memory: after the VM has started.
const PATIENCE: u64 = 150;

/// `backend-tdx-stub` on the TDX machine.
#[derive(Clone, Copy, Debug)]
pub enum Tdx {}

/// What L1's vCPUs share. With the defect that nobody sees who is inside, each has storage of its own.
#[derive(Debug)]
pub struct TdxShared {
    common: Shared<[Slot; VCPUS]>,
    alone: [Shared<[Slot; VCPUS]>; VCPUS],
}

impl Platform for Tdx {
    type Model = TdxModel;
    type Host = Policy;
    type Error = Error<MemoryFault>;
    type Seed = Seed;
    type Shared = TdxShared;
    type Monitor<'y> = L1<'y, ModelPort<'y>, Window<'y>>;
    type Guest<'y> = L2Port<GuestPort<'y>, Window<'y>>;

    const NAME: &'static str = "tdx";
    const VARIANTS: &'static [&'static str] =
        &["a missing table page of an L2 is a TD exit, HLT is over at once", "it is a status, HLT waits"];

    const UNSWITCHED: Option<Unswitched<TdxModel>> = Some(Unswitched { read: words, write: fill });

    const PROPERTIES: &'static [Property] = &[];

    fn launch(options: &Options<Self>) -> TdxModel {
        TdxModel(launch(options))
    }

    fn shared(_: &Options<Self>) -> TdxShared {
        TdxShared { common: Shared::new(), alone: [const { Shared::new() }; VCPUS] }
    }

    fn monitor<'y>(
        cpu: Cpu<'y, TdxModel>,
        shared: &'y TdxShared,
        home: &'y Home<Self>,
    ) -> Result<Self::Monitor<'y>, Self::Error> {
        let shared = match home.options.defect.and_then(Defect::by_name) {
            Some(Defect::TicketAtOnce) => &shared.alone[usize::from(cpu.start().vcpu)],
            _ => &shared.common,
        };
        l1_side(cpu, shared, home)
    }

    fn guest<'y>(cpu: Cpu<'y, TdxModel>, _: &'y Home<Self>) -> Result<Self::Guest<'y>, Self::Error> {
        Ok(guest_side(cpu))
    }

    /// The host has started them.
    fn start_secondary(_: &mut BootMonitor<'_, '_, Self>, _: NewVcpu<'_>) -> Result<(), String> {
        Ok(())
    }

    /// Register pages; and the VMCSs of vCPUs other than the boot vCPU, on which L1 may install a vCPU at any moment.
    fn changes_by_running(line: &str) -> bool {
        let is_other_vmcs = line.starts_with("cpu") && !line.starts_with("cpu0 ");
        is_other_vmcs || (0..VCPUS as u64).any(|vcpu| line.contains(&format!(" {:#x}: ", first_page(vcpu))))
    }

    fn plain(cpu: Cpu<'_, TdxModel>, instruction: Plain) -> Result<Found, String> {
        super::plain::execute(cpu, instruction)
    }

    fn kick(cpu: Cpu<'_, TdxModel>, who: VcpuId) {
        interrupt(cpu, who);
    }

    fn pause(cpu: Cpu<'_, TdxModel>) {
        // A level that L1 runs with PAUSE exiting would leave: none does.
        let _ = cpu.execute(Op::Pause);
    }

    fn idle(cpu: Cpu<'_, TdxModel>) {
        if cpu.start().level == 0 {
            halt(cpu);
        } else {
            let _ = cpu.execute(Op::Hlt);
        }
    }

    fn liar(liar: Liar) -> Option<Policy> {
        Some(match liar {
            // The module carries the switch out, and a call is an exit of its own (TDX-13, TDX-49).
            Liar::NeverSwitches | Liar::FakesCompletion | Liar::SwitchesAgain | Liar::WrongLevel => return None,
            Liar::ReturnsForNothing => Policy::ResumeL1 { every: 5 },
            Liar::PageStateNothing => Policy::MapsNothing,
            // MapGPA takes a range in registers: there is no list to rewrite.
            Liar::PageStateEdits => return None,
            Liar::SwapsPage { at } => Policy::ReaddPage { gpa: at, after_steps: PATIENCE },
            Liar::SwapsPageLate { at, steps } => Policy::ReaddPage { gpa: at, after_steps: steps },
            Liar::MovesPage { from, to } => Policy::AliasPage { from, to, after_steps: PATIENCE },
            // A local report never passes through the host.
            Liar::ReplaysMessage
            | Liar::CorruptsMessage
            | Liar::LosesRequest
            | Liar::LosesAnswer
            | Liar::SaysBusy { .. } => return None,
            // What the module can do, the module says.
            Liar::Features => return None,
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
const RULES: &[&str] =
    &["TDX-21", "TDX-22", "TDX-23", "TDX-25", "ACCEPT-ZERO", "ACCEPT-AGAIN", "ATTR-LEGAL", "BLOCKED", "PAMT"];

/// Every register that any level can write, a word each.
fn words(cpu: Cpu<'_, TdxModel>) -> Vec<u64> {
    let Values { vector, cr2, dr, .. } = read_unswitched(cpu);
    let quads = vector.chunks_exact(8).map(|quad| quad.first_chunk().map_or(0, |quad| u64::from_le_bytes(*quad)));
    quads.chain([cr2]).chain(dr).collect()
}

/// Puts a word into each of them.
fn fill(cpu: Cpu<'_, TdxModel>, word: u64) {
    let mut state = read_unswitched(cpu);
    state.vector.chunks_exact_mut(8).for_each(|quad| quad.copy_from_slice(&word.to_le_bytes()));
    (state.cr2, state.dr) = (word, [word; 4]);
    let _ = cpu.execute(Op::WriteUnswitched(Box::new(state)));
}

/// The VM as it is before its first instruction: L1's MiB in small pages, the guest's RAM not mapped.
fn launch(options: &Options<Tdx>) -> Machine {
    launch_with(options, |_| ())
}

/// The same with a changed configuration.
pub(super) fn launch_with(options: &Options<Tdx>, change: impl FnOnce(&mut Config)) -> Machine {
    let second_variant = options.variant != 0;
    let mut config = Config {
        ram: vec![(MONITOR, MONITOR_BYTES), (GUEST, options.guest_bytes)],
        vcpus: options.vcpus,
        seed: options.seed,
        table_exits: !second_variant,
        // A host that wakes nobody puts nobody to sleep either: else it would only show that it can stop everything.
        hlt_waits: second_variant && options.host != Policy::NoKick,
        broken_rules: options.broken_rules.clone(),
        trace: options.trace,
        policy: options.host.clone(),
        honest_host: options.host == Policy::Honest,
        ..Config::default()
    };
    change(&mut config);
    let mut machine = Machine::new(config);
    for index in 0..MONITOR_BYTES / PAGE {
        let at = page(MONITOR, index);
        machine.launch_page(at, &pattern(at)).expect("each page is named once");
    }
    machine.launch_finish().expect("the launch is finished once");
    machine.declare_monitor_pages(MONITOR, MONITOR_BYTES);
    machine.tag_secret(MONITOR_DATA, MONITOR + MONITOR_BYTES - MONITOR_DATA);
    for vcpu in 0..options.vcpus {
        machine.tag_unswitched(Vcpu(vcpu), &unswitched_of_l1());
    }
    machine
}
