//! Our own protocol, beside the published ones (`coco_part_api::svsm::own`).

use coco_part_api::svsm::CallResult;
use coco_part_api::svsm::own::{ATTEST, IDENTIFY, VERSION};
use coco_part_api::{Binding, CallRegs, Monitor as Backend, Processor};

use super::Service;
use crate::call::Call;

/// The protocol.
pub(crate) struct Own;

impl Service for Own {
    fn serve<B: Backend, P: Processor, const VCPUS: usize>(
        &self,
        number: u32,
        call: &mut Call<'_, '_, B, P, VCPUS>,
    ) -> CallRegs {
        let regs = call.regs;
        match number {
            IDENTIFY => CallRegs {
                rcx: u64::from(call.caller.level.number()),
                rdx: u64::from(call.caller.vcpu.0),
                r8: call.backend.capabilities().to_bits(),
                ..regs
            }
            .with_result(CallResult::SUCCESS),
            ATTEST => match call.attest() {
                Ok(evidence) => CallRegs {
                    rcx: evidence.len as u64,
                    rdx: u64::from(evidence.bound_by == Binding::Hardware),
                    ..regs
                }
                .with_result(CallResult::SUCCESS),
                Err(result) => regs.with_result(result),
            },
            _ => regs.with_result(CallResult::UNSUPPORTED_CALL),
        }
    }

    fn versions<B: Backend, P: Processor, const VCPUS: usize>(
        &self,
        _call: &Call<'_, '_, B, P, VCPUS>,
    ) -> Option<(u32, u32)> {
        Some((VERSION, VERSION))
    }
}
