//! Completing an instruction of a level that traps: registers, and RIP behind it.
//!
//! Which instruction it was and where the next one begins is taken from the same copy of the VMSA that told of the exit. The
//! gate has been closed since, so that the VMSA still is as the level left it.

use core::mem::offset_of;

use coco_part_api::trap::INSTRUCTION_MAX;
use coco_part_api::{Completion, Exit, GuestLevel, GuestMemory, MsrAccess, Trap};

use super::L1;
use super::boot::table;
use super::gate::Gate;
use crate::abi::sev_features::Msr;
use crate::abi::vmsa::Vmsa;
use crate::cpuid::{self, LevelState};
use crate::error::SnpError;
use crate::instr::Port;

/// An instruction that waits to be completed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Trapped {
    trap: Trap,
    rip: u64,
    next_rip: u64,
}

/// Offsets of RAX, RCX, RDX and RBX: the order of [`Completion::registers`].
const REGISTERS: [usize; 4] =
    [offset_of!(Vmsa, rax), offset_of!(Vmsa, rcx), offset_of!(Vmsa, rdx), offset_of!(Vmsa, rbx)];
const RAX: usize = offset_of!(Vmsa, rax);
const RIP: usize = offset_of!(Vmsa, rip);

impl Trapped {
    /// The instruction of an exit that this VMSA told of.
    pub(super) const fn of(exit: &Exit, vmsa: &Vmsa) -> Option<Self> {
        match Trap::of(exit) {
            Some(trap) => Some(Self { trap, rip: vmsa.rip, next_rip: vmsa.guest_nrip }),
            None => None,
        }
    }

    /// GUEST_NRIP, if an instruction can end there. It is the processor's word, which on some exits it does not give.
    fn next(&self) -> Result<u64, SnpError> {
        let length = self.next_rip.wrapping_sub(self.rip);
        if (1..=INSTRUCTION_MAX).contains(&length) {
            return Ok(self.next_rip);
        }
        Err(SnpError::NextRip { rip: self.rip, next: self.next_rip })
    }

    /// Writes registers and RIP of a VMSA that stands still. Memory that fails in between leaves some registers written; the
    /// instruction stays uncompleted, for RIP is written last.
    pub(super) fn complete<P: Port, M: GuestMemory>(
        &self,
        gate: &Gate<'_, P, M>,
        level: GuestLevel,
        with: Completion,
    ) -> Result<(), SnpError> {
        let next = self.next()?;
        let registers = with.registers(self.trap, gate.read(RAX)?).ok_or(SnpError::WrongCompletion { level })?;
        for (field, value) in REGISTERS.into_iter().zip(registers) {
            if let Some(value) = value {
                gate.write(field, &value)?;
            }
        }
        gate.write(RIP, &next)
    }
}

/// Whether an exit reads the register that names the call area. It exists for software alone: whoever handles #VC for the level
/// answers it (`facts/sev_features.csv`, SVSM_CAA).
pub(super) fn reads_call_area(exit: &Exit) -> bool {
    matches!(exit, Exit::Msr(MsrAccess::Read { msr }) if *msr == Msr::SVSM_CAA.0)
}

impl<P: Port, M: GuestMemory> L1<'_, P, M> {
    /// [`Trapped::complete`] for the exit that was reported last, once.
    pub(super) fn complete_trap(&mut self, level: GuestLevel, with: Completion) -> Result<(), SnpError> {
        let is_still = self.current(level)?.is_still();
        let trapped = self.trapped_mut(level).filter(|_| is_still).ok_or(SnpError::NoTrap { level })?;
        self.while_still(level, |l1, frame| trapped.complete(&l1.gate(frame), level, with))?;
        *self.trapped_mut(level) = None;
        Ok(())
    }

    /// [`cpuid::answer`] for the level as its VMSA is.
    pub(super) fn cpuid_of(
        &mut self,
        level: GuestLevel,
        leaf: u32,
        sub_leaf: u32,
    ) -> Result<Option<[u32; 4]>, SnpError> {
        let apic_id = self.vcpu.0;
        let state = self.while_still(level, |l1, frame| {
            let gate = l1.gate(frame);
            Ok(LevelState {
                cr4: gate.read(offset_of!(Vmsa, cr4))?,
                xcr0: gate.read(offset_of!(Vmsa, xcr0))?,
                xss: gate.read(offset_of!(Vmsa, xss))?,
                apic_id,
            })
        })?;
        let page = self.cpuid_page()?;
        Ok(cpuid::answer(&table(&page)?, leaf, sub_leaf, &state))
    }
}
