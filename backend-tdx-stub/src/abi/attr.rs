//! Page operands and page attributes (fact tables `page_accept` and `page_attr`).

use coco_part_api::{Block, GuestLevel, PageSize, Rights};
use x86_64::PhysAddr;

bitflags::bitflags! {
    /// The 16 bits of one VM in an attribute word.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct VmAttributes: u16 {
        /// R: read.
        const READ = 1 << 0;
        /// W: write; legal with R only.
        const WRITE = 1 << 1;
        /// Xs: supervisor-mode execute; any execute while mode-based execute control is off.
        const EXECUTE_SUPERVISOR = 1 << 2;
        /// Xu: user-mode execute; needs mode-based execute control.
        const EXECUTE_USER = 1 << 3;
        /// VGP: verify guest paging.
        const VERIFY_GUEST_PAGING = 1 << 4;
        /// PWA: paging-write access.
        const PAGING_WRITE = 1 << 5;
        /// SSS: supervisor shadow-stack page.
        const SHADOW_STACK = 1 << 6;
        /// SVE: suppress #VE; read only.
        const SUPPRESS_VE = 1 << 7;
        /// VALID: in a value, this VM is updated, or has an alias; in a mask, INVEPT for this VM.
        const VALID = 1 << 15;
    }
}

impl VmAttributes {
    /// The four rights.
    pub const RIGHTS: Self = Self::READ.union(Self::WRITE).union(Self::EXECUTE_SUPERVISOR).union(Self::EXECUTE_USER);

    /// All that L1 may manage (GUEST_L2_GPA_ATTR_MASK).
    pub const MANAGED: Self = Self::RIGHTS
        .union(Self::VERIFY_GUEST_PAGING)
        .union(Self::PAGING_WRITE)
        .union(Self::SHADOW_STACK)
        .union(Self::VALID);

    /// These rights and no other, as a value to write. No right at all removes the alias.
    pub fn of(rights: Rights) -> Self {
        let pairs = [
            (Rights::READ, Self::READ),
            (Rights::WRITE, Self::WRITE),
            (Rights::EXECUTE_SUPERVISOR, Self::EXECUTE_SUPERVISOR),
            (Rights::EXECUTE_USER, Self::EXECUTE_USER),
        ];
        let set = pairs.into_iter().filter(|(right, _)| rights.contains(*right)).map(|(_, bit)| bit);
        set.fold(Self::VALID, Self::union)
    }
}

/// An attribute word: 16 bits per VM, VM 0 (L1) lowest. As a value in RDX, as a mask in R8.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attributes(pub u64);

impl Attributes {
    const fn shift(level: GuestLevel) -> u32 {
        16 * level.number() as u32
    }

    /// The part of one VM.
    pub fn of(self, level: GuestLevel) -> VmAttributes {
        VmAttributes::from_bits_retain((self.0 >> Self::shift(level)) as u16)
    }

    /// The same with another part for one VM.
    #[must_use]
    pub const fn with(self, level: GuestLevel, part: VmAttributes) -> Self {
        let shift = Self::shift(level);
        Self(self.0 & !(0xffff << shift) | (part.bits() as u64) << shift)
    }
}

/// Names a private page: level in bits 2:0 (0: 4 KiB, 1: 2 MiB, 2: 1 GiB), address in 51:12; bit 62 of an output says
/// that the page is pending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageInfo(pub u64);

impl PageInfo {
    const PENDING: u64 = 1 << 62;

    /// A page of the size of the block.
    pub fn of(block: Block) -> Self {
        let level = match block.size() {
            PageSize::Small => 0,
            PageSize::Large => 1,
        };
        Self(block.start().as_u64() | level)
    }

    /// The address alone, as ATTR.RD takes it.
    pub fn at(address: PhysAddr) -> Self {
        Self(address.as_u64() & 0xf_ffff_ffff_f000)
    }

    /// Level, 0 to 2 from an honest module.
    pub const fn level(self) -> u8 {
        (self.0 & 7) as u8
    }

    /// 4 KiB frames of a page of this level; `None` for a level that does not exist.
    pub const fn frames(self) -> Option<u64> {
        match self.level() {
            0 => Some(1),
            1 => Some(512),
            2 => Some(512 * 512),
            _ => None,
        }
    }

    /// The page waits to be accepted.
    pub const fn is_pending(self) -> bool {
        self.0 & Self::PENDING != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::Table;

    fn table() -> Table {
        Table::parse(include_str!("../../facts/page_attr.csv"))
    }

    #[test]
    fn bits_are_those_of_the_table() {
        let bits = [
            (0, "R", VmAttributes::READ),
            (1, "W", VmAttributes::WRITE),
            (2, "Xs", VmAttributes::EXECUTE_SUPERVISOR),
            (3, "Xu", VmAttributes::EXECUTE_USER),
            (4, "VGP", VmAttributes::VERIFY_GUEST_PAGING),
            (5, "PWA", VmAttributes::PAGING_WRITE),
            (6, "SSS", VmAttributes::SHADOW_STACK),
            (7, "SVE", VmAttributes::SUPPRESS_VE),
        ];
        let table = table();
        for (bit, name, flag) in bits {
            let item = std::format!("bit {bit} of each 16-bit part");
            assert_eq!(table.one("item", &item).text("bits_or_value"), name);
            assert_eq!(flag.bits(), 1 << bit);
        }
        assert_eq!(table.one("item", "bit 15").text("bits_or_value"), "VALID");
        assert_eq!(VmAttributes::VALID.bits(), 1 << 15);
    }

    #[test]
    fn masks_are_those_of_the_table() {
        let table = table();
        let mask = table.one("item", "GUEST_L2_GPA_ATTR_MASK").number("bits_or_value");
        assert_eq!(u64::from(VmAttributes::MANAGED.bits()), mask);
        for level in GuestLevel::ALL {
            let item = std::format!("VM{} R|W|Xs|Xu|VALID", level.number());
            let word = Attributes::default().with(level, VmAttributes::of(Rights::RAM));
            assert_eq!(word.0, table.one("item", &item).number("bits_or_value"));
            assert_eq!(word.of(level), VmAttributes::RIGHTS | VmAttributes::VALID);
        }
        let rights = Attributes::default().with(GuestLevel::ONE, VmAttributes::RIGHTS);
        assert_eq!(rights.0, table.one("item", "R8 change mask for VM1 R|W|Xs|Xu").number("bits_or_value"));
    }

    #[test]
    fn each_right_is_one_bit_and_no_right_is_valid_alone() {
        assert_eq!(VmAttributes::of(Rights::empty()), VmAttributes::VALID);
        assert_eq!(VmAttributes::of(Rights::READ | Rights::EXECUTE_USER).bits(), 0x8009);
        assert_eq!(VmAttributes::of(Rights::EXECUTE_SUPERVISOR).bits(), 0x8004);
    }

    #[test]
    fn levels_are_those_of_the_table() {
        let table = table();
        for (level, size) in [(0, 4096), (1, 2 << 20), (2, 1 << 30)] {
            let item = std::format!("level {level}");
            let meaning = table.one("item", &item).text("meaning");
            assert!(meaning.starts_with(&std::format!("{size} bytes")), "{meaning}");
            assert_eq!(PageInfo(level).frames(), Some(size / 4096));
        }
        assert_eq!(PageInfo(3).frames(), None);
        let large = Block::new(PhysAddr::new(0x20_0000), PageSize::Large).unwrap();
        assert_eq!(PageInfo::of(large).0, 0x20_0001);
        assert!(PageInfo(1 << 62).is_pending());
    }
}
