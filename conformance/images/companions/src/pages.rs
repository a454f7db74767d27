//! The pages of companions, in a row.

use coco_part_api::range::SMALL;
use coco_part_api::vcpu::frame_at;
use coco_part_api::{FrameRange, Grants, GuestLevel, Rights};
use x86_64::PhysAddr;
use x86_64::structures::paging::PhysFrame;

use crate::LEVELS;

/// Page tables of a companion: root, and one of each of the two levels below.
const TABLES: u64 = 3;
/// Offsets in frames.
const CODE: u64 = 0;
const TASK: u64 = 1;
const DATA: u64 = 2;
const TABLE: u64 = DATA + LEVELS.len() as u64;
const STATE: u64 = TABLE + TABLES * LEVELS.len() as u64;

/// Where the companions' pages are. No one of them is aligned to 2 MiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pages(FrameRange);

impl Pages {
    /// How many there are.
    pub const FRAMES: u64 = STATE + LEVELS.len() as u64;

    /// Pages from an address on. `None` unless it is a multiple of 4 KiB and all of them lie in one block of 2 MiB behind its
    /// first page.
    #[must_use]
    pub fn at(first: u64) -> Option<Self> {
        let number = frame_at(first)?.start_address().as_u64() / SMALL % 512;
        let all = FrameRange::new(PhysAddr::new_truncate(first), Self::FRAMES * SMALL).ok()?;
        (number != 0 && number + Self::FRAMES <= 512).then_some(Self(all))
    }

    /// All of them.
    #[must_use]
    pub const fn all(self) -> FrameRange {
        self.0
    }

    /// The program.
    #[must_use]
    pub fn code(self) -> FrameRange {
        self.part(CODE, 1)
    }

    /// The task page.
    #[must_use]
    pub fn task(self) -> FrameRange {
        self.part(TASK, 1)
    }

    /// The data page of a companion.
    #[must_use]
    pub fn data(self, level: GuestLevel) -> FrameRange {
        self.part(DATA + index(level), 1)
    }

    /// Its page tables.
    #[must_use]
    pub fn tables(self, level: GuestLevel) -> FrameRange {
        self.part(TABLE + TABLES * index(level), TABLES)
    }

    /// Its state frame.
    #[must_use]
    pub fn state(self, level: GuestLevel) -> PhysFrame {
        self.part(STATE + index(level), 1).first()
    }

    /// What lower levels may do with each page that they have any right on.
    pub(crate) fn shares(self) -> [(FrameRange, Grants); 6] {
        let data = Rights::READ | Rights::WRITE;
        let both = |rights| Grants::NONE.with(GuestLevel::ONE, rights).with(GuestLevel::THREE, rights);
        let [one, three] = LEVELS;
        [
            (self.code(), both(Rights::READ | Rights::EXECUTE_SUPERVISOR)),
            (self.task(), both(Rights::READ).with(GuestLevel::TWO, data)),
            (self.data(one), Grants::one(one, data).with(GuestLevel::TWO, Rights::READ)),
            (self.data(three), Grants::one(three, data).with(GuestLevel::TWO, Rights::READ)),
            (self.tables(one), Grants::one(one, data)),
            (self.tables(three), Grants::one(three, data)),
        ]
    }

    /// A part of them; inside, as all offsets are.
    fn part(self, first: u64, frames: u64) -> FrameRange {
        self.0.skip(first).and_then(|rest| rest.take(frames)).unwrap_or(self.0)
    }
}

/// Which of the companions.
fn index(level: GuestLevel) -> u64 {
    u64::from(level != GuestLevel::ONE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_page_has_one_use() {
        let pages = Pages::at(0x3f_4000).unwrap();
        let [one, three] = LEVELS;
        let states = [one, three].map(|level| FrameRange::of(pages.state(level)));
        let parts = pages.shares().map(|(range, _)| range).into_iter().chain(states);
        let mut used = [0; Pages::FRAMES as usize];
        for block in parts.flat_map(FrameRange::small_blocks) {
            used[((block.start().as_u64() - 0x3f_4000) / SMALL) as usize] += 1;
        }
        assert_eq!(used, [1; Pages::FRAMES as usize]);
    }

    #[test]
    fn no_page_begins_a_large_one() {
        assert_eq!([0x40_0000, 0x3f_5000, 0x3f_4001, u64::MAX].map(Pages::at), [None; 4]);
        assert!(Pages::at(0x40_1000).is_some());
    }
}
