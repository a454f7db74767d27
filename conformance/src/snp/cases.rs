//! Cases that only the SNP machine can run.

use super::platform::Snp;
use crate::suite::Case;

/// The cases of this file.
pub(super) fn cases() -> Vec<Case<Snp>> {
    let mut all = super::host_cases::cases();
    all.extend(super::vcpu_cases::cases());
    all.extend(super::replay::cases());
    all
}
