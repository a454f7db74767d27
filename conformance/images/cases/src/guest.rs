//! What a case works with: the guest's side, a bed, and memory.

use coco_part_api::range::{FRAMES_PER_LARGE, LARGE, SMALL};
use coco_part_api::svsm::{CALL_BUFFER, CORE, CallId, CallResult, PVALIDATE};
use coco_part_api::{CallRegs, Error, ErrorKind, FrameRange, GuestMemory, GuestPort, HostState, Stopped, memory};
use l2_guest_shim::Shim;
use x86_64::PhysAddr;

use crate::bed::{Bed, Places};
use crate::check::{Check, Failed, Value, same};

/// Pages that every case gets for itself.
pub const OWN_PAGES: u64 = 32;

/// Bit of a list entry: 2 MiB.
pub(crate) const BIG: u64 = 1;
/// Bit of a list entry: validate.
pub(crate) const VALIDATE: u64 = 1 << 2;
/// Bit of a list entry: no change is no error.
pub(crate) const IGNORE_NO_CHANGE: u64 = 1 << 3;

pub(crate) const OK: CallResult = CallResult::SUCCESS;
pub(crate) const BAD_ADDRESS: CallResult = CallResult::INVALID_ADDRESS;
pub(crate) const BAD_PARAMETER: CallResult = CallResult::INVALID_PARAMETER;
pub(crate) const NO_CHANGE: CallResult = CallResult::NO_CHANGE;

/// How often something is tried that another party may delay.
pub(crate) const PATIENCE: u32 = 2_000_000;
/// How often a call is made again that is answered "busy" or "incomplete", or not served.
const ROUNDS: u32 = 2000;

/// A guest on its first vCPU.
pub struct Guest<'a, 'm, P: GuestPort, B: Bed> {
    /// The verbs, and the port below them.
    pub shim: &'a mut Shim<'m, P>,
    /// What the harness supplies.
    pub bed: B,
    /// Where things lie.
    pub places: Places,
    /// 2 MiB blocks of fresh memory that are taken.
    taken: u64,
    /// The block that single fresh pages come from, and the next of its pages.
    block: Option<(FrameRange, u64)>,
    marks: u8,
    first_area: u64,
}

impl<'a, 'm, P: GuestPort, B: Bed> Guest<'a, 'm, P, B> {
    /// A guest before its first case.
    pub fn new(shim: &'a mut Shim<'m, P>, bed: B, places: Places) -> Self {
        let first_area = shim.port().call_area().start_address().as_u64();
        Self { shim, bed, places, taken: 0, block: None, marks: 0, first_area }
    }

    pub(crate) fn begin(&mut self) {
        self.marks = 0;
    }

    /// Writes the counts down.
    pub(crate) fn mark(&mut self) {
        self.marks = self.marks.saturating_add(1);
        self.bed.mark(self.marks);
    }

    /// The call area that the guest began with.
    pub(crate) const fn first_area(&self) -> u64 {
        self.first_area
    }

    /// Where a list in the buffer of the call area begins.
    pub(crate) fn area_list(&self) -> u64 {
        self.shim.port().call_area().start_address().as_u64() | CALL_BUFFER
    }

    /// A page of the case's own.
    pub(crate) fn own(&self, index: u64) -> u64 {
        own_page(&self.places, index)
    }

    /// A range of the case's own pages.
    pub(crate) fn own_range(&self, first: u64, pages: u64) -> Result<FrameRange, Failed> {
        range(self.own(first), pages)
    }

    /// The next 2 MiB of fresh memory.
    pub(crate) fn fresh_large(&mut self) -> Result<FrameRange, Failed> {
        let left = self.places.fresh.skip(self.taken * FRAMES_PER_LARGE);
        let block = left.and_then(|left| left.take(FRAMES_PER_LARGE));
        let block = block.filter(|block| block.frames() == FRAMES_PER_LARGE).ok_or(NO_FRESH)?;
        self.taken += 1;
        Ok(block)
    }

    /// Fresh pages in a row, at most 256. None is aligned to 2 MiB.
    pub(crate) fn fresh_pages(&mut self, pages: u64) -> Result<FrameRange, Failed> {
        let left = self.block.and_then(|(block, used)| block.skip(used)).and_then(|left| left.take(pages));
        let (range, block, used) = match (left.filter(|range| range.frames() == pages), self.block) {
            (Some(range), Some((block, used))) => (range, block, used),
            _ => {
                let block = self.fresh_large()?;
                let range = block.skip(1).and_then(|rest| rest.take(pages)).ok_or(NO_FRESH)?;
                (range, block, 1)
            }
        };
        self.block = Some((block, used + pages));
        Ok(range)
    }

    /// Fresh pages that the host has made private, and nobody has validated.
    pub(crate) fn agreed_pages(&mut self, pages: u64) -> Result<FrameRange, Failed> {
        let range = self.fresh_pages(pages)?;
        self.agree(range, HostState::Private)?;
        Ok(range)
    }

    /// The same, 2 MiB.
    pub(crate) fn agreed_large(&mut self) -> Result<FrameRange, Failed> {
        let range = self.fresh_large()?;
        self.agree(range, HostState::Private)?;
        Ok(range)
    }

    /// Agrees a page state with the host.
    pub(crate) fn agree(&mut self, range: FrameRange, state: HostState) -> Check {
        done("page state", self.shim.port_mut().agree(range, state))
    }

    /// Calls L1 once.
    pub(crate) fn call(&mut self, regs: CallRegs) -> Result<CallRegs, Failed> {
        self.shim.port_mut().call(regs).map_err(|error| wrong("a call", error.kind()))
    }

    /// Calls L1 until the call is served and not answered "busy".
    pub(crate) fn call_patiently(&mut self, regs: CallRegs) -> Result<CallRegs, Failed> {
        let mut last = wrong("a call", ErrorKind::Busy);
        for _ in 0..ROUNDS {
            match self.call(regs) {
                Ok(answer) if answer.result() != CallResult::BUSY => return Ok(answer),
                Ok(_) => self.bed.pause(),
                Err(failed) if failed.got == Value::from(ErrorKind::HostMisbehaved) => last = failed,
                Err(failed) => return Err(failed),
            }
        }
        Err(last)
    }

    /// A call of the core protocol.
    pub(crate) fn core(&mut self, number: u32, [rcx, rdx, r8]: [u64; 3]) -> Result<CallResult, Failed> {
        let regs = CallRegs::call(CallId::new(CORE, number), rcx, rdx, r8);
        Ok(self.call_patiently(regs)?.result())
    }

    /// Demands that a call is answered with this, and that no other register changes.
    pub(crate) fn answers(&mut self, what: &'static str, regs: CallRegs, want: CallResult) -> Check {
        let regs = CallRegs { r9: 0x9999, ..regs };
        let answer = self.call_patiently(regs)?;
        same(what, answer.result(), want)?;
        same(what, answer, regs.with_result(want))
    }

    /// The same for a call of the core protocol.
    pub(crate) fn core_answers(
        &mut self,
        what: &'static str,
        number: u32,
        [rcx, rdx, r8]: [u64; 3],
        want: CallResult,
    ) -> Check {
        self.answers(what, CallRegs::call(CallId::new(CORE, number), rcx, rdx, r8), want)
    }

    /// Writes a list to an address and has it done, call after call as long as L1 says that it goes on. Gives the last
    /// result and where the cursor is.
    pub(crate) fn list(&mut self, at: u64, entries: &[u64]) -> Result<(CallResult, u16), Failed> {
        self.list_of(PVALIDATE, at, entries)
    }

    /// The same for another call that takes a list.
    pub(crate) fn list_of(&mut self, number: u32, at: u64, entries: &[u64]) -> Result<(CallResult, u16), Failed> {
        self.write_list(at, entries)?;
        for _ in 0..ROUNDS {
            let result = self.core(number, [at, 0, 0])?;
            if result != CallResult::INCOMPLETE {
                return Ok((result, self.cursor(at)?));
            }
        }
        Err(wrong("a list that does not end", ErrorKind::Busy))
    }

    pub(crate) fn write_list(&mut self, at: u64, entries: &[u64]) -> Check {
        self.put(at, entries.len() as u64)?;
        (1..).zip(entries).try_for_each(|(index, entry)| self.put(at.wrapping_add(8 * index), *entry))
    }

    /// Where the cursor of a list stands.
    pub(crate) fn cursor(&self, list: u64) -> Result<u16, Failed> {
        Ok((self.word(list)? >> 16) as u16)
    }

    /// One entry, with the list in the call area: its result.
    pub(crate) fn entry(&mut self, entry: u64) -> Result<CallResult, Failed> {
        Ok(self.list(self.area_list(), &[entry])?.0)
    }

    /// Demands what becomes of one entry, and that a refusal leaves the cursor where it was.
    pub(crate) fn entry_answers(&mut self, what: &'static str, entry: u64, want: CallResult) -> Check {
        let got = self.list(self.area_list(), &[entry])?;
        same(what, got, (want, u16::from(want.is_success())))
    }

    /// Demands that a page is neither validated nor rescinded, in either size if it is aligned so.
    pub(crate) fn neither(&mut self, what: &'static str, at: u64, want: CallResult) -> Check {
        self.entry_answers(what, at | VALIDATE, want)?;
        self.entry_answers(what, at | VALIDATE | IGNORE_NO_CHANGE, want)?;
        self.entry_answers(what, at, want)
    }

    /// Writes a word of the guest's memory.
    pub(crate) fn put(&mut self, at: u64, word: u64) -> Check {
        let memory = self.shim.port().memory();
        memory.write_value(address(at)?, &word).map_err(|error| wrong("a store", error.kind()))
    }

    /// Reads one.
    pub(crate) fn word(&self, at: u64) -> Result<u64, Failed> {
        let memory = self.shim.port().memory();
        memory.read_value(address(at)?).map_err(|error| wrong("a load", error.kind()))
    }

    /// Writes a word of its own into every page of a range.
    pub(crate) fn fill(&mut self, range: FrameRange) -> Check {
        words(range).try_for_each(|at| self.put(at, at ^ PATTERN))
    }

    /// Demands what [`fill`](Self::fill) wrote.
    pub(crate) fn is_filled(&self, what: &'static str, range: FrameRange) -> Check {
        words(range).try_for_each(|at| same(what, self.word(at)?, at ^ PATTERN))
    }

    /// Demands that a page is zero everywhere.
    pub(crate) fn is_zero_page(&self, what: &'static str, at: u64) -> Check {
        let memory = self.shim.port().memory();
        for part in 0..SMALL / PART as u64 {
            let mut bytes = [0; PART];
            let from = address(at.wrapping_add(part * PART as u64))?;
            memory.read(from, &mut bytes).map_err(|error| wrong("a load", error.kind()))?;
            same(what, bytes.iter().any(|byte| *byte != 0), false)?;
        }
        Ok(())
    }

    /// Demands that every page of a range is zero where [`fill`](Self::fill) writes, and its first page everywhere.
    pub(crate) fn is_zero(&self, what: &'static str, range: FrameRange) -> Check {
        words(range).try_for_each(|at| same(what, self.word(at)?, 0))?;
        self.is_zero_page(what, range.start().as_u64())
    }
}

const PART: usize = 512;
const PATTERN: u64 = 0x6775_6573_7421_0000;
const NO_FRESH: Failed =
    Failed { what: "fresh memory that is left", got: Value::Holds(false), want: Value::Holds(true) };

/// A word of each page, at another offset in every page.
fn words(range: FrameRange) -> impl Iterator<Item = u64> {
    let word = move |frame: u64| frame * SMALL + (range.first_number() + frame) * 8 % SMALL;
    (0..range.frames()).filter_map(move |frame| Some(memory::offset(range.start(), word(frame))?.as_u64()))
}

/// One of the pages that every case gets.
pub(crate) fn own_page(places: &Places, index: u64) -> u64 {
    page(start(places.own), index % OWN_PAGES)
}

/// An address, or what is wrong with it.
pub(crate) fn address(at: u64) -> Result<PhysAddr, Failed> {
    PhysAddr::try_new(at).map_err(|_| wrong("an address", ErrorKind::OutOfRange))
}

/// Pages from an address on.
pub(crate) fn range(at: u64, pages: u64) -> Result<FrameRange, Failed> {
    FrameRange::new(address(at)?, pages * SMALL).map_err(|error| wrong("a range", error.into()))
}

/// Start of a range.
pub(crate) fn start(range: FrameRange) -> u64 {
    range.start().as_u64()
}

/// Offset of a page in an area.
pub(crate) const fn page(area: u64, index: u64) -> u64 {
    area.wrapping_add(index * SMALL)
}

/// The 2 MiB that hold an address.
pub(crate) const fn large(at: u64) -> u64 {
    at & !(LARGE - 1)
}

pub(crate) fn wrong(what: &'static str, got: ErrorKind) -> Failed {
    Failed { what, got: got.into(), want: Value::Done }
}

/// What became of a verb.
pub(crate) fn outcome<T, E: Error>(result: Result<T, E>) -> Value {
    result.map_or_else(|error| error.kind().into(), |_| Value::Done)
}

/// What became of a verb with a range.
pub(crate) fn stopped<T, E: Error>(result: Result<T, Stopped<E>>) -> Value {
    result.map_or_else(|stopped| Value::Stopped(stopped.cause.kind(), stopped.done), |_| Value::Done)
}

/// Fails unless a verb with a range succeeded.
pub(crate) fn done<T, E: Error>(what: &'static str, result: Result<T, Stopped<E>>) -> Check {
    same(what, stopped(result), Value::Done)
}
