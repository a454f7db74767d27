//! Registers that the host emulates: MSRs and DR7.

use coco_part_api::GuestMemory;

use crate::abi::nae::NaeCode;
use crate::error::SnpError;
use crate::host::GhcbPage;
use crate::host::request::{Fields, Request};
use crate::instr::Port;

/// SW_EXITINFO1 of a read of an MSR.
const READ: u64 = 0;
/// SW_EXITINFO1 of a write of an MSR.
const WRITE: u64 = 1;

impl<M: GuestMemory> GhcbPage<M> {
    /// Reads an MSR. The value is the host's word (GH-12).
    ///
    /// # Errors
    /// The answer errors; [`SnpError::Exception`] for an MSR that the host does not have.
    #[doc(alias = "RDMSR")]
    pub fn read_msr<P: Port>(&mut self, port: &mut P, number: u32) -> Result<u64, SnpError> {
        let fields = Fields { rcx: Some(number.into()), ..Fields::default() };
        self.ask_for_registers(port, &Request::new(NaeCode::MSR, READ, 0).with(fields))?.edx_eax()
    }

    /// Writes an MSR. Whether the host did it is not known.
    ///
    /// # Errors
    /// As [`read_msr`](Self::read_msr).
    #[doc(alias = "WRMSR")]
    pub fn write_msr<P: Port>(&mut self, port: &mut P, number: u32, value: u64) -> Result<(), SnpError> {
        // EDX:EAX.
        let (high, low) = (value >> 32, u64::from(value as u32));
        let fields = Fields { rcx: Some(number.into()), rax: Some(low), rdx: Some(high), ..Fields::default() };
        self.ask(port, &Request::new(NaeCode::MSR, WRITE, 0).with(fields))
    }

    /// Reads DR7 as the host has it. A kernel that wrote it last knows better.
    ///
    /// # Errors
    /// The answer errors.
    pub fn read_dr7<P: Port>(&mut self, port: &mut P) -> Result<u64, SnpError> {
        self.ask_for_registers(port, &Request::plain(NaeCode::DR7_READ))?.rax()
    }

    /// Writes DR7. Whether the host did it is not known.
    ///
    /// # Errors
    /// The answer errors.
    pub fn write_dr7<P: Port>(&mut self, port: &mut P, value: u64) -> Result<(), SnpError> {
        let fields = Fields { rax: Some(value), ..Fields::default() };
        self.ask(port, &Request::plain(NaeCode::DR7_WRITE).with(fields))
    }
}
