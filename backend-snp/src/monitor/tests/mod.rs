//! Tests of the monitor side on a mock machine whose host and timing they control.

mod admit;
mod attest;
mod boot;
mod grant;
mod mock;
mod own_vcpu;
mod start;
mod state;
mod successor;
mod switch;
mod trap;
mod validate;

use coco_part_api::{Context, FrameRange, GuestLevel, MemoryMap, Source, Terms, VcpuId};
use x86_64::PhysAddr;

use super::{Cut, L1, Seed, Setup, Shared, SwitchBy};
use mock::{Machine, MockMemory, MockPort, RAM, frame};

type TestL1<'a> = L1<'a, MockPort, MockMemory>;

const GHCB: u64 = 0x1000;
const SCRATCH: u64 = 0x7000;
const SECRETS: u64 = 0x8000;
const CPUID: u64 = 0x9000;
/// A page that becomes a VMSA.
const VMSA: u64 = 0x1_1000;
const CALL_AREA: u64 = 0x2_0000;

const LEVELS: &[GuestLevel] = &[GuestLevel::ONE, GuestLevel::TWO];

#[test]
fn l1_is_a_monitor_and_only_its_seeds_cross_vcpus() {
    fn monitor<T: coco_part_api::Monitor + coco_part_api::CreateVcpu + coco_part_api::GuestState>() {}
    fn crosses<T: Send>() {}
    fn shared<T: Sync>() {}
    monitor::<TestL1<'_>>();
    crosses::<Seed>();
    shared::<Shared<2>>();
}

fn range(at: u64, frames: u64) -> FrameRange {
    FrameRange::new(PhysAddr::new(at), frames << 12).unwrap()
}

/// The set-up of a vCPU; each has its own shared pages.
fn setup<'a>(machine: &Machine, ram: &'a [FrameRange], vcpu: u32) -> Setup<'a, MockMemory> {
    let own = |page: u64| frame(GHCB + 0x2_0000 * u64::from(vcpu) + page * 0x1000);
    Setup {
        vcpu: VcpuId(vcpu),
        map: MemoryMap::new(ram).unwrap(),
        private: machine.memory(true),
        shared: machine.memory(false),
        ghcb: own(0),
        request: own(1),
        response: own(2),
        scratch: frame(SCRATCH),
        levels: LEVELS,
        reflect: &[],
        secrets: frame(SECRETS),
        cpuid: frame(CPUID),
        switch_by: SwitchBy::Page,
    }
}

/// Storage that a test lends to its L1 vCPUs.
struct Bench {
    machine: Machine,
    ram: [FrameRange; 1],
    shared: Shared<2>,
}

impl Bench {
    fn new() -> Self {
        let machine = Machine::new();
        machine.poke(CPUID, &1_u32.to_le_bytes());
        // Leaf 0x8000_0008 with INVLPGB in EBX.
        machine.poke(CPUID + 0x10, &0x8000_0008_u32.to_le_bytes());
        machine.poke(CPUID + 0x10 + 0x1c, &(1_u32 << 3).to_le_bytes());
        Self { machine, ram: [range(0, RAM >> 12)], shared: Shared::new() }
    }

    fn setup(&self, vcpu: u32) -> Setup<'_, MockMemory> {
        setup(&self.machine, &self.ram, vcpu)
    }

    fn start(&self, vcpu: u32) -> TestL1<'_> {
        let l1 = L1::start(self.machine.port(), self.setup(vcpu), &self.shared).unwrap();
        self.machine.take_log();
        l1
    }

    /// L1 on vCPU 0 with a vCPU of level 1 installed.
    fn with_guest(&self) -> TestL1<'_> {
        let mut l1 = self.start(0);
        let seed = admit(&mut l1, VMSA).unwrap();
        l1.install(seed).unwrap();
        self.machine.take_log();
        l1
    }
}

fn terms(target: u32) -> Terms {
    Terms { level: GuestLevel::ONE, target: VcpuId(target), call_area: frame(CALL_AREA) }
}

/// Admits a VMSA of L1 for level 1 on the same vCPU.
fn admit(l1: &mut TestL1<'_>, at: u64) -> Result<Seed, crate::SnpError> {
    let terms = terms(l1.vcpu.0);
    let proof = l1.redeem(Cut::default()).unwrap();
    l1.admit(frame(at), Source::Context(&Context::long_mode(0x1234, 0x8000, 0x5000)), &terms, &proof)
}
