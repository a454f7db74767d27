//! The host channel: how a level asks the host, and how it doubts the answers.
//!
//! There are two ways. The MSR protocol works from the first instruction on and carries 52 bits; the GHCB page carries
//! whole requests once it is shared and registered. What both can do is [`HostChannel`]; [`Host`] is either of them. All
//! else is a method of [`GhcbPage`]: guest messages, vCPUs, and what instructions need that the host emulates.
//!
//! [`NEVER_SENT`] lists the events that stay out, by design (INVD, PAUSE, the jump table of secondary vCPUs, whose address
//! SNP guests have from the secrets page) or for want of support (the doorbell page and its timer, the secure interrupt
//! controller, the configuration of interrupt injection, end of interrupt by vector).
//!
//! The host is not trusted. A success says no more than that the host claims it: page states are proved by PVALIDATE, a
//! switch by the call area or the VMSA. Every answer is copied once and the copy is checked (rule H1); codes, cursors,
//! valid bits and reserved bits that the protocol does not allow are errors of their own.
//!
//! Every request has to run without interruption by code that uses the GHCB MSR or the same page: with interrupts off, and
//! with a handler for the exceptions that remain which keeps away from both or saves and restores them (SW-11, GH-14).
//!
//! Use: [`negotiate`], [`hv_features`], then [`GhcbPage::register`] on a page that is shared with the host already.
//! Source: 56421 version 2, fact tables `ghcb_msr`, `ghcb_page`, `ghcb_nae`, `psc`, `ap_creation`.

mod answer;
mod events;
mod features;
mod ghcb_page;
mod msr_protocol;
mod page_list;
mod request;
mod start;
#[cfg(test)]
mod tests;

use coco_part_api::{FrameRange, GuestMemory, HostState, Stopped};
use enum_dispatch::enum_dispatch;
use x86_64::structures::paging::PhysFrame;

use crate::abi::ap::ApCreation;
use crate::abi::firmware_status::GuestRequestStatus;
use crate::abi::nae::HvFeatures;
use crate::abi::terminate::TerminateReason;
use crate::abi::vmpl::Vmpl;
use crate::error::SnpError;
use crate::instr::{CallFrame, Port};

pub use events::{
    AddressSize, CpuidRequest, CpuidResult, MAX_PAGES_NEEDED, MonitorOperands, NEVER_SENT, Paged, PortAccess, PortSize,
    Segment, SharedAddr, TscAndAux, refusal,
};
pub use ghcb_page::GhcbPage;
pub use msr_protocol::MsrProtocol;
pub use start::{hv_features, negotiate, preferred_ghcb, register_ghcb, unregister_ghcb};

/// Set of the reasons by which code of this workspace ends the guest, so that an observer can tell who did.
pub const REASON_SET: u8 = 0xc;

/// A reason to end the guest, in [`REASON_SET`].
pub const fn reason(code: u8) -> TerminateReason {
    TerminateReason::from_bits_retain(0).with_set(REASON_SET as u16).with_code(code as u16)
}

/// What MSR protocol and GHCB page have in common.
#[enum_dispatch]
pub trait HostChannel {
    /// Asks for the host's features and demands `needed`, with all that those need in turn. See [`hv_features`].
    ///
    /// # Errors
    /// [`SnpError::MissingFeatures`]; [`SnpError::UnexpectedResponse`] or the answer errors.
    fn hv_features<P: Port>(&mut self, port: &mut P, needed: HvFeatures) -> Result<HvFeatures, SnpError>;

    /// Agrees a page state with the host. The page gives up to 253 pages of either size per exit, the MSR protocol one
    /// small page.
    ///
    /// Success is the host's claim only: a page that is to become private is proved by PVALIDATE.
    ///
    /// # Errors
    /// With the 4 KiB frames that the host claims to be done. [`SnpError::PageState`] when it refuses,
    /// [`SnpError::PageStateHeader`], [`SnpError::PageStateStalled`] and the answer errors when it misbehaves.
    fn page_state<P: Port>(&mut self, port: &mut P, range: FrameRange, to: HostState) -> Result<(), Stopped<SnpError>>;

    /// Asks the host to run another level of this vCPU. Returns when the host runs this level again, whatever it did in
    /// between: only the VMSA of the other level tells.
    ///
    /// # Errors
    /// [`SnpError::RunVmpl`] when it refuses, the answer errors when it misbehaves.
    fn run_vmpl<P: Port>(&mut self, port: &mut P, vmpl: Vmpl) -> Result<(), SnpError>;

    /// Asks the host to run VMPL0 with the registers of `frame` loaded at VMGEXIT, and stores them afterwards. `mark` sets
    /// the mark of the call: it runs when everything else is in place, as the last thing before VMGEXIT, so that no other
    /// exit to the host comes between mark and call.
    ///
    /// The answer says nothing about whether VMPL0 ran; the call area does. The registers are stored in any case.
    ///
    /// # Errors
    /// As [`run_vmpl`](Self::run_vmpl); that of `mark`, and then there was no VMGEXIT.
    fn call_vmpl0<P: Port, F: FnOnce() -> Result<(), SnpError>>(
        &mut self,
        port: &mut P,
        frame: &mut CallFrame,
        mark: F,
    ) -> Result<(), SnpError>;

    /// Parks this vCPU until the host starts it; true when a startup IPI has arrived. The host may wake it without one:
    /// then ask again. Neither answer proves anything (SW-13).
    ///
    /// # Errors
    /// [`SnpError::UnexpectedResponse`] or the answer errors.
    fn ap_reset_hold<P: Port>(&mut self, port: &mut P) -> Result<bool, SnpError>;

    /// Asks the host to end the guest, again and again, and halts in between. Executes nothing else ever after (TM-01).
    fn terminate<P: Port>(&mut self, port: &mut P, reason: TerminateReason) -> !;
}

/// One of the two ways to the host. `M` is the handle to memory that is shared with it.
#[enum_dispatch(HostChannel)]
#[derive(Debug)]
pub enum Host<M: GuestMemory> {
    /// By register.
    Msr(MsrProtocol),
    /// By page.
    Page(GhcbPage<M>),
}

impl<M: GuestMemory> Host<M> {
    /// Gives the host a VMSA to run, or takes it back. See [`GhcbPage::ap_creation`].
    ///
    /// # Errors
    /// [`SnpError::NoGhcbPage`] without a page; else as there.
    pub fn ap_creation<P: Port>(&mut self, port: &mut P, request: &ApCreation) -> Result<(), SnpError> {
        self.page()?.ap_creation(port, request)
    }

    /// Has the host carry a guest message to the firmware. See [`GhcbPage::guest_request`].
    ///
    /// # Errors
    /// [`SnpError::NoGhcbPage`] without a page; else as there.
    pub fn guest_request<P: Port>(
        &mut self,
        port: &mut P,
        request: PhysFrame,
        response: PhysFrame,
    ) -> Result<GuestRequestStatus, SnpError> {
        self.page()?.guest_request(port, request, response)
    }

    /// The same, with pages for the certificates of the host. See [`GhcbPage::extended_guest_request`].
    ///
    /// # Errors
    /// [`SnpError::NoGhcbPage`] without a page; else as there.
    pub fn extended_guest_request<P: Port>(
        &mut self,
        port: &mut P,
        request: PhysFrame,
        response: PhysFrame,
        data: Option<FrameRange>,
    ) -> Result<Paged<GuestRequestStatus>, SnpError> {
        self.page()?.extended_guest_request(port, request, response, data)
    }

    /// The GHCB page.
    ///
    /// # Errors
    /// [`SnpError::NoGhcbPage`] while this is the MSR protocol.
    pub fn page(&mut self) -> Result<&mut GhcbPage<M>, SnpError> {
        match self {
            Self::Page(page) => Ok(page),
            Self::Msr(_) => Err(SnpError::NoGhcbPage),
        }
    }
}
