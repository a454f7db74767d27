//! One call of a guest: who calls, and what a service may do for it.

use coco_part_api::range::SMALL;
use coco_part_api::svsm::list::WORD;
use coco_part_api::svsm::{CALL_BUFFER, CallResult};
use coco_part_api::{
    CallRegs, Error, ErrorKind, FrameRange, Grant, Grants, GuestLevel, GuestMemory, Monitor as Backend, NotYet,
    Processor, Rights, Stopped, VcpuId,
};
use x86_64::PhysAddr;
use x86_64::structures::paging::{PhysFrame, Size4KiB};
use zerocopy::{FromBytes, IntoBytes};

use crate::ledger::{Claim, Refusal, State};
use crate::shared::Shared;
use crate::storage::Phase;

/// Who calls: taken from the registry and from the exit, never from memory that the caller can write.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Caller {
    pub(crate) vcpu: VcpuId,
    pub(crate) level: GuestLevel,
    pub(crate) state: PhysFrame<Size4KiB>,
    pub(crate) call_area: PhysFrame<Size4KiB>,
}

impl Caller {
    /// The ledger state of its ordinary memory.
    pub(crate) const fn own(&self) -> State {
        State::Guest(self.level)
    }

    /// The rights it has on that memory.
    pub(crate) const fn grants(&self) -> Grants {
        Grants::one(self.level, Rights::RAM)
    }
}

/// A call being served.
pub(crate) struct Call<'c, 'a, B: Backend, P, const VCPUS: usize> {
    pub(crate) backend: &'c mut B,
    pub(crate) processor: &'c mut P,
    pub(crate) shared: &'c Shared<'a, B::Seed, VCPUS>,
    pub(crate) caller: Caller,
    pub(crate) regs: CallRegs,
    /// Where a list is copied to, once. What an earlier call left there is overwritten.
    pub(crate) room: &'c mut [u64],
}

impl<'a, B: Backend, P: Processor, const VCPUS: usize> Call<'_, 'a, B, P, VCPUS> {
    /// Claims frames that must be the caller's ordinary memory (rule M7).
    #[inline(never)]
    pub(crate) fn claim_own(&self, range: FrameRange) -> Result<Claim<'a>, CallResult> {
        self.shared.memory.check(range).map_err(|_| CallResult::INVALID_ADDRESS)?;
        self.shared.ledger.claim(range, self.caller.own()).map_err(refused)
    }

    /// Whether an argument lies in the caller's call area, which nobody else moves or frees: that takes this call's end
    /// (registry). Its first bytes are no place for arguments, see [`check_buffer`]. An argument anywhere else has to lie in a
    /// page of the caller, [kept](Self::keep) for as long as it is used, so that no other vCPU turns the page into
    /// something that L1 must not write to.
    #[inline]
    pub(crate) fn is_in_call_area(&self, at: PhysAddr) -> bool {
        PhysFrame::containing_address(at) == self.caller.call_area
    }

    /// Keeps the page of an argument from becoming something else for as long as the value lives: claims it, or finds that it
    /// is the caller's call area, which needs no claim.
    ///
    /// # Errors
    /// `INVALID_ADDRESS` for a page that is not the caller's and for the mark of its call area, `BUSY`.
    #[inline(never)]
    pub(crate) fn keep(&self, at: PhysAddr) -> Result<Option<Claim<'a>>, CallResult> {
        if self.is_in_call_area(at) {
            return check_buffer(at).map(|()| None);
        }
        self.claim_own(FrameRange::of(PhysFrame::containing_address(at))).map(Some)
    }

    /// Copies a request at RCX, once: 8-byte aligned, within one page, in the caller's call area or a plain page of it.
    ///
    /// # Errors
    /// `INVALID_PARAMETER` when not aligned or across the end of its page, else as [`keep`](Self::keep).
    pub(crate) fn request<T: FromBytes + IntoBytes>(&self) -> Result<T, CallResult> {
        let at = PhysAddr::try_new(self.regs.rcx).map_err(|_| CallResult::INVALID_ADDRESS)?;
        let fits = SMALL - at.as_u64() % SMALL >= size_of::<T>() as u64;
        if !at.is_aligned(WORD) || !fits {
            return Err(CallResult::INVALID_PARAMETER);
        }
        let _kept = self.keep(at)?;
        let mut request = T::new_zeroed();
        self.read(at, request.as_mut_bytes())?;
        Ok(request)
    }

    pub(crate) fn read(&self, at: PhysAddr, into: &mut [u8]) -> Result<(), CallResult> {
        self.backend.memory().read(at, into).map_err(|_| CallResult::INVALID_ADDRESS)
    }

    pub(crate) fn write(&self, at: PhysAddr, from: &[u8]) -> Result<(), CallResult> {
        self.backend.memory().write(at, from).map_err(|_| CallResult::INVALID_ADDRESS)
    }

    /// Redeems a cut. `None` only when the monitor died meanwhile.
    pub(crate) fn flush(&mut self, cut: B::Cut) -> Option<B::Flushed> {
        flush(self.backend, self.processor, self.shared, self.caller.vcpu, cut)
    }

    /// Gives a claim's first `frames`, whose rights were cut, back to the caller with their contents (rule M4).
    ///
    /// What the machine does not take back is quarantined; what lies behind `frames` goes where the claim came from.
    pub(crate) fn give_back(
        &mut self,
        mut claim: Claim<'a>,
        frames: u64,
        proof: &B::Flushed,
    ) -> Result<(), CallResult> {
        let Some(range) = claim.rest().and_then(|rest| rest.take(frames)) else { return Ok(()) };
        match self.backend.regrant(range, &self.caller.grants(), proof) {
            Ok(()) => {
                claim.commit_first(range.frames(), self.caller.own());
                Ok(())
            }
            Err(stopped) => {
                let done = stopped.done.min(range.frames());
                claim.commit_first(done, self.caller.own());
                claim.commit_first(range.frames() - done, State::Quarantined);
                quarantined(range.frames() - done);
                Err(failed(&stopped))
            }
        }
    }

    /// Gives the frames of one entry back whose cut stopped, the block at which it stopped with them: some level may have lost
    /// its right there already, and only the ledger knows what that was (rule M4).
    pub(crate) fn undo_cut(&mut self, mut claim: Claim<'a>, stopped: &Stopped<B::Error>, proof: &B::Flushed) {
        if stopped.cause.kind() == ErrorKind::Quarantined {
            claim.commit(State::Quarantined);
            return;
        }
        let Some(range) = claim.rest().and_then(|rest| rest.take(reach(stopped))) else { return };
        let Err(again) = self.backend.regrant(range, &self.caller.grants(), proof) else { return };
        let done = again.done.min(range.frames());
        claim.commit_first(done, self.caller.own());
        // A block that refuses to be cut and to be granted for the same reason, such as its size, was never cut.
        if done < stopped.done || again.cause.kind() != stopped.cause.kind() {
            claim.commit_first(range.frames() - done, State::Quarantined);
            quarantined(range.frames() - done);
        }
    }
}

#[cold]
fn quarantined(frames: u64) {
    log::error!("could not give {frames} frames back: quarantined");
}

/// How many frames a cut of one list entry that stopped may have reached: those that are done, and the block behind them. An
/// entry is one block; when it stops behind its first frame, it was done in 4 KiB steps.
fn reach<E>(stopped: &Stopped<E>) -> u64 {
    match stopped.done {
        0 => u64::MAX,
        done => done.saturating_add(1),
    }
}

/// Checks that an argument in a call area lies in its buffer.
///
/// # Errors
/// `INVALID_ADDRESS`.
#[inline]
pub(crate) fn check_buffer(at: PhysAddr) -> Result<(), CallResult> {
    if at.as_u64() % SMALL >= CALL_BUFFER { Ok(()) } else { Err(CallResult::INVALID_ADDRESS) }
}

/// Waits until no vCPU can use what was cut: kicks those that run guests, pauses, asks again (rule M5).
///
/// There is no limit: giving up would need the very proof that is missing. A host that withholds the kick stops this
/// call and nothing else. `None` when the monitor was declared dead; the caller then quarantines what was cut.
pub(crate) fn flush<B: Grant, P: Processor, Seed, const VCPUS: usize>(
    backend: &mut B,
    processor: &mut P,
    shared: &Shared<'_, Seed, VCPUS>,
    own: VcpuId,
    mut cut: B::Cut,
) -> Option<B::Flushed> {
    let mut pauses = 0_u32;
    loop {
        cut = match backend.redeem(cut) {
            Ok(proof) => return Some(proof),
            Err(NotYet(cut)) => cut,
        };
        if shared.storage.is_dead() {
            return None;
        }
        if pauses == 0 {
            for id in (0..VCPUS as u32).map(VcpuId).filter(|id| *id != own && shared.has_vcpu(*id)) {
                let runs = shared.storage.with(|registry| registry.of(id).any(|record| record.phase == Phase::Current));
                if runs {
                    processor.kick(id);
                }
            }
        }
        processor.pause();
        pauses = (pauses + 1) % shared.limits.pauses_per_kick.max(1);
    }
}

/// The frame at an address from a register.
///
/// # Errors
/// `INVALID_ADDRESS` beyond 2^52, `INVALID_PARAMETER` when not a multiple of 4 KiB.
pub(crate) fn frame(address: u64) -> Result<PhysFrame<Size4KiB>, CallResult> {
    let at = PhysAddr::try_new(address).map_err(|_| CallResult::INVALID_ADDRESS)?;
    PhysFrame::from_start_address(at).map_err(|_| CallResult::INVALID_PARAMETER)
}

/// The answer to a claim that was refused: somebody is at work there, or it is not the caller's to name.
pub(crate) fn refused(refusal: Refusal) -> CallResult {
    match refusal {
        Refusal::Busy { .. } => CallResult::BUSY,
        Refusal::Outside | Refusal::Found { .. } => CallResult::INVALID_ADDRESS,
    }
}

/// The answer to a stop of the backend.
pub(crate) fn failed<E: Error>(stopped: &Stopped<E>) -> CallResult {
    log::debug!("backend stopped after {} frames: {:?}", stopped.done, stopped.cause.kind());
    CallResult::from(stopped.cause.kind())
}
