//! The gate of a VMSA: whether the host can run it.
//!
//! EFER.SVME in a VMSA is the gate (RMP-023): without it every VMRUN fails. Closing it takes three steps, because it is not
//! settled what a store into a running VMSA does:
//!
//! 1. SVME is cleared by compare-exchange. If such a store waits for the VMSA to stop, the VMSA has stopped now and cannot
//!    start again. If it is a plain store, a VMSA that runs will overwrite it with its own EFER when it exits.
//! 2. RMPADJUST sets the VMSA attribute that the page has already. That changes nothing, but it is refused with
//!    `FAIL_INUSE` while the VMSA runs (RMP-020).
//! 3. SVME is read again. If it is still clear, no run that began before step 1 ended after it, or its exit would have set
//!    SVME; none goes on, or step 2 would have been refused; and none can begin. The VMSA stands still.
//!
//! Only then its registers are read or written, and they are written before the gate opens again (SW-04). The price is one
//! RMPADJUST per call. Clearing the mark of a call first, without the gate, would not do: the host could run the caller on
//! another processor while L1 writes the answer (SW-03).

use core::mem::offset_of;

use coco_part_api::GuestMemory;
use coco_part_api::memory::offset;
use x86_64::PhysAddr;
use x86_64::structures::paging::PhysFrame;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::abi::exit_codes::ExitCode;
use crate::abi::vmsa::Vmsa;
use crate::error::SnpError;
use crate::instr::{Page, PageSize, Port, RmpAttributes, RmpCode, Vmpl, VmplPermissions};

/// How often a VMSA that starts again in between is stopped before it counts as running.
const TRIES: u32 = 4;

/// Whether a VMSA stands still.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Still {
    /// It does not run and cannot be run.
    Yes,
    /// It runs, or the host keeps starting it.
    No,
}

/// A page as VMSA: its fields, its attribute and its gate.
pub(super) struct Gate<'x, P, M> {
    port: &'x mut P,
    memory: &'x M,
    at: PhysFrame,
}

/// Offset of EFER.
const EFER: usize = offset_of!(Vmsa, efer);
/// Offset of the exit code on record.
pub(super) const EXIT_CODE: usize = offset_of!(Vmsa, guest_exit_code);

impl<'x, P: Port, M: GuestMemory> Gate<'x, P, M> {
    pub(super) const fn new(port: &'x mut P, memory: &'x M, at: PhysFrame) -> Self {
        Self { port, memory, at }
    }

    /// Address of the page.
    pub(super) fn at(&self) -> PhysAddr {
        self.at.start_address()
    }

    /// Reads the field at an offset.
    pub(super) fn read<T: FromBytes + IntoBytes>(&self, field: usize) -> Result<T, SnpError> {
        let at = self.place(field)?;
        self.memory.read_value(at).map_err(SnpError::memory(at))
    }

    /// Writes the field at an offset.
    pub(super) fn write<T: IntoBytes + Immutable>(&self, field: usize, value: &T) -> Result<(), SnpError> {
        let at = self.place(field)?;
        self.memory.write_value(at, value).map_err(SnpError::memory(at))
    }

    /// Closes the gate. With [`Still::No`] it may be open or closed; [`open`](Self::open) settles that.
    pub(super) fn close(&mut self) -> Result<Still, SnpError> {
        for _ in 0..TRIES {
            let efer = self.read::<u64>(EFER)?;
            if efer & Vmsa::EFER_SVME != 0 && !self.replace_efer(efer, efer & !Vmsa::EFER_SVME)? {
                continue;
            }
            if self.runs()? {
                return Ok(Still::No);
            }
            if self.read::<u64>(EFER)? & Vmsa::EFER_SVME == 0 {
                return Ok(Still::Yes);
            }
        }
        Ok(Still::No)
    }

    /// Opens the gate: the last store of whoever changed the VMSA.
    pub(super) fn open(&mut self) -> Result<(), SnpError> {
        for _ in 0..TRIES {
            let efer = self.read::<u64>(EFER)?;
            if efer & Vmsa::EFER_SVME != 0 || self.replace_efer(efer, efer | Vmsa::EFER_SVME)? {
                return Ok(());
            }
        }
        // EFER changes under us only when the VMSA exits, and then it has SVME.
        Err(SnpError::VcpuRuns { at: self.at() })
    }

    /// Says whether the VMSA runs at this moment, changing nothing: RMPADJUST sets the attribute that it has.
    pub(super) fn runs(&mut self) -> Result<bool, SnpError> {
        match self.mark() {
            Ok(()) => Ok(false),
            Err(SnpError::Rmpadjust { code: RmpCode::FAIL_INUSE }) => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// Whether it has an exit on record: it has run and left since it was admitted.
    pub(super) fn has_left(&self) -> Result<bool, SnpError> {
        Ok(self.read::<ExitCode>(EXIT_CODE)? != ExitCode::INVALID)
    }

    /// Whether the gate is open. Changes nothing.
    pub(super) fn is_open(&self) -> Result<bool, SnpError> {
        Ok(self.read::<u64>(EFER)? & Vmsa::EFER_SVME != 0)
    }

    /// Makes the page a VMSA, with no rights for VMPL1. VMPL1 is the target so that a failure shows; the level of the VMSA
    /// is in its contents.
    pub(super) fn mark(&mut self) -> Result<(), SnpError> {
        self.adjust(RmpAttributes::new(Vmpl::VMPL1, VmplPermissions::empty()).with_vmsa())
    }

    /// Makes the page an ordinary one, with no rights for VMPL1. Refused while the VMSA runs.
    pub(super) fn unmark(&mut self) -> Result<(), SnpError> {
        match self.adjust(RmpAttributes::new(Vmpl::VMPL1, VmplPermissions::empty())) {
            Err(SnpError::Rmpadjust { code: RmpCode::FAIL_INUSE }) => Err(SnpError::VcpuRuns { at: self.at() }),
            other => other,
        }
    }

    /// Stores EFER if it is as expected.
    pub(super) fn replace_efer(&mut self, expected: u64, new: u64) -> Result<bool, SnpError> {
        let at = self.place(EFER)?;
        let found = self.memory.compare_exchange_u64(at, expected, new).map_err(SnpError::memory(at))?;
        Ok(found == expected)
    }

    /// Stops a VMSA for good. One instruction decides: the attribute goes unless the VMSA runs (RMP-020), and without it no
    /// VMRUN can begin (RMP-022), whatever EFER says. So the gate needs no closing, and an error has changed nothing.
    ///
    /// # Errors
    /// [`SnpError::VcpuRuns`] while it runs.
    pub(super) fn stop(&mut self) -> Result<(), SnpError> {
        self.unmark()
    }

    fn adjust(&mut self, attributes: RmpAttributes) -> Result<(), SnpError> {
        let page = Page::try_new(self.at(), PageSize::Size4KiB)
            .map_err(|error| coco_part_api::RangeError::Unaligned { at: error.at })?;
        match self.port.rmpadjust(page, attributes)? {
            RmpCode::SUCCESS => Ok(()),
            code => Err(SnpError::Rmpadjust { code }),
        }
    }

    fn place(&self, field: usize) -> Result<PhysAddr, SnpError> {
        let at = self.at();
        offset(at, field as u64).ok_or(SnpError::Range(coco_part_api::RangeError::OutsideMap { at }))
    }
}
