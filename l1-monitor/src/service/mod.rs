//! The services a guest can call, one per protocol number.
//!
//! The set is closed, so `enum_dispatch` picks the service: no table of pointers, no boxed trait objects.

mod attest;
mod basic;
mod batch;
mod create;
mod delete;
mod deposit;
mod own;
mod pvalidate;
mod remap;
mod services;
mod vtpm;
mod withdraw;

use coco_part_api::svsm::{self, CallId, CallResult};
use coco_part_api::{CallRegs, Monitor as Backend, Processor};
use enum_dispatch::enum_dispatch;

use crate::call::Call;
use basic::Basic;
use own::Own;
use services::Attestation;
use vtpm::Tpm;

/// A protocol's calls.
#[enum_dispatch]
pub(crate) trait Service {
    /// Serves one call and gives the registers of its answer: results where the call defines them, everything else as it
    /// came (rule S2).
    fn serve<B: Backend, P: Processor, const VCPUS: usize>(
        &self,
        number: u32,
        call: &mut Call<'_, '_, B, P, VCPUS>,
    ) -> CallRegs;

    /// Highest and lowest version that is spoken, `None` for a protocol that is not.
    fn versions<B: Backend, P: Processor, const VCPUS: usize>(
        &self,
        call: &Call<'_, '_, B, P, VCPUS>,
    ) -> Option<(u32, u32)>;
}

/// All services.
#[enum_dispatch(Service)]
pub(crate) enum Protocol {
    Basic,
    Attestation,
    Tpm,
    Own,
    Absent,
}

impl Protocol {
    /// The service behind a protocol number.
    pub(crate) fn of(number: u32) -> Self {
        match number {
            svsm::CORE => Basic.into(),
            svsm::ATTESTATION => Attestation.into(),
            svsm::VTPM => Tpm.into(),
            svsm::own::PROTOCOL => Own.into(),
            // APIC and whatever else there may be.
            _ => Absent.into(),
        }
    }
}

/// Every protocol that is not spoken here.
pub(crate) struct Absent;

impl Service for Absent {
    fn serve<B: Backend, P: Processor, const VCPUS: usize>(
        &self,
        _number: u32,
        call: &mut Call<'_, '_, B, P, VCPUS>,
    ) -> CallRegs {
        unsupported(call.regs)
    }

    fn versions<B: Backend, P: Processor, const VCPUS: usize>(
        &self,
        _call: &Call<'_, '_, B, P, VCPUS>,
    ) -> Option<(u32, u32)> {
        None
    }
}

/// Serves a call.
#[inline(never)]
pub(crate) fn serve<B: Backend, P: Processor, const VCPUS: usize>(call: &mut Call<'_, '_, B, P, VCPUS>) -> CallRegs {
    let id = CallId::from_rax(call.regs.rax);
    let answer = Protocol::of(id.protocol).serve(id.call, call);
    log::debug!("{}: protocol {:#x} call {} answered {}", call.caller.vcpu, id.protocol, id.call, answer.result());
    answer
}

/// The answer of a protocol that is not spoken.
fn unsupported(regs: CallRegs) -> CallRegs {
    regs.with_result(CallResult::UNSUPPORTED_PROTOCOL)
}

/// RAX of an answer whose call has no other result.
fn result_of(outcome: Result<(), CallResult>) -> CallResult {
    match outcome {
        Ok(()) => CallResult::SUCCESS,
        Err(result) => result,
    }
}
