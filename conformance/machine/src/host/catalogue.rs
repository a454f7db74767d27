//! The list of all liars.

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;

use super::policy::Policy;

/// Every liar once (some with several values): a name, the policy, and the threat it plays.
///
/// Memory attacks name pages 0 and 1 from the start of RAM after 64 guest steps; a suite that knows its layout makes
/// its own.
#[must_use]
pub fn all_policies() -> Vec<(&'static str, Policy, &'static str)> {
    let sometimes = |inner: Policy| Policy::Sometimes(Box::new(inner));
    let late = |inner: Policy| Policy::After { exits: 16, inner: Box::new(inner) };
    vec![
        ("never-switch", Policy::NeverSwitch, "SW-01"),
        ("never-switch-from-0", Policy::NeverSwitchFrom(0), "SW-01"),
        ("never-switch-from-1", Policy::NeverSwitchFrom(1), "SW-07"),
        ("never-switch-from-2", Policy::NeverSwitchFrom(2), "SW-07"),
        ("never-switch-from-3", Policy::NeverSwitchFrom(3), "SW-07"),
        ("return-again-once", Policy::ReturnAgain(1), "SW-03"),
        ("return-again-often", Policy::ReturnAgain(7), "SW-03"),
        ("spurious-return", Policy::SpuriousReturn { every: 3 }, "SW-02"),
        ("wrong-level-1", Policy::WrongLevel(1), "SW-05"),
        ("wrong-level-2", Policy::WrongLevel(2), "SW-05"),
        ("wrong-level-3", Policy::WrongLevel(3), "SW-05"),
        ("wrong-vcpu", Policy::WrongVcpu, "SW-06"),
        ("wrong-response-cpuid", Policy::WrongResponseCode(0x005), "SW-09"),
        ("wrong-response-psc", Policy::WrongResponseCode(0x015), "SW-09"),
        ("wrong-response-echo", Policy::WrongResponseCode(0x016), "SW-08"),
        ("switch-error-bits", Policy::SwitchErrorBits(1), "SW-08"),
        ("refuse-switch", Policy::RefuseSwitch, "SW-08"),
        ("keep-reflected", Policy::KeepReflected(3), "SW-01"),
        ("run-during-service", Policy::RunDuringService, "SW-04"),
        ("psc-does-nothing", Policy::PscDoesNothing, "PG-14"),
        ("psc-stops-after-1", Policy::PscStopsAfter(1), "PG-14"),
        ("psc-partial-1", Policy::PscPartial(1), "PG-15"),
        ("psc-never-moves", Policy::PscPartial(0), "GH-20"),
        ("psc-edits-entries", Policy::PscEditsEntries, "PG-16"),
        ("psc-rewinds-cursor", Policy::PscRewindsCursor, "PG-15"),
        ("psc-grows-end", Policy::PscGrowsEnd, "PG-15"),
        ("psc-sets-reserved", Policy::PscSetsReserved, "PG-15"),
        ("psc-error-only-in-info2", Policy::PscErrorOnlyInInfo2, "PG-17"),
        ("unmap-page", Policy::UnmapPage { gpa: 0, after_steps: 64 }, "PG-01"),
        ("unassign-page", Policy::UnassignPage { gpa: 0, after_steps: 64 }, "PG-01"),
        ("swap-page", Policy::SwapPage { gpa: 0, after_steps: 64 }, "PG-02"),
        ("swap-back", Policy::SwapBack { gpa: 0, after_steps: 64 }, "PG-03"),
        ("remap-into", Policy::RemapInto { from: 0, to: 0x1000, after_steps: 64 }, "PG-06"),
        ("mark-device", Policy::MarkDevice { gpa: 0, after_steps: 64 }, "PG-28"),
        ("smash-all", Policy::SmashAll, "PG-11"),
        ("replay-message", Policy::ReplayMessage, "GR-01"),
        ("corrupt-tag", Policy::CorruptMessage(0x00), "GR-02"),
        ("corrupt-number", Policy::CorruptMessage(0x20), "GR-02"),
        ("corrupt-type", Policy::CorruptMessage(0x34), "GR-02"),
        ("corrupt-key-number", Policy::CorruptMessage(0x3c), "GR-02"),
        ("corrupt-payload", Policy::CorruptMessage(0x80), "GR-02"),
        ("truncate-message", Policy::TruncateMessage, "GR-02"),
        ("oversize-message", Policy::OversizeMessage, "GR-02"),
        ("drop-message-firmware-error", Policy::DropMessageWithError(0x16), "GR-03"),
        ("drop-message-host-error", Policy::DropMessageWithError(0xff << 32), "GR-03"),
        ("drop-response-firmware-error", Policy::DropResponseWithError(0x16), "GR-03"),
        ("drop-response-busy", Policy::DropResponseWithError(2 << 32), "GR-03"),
        ("drop-message", Policy::DropMessage, "GR-01"),
        ("report-busy-twice", Policy::ReportBusy(2), "GR-03"),
        ("report-busy-forever", Policy::ReportBusy(u64::MAX), "GH-20"),
        ("demand-pages", Policy::DemandPages(u64::MAX), "GR-04"),
        ("junk-certificates", Policy::JunkCertificates, "GR-13"),
        ("return-other-response", Policy::ReturnOtherResponse, "GR-14"),
        ("echo-request", Policy::EchoRequest, "GR-01"),
        ("flip-response", Policy::FlipResponse { offset: 0x80, mask: 1 }, "GR-07"),
        ("lie-cpuid", Policy::LieCpuid, "CP-01"),
        ("lie-features-none", Policy::LieFeatures(0), "GH-07"),
        ("lie-features-all", Policy::LieFeatures(u64::MAX), "GH-07"),
        ("lie-version-old", Policy::LieVersion { min: 1, max: 1 }, "GH-06"),
        ("lie-version-new", Policy::LieVersion { min: 3, max: 9 }, "GH-06"),
        ("lie-version-crossed", Policy::LieVersion { min: 3, max: 1 }, "GH-06"),
        ("lie-c-bit", Policy::LieCBit(47), "CP-04"),
        ("wrong-ghcb-registration", Policy::WrongGhcbRegistration(1), "GH-05"),
        ("refuse-ghcb-registration", Policy::WrongGhcbRegistration(u64::MAX), "GH-05"),
        ("prefer-ghcb", Policy::PreferGhcb(1), "GH-05"),
        ("wrong-msr-response", Policy::WrongMsrResponseCode(0x015), "SW-09"),
        ("flip-exit-info-1", Policy::FlipGhcb { offset: 0x398, mask: 1 }, "GH-01"),
        ("flip-exit-info-2", Policy::FlipGhcb { offset: 0x3a0, mask: u64::MAX }, "GH-01"),
        ("flip-rax", Policy::FlipGhcb { offset: 0x1f8, mask: u64::MAX }, "GH-01"),
        ("flip-valid-bitmap", Policy::FlipGhcb { offset: 0x3f8, mask: u64::MAX }, "GH-01"),
        ("flip-psc-header", Policy::FlipGhcb { offset: 0x800, mask: 0x1_0000_0001 }, "GH-01"),
        ("flip-psc-entry", Policy::FlipGhcb { offset: 0x808, mask: 1 << 12 }, "GH-01"),
        ("clear-valid-bits", Policy::ClearValidBits, "GH-02"),
        ("clear-valid-bit-of-rax", Policy::ClearValidBit(63), "GH-02"),
        ("clear-valid-bit-of-rbx", Policy::ClearValidBit(99), "GH-02"),
        ("clear-valid-bit-of-exit-info-2", Policy::ClearValidBit(116), "GH-02"),
        ("string-count", Policy::StringCount(u64::MAX), "GH-08"),
        ("list-count", Policy::LieListCount(u32::MAX), "GH-18"),
        ("list-pages", Policy::DemandListPages(u64::MAX), "GH-18"),
        ("exception-gp", Policy::BogusException(0x8000_0b0d), "GH-03"),
        ("exception-ud", Policy::BogusException(0x8000_0306), "GH-03"),
        ("exception-page-fault", Policy::BogusException(0x8000_0b0e), "GH-03"),
        ("exception-not-valid", Policy::BogusException(0x0000_030d), "GH-03"),
        ("status-malformed", Policy::WrongStatus(2), "GH-04"),
        ("status-unknown", Policy::WrongStatus(0x7fff_ffff), "GH-04"),
        ("lie-msr", Policy::LieMsr, "GH-12"),
        ("no-kick", Policy::NoKick, "M5"),
        ("kick-forever", Policy::KickForever, "SW-02"),
        ("stop-after-8", Policy::StopAfter(8), "GH-20"),
        ("stop-after-64", Policy::StopAfter(64), "GH-20"),
        ("ignore-terminate", Policy::IgnoreTerminate, "TM-01"),
        ("terminate-one", Policy::TerminateOne, "TM-02"),
        ("sometimes-never-switch", sometimes(Policy::NeverSwitch), "SW-01"),
        ("sometimes-refuse-switch", sometimes(Policy::RefuseSwitch), "SW-08"),
        ("sometimes-wrong-level-1", sometimes(Policy::WrongLevel(1)), "SW-05"),
        ("sometimes-wrong-level-2", sometimes(Policy::WrongLevel(2)), "SW-05"),
        ("sometimes-wrong-level-3", sometimes(Policy::WrongLevel(3)), "SW-05"),
        ("sometimes-wrong-vcpu", sometimes(Policy::WrongVcpu), "SW-06"),
        ("sometimes-run-during-service", sometimes(Policy::RunDuringService), "SW-04"),
        ("late-clear-valid-bits", late(Policy::ClearValidBits), "GH-02"),
        ("late-wrong-status", late(Policy::WrongStatus(2)), "GH-04"),
        ("late-never-switch", late(Policy::NeverSwitch), "SW-01"),
        ("late-exception-gp", late(Policy::BogusException(0x8000_0b0d)), "GR-05"),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_used_once() {
        let all = all_policies();
        for (i, (name, policy, threat)) in all.iter().enumerate() {
            assert!(all[..i].iter().all(|(other, _, _)| other != name), "{name}");
            assert!(*policy != Policy::Honest && !threat.is_empty());
        }
    }
}
