//! A run of list entries that give pages up or to the monitor: all rights are cut, one flush, then the pages go (rule M6).

use coco_part_api::svsm::CallResult;
use coco_part_api::svsm::list::{Action, Entry, MOST, decode_page};
use coco_part_api::{After, Error, ErrorKind, FrameRange, Monitor as Backend, Origin, Processor, Support};

use super::pvalidate::{Budget, List, Todo};
use crate::call::{Call, failed};
use crate::ledger::{Claim, Ledger, State};

/// Words of a bit set over the entries of a list.
const SET: usize = MOST.div_ceil(64);

/// What becomes of pages that the caller gives away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// They are nobody's.
    Rescind,
    /// They are kept for the monitor, contents and all, until their level wants them back.
    Deposit,
}

/// Claims on the frames of entries `first..end` of a list.
///
/// The claims are kept as one bit per entry, since a list has hundreds and stacks are small. What is still claimed when
/// this is dropped goes back to the caller.
struct Batch<'l, 'a> {
    list: &'l List<'l>,
    fate: Fate,
    ledger: Ledger<'a>,
    own: State,
    first: usize,
    end: usize,
    claimed: [u64; SET],
}

impl<'a> Batch<'_, 'a> {
    fn push(&mut self, todo: Todo<'a>) {
        if let Todo::Work(claim) = todo
            && let Some(word) = self.claimed.get_mut(self.end / 64)
        {
            *word |= 1 << (self.end % 64);
            claim.into_raw();
        }
        self.end += 1;
    }

    fn is_claimed(&self, index: usize) -> bool {
        self.claimed.get(index / 64).is_some_and(|word| word >> (index % 64) & 1 == 1)
    }

    fn has_work(&self) -> bool {
        self.claimed.iter().any(|word| *word != 0)
    }

    /// Frames of an entry that is claimed.
    fn range(&self, index: usize) -> Option<FrameRange> {
        if !self.is_claimed(index) {
            return None;
        }
        // An entry of a deposit is one that rescinds.
        Entry::decode(self.list.word(index)?).ok().map(|entry| entry.block.range())
    }

    /// Takes one entry's claim out.
    fn take(&mut self, index: usize) -> Option<Claim<'a>> {
        let range = self.range(index)?;
        if let Some(word) = self.claimed.get_mut(index / 64) {
            *word &= !(1 << (index % 64));
        }
        Some(Claim::from_raw(self.ledger, range, self.own))
    }
}

impl Drop for Batch<'_, '_> {
    fn drop(&mut self) {
        for index in self.first..self.end {
            drop(self.take(index));
        }
    }
}

impl<'a, B: Backend, P: Processor, const VCPUS: usize> Call<'_, 'a, B, P, VCPUS> {
    /// Takes the pages of the entries from `first` on away from the caller, as far as they go in one batch.
    ///
    /// The batch ends before the first entry that validates, is bad, names a page of the batch again, or exceeds the
    /// budget. Returns the first entry that is not done, and why not if that ends the call.
    #[inline(never)]
    pub(super) fn give_up_batch(
        &mut self,
        list: &List<'_>,
        first: usize,
        fate: Fate,
        budget: &mut Budget,
        has_flushed: &mut bool,
    ) -> (usize, Result<(), CallResult>) {
        let (ledger, own) = (self.shared.ledger, self.caller.own());
        let mut batch = Batch { list, fate, ledger, own, first, end: first, claimed: [0; SET] };
        let ended = loop {
            match list.word(batch.end).map(|word| self.next(list, word, fate, budget)) {
                Some(Ok(Some(todo))) => batch.push(todo),
                Some(Err(result)) => break Err(result),
                Some(Ok(None)) | None => break Ok(()),
            }
        };
        if !batch.has_work() {
            return (batch.end, ended);
        }
        let end = batch.end;
        match self.give_up(batch, has_flushed) {
            // What ended the batch is looked at again: a page named twice was busy with ourselves and is not any more.
            Ok(()) => (end, Ok(())),
            Err((index, result)) => (index, Err(result)),
        }
    }

    /// The next entry of a batch, `None` for one that is no part of it.
    fn next(
        &self,
        list: &List<'_>,
        word: u64,
        fate: Fate,
        budget: &mut Budget,
    ) -> Result<Option<Todo<'a>>, CallResult> {
        let todo = match fate {
            Fate::Rescind => {
                let entry = Entry::decode(word)?;
                if entry.action != Action::Rescind {
                    return Ok(None);
                }
                self.todo(list, &entry)?
            }
            Fate::Deposit => Todo::Work(self.to_deposit(list, word)?),
        };
        if let Todo::Work(claim) = &todo
            && !budget.take(claim.rest().map_or(0, FrameRange::frames))
        {
            return Err(CallResult::INCOMPLETE);
        }
        Ok(Some(todo))
    }

    /// Claims the page of an entry of a deposit: the caller's own, and not that of the list (rule M7).
    pub(super) fn to_deposit(&self, list: &List<'_>, word: u64) -> Result<Claim<'a>, CallResult> {
        let range = decode_page(word)?.range();
        self.check_place(list, range)?;
        self.claim_own(range)
    }

    /// Cuts, flushes and gives up. On an error the entries before the index are done, and those from it on have their
    /// rights and their state back (rule M4).
    fn give_up(&mut self, mut batch: Batch<'_, 'a>, has_flushed: &mut bool) -> Result<(), (usize, CallResult)> {
        let mut cut = B::Cut::default();
        let mut uncut = None;
        let mut cut_end = batch.end;
        for index in batch.first..batch.end {
            let Some(range) = batch.range(index) else { continue };
            if let Err(stopped) = self.backend.withdraw(range, Origin::Request, &mut cut) {
                cut_end = index;
                uncut = Some(stopped);
                break;
            }
        }

        // Even if the first entry stopped the cut: one level may have lost its right there before the next one failed.
        *has_flushed = true;
        let Some(proof) = self.flush(cut) else {
            // The monitor is dead. Rights are gone but may still be used: the frames are of no use to anybody.
            for index in batch.first..batch.end {
                if let Some(claim) = batch.take(index) {
                    claim.commit(State::Quarantined);
                }
            }
            return Err((batch.first, CallResult::INVALID_REQUEST));
        };

        let after = match self.backend.capabilities().rescind_unassigned {
            Support::Yes => After::Unassigned,
            Support::No => After::Shared,
        };
        let mut kept = None;
        for index in batch.first..cut_end {
            let Some(mut claim) = batch.take(index) else { continue };
            let Some(range) = claim.rest() else { continue };
            if kept.is_none() && batch.fate == Fate::Deposit {
                self.shared.keep_deposited(claim, self.caller.level);
                continue;
            }
            if kept.is_none() {
                match self.backend.rescind_from(range, after, Origin::Request, &proof) {
                    Ok(()) => {
                        claim.commit(State::NotPrivate);
                        continue;
                    }
                    Err(stopped) => {
                        claim.commit_first(stopped.done, State::NotPrivate);
                        kept = Some((index, failed(&stopped)));
                        if stopped.cause.kind() == ErrorKind::Quarantined {
                            // An entry is one block, and that could not be put back.
                            claim.commit(State::Quarantined);
                            continue;
                        }
                    }
                }
            }
            // This entry failed or lies behind one that did. Nothing better is known if it cannot be given back.
            let _ = self.give_back(claim, u64::MAX, &proof);
        }
        if let Some(stopped) = uncut {
            if let Some(claim) = batch.take(cut_end) {
                self.undo_cut(claim, &stopped, &proof);
            }
            let result = failed(&stopped);
            kept.get_or_insert((cut_end, result));
        }
        kept.map_or(Ok(()), Err)
    }
}
