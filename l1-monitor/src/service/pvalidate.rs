//! PVALIDATE: a list of pages to validate or to give up.
//!
//! Header and entries are copied once, into the monitor's own memory, before any of them is looked at; only the cursor is
//! written back (rule H1). Entries are done in order. Entries that validate pages which lie side by side are one step of the
//! backend. Entries that give pages up and follow each other are one batch with one flush (`batch.rs`), and a
//! call that would need a second flush stops there with "incomplete".

use core::mem;

use coco_part_api::range::FRAMES_PER_LARGE;
use coco_part_api::svsm::CallResult;
use coco_part_api::svsm::list::{Action, Entry, ListHeader, ListPlace, MOST};
use coco_part_api::{Error, ErrorKind, FrameRange, Monitor as Backend, Origin, PageSize, Processor, Stopped};
use zerocopy::IntoBytes;

use super::batch::Fate;
use crate::call::{Call, check_buffer, failed};
use crate::ledger::{Claim, State};

// A run of small pages never contains a large one, so it is done in the size that its entries name.
const _: () = assert!((MOST as u64) < FRAMES_PER_LARGE);

/// A list as it was when the call began.
pub(super) struct List<'w> {
    /// The page it lies in; no entry may name it.
    page: FrameRange,
    words: &'w [u64],
}

impl List<'_> {
    /// The quadword of an entry, `None` behind the last.
    #[inline]
    pub(super) fn word(&self, index: usize) -> Option<u64> {
        self.words.get(index).copied()
    }

    /// How many entries from `first` on ask for the same as that one, each for the page behind that of the entry before. `size`
    /// is that of the first one.
    #[inline]
    fn run(&self, first: usize, size: PageSize) -> usize {
        let Some([head, rest @ ..]) = self.words.get(first..) else { return 0 };
        let mut wanted = *head;
        let follows = |word: &&u64| {
            wanted = wanted.wrapping_add(size.bytes());
            **word == wanted
        };
        1 + rest.iter().take_while(follows).count()
    }
}

/// Work that is left for a call before it answers "incomplete".
pub(super) struct Budget {
    left: u64,
    is_fresh: bool,
}

impl Budget {
    /// Takes `frames` from it. The first entry always fits, so that every call gets somewhere.
    #[inline]
    pub(super) fn take(&mut self, frames: u64) -> bool {
        let fits = self.is_fresh || frames <= self.left;
        if fits {
            self.is_fresh = false;
            self.left = self.left.saturating_sub(frames);
        }
        fits
    }

    /// How many entries of `frames` each it has room for.
    #[inline]
    fn entries(&self, frames: u64) -> u64 {
        (self.left / frames).max(u64::from(self.is_fresh))
    }
}

/// What an entry comes to.
pub(super) enum Todo<'a> {
    /// Its frames are claimed and wait for the backend.
    Work(Claim<'a>),
    /// Its frames are in that state already, and the entry says that this is fine (rule M2).
    Nothing,
}

/// How far a call has come.
struct Progress {
    /// The first entry that is not done.
    next: usize,
    budget: Budget,
    has_flushed: bool,
    /// Entries before this one are done one by one: they were refused as a run.
    singly: usize,
}

impl<'c, 'a, B: Backend, P: Processor, const VCPUS: usize> Call<'c, 'a, B, P, VCPUS> {
    /// Works on the list at RCX.
    pub(crate) fn pvalidate(&mut self) -> Result<CallResult, CallResult> {
        let place = ListPlace::new(self.regs.rcx)?;
        // As `keep` does, in place: every call of a guest that boots goes through here.
        let _kept;
        if self.is_in_call_area(place.header()) {
            check_buffer(place.header())?;
        } else {
            _kept = self.claim_own(place.page())?;
        }
        let (list, next) = self.copy_list(place)?;
        let mut progress = Progress { next, budget: self.budget(), has_flushed: false, singly: 0 };
        let result = self.work_on(&list, &mut progress);
        self.write_cursor(place, progress.next)?;
        Ok(result)
    }

    /// Copies a list, header and entries once each. The second value is its cursor.
    #[inline(always)]
    pub(super) fn copy_list(&mut self, place: ListPlace) -> Result<(List<'c>, usize), CallResult> {
        let mut header = ListHeader::default();
        self.read(place.header(), header.as_mut_bytes())?;
        place.check(&header)?;
        let room = mem::take(&mut self.room);
        // The check above bounds the count by the page.
        let words = room.get_mut(..usize::from(header.entries)).ok_or(CallResult::INVALID_PARAMETER)?;
        self.read(place.entry(0).ok_or(CallResult::INVALID_ADDRESS)?, words.as_mut_bytes())?;
        Ok((List { page: place.page(), words }, header.next.into()))
    }

    /// Tells the guest how far its list is done.
    #[inline(always)]
    pub(super) fn write_cursor(&self, place: ListPlace, next: usize) -> Result<(), CallResult> {
        let cursor = place.cursor().ok_or(CallResult::INVALID_ADDRESS)?;
        // At most 511, so the cursor holds it.
        self.write(cursor, &(next as u16).to_le_bytes())
    }

    /// The work of one call.
    #[inline(always)]
    pub(super) fn budget(&self) -> Budget {
        Budget { left: self.shared.limits.frames_per_call, is_fresh: true }
    }

    #[inline(always)]
    fn work_on(&mut self, list: &List<'_>, progress: &mut Progress) -> CallResult {
        while let Some(word) = list.word(progress.next) {
            let done = match Entry::decode(word) {
                Ok(entry) => match entry.action {
                    Action::Validate => self.validate_run(list, &entry, progress),
                    Action::Rescind if progress.has_flushed => self.rescind_later(list, &entry, progress),
                    Action::Rescind => {
                        let Progress { next, budget, has_flushed, .. } = progress;
                        let (end, result) = self.give_up_batch(list, *next, Fate::Rescind, budget, has_flushed);
                        *next = end;
                        result
                    }
                },
                Err(kind) => Err(kind.into()),
            };
            if let Err(result) = done {
                return result;
            }
        }
        CallResult::SUCCESS
    }

    /// An entry to give up behind the call's only flush: it waits for the next call, unless there is nothing to do.
    fn rescind_later(&self, list: &List<'_>, entry: &Entry, progress: &mut Progress) -> Result<(), CallResult> {
        match self.todo(list, entry)? {
            Todo::Work(_) => Err(CallResult::INCOMPLETE),
            Todo::Nothing => {
                progress.next += 1;
                Ok(())
            }
        }
    }

    /// Validates the page of the next entry and those of the entries behind it that go on where it ends: all of them in one
    /// step, or what can be done one by one (rule M4).
    fn validate_run(&mut self, list: &List<'_>, entry: &Entry, progress: &mut Progress) -> Result<(), CallResult> {
        let size = entry.block.size();
        let run = if progress.next < progress.singly { 1 } else { list.run(progress.next, size) };
        let run = progress.budget.entries(size.frames()).min(run as u64);
        let Some(claim) = self.claim_run(list, entry, run) else {
            return self.not_claimed(list, entry, run, progress);
        };
        let Some(range) = claim.rest() else { return Ok(()) };
        progress.budget.take(range.frames());
        match self.backend.validate_for(range, &self.caller.grants(), Origin::Request) {
            Ok(()) => {
                claim.commit_here(self.caller.own());
                progress.next += run as usize;
                Ok(())
            }
            Err(stopped) => {
                progress.next += (stopped.done / size.frames()) as usize;
                Err(self.validated_in_part(claim, size.frames(), &stopped))
            }
        }
    }

    /// Claims the pages of `run` entries if all of them may be named and are to be validated.
    #[inline(always)]
    fn claim_run(&self, list: &List<'_>, entry: &Entry, run: u64) -> Option<Claim<'a>> {
        let range = FrameRange::of_blocks(entry.block, run)?;
        self.check_place(list, range).ok()?;
        self.shared.ledger.claim_here(range, State::NotPrivate).ok()
    }

    /// Why an entry was not claimed, or that those of a run have to be looked at one by one.
    #[cold]
    fn not_claimed(&self, list: &List<'_>, entry: &Entry, run: u64, progress: &mut Progress) -> Result<(), CallResult> {
        if run > 1 {
            progress.singly = progress.next + run as usize;
            return Ok(());
        }
        match self.todo(list, entry)? {
            // There is no room in the budget, or somebody was at work there until now.
            Todo::Work(_) => Err(if run == 0 { CallResult::INCOMPLETE } else { CallResult::BUSY }),
            Todo::Nothing => {
                progress.next += 1;
                Ok(())
            }
        }
    }

    /// Commits what the backend did of entries of `each` frames before it stopped. The others are as they were.
    #[cold]
    fn validated_in_part(&self, mut claim: Claim<'a>, each: u64, stopped: &Stopped<B::Error>) -> CallResult {
        claim.commit_first(stopped.done, self.caller.own());
        if stopped.cause.kind() == ErrorKind::Quarantined {
            // What is left of the entry is the one page that could not be put back.
            claim.commit_first(each - stopped.done % each, State::Quarantined);
        }
        failed(stopped)
    }

    /// Checks where pages lie (rules M1 and M7).
    #[inline]
    pub(super) fn check_place(&self, list: &List<'_>, range: FrameRange) -> Result<(), CallResult> {
        if range.overlaps(list.page) || self.shared.memory.check(range).is_err() {
            return Err(CallResult::INVALID_ADDRESS);
        }
        Ok(())
    }

    /// Claims an entry's frames, all or none, from the state that its action needs (rules M2 and M4).
    pub(super) fn todo(&self, list: &List<'_>, entry: &Entry) -> Result<Todo<'a>, CallResult> {
        let range = entry.block.range();
        self.check_place(list, range)?;
        let own = self.caller.own();
        let (from, to) = match entry.action {
            Action::Validate => (State::NotPrivate, own),
            Action::Rescind => (own, State::NotPrivate),
        };
        if let Ok(claim) = self.shared.ledger.claim(range, from) {
            return Ok(Todo::Work(claim));
        }
        let seen = self.shared.ledger.survey(range);
        if !seen.only(&[from, to, State::Changing]) {
            Err(CallResult::INVALID_ADDRESS)
        } else if seen.has(State::Changing) || seen.only(&[from]) {
            // Somebody is at work there, or was until now.
            Err(CallResult::BUSY)
        } else if entry.ignore_cf && seen.only(&[to]) {
            Ok(Todo::Nothing)
        } else {
            Err(CallResult::NO_CHANGE)
        }
    }
}
