//! The bytes of an input, and memory for what they become.

use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;

use coco_part_api::{Error, ErrorKind, FrameRange, GuestMemory};
use x86_64::PhysAddr;

/// The rest of an input. When it is over it goes on with zeros.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    pub(super) fn new(data: &'a [u8]) -> Self {
        Self(data)
    }

    pub(super) fn is_over(&self) -> bool {
        self.0.is_empty()
    }

    /// The next `N` bytes.
    pub(super) fn take<const N: usize>(&mut self) -> [u8; N] {
        let mut taken = [0; N];
        let (head, rest) = self.0.split_at(N.min(self.0.len()));
        taken.iter_mut().zip(head).for_each(|(to, from)| *to = *from);
        self.0 = rest;
        taken
    }

    pub(super) fn u8(&mut self) -> u8 {
        let [byte] = self.take();
        byte
    }

    pub(super) fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.take())
    }

    pub(super) fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take())
    }

    pub(super) fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take())
    }
}

/// Bytes of [`Memory`], from address 0.
const RAM: usize = 0x1_0000;

/// An access that left the memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Outside;

impl fmt::Display for Outside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("outside")
    }
}

impl std::error::Error for Outside {}

impl Error for Outside {
    fn kind(&self) -> ErrorKind {
        ErrorKind::Inaccessible
    }
}

/// Sixteen pages. Clones are the same memory.
#[derive(Clone, Debug)]
pub(super) struct Memory(Rc<RefCell<Vec<u8>>>);

impl Memory {
    pub(super) fn new() -> Self {
        Self(Rc::new(RefCell::new(vec![0; RAM])))
    }

    /// Bytes as somebody else reads them.
    pub(super) fn peek<const N: usize>(&self, at: u64) -> [u8; N] {
        let bytes = self.0.borrow();
        *bytes[at as usize..].first_chunk().expect("a target knows its memory")
    }

    /// Bytes as somebody else writes them.
    pub(super) fn poke(&self, at: u64, bytes: &[u8]) {
        self.0.borrow_mut()[at as usize..][..bytes.len()].copy_from_slice(bytes);
    }

    /// All of it.
    pub(super) fn copy(&self) -> Vec<u8> {
        self.0.borrow().clone()
    }

    fn part<T>(&self, at: PhysAddr, len: usize, act: impl FnOnce(&mut [u8]) -> T) -> Result<T, Outside> {
        let at = usize::try_from(at.as_u64()).map_err(|_| Outside)?;
        let end = at.checked_add(len).ok_or(Outside)?;
        self.0.borrow_mut().get_mut(at..end).map(act).ok_or(Outside)
    }
}

impl GuestMemory for Memory {
    type Fault = Outside;

    fn read(&self, at: PhysAddr, into: &mut [u8]) -> Result<(), Outside> {
        self.part(at, into.len(), |part| into.copy_from_slice(part))
    }

    fn write(&self, at: PhysAddr, from: &[u8]) -> Result<(), Outside> {
        self.part(at, from.len(), |part| part.copy_from_slice(from))
    }

    fn zero(&self, range: FrameRange) -> Result<(), Outside> {
        let len = usize::try_from(range.bytes()).map_err(|_| Outside)?;
        self.part(range.start(), len, |part| part.fill(0))
    }

    fn swap_u8(&self, at: PhysAddr, value: u8) -> Result<u8, Outside> {
        let mut old = [0];
        self.read(at, &mut old)?;
        self.write(at, &[value])?;
        Ok(old[0])
    }

    fn compare_exchange_u64(&self, at: PhysAddr, expected: u64, new: u64) -> Result<u64, Outside> {
        let mut old = [0; 8];
        self.read(at, &mut old)?;
        let old = u64::from_le_bytes(old);
        if old == expected {
            self.write(at, &new.to_le_bytes())?;
        }
        Ok(old)
    }
}
