//! Privilege levels: the monitor, and the guest levels below it.

use core::fmt;
use core::num::NonZeroU8;

/// How many guest levels the interface can name.
pub const GUEST_LEVELS: usize = 3;

/// A level below the monitor: VMPL 1 to 3, L2 VM 1 to 3, plane 1 to 3.
///
/// The type cannot name the monitor, so "create a vCPU at the monitor's level" cannot be said for a guest (rule V3). It
/// has no order: VMPLs form a hierarchy, L2 VMs and planes are siblings ([`Hierarchy`](crate::Hierarchy) says which).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct GuestLevel(NonZeroU8);

impl GuestLevel {
    /// Guest level 1.
    pub const ONE: Self = Self(NonZeroU8::MIN);
    /// Guest level 2.
    pub const TWO: Self = Self(NonZeroU8::MIN.saturating_add(1));
    /// Guest level 3.
    pub const THREE: Self = Self(NonZeroU8::MIN.saturating_add(2));

    /// All guest levels.
    pub const ALL: [Self; GUEST_LEVELS] = [Self::ONE, Self::TWO, Self::THREE];

    /// The vendor's number of the level, 1 to 3.
    #[inline]
    pub const fn number(self) -> u8 {
        self.0.get()
    }

    /// Position in an array with one slot per guest level, 0 to 2.
    #[inline]
    pub const fn index(self) -> usize {
        (self.0.get() - 1) as usize
    }
}

impl TryFrom<u8> for GuestLevel {
    type Error = NoSuchLevel;

    fn try_from(number: u8) -> Result<Self, NoSuchLevel> {
        match number {
            1 => Ok(Self::ONE),
            2 => Ok(Self::TWO),
            3 => Ok(Self::THREE),
            _ => Err(NoSuchLevel { number }),
        }
    }
}

impl fmt::Debug for GuestLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GuestLevel({})", self.0)
    }
}

/// A number that names no guest level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoSuchLevel {
    /// The number as it came.
    pub number: u8,
}

impl fmt::Display for NoSuchLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is no guest level (1 to 3)", self.number)
    }
}

impl core::error::Error for NoSuchLevel {}

/// Any level of a confidential VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Level {
    /// The most privileged part: VMPL 0, the L1 VMM, plane 0.
    Monitor,
    /// A part below it.
    Guest(GuestLevel),
}

impl Level {
    /// The vendor's number of the level: 0 for the monitor, 1 to 3 below it.
    #[inline]
    pub const fn number(self) -> u8 {
        match self {
            Self::Monitor => 0,
            Self::Guest(level) => level.number(),
        }
    }
}

impl From<GuestLevel> for Level {
    fn from(level: GuestLevel) -> Self {
        Self::Guest(level)
    }
}

impl TryFrom<u8> for Level {
    type Error = NoSuchLevel;

    fn try_from(number: u8) -> Result<Self, NoSuchLevel> {
        match number {
            0 => Ok(Self::Monitor),
            _ => GuestLevel::try_from(number).map(Self::Guest),
        }
    }
}

/// A virtual CPU of the confidential VM: its APIC id on SNP, its vCPU index on TDX.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VcpuId(pub u32);

impl VcpuId {
    /// Position in storage with one slot per vCPU; callers check it against the length.
    #[inline]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for VcpuId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "vCPU {}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_and_four_are_no_guest_levels() {
        assert_eq!(GuestLevel::try_from(0), Err(NoSuchLevel { number: 0 }));
        assert_eq!(GuestLevel::try_from(4), Err(NoSuchLevel { number: 4 }));
        assert_eq!(Level::try_from(0), Ok(Level::Monitor));
        assert_eq!(Level::try_from(200), Err(NoSuchLevel { number: 200 }));
    }

    #[test]
    fn numbers_and_indices_agree() {
        for (index, level) in GuestLevel::ALL.into_iter().enumerate() {
            assert_eq!(level.index(), index);
            assert_eq!(GuestLevel::try_from(level.number()), Ok(level));
            assert_eq!(Level::from(level).number(), level.number());
        }
    }
}
