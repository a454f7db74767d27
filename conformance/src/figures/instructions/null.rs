//! What surrounds the counted code: memory that is a plain array, and a processor that nobody waits for.

use std::cell::Cell;
use std::fmt;
use std::hint::black_box;

use coco_part_api::{Emulate, Error, ErrorKind, FrameRange, GuestMemory, Processor, VcpuId};
use x86_64::PhysAddr;

/// Guest memory from address 0 on, zero at first. Reading and writing it is counted, as the monitor's own work.
#[derive(Clone, Copy)]
pub(super) struct NullMemory(&'static [Cell<u8>]);

/// An access behind its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Outside;

impl fmt::Display for Outside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("outside of memory")
    }
}

impl std::error::Error for Outside {}

impl Error for Outside {
    fn kind(&self) -> ErrorKind {
        ErrorKind::Inaccessible
    }
}

impl NullMemory {
    /// `len` bytes, for the rest of the process.
    pub(super) fn new(len: usize) -> Self {
        Self(Cell::from_mut(vec![0; len].leak()).as_slice_of_cells())
    }

    #[inline]
    fn part(self, at: PhysAddr, len: usize) -> Result<&'static [Cell<u8>], Outside> {
        let first = usize::try_from(at.as_u64()).map_err(|_| Outside)?;
        self.0.get(first..).and_then(|rest| rest.get(..len)).ok_or(Outside)
    }
}

impl GuestMemory for NullMemory {
    type Fault = Outside;

    #[inline]
    fn read(&self, at: PhysAddr, into: &mut [u8]) -> Result<(), Outside> {
        let part = self.part(at, into.len())?;
        into.iter_mut().zip(part).for_each(|(to, from)| *to = from.get());
        Ok(())
    }

    #[inline]
    fn write(&self, at: PhysAddr, from: &[u8]) -> Result<(), Outside> {
        let part = self.part(at, from.len())?;
        part.iter().zip(from).for_each(|(to, from)| to.set(*from));
        Ok(())
    }

    #[inline]
    fn zero(&self, range: FrameRange) -> Result<(), Outside> {
        uncounted::zero(range)
    }

    #[inline]
    fn swap_u8(&self, at: PhysAddr, value: u8) -> Result<u8, Outside> {
        let byte = self.part(at, 1)?.first().ok_or(Outside)?;
        Ok(byte.replace(value))
    }

    #[inline]
    fn compare_exchange_u64(&self, at: PhysAddr, expected: u64, new: u64) -> Result<u64, Outside> {
        let found = self.read_value(at)?;
        if found == expected {
            self.write_value(at, &new)?;
        }
        Ok(found)
    }
}

/// What is not counted: functions below a module of this name cost nothing. They are called as the real thing would be, with
/// all operands, and the compiler knows nothing of what they return.
mod uncounted {
    use super::{FrameRange, Outside, black_box};

    #[inline(never)]
    pub(super) fn zero(range: FrameRange) -> Result<(), Outside> {
        black_box(range);
        black_box(Ok(()))
    }
}

/// There is nobody to kick or to wait for.
pub(super) struct NullProcessor;

impl Processor for NullProcessor {
    fn kick(&mut self, _who: VcpuId) {}

    fn idle(&mut self) {}

    fn pause(&mut self) {}
}

impl Emulate for NullProcessor {}
