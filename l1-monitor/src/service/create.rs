//! CREATE_VCPU: a page that the guest filled becomes the state of a new vCPU.

use coco_part_api::svsm::CallResult;
use coco_part_api::{Error, ErrorKind, FrameRange, Monitor as Backend, Origin, Processor, Source, Terms, VcpuId};
use x86_64::structures::paging::{PhysFrame, Size4KiB};

use crate::call::{Call, failed, frame, refused};
use crate::ledger::{Claim, State};
use crate::storage::{Hold, NoReserve, Phase, Record};

impl<'a, B: Backend, P: Processor, const VCPUS: usize> Call<'_, 'a, B, P, VCPUS> {
    /// Admits the state frame in RCX with the call area in RDX for the vCPU in R8, and posts its seed.
    ///
    /// Both pages are claimed first, so of two callers with one page one is refused (V1). Contents are checked by the
    /// backend, after the rights are cut and flushed (V2); on every error the page is the caller's again, contents and
    /// all (M4). The target takes the seed between two runs, never in the middle of a call.
    #[inline(never)]
    pub(crate) fn create_vcpu(&mut self) -> Result<(), CallResult> {
        let target = u32::try_from(self.regs.r8).map(VcpuId).map_err(|_| CallResult::INVALID_PARAMETER)?;
        if !self.shared.has_vcpu(target) {
            return Err(CallResult::INVALID_PARAMETER);
        }
        let state = frame(self.regs.rcx)?;
        let call_area = frame(self.regs.rdx)?;
        if state == call_area {
            return Err(CallResult::INVALID_ADDRESS);
        }
        let state_claim = self.claim_own(FrameRange::of(state))?;
        let area_claim = self.claim_area(call_area, target)?;
        let terms = Terms { level: self.caller.level, target, call_area };

        let storage = self.shared.storage;
        storage.reserve(target).map_err(|refusal| match refusal {
            NoReserve::Occupied => CallResult::FAIL_INUSE,
            NoReserve::Busy => CallResult::BUSY,
        })?;
        let record = Record { state, terms, is_boot: false, phase: Phase::Admitting, hold: Hold::Free };
        if !storage.with(|registry| registry.add(record)) {
            storage.release(target);
            return Err(CallResult::INVALID_REQUEST);
        }
        match self.admit(state_claim, &record) {
            Ok(seed) => {
                area_claim.commit(State::CallArea);
                storage.with(|registry| {
                    if let Some(record) = registry.find(target, state) {
                        record.phase = Phase::Posted;
                    }
                });
                storage.post(target, state, seed);
                if target != self.caller.vcpu {
                    self.processor.kick(target);
                }
                Ok(())
            }
            Err(result) => {
                storage.with(|registry| registry.remove(target, state));
                storage.release(target);
                Err(result)
            }
        }
    }

    /// Claims a call area for `target`: a page of the caller's ordinary memory, or the area of an older vCPU of the same
    /// target. A kernel that brings a processor up again creates the new vCPU with the area that the processor has, and
    /// deletes the old one only then.
    fn claim_area(&self, area: PhysFrame<Size4KiB>, target: VcpuId) -> Result<Claim<'a>, CallResult> {
        let level = self.caller.level;
        let is_its_own = || {
            let shares = |record: &mut Record| record.terms.call_area == area && record.terms.level == level;
            self.shared.storage.with(|registry| registry.of(target).any(shares))
        };
        if !is_its_own() {
            return self.claim_own(FrameRange::of(area));
        }
        let claim = self.shared.ledger.claim(FrameRange::of(area), State::CallArea).map_err(refused)?;
        // It may have been moved or freed before it was claimed.
        if is_its_own() { Ok(claim) } else { Err(CallResult::BUSY) }
    }

    /// Takes the frame out of every lower level's reach and has the backend adopt it.
    fn admit(&mut self, claim: Claim<'a>, record: &Record) -> Result<B::Seed, CallResult> {
        let range = FrameRange::of(record.state);
        let mut cut = B::Cut::default();
        let withdrawn = self.backend.withdraw(range, Origin::Request, &mut cut);
        // After an error, too: one level may have lost its right before the next one failed.
        let Some(proof) = self.flush(cut) else {
            claim.commit(State::Quarantined);
            return Err(CallResult::INVALID_REQUEST);
        };
        if let Err(stopped) = withdrawn {
            self.undo_cut(claim, &stopped, &proof);
            return Err(failed(&stopped));
        }
        match self.backend.admit(record.state, Source::Image, &record.terms, &proof) {
            Ok(seed) => {
                claim.commit(State::VcpuState);
                Ok(seed)
            }
            Err(error) => {
                if error.kind() == ErrorKind::Quarantined {
                    claim.commit(State::Quarantined);
                } else {
                    let _ = self.give_back(claim, range.frames(), &proof);
                }
                Err(error.kind().into())
            }
        }
    }
}
