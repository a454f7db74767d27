//! DELETE_VCPU: a state frame becomes ordinary memory of its level again.

use coco_part_api::svsm::CallResult;
use coco_part_api::vcpu::frame_at;
use coco_part_api::{Error, FrameRange, Monitor as Backend, Processor};

use crate::call::{Call, refused};
use crate::ledger::State;
use crate::storage::{NoRetire, Phase, Record};

impl<'a, B: Backend, P: Processor, const VCPUS: usize> Call<'_, 'a, B, P, VCPUS> {
    /// Deletes the vCPU whose state frame is in RCX.
    ///
    /// The frame must be one that the registry knows, of the caller's level, not the first vCPU's and not the caller's
    /// own. A running one is refused by the backend and stays as it is (V4). The machine is changed first, then the
    /// registry, then the ledger, so a frame that still is a vCPU's state is never taken for memory.
    #[inline(never)]
    pub(crate) fn delete_vcpu(&mut self) -> Result<(), CallResult> {
        let state = frame_at(self.regs.rcx).ok_or(CallResult::INVALID_PARAMETER)?;
        let level = self.caller.level;
        let storage = self.shared.storage;
        let record = storage.with(|registry| registry.begin_retire(state, level)).map_err(|refusal| match refusal {
            NoRetire::NotYours => CallResult::INVALID_PARAMETER,
            NoRetire::InUse => CallResult::FAIL_INUSE,
            NoRetire::Busy => CallResult::BUSY,
        })?;
        let target = record.terms.target;
        let seed = match record.phase {
            // Without its seed it is being installed at this moment.
            Phase::Posted => match storage.take_for(target, state) {
                Some(seed) => Some(seed),
                None => {
                    storage.with(|registry| registry.end_hold(target, state));
                    return Err(CallResult::BUSY);
                }
            },
            _ => None,
        };
        let is_posted = seed.is_some();
        match self.retire(&record) {
            Err(NotRetired(result)) => {
                if let Some(seed) = seed {
                    storage.post(target, state, seed);
                }
                storage.with(|registry| registry.end_hold(target, state));
                Err(result)
            }
            Ok(result) => {
                if is_posted {
                    storage.release(target);
                }
                result
            }
        }
    }

    /// Retires the frame in the machine, takes its record away and gives both pages back, the call area unless the vCPU that
    /// replaced this one has it too.
    fn retire(&mut self, record: &Record) -> Result<Result<(), CallResult>, NotRetired> {
        let ledger = self.shared.ledger;
        let kept = |refusal| NotRetired(refused(refusal));
        let claim = ledger.claim(FrameRange::of(record.state), State::VcpuState).map_err(kept)?;
        let area = ledger.claim(FrameRange::of(record.terms.call_area), State::CallArea).map_err(kept)?;
        self.backend.retire(record.state, &record.terms).map_err(|error| NotRetired(CallResult::from(error.kind())))?;

        // The frame was out of the level's reach all the time, so nothing is cut and this costs no flush.
        let proof = self.flush(B::Cut::default());
        let is_shared = self.shared.storage.with(|registry| {
            registry.remove(record.terms.target, record.state);
            registry.uses_area(record.terms.call_area)
        });
        area.commit(if is_shared { State::CallArea } else { self.caller.own() });
        match proof {
            Some(proof) => Ok(self.give_back(claim, 1, &proof)),
            None => {
                claim.commit(State::Quarantined);
                Ok(Err(CallResult::INVALID_REQUEST))
            }
        }
    }
}

/// The vCPU is as it was.
struct NotRetired(CallResult);
