//! What a level below the monitor may do with a page.

use crate::level::{GUEST_LEVELS, GuestLevel};

bitflags::bitflags! {
    /// Rights of one guest level on one page.
    ///
    /// Writing without reading is not a legal set on any vendor ([`Rights::is_legal`]).
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub struct Rights: u8 {
        /// Data may be read.
        const READ = 1;
        /// Data may be written.
        const WRITE = 2;
        /// Instructions may be fetched at CPL 3.
        const EXECUTE_USER = 4;
        /// Instructions may be fetched at CPL 0 to 2.
        const EXECUTE_SUPERVISOR = 8;
        /// Supervisor shadow stacks may lie here. No part of [`Rights::RAM`]; where the machine has no such right, granting it
        /// is `Unsupported`.
        const SHADOW_STACK = 16;
    }
}

impl Rights {
    /// Ordinary RAM of a guest.
    pub const RAM: Self = Self::READ.union(Self::WRITE).union(Self::EXECUTE_USER).union(Self::EXECUTE_SUPERVISOR);

    /// False for a set that no machine takes: write without read.
    #[inline]
    pub const fn is_legal(self) -> bool {
        !self.contains(Self::WRITE) || self.contains(Self::READ)
    }
}

/// The rights of every guest level on a page; levels that are not named have none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Grants([Rights; GUEST_LEVELS]);

impl Default for Rights {
    fn default() -> Self {
        Self::empty()
    }
}

impl Grants {
    /// No rights for anybody below the monitor.
    pub const NONE: Self = Self([Rights::empty(); GUEST_LEVELS]);

    /// `rights` for `level` and none for the others.
    #[inline]
    pub const fn one(level: GuestLevel, rights: Rights) -> Self {
        Self::NONE.with(level, rights)
    }

    /// The same with `rights` for `level`.
    #[must_use]
    #[inline]
    pub const fn with(mut self, level: GuestLevel, rights: Rights) -> Self {
        self.0[level.index()] = rights;
        self
    }

    /// The rights of `level`.
    #[inline]
    pub const fn of(&self, level: GuestLevel) -> Rights {
        self.0[level.index()]
    }

    /// False when the rights of some level are a set that no machine takes.
    #[inline]
    pub fn is_legal(&self) -> bool {
        self.0.iter().all(|rights| rights.is_legal())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn write_without_read_is_no_legal_set() {
        assert!(!Rights::WRITE.is_legal());
        assert!(Rights::RAM.is_legal() && Rights::empty().is_legal());
        assert!(!Grants::one(GuestLevel::THREE, Rights::WRITE).is_legal());
    }

    #[test]
    fn shadow_stacks_are_no_part_of_ram() {
        assert!(!Rights::RAM.contains(Rights::SHADOW_STACK));
        assert_eq!(Rights::RAM | Rights::SHADOW_STACK, Rights::all());
    }

    #[test]
    fn unnamed_levels_have_no_rights() {
        let grants = Grants::one(GuestLevel::TWO, Rights::RAM);
        assert_eq!(grants.of(GuestLevel::ONE), Rights::empty());
        assert_eq!(grants.of(GuestLevel::TWO), Rights::RAM);
    }
}
