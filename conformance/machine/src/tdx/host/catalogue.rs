//! The list of all liars.

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;

use super::policy::Policy;

/// Every liar once (some with several values): a name, the policy, and the threat or fact it plays.
///
/// Memory attacks name pages 0 and 1 from the start of RAM after 64 guest steps; a suite that knows its layout makes
/// its own.
#[must_use]
pub fn all_policies() -> Vec<(&'static str, Policy, &'static str)> {
    let late = |inner: Policy| Policy::After { exits: 16, inner: Box::new(inner) };
    vec![
        ("busy-once", Policy::Busy(1), "TD-01"),
        ("busy-storm", Policy::Busy(64), "TD-01"),
        ("busy-forever", Policy::Busy(u64::MAX), "TD-01"),
        ("busy-each-twice", Policy::BusyEach(2), "TD-01"),
        ("maps-nothing", Policy::MapsNothing, "TDX-25"),
        ("no-tables-status", Policy::NoTables { exits: false }, "TDX-24"),
        ("no-tables-exit", Policy::NoTables { exits: true }, "TDX-24"),
        ("resume-l1-often", Policy::ResumeL1 { every: 2 }, "TD-08"),
        ("resume-l1", Policy::ResumeL1 { every: 7 }, "TD-08"),
        ("interrupt-l2", Policy::Interrupt { every: 2 }, "TD-08"),
        ("post-interrupts", Policy::PostInterrupts { every: 5 }, "TD-07"),
        ("post-interrupts-always", Policy::PostInterrupts { every: 1 }, "TD-07"),
        ("map-gpa-page-by-page", Policy::MapGpaChunks(1), "TD-05"),
        ("map-gpa-in-chunks", Policy::MapGpaChunks(7), "TD-05"),
        ("map-gpa-stuck", Policy::MapGpaStuck, "TD-05"),
        ("map-gpa-backwards", Policy::MapGpaBackwards, "TD-05"),
        ("map-gpa-outside", Policy::MapGpaOutside, "TD-05"),
        ("map-gpa-at-end", Policy::MapGpaAtEnd, "TD-05"),
        ("map-gpa-unaligned", Policy::MapGpaUnaligned, "TD-05"),
        ("map-gpa-other-bit", Policy::MapGpaOtherBit, "TD-06"),
        ("map-gpa-refuse-operand", Policy::MapGpaRefuse(0x8000_0000_0000_0000), "TD-05"),
        ("map-gpa-refuse-in-use", Policy::MapGpaRefuse(0x8000_0000_0000_0001), "TD-05"),
        ("map-gpa-refuse-unlisted", Policy::MapGpaRefuse(0x1234), "TD-05"),
        ("map-gpa-pretend", Policy::MapGpaPretend, "TD-05"),
        ("readd-page", Policy::ReaddPage { gpa: 0, after_steps: 64 }, "TD-18"),
        ("remove-page", Policy::RemovePage { gpa: 0, after_steps: 64 }, "TDX-25"),
        ("block-page", Policy::BlockPage { gpa: 0, after_steps: 64 }, "TDX-25"),
        ("alias-page", Policy::AliasPage { from: 0, to: 0x1000, after_steps: 64 }, "PG-06"),
        ("split-all", Policy::SplitAll, "TD-03"),
        ("quote-error", Policy::QuoteError(0x8000_0000_0000_0001), "TDX-67"),
        ("quote-in-flight", Policy::QuoteInFlight, "TDX-67"),
        ("quote-flip-tag", Policy::QuoteFlip(0), "TDX-67"),
        ("quote-flip-reportdata", Policy::QuoteFlip(8 + 128), "TDX-67"),
        ("quote-replay", Policy::QuoteReplay, "TDX-67"),
        ("quote-oversize", Policy::QuoteOversize, "TDX-67"),
        ("lie-cpuid", Policy::LieCpuid, "TD-17"),
        ("lie-msr", Policy::LieMsr, "TD-17"),
        ("vmcall-status-retry", Policy::VmcallStatus(1), "TD-05"),
        ("vmcall-status-unlisted", Policy::VmcallStatus(0x7fff), "TD-05"),
        ("no-kick", Policy::NoKick, "TD-15"),
        ("never-run", Policy::NeverRun, "TDX-12"),
        ("stop-after-8", Policy::StopAfter(8), "TDX-12"),
        ("stop-after-64", Policy::StopAfter(64), "TDX-12"),
        ("ignore-fatal-error", Policy::IgnoreFatalError, "TM-01"),
        ("stop-one-only", Policy::StopOneOnly, "TM-02"),
        ("late-busy-each", late(Policy::BusyEach(3)), "TD-01"),
        ("late-map-gpa-outside", late(Policy::MapGpaOutside), "TD-05"),
        ("late-resume-l1", late(Policy::ResumeL1 { every: 3 }), "TD-08"),
        ("late-never-run", late(Policy::NeverRun), "TDX-12"),
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
