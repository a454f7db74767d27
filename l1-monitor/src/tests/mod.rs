//! The monitor over a mock backend that checks what it is asked for and fails where a test says so.

mod attest;
mod basic;
mod launch;
mod lists;
mod lists_bad;
mod looping;
mod memory;
mod memory_bad;
mod mock;
mod races;
mod remap;
mod services;
mod traps;
mod vcpus;
mod vtpm;

use std::boxed::Box;
use std::sync::Arc;
use std::vec::Vec;

use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::SeqCst;

use coco_part_api::svsm::list::{Action, Entry};
use coco_part_api::svsm::{self, CallId, CallResult};
use coco_part_api::{Block, CallRegs, Context, Exit, FrameRange, GuestLevel, MemoryMap, PageSize, PendingCall, VcpuId};
use x86_64::PhysAddr;
use x86_64::structures::paging::{PhysFrame, Size4KiB};

use crate::{GuestLaunch, Ledger, Limits, Monitor, Shared, State, Step, Storage, Vtpm, VtpmDevice};
use mock::{MockBackend, MockProcessor, MockSeed, MockTpm, Op, World};

pub(crate) const LEVEL: GuestLevel = GuestLevel::TWO;
pub(crate) const OWN: State = State::Guest(LEVEL);
pub(crate) const VCPUS: usize = 4;
/// The ledger covers 8 MiB.
pub(crate) const FRAMES: u64 = 2048;
/// The guest has this already, all in 4 KiB pages: 256 frames from here.
pub(crate) const RAM: u64 = 0x10_0000;
pub(crate) const RAM_FRAMES: u64 = 256;
/// Not private yet: two 2 MiB blocks.
pub(crate) const FRESH: u64 = 0x40_0000;
/// Outside the guest's map, but in the ledger.
pub(crate) const HOLE: u64 = 0x30_0000;
/// First frame of the monitor; 32 of them.
pub(crate) const L1: u64 = 0x1_0000;
/// State frame and call area of the boot vCPU.
pub(crate) const BOOT_STATE: u64 = 0x1_1000;
pub(crate) const BOOT_AREA: u64 = RAM;
/// Where lists go: a page of the guest.
pub(crate) const LIST: u64 = RAM + 0x1000;

pub(crate) fn frame(at: u64) -> PhysFrame<Size4KiB> {
    PhysFrame::from_start_address(PhysAddr::new(at)).unwrap()
}

pub(crate) fn range(at: u64, frames: u64) -> FrameRange {
    FrameRange::new(PhysAddr::new(at), frames << 12).unwrap()
}

/// Things that live as long as a test.
pub(crate) struct Fixture {
    pub(crate) words: Arc<[AtomicU64]>,
    map: [FrameRange; 2],
    pub(crate) storage: Box<Storage<MockSeed, VCPUS>>,
    pub(crate) world: Arc<World>,
    pub(crate) limits: Limits,
    pub(crate) vtpm: Option<Vtpm<MockTpm>>,
}

pub(crate) type TestMonitor<'a> = Monitor<'a, MockBackend, MockProcessor, VCPUS>;

impl Fixture {
    /// A guest level with RAM but no vCPU.
    pub(crate) fn bare() -> Self {
        let fixture = Self {
            words: (0..Ledger::words_for(FRAMES)).map(|_| AtomicU64::new(0)).collect(),
            map: [range(RAM, 512), range(FRESH, 1024)],
            storage: Box::new(Storage::new()),
            world: Arc::new(World::new(FRAMES)),
            limits: Limits::default(),
            vtpm: None,
        };
        fixture.ledger().adopt(range(L1, 32), State::NotPrivate, State::Monitor).unwrap();
        fixture.world.own_by_monitor(range(L1, 32));
        fixture.monitor(0).hand_over(range(RAM, RAM_FRAMES)).unwrap();
        fixture
    }

    /// The same with the guest's first vCPU on vCPU 0.
    pub(crate) fn new() -> Self {
        let fixture = Self::bare();
        fixture.monitor(0).start_guest(&launch(&CONTEXT)).unwrap();
        fixture.world.clear_log();
        fixture
    }

    pub(crate) fn ledger(&self) -> Ledger<'_> {
        Ledger::new(&self.words, range(0, FRAMES)).unwrap()
    }

    pub(crate) fn monitor(&self, vcpu: u32) -> TestMonitor<'_> {
        let shared = Shared {
            ledger: self.ledger(),
            storage: &*self.storage,
            memory: MemoryMap::new(&self.map).unwrap(),
            level: LEVEL,
            limits: self.limits,
            vtpm: self.vtpm.as_ref().map(|vtpm| vtpm as &Vtpm<dyn VtpmDevice>),
        };
        let backend = MockBackend::new(self.world.clone(), VcpuId(vcpu));
        Monitor::new(backend, MockProcessor::new(self.world.clone(), VcpuId(vcpu)), shared)
    }

    /// Has the guest on vCPU 0 call, and gives the registers it gets back.
    pub(crate) fn call_regs(&self, regs: CallRegs) -> CallRegs {
        call_on(&mut self.monitor(0), &self.world, 0, regs)
    }

    /// A core call with the result it got; no other register may change.
    pub(crate) fn call(&self, call: u32, rcx: u64, rdx: u64, r8: u64) -> CallResult {
        let regs = CallRegs { r9: 0x99, ..CallRegs::call(CallId::new(svsm::CORE, call), rcx, rdx, r8) };
        let answer = self.call_regs(regs);
        assert_eq!(CallRegs { rax: 0, ..answer }, CallRegs { rax: 0, ..regs });
        answer.result()
    }

    /// Writes a list and calls PVALIDATE; gives the result and the cursor.
    pub(crate) fn list(&self, entries: &[u64]) -> (CallResult, u16) {
        self.list_at(LIST, entries)
    }

    pub(crate) fn list_at(&self, at: u64, entries: &[u64]) -> (CallResult, u16) {
        self.write_list(at, entries.len() as u16, 0, entries);
        let result = self.call(svsm::PVALIDATE, at, 0, 0);
        (result, self.cursor(at))
    }

    pub(crate) fn write_list(&self, at: u64, count: u16, next: u16, entries: &[u64]) {
        let mut bytes = Vec::new();
        bytes.extend_from_slice(&count.to_le_bytes());
        bytes.extend_from_slice(&next.to_le_bytes());
        bytes.extend_from_slice(&[0; 4]);
        entries.iter().for_each(|entry| bytes.extend_from_slice(&entry.to_le_bytes()));
        self.world.poke(at, &bytes);
    }

    pub(crate) fn cursor(&self, at: u64) -> u16 {
        u16::from_le_bytes(self.world.peek(at + 2, 2).try_into().unwrap())
    }

    pub(crate) fn state(&self, at: u64) -> State {
        self.ledger().state(frame(at)).unwrap()
    }

    pub(crate) fn all_are(&self, at: u64, frames: u64, state: State) -> bool {
        self.ledger().survey(range(at, frames)).only(&[state])
    }

    /// Everything that a refused call must leave alone.
    pub(crate) fn snapshot(&self) -> Snapshot {
        Snapshot {
            ledger: mock::digest(&self.words.iter().map(|word| word.load(SeqCst)).collect::<Vec<u64>>()),
            world: self.world.snapshot(),
            records: self.storage.with(|registry| registry.all().copied().collect()),
            posted: (0..VCPUS as u32).map(|id| self.storage.is_posted(VcpuId(id))).collect(),
        }
    }

    /// Runs a call that must be refused, and checks that nothing at all has changed and no instruction was executed.
    pub(crate) fn refuses(&self, call: u32, rcx: u64, rdx: u64, r8: u64) -> CallResult {
        let before = self.snapshot();
        self.world.clear_log();
        let result = self.call(call, rcx, rdx, r8);
        assert!(!result.is_success());
        assert_eq!(self.snapshot(), before);
        assert_eq!(self.world.instructions(), []);
        result
    }
}

#[derive(Debug, PartialEq)]
pub(crate) struct Snapshot {
    ledger: u64,
    world: mock::WorldSnapshot,
    records: Vec<crate::storage::Record>,
    posted: Vec<bool>,
}

/// Has the guest of a vCPU call; the monitor's step must serve it.
pub(crate) fn call_on(monitor: &mut TestMonitor<'_>, world: &World, vcpu: u32, regs: CallRegs) -> CallRegs {
    world.exit(vcpu, Ok(Exit::Call(PendingCall::new(LEVEL, regs))));
    let step = monitor.step();
    let answer = world.answer(vcpu).expect("no answer was given");
    assert_eq!(step, Step::Served(answer.result()));
    answer
}

pub(crate) fn entry(at: u64, size: PageSize, action: Action, ignore_cf: bool) -> u64 {
    Entry { block: Block::new(PhysAddr::new(at), size).unwrap(), action, ignore_cf }.encode()
}

pub(crate) fn validate(at: u64) -> u64 {
    entry(at, PageSize::Small, Action::Validate, false)
}

pub(crate) fn rescind(at: u64) -> u64 {
    entry(at, PageSize::Small, Action::Rescind, false)
}

pub(crate) static CONTEXT: Context = Context::long_mode(0x1000, 0x2000, 0x3000);

pub(crate) fn launch(context: &Context) -> GuestLaunch<'_> {
    GuestLaunch {
        state: frame(BOOT_STATE),
        call_area: frame(BOOT_AREA),
        context,
        pages: &mock::BOOT_PAGES,
        monitor: range(L1, 32),
    }
}

/// How often something was done.
pub(crate) fn count(ops: &[Op], wanted: impl Fn(&Op) -> bool) -> usize {
    ops.iter().filter(|op| wanted(op)).count()
}
