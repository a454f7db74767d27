//! What instructions return.

use core::fmt;

use thiserror_no_std::Error;

use crate::abi::page::PageSize;
use crate::abi::rmp::{PvalidateCode, RmpAttributes, RmpCode};

/// What PVALIDATE returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PvalidateResult {
    /// EAX.
    pub code: PvalidateCode,
    /// The carry flag: the page already was in the wanted state. Counts only if `code` is success.
    pub carry: bool,
}

/// What RMPQUERY returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RmpQueryResult {
    /// EAX. The other fields count only if it is success.
    pub code: RmpCode,
    /// RDX: rights of the target level, and whether the page is a VMSA.
    pub attributes: RmpAttributes,
    /// RCX bit 0: size of the RMP entry.
    pub size: PageSize,
}

/// The registers of an SVSM call: loaded before VMGEXIT, stored after it.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct CallFrame {
    /// Protocol and call number in, result out.
    pub rax: u64,
    /// First argument, in and out.
    pub rcx: u64,
    /// Second argument, in and out.
    pub rdx: u64,
    /// Third argument, in and out.
    pub r8: u64,
    /// Fourth argument, in and out.
    pub r9: u64,
}

impl fmt::Debug for CallFrame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CallFrame")
            .field("rax", &format_args!("{:#x}", self.rax))
            .field("rcx", &format_args!("{:#x}", self.rcx))
            .field("rdx", &format_args!("{:#x}", self.rdx))
            .field("r8", &format_args!("{:#x}", self.r8))
            .field("r9", &format_args!("{:#x}", self.r9))
            .finish()
    }
}

/// What an instruction did instead of retiring: the exception it raised.
///
/// The native port never returns an exception of the processor: that one goes to the integrator's handler. It returns
/// [`Fault::GeneralProtection`] for an address outside of its direct map, without executing anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Fault {
    /// #GP: wrong level, wrong CPL, or an address that cannot be.
    #[error("the instruction raised #GP")]
    GeneralProtection,
    /// #UD: the machine does not have the instruction.
    #[error("the instruction raised #UD")]
    InvalidOpcode,
    /// #VC.
    #[error("the instruction raised #VC with code {code:#x}")]
    Vc {
        /// Error code, see [`ExitCode`](crate::abi::exit_codes::ExitCode).
        code: u64,
    },
}

impl core::error::Error for Fault {}
