//! Calls without a list: numbers, protocols, registers.

use coco_part_api::svsm::{self, CallId, CallResult, own};
use coco_part_api::{Binding, CallRegs, Capabilities};

use super::*;

fn regs(protocol: u32, call: u32, rcx: u64) -> CallRegs {
    CallRegs { rax: CallId::new(protocol, call).to_rax(), rcx, rdx: 0x22, r8: 0x88, r9: 0x99 }
}

#[test]
fn unknown_protocols_and_calls_change_rax_alone() {
    let fixture = Fixture::new();
    let before = fixture.snapshot();
    for (protocol, call, result) in [
        (svsm::ATTESTATION, 2, CallResult::UNSUPPORTED_CALL),
        (svsm::VTPM, 1, CallResult::UNSUPPORTED_PROTOCOL),
        (svsm::APIC, 0, CallResult::UNSUPPORTED_PROTOCOL),
        (0x8000_0000, 0, CallResult::UNSUPPORTED_PROTOCOL),
        (svsm::CORE, 8, CallResult::UNSUPPORTED_CALL),
        (svsm::CORE, u32::MAX, CallResult::UNSUPPORTED_CALL),
        (own::PROTOCOL, 2, CallResult::UNSUPPORTED_CALL),
    ] {
        let regs = regs(protocol, call, RAM + 0x5000);
        assert_eq!(fixture.call_regs(regs), regs.with_result(result));
    }
    assert_eq!(fixture.snapshot(), before);
    assert_eq!(fixture.world.instructions(), []);
}

#[test]
fn a_protocol_query_answers_in_rcx_alone() {
    let fixture = Fixture::new();
    let query = |protocol, version| CallId::new(protocol, version).to_rax();
    for (wanted, versions) in [
        (0x1, 0x1_0000_0001),
        (0x2, 0),
        (0x0, 0),
        (query(svsm::ATTESTATION, 1), 0x1_0000_0001),
        (query(svsm::ATTESTATION, 2), 0),
        // There is no device.
        (query(svsm::VTPM, 1), 0),
        (query(svsm::APIC, 1), 0),
        (query(4, 1), 0),
        (query(0x8000_0000, 1), 0),
        (query(u32::MAX, 1), 0),
        (0x00c0_c000_0000_0001, 0x1_0000_0001),
    ] {
        let regs = regs(svsm::CORE, svsm::QUERY_PROTOCOL, wanted);
        assert_eq!(fixture.call_regs(regs), CallRegs { rax: 0, rcx: versions, ..regs });
    }
}

#[test]
fn vtom_can_be_queried_but_not_configured() {
    let fixture = Fixture::new();
    let query = regs(svsm::CORE, svsm::CONFIGURE_VTOM, 1);
    assert_eq!(fixture.call_regs(query), CallRegs { rax: 0, rcx: 0, rdx: 0, r8: 0, ..query });
    let configure = regs(svsm::CORE, svsm::CONFIGURE_VTOM, 2);
    assert_eq!(fixture.call_regs(configure), configure.with_result(CallResult::INVALID_REQUEST));
}

#[test]
fn identify_tells_level_vcpu_and_capabilities() {
    let fixture = Fixture::new();
    let regs = regs(own::PROTOCOL, own::IDENTIFY, 7);
    let answer = fixture.call_regs(regs);
    assert_eq!((answer.rax, answer.rcx, answer.rdx, answer.r9), (0, 2, 0, 0x99));
    let capabilities = Capabilities::from_bits(answer.r8).unwrap();
    assert_eq!((capabilities.guest_levels, capabilities.binding), (3, Binding::Hardware));
}

#[test]
fn the_upper_half_of_rax_is_the_protocol_and_never_the_call() {
    let fixture = Fixture::new();
    let regs = CallRegs { rax: 0x0000_0006_0000_0000, ..regs(0, 0, 1) };
    assert_eq!(fixture.call_regs(regs).result(), CallResult::UNSUPPORTED_PROTOCOL);
}
