//! What the ledger says about a frame.

use coco_part_api::GuestLevel;

/// State of one 4 KiB frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// Not validated: unassigned, or shared with the host. Where every frame begins.
    NotPrivate,
    /// Memory of the monitor.
    Monitor,
    /// Ordinary private memory of a guest level.
    Guest(GuestLevel),
    /// Holds the state of a vCPU; out of reach of every guest level (rule V1).
    VcpuState,
    /// Registered call area of a vCPU. Its level may still read and write it.
    CallArea,
    /// Claimed: some vCPU is at work on it right now.
    Changing,
    /// Nobody reaches it and nobody will: a step could not be undone (rule M4).
    Quarantined,
    /// Deposited by a guest level, and nobody uses it: that level may withdraw it. Out of reach of every guest level. Only
    /// DEPOSIT_MEM makes this state: a page that is adopted into it is not counted, and not found.
    Deposited(GuestLevel),
    /// Deposited by a guest level, and the monitor uses it.
    Lent(GuestLevel),
}

/// Bits of a frame in a ledger word.
pub(crate) const BITS: u32 = 4;

impl State {
    /// Its number in the ledger; zeroed storage says "not private".
    #[inline]
    pub(crate) const fn to_nibble(self) -> u64 {
        match self {
            Self::NotPrivate => 0,
            Self::Monitor => 1,
            Self::Guest(level) => 1 + level.number() as u64,
            Self::VcpuState => 5,
            Self::CallArea => 6,
            Self::Changing => 7,
            Self::Quarantined => 8,
            Self::Deposited(level) => 8 + level.number() as u64,
            Self::Lent(level) => 11 + level.number() as u64,
        }
    }

    /// A number that no state has reads as quarantined: nothing is ever done with such a frame.
    pub(crate) const fn from_nibble(nibble: u64) -> Self {
        match nibble & 0xf {
            0 => Self::NotPrivate,
            1 => Self::Monitor,
            2 => Self::Guest(GuestLevel::ONE),
            3 => Self::Guest(GuestLevel::TWO),
            4 => Self::Guest(GuestLevel::THREE),
            5 => Self::VcpuState,
            6 => Self::CallArea,
            7 => Self::Changing,
            9 => Self::Deposited(GuestLevel::ONE),
            10 => Self::Deposited(GuestLevel::TWO),
            11 => Self::Deposited(GuestLevel::THREE),
            12 => Self::Lent(GuestLevel::ONE),
            13 => Self::Lent(GuestLevel::TWO),
            14 => Self::Lent(GuestLevel::THREE),
            _ => Self::Quarantined,
        }
    }

    /// The state in all 16 places of a word.
    #[inline]
    pub(crate) const fn pattern(self) -> u64 {
        self.to_nibble().wrapping_mul(0x1111_1111_1111_1111)
    }
}

/// Which states occur in a range. Not one moment's picture where other vCPUs are at work.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Survey(u16);

impl Survey {
    pub(crate) const fn with(self, state: State) -> Self {
        Self(self.0 | 1 << state.to_nibble())
    }

    /// True when some frame is in this state.
    pub const fn has(self, state: State) -> bool {
        self.0 & 1 << state.to_nibble() != 0
    }

    /// True when there is at least one frame and each is in one of these states.
    pub fn only(self, states: &[State]) -> bool {
        let allowed = states.iter().fold(Self::default(), |sum, state| sum.with(*state));
        self.0 != 0 && self.0 & !allowed.0 == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_survives_the_round_trip_and_the_rest_is_quarantined() {
        for nibble in 0..16 {
            let state = State::from_nibble(nibble);
            assert_eq!(state.to_nibble(), if nibble == 15 { 8 } else { nibble });
        }
    }

    #[test]
    fn a_survey_of_nothing_holds_nothing() {
        assert!(!Survey::default().only(&[State::Monitor]));
        let both = Survey::default().with(State::Monitor).with(State::CallArea);
        assert!(both.only(&[State::CallArea, State::Monitor, State::Changing]));
        assert!(!both.only(&[State::CallArea]));
    }
}
