//! Memory taken page by page, and never given back.

use coco_part_api::FrameRange;
use coco_part_api::range::LARGE;
use x86_64::structures::paging::PhysFrame;

/// What is left of a range.
#[derive(Clone, Debug)]
pub struct Arena {
    all: FrameRange,
    taken: u64,
}

impl Arena {
    /// All of `all` is free.
    #[must_use]
    pub const fn new(all: FrameRange) -> Self {
        Self { all, taken: 0 }
    }

    /// The next `frames` frames. `None` if there are not so many, or for zero.
    pub fn take(&mut self, frames: u64) -> Option<FrameRange> {
        let rest = self.all.skip(self.taken)?;
        let range = rest.take(frames).filter(|range| range.frames() == frames)?;
        self.taken += frames;
        Some(range)
    }

    /// The next frame that may become a VMSA: none that is aligned to 2 MiB.
    pub fn take_state_frame(&mut self) -> Option<PhysFrame> {
        loop {
            let frame = self.take(1)?.first();
            if !frame.start_address().is_aligned(LARGE) {
                return Some(frame);
            }
        }
    }

    /// What was taken; `None` if nothing was.
    #[must_use]
    pub const fn taken(&self) -> Option<FrameRange> {
        self.all.take(self.taken)
    }
}

#[cfg(test)]
mod tests {
    use x86_64::PhysAddr;

    use super::*;

    fn range(start: u64, frames: u64) -> FrameRange {
        FrameRange::new(PhysAddr::new(start), frames << 12).unwrap()
    }

    #[test]
    fn no_frame_is_taken_twice_and_none_that_is_not_there() {
        let mut arena = Arena::new(range(0x3000, 5));
        assert_eq!(arena.taken(), None);
        assert_eq!(arena.take(2), Some(range(0x3000, 2)));
        assert_eq!(arena.take(4), None);
        assert_eq!(arena.take(0), None);
        assert_eq!(arena.take(3), Some(range(0x5000, 3)));
        assert_eq!(arena.take(1), None);
        assert_eq!(arena.taken(), Some(range(0x3000, 5)));
    }

    #[test]
    fn a_frame_at_a_multiple_of_2_mib_never_becomes_a_vmsa() {
        let mut arena = Arena::new(range(LARGE - 0x1000, 3));
        let frames: Vec<_> = core::iter::from_fn(|| arena.take_state_frame()).collect();
        assert_eq!(frames, [range(LARGE - 0x1000, 1).first(), range(LARGE + 0x1000, 1).first()]);
    }
}
