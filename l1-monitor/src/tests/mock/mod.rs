//! A backend that keeps books, refuses what a machine would refuse, and fails once where a test asks for it.

mod around;
mod backend;
mod tpm;

use std::collections::{BTreeSet, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Mutex;
use std::vec::Vec;

use coco_part_api::{
    After, BootPage, CallRegs, Completion, ErrorKind, Event, Exit, FrameRange, Origin, Rights, Stopped,
};
use x86_64::PhysAddr;
use x86_64::structures::paging::{PhysFrame, Size4KiB};

pub(crate) use around::MockProcessor;
pub(crate) use backend::{MockBackend, MockSeed};
pub(crate) use tpm::MockTpm;

use super::VCPUS;

pub(crate) const SECRETS_AT: u64 = 0x1_2000;
pub(crate) const FEATURES_AT: u64 = 0x1_3000;
pub(crate) static BOOT_PAGES: [(BootPage, PhysFrame<Size4KiB>); 2] = [
    (BootPage::Secrets, PhysFrame::containing_address(PhysAddr::new(SECRETS_AT))),
    (BootPage::Features, PhysFrame::containing_address(PhysAddr::new(FEATURES_AT))),
];

/// What the monitor asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    ValidateFor(FrameRange, Origin),
    Publish(FrameRange),
    Withdraw(FrameRange),
    Redeem { is_empty: bool },
    Regrant(FrameRange),
    Rescind(FrameRange, After),
    Admit(u64),
    Install(u64),
    Retire(u64),
    Run,
    SetCallArea(u64),
    Answer,
    Attest,
    AttestFor,
    Fill(BootPage),
    CreateVcpu(u64),
    Complete(Completion),
    Inject(Event),
    Cpuid(u32, u32, u32),
    ReadMsr(u32, u32),
    WriteMsr(u32, u32, u64),
    ReadPort(u32, u16, u8),
    WritePort(u32, u16, u8, u32),
    Kick(u32),
    Idle,
    Pause,
}

/// Where a test wants a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum At {
    ValidateFor,
    Publish,
    Withdraw,
    /// The frame behind those that are done loses its rights, too.
    HalfWithdraw,
    Regrant,
    Rescind,
    Admit,
    Install,
    Retire,
    SetCallArea,
    Answer,
    Attest,
    AttestFor,
    Fill,
    CreateVcpu,
    Complete,
    Inject,
    Vouch,
}

#[derive(Clone, Copy, Debug)]
struct Failure {
    at: At,
    skip: usize,
    done: u64,
    kind: ErrorKind,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Page {
    is_valid: bool,
    rights: Rights,
    is_state: bool,
}

#[derive(Debug, PartialEq)]
pub(crate) struct WorldSnapshot {
    pages: u64,
    bytes: u64,
    call_areas: [Option<u64>; VCPUS],
}

/// Stands for something too long to print.
pub(crate) fn digest(of: &(impl Hash + ?Sized)) -> u64 {
    let mut hasher = DefaultHasher::new();
    of.hash(&mut hasher);
    hasher.finish()
}

type Hook = std::boxed::Box<dyn FnMut(&mut Vec<u8>, u64) + Send>;

#[derive(Default)]
struct Books {
    pages: Vec<Page>,
    bytes: Vec<u8>,
    log: Vec<Op>,
    reads: Vec<(u64, usize)>,
    writes: Vec<(u64, usize)>,
    faults: BTreeSet<u64>,
    write_faults: BTreeSet<u64>,
    failures: Vec<Failure>,
    not_yet: usize,
    exits: [VecDeque<Result<Exit, ErrorKind>>; VCPUS],
    answers: [Option<CallRegs>; VCPUS],
    installed: [Option<u64>; VCPUS],
    call_areas: [Option<u64>; VCPUS],
    after_read: Option<Hook>,
    before_write: Option<Hook>,
    only_shared: bool,
    bound_by_monitor: bool,
}

/// The machine under all vCPUs.
#[derive(Default)]
pub(crate) struct World(Mutex<Books>);

impl World {
    pub(crate) fn new(frames: u64) -> Self {
        let frames = frames as usize;
        Self(Mutex::new(Books {
            pages: std::vec![Page::default(); frames],
            bytes: std::vec![0xa5; frames << 12],
            ..Books::default()
        }))
    }

    fn with<R>(&self, work: impl FnOnce(&mut Books) -> R) -> R {
        work(&mut self.0.lock().unwrap())
    }

    pub(crate) fn own_by_monitor(&self, range: FrameRange) {
        self.with(|books| books.each(range, |page| page.is_valid = true));
    }

    /// The next operation of this kind (after `skip` of them) does `done` frames and fails.
    pub(crate) fn fail(&self, at: At, skip: usize, done: u64, kind: ErrorKind) {
        self.with(|books| books.failures.push(Failure { at, skip, done, kind }));
    }

    /// True when every failure that a test asked for has happened.
    pub(crate) fn has_failed(&self) -> bool {
        self.with(|books| books.failures.is_empty())
    }

    pub(crate) fn not_yet(&self, times: usize) {
        self.with(|books| books.not_yet = times);
    }

    /// The machine cannot leave pages unassigned.
    pub(crate) fn only_shared(&self) {
        self.with(|books| books.only_shared = true);
    }

    /// The hardware signs no level.
    pub(crate) fn bound_by_monitor(&self) {
        self.with(|books| books.bound_by_monitor = true);
    }

    pub(crate) fn no_fault_at(&self, at: u64) {
        self.with(|books| books.faults.remove(&at) | books.write_faults.remove(&at));
    }

    pub(crate) fn fault_at(&self, at: u64) {
        self.with(|books| books.faults.insert(at & !0xfff));
    }

    pub(crate) fn write_fault_at(&self, at: u64) {
        self.with(|books| books.write_faults.insert(at & !0xfff));
    }

    /// Does something to guest memory after each read: another vCPU of the guest.
    pub(crate) fn after_read(&self, hook: impl FnMut(&mut Vec<u8>, u64) + Send + 'static) {
        self.with(|books| books.after_read = Some(std::boxed::Box::new(hook)));
    }

    /// Does something before each write of the monitor into guest memory.
    pub(crate) fn before_write(&self, hook: impl FnMut(&mut Vec<u8>, u64) + Send + 'static) {
        self.with(|books| books.before_write = Some(std::boxed::Box::new(hook)));
    }

    pub(crate) fn exit(&self, vcpu: u32, exit: Result<Exit, ErrorKind>) {
        self.with(|books| books.exits[vcpu as usize].push_back(exit));
    }

    pub(crate) fn drain(&self, vcpu: u32) {
        self.with(|books| books.exits[vcpu as usize].clear());
    }

    pub(crate) fn answer(&self, vcpu: u32) -> Option<CallRegs> {
        self.with(|books| books.answers[vcpu as usize].take())
    }

    pub(crate) fn poke(&self, at: u64, bytes: &[u8]) {
        self.with(|books| books.bytes[at as usize..][..bytes.len()].copy_from_slice(bytes));
    }

    pub(crate) fn peek(&self, at: u64, len: usize) -> Vec<u8> {
        self.with(|books| books.bytes[at as usize..][..len].to_vec())
    }

    pub(crate) fn log(&self) -> Vec<Op> {
        self.with(|books| books.log.clone())
    }

    pub(crate) fn clear_log(&self) {
        self.with(|books| {
            books.log.clear();
            books.reads.clear();
            books.writes.clear();
        });
    }

    pub(crate) fn reads(&self) -> Vec<(u64, usize)> {
        self.with(|books| books.reads.clone())
    }

    pub(crate) fn writes(&self) -> Vec<(u64, usize)> {
        self.with(|books| books.writes.clone())
    }

    /// What was asked of the machine, without running, answering and waiting.
    pub(crate) fn instructions(&self) -> Vec<Op> {
        let waiting = |op: &Op| matches!(op, Op::Run | Op::Answer | Op::Idle | Op::Pause | Op::Kick(_));
        self.log().into_iter().filter(|op| !waiting(op)).collect()
    }

    /// What the guest level may do there.
    pub(crate) fn rights(&self, at: u64) -> Rights {
        self.with(|books| books.pages[(at >> 12) as usize].rights)
    }

    pub(crate) fn is_valid(&self, at: u64) -> bool {
        self.with(|books| books.pages[(at >> 12) as usize].is_valid)
    }

    pub(crate) fn is_state(&self, at: u64) -> bool {
        self.with(|books| books.pages[(at >> 12) as usize].is_state)
    }

    pub(crate) fn installed(&self, vcpu: u32) -> Option<u64> {
        self.with(|books| books.installed[vcpu as usize])
    }

    pub(crate) fn snapshot(&self) -> WorldSnapshot {
        self.with(|books| WorldSnapshot {
            pages: digest(&books.pages),
            bytes: digest(books.bytes.as_slice()),
            call_areas: books.call_areas,
        })
    }
}

impl Books {
    fn each(&mut self, range: FrameRange, mut work: impl FnMut(&mut Page)) {
        let pages = self.pages.iter_mut().skip(range.first_number() as usize);
        pages.take(range.frames() as usize).for_each(&mut work);
    }

    fn any(&self, range: FrameRange, is: impl Fn(&Page) -> bool) -> bool {
        self.pages.iter().skip(range.first_number() as usize).take(range.frames() as usize).any(is)
    }

    fn failure(&mut self, at: At) -> Option<Failure> {
        let index = self.failures.iter().position(|failure| failure.at == at)?;
        if self.failures[index].skip > 0 {
            self.failures[index].skip -= 1;
            return None;
        }
        Some(self.failures.remove(index))
    }

    /// A range operation: refused as a whole when a page fits `unless`, else done as far as the next failure lets it.
    fn ranged(
        &mut self,
        at: At,
        range: FrameRange,
        unless: impl Fn(&Page) -> Option<ErrorKind>,
        work: impl FnMut(&mut Page),
    ) -> Result<(), Stopped<MockError>> {
        for number in 0..range.frames() {
            let page = self.pages[(range.first_number() + number) as usize];
            if let Some(kind) = unless(&page) {
                return Err(Stopped::at_start(MockError(kind)));
            }
        }
        let failure = self.failure(at);
        if let Some(done) = range.take(failure.map_or(u64::MAX, |failure| failure.done)) {
            self.each(done, work);
        }
        match failure {
            Some(failure) => Err(Stopped { done: failure.done, cause: MockError(failure.kind) }),
            None => Ok(()),
        }
    }

    fn zero(&mut self, range: FrameRange) {
        let start = range.start().as_u64() as usize;
        self.bytes[start..][..range.bytes() as usize].fill(0);
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MockError(pub(crate) ErrorKind);

impl core::fmt::Display for MockError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

impl core::error::Error for MockError {}

impl coco_part_api::Error for MockError {
    fn kind(&self) -> ErrorKind {
        self.0
    }
}
