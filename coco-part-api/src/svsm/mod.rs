//! The call protocol between a guest and L1: AMD's SVSM protocol (document 58019), on every vendor.
//!
//! On SNP it is bit for bit as published, so that an unmodified guest is served; elsewhere the same numbers travel in the
//! same registers over the vendor's own call instruction. Numbers, result codes and layouts are those of the fact table
//! `svsm_protocol`; what the verbs need beside it is in [`own`].

pub mod attest;
pub mod list;
pub mod own;
pub mod state_frame;
pub mod vtpm;

use core::fmt;

use crate::error::ErrorKind;
use crate::switch::CallRegs;

/// Core protocol: its number.
pub const CORE: u32 = 0;
/// Attestation protocol: its number.
pub const ATTESTATION: u32 = 1;
/// vTPM protocol: its number.
pub const VTPM: u32 = 2;
/// APIC protocol: its number.
pub const APIC: u32 = 3;

/// Version of the core protocol that is spoken here: highest and lowest.
pub const CORE_VERSION: u32 = 1;

/// Core call: move the call area. RCX: its new address.
pub const REMAP_CA: u32 = 0;
/// Core call: validate or rescind a list of pages. RCX: address of the list.
pub const PVALIDATE: u32 = 1;
/// Core call: create a vCPU. RCX: state frame, RDX: call area, R8: vCPU.
pub const CREATE_VCPU: u32 = 2;
/// Core call: delete a vCPU. RCX: state frame.
pub const DELETE_VCPU: u32 = 3;
/// Core call: give pages to L1. RCX: address of a list of pages.
pub const DEPOSIT_MEM: u32 = 4;
/// Core call: take unused pages back. RCX: address where their list goes.
pub const WITHDRAW_MEM: u32 = 5;
/// Core call: which versions of a protocol there are. RCX in: protocol and version, out: highest and lowest, or 0.
pub const QUERY_PROTOCOL: u32 = 6;
/// Core call: query or configure vTOM. RCX: flags.
pub const CONFIGURE_VTOM: u32 = 7;

/// Bit of RCX of [`CONFIGURE_VTOM`] that asks and changes nothing. Out: RCX, RDX and R8, zero where there is no vTOM.
pub const VTOM_QUERY: u64 = 1;

/// Offset of the pending mark in a call area: one byte, 1 when a call waits.
pub const CALL_PENDING: u64 = 0;
/// Offset of the byte that says whether L1 has memory to give back.
pub const MEM_AVAILABLE: u64 = 1;
/// Offset of the argument buffer in a call area; it reaches to the end of the page.
pub const CALL_BUFFER: u64 = 8;

/// Which call RAX names: protocol in the upper half, number in the lower.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallId {
    /// Protocol number.
    pub protocol: u32,
    /// Call number.
    pub call: u32,
}

impl CallId {
    /// A call of a protocol.
    pub const fn new(protocol: u32, call: u32) -> Self {
        Self { protocol, call }
    }

    /// What RAX says.
    #[inline]
    pub const fn from_rax(rax: u64) -> Self {
        Self { protocol: (rax >> 32) as u32, call: rax as u32 }
    }

    /// What RAX has to say.
    pub const fn to_rax(self) -> u64 {
        (self.protocol as u64) << 32 | self.call as u64
    }
}

/// Result of a call, as RAX carries it in its lower half. Values of later versions are kept.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct CallResult(pub u32);

impl CallResult {
    /// Done.
    pub const SUCCESS: Self = Self(0);
    /// Done in part; the cursor in the list says how far. Call again.
    pub const INCOMPLETE: Self = Self(0x8000_0000);
    /// No such protocol.
    pub const UNSUPPORTED_PROTOCOL: Self = Self(0x8000_0001);
    /// No such call.
    pub const UNSUPPORTED_CALL: Self = Self(0x8000_0002);
    /// An address is not usable by the caller.
    pub const INVALID_ADDRESS: Self = Self(0x8000_0003);
    /// The pending mark has a reserved value.
    pub const INVALID_FORMAT: Self = Self(0x8000_0004);
    /// An argument is bad, or an address misaligned.
    pub const INVALID_PARAMETER: Self = Self(0x8000_0005);
    /// The request cannot be met.
    pub const INVALID_REQUEST: Self = Self(0x8000_0006);
    /// Try again; nothing was changed.
    pub const BUSY: Self = Self(0x8000_0007);
    /// Core: the machine refused the input.
    pub const FAIL_INPUT: Self = Self(0x8000_1001);
    /// Core: the machine refused for lack of rights.
    pub const FAIL_PERMISSION: Self = Self(0x8000_1002);
    /// Core: the vCPU runs.
    pub const FAIL_INUSE: Self = Self(0x8000_1003);
    /// Core: a 2 MiB entry over pages that the machine holds as 4 KiB; try 4 KiB.
    pub const FAIL_SIZE_MISMATCH: Self = Self(0x8000_1006);
    /// Core: the page already was in that state.
    pub const NO_CHANGE: Self = Self(0x8000_1010);
    /// Core: the machine answered with a code that it should not know.
    pub const UNEXPECTED: Self = Self(0x8000_1011);
    /// APIC emulation: cannot register. No call that is served here answers it.
    pub const CANNOT_REGISTER: Self = Self(0x8000_1000);
    /// L1 wants pages deposited before it can do that; the lower 30 bits say how many.
    pub const MEMORY_WANTED: Self = Self(0x4000_0000);

    /// What RAX of an answer says; the upper half is ignored (table: result).
    #[inline]
    pub const fn from_rax(rax: u64) -> Self {
        Self(rax as u32)
    }

    /// True for success.
    pub const fn is_success(self) -> bool {
        self.0 == 0
    }

    /// True when the same call is to be made again: incomplete or busy.
    pub const fn is_again(self) -> bool {
        matches!(self, Self::INCOMPLETE | Self::BUSY)
    }

    /// How many 4 KiB pages the guest is to [deposit](DEPOSIT_MEM) before it makes the call again; `None` for other results.
    pub const fn pages_wanted(self) -> Option<u32> {
        if self.0 >> 30 == Self::MEMORY_WANTED.0 >> 30 { Some(self.0 & 0x3fff_ffff) } else { None }
    }

    /// What a guest makes of a result that is no success.
    pub const fn kind(self) -> ErrorKind {
        match self {
            Self::INCOMPLETE | Self::BUSY => ErrorKind::Busy,
            Self::UNSUPPORTED_PROTOCOL | Self::UNSUPPORTED_CALL => ErrorKind::Unsupported,
            Self::INVALID_ADDRESS => ErrorKind::OutOfRange,
            Self::INVALID_FORMAT | Self::INVALID_PARAMETER => ErrorKind::InvalidArgument,
            Self::FAIL_PERMISSION => ErrorKind::NotPermitted,
            Self::FAIL_INUSE => ErrorKind::InUse,
            Self::FAIL_SIZE_MISMATCH => ErrorKind::SizeMismatch,
            Self::NO_CHANGE => ErrorKind::AlreadyInState,
            _ => ErrorKind::Refused,
        }
    }
}

impl From<ErrorKind> for CallResult {
    /// How L1 answers for an error of its backend: alignment and contents are parameters, places are addresses, and
    /// whatever is neither the caller's fault nor named by the protocol is an invalid request.
    fn from(kind: ErrorKind) -> Self {
        match kind {
            ErrorKind::Misaligned | ErrorKind::InvalidArgument | ErrorKind::BadState | ErrorKind::NotFound => {
                Self::INVALID_PARAMETER
            }
            ErrorKind::OutOfRange | ErrorKind::Inaccessible => Self::INVALID_ADDRESS,
            ErrorKind::NotPermitted => Self::FAIL_PERMISSION,
            ErrorKind::AlreadyInState => Self::NO_CHANGE,
            ErrorKind::SizeMismatch => Self::FAIL_SIZE_MISMATCH,
            ErrorKind::InUse => Self::FAIL_INUSE,
            ErrorKind::Busy => Self::BUSY,
            ErrorKind::Refused => Self::FAIL_INPUT,
            ErrorKind::Unsupported => Self::UNSUPPORTED_CALL,
            ErrorKind::HostRefused
            | ErrorKind::HostMisbehaved
            | ErrorKind::ChannelClosed
            | ErrorKind::LevelMisbehaved
            | ErrorKind::Quarantined => Self::INVALID_REQUEST,
        }
    }
}

impl fmt::Debug for CallResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match *self {
            Self::SUCCESS => "SUCCESS",
            Self::INCOMPLETE => "INCOMPLETE",
            Self::UNSUPPORTED_PROTOCOL => "UNSUPPORTED_PROTOCOL",
            Self::UNSUPPORTED_CALL => "UNSUPPORTED_CALL",
            Self::INVALID_ADDRESS => "INVALID_ADDRESS",
            Self::INVALID_FORMAT => "INVALID_FORMAT",
            Self::INVALID_PARAMETER => "INVALID_PARAMETER",
            Self::INVALID_REQUEST => "INVALID_REQUEST",
            Self::BUSY => "BUSY",
            Self::FAIL_INPUT => "FAIL_INPUT",
            Self::FAIL_PERMISSION => "FAIL_PERMISSION",
            Self::FAIL_INUSE => "FAIL_INUSE",
            Self::FAIL_SIZE_MISMATCH => "FAIL_SIZE_MISMATCH",
            Self::NO_CHANGE => "NO_CHANGE",
            Self::UNEXPECTED => "UNEXPECTED",
            Self::CANNOT_REGISTER => "CANNOT_REGISTER",
            _ => return write!(f, "{:#x}", self.0),
        };
        f.write_str(name)
    }
}

impl fmt::Display for CallResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl CallRegs {
    /// The registers of a call with up to three arguments.
    pub const fn call(id: CallId, rcx: u64, rdx: u64, r8: u64) -> Self {
        Self { rax: id.to_rax(), rcx, rdx, r8, r9: 0 }
    }

    /// These registers with a result in RAX and the others as they are (S2).
    #[must_use]
    #[inline]
    pub const fn with_result(self, result: CallResult) -> Self {
        Self { rax: result.0 as u64, ..self }
    }

    /// The result of an answer.
    #[inline]
    pub const fn result(&self) -> CallResult {
        CallResult::from_rax(self.rax)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rax_carries_protocol_and_call() {
        let id = CallId::new(1, 2);
        assert_eq!(id.to_rax(), 0x1_0000_0002);
        assert_eq!(CallId::from_rax(id.to_rax()), id);
    }

    #[test]
    fn kinds_that_the_protocol_names_survive_the_way_to_the_guest() {
        for kind in [
            ErrorKind::SizeMismatch,
            ErrorKind::AlreadyInState,
            ErrorKind::InUse,
            ErrorKind::Busy,
            ErrorKind::OutOfRange,
        ] {
            assert_eq!(CallResult::from(kind).kind(), kind);
        }
    }

    #[test]
    fn a_result_may_ask_for_memory() {
        assert_eq!(CallResult(0x4000_0007).pages_wanted(), Some(7));
        assert_eq!(CallResult(0x7fff_ffff).pages_wanted(), Some(0x3fff_ffff));
        for other in [CallResult::SUCCESS, CallResult(0x3fff_ffff), CallResult::INCOMPLETE, CallResult(u32::MAX)] {
            assert_eq!(other.pages_wanted(), None);
        }
        assert_eq!(CallResult(0x4000_0007).kind(), ErrorKind::Refused);
    }

    #[test]
    fn an_answer_changes_rax_alone() {
        let regs = CallRegs { rax: 1, rcx: 2, rdx: 3, r8: 4, r9: 5 };
        let answer = regs.with_result(CallResult::BUSY);
        assert_eq!(answer, CallRegs { rax: 0x8000_0007, ..regs });
    }
}
