//! A window of linear addresses that mirrors guest-physical memory.

use thiserror_no_std::Error;
use x86_64::{PhysAddr, VirtAddr};

/// Guest-physical addresses 0 to `len_bytes`, seen at `base` and above.
///
/// This type only computes addresses. That they are mapped is promised to those who use them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirectMap {
    base: VirtAddr,
    len_bytes: u64,
}

impl DirectMap {
    /// Describes a direct map of guest-physical memory from 0 on.
    ///
    /// # Errors
    /// [`DirectMapError::Misaligned`] if `base` is not a multiple of 2 MiB, which instructions for 2 MiB pages need;
    /// [`DirectMapError::DoesNotFit`] if the map would leave the half of the address space in which it starts.
    pub fn try_new(base: VirtAddr, len_bytes: u64) -> Result<Self, DirectMapError> {
        if !base.is_aligned(0x20_0000_u64) {
            return Err(DirectMapError::Misaligned { base });
        }
        let last = base.as_u64().checked_add(len_bytes.saturating_sub(1));
        let fits = last.is_some_and(|last| VirtAddr::try_new(last).is_ok() && (last ^ base.as_u64()) >> 63 == 0);
        if fits { Ok(Self { base, len_bytes }) } else { Err(DirectMapError::DoesNotFit { base, len_bytes }) }
    }

    /// Returns the linear address of guest-physical address 0.
    pub const fn base(self) -> VirtAddr {
        self.base
    }

    /// Returns the size in bytes.
    pub const fn len_bytes(self) -> u64 {
        self.len_bytes
    }

    /// Returns the linear address of `at`, or `None` unless all of `len_bytes` bytes from there lie in the map.
    pub fn linear(self, at: PhysAddr, len_bytes: u64) -> Option<u64> {
        let end = at.as_u64().checked_add(len_bytes)?;
        if end > self.len_bytes {
            return None;
        }
        self.base.as_u64().checked_add(at.as_u64())
    }
}

/// A direct map that cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum DirectMapError {
    /// The base is not a multiple of 2 MiB.
    #[error("direct map base {:#x} is not a multiple of 2 MiB", .base.as_u64())]
    Misaligned {
        /// The base as it came.
        base: VirtAddr,
    },
    /// The map runs out of the canonical addresses.
    #[error("direct map of {len_bytes:#x} bytes does not fit at {:#x}", .base.as_u64())]
    DoesNotFit {
        /// The base as it came.
        base: VirtAddr,
        /// The size as it came.
        len_bytes: u64,
    },
}

impl core::error::Error for DirectMapError {}

#[cfg(test)]
mod tests {
    use super::*;

    const UPPER: VirtAddr = VirtAddr::new(0xffff_8000_0000_0000);

    #[test]
    fn refuses_a_map_that_leaves_its_half() {
        let lower = VirtAddr::new(0x20_0000);
        assert!(DirectMap::try_new(lower, 0x7fff_ffe0_0000).is_ok());
        for (base, len_bytes) in [(lower, 0x7fff_ffe0_0001), (UPPER, 0x8000_0000_0001), (UPPER, u64::MAX)] {
            let error = DirectMapError::DoesNotFit { base, len_bytes };
            assert_eq!(DirectMap::try_new(base, len_bytes), Err(error));
        }
        assert!(DirectMap::try_new(UPPER, 0x8000_0000_0000).is_ok());
    }

    #[test]
    fn refuses_a_base_that_is_not_a_multiple_of_2_mib() {
        let base = VirtAddr::new(0xffff_8000_0010_0000);
        assert_eq!(DirectMap::try_new(base, 0x1000), Err(DirectMapError::Misaligned { base }));
    }

    #[test]
    fn no_byte_beyond_the_end_has_an_address() {
        let map = DirectMap::try_new(UPPER, 0x3000).unwrap();
        assert_eq!(map.linear(PhysAddr::new(0x2000), 0x1000), Some(0xffff_8000_0000_2000));
        assert_eq!(map.linear(PhysAddr::new(0x2001), 0x1000), None);
        assert_eq!(map.linear(PhysAddr::new(0x3000), 0), Some(0xffff_8000_0000_3000));
        assert_eq!(map.linear(PhysAddr::new(0xf_ffff_ffff_f000), u64::MAX), None);
    }
}
