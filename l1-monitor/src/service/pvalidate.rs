//! PVALIDATE: a list of pages to validate or to give up.
//!
//! Header and entries are copied once, into the monitor's own memory, before any of them is looked at; only the cursor is
//! written back (rule H1). Entries are done in order. A run of entries that give pages up is one batch with one flush
//! (`batch.rs`), and a call that would need a second flush stops there with "incomplete".

use coco_part_api::svsm::CallResult;
use coco_part_api::svsm::list::{Action, Entry, ListHeader, ListPlace, MOST};
use coco_part_api::{Error, ErrorKind, FrameRange, Monitor as Backend, Origin, Processor};
use x86_64::structures::paging::PhysFrame;
use zerocopy::{FromZeros, IntoBytes};

use crate::call::{Call, failed};
use crate::ledger::{Claim, State};

/// A list as it was when the call began.
pub(super) struct List {
    /// The page it lies in; no entry may name it.
    page: FrameRange,
    words: [u64; MOST],
    count: usize,
}

impl List {
    /// The quadword of an entry, `None` behind the last.
    pub(super) fn word(&self, index: usize) -> Option<u64> {
        self.words.get(..self.count)?.get(index).copied()
    }
}

/// Work that is left for a call before it answers "incomplete".
pub(super) struct Budget {
    left: u64,
    is_fresh: bool,
}

impl Budget {
    /// Takes `frames` from it. The first entry always fits, so that every call gets somewhere.
    pub(super) fn take(&mut self, frames: u64) -> bool {
        let fits = self.is_fresh || frames <= self.left;
        if fits {
            self.is_fresh = false;
            self.left = self.left.saturating_sub(frames);
        }
        fits
    }
}

/// What an entry comes to.
pub(super) enum Todo<'a> {
    /// Its frames are claimed and wait for the backend.
    Work(Claim<'a>),
    /// Its frames are in that state already, and the entry says that this is fine (rule M2).
    Nothing,
}

impl<'a, B: Backend, P: Processor, const VCPUS: usize> Call<'_, 'a, B, P, VCPUS> {
    /// Works on the list at RCX.
    pub(crate) fn pvalidate(&mut self) -> CallResult {
        let place = match ListPlace::new(self.regs.rcx) {
            Ok(place) => place,
            Err(kind) => return kind.into(),
        };
        let _kept = match self.keep_argument(place.header()) {
            Ok(kept) => kept,
            Err(result) => return result,
        };
        let (list, first) = match self.copy_list(place) {
            Ok(copy) => copy,
            Err(result) => return result,
        };
        let mut next = first;
        let result = self.work_on(&list, &mut next);
        // At most 511, so the cursor holds it.
        match place.cursor().map(|at| self.write(at, &(next as u16).to_le_bytes())) {
            Some(Ok(())) => result,
            _ => CallResult::INVALID_ADDRESS,
        }
    }

    /// Copies and checks the list; gives it with its cursor.
    fn copy_list(&self, place: ListPlace) -> Result<(List, usize), CallResult> {
        let mut header = ListHeader::default();
        self.read(place.header(), header.as_mut_bytes())?;
        place.check(&header)?;
        let page = FrameRange::of(PhysFrame::containing_address(place.header()));
        let mut list = List { page, words: FromZeros::new_zeroed(), count: usize::from(header.entries) };
        // The check above bounds the count by the page.
        let words = list.words.get_mut(..list.count).ok_or(CallResult::INVALID_PARAMETER)?;
        self.read(place.entry(0).ok_or(CallResult::INVALID_ADDRESS)?, words.as_mut_bytes())?;
        Ok((list, usize::from(header.next)))
    }

    fn work_on(&mut self, list: &List, next: &mut usize) -> CallResult {
        let mut budget = Budget { left: self.shared.limits.frames_per_call, is_fresh: true };
        let mut has_flushed = false;
        while let Some(word) = list.word(*next) {
            let done = match self.decode(list, word) {
                Ok(entry) if entry.action == Action::Rescind && !has_flushed => {
                    let (end, result) = self.rescind_batch(list, *next, &mut budget, &mut has_flushed);
                    *next = end;
                    match result {
                        Ok(()) => continue,
                        Err(result) => Err(result),
                    }
                }
                Ok(entry) => self.single(&entry, &mut budget),
                Err(result) => Err(result),
            };
            match done {
                Ok(()) => *next += 1,
                Err(result) => return result,
            }
        }
        CallResult::SUCCESS
    }

    /// One entry outside a batch: one to validate, or one to give up behind the call's only flush.
    fn single(&mut self, entry: &Entry, budget: &mut Budget) -> Result<(), CallResult> {
        let mut claim = match self.todo(entry)? {
            Todo::Work(claim) => claim,
            Todo::Nothing => return Ok(()),
        };
        let range = entry.block.range();
        if entry.action == Action::Rescind || !budget.take(range.frames()) {
            return Err(CallResult::INCOMPLETE);
        }
        match self.backend.validate_for(range, &self.caller.grants(), Origin::Request) {
            Ok(()) => {
                claim.commit(self.caller.own());
                Ok(())
            }
            Err(stopped) => {
                claim.commit_first(stopped.done, self.caller.own());
                if stopped.cause.kind() == ErrorKind::Quarantined {
                    // What is left of the entry is the one page that could not be put back.
                    claim.commit(State::Quarantined);
                }
                Err(failed(&stopped))
            }
        }
    }

    /// Decodes an entry and checks where its page lies (rules M1 and M7).
    pub(super) fn decode(&self, list: &List, word: u64) -> Result<Entry, CallResult> {
        let entry = Entry::decode(word)?;
        let range = entry.block.range();
        if range.overlaps(list.page) || self.shared.memory.check(range).is_err() {
            return Err(CallResult::INVALID_ADDRESS);
        }
        Ok(entry)
    }

    /// Claims an entry's frames, all or none, from the state that its action needs (rules M2 and M4).
    pub(super) fn todo(&self, entry: &Entry) -> Result<Todo<'a>, CallResult> {
        let range = entry.block.range();
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
