//! The one table of cases that a vendor has no counterpart for.

/// A case that does not apply to a backend's vendor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exception {
    /// Id of the case.
    pub case: &'static str,
    /// Prefix of the names of backends of that vendor.
    pub vendor: &'static str,
    /// The fact that says so.
    pub reason: &'static str,
}

impl Exception {
    /// True for this case on this backend.
    pub fn applies(&self, case: &str, backend: &str) -> bool {
        self.case == case && backend.starts_with(self.vendor)
    }
}

/// All exceptions.
pub fn exceptions() -> &'static [Exception] {
    &[Exception {
        case: "S4-state-not-switched",
        vendor: "snp",
        reason: "verb-mapping, point 9: SNP switches floating point and MSR state in the VMSA",
    }]
}
