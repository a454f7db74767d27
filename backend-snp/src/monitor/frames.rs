//! State frames: which pages are VMSAs, whose, and who of L1 may touch them.
//!
//! # One word per frame
//! Every VMSA that L1 made has one word in storage that all vCPUs of L1 share: address, generation and [`Phase`]. The word
//! changes by compare-exchange only, and the phase says who may touch the page:
//!
//! ```text
//!            admit                install               run, look
//!   (free) --------> Changing --> Admitted ------> Ready <--------> Held
//!                    ^    |           |              |               |
//!                    |    +-> (free)  |    retire    |               | install of another frame
//!                    +----------------+--------------+               +--> Admitted
//! ```
//!
//! - `Admitted`, `Ready`: nobody of L1 touches the page. It may be running.
//! - `Held`: its own vCPU touches it, and nobody else. Only the own vCPU moves a word to or from `Held`: while it executes
//!   L1 code, never over a run of the level. From a reported call to its answer the word stays there. After any other exit it
//!   goes back to `Ready`, so that the frame can be retired from anywhere; the gate stays closed until the next run.
//! - `Changing`: whoever moved the word there touches the page, and nobody else.
//!
//! So two vCPUs of L1 never edit one VMSA (V4), without a lock and without waiting: who loses the compare-exchange leaves
//! the page alone. A vCPU that comes back from VMGEXIT has to move the word from `Ready` to `Held` before it looks at the
//! page. If another vCPU is just retiring the frame, it finds `Changing`, and reports a spurious return; if the frame is
//! gone, it finds a free word, or one of another generation, and the level has no vCPU any more. It cannot mistake a frame
//! that was retired and admitted again for its own, because only its own `install` leads to `Ready`.
//!
//! Nobody waits for a word, so a vCPU that the host stops for ever with one in its hands stops nobody else.
//!
//! A word stays in `Changing` for ever when undoing a failed step failed too: nobody touches that page again.

use core::sync::atomic::{AtomicU64, Ordering};

use coco_part_api::VcpuId;
use x86_64::PhysAddr;
use x86_64::structures::paging::PhysFrame;

use crate::abi::vmpl::Vmpl;
use crate::error::SnpError;

/// Frames that can be admitted for one level of one vCPU at a time: the current one, its successor, and two to spare.
pub const FRAMES_PER_LEVEL: usize = 4;

/// The words of one vCPU, by VMPL.
pub(super) type VcpuFrames = [[AtomicU64; FRAMES_PER_LEVEL]; 4];

/// The words of a vCPU without any state frame.
pub(super) const fn no_frames() -> VcpuFrames {
    [const { [const { AtomicU64::new(0) }; FRAMES_PER_LEVEL] }; 4]
}

/// Two claims look at each other's words after writing their own, which needs one order for all.
const ORDER: Ordering = Ordering::SeqCst;

/// Bits 51:12.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
/// Bits 63:52: counts admissions, so that a seed of an earlier one fits no later one.
const GENERATION: u64 = 0xfff0_0000_0000_0000;
const GENERATION_ONE: u64 = 1 << 52;
/// Bits 2:0; 0 is a free word, of which only the generation counts.
const PHASE: u64 = 7;

/// Who may touch a state frame; see the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Nobody. It is not the current one of its level.
    Admitted = 1,
    /// Nobody. It is the current one of its level.
    Ready = 2,
    /// Its own vCPU.
    Held = 3,
    /// Who moved it here.
    Changing = 4,
}

impl Phase {
    const ALL: [Self; 4] = [Self::Admitted, Self::Ready, Self::Held, Self::Changing];

    #[inline]
    fn of(word: u64) -> Option<Self> {
        Self::ALL.into_iter().find(|phase| *phase as u64 == word & PHASE)
    }
}

/// Which word: it goes to another vCPU inside a seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Index {
    pub(super) vcpu: VcpuId,
    pub(super) vmpl: Vmpl,
    slot: usize,
    /// Address and generation.
    key: u64,
}

impl Index {
    /// The frame.
    #[inline]
    pub(super) fn frame(self) -> PhysFrame {
        PhysFrame::containing_address(PhysAddr::new_truncate(self.key & ADDRESS))
    }
}

/// The word of one admission of one frame.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place<'a> {
    word: &'a AtomicU64,
    index: Index,
}

impl Place<'_> {
    /// The frame.
    #[inline]
    pub(super) fn frame(&self) -> PhysFrame {
        self.index.frame()
    }

    #[inline]
    pub(super) const fn index(&self) -> Index {
        self.index
    }

    /// The phase, or `None` when this admission is over.
    #[inline]
    pub(super) fn phase(&self) -> Option<Phase> {
        let word = self.word.load(ORDER);
        if word & !PHASE == self.index.key { Phase::of(word) } else { None }
    }

    /// Moves the word; false if it is in another phase or about something else.
    #[inline]
    pub(super) fn shift(&self, from: Phase, to: Phase) -> bool {
        let key = self.index.key;
        self.word.compare_exchange(key | from as u64, key | to as u64, ORDER, ORDER).is_ok()
    }

    /// Ends this admission. Only for whoever has the word in [`Phase::Changing`].
    pub(super) fn free(&self) {
        let key = self.index.key;
        // Cannot fail: nobody else moves a word out of `Changing`.
        let _ = self.word.compare_exchange(key | Phase::Changing as u64, key & GENERATION, ORDER, ORDER);
    }
}

/// All words.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frames<'a> {
    vcpus: &'a [VcpuFrames],
}

impl<'a> Frames<'a> {
    pub(super) const fn new(vcpus: &'a [VcpuFrames]) -> Self {
        Self { vcpus }
    }

    /// Checks that a vCPU exists.
    pub(super) fn check(&self, vcpu: VcpuId) -> Result<(), SnpError> {
        self.vcpus.get(vcpu.index()).map(|_| ()).ok_or(SnpError::UnknownVcpu { id: vcpu })
    }

    /// Claims a word for a frame, in [`Phase::Changing`].
    ///
    /// # Errors
    /// [`SnpError::UnknownVcpu`]; [`SnpError::FrameInUse`] for a frame that has a word; [`SnpError::NoRoom`] if there is no
    /// free word, which time does not change; [`SnpError::FrameBusy`] if another vCPU is at work on the frame or was quicker
    /// with the word.
    pub(super) fn claim(&self, vcpu: VcpuId, vmpl: Vmpl, frame: PhysFrame) -> Result<Place<'a>, SnpError> {
        let at = frame.start_address();
        let level = self.level(vcpu, vmpl)?;
        self.demand_unlisted(at, None)?;
        let mut outrun = false;
        for (slot, word) in level.iter().enumerate() {
            let free = word.load(ORDER);
            if free & PHASE != 0 {
                continue;
            }
            let key = (free & GENERATION).wrapping_add(GENERATION_ONE) | at.as_u64() & ADDRESS;
            let changing = key | Phase::Changing as u64;
            if word.compare_exchange(free, changing, ORDER, ORDER).is_err() {
                outrun = true;
                continue;
            }
            let place = Place { word, index: Index { vcpu, vmpl, slot, key } };
            // Two claims of one frame see each other here: a claim is visible before its second look. Both may lose.
            return match self.demand_unlisted(at, Some(word)) {
                Ok(()) => Ok(place),
                Err(_) => {
                    place.free();
                    Err(SnpError::FrameBusy { at })
                }
            };
        }
        Err(if outrun { SnpError::FrameBusy { at } } else { SnpError::NoRoom { id: vcpu } })
    }

    /// The words in use of a level of a vCPU.
    #[inline]
    pub(super) fn of(&self, vcpu: VcpuId, vmpl: Vmpl) -> impl Iterator<Item = Place<'a>> + use<'a> {
        let words = self.level(vcpu, vmpl).into_iter().flatten().enumerate();
        words.filter_map(move |(slot, word)| {
            let value = word.load(ORDER);
            let index = Index { vcpu, vmpl, slot, key: value & !PHASE };
            (value & PHASE != 0).then_some(Place { word, index })
        })
    }

    /// The word of a frame that was admitted for a level of a vCPU.
    #[inline]
    pub(super) fn find(&self, vcpu: VcpuId, vmpl: Vmpl, frame: PhysFrame) -> Option<Place<'a>> {
        let at = frame.start_address().as_u64();
        self.level(vcpu, vmpl).ok()?.iter().enumerate().find_map(|(slot, word)| {
            let value = word.load(ORDER);
            let found = value & PHASE != 0 && value & ADDRESS == at;
            found.then_some(Place { word, index: Index { vcpu, vmpl, slot, key: value & !PHASE } })
        })
    }

    /// Whether any frame is listed for a level of a vCPU.
    pub(super) fn has_any(&self, vcpu: VcpuId, vmpl: Vmpl) -> bool {
        self.level(vcpu, vmpl).is_ok_and(|words| words.iter().any(|word| word.load(ORDER) & PHASE != 0))
    }

    /// The word that an index names.
    #[inline]
    pub(super) fn at(&self, index: Index) -> Option<Place<'a>> {
        let word = self.level(index.vcpu, index.vmpl).ok()?.get(index.slot)?;
        Some(Place { word, index })
    }

    #[inline]
    fn level(&self, vcpu: VcpuId, vmpl: Vmpl) -> Result<&'a [AtomicU64; FRAMES_PER_LEVEL], SnpError> {
        let words = self.vcpus.get(vcpu.index()).and_then(|levels| levels.get(usize::from(vmpl.number())));
        words.ok_or(SnpError::UnknownVcpu { id: vcpu })
    }

    /// Checks that no word but `own` names the frame.
    fn demand_unlisted(&self, at: PhysAddr, own: Option<&AtomicU64>) -> Result<(), SnpError> {
        let is_own = |word: &AtomicU64| own.is_some_and(|own| core::ptr::eq(own, word));
        let listed = self.vcpus.iter().flatten().flatten().filter(|word| !is_own(word)).any(|word| {
            let value = word.load(ORDER);
            value & PHASE != 0 && value & ADDRESS == at.as_u64()
        });
        if listed { Err(SnpError::FrameInUse { at }) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::sync::atomic::AtomicUsize;
    use std::thread;

    use super::*;

    fn frame(at: u64) -> PhysFrame {
        PhysFrame::containing_address(PhysAddr::new(at))
    }

    #[test]
    fn a_frame_has_one_word_at_a_time() {
        let words = [no_frames(), no_frames()];
        let frames = Frames::new(&words);
        let place = frames.claim(VcpuId(0), Vmpl::VMPL1, frame(0x5000)).unwrap();
        let again = frames.claim(VcpuId(1), Vmpl::VMPL2, frame(0x5000));
        assert_eq!(again.err(), Some(SnpError::FrameInUse { at: PhysAddr::new(0x5000) }));
        place.free();
        assert!(frames.claim(VcpuId(1), Vmpl::VMPL2, frame(0x5000)).is_ok());
        assert_eq!(
            frames.claim(VcpuId(2), Vmpl::VMPL1, frame(0x6000)).err(),
            Some(SnpError::UnknownVcpu { id: VcpuId(2) })
        );
    }

    #[test]
    fn an_index_of_an_earlier_admission_finds_nothing() {
        let words = [no_frames()];
        let frames = Frames::new(&words);
        let first = frames.claim(VcpuId(0), Vmpl::VMPL1, frame(0x5000)).unwrap();
        first.free();
        let second = frames.claim(VcpuId(0), Vmpl::VMPL1, frame(0x5000)).unwrap();
        assert!(second.shift(Phase::Changing, Phase::Admitted));
        assert_eq!(frames.at(first.index()).and_then(|place| place.phase()), None);
        assert!(!first.shift(Phase::Admitted, Phase::Ready));
        assert_eq!(frames.find(VcpuId(0), Vmpl::VMPL1, frame(0x5000)).map(|p| p.index()), Some(second.index()));
    }

    #[test]
    fn admissions_of_a_level_are_bounded() {
        let words = [no_frames()];
        let frames = Frames::new(&words);
        for number in 1..=FRAMES_PER_LEVEL as u64 {
            assert!(frames.claim(VcpuId(0), Vmpl::VMPL1, frame(number << 12)).is_ok());
        }
        let refused = frames.claim(VcpuId(0), Vmpl::VMPL1, frame(0x9000)).err();
        assert_eq!(refused, Some(SnpError::NoRoom { id: VcpuId(0) }));
        assert_eq!(frames.of(VcpuId(0), Vmpl::VMPL1).count(), FRAMES_PER_LEVEL);
        assert_eq!(refused.map(|error| coco_part_api::Error::kind(&error)), Some(coco_part_api::ErrorKind::InUse));
        assert!(frames.claim(VcpuId(0), Vmpl::VMPL2, frame(0x9000)).is_ok());
    }

    #[test]
    fn racing_claims_of_a_frame_never_both_win() {
        for _ in 0..200 {
            let words = [no_frames(), no_frames()];
            let (start, won) = (Barrier::new(2), AtomicUsize::new(0));
            thread::scope(|scope| {
                for vcpu in 0..2 {
                    let (words, start, won) = (&words, &start, &won);
                    scope.spawn(move || {
                        start.wait();
                        if Frames::new(words).claim(VcpuId(vcpu), Vmpl::VMPL1, frame(0x7000)).is_ok() {
                            won.fetch_add(1, Ordering::Relaxed);
                        }
                    });
                }
            });
            assert!(won.load(Ordering::Relaxed) <= 1);
        }
    }

    /// Two vCPUs of L1 that both want the page: the count of those inside never exceeds one.
    #[test]
    fn own_vcpu_and_retirer_are_never_inside_together() {
        let words = [no_frames()];
        let frames = Frames::new(&words);
        let place = frames.claim(VcpuId(0), Vmpl::VMPL1, frame(0x7000)).unwrap();
        assert!(place.shift(Phase::Changing, Phase::Ready));
        let inside = AtomicUsize::new(0);
        let visit = |through: Phase| {
            for _ in 0..2000 {
                if place.shift(Phase::Ready, through) {
                    assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                    thread::yield_now();
                    inside.fetch_sub(1, Ordering::SeqCst);
                    assert!(place.shift(through, Phase::Ready));
                }
            }
        };
        thread::scope(|scope| {
            scope.spawn(|| visit(Phase::Held));
            scope.spawn(|| visit(Phase::Changing));
        });
        assert_eq!(place.phase(), Some(Phase::Ready));
    }
}
