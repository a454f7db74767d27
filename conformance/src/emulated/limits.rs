//! What the emulator cannot show, because the processor that QEMU plays does not do it.
//!
//! The same table for people is in `conformance/emulator/README.md`; a test looks for every row there.

/// A row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// Name of the row.
    pub name: &'static str,
    /// What cannot be shown.
    pub text: &'static str,
    /// Cases by their ids that do not run there for it: of the guest's side, or of the main suite.
    pub cases: &'static [&'static str],
}

/// All of them.
pub const LIMITS: &[Limit] = &[
    Limit {
        name: "stale-tlb",
        text: "a right that was cut is gone at once: each VMRUN and VMEXIT drops all translations of its processor, and \
               other processors are told by an interrupt, so no vCPU ever uses an old one",
        cases: &["M5-stale-right-until-flush"],
    },
    Limit {
        name: "user-fetch",
        text: "nested page tables cannot tell execution at CPL 3 from that at CPL 0: only the first fetch of a page is \
               checked for its CPL, and once mapped a page with either right is executed at both",
        cases: &[],
    },
    Limit {
        name: "execute-without-read",
        text: "what can be executed can be read: a nested page table has no right to read of its own",
        cases: &[],
    },
    Limit {
        name: "fetch-through-the-shared-alias",
        text: "the architecture fetches privately whatever the C-bit says; there the fetch is a nested page fault",
        cases: &[],
    },
    Limit {
        name: "tables-in-the-shared-alias",
        text: "a page table whose address in CR3 or in another table lacks the C-bit is walked privately all the same, and \
               from then on its page is plaintext for that level through the shared alias",
        cases: &[],
    },
    Limit {
        name: "unswitched-registers",
        text: "PKRU and DR0 to DR3 are not switched with a level, CR8 is 0 at each entry, and a #DB that meets an \
               unmapped page on its way is lost",
        cases: &[],
    },
    Limit {
        name: "inert-registers",
        text: "PAT, SPEC_CTRL, PRED_CMD, XSS, DEBUGCTL and the bits of EFER beyond SCE, LME, LMA, NXE, SVME and FFXSR are \
               values that each level has for itself: no memory type, no predictor, no XSAVES and no branch record follows them",
        cases: &[],
    },
    Limit { name: "busy-entry", text: "no access meets an RMP entry that another processor holds", cases: &[] },
    Limit {
        name: "shadow-stack",
        text: "there are no supervisor shadow stacks, so the right to them is not there either",
        cases: &["M5-shadow-stack-right"],
    },
    Limit {
        name: "vmsa-write",
        text: "a store into a VMSA that runs always waits; that it may be lost, which the sources leave open, only the step \
               machine shows",
        cases: &[],
    },
    Limit {
        name: "oracles",
        text: "loads and stores run natively, so the oracles about contents of memory see none of them",
        cases: &["A3-keys-of-others"],
    },
];

/// Whether a host acts after a number of steps of a guest, or at exits by their number. On the step machine a load or a store is a
/// step, in the emulator it is none, and what boots before a case exits more often there: counts under such hosts are not compared,
/// results are.
pub fn counts_steps(host: &str) -> bool {
    host.starts_with("sometimes-") || matches!(host, "spurious-return" | "kick-forever")
}

/// The row for which a case does not run there.
pub fn limit(case: &str) -> Option<&'static Limit> {
    LIMITS.iter().find(|limit| limit.cases.contains(&case))
}
