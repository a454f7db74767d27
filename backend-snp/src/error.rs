//! The error of every verb of this backend. The raw status stays in it; [`SnpError::kind`](Error::kind) is the common view.

use coco_part_api::{Error, ErrorKind, GuestLevel, RangeError, VcpuId};
use x86_64::PhysAddr;

use crate::abi::ghcb::ValidBit;
use crate::abi::rmp::{PvalidateCode, RmpCode};
use crate::abi::sev_features::SevStatus;
use crate::instr::Fault;

mod kind;
#[cfg(test)]
mod tests;

/// What went wrong, sorted by who is at fault: caller, machine, L1 (seen from below), lower level, host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror_no_std::Error)]
pub enum SnpError {
    /// A range that may not be touched.
    #[error("{0}")]
    Range(RangeError),
    /// Rights that no machine takes.
    #[error("illegal set of rights")]
    IllegalGrants,
    /// The buffer for evidence is too small.
    #[error("buffer of {given:#x} bytes, {needed:#x} needed")]
    BufferTooSmall {
        /// Bytes needed.
        needed: usize,
        /// Bytes given.
        given: usize,
    },
    /// A VMSA page may not begin at a multiple of 2 MiB (`rmp_semantics` RMP-025).
    #[error("state frame {at:#x} is 2 MiB aligned")]
    VmsaAligned2m {
        /// The frame.
        at: PhysAddr,
    },
    /// Data of a length that a request cannot carry.
    #[error("{given:#x} bytes are not between one and {most:#x}, or no whole number of {element:#x}")]
    BadLength {
        /// Bytes given.
        given: usize,
        /// Bytes that fit.
        most: usize,
        /// Bytes of which a multiple is needed.
        element: usize,
    },
    /// A device access to an address that is private to the guest. Nothing was sent (GH-11).
    #[error("device access to the private address {at:#x}")]
    PrivateAddress {
        /// The address, with the encryption bit where it had one.
        at: PhysAddr,
    },
    /// There is no such vCPU.
    #[error("no {id}")]
    UnknownVcpu {
        /// Its number.
        id: VcpuId,
    },
    /// The level has no vCPU here.
    #[error("level {} has no vCPU here", level.number())]
    NoVcpu {
        /// The level.
        level: GuestLevel,
    },
    /// The frame is no state frame of that level.
    #[error("frame {at:#x} is no state frame")]
    NotAStateFrame {
        /// The frame.
        at: PhysAddr,
    },
    /// The seed is for another vCPU than the one that installs it.
    #[error("seed for {target} installed on {here}")]
    WrongVcpu {
        /// The vCPU it is for.
        target: VcpuId,
        /// The vCPU that tried.
        here: VcpuId,
    },
    /// The vCPU of this VMSA runs.
    #[error("vCPU of VMSA {at:#x} runs")]
    VcpuRuns {
        /// The VMSA.
        at: PhysAddr,
    },
    /// The frame serves a vCPU already.
    #[error("frame {at:#x} already is a state frame")]
    FrameInUse {
        /// The frame.
        at: PhysAddr,
    },
    /// Another vCPU is at work on the frame.
    #[error("state frame {at:#x} has to wait")]
    FrameBusy {
        /// The frame.
        at: PhysAddr,
    },
    /// As many state frames are admitted for one level of the vCPU as there is room for. One has to be retired first.
    #[error("no room for another state frame of {id}")]
    NoRoom {
        /// The vCPU.
        id: VcpuId,
    },
    /// Another vCPU uses the message channel and does not finish.
    #[error("guest message channel is busy")]
    ChannelBusy,
    /// A step failed, and so did undoing the steps before it. The frame must not be used any more. Either it is valid and no
    /// lower level has a right to it, or a right could not be taken back and it is not valid any more. Only if the machine
    /// refused that as well, a level still has what it was asked to be given.
    #[error("frame {at:#x} could not be given back")]
    Quarantined {
        /// The frame, or the first one of a 2 MiB page.
        at: PhysAddr,
    },
    /// A call of the level is not answered yet.
    #[error("level {} has an unanswered call", level.number())]
    CallUnanswered {
        /// The level.
        level: GuestLevel,
    },
    /// No instruction of the level waits to be completed.
    #[error("no instruction of level {} waits to be completed", level.number())]
    NoTrap {
        /// The level.
        level: GuestLevel,
    },
    /// The instruction that waits is not completed like that.
    #[error("another instruction of level {} waits to be completed", level.number())]
    WrongCompletion {
        /// The level.
        level: GuestLevel,
    },
    /// GUEST_NRIP is not behind an instruction at RIP.
    #[error("next RIP {next:#x} is not 1 to 15 bytes behind {rip:#x}")]
    NextRip {
        /// RIP.
        rip: u64,
        /// GUEST_NRIP.
        next: u64,
    },
    /// A VMSA has contents that are not allowed.
    #[error("VMSA field {field} has a value that is not allowed")]
    BadVmsa {
        /// The field.
        field: &'static str,
    },
    /// An event that cannot be given to a level.
    #[error("vector {vector:#x} cannot be injected")]
    BadVector {
        /// Its vector.
        vector: u8,
    },
    /// The backend cannot do it on this machine.
    #[error("{what} is not available")]
    Unsupported {
        /// What was asked for.
        what: &'static str,
    },
    /// The request needs a GHCB page, and none is registered.
    #[error("no GHCB page is registered")]
    NoGhcbPage,

    /// PVALIDATE gave another code than success.
    #[error("PVALIDATE code {:#x}", code.0)]
    Pvalidate {
        /// EAX.
        code: PvalidateCode,
    },
    /// PVALIDATE changed nothing: the page was in that state (rule M2).
    #[error("PVALIDATE changed nothing")]
    NoChange,
    /// RMPADJUST gave another code than success.
    #[error("RMPADJUST code {:#x}", code.0)]
    Rmpadjust {
        /// EAX.
        code: RmpCode,
    },
    /// RMPQUERY gave another code than success.
    #[error("RMPQUERY code {:#x}", code.0)]
    Rmpquery {
        /// EAX.
        code: RmpCode,
    },
    /// An instruction faulted.
    #[error("instruction fault: {0}")]
    Fault(Fault),
    /// An access to guest memory did not happen.
    #[error("memory at {at:#x} is not accessible")]
    Memory {
        /// Where.
        at: PhysAddr,
        /// What the memory handle said.
        kind: ErrorKind,
    },
    /// SEV_STATUS says that this is no SNP guest, or that features are on which this level cannot run with.
    #[error("SEV_STATUS: missing {missing:?}, not supported {refused:?}")]
    SevStatus {
        /// What is needed and off.
        missing: SevStatus,
        /// What is on and not supported, bits without a name included.
        refused: SevStatus,
    },

    /// The secrets page says that there is no L1.
    #[error("secrets page names no SVSM")]
    NoSvsm,
    /// A field of the secrets page that L1 filled has a value that is not allowed.
    #[error("secrets page field {field} has a value that is not allowed")]
    BadSecrets {
        /// The field.
        field: &'static str,
    },
    /// The level that the machine shows is not the one that L1's secrets page names (H3).
    #[error("secrets page says VMPL{told:#x}, but RMPADJUST for VMPL{probed:#x} says otherwise")]
    LevelMismatch {
        /// What the page says.
        told: u8,
        /// Target of the probe that contradicts it.
        probed: u8,
    },

    /// An answer of the MSR protocol belongs to another request, or has reserved bits set.
    #[error("request {sent:#x} of the GHCB MSR protocol got {got:#x}")]
    UnexpectedResponse {
        /// Value of the GHCB MSR at VMGEXIT.
        sent: u64,
        /// Its value afterwards.
        got: u64,
    },
    /// The host speaks versions of the GHCB protocol that do not include version 2.
    #[error("host speaks GHCB protocol versions {min:#x} to {max:#x}")]
    VersionRange {
        /// Lowest.
        min: u16,
        /// Highest.
        max: u16,
    },
    /// The host lacks features that are needed.
    #[error("host lacks features {missing:#x}")]
    MissingFeatures {
        /// The missing bits.
        missing: u64,
    },
    /// The host did not register the GHCB page that was asked for.
    #[error("GHCB frame {asked:#x} not registered, answer {got:#x}")]
    GhcbRefused {
        /// Frame number asked for.
        asked: u64,
        /// Frame number in the answer; all ones for a refusal.
        got: u64,
    },
    /// The host failed a page state change.
    #[error("page state change failed with {code:#x}")]
    PageState {
        /// SW_EXITINFO2, or bits 63:32 of the MSR answer.
        code: u64,
    },
    /// The host changed the header of a page state list in a way that it may not.
    #[error("page state cursor {was:#x} became {now:#x}, last entry {end:#x}, reserved {reserved:#x}")]
    PageStateHeader {
        /// Cursor before.
        was: u16,
        /// Cursor after.
        now: u16,
        /// Last entry after.
        end: u16,
        /// Reserved word after.
        reserved: u32,
    },
    /// The host did not finish a page state list in as many exits as it has entries, and one more.
    #[error("page state list not finished after {exits:#x} exits")]
    PageStateStalled {
        /// Exits used.
        exits: u32,
    },
    /// The host refused to run another VMPL.
    #[error("run VMPL refused with {code:#x}")]
    RunVmpl {
        /// Bits 63:32 of the MSR answer.
        code: u32,
    },
    /// L1 did not serve the call: its mark in the call area is still there (SW-06, SW-07).
    #[error("call mark is still pending, L1 did not run")]
    NotServed,
    /// L1 served the call, but the host's answer to the switch is wrong. The answer is lost; calling again may do it twice.
    #[error("call was served, but the switch came back with {got:#x}")]
    SwitchInDoubt {
        /// GHCB MSR, or SW_EXITINFO1.
        got: u64,
    },
    /// An answer in the GHCB page lacks the valid bit of a field it must have.
    #[error("GHCB answer lacks field {field:?}")]
    MissingField {
        /// The field's bit.
        field: ValidBit,
    },
    /// The host wants an exception raised that it may ask for: #GP or #UD.
    #[error("host asks for exception {info:#x}")]
    Exception {
        /// SW_EXITINFO2 in the format of EVENTINJ.
        info: u64,
    },
    /// The host wants an exception raised that it may not ask for (GH-03).
    #[error("host asks for a forbidden exception, {info:#x}")]
    ForbiddenException {
        /// SW_EXITINFO2.
        info: u64,
    },
    /// The host calls a GHCB request malformed.
    #[error("host calls the request malformed, {code:#x}")]
    MalformedRequest {
        /// SW_EXITINFO2.
        code: u64,
    },
    /// SW_EXITINFO1 has a status that the protocol does not know.
    #[error("unknown status {status:#x} in SW_EXITINFO1")]
    UnknownStatus {
        /// SW_EXITINFO1.
        status: u64,
    },

    /// The host demands an impossible number of pages: none more than it was given, or too many.
    #[error("host demands {needed:#x} pages in place of {given:#x}")]
    PagesNeeded {
        /// Pages given.
        given: u64,
        /// Pages demanded.
        needed: u64,
    },
    /// The host lists more than its buffer holds.
    #[error("host lists {count:#x} in a buffer for {most:#x}")]
    ListTooLong {
        /// What it says.
        count: u64,
        /// What fits.
        most: u64,
    },
    /// The host says that a guest message was not answered. The channel is closed from now on.
    #[error("guest request failed, host {host:#x}, firmware {firmware:#x}")]
    GuestRequest {
        /// SW_EXITINFO2\[63:32\].
        host: u32,
        /// SW_EXITINFO2\[31:0\], as the host tells it.
        firmware: u32,
    },
    /// A response page is not what the firmware answers to this request. The channel is closed from now on.
    #[error("guest message response has a wrong {field}")]
    BadResponse {
        /// Header or payload field.
        field: &'static str,
    },
    /// A response does not decrypt. The channel is closed from now on.
    #[error("guest message response is not authentic")]
    NotAuthentic,
    /// The firmware answered with an error, under its own key.
    #[error("firmware status {status:#x}")]
    Firmware {
        /// STATUS of the response.
        status: u32,
    },
    /// The channel's key is gone: closed earlier, used up, or never there.
    #[error("guest message channel is closed")]
    ChannelClosed,
}

impl SnpError {
    /// Turns an error of a memory handle into one of this backend.
    pub fn memory<F: Error>(at: PhysAddr) -> impl FnOnce(F) -> Self {
        move |fault| Self::Memory { at, kind: fault.kind() }
    }
}
