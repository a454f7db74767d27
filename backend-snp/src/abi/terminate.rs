//! Reasons to end the guest, said by MSR protocol or NAE event.
//!
//! Source: 56421, `facts/ghcb_msr.csv` (kind `terminate`).

use thiserror_no_std::Error;

bit_struct! {
    /// A reason code inside a reason set. Set 0 is general; each piece of guest software picks a set of its own.
    pub struct TerminateReason(u16) {
        /// Reason set, 0 to 15.
        set / with_set @ 3:0,
        /// Reason code in the set.
        code / with_code @ 11:4,
    }
}

impl TerminateReason {
    /// Set 0: no specific reason.
    pub const GENERAL: Self = Self(0x000);
    /// Set 0: no common protocol version.
    pub const PROTOCOL_UNSUPPORTED: Self = Self(0x010);
    /// Set 0: features are on that this software cannot run with.
    pub const SNP_FEATURES_UNSUPPORTED: Self = Self(0x020);

    /// Makes a reason.
    ///
    /// # Errors
    /// [`InvalidReasonSet`] if `set` is above 15.
    pub const fn try_new(set: u8, code: u8) -> Result<Self, InvalidReasonSet> {
        if set <= 15 { Ok(Self(set as u16 | (code as u16) << 4)) } else { Err(InvalidReasonSet { set }) }
    }
}

/// A number that names no reason set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("{set:#x} names no reason set")]
pub struct InvalidReasonSet {
    /// The number as it came.
    pub set: u8,
}

impl core::error::Error for InvalidReasonSet {}

codes! {
    /// Reason codes of set 1, used by guest kernels.
    pub struct KernelReason(u8) {
        /// GHCB registration failed.
        REGISTER = 0;
        /// Page state change failed.
        PSC = 1;
        /// Validation failed.
        PVALIDATE = 2;
        /// Neither at VMPL0 nor with an SVSM.
        NOT_VMPL0 = 3;
        /// CPUID page missing or bad.
        CPUID = 4;
        /// The host's CPUID answer failed the checks.
        CPUID_HV = 5;
        /// Secrets page unusable.
        SECRETS_PAGE = 6;
        /// The SVSM is missing.
        NO_SVSM = 7;
        /// The SVSM says the guest runs at VMPL0.
        SVSM_VMPL0 = 8;
        /// Calling area unusable.
        SVSM_CAA = 9;
        /// Secure TSC failed.
        SECURE_TSC = 10;
        /// Moving the calling area failed.
        SVSM_CA_REMAP_FAIL = 11;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_a_set_that_does_not_fit() {
        assert_eq!(TerminateReason::try_new(16, 0), Err(InvalidReasonSet { set: 16 }));
        assert_eq!(TerminateReason::try_new(15, 0xff).map(TerminateReason::bits), Ok(0xfff));
    }
}
