//! Which features a level can run with: SEV_STATUS against a policy (CP-05).
//!
//! SEV_STATUS cannot be intercepted, so it is the processor's word and not the host's. A feature that changes what an
//! address or a saved register means needs code that knows it; one that nobody here knows might. Both are refused, by name.
//!
//! Source: fact table `sev_features`, rule "unsupported".

use crate::abi::sev_features::{SevFeatures, SevStatus};
use crate::error::SnpError;

/// What makes a guest an SNP guest.
const SNP: SevStatus = SevStatus::SEV.union(SevStatus::SEV_ES).union(SevStatus::SNP_ACTIVE);

/// Features without effect on the level that runs with them.
const TRANSPARENT: SevFeatures = SevFeatures::SNP_ACTIVE
    .union(SevFeatures::DEBUG_VIRTUALIZATION)
    .union(SevFeatures::PREVENT_HOST_IBS)
    .union(SevFeatures::SNP_BTB_ISOLATION)
    .union(SevFeatures::IBS_VIRTUALIZATION)
    .union(SevFeatures::SMT_PROTECTION)
    .union(SevFeatures::IBPB_ON_ENTRY);

/// A policy: the features that may be on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    allowed: SevFeatures,
}

impl Policy {
    /// L1. vTOM, ReflectVC, alternate injection, secure TSC, Secure AVIC, register protection, and features of which it cannot
    /// use the gain are off. Restricted injection may be on: it takes every injection but #HV from the host, and the
    /// integrator's handler for #HV just returns; there is no doorbell page. Shadow stacks are no concern of L1: VMPL0 has
    /// every right.
    pub const MONITOR: Self =
        Self { allowed: TRANSPARENT.union(SevFeatures::RESTRICTED_INJECTION).union(SevFeatures::VMPL_SSS) };

    /// A guest level. All that is known, but for vTOM and register protection: they change what this backend writes to
    /// memory. What the others need of a guest is its kernel's business.
    pub const GUEST: Self =
        Self { allowed: SevFeatures::all().difference(SevFeatures::VTOM).difference(SevFeatures::VMSA_REG_PROT) };

    /// The features that may be on.
    pub const fn allowed(self) -> SevFeatures {
        self.allowed
    }

    /// The features of the level that read `status`.
    ///
    /// # Errors
    /// [`SnpError::SevStatus`] with what is missing, and with what is on and not allowed; bits without a name among them.
    pub fn check(self, status: u64) -> Result<SevFeatures, SnpError> {
        let status = SevStatus::from_bits_retain(status);
        let allowed = SevStatus::from_bits_retain(self.allowed.bits() << 2).union(SNP);
        let (missing, refused) = (SNP.difference(status), status.difference(allowed));
        if missing.is_empty() && refused.is_empty() {
            Ok(status.features())
        } else {
            Err(SnpError::SevStatus { missing, refused })
        }
    }
}

#[cfg(test)]
mod tests {
    use std::string::ToString;

    use super::*;

    /// SEV, SEV-ES and SNP.
    const PLAIN: u64 = 0b111;

    /// All 64 bits, one by one, for both policies.
    #[test]
    fn every_bit_of_sev_status_is_allowed_or_refused_by_name() {
        let reserved = [19, 20, 21, 22].into_iter().chain(24..64);
        let monitor = [3, 4, 6, 11, 12, 13, 15, 16, 18].into_iter().chain(reserved.clone());
        let guest = [3, 16].into_iter().chain(reserved);
        for (policy, refused) in
            [(Policy::MONITOR, monitor.collect::<std::vec::Vec<u32>>()), (Policy::GUEST, guest.collect())]
        {
            for bit in 3..64 {
                let status = PLAIN | 1 << bit;
                let one = SevStatus::from_bits_retain(1 << bit);
                let expected = match refused.contains(&bit) {
                    true => Err(SnpError::SevStatus { missing: SevStatus::empty(), refused: one }),
                    false => Ok(SevFeatures::from_bits_retain(status >> 2)),
                };
                assert_eq!(policy.check(status), expected, "{policy:?}, bit {bit}");
            }
        }
    }

    #[test]
    fn what_an_snp_guest_must_have_is_missed_by_name() {
        for bit in 0..3 {
            let missing = SevStatus::from_bits_retain(1 << bit);
            let error = SnpError::SevStatus { missing, refused: SevStatus::empty() };
            assert_eq!(Policy::GUEST.check(PLAIN & !missing.bits()), Err(error));
        }
    }

    #[test]
    fn the_error_names_bits_with_and_without_a_name() {
        let error = Policy::MONITOR.check(0b011 | 1 << 3 | 1 << 40).unwrap_err().to_string();
        for part in ["missing SevStatus(SNP_ACTIVE)", "VTOM", "0x10000000000"] {
            assert!(error.contains(part), "{error}");
        }
    }
}
