//! Protocol 0: the core protocol.

use coco_part_api::svsm::{self, CallId, CallResult};
use coco_part_api::{CallRegs, Monitor as Backend, Processor};

use super::{Protocol, Service, result_of};
use crate::call::Call;

/// Bit 0 of RCX of CONFIGURE_VTOM: query.
const VTOM_QUERY: u64 = 1;

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
            svsm::QUERY_PROTOCOL => CallRegs { rcx: query(regs.rcx), ..regs }.with_result(CallResult::SUCCESS),
            svsm::CONFIGURE_VTOM if regs.rcx & VTOM_QUERY != 0 => {
                CallRegs { rcx: 0, rdx: 0, r8: 0, ..regs }.with_result(CallResult::SUCCESS)
            }
            svsm::CONFIGURE_VTOM => regs.with_result(CallResult::INVALID_REQUEST),
            // Storage is handed in by the integrator; pages of a guest are never needed.
            svsm::DEPOSIT_MEM | svsm::WITHDRAW_MEM => regs.with_result(CallResult::UNSUPPORTED_CALL),
            _ => regs.with_result(CallResult::UNSUPPORTED_CALL),
        }
    }

    fn versions(&self) -> Option<(u32, u32)> {
        Some((svsm::CORE_VERSION, svsm::CORE_VERSION))
    }
}

/// RCX of the answer of QUERY_PROTOCOL: highest and lowest version, or 0 when the wanted one is not spoken.
///
/// The argument has the protocol in its upper half and the version in its lower, like a call id.
fn query(wanted: u64) -> u64 {
    let CallId { protocol, call: version } = CallId::from_rax(wanted);
    match Protocol::of(protocol).versions() {
        Some((highest, lowest)) if (lowest..=highest).contains(&version) => {
            u64::from(highest) << 32 | u64::from(lowest)
        }
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use coco_part_api::svsm::own;

    #[test]
    fn a_query_tells_the_versions_or_zero() {
        assert_eq!(query(1), 0x1_0000_0001);
        assert_eq!(query(CallId::new(own::PROTOCOL, own::VERSION).to_rax()), 0x1_0000_0001);
        for absent in [svsm::ATTESTATION, svsm::VTPM, svsm::APIC, 4, 0x8000_0000, u32::MAX] {
            assert_eq!(query(CallId::new(absent, 1).to_rax()), 0);
        }
        assert_eq!(query(2), 0);
    }
}
