//! The page ledger: who holds each 4 KiB frame.
//!
//! Four bits per frame in atomics that the integrator hands in: 128 KiB per GiB. It is the source of truth for rules M2,
//! M7 and V1. Whoever wants to change frames *claims* them: every frame moves from the expected state to
//! [`State::Changing`] by compare-and-swap, 16 at once. Who comes second is refused and waits for nobody; no lock is held
//! while the backend works. A [`Claim`] puts everything back when it is dropped, so that an error path cannot forget it.

mod claim;
mod state;

use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};

use coco_part_api::FrameRange;
use x86_64::PhysAddr;
use x86_64::structures::paging::{PhysFrame, Size4KiB};

pub use claim::Claim;
use state::BITS;
pub use state::{State, Survey};

/// Frames in one word of storage.
const PER_WORD: u64 = (u64::BITS / BITS) as u64;
/// A word of frames that are claimed.
const CHANGING: u64 = State::Changing.pattern();
/// A one in each place of a word.
const ONES: u64 = 0x1111_1111_1111_1111;

/// A view of the ledger. Copies see the same frames.
#[derive(Clone, Copy)]
pub struct Ledger<'a> {
    words: &'a [AtomicU64],
    span: FrameRange,
}

/// Why a ledger operation was refused. Nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Some of the range is not in the ledger.
    Outside,
    /// This frame is being changed by somebody at this moment.
    Busy {
        /// The frame.
        at: PhysFrame<Size4KiB>,
    },
    /// This frame is in another state than expected.
    Found {
        /// The frame.
        at: PhysFrame<Size4KiB>,
        /// Its state.
        state: State,
    },
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Outside => f.write_str("range outside the ledger"),
            Self::Busy { at } => write!(f, "frame {:#x} is being changed", at.start_address()),
            Self::Found { at, state } => write!(f, "frame {:#x} is {state:?}", at.start_address()),
        }
    }
}

impl core::error::Error for Refusal {}

/// The part of one word that belongs to a range.
#[derive(Clone, Copy)]
struct Part {
    word: usize,
    mask: u64,
}

impl Part {
    /// The places of `count` frames from `index` on: 1 to 16 of them, all in one word.
    #[inline]
    const fn new(index: u64, count: u64) -> Self {
        let place = (index % PER_WORD) as u32;
        let ones = u64::MAX >> (u64::BITS - BITS * count as u32);
        Self { word: (index / PER_WORD) as usize, mask: ones << (place * BITS) }
    }
}

impl<'a> Ledger<'a> {
    /// Words of storage for `frames` frames: one per 16.
    pub const fn words_for(frames: u64) -> usize {
        frames.div_ceil(PER_WORD) as usize
    }

    /// A view of `words` as the states of the frames of `span`. Zeroed words say that nothing is private yet.
    ///
    /// # Errors
    /// [`Refusal::Outside`] when there are fewer words than [`words_for`](Self::words_for) asks.
    pub fn new(words: &'a [AtomicU64], span: FrameRange) -> Result<Self, Refusal> {
        if words.len() < Self::words_for(span.frames()) {
            return Err(Refusal::Outside);
        }
        Ok(Self { words, span })
    }

    /// The frames it knows.
    pub const fn span(&self) -> FrameRange {
        self.span
    }

    /// State of one frame, `None` outside the ledger.
    pub fn state(&self, frame: PhysFrame<Size4KiB>) -> Option<State> {
        let range = FrameRange::of(frame);
        let index = self.index(range)?;
        let word = self.words.get((index / PER_WORD) as usize)?.load(Ordering::Acquire);
        Some(State::from_nibble(word >> (index % PER_WORD * u64::from(BITS))))
    }

    /// Which states occur in a range; nothing outside the ledger.
    pub fn survey(&self, range: FrameRange) -> Survey {
        let mut seen = Survey::default();
        for part in self.parts(range).into_iter().flatten() {
            let Some(word) = self.words.get(part.word) else { continue };
            let word = word.load(Ordering::Acquire);
            for place in 0..PER_WORD as u32 {
                if part.mask >> (place * BITS) & 0xf != 0 {
                    seen = seen.with(State::from_nibble(word >> (place * BITS)));
                }
            }
        }
        seen
    }

    /// Place of the first frame in this state among the `frames` frames from place `from` on, counted from the ledger's first
    /// frame. `None` also when there is no such place.
    pub(crate) fn find(&self, state: State, from: u64, frames: u64) -> Option<u64> {
        let left = self.span.frames().checked_sub(from)?.min(frames);
        (Parts { next: from, left }).find_map(|part| {
            let word = self.words.get(part.word)?.load(Ordering::Acquire);
            let differs = (word ^ state.pattern()) | !part.mask;
            // The lowest place that this marks is the first one without a difference.
            let same = differs.wrapping_sub(ONES) & !differs & (ONES << (BITS - 1));
            (same != 0).then(|| part.word as u64 * PER_WORD + u64::from(same.trailing_zeros() / BITS))
        })
    }

    /// The frame at a place that [`find`](Self::find) gave.
    pub(crate) const fn frame(&self, place: u64) -> PhysFrame<Size4KiB> {
        // Inside the span, which lies below 2^52.
        PhysFrame::containing_address(PhysAddr::new_truncate((self.span.first_number() + place) << 12))
    }

    /// Claims a range: all of its frames, all of them in `from`, or none.
    ///
    /// # Errors
    /// [`Refusal::Busy`] for a frame that somebody else has claimed, [`Refusal::Found`] for one in another state,
    /// [`Refusal::Outside`]. Frames that were claimed on the way are back in `from`.
    #[inline(never)]
    pub fn claim(&self, range: FrameRange, from: State) -> Result<Claim<'a>, Refusal> {
        self.claim_here(range, from)
    }

    /// [`claim`](Self::claim) without a call, for the one place where it counts.
    #[inline(always)]
    pub(crate) fn claim_here(&self, range: FrameRange, from: State) -> Result<Claim<'a>, Refusal> {
        let parts = self.parts(range).ok_or(Refusal::Outside)?;
        match parts.only() {
            Some(part) => self.take(part, from.pattern())?,
            None => self.take_all(range, parts, from)?,
        }
        Ok(Claim::new(*self, range, from))
    }

    /// Moves a range from one state to another, for setting up: what the loader or the machine has done already.
    ///
    /// # Errors
    /// As [`claim`](Self::claim).
    pub fn adopt(&self, range: FrameRange, from: State, to: State) -> Result<(), Refusal> {
        self.claim(range, from)?.commit(to);
        Ok(())
    }

    /// Moves all frames of a range to "changing", or none.
    fn take_all(&self, range: FrameRange, mut parts: Parts, from: State) -> Result<(), Refusal> {
        let expected = from.pattern();
        let mut left = parts.left;
        while let Some(part) = parts.next() {
            if let Err(refusal) = self.take(part, expected) {
                if let Some(back) = range.take(range.frames() - left) {
                    self.release(back, from);
                }
                return Err(refusal);
            }
            left = parts.left;
        }
        Ok(())
    }

    /// Gives claimed frames another state. Only for frames the caller has claimed.
    #[inline(never)]
    fn release(&self, range: FrameRange, to: State) {
        self.release_here(range, to);
    }

    /// [`release`](Self::release) without a call.
    #[inline(always)]
    fn release_here(&self, range: FrameRange, to: State) {
        // The frames are ours and hold "changing", so flipping the difference is one step without a retry.
        let flips = CHANGING ^ to.pattern();
        let Some(parts) = self.parts(range) else { return };
        match parts.only() {
            Some(part) => self.flip(part, flips),
            None => self.flip_all(parts, flips),
        }
    }

    fn flip_all(&self, parts: Parts, flips: u64) {
        for part in parts {
            self.flip(part, flips);
        }
    }

    #[inline]
    fn flip(&self, part: Part, flips: u64) {
        if let Some(word) = self.words.get(part.word) {
            word.fetch_xor(part.mask & flips, Ordering::AcqRel);
        }
    }

    /// One compare-and-swap to "changing", repeated only when other frames of the word have changed meanwhile.
    #[inline]
    fn take(&self, part: Part, expected: u64) -> Result<(), Refusal> {
        let word = self.words.get(part.word).ok_or(Refusal::Outside)?;
        let mut held = word.load(Ordering::Acquire);
        loop {
            let wrong = (held ^ expected) & part.mask;
            if wrong != 0 || expected == CHANGING {
                return Err(self.refusal(part, wrong, held));
            }
            let changed = held & !part.mask | CHANGING & part.mask;
            match word.compare_exchange_weak(held, changed, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return Ok(()),
                Err(now) => held = now,
            }
        }
    }

    #[cold]
    fn refusal(&self, part: Part, wrong: u64, held: u64) -> Refusal {
        let bits = if wrong == 0 { part.mask } else { wrong };
        let place = bits.trailing_zeros() / BITS % PER_WORD as u32;
        let at = self.frame(part.word as u64 * PER_WORD + u64::from(place));
        match State::from_nibble(held >> (place * BITS)) {
            State::Changing => Refusal::Busy { at },
            state => Refusal::Found { at, state },
        }
    }

    /// Position of a range's first frame, `None` unless all of it is in the ledger.
    #[inline]
    fn index(&self, range: FrameRange) -> Option<u64> {
        self.span.contains(range).then(|| range.first_number() - self.span.first_number())
    }

    /// The words of a range, `None` unless all of it is in the ledger.
    #[inline]
    fn parts(&self, range: FrameRange) -> Option<Parts> {
        self.index(range).map(|next| Parts { next, left: range.frames() })
    }
}

/// The parts of a range, word by word.
struct Parts {
    next: u64,
    left: u64,
}

impl Parts {
    /// The only part there is; `None` for frames of several words.
    #[inline]
    fn only(&self) -> Option<Part> {
        let place = self.next % PER_WORD;
        (self.left <= PER_WORD - place).then(|| Part::new(self.next, self.left))
    }
}

impl Iterator for Parts {
    type Item = Part;

    #[inline]
    fn next(&mut self) -> Option<Part> {
        if self.left == 0 {
            return None;
        }
        let count = self.left.min(PER_WORD - self.next % PER_WORD);
        let part = Part::new(self.next, count);
        self.next += count;
        self.left -= count;
        Some(part)
    }
}

impl fmt::Debug for Ledger<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ledger({:?})", self.span)
    }
}

#[cfg(test)]
mod tests;
