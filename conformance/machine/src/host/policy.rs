//! The hosts a guest may meet: an honest one, and liars that break one rule each.

use alloc::boxed::Box;

use crate::op::Vcpu;

/// How the host behaves. The names in brackets are the threats it plays.
///
/// A host may deny progress at any time, so no liar proves anything by standing still. What must hold under each of
/// them is integrity and secrecy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// Keeps every rule.
    #[default]
    Honest,

    /// Answers every run-VMPL with success and returns to the caller without running anybody (SW-01, SW-07).
    NeverSwitch,
    /// As [`NeverSwitch`](Self::NeverSwitch), for calls of this VMPL only: 0 plays SW-01, a guest level SW-07.
    NeverSwitchFrom(u8),
    /// After each switch to VMPL0 it answers this many run-VMPLs of VMPL0 with success at once, so that VMPL0 sees the
    /// same registers of the lower level again (SW-03).
    ReturnAgain(u32),
    /// Returns to VMPL0 after every exit of a lower level, and in the middle of it every so many steps, though the
    /// lower level did not ask (SW-02). At least 2, else the lower level never gets on.
    SpuriousReturn {
        /// Steps of the lower level between two returns.
        every: u32,
    },
    /// Enters this VMPL of the vCPU in place of any lower VMPL that VMPL0 asks for, if it knows one (SW-05).
    WrongLevel(u8),
    /// Enters the VMPL that was asked for, but of another vCPU, whenever that one is not running (SW-05, SW-06).
    WrongVcpu,
    /// Runs the asked VMPL and then answers with this code in bits 11:0 of the GHCB MSR (SW-08, SW-09).
    WrongResponseCode(u16),
    /// Runs the asked VMPL and then answers with these error bits: 63:32 of the GHCB MSR, 31:0 of SW_EXITINFO1 (SW-08).
    SwitchErrorBits(u32),
    /// Answers every run-VMPL with an error and runs nobody (SW-08).
    RefuseSwitch,
    /// So many times it keeps an instruction that a lower level reflects to itself: says that it is done, and runs the level
    /// again without VMPL0 (SW-01).
    KeepReflected(u64),
    /// Enters the VMSA of a lower level on an idle vCPU while VMPL0 serves its call (SW-04).
    RunDuringService,

    /// Says that every page state change is done and does none (PG-14).
    PscDoesNothing,
    /// Does so many entries of a list and says that all are done (PG-14).
    PscStopsAfter(u16),
    /// Does at most so many entries per request and leaves the cursor there; 0 never moves it (PG-15, GH-20).
    PscPartial(u16),
    /// Does the change, then writes other frames and operations over every entry (PG-16).
    PscEditsEntries,
    /// Does the change, then puts the cursor back to 0 (PG-15).
    PscRewindsCursor,
    /// Does the change, then appends an entry of its own: page 0 to private (PG-15).
    PscGrowsEnd,
    /// Does the change, then sets the reserved word of the header (PG-15).
    PscSetsReserved,
    /// Changes nothing and says so in SW_EXITINFO2 only, with SW_EXITINFO1 zero and the cursor at the end (PG-17).
    PscErrorOnlyInInfo2,

    /// Takes a private page away: no nested mapping (PG-01).
    UnmapPage {
        /// The page.
        gpa: u64,
        /// Guest steps before it happens.
        after_steps: u64,
    },
    /// Takes a private page away: no longer assigned (PG-01).
    UnassignPage {
        /// The page.
        gpa: u64,
        /// Guest steps before it happens.
        after_steps: u64,
    },
    /// Puts spare memory, freshly assigned, under a private page (PG-02).
    SwapPage {
        /// The page that gets other memory.
        gpa: u64,
        /// Guest steps before it happens.
        after_steps: u64,
    },
    /// Does what [`SwapPage`](Self::SwapPage) does and puts the old memory back so many steps later (PG-03).
    SwapBack {
        /// The page that gets other memory.
        gpa: u64,
        /// Guest steps before it happens, and again before it is undone.
        after_steps: u64,
    },
    /// Moves the memory of a page of the monitor under a page of the guest (PG-06).
    RemapInto {
        /// Whose memory is taken.
        from: u64,
        /// Where it shows up, freshly assigned.
        to: u64,
        /// Guest steps before it happens.
        after_steps: u64,
    },
    /// Sets a reserved bit in the nested entry of a page, as if it were a device (PG-28).
    MarkDevice {
        /// The page.
        gpa: u64,
        /// Guest steps before it happens.
        after_steps: u64,
    },
    /// Splits every large RMP entry whenever it has the processor (PG-11).
    SmashAll,

    /// Calls the firmware and returns the response of the previous message (GR-01).
    ReplayMessage,
    /// Calls the firmware and flips the lowest bit of this byte of the response (GR-02).
    CorruptMessage(u16),
    /// Calls the firmware, halves the size in the header and drops the rest (GR-02).
    TruncateMessage,
    /// Calls the firmware and writes a payload size beyond the page into the header (GR-02).
    OversizeMessage,
    /// Does not call the firmware and answers with this SW_EXITINFO2 (GR-03).
    DropMessageWithError(u64),
    /// Calls the firmware, keeps the response and answers with this SW_EXITINFO2 (GR-03).
    DropResponseWithError(u64),
    /// Does not call the firmware and says that it did (GR-01, GR-14).
    DropMessage,
    /// Says busy so many times (GR-03, GH-20).
    ReportBusy(u64),
    /// Says that the certificate buffer is too short, this many pages being needed (GR-04, GR-13).
    DemandPages(u64),
    /// Fills the certificate buffer with ones and claims ever more pages (GR-13).
    JunkCertificates,
    /// Returns the last response to a message under another VMPCK, else the one before (GR-14).
    ReturnOtherResponse,
    /// Returns the request as its own response (GR-01).
    EchoRequest,
    /// Exclusive-ors a quadword of the last response page before each shared read of it (GR-07).
    FlipResponse {
        /// Offset of the quadword in the page.
        offset: u16,
        /// Bits to flip.
        mask: u64,
    },

    /// Answers CPUID with the complement of every register (CP-01).
    LieCpuid,
    /// Answers with these hypervisor features (GH-07).
    LieFeatures(u64),
    /// Answers with these protocol versions (GH-06).
    LieVersion {
        /// Lowest.
        min: u16,
        /// Highest.
        max: u16,
    },
    /// Answers with this C-bit position (CP-04).
    LieCBit(u8),
    /// Answers a GHCB registration with this frame (GH-05).
    WrongGhcbRegistration(u64),
    /// Wants the GHCB at this frame (GH-05).
    PreferGhcb(u64),
    /// Answers every MSR request but run-VMPL with this code in bits 11:0 (SW-09).
    WrongMsrResponseCode(u16),
    /// Exclusive-ors a quadword of the GHCB page when it returns to the guest and before each shared read (GH-01).
    FlipGhcb {
        /// Offset of the quadword in the page.
        offset: u16,
        /// Bits to flip.
        mask: u64,
    },
    /// Clears the valid bitmap of every answer (GH-02).
    ClearValidBits,
    /// Clears one bit of the valid bitmap of every answer (GH-02).
    ClearValidBit(u8),
    /// Fills the whole shared buffer for string input and answers with this count (GH-08).
    StringCount(u64),
    /// Lists the vCPUs and says that there are this many (GH-18).
    LieListCount(u32),
    /// Says that the list of vCPUs takes this many pages (GH-18).
    DemandListPages(u64),
    /// Answers every event of the GHCB page with SW_EXITINFO1 = 1 and this SW_EXITINFO2 (GH-03).
    BogusException(u64),
    /// Answers every event of the GHCB page with this SW_EXITINFO1 (GH-04).
    WrongStatus(u64),
    /// Answers MSR reads with all ones (GH-12).
    LieMsr,

    /// Swallows every wake-up (M5: stops progress only).
    NoKick,
    /// Wakes everybody all the time: interrupts lower levels every other step, ends every hold (SW-02, EV).
    KickForever,
    /// Stops to run anything after so many exits (GH-20).
    StopAfter(u64),
    /// Resumes a guest that asked to be terminated (TM-01).
    IgnoreTerminate,
    /// Stops only the vCPU that asked to be terminated (TM-02).
    TerminateOne,

    /// Lies to one vCPU.
    OnlyOn {
        /// To whom.
        vcpu: Vcpu,
        /// How.
        inner: Box<Policy>,
    },
    /// Is honest for so many exits and lies from then on.
    After {
        /// Exits of all vCPUs.
        exits: u64,
        /// How.
        inner: Box<Policy>,
    },
    /// Lies at about every fourth exit, in no rhythm that a guest could be in step with.
    Sometimes(Box<Policy>),
}

/// 2^64 divided by the golden ratio: the fractions of its multiples lie evenly, whatever the distance of those looked at.
const EVENLY: u64 = 0x9e37_79b9_7f4a_7c15;

impl Policy {
    /// This policy as seen by one vCPU after so many exits: never a combinator.
    pub(super) fn seen_by(&self, vcpu: Vcpu, exits: u64) -> &Policy {
        match self {
            Policy::OnlyOn { vcpu: to, inner } if *to == vcpu => inner.seen_by(vcpu, exits),
            Policy::After { exits: first, inner } if exits > *first => inner.seen_by(vcpu, exits),
            Policy::Sometimes(inner) if exits.wrapping_mul(EVENLY) >> 62 == 0 => inner.seen_by(vcpu, exits),
            Policy::OnlyOn { .. } | Policy::After { .. } | Policy::Sometimes(_) => &Policy::Honest,
            leaf => leaf,
        }
    }

    /// Adds `by` to the addresses of a memory attack; other policies stay as they are. The list of
    /// [`all_policies`](super::all_policies) names pages relative to the start of RAM.
    #[must_use]
    pub fn based_at(mut self, by: u64) -> Policy {
        match &mut self {
            Policy::UnmapPage { gpa, .. }
            | Policy::UnassignPage { gpa, .. }
            | Policy::SwapPage { gpa, .. }
            | Policy::SwapBack { gpa, .. }
            | Policy::MarkDevice { gpa, .. } => *gpa = gpa.wrapping_add(by),
            Policy::RemapInto { from, to, .. } => {
                *from = from.wrapping_add(by);
                *to = to.wrapping_add(by);
            }
            Policy::OnlyOn { inner, .. } | Policy::After { inner, .. } | Policy::Sometimes(inner) => {
                **inner = core::mem::take(&mut **inner).based_at(by);
            }
            _ => {}
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lies_to_one_vcpu_only() {
        let policy = Policy::OnlyOn { vcpu: Vcpu(1), inner: Box::new(Policy::NeverSwitch) };
        assert_eq!(policy.seen_by(Vcpu(0), 0), &Policy::Honest);
        assert_eq!(policy.seen_by(Vcpu(1), 0), &Policy::NeverSwitch);
    }

    #[test]
    fn lies_from_an_exit_on() {
        let policy = Policy::After { exits: 2, inner: Box::new(Policy::LieCpuid) };
        assert_eq!(policy.seen_by(Vcpu(0), 2), &Policy::Honest);
        assert_eq!(policy.seen_by(Vcpu(0), 3), &Policy::LieCpuid);
    }

    /// A guest that exits in a rhythm of its own meets both, whatever the rhythm.
    #[test]
    fn lies_sometimes_in_every_rhythm() {
        let policy = Policy::Sometimes(Box::new(Policy::NeverSwitch));
        for distance in 1..200 {
            let lies = (0..400).filter(|turn| policy.seen_by(Vcpu(0), turn * distance) != &Policy::Honest).count();
            assert!((40..200).contains(&lies), "{lies} lies at every {distance}. exit");
        }
    }

    #[test]
    fn combinators_nest() {
        let after = Policy::After { exits: 2, inner: Box::new(Policy::LieCpuid) };
        let policy = Policy::OnlyOn { vcpu: Vcpu(1), inner: Box::new(after) };
        assert_eq!(policy.seen_by(Vcpu(1), 1), &Policy::Honest);
        assert_eq!(policy.seen_by(Vcpu(1), 3), &Policy::LieCpuid);
    }

    #[test]
    fn moves_memory_attacks_only() {
        let attack = Policy::RemapInto { from: 0, to: 0x1000, after_steps: 3 };
        let policy = Policy::OnlyOn { vcpu: Vcpu(0), inner: Box::new(attack) }.based_at(0x10_0000);
        let moved = Policy::RemapInto { from: 0x10_0000, to: 0x10_1000, after_steps: 3 };
        assert_eq!(policy.seen_by(Vcpu(0), 0), &moved);
        assert_eq!(Policy::StopAfter(3).based_at(9), Policy::StopAfter(3));
    }
}
