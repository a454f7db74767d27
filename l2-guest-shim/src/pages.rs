//! Verb 1 by asking L1: lists of pages in the call area's buffer. What L1 is given to keep goes the same way.
//!
//! The list is made in private registers and memory of the shim and written out for every call; from the call area only
//! the cursor is read back, once, and it may only move forward. What it says is the progress.

use coco_part_api::range::{Block, Blocks, FRAMES_PER_LARGE, PageSize};
use coco_part_api::{After, FrameRange, GuestMemory, GuestPort, HostState, Stopped, Support, Validate};
use zerocopy::IntoBytes;

use crate::codec::{Action, CALL_BUFFER, CallResult, Job, LIST_ENTRIES, ListHeader, WORD};
use crate::{Shim, ShimError};

impl<P: GuestPort> Validate for Shim<'_, P> {
    fn validate(&mut self, range: FrameRange) -> Result<(), Stopped<Self::Error>> {
        self.map.check(range).map_err(|error| Stopped::at_start(error.into()))?;
        let mut done = 0;
        while let Some(rest) = range.skip(done) {
            let part = one_list(rest);
            // What is agreed and not validated is nobody's: it does not count.
            self.port
                .agree(part, HostState::Private)
                .map_err(|stopped| Stopped { done, cause: ShimError::Port(stopped.cause) })?;
            self.change(part, Job::Change(Action::Validate)).map_err(|stopped| after(done, stopped))?;
            done += part.frames();
        }
        Ok(())
    }

    fn rescind(&mut self, range: FrameRange, then: After) -> Result<(), Stopped<Self::Error>> {
        self.map.check(range).map_err(|error| Stopped::at_start(error.into()))?;
        if then == After::Unassigned && self.capabilities.rescind_unassigned == Support::No {
            return Err(Stopped::at_start(ShimError::Unsupported { what: "rescinding without sharing" }));
        }
        let mut done = 0;
        while let Some(rest) = range.skip(done) {
            let part = one_list(rest);
            let rescinded = self.change(part, Job::Change(Action::Rescind));
            if then == After::Shared {
                // Also what came before a stop: it is done only when it is shared.
                let ready = rescinded.as_ref().map_or_else(|stopped| part.take(stopped.done), |()| Some(part));
                if let Some(ready) = ready {
                    let shared = self.port.agree(ready, HostState::Shared);
                    shared.map_err(|stopped| after(done, stopped.map(ShimError::Port)))?;
                }
            }
            rescinded.map_err(|stopped| after(done, stopped))?;
            done += part.frames();
        }
        Ok(())
    }
}

impl<P: GuestPort> Shim<'_, P> {
    /// Has L1 do its part for the pages of a range, in 2 MiB pages where they fit. A 2 MiB page that L1 refuses for its size is
    /// done in small ones, and it alone.
    pub(crate) fn change(&mut self, range: FrameRange, job: Job) -> Result<(), Stopped<ShimError<P::Error>>> {
        let mut done = 0;
        while let Some(rest) = range.skip(done) {
            let stopped = match self.change_list(rest.blocks(), job) {
                Ok(frames) => {
                    done += frames;
                    continue;
                }
                Err(stopped) => after(done, stopped),
            };
            match too_large(range, &stopped) {
                Some(page) => {
                    done = stopped.done;
                    self.change_small(page, job).map_err(|stopped| after(done, stopped))?;
                    done += page.frames();
                }
                None => return Err(stopped),
            }
        }
        Ok(())
    }

    /// Has L1 do its part for the pages of a range in 4 KiB pages.
    fn change_small(&mut self, range: FrameRange, job: Job) -> Result<(), Stopped<ShimError<P::Error>>> {
        let mut done = 0;
        while let Some(rest) = range.skip(done) {
            done += self.change_list(rest.small_blocks(), job).map_err(|stopped| after(done, stopped))?;
        }
        Ok(())
    }

    /// One list: as many of the blocks as it holds. Gives the frames done.
    fn change_list(&mut self, blocks: Blocks, job: Job) -> Result<u64, Stopped<ShimError<P::Error>>> {
        let list = List::new(blocks.clone(), job);
        let frames = |entries: u16| blocks.clone().take(usize::from(entries)).map(|block| block.size().frames()).sum();
        self.put(CALL_BUFFER + WORD, list.entries()).map_err(Stopped::at_start)?;
        let mut cursor = 0;
        let mut idle = 0;
        while cursor < list.count {
            let stopped = |cursor, cause| Err(Stopped { done: frames(cursor), cause });
            let (now, outcome) = match self.round(&list, job, cursor) {
                Ok(round) => round,
                Err(cause) => return stopped(cursor, cause),
            };
            let moves = (cursor..=list.count).contains(&now);
            let result = match outcome {
                Ok(result) => result,
                // The answer is lost, but the cursor is L1's own word.
                Err(cause) => return stopped(if moves { now } else { cursor }, cause),
            };
            if !moves || result.is_success() != (now == list.count) {
                return stopped(cursor, ShimError::BadCursor { was: cursor, now, entries: list.count, result });
            }
            if !result.is_success() && !result.is_again() {
                return stopped(now, ShimError::Refused { call: job.call(), result });
            }
            idle = if now > cursor { 0 } else { idle + 1 };
            cursor = now;
            if idle > self.limits.idle_rounds {
                let rounds = self.limits.idle_rounds;
                return stopped(cursor, ShimError::Stalled { call: job.call(), rounds });
            }
        }
        Ok(frames(list.count))
    }

    /// One call for the entries from `cursor` on: the cursor after it, read once, and what became of the call.
    fn round(&mut self, list: &List, job: Job, cursor: u16) -> Result<Round<P::Error>, ShimError<P::Error>> {
        let header = ListHeader { entries: list.count, next: cursor, reserved: 0 };
        self.put(CALL_BUFFER, header.as_bytes())?;
        let at = self.in_call_area(CALL_BUFFER);
        let outcome = self.call_once(job.call(), at.as_u64());
        let header: ListHeader = self.port.memory().read_value(at).map_err(ShimError::memory(at))?;
        Ok((header.next, outcome))
    }

    fn put(&self, offset: u64, bytes: &[u8]) -> Result<(), ShimError<P::Error>> {
        let at = self.in_call_area(offset);
        self.port.memory().write(at, bytes).map_err(ShimError::memory(at))
    }
}

/// Cursor and result of one call.
type Round<E> = (u16, Result<CallResult, ShimError<E>>);

/// The entries of a list, made once.
struct List {
    words: [u64; LIST_ENTRIES],
    count: u16,
}

impl List {
    fn new(blocks: Blocks, job: Job) -> Self {
        let mut list = Self { words: [0; LIST_ENTRIES], count: 0 };
        for (word, block) in list.words.iter_mut().zip(blocks) {
            *word = job.word(block);
            list.count += 1;
        }
        list
    }

    /// The entries that count, as bytes.
    fn entries(&self) -> &[u8] {
        self.words.get(..usize::from(self.count)).unwrap_or(&[]).as_bytes()
    }
}

/// The part of a range that one list holds.
fn one_list(range: FrameRange) -> FrameRange {
    let frames = range.blocks().take(LIST_ENTRIES).map(|block| block.size().frames()).sum();
    range.take(frames).unwrap_or(range)
}

/// The 2 MiB page at which L1 stopped because it holds it in small ones.
fn too_large<E>(range: FrameRange, stopped: &Stopped<ShimError<E>>) -> Option<FrameRange> {
    let ShimError::Refused { result: CallResult::FAIL_SIZE_MISMATCH, .. } = stopped.cause else { return None };
    let at = range.skip(stopped.done)?;
    let first: Block = at.blocks().next()?;
    (first.size() == PageSize::Large).then(|| at.take(FRAMES_PER_LARGE)).flatten()
}

/// A stop behind frames that are done already.
fn after<E>(done: u64, stopped: Stopped<E>) -> Stopped<E> {
    Stopped { done: done + stopped.done, ..stopped }
}
