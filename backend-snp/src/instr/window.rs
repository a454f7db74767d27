//! Raw access to guest memory through a direct map.
//!
//! Everything here is memory that the host, another level or another vCPU may change at any time. So no Rust reference
//! ever points into it: bytes are copied in and out with volatile accesses, flags are changed with atomic ones. Which
//! alias of the memory is meant, private or shared, is fixed by the direct map: make one window for each.

use core::ptr;
use core::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use coco_part_api::{ErrorKind, FrameRange, GuestMemory};
use thiserror_no_std::Error;
use x86_64::PhysAddr;

use super::direct_map::DirectMap;

/// A window onto guest memory, private or shared. A copy of a window is the same window.
#[derive(Clone, Copy, Debug)]
pub struct NativeWindow {
    map: DirectMap,
}

impl NativeWindow {
    /// Opens the window.
    ///
    /// # Safety
    /// For as long as the window or a copy of it is used:
    /// - every linear address of `map` that is accessed is mapped, readable and writable, to that guest-physical address
    ///   and no other, or its access raises an exception whose handler does not return;
    /// - no address that is accessed belongs to a Rust object or to code, a stack or a page table in use. In this crate
    ///   that is the duty of the code above, which the monitor's page ledger guards.
    pub const unsafe fn new(map: DirectMap) -> Self {
        Self { map }
    }

    /// Returns the direct map behind the window.
    pub const fn map(&self) -> DirectMap {
        self.map
    }

    /// Copies `into.len()` bytes at `at` into `into`. Bytes that change meanwhile may be mixed from old and new.
    ///
    /// # Errors
    /// [`WindowError::OutOfRange`], and `into` is unchanged.
    pub fn read(&self, at: PhysAddr, into: &mut [u8]) -> Result<(), WindowError> {
        let mut linear = self.start(at, into.len())?;
        let misaligned = misaligned_head(linear).min(into.len());
        let (head, rest) = into.split_at_mut(misaligned);
        let (words, tail) = rest.as_chunks_mut::<8>();
        for byte in head {
            *byte = read_u8(linear);
            linear = linear.wrapping_add(1);
        }
        for word in words {
            *word = read_u64(linear).to_ne_bytes();
            linear = linear.wrapping_add(8);
        }
        for byte in tail {
            *byte = read_u8(linear);
            linear = linear.wrapping_add(1);
        }
        Ok(())
    }

    /// Copies `from` to `at`. Others may see parts of it before the rest.
    ///
    /// # Errors
    /// [`WindowError::OutOfRange`], and nothing is written.
    pub fn write(&self, at: PhysAddr, from: &[u8]) -> Result<(), WindowError> {
        let mut linear = self.start(at, from.len())?;
        let misaligned = misaligned_head(linear).min(from.len());
        let (head, rest) = from.split_at(misaligned);
        let (words, tail) = rest.as_chunks::<8>();
        for byte in head {
            write_u8(linear, *byte);
            linear = linear.wrapping_add(1);
        }
        for word in words {
            write_u64(linear, u64::from_ne_bytes(*word));
            linear = linear.wrapping_add(8);
        }
        for byte in tail {
            write_u8(linear, *byte);
            linear = linear.wrapping_add(1);
        }
        Ok(())
    }

    /// Writes zeros to `len_bytes` bytes at `at`. The compiler cannot leave it out.
    ///
    /// # Errors
    /// [`WindowError::OutOfRange`], and nothing is written.
    pub fn zero(&self, at: PhysAddr, len_bytes: usize) -> Result<(), WindowError> {
        let mut linear = self.start(at, len_bytes)?;
        let head = misaligned_head(linear).min(len_bytes);
        let rest = len_bytes.saturating_sub(head);
        for _ in 0..head {
            write_u8(linear, 0);
            linear = linear.wrapping_add(1);
        }
        for _ in 0..rest / 8 {
            write_u64(linear, 0);
            linear = linear.wrapping_add(8);
        }
        for _ in 0..rest % 8 {
            write_u8(linear, 0);
            linear = linear.wrapping_add(1);
        }
        Ok(())
    }

    /// Atomically stores `value` at `at` and returns the byte that was there. Sequentially consistent.
    ///
    /// # Errors
    /// [`WindowError::OutOfRange`], and nothing is written.
    pub fn swap_u8(&self, at: PhysAddr, value: u8) -> Result<u8, WindowError> {
        let linear = self.start(at, 1)?;
        // SAFETY: the byte is in the window, whose addresses `new` was promised to be usable, and is only accessed
        // through raw pointers: no Rust object is there.
        let byte = unsafe { AtomicU8::from_ptr(ptr::with_exposed_provenance_mut(linear)) };
        Ok(byte.swap(value, Ordering::SeqCst))
    }

    /// Atomically stores `new` at `at` if `expected` is there, and returns what was there. Sequentially consistent.
    ///
    /// The store happened if the returned value is `expected`.
    ///
    /// # Errors
    /// [`WindowError::Misaligned`] if `at` is not a multiple of 8; [`WindowError::OutOfRange`]. Nothing is written then.
    pub fn compare_exchange_u64(&self, at: PhysAddr, expected: u64, new: u64) -> Result<u64, WindowError> {
        if !at.is_aligned(8_u64) {
            return Err(WindowError::Misaligned { at });
        }
        let linear = self.start(at, 8)?;
        // SAFETY: the word is in the window, whose addresses `new` was promised to be usable, and is only accessed
        // through raw pointers. It is aligned: `at` and the base of every direct map are multiples of 8.
        let word = unsafe { AtomicU64::from_ptr(ptr::with_exposed_provenance_mut(linear)) };
        let (Ok(was) | Err(was)) = word.compare_exchange(expected, new, Ordering::SeqCst, Ordering::SeqCst);
        Ok(was)
    }

    /// Returns the linear address of `at` if all of `len_bytes` bytes from there lie in the window.
    fn start(&self, at: PhysAddr, len_bytes: usize) -> Result<usize, WindowError> {
        let error = WindowError::OutOfRange { at, len_bytes };
        let len = u64::try_from(len_bytes).map_err(|_| error)?;
        let linear = self.map.linear(at, len).ok_or(error)?;
        usize::try_from(linear).map_err(|_| error)
    }
}

impl GuestMemory for NativeWindow {
    type Fault = WindowError;

    fn read(&self, at: PhysAddr, into: &mut [u8]) -> Result<(), WindowError> {
        Self::read(self, at, into)
    }

    fn write(&self, at: PhysAddr, from: &[u8]) -> Result<(), WindowError> {
        Self::write(self, at, from)
    }

    fn zero(&self, range: FrameRange) -> Result<(), WindowError> {
        let (at, len_bytes) = (range.start(), usize::MAX);
        let len_bytes = usize::try_from(range.bytes()).map_err(|_| WindowError::OutOfRange { at, len_bytes })?;
        Self::zero(self, at, len_bytes)
    }

    fn swap_u8(&self, at: PhysAddr, value: u8) -> Result<u8, WindowError> {
        Self::swap_u8(self, at, value)
    }

    fn compare_exchange_u64(&self, at: PhysAddr, expected: u64, new: u64) -> Result<u64, WindowError> {
        Self::compare_exchange_u64(self, at, expected, new)
    }
}

/// An access that the window refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum WindowError {
    /// Not all of the bytes lie in the window.
    #[error("{len_bytes:#x} bytes at {:#x} leave the memory window", .at.as_u64())]
    OutOfRange {
        /// Guest-physical address as it came.
        at: PhysAddr,
        /// Length in bytes.
        len_bytes: usize,
    },
    /// An atomic access to a word that is not aligned.
    #[error("atomic access to {:#x} is not aligned", .at.as_u64())]
    Misaligned {
        /// Guest-physical address as it came.
        at: PhysAddr,
    },
}

impl core::error::Error for WindowError {}

impl coco_part_api::Error for WindowError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::OutOfRange { .. } => ErrorKind::OutOfRange,
            Self::Misaligned { .. } => ErrorKind::Misaligned,
        }
    }
}

/// Bytes from `linear` up to the next multiple of 8.
const fn misaligned_head(linear: usize) -> usize {
    linear.wrapping_neg() % 8
}

// The four functions below are called by the methods above only, with an address inside of the window; the words with
// a multiple of 8. Additions there cannot wrap, because the whole range was checked.

fn read_u8(linear: usize) -> u8 {
    // SAFETY: the address is in a window, whose addresses `new` was promised to be usable and free of Rust objects.
    unsafe { ptr::with_exposed_provenance::<u8>(linear).read_volatile() }
}

fn read_u64(linear: usize) -> u64 {
    // SAFETY: as for `read_u8`, and the address is a multiple of 8.
    unsafe { ptr::with_exposed_provenance::<u64>(linear).read_volatile() }
}

fn write_u8(linear: usize, value: u8) {
    // SAFETY: the address is in a window, whose addresses `new` was promised to be usable and free of Rust objects.
    unsafe { ptr::with_exposed_provenance_mut::<u8>(linear).write_volatile(value) }
}

fn write_u64(linear: usize, value: u64) {
    // SAFETY: as for `write_u8`, and the address is a multiple of 8.
    unsafe { ptr::with_exposed_provenance_mut::<u64>(linear).write_volatile(value) }
}

#[cfg(test)]
#[path = "window_tests.rs"]
mod tests;
