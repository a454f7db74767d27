//! The program itself: boot code against the own-level traits, memory and a plan.

use coco_part_api::Context;
use coco_part_api::range::{LARGE, SMALL};
use coco_part_api::{
    Capabilities, Error, ErrorKind, Evidence, FrameRange, Guest, GuestMemory, Level, NewVcpu, OwnLevel, REPORT_DATA,
    VcpuId, memory,
};
use x86_64::PhysAddr;
use x86_64::structures::paging::{PhysFrame, Size4KiB};

use super::{Failed, Log};

/// What the boot program is to do.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Memory to accept: a part of a large page, at least one whole large page, and a part of another one.
    pub accept: FrameRange,
    /// Pages that no memory map holds.
    pub outside: FrameRange,
    /// What the evidence is to be over.
    pub nonce: [u8; REPORT_DATA],
}

/// A further vCPU and what it is to do.
#[derive(Clone, Debug)]
pub struct Second {
    /// Which.
    pub id: VcpuId,
    /// What it starts with: the entry of [`second`].
    pub context: Context,
    /// Its state frame.
    pub state: PhysFrame<Size4KiB>,
    /// Its call area.
    pub call_area: PhysFrame<Size4KiB>,
    /// Memory that it accepts itself.
    pub accept: FrameRange,
    /// A page that both use: it says here that it is done.
    pub mailbox: PhysFrame<Size4KiB>,
    /// What becomes of it.
    pub then: Then,
}

/// What becomes of the further vCPU when it is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// The boot program destroys it and uses its state frame as memory.
    Destroy,
    /// It stays.
    Leave,
}

/// What a program got, apart from memory.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Where it ran.
    pub level: Level,
    /// What it was told that the vendor can do.
    pub capabilities: Capabilities,
    /// What is said of its evidence.
    pub evidence: Evidence,
    /// The evidence.
    pub bytes: Vec<u8>,
}

/// How often the mailbox is looked at, and a busy vCPU is tried again.
const PATIENCE: u32 = 200_000;

/// Buffer for evidence, in bytes.
const EVIDENCE: usize = 4096;
/// One that no evidence fits into: it is longer than the 64 bytes that it is over.
const SHORT: usize = REPORT_DATA;

/// The program of the first vCPU: accepts memory, uses it, shares and takes back, attests.
///
/// # Errors
/// [`Failed`] at the first thing that is not as it has to be.
pub fn boot<G: OwnLevel>(
    guest: &mut G,
    memory: &impl GuestMemory,
    plan: &Plan,
    log: &mut Log,
) -> Result<Outcome, Failed> {
    use_memory(guest, memory, plan, log)?;
    evidence(guest, &plan.nonce, log)
}

/// As [`boot`], and before it attests it creates a further vCPU. For a level that can make its own vCPUs.
///
/// # Errors
/// As [`boot`].
pub fn boot_and_create<G: Guest>(
    guest: &mut G,
    memory: &impl GuestMemory,
    plan: &Plan,
    second: &Second,
    log: &mut Log,
) -> Result<Outcome, Failed> {
    use_memory(guest, memory, plan, log)?;
    further(guest, memory, second, log)?;
    evidence(guest, &plan.nonce, log)
}

/// Accepts memory, uses it, shares some and takes some of that back.
fn use_memory<G: OwnLevel>(guest: &mut G, memory: &impl GuestMemory, plan: &Plan, log: &mut Log) -> Result<(), Failed> {
    let ram = plan.accept;
    let done = guest.validate(ram);
    log.must("validate", ram, done)?;
    for at in pages(ram) {
        expect(memory, at, 0)?;
    }
    log.note("every page reads zero");
    for at in pages(ram) {
        put(memory, at, mark(at))?;
    }
    for at in pages(ram) {
        expect(memory, at, mark(at))?;
    }
    log.note("every page keeps what was written");

    let again = guest.validate(ram);
    log.range_refused("validate", ram, again, ErrorKind::AlreadyInState)?;
    let outside = guest.validate(plan.outside);
    log.range_refused("validate", plan.outside, outside, ErrorKind::OutOfRange)?;
    let outside = guest.share(plan.outside);
    log.range_refused("share", plan.outside, outside, ErrorKind::OutOfRange)?;

    let Shares { small, inside } = Shares::of(ram);
    for part in [small, inside] {
        let shared = guest.share(part);
        log.must("share", part, shared)?;
    }
    let taken = guest.unshare(inside);
    log.must("unshare", inside, taken)?;
    for at in pages(inside) {
        expect(memory, at, 0)?;
    }
    log.note("the page that came back reads zero");
    for at in pages(ram).filter(|at| ![small, inside].iter().any(|part| holds(*part, *at))) {
        expect(memory, at, mark(at))?;
    }
    log.note("every other page keeps what was written");
    Ok(())
}

/// The program of a further vCPU: accepts memory of its own, attests, and says that it is done.
///
/// # Errors
/// As [`boot`].
pub fn second<G: OwnLevel>(
    guest: &mut G,
    memory: &impl GuestMemory,
    plan: &Second,
    log: &mut Log,
) -> Result<Outcome, Failed> {
    log.note(guest.vcpu());
    let done = guest.validate(plan.accept);
    log.must("validate", plan.accept, done)?;
    for at in pages(plan.accept) {
        expect(memory, at, 0)?;
        put(memory, at, mark(at))?;
    }
    let outcome = evidence(guest, &[0x22; REPORT_DATA], log)?;
    put(memory, plan.mailbox.start_address(), DONE)?;
    Ok(outcome)
}

/// A vCPU that no VM has.
const UNKNOWN: VcpuId = VcpuId(77);

/// What the mailbox holds when the further vCPU is done.
const DONE: u64 = u64::from_le_bytes(*b"all done");

/// Creates the further vCPU, waits until it is done, and destroys it if that is the plan.
fn further<G: Guest>(guest: &mut G, memory: &impl GuestMemory, plan: &Second, log: &mut Log) -> Result<(), Failed> {
    let mailbox = plan.mailbox.start_address();
    put(memory, mailbox, 0)?;
    let new = NewVcpu { id: plan.id, context: &plan.context, state: plan.state, call_area: plan.call_area };
    let one_frame = guest.create_vcpu(NewVcpu { call_area: plan.state, ..new });
    log.refused("create", "with one frame for state and calls", one_frame, ErrorKind::InUse)?;
    let unknown = guest.create_vcpu(NewVcpu { id: UNKNOWN, ..new });
    log.refused("create", UNKNOWN, unknown, ErrorKind::InvalidArgument)?;
    guest.create_vcpu(new).map_err(|error| Failed::Verb { verb: "create", kind: error.kind() })?;
    log.note(format_args!("create {}: done", plan.id));
    let mut looks = 0;
    while word(memory, mailbox)? != DONE {
        looks += 1;
        if looks > PATIENCE {
            return Err(Failed::NoAnswer);
        }
    }
    for at in pages(plan.accept) {
        expect(memory, at, mark(at))?;
    }
    log.note(format_args!("{} did its part", plan.id));
    if plan.then == Then::Leave {
        return Ok(());
    }
    let mut tries = 0;
    while let Err(error) = guest.destroy_vcpu(plan.id, plan.state) {
        // It may still be on its way out.
        let is_leaving = matches!(error.kind(), ErrorKind::InUse | ErrorKind::Busy);
        tries += 1;
        if !is_leaving || tries > PATIENCE {
            return Err(Failed::Verb { verb: "destroy", kind: error.kind() });
        }
    }
    let state = plan.state.start_address();
    put(memory, state, mark(state))?;
    expect(memory, state, mark(state))?;
    log.note(format_args!("destroy {}: done, its frame is memory again", plan.id));
    let again = guest.destroy_vcpu(plan.id, plan.state);
    log.refused("destroy", format_args!("{} again", plan.id), again, ErrorKind::NotFound)
}

fn evidence<G: OwnLevel>(guest: &mut G, nonce: &[u8; REPORT_DATA], log: &mut Log) -> Result<Outcome, Failed> {
    let level = guest.level();
    let mut bytes = vec![0; EVIDENCE];
    let short = guest.attest(nonce, &mut bytes[..SHORT]);
    log.refused("attest", format_args!("into {SHORT} bytes"), short, ErrorKind::InvalidArgument)?;
    let evidence =
        guest.attest(nonce, &mut bytes).map_err(|error| Failed::Verb { verb: "attest", kind: error.kind() })?;
    if evidence.names != level || evidence.len > EVIDENCE {
        return Err(Failed::Evidence);
    }
    bytes.truncate(evidence.len);
    log.note("attest: evidence names the own level");
    Ok(Outcome { level, capabilities: guest.capabilities(), evidence, bytes })
}

/// Two pages of a range to be shared.
pub(super) struct Shares {
    /// One of its first, small part. It stays shared.
    pub(super) small: FrameRange,
    /// One in the middle of its first large page. It is taken back.
    pub(super) inside: FrameRange,
}

impl Shares {
    pub(super) fn of(ram: FrameRange) -> Self {
        let large = ram.start().align_up(LARGE);
        let before = (large.as_u64() - ram.start().as_u64()) / SMALL;
        let one = |frames| ram.skip(frames).and_then(|rest| rest.take(1)).unwrap_or(ram);
        Self { small: one(before / 2), inside: one(before + LARGE / SMALL / 2) }
    }
}

fn holds(range: FrameRange, at: PhysAddr) -> bool {
    range.contains(FrameRange::of(PhysFrame::containing_address(at)))
}

/// A word of each page of a range, at another offset in every page.
pub(super) fn pages(range: FrameRange) -> impl Iterator<Item = PhysAddr> {
    let word = move |frame: u64| frame * SMALL + (range.first_number() + frame) * 8 % SMALL;
    (0..range.frames()).filter_map(move |frame| memory::offset(range.start(), word(frame)))
}

/// What is written at an address.
pub(super) fn mark(at: PhysAddr) -> u64 {
    at.as_u64() ^ 0x6775_6573_7421_0000
}

fn put(memory: &impl GuestMemory, at: PhysAddr, word: u64) -> Result<(), Failed> {
    memory.write_value(at, &word).map_err(|error| Failed::Memory { at, kind: error.kind() })
}

fn word(memory: &impl GuestMemory, at: PhysAddr) -> Result<u64, Failed> {
    memory.read_value(at).map_err(|error| Failed::Memory { at, kind: error.kind() })
}

fn expect(memory: &impl GuestMemory, at: PhysAddr, want: u64) -> Result<(), Failed> {
    let got = word(memory, at)?;
    if got == want { Ok(()) } else { Err(Failed::Contents { at, got, want }) }
}
