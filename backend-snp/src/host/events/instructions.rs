//! Instructions that the host is only told of, VMMCALL, and exits that the guest gives up on.

use coco_part_api::GuestMemory;
use x86_64::PhysAddr;

use crate::abi::exit_codes::ExitCode;
use crate::abi::nae::NaeCode;
use crate::error::SnpError;
use crate::host::GhcbPage;
use crate::host::request::{Fields, Request};
use crate::instr::Port;

/// What MONITOR is executed with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MonitorOperands {
    /// Guest-physical address to watch, where it may be told.
    pub at: Option<PhysAddr>,
    /// RAX: address of the operand.
    pub rax: u64,
    /// ECX: extensions.
    pub ecx: u32,
    /// EDX: hints.
    pub edx: u32,
}

impl<M: GuestMemory> GhcbPage<M> {
    /// Has the caches written back.
    ///
    /// # Errors
    /// The answer errors.
    #[doc(alias = "WBINVD")]
    pub fn wbinvd<P: Port>(&mut self, port: &mut P) -> Result<(), SnpError> {
        self.ask(port, &Request::plain(NaeCode::WBINVD))
    }

    /// Arms the monitor. The host sees the operands.
    ///
    /// # Errors
    /// The answer errors.
    #[doc(alias = "MONITOR")]
    pub fn monitor<P: Port>(&mut self, port: &mut P, operands: MonitorOperands) -> Result<(), SnpError> {
        let MonitorOperands { at, rax, ecx, edx } = operands;
        let fields = Fields { rax: Some(rax), rcx: Some(ecx.into()), rdx: Some(edx.into()), ..Fields::default() };
        let at = at.map_or(0, PhysAddr::as_u64);
        self.ask(port, &Request::new(NaeCode::MONITOR, at, 0).with(fields))
    }

    /// Waits for the armed monitor; returns whenever the host likes.
    ///
    /// # Errors
    /// The answer errors.
    #[doc(alias = "MWAIT")]
    pub fn mwait<P: Port>(&mut self, port: &mut P, eax: u32, ecx: u32) -> Result<(), SnpError> {
        let fields = Fields { rax: Some(eax.into()), rcx: Some(ecx.into()), ..Fields::default() };
        self.ask(port, &Request::plain(NaeCode::MWAIT).with(fields))
    }

    /// Calls the host with one register, from privilege level `cpl`, and gives RAX.
    ///
    /// # Errors
    /// The answer errors.
    #[doc(alias = "VMMCALL")]
    pub fn vmmcall<P: Port>(&mut self, port: &mut P, rax: u64, cpl: u8) -> Result<u64, SnpError> {
        let fields = Fields { rax: Some(rax), cpl: Some(cpl), ..Fields::default() };
        self.ask_for_registers(port, &Request::plain(NaeCode::VMMCALL).with(fields))?.rax()
    }

    /// Says that the guest met an exit that it cannot handle. Most hosts end the guest then; one that returns has not
    /// handled anything.
    ///
    /// # Errors
    /// The answer errors.
    pub fn unsupported_event<P: Port>(&mut self, port: &mut P, exit: ExitCode) -> Result<(), SnpError> {
        self.ask(port, &Request::new(NaeCode::UNSUPPORTED_EVENT, exit.0, 0))
    }
}
