//! The privilege level of SNP.

use core::fmt;

use thiserror_no_std::Error;

/// A virtual machine privilege level, 0 to 3; 0 is the most privileged.
///
/// Shipping parts implement four (`facts/vmpl_perms.csv`, count). The type has no order on purpose: "smaller" and "more
/// privileged" are easily confused, [`Vmpl::is_above`] is not.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Vmpl(u8);

impl Vmpl {
    /// The level with every right.
    pub const VMPL0: Self = Self(0);
    /// The second level.
    pub const VMPL1: Self = Self(1);
    /// The third level.
    pub const VMPL2: Self = Self(2);
    /// The least privileged level.
    pub const VMPL3: Self = Self(3);
    /// All levels, most privileged first.
    pub const ALL: [Self; 4] = [Self::VMPL0, Self::VMPL1, Self::VMPL2, Self::VMPL3];

    /// Returns the number of the level, 0 to 3.
    pub const fn number(self) -> u8 {
        self.0
    }

    /// Says whether this level is more privileged than `other`.
    pub const fn is_above(self, other: Self) -> bool {
        self.0 < other.0
    }
}

impl TryFrom<u8> for Vmpl {
    type Error = InvalidVmpl;

    /// Converts a number from outside.
    ///
    /// # Errors
    /// [`InvalidVmpl`] if `value` is above 3.
    fn try_from(value: u8) -> Result<Self, InvalidVmpl> {
        if value <= 3 { Ok(Self(value)) } else { Err(InvalidVmpl { value }) }
    }
}

impl fmt::Debug for Vmpl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VMPL{}", self.0)
    }
}

/// A number that names no VMPL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("{value:#x} names no VMPL")]
pub struct InvalidVmpl {
    /// The number as it came.
    pub value: u8,
}

impl core::error::Error for InvalidVmpl {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_every_number_above_three_and_keeps_it() {
        for value in 0..=u8::MAX {
            match Vmpl::try_from(value) {
                Ok(vmpl) => assert!(value <= 3 && vmpl.number() == value),
                Err(error) => assert!(value > 3 && error == InvalidVmpl { value }),
            }
        }
    }

    #[test]
    fn smaller_numbers_are_above() {
        assert!(Vmpl::VMPL0.is_above(Vmpl::VMPL1));
        assert!(!Vmpl::VMPL1.is_above(Vmpl::VMPL1));
        assert!(!Vmpl::VMPL3.is_above(Vmpl::VMPL2));
    }
}
