//! The one table of cases that a vendor has no counterpart for.

/// A case that does not apply to a backend's vendor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exception {
    /// Id of the case.
    pub case: &'static str,
    /// Its rule.
    pub rule: &'static str,
    /// Prefix of the names of backends of that vendor.
    pub vendor: &'static str,
    /// Id of the fact that says so, in the tables that the backends keep: a rule, a leaf, a field.
    pub fact: &'static str,
    /// What it says.
    pub reason: &'static str,
}

impl Exception {
    /// True for this case on this backend.
    pub fn applies(&self, case: &str, backend: &str) -> bool {
        self.case == case && backend.starts_with(self.vendor)
    }
}

/// Rows of one vendor for several cases of a rule that one fact explains.
macro_rules! rows {
    ($($vendor:literal, $fact:literal, $reason:literal: $($case:literal of $rule:literal),+;)*) => {
        &[$($(Exception { case: $case, rule: $rule, vendor: $vendor, fact: $fact, reason: $reason },)+)*]
    };
}

/// All exceptions.
pub fn exceptions() -> &'static [Exception] {
    rows! {
        "snp", "fpreg_ymm", "the switch exchanges floating point and MSR state in the VMSA":
            "S4-state-not-switched" of "S4";
        "tdx", "TDX-13", "the module moves the vCPU into a level and back; the host has no part in it":
            "S1-served-once" of "S1", "S1-never-switched" of "S1", "S1-faked-completion" of "S1",
            "H2-never-switches" of "H2", "H2-fakes-completion" of "H2", "H2-switches-again" of "H2",
            "H2-wrong-level" of "H2";
        "tdx", "TDX-49", "a call is the exit that VMCALL makes; no mark in memory tells of it":
            "S1-malformed-mark" of "S1";
        "tdx", "TDX-40", "a posted interrupt ends the run of a level, so that what is posted for its vCPU never waits":
            "V1-slot-occupied" of "V1";
        "tdx", "TDX-25", "a leaf on a page that is not mapped leaves to the host, which may never come back":
            "M2-rescind-twice" of "M2";
        "tdx", "MapGPA", "the range stands in registers; there is no list that the host could rewrite":
            "H2-page-state-edits" of "H2";
        "tdx", "TDG.MR.REPORT", "the module makes the report; no message to a firmware passes through the host":
            "A2-replayed-answer" of "A2", "A2-changed-answer" of "A2", "A2-lost-request" of "A2",
            "A2-lost-answer" of "A2", "A2-busy-firmware" of "A2", "A2-closed-for-guests" of "A2",
            "H2-replays-message" of "H2", "H2-corrupts-message" of "H2", "H2-loses-request" of "H2",
            "H2-loses-answer" of "H2", "H2-says-busy" of "H2";
        "tdx", "TDG.MR.REPORT", "no hardware signs the level, so that evidence over L1's services is not given":
            "H1-services-requests" of "H1";
        "tdx", "TDG.SYS.RD", "what the machine can do is asked of the module, which the host cannot answer for":
            "H2-features" of "H2";
        "tdx", "TDG.VP.INFO", "a level has no boot pages: who it is, it asks L1, and keys it has none":
            "A3-boot-page-per-level" of "A3", "H3-altered-boot-page" of "H3";
    }
}
