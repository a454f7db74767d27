//! Guest memory of the step machine as a handle: every copy is one operation per page it touches.

use std::fmt;

use coco_part_api::{Error, ErrorKind, FrameRange, GuestMemory};
use machine::{Answer, Op};
use x86_64::PhysAddr;

use super::defect::{Defect, Interference};
use super::model::SnpModel;
use crate::runner::Cpu;

const PAGE: u64 = 0x1000;

/// Memory through mappings with the C-bit, or without it.
#[derive(Clone, Copy)]
pub struct Window<'y> {
    cpu: Cpu<'y, SnpModel>,
    private: bool,
    defect: Option<Defect>,
}

/// An access raised an exception.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryFault {
    /// Guest-physical address of the access.
    pub at: PhysAddr,
    /// What it raised.
    pub fault: machine::Fault,
}

impl fmt::Display for MemoryFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "access at {:#x} raised {:x?}", self.at, self.fault)
    }
}

impl std::error::Error for MemoryFault {}

impl Error for MemoryFault {
    fn kind(&self) -> ErrorKind {
        ErrorKind::Inaccessible
    }
}

impl<'y> Window<'y> {
    /// Private memory of a program's level.
    pub fn private(cpu: Cpu<'y, SnpModel>, defect: Option<Defect>) -> Self {
        Self { cpu, private: true, defect }
    }

    /// Memory that is shared with the host.
    pub fn shared(cpu: Cpu<'y, SnpModel>) -> Self {
        Self { cpu, private: false, defect: None }
    }

    fn execute(&self, at: PhysAddr, op: Op) -> Result<Answer, MemoryFault> {
        self.cpu.execute(op).map_err(|fault| MemoryFault { at, fault })
    }

    fn read_once(&self, at: PhysAddr, into: &mut [u8]) -> Result<(), MemoryFault> {
        let mut gpa = at.as_u64();
        let mut rest = into;
        while !rest.is_empty() {
            let len = rest.len().min((PAGE - gpa % PAGE) as usize);
            let (part, behind) = rest.split_at_mut(len);
            if let Answer::Bytes(bytes) = self.execute(at, Op::Read { gpa, len, private: self.private })? {
                part.copy_from_slice(&bytes);
            }
            rest = behind;
            gpa = gpa.saturating_add(len as u64);
        }
        Ok(())
    }
}

impl GuestMemory for Window<'_> {
    type Fault = MemoryFault;

    fn read(&self, at: PhysAddr, into: &mut [u8]) -> Result<(), MemoryFault> {
        self.read_once(at, into)?;
        match self.defect.map(|defect| defect.on_read(at, into)) {
            Some(Interference::Again { from }) => {
                // Others may act between the two reads.
                for _ in 0..8 {
                    self.execute(at, Op::Pause)?;
                }
                let (_, tail) = into.split_at_mut(from);
                self.read_once(PhysAddr::new(at.as_u64() + from as u64), tail)
            }
            Some(Interference::Patch { offset, byte }) => {
                into[offset] = byte;
                Ok(())
            }
            Some(Interference::None) | None => Ok(()),
        }
    }

    fn write(&self, at: PhysAddr, from: &[u8]) -> Result<(), MemoryFault> {
        let mut gpa = at.as_u64();
        let mut rest = from;
        while !rest.is_empty() {
            let len = rest.len().min((PAGE - gpa % PAGE) as usize);
            let (part, behind) = rest.split_at(len);
            self.execute(at, Op::Write { gpa, bytes: part.to_vec(), private: self.private })?;
            rest = behind;
            gpa = gpa.saturating_add(len as u64);
        }
        Ok(())
    }

    fn zero(&self, range: FrameRange) -> Result<(), MemoryFault> {
        if self.defect == Some(Defect::ZeroingDropped) {
            return Ok(());
        }
        let op = Op::Zero { gpa: range.start().as_u64(), pages: range.frames(), private: self.private };
        self.execute(range.start(), op).map(|_| ())
    }

    fn swap_u8(&self, at: PhysAddr, value: u8) -> Result<u8, MemoryFault> {
        if self.defect == Some(Defect::PendingNotCleared) {
            let mut byte = [0];
            return self.read_once(at, &mut byte).map(|()| byte[0]);
        }
        match self.execute(at, Op::Swap8 { gpa: at.as_u64(), value })? {
            Answer::Value(old) => Ok(old as u8),
            _ => Ok(0),
        }
    }

    fn compare_exchange_u64(&self, at: PhysAddr, expected: u64, new: u64) -> Result<u64, MemoryFault> {
        match self.execute(at, Op::CompareExchange64 { gpa: at.as_u64(), expected, new })? {
            // The gate was never closed.
            Answer::Value(old)
                if self.defect == Some(Defect::GateSkipped) && Defect::opens_gate(expected, new) && old == new =>
            {
                Ok(expected)
            }
            Answer::Value(old) => Ok(old),
            _ => Ok(expected),
        }
    }
}
