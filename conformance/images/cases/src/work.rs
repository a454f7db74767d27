//! Pieces of work that are done many times, for those who want to know what they cost.

use coco_part_api::GuestPort;

use crate::bed::Bed;
use crate::calls::{query, query_answer};
use crate::check::{Check, ensure, same};
use crate::guest::{Guest, OK, VALIDATE};

/// A piece of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// A request to the host and its answer: one VMGEXIT, and no other level.
    HostRequest,
    /// A call to L1 that asks for next to nothing: there and back.
    Call,
    /// Two calls: a page of the guest is given up, and validated again.
    Page,
}

impl Work {
    /// All of it, in the order in which it is done.
    pub const ALL: [Self; 3] = [Self::HostRequest, Self::Call, Self::Page];

    /// The mark before all rounds of it, and the one behind them.
    #[must_use]
    pub const fn marks(self) -> [u8; 2] {
        let first = 2 * self as u8;
        [first, first + 1]
    }

    /// Calls to L1 in one round.
    #[must_use]
    pub const fn calls(self) -> u64 {
        self as u64
    }

    fn round<P: GuestPort, B: Bed>(self, guest: &mut Guest<'_, '_, P, B>, round: u64) -> Check {
        match self {
            Self::HostRequest => ensure("the host answers", guest.bed.ask_host()),
            Self::Call => same("an answer", guest.call(query(round))?, query_answer(round)),
            Self::Page => {
                let page = guest.own(0);
                guest.entry_answers("give up", page, OK)?;
                guest.entry_answers("validate", page | VALIDATE, OK)
            }
        }
    }
}

/// Does every piece of work so often, with a mark before and behind. Gives 0, or 1 if something was not as it has to be.
pub(crate) fn all<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>, rounds: u64) -> u32 {
    for work in Work::ALL {
        let [before, behind] = work.marks();
        guest.bed.mark(before);
        let done = (0..rounds).try_for_each(|round| work.round(guest, round));
        guest.bed.mark(behind);
        if let Err(why) = done {
            guest.bed.say(format_args!("work {work:?} fails: {why}"));
            return 1;
        }
    }
    guest.bed.say(format_args!("work done {rounds} times"));
    0
}
