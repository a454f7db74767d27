//! Making a TDCALL and judging how it ended.

use coco_part_api::{GuestLevel, GuestMemory};

use super::L1;
use crate::abi::fields::{FieldId, VmcsField};
use crate::abi::leaves::Leaf;
use crate::abi::regs::Regs;
use crate::abi::status::Status;
use crate::error::Error;
use crate::port::Port;

/// How often a busy operand is asked for again before the verb gives up. The host holds such a lock while it works on
/// the same page or vCPU; one that never lets go stops progress only (rule H2).
pub(super) const BUSY_TRIES: u32 = 1000;

/// Executes a leaf, again while its operand is busy, and gives what it left in the registers.
pub(super) fn made(port: &mut impl Port, leaf: Leaf, operands: Regs) -> (Status, Regs) {
    repeat(port, |port| {
        let mut regs = Regs { rax: leaf.to_rax(), ..operands };
        port.tdcall(&mut regs);
        regs
    })
}

/// Executes what ends with a status, again while that is "busy".
pub(super) fn repeat<P: Port>(port: &mut P, mut once: impl FnMut(&mut P) -> Regs) -> (Status, Regs) {
    let mut regs = once(port);
    for _ in 1..BUSY_TRIES {
        if !Status(regs.rax).is_busy() {
            break;
        }
        port.pause();
        regs = once(port);
    }
    (Status(regs.rax), regs)
}

/// The same for a leaf that succeeds with plain success alone.
pub(super) fn done<F>(port: &mut impl Port, leaf: Leaf, operands: Regs) -> Result<Regs, Error<F>> {
    match made(port, leaf, operands) {
        (Status::SUCCESS, regs) => Ok(regs),
        (status, _) => Err(Error::from_status(leaf, status)),
    }
}

impl<P: Port, M: GuestMemory> L1<'_, P, M> {
    /// [`done`] on the own port.
    pub(super) fn call(&mut self, leaf: Leaf, operands: Regs) -> Result<Regs, Error<M::Fault>> {
        done(&mut self.port, leaf, operands)
    }

    /// Reads a field of a level's VMCS on this vCPU.
    pub(super) fn vmcs_read(&mut self, level: GuestLevel, field: VmcsField) -> Result<u64, Error<M::Fault>> {
        let operands = Regs { rdx: FieldId::vmcs(level, field).0, ..Regs::default() };
        Ok(self.call(Leaf::VP_RD, operands)?.r8)
    }

    /// Writes the bits of `mask` of a field of a level's VMCS on this vCPU.
    ///
    /// A value that the module does not take is the fault of whoever chose the state, hence an error of its own.
    pub(super) fn vmcs_write(
        &mut self,
        level: GuestLevel,
        field: VmcsField,
        value: u64,
        mask: u64,
    ) -> Result<(), Error<M::Fault>> {
        let operands = Regs { rdx: FieldId::vmcs(level, field).0, r8: value, r9: mask, ..Regs::default() };
        match made(&mut self.port, Leaf::VP_WR, operands) {
            (Status::SUCCESS, _) => Ok(()),
            (status, _) if status.name() == Status::METADATA_FIELD_VALUE_NOT_VALID => {
                Err(Error::FieldRefused { field, value, status })
            }
            (status, _) => Err(Error::from_status(Leaf::VP_WR, status)),
        }
    }
}
