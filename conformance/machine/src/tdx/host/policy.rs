//! The hosts a TD may meet: an honest one, and liars that break one rule each.

use alloc::boxed::Box;

use crate::Vcpu;

/// How the host behaves. The names in brackets are the threats it plays.
///
/// A host may deny progress at any time, so no liar proves anything by standing still. What must hold under each of
/// them is integrity and secrecy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// Keeps every rule.
    #[default]
    Honest,

    /// The first so many leaves that can find their operand busy do (TD-01).
    Busy(u64),
    /// Each leaf that can find its operand busy does so many times before it goes on, and again when it is executed
    /// again (TD-01).
    BusyEach(u64),
    /// Agrees to everything by MapGPA and maps no private page, whoever asks for it (TDX-25).
    MapsNothing,
    /// Never gives an L2 a table page (TDX-24).
    NoTables {
        /// VM_CTLS bit 0: TD exits, else L2_SEPT_WALK_FAILED.
        exits: bool,
    },

    /// Interrupts an L2 every so many steps and resumes L1 in its place; resumes L1 after a TDVMCALL of an L2 (TD-08).
    /// At least 2, else the L2 never gets on.
    ResumeL1 {
        /// Steps of the L2 between two.
        every: u32,
    },
    /// Interrupts an L2 every so many steps and resumes it. At least 2.
    Interrupt {
        /// Steps of the L2 between two.
        every: u32,
    },
    /// Sends an interrupt to L1 every so many VP.ENTERs and steps of L2s (TD-07); 1 refuses every VP.ENTER.
    PostInterrupts {
        /// VP.ENTERs and steps between two.
        every: u32,
    },

    /// Does at most so many pages per MapGPA and says where to go on, as the protocol allows (TD-05).
    MapGpaChunks(u64),
    /// Does nothing and says to go on at the start (TD-05).
    MapGpaStuck,
    /// Does one page and says to go on before the start (TD-05).
    MapGpaBackwards,
    /// Does one page and says to go on behind the end (TD-05).
    MapGpaOutside,
    /// Does all and says to go on at the end (TD-05).
    MapGpaAtEnd,
    /// Does one page and says to go on at an address that is no page (TD-05).
    MapGpaUnaligned,
    /// Does one page and says to go on with the other value of the shared bit (TD-06).
    MapGpaOtherBit,
    /// Refuses with this status (TD-05).
    MapGpaRefuse(u64),
    /// Says that it is done and does nothing (TD-05).
    MapGpaPretend,

    /// Removes a private page and adds another one in its place (TD-18).
    ReaddPage {
        /// The page.
        gpa: u64,
        /// Guest steps before it happens.
        after_steps: u64,
    },
    /// Removes a private page and does not map it again (TDX-25).
    RemovePage {
        /// The page.
        gpa: u64,
        /// Guest steps before it happens.
        after_steps: u64,
    },
    /// Blocks a private page, a large one as a whole (TDX-25).
    BlockPage {
        /// The page.
        gpa: u64,
        /// Guest steps before it happens.
        after_steps: u64,
    },
    /// Tries to put the memory of a page of L1 under another page (PG-06).
    AliasPage {
        /// Whose memory.
        from: u64,
        /// Where it is to show up.
        to: u64,
        /// Guest steps before it happens.
        after_steps: u64,
    },
    /// Splits every large page whenever it has the processor (TD-03).
    SplitAll,

    /// Answers GetQuote with this status in the buffer (TDX-67).
    QuoteError(u64),
    /// Says for ever that the quote is on its way (TDX-67).
    QuoteInFlight,
    /// Flips the lowest bit of this byte of the quote (TDX-67).
    QuoteFlip(u16),
    /// Gives the quote of the call before (TDX-67).
    QuoteReplay,
    /// Claims a quote that is longer than the buffer (TDX-67).
    QuoteOversize,

    /// Answers CPUID with the complement of every register (TD-17).
    LieCpuid,
    /// Answers MSR reads with all ones.
    LieMsr,
    /// Puts this status into R10 of every answer (TD-05).
    VmcallStatus(u64),

    /// Swallows every wake-up (M5: stops progress only; TD-15).
    NoKick,
    /// Does not run the vCPU (TDX-12).
    NeverRun,
    /// Stops to run anything after so many TD exits (TDX-12).
    StopAfter(u64),
    /// Resumes a TD that has reported a fatal error (TM-01).
    IgnoreFatalError,
    /// Stops only the vCPU that has reported a fatal error (TM-02).
    StopOneOnly,

    /// Lies to one vCPU.
    OnlyOn {
        /// To whom.
        vcpu: Vcpu,
        /// How.
        inner: Box<Policy>,
    },
    /// Is honest for so many TD exits and lies from then on.
    After {
        /// Exits of all vCPUs.
        exits: u64,
        /// How.
        inner: Box<Policy>,
    },
}

impl Policy {
    /// This policy as seen by one vCPU after so many exits: never a combinator.
    pub(super) fn seen_by(&self, vcpu: Vcpu, exits: u64) -> &Policy {
        match self {
            Policy::OnlyOn { vcpu: to, inner } if *to == vcpu => inner.seen_by(vcpu, exits),
            Policy::After { exits: first, inner } if exits > *first => inner.seen_by(vcpu, exits),
            Policy::OnlyOn { .. } | Policy::After { .. } => &Policy::Honest,
            leaf => leaf,
        }
    }

    /// Adds `by` to the addresses of a memory attack; other policies stay as they are. The list of
    /// [`all_policies`](super::all_policies) names pages relative to the start of RAM.
    #[must_use]
    pub fn based_at(mut self, by: u64) -> Policy {
        match &mut self {
            Policy::ReaddPage { gpa, .. } | Policy::RemovePage { gpa, .. } | Policy::BlockPage { gpa, .. } => {
                *gpa = gpa.wrapping_add(by);
            }
            Policy::AliasPage { from, to, .. } => {
                *from = from.wrapping_add(by);
                *to = to.wrapping_add(by);
            }
            Policy::OnlyOn { inner, .. } | Policy::After { inner, .. } => {
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
    fn lies_to_one_vcpu_from_an_exit_on() {
        let after = Policy::After { exits: 2, inner: Box::new(Policy::LieCpuid) };
        let policy = Policy::OnlyOn { vcpu: Vcpu(1), inner: Box::new(after) };
        assert_eq!(policy.seen_by(Vcpu(0), 3), &Policy::Honest);
        assert_eq!(policy.seen_by(Vcpu(1), 2), &Policy::Honest);
        assert_eq!(policy.seen_by(Vcpu(1), 3), &Policy::LieCpuid);
    }

    #[test]
    fn moves_memory_attacks_only() {
        let attack = Policy::AliasPage { from: 0, to: 0x1000, after_steps: 3 };
        let policy = Policy::OnlyOn { vcpu: Vcpu(0), inner: Box::new(attack) }.based_at(0x10_0000);
        let moved = Policy::AliasPage { from: 0x10_0000, to: 0x10_1000, after_steps: 3 };
        assert_eq!(policy.seen_by(Vcpu(0), 0), &moved);
        assert_eq!(Policy::StopAfter(3).based_at(9), Policy::StopAfter(3));
    }
}
