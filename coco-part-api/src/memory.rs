//! Guest memory as a handle.
//!
//! No Rust reference ever points into memory that the host or a lower level can write: bytes are copied in, checked, and
//! only then used (rule H1).
//!
//! # For backend authors
//! A handle must refuse, not touch, an access that leaves the memory it was set up for; must not be split by the
//! compiler into several reads of one byte (volatile or atomic accesses); and must report a fault as an error wherever
//! the machine lets it survive one.

use x86_64::PhysAddr;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::error::Error;
use crate::range::FrameRange;

/// A cloneable handle to guest-physical memory as one level sees it.
pub trait GuestMemory: Clone {
    /// Why an access did not happen.
    type Fault: Error;

    /// Copies bytes out of guest memory.
    ///
    /// # Errors
    /// The access leaves the memory of the handle, or faults. `into` may have been written in part.
    fn read(&self, at: PhysAddr, into: &mut [u8]) -> Result<(), Self::Fault>;

    /// Copies bytes into guest memory.
    ///
    /// # Errors
    /// As [`read`](Self::read); a prefix may have been written.
    fn write(&self, at: PhysAddr, from: &[u8]) -> Result<(), Self::Fault>;

    /// Fills whole pages with zeros.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    fn zero(&self, range: FrameRange) -> Result<(), Self::Fault>;

    /// Exchanges one byte in one step and gives the old one.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    fn swap_u8(&self, at: PhysAddr, value: u8) -> Result<u8, Self::Fault>;

    /// Stores `new` in the 8-byte aligned quadword at `at` if it holds `expected`; gives what it held.
    ///
    /// # Errors
    /// As [`read`](Self::read), and when `at` is not 8-byte aligned.
    fn compare_exchange_u64(&self, at: PhysAddr, expected: u64, new: u64) -> Result<u64, Self::Fault>;

    /// Copies one value out of guest memory.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    fn read_value<T: FromBytes + IntoBytes>(&self, at: PhysAddr) -> Result<T, Self::Fault> {
        let mut value = T::new_zeroed();
        self.read(at, value.as_mut_bytes())?;
        Ok(value)
    }

    /// Copies one value into guest memory.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    fn write_value<T: IntoBytes + Immutable>(&self, at: PhysAddr, value: &T) -> Result<(), Self::Fault> {
        self.write(at, value.as_bytes())
    }
}

/// Something that can hand out its own level's view of private guest memory.
pub trait HasMemory {
    /// The handle.
    type Memory: GuestMemory;

    /// A handle to private memory.
    fn memory(&self) -> Self::Memory;
}

/// The address `offset` bytes behind `at`, or `None` beyond the 52 bits of physical addresses.
///
/// `PhysAddr + u64` panics there, so untrusted addresses go through this.
#[inline]
pub fn offset(at: PhysAddr, offset: u64) -> Option<PhysAddr> {
    PhysAddr::try_new(at.as_u64().checked_add(offset)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_offset_beyond_the_address_space_is_none() {
        let last = PhysAddr::new(0xf_ffff_ffff_ffff);
        assert_eq!(offset(last, 1), None);
        assert_eq!(offset(last, u64::MAX), None);
        assert_eq!(offset(PhysAddr::new(8), 8), Some(PhysAddr::new(16)));
    }
}
