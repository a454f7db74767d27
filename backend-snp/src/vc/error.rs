//! Why a guest cannot go on after a #VC.

use coco_part_api::{Error, ErrorKind};
use thiserror_no_std::Error;

use crate::abi::exit_codes::ExitCode;
use crate::error::SnpError;
use crate::insn::LinearAddr;

/// A #VC without a way on. The context is as it was.
///
/// Code at CPL 0 cannot go on, and whoever called ends the guest. At CPL 3 the caller ends that task alone: user code can bring
/// most of these about by itself, by changing its instructions meanwhile or by one that is not handled.
/// [`PageNotValidated`](Self::PageNotValidated), [`NotRestartable`](Self::NotRestartable) and [`Host`](Self::Host) end the
/// guest from any level.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum VcError {
    /// The error code is not that of the instruction at RIP (EV-03). Nothing was sent.
    #[error("error code of #VC does not fit the instruction at {rip:#x}")]
    FalseExit {
        /// RIP.
        rip: u64,
    },
    /// An error code that is not handled, whatever the instruction. Nothing was sent.
    #[error("error code {code:?} of #VC is not handled")]
    Unsupported {
        /// The error code.
        code: ExitCode,
    },
    /// A private page is not validated: the host took or swapped it (PG-01, PG-02).
    #[error("page at {at:#x} is not validated")]
    PageNotValidated {
        /// CR2.
        at: LinearAddr,
    },
    /// An access that cannot be repeated met a page that is not validated.
    #[error("access to a page that is not validated cannot be repeated")]
    NotRestartable,
    /// A device access to an address that the guest's own tables show as private (PG-28). Nothing was sent.
    #[error("device access to the private address {at:#x}")]
    PrivateDevice {
        /// The address.
        at: LinearAddr,
    },
    /// A device access across the end of a page. Nothing was sent.
    #[error("device access at {at:#x} crosses the end of a page")]
    CrossesPage {
        /// The address.
        at: LinearAddr,
    },
    /// A device access from above CPL 0: whoever may change the code meanwhile could choose what is accessed (GH-11).
    #[error("device access from user mode at {rip:#x}")]
    UserDevice {
        /// RIP.
        rip: u64,
    },
    /// #VC for an MSR that cannot be intercepted, or must not be. Nothing was sent.
    #[error("host intercepts MSR {msr:#x}")]
    ProtectedMsr {
        /// Its number.
        msr: u32,
    },
    /// The host failed, or did not answer as the protocol wants.
    #[error("host event: {0}")]
    Host(SnpError),
}

impl core::error::Error for VcError {}

impl Error for VcError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Unsupported { .. } | Self::CrossesPage { .. } => ErrorKind::Unsupported,
            Self::UserDevice { .. } => ErrorKind::NotPermitted,
            Self::PageNotValidated { .. } | Self::NotRestartable => ErrorKind::Inaccessible,
            Self::FalseExit { .. } | Self::PrivateDevice { .. } | Self::ProtectedMsr { .. } => {
                ErrorKind::HostMisbehaved
            }
            Self::Host(error) => error.kind(),
        }
    }
}
