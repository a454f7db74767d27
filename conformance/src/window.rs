//! Memory of a step machine as a program reaches it: one operation per page it touches.

use std::fmt;

use coco_part_api::{Error, ErrorKind, FrameRange, GuestMemory};
use x86_64::PhysAddr;

use crate::runner::{Cpu, Model};

const PAGE: u64 = 0x1000;

/// One access to memory, of at most one page but for [`Zero`](Self::Zero). Addresses are guest-physical.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MemoryOp {
    /// Reads `len` bytes.
    Read {
        /// First byte.
        gpa: u64,
        /// Bytes.
        len: usize,
    },
    /// Writes bytes.
    Write {
        /// First byte.
        gpa: u64,
        /// What to write.
        bytes: Vec<u8>,
    },
    /// Zeroes whole pages.
    Zero {
        /// First page.
        gpa: u64,
        /// How many.
        pages: u64,
    },
    /// Exchanges one byte.
    Swap8 {
        /// The byte.
        gpa: u64,
        /// New value.
        value: u8,
    },
    /// Compares and exchanges a quadword.
    CompareExchange64 {
        /// The quadword.
        gpa: u64,
        /// Value it must have.
        expected: u64,
        /// Value to store then.
        new: u64,
    },
}

/// What an access gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Accessed {
    /// Nothing but that it is done.
    Done,
    /// Bytes read.
    Bytes(Vec<u8>),
    /// The old value of an atomic access.
    Value(u64),
}

/// A model whose programs reach memory.
pub trait MemoryModel: Model {
    /// Deliberate defects of memory handles.
    type Defect: Tamper;

    /// The operation for an access to private or to shared memory.
    fn access(op: MemoryOp, private: bool) -> Self::Op;

    /// What its answer says.
    fn accessed(answer: Self::Answer) -> Accessed;

    /// The operation that lets others act.
    fn pause() -> Self::Op;
}

/// What a deliberate defect does to the accesses of a backend and its monitor. The provided bodies do nothing.
pub trait Tamper: Copy + 'static {
    /// After bytes were read.
    fn on_read(self, at: PhysAddr, bytes: &[u8]) -> Interference {
        let _ = (at, bytes);
        Interference::None
    }

    /// True when zeroing is left out.
    fn skips_zeroing(self) -> bool {
        false
    }

    /// True when exchanging a byte only reads it.
    fn keeps_bytes(self) -> bool {
        false
    }

    /// True when a write of these bytes is left out.
    fn swallows(self, at: PhysAddr, bytes: &[u8]) -> bool {
        let _ = (at, bytes);
        false
    }

    /// What a compare-and-exchange pretends to have found, instead of `found`.
    fn on_exchange(self, expected: u64, new: u64, found: u64) -> u64 {
        let _ = (expected, new);
        found
    }
}

/// What a defect does to bytes that were read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interference {
    /// Nothing.
    None,
    /// Reads the bytes from here on once more.
    Again {
        /// Offset of the first of them.
        from: usize,
    },
    /// Shows another byte.
    Patch {
        /// Its offset.
        offset: usize,
        /// What it shows.
        byte: u8,
    },
}

/// Private memory of a program's level, or memory that is shared with the host.
pub struct Window<'y, M: MemoryModel> {
    cpu: Cpu<'y, M>,
    private: bool,
    defect: Option<M::Defect>,
}

impl<M: MemoryModel> Clone for Window<'_, M> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<M: MemoryModel> Copy for Window<'_, M> {}

/// An access raised an exception.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryFault<F> {
    /// Guest-physical address of the access.
    pub at: PhysAddr,
    /// What it raised.
    pub fault: F,
}

impl<F: fmt::Debug> fmt::Display for MemoryFault<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "access at {:#x} raised {:x?}", self.at, self.fault)
    }
}

impl<F: fmt::Debug> std::error::Error for MemoryFault<F> {}

impl<F: fmt::Debug + 'static> Error for MemoryFault<F> {
    fn kind(&self) -> ErrorKind {
        ErrorKind::Inaccessible
    }
}

impl<'y, M: MemoryModel> Window<'y, M> {
    /// Private memory of a program's level.
    pub fn private(cpu: Cpu<'y, M>, defect: Option<M::Defect>) -> Self {
        Self { cpu, private: true, defect }
    }

    /// Memory that is shared with the host.
    pub fn shared(cpu: Cpu<'y, M>) -> Self {
        Self { cpu, private: false, defect: None }
    }

    fn execute(&self, at: PhysAddr, op: MemoryOp) -> Result<Accessed, MemoryFault<M::Fault>> {
        let reply = self.cpu.execute(M::access(op, self.private));
        reply.map(M::accessed).map_err(|fault| MemoryFault { at, fault })
    }

    fn read_once(&self, at: PhysAddr, into: &mut [u8]) -> Result<(), MemoryFault<M::Fault>> {
        let mut gpa = at.as_u64();
        let mut rest = into;
        while !rest.is_empty() {
            let len = rest.len().min((PAGE - gpa % PAGE) as usize);
            let (part, behind) = rest.split_at_mut(len);
            if let Accessed::Bytes(bytes) = self.execute(at, MemoryOp::Read { gpa, len })? {
                part.copy_from_slice(&bytes);
            }
            rest = behind;
            gpa = gpa.saturating_add(len as u64);
        }
        Ok(())
    }
}

impl<M: MemoryModel> GuestMemory for Window<'_, M> {
    type Fault = MemoryFault<M::Fault>;

    fn read(&self, at: PhysAddr, into: &mut [u8]) -> Result<(), Self::Fault> {
        self.read_once(at, into)?;
        match self.defect.map_or(Interference::None, |defect| defect.on_read(at, into)) {
            Interference::Again { from } => {
                // Others may act between the two reads.
                for _ in 0..8 {
                    self.cpu.execute(M::pause()).map_err(|fault| MemoryFault { at, fault })?;
                }
                let (_, tail) = into.split_at_mut(from);
                self.read_once(PhysAddr::new(at.as_u64() + from as u64), tail)
            }
            Interference::Patch { offset, byte } => {
                into[offset] = byte;
                Ok(())
            }
            Interference::None => Ok(()),
        }
    }

    fn write(&self, at: PhysAddr, from: &[u8]) -> Result<(), Self::Fault> {
        if self.defect.is_some_and(|defect| defect.swallows(at, from)) {
            return Ok(());
        }
        let mut gpa = at.as_u64();
        let mut rest = from;
        while !rest.is_empty() {
            let len = rest.len().min((PAGE - gpa % PAGE) as usize);
            let (part, behind) = rest.split_at(len);
            self.execute(at, MemoryOp::Write { gpa, bytes: part.to_vec() })?;
            rest = behind;
            gpa = gpa.saturating_add(len as u64);
        }
        Ok(())
    }

    fn zero(&self, range: FrameRange) -> Result<(), Self::Fault> {
        if self.defect.is_some_and(Tamper::skips_zeroing) {
            return Ok(());
        }
        let op = MemoryOp::Zero { gpa: range.start().as_u64(), pages: range.frames() };
        self.execute(range.start(), op).map(|_| ())
    }

    fn swap_u8(&self, at: PhysAddr, value: u8) -> Result<u8, Self::Fault> {
        if self.defect.is_some_and(Tamper::keeps_bytes) {
            let mut byte = [0];
            return self.read_once(at, &mut byte).map(|()| byte[0]);
        }
        match self.execute(at, MemoryOp::Swap8 { gpa: at.as_u64(), value })? {
            Accessed::Value(old) => Ok(old as u8),
            Accessed::Done | Accessed::Bytes(_) => Ok(0),
        }
    }

    fn compare_exchange_u64(&self, at: PhysAddr, expected: u64, new: u64) -> Result<u64, Self::Fault> {
        match self.execute(at, MemoryOp::CompareExchange64 { gpa: at.as_u64(), expected, new })? {
            Accessed::Value(old) => Ok(self.defect.map_or(old, |defect| defect.on_exchange(expected, new, old))),
            Accessed::Done | Accessed::Bytes(_) => Ok(expected),
        }
    }
}
