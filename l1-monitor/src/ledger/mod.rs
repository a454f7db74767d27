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
        for part in self.parts(range) {
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

    /// Claims a range: all of its frames, all of them in `from`, or none.
    ///
    /// # Errors
    /// [`Refusal::Busy`] for a frame that somebody else has claimed, [`Refusal::Found`] for one in another state,
    /// [`Refusal::Outside`]. Frames that were claimed on the way are back in `from`.
    pub fn claim(&self, range: FrameRange, from: State) -> Result<Claim<'a>, Refusal> {
        self.index(range).ok_or(Refusal::Outside)?;
        let mut taken = 0;
        for part in self.parts(range) {
            if let Err(refusal) = self.swap(part, from, State::Changing) {
                if let Some(back) = range.take(taken) {
                    self.release(back, from);
                }
                return Err(refusal);
            }
            taken += u64::from(part.mask.count_ones() / BITS);
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

    /// Gives claimed frames another state. Only for frames the caller has claimed.
    fn release(&self, range: FrameRange, to: State) {
        for part in self.parts(range) {
            if let Some(word) = self.words.get(part.word) {
                // The frames are ours and hold "changing", so flipping the difference is one step without a retry.
                word.fetch_xor(part.mask & (State::Changing.pattern() ^ to.pattern()), Ordering::AcqRel);
            }
        }
    }

    /// One compare-and-swap, repeated only when other frames of the word have changed meanwhile.
    fn swap(&self, part: Part, from: State, to: State) -> Result<(), Refusal> {
        let word = self.words.get(part.word).ok_or(Refusal::Outside)?;
        let mut held = word.load(Ordering::Acquire);
        loop {
            let wrong = (held ^ from.pattern()) & part.mask;
            if wrong != 0 || from == State::Changing {
                return Err(self.refusal(part, wrong, held));
            }
            let wanted = held & !part.mask | to.pattern() & part.mask;
            match word.compare_exchange_weak(held, wanted, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return Ok(()),
                Err(now) => held = now,
            }
        }
    }

    fn refusal(&self, part: Part, wrong: u64, held: u64) -> Refusal {
        let bits = if wrong == 0 { part.mask } else { wrong };
        let place = bits.trailing_zeros() / BITS % PER_WORD as u32;
        // Inside the span, which lies below 2^52.
        let number = self.span.first_number() + part.word as u64 * PER_WORD + u64::from(place);
        let at = PhysFrame::containing_address(PhysAddr::new_truncate(number << 12));
        match State::from_nibble(held >> (place * BITS)) {
            State::Changing => Refusal::Busy { at },
            state => Refusal::Found { at, state },
        }
    }

    /// Position of a range's first frame, `None` unless all of it is in the ledger.
    fn index(&self, range: FrameRange) -> Option<u64> {
        self.span.contains(range).then(|| range.first_number() - self.span.first_number())
    }

    fn parts(&self, range: FrameRange) -> impl Iterator<Item = Part> + use<> {
        let (mut next, mut left) = match self.index(range) {
            Some(index) => (index, range.frames()),
            None => (0, 0),
        };
        core::iter::from_fn(move || {
            let place = next % PER_WORD;
            let count = left.min(PER_WORD - place);
            if count == 0 {
                return None;
            }
            let ones = u64::MAX >> (u64::BITS - BITS * count as u32);
            let part = Part { word: (next / PER_WORD) as usize, mask: ones << (place * u64::from(BITS)) };
            next += count;
            left -= count;
            Some(part)
        })
    }
}

impl fmt::Debug for Ledger<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ledger({:?})", self.span)
    }
}

#[cfg(test)]
mod tests;
