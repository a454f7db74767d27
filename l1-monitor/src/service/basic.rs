//! Protocol 0: the core protocol.

use coco_part_api::svsm::{self, CallId, CallResult};
use coco_part_api::{CallRegs, Monitor as Backend, Processor};

use super::{Protocol, Service, result_of};
use crate::call::Call;

/// The core protocol.
pub(crate) struct Basic;

impl Service for Basic {
    fn serve<B: Backend, P: Processor, const VCPUS: usize>(
        &self,
        number: u32,
        call: &mut Call<'_, '_, B, P, VCPUS>,
    ) -> CallRegs {
        let regs = call.regs;
        match number {
            svsm::REMAP_CA => regs.with_result(result_of(call.remap())),
            svsm::PVALIDATE => regs.with_result(call.pvalidate().unwrap_or_else(|result| result)),
            svsm::CREATE_VCPU => regs.with_result(result_of(call.create_vcpu())),
            svsm::DELETE_VCPU => regs.with_result(result_of(call.delete_vcpu())),
            svsm::DEPOSIT_MEM => regs.with_result(call.deposit_mem().unwrap_or_else(|result| result)),
            svsm::WITHDRAW_MEM => regs.with_result(result_of(call.withdraw_mem())),
            svsm::QUERY_PROTOCOL => CallRegs { rcx: query(call), ..regs }.with_result(CallResult::SUCCESS),
            svsm::CONFIGURE_VTOM if regs.rcx & svsm::VTOM_QUERY != 0 => {
                CallRegs { rcx: 0, rdx: 0, r8: 0, ..regs }.with_result(CallResult::SUCCESS)
            }
            svsm::CONFIGURE_VTOM => regs.with_result(CallResult::INVALID_REQUEST),
            _ => regs.with_result(CallResult::UNSUPPORTED_CALL),
        }
    }

    fn versions<B: Backend, P: Processor, const VCPUS: usize>(
        &self,
        _call: &Call<'_, '_, B, P, VCPUS>,
    ) -> Option<(u32, u32)> {
        Some((svsm::CORE_VERSION, svsm::CORE_VERSION))
    }
}

/// RCX of the answer of QUERY_PROTOCOL: highest and lowest version, or 0 when the wanted one is not spoken.
///
/// The argument has the protocol in its upper half and the version in its lower, like a call id.
fn query<B: Backend, P: Processor, const VCPUS: usize>(call: &Call<'_, '_, B, P, VCPUS>) -> u64 {
    let CallId { protocol, call: version } = CallId::from_rax(call.regs.rcx);
    match Protocol::of(protocol).versions(call) {
        Some((highest, lowest)) if (lowest..=highest).contains(&version) => {
            u64::from(highest) << 32 | u64::from(lowest)
        }
        _ => 0,
    }
}
