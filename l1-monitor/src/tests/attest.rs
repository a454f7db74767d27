//! ATTEST of our own protocol.

use coco_part_api::svsm::own::{ATTEST, PROTOCOL};
use coco_part_api::svsm::{CallId, CallResult};
use coco_part_api::{CallRegs, ErrorKind};

use super::mock::At;
use super::*;

const OUT: u64 = RAM + 0x3000;

fn call(at: u64) -> CallRegs {
    CallRegs { r9: 9, ..CallRegs::call(CallId::new(PROTOCOL, ATTEST), at, 0x22, 0x88) }
}

fn ask(fixture: &Fixture, at: u64, out: u64) -> CallRegs {
    let mut request = out.to_le_bytes().to_vec();
    request.extend_from_slice(&[7; 64]);
    fixture.world.poke(at, &request);
    fixture.call_regs(call(at))
}

#[test]
fn evidence_names_the_callers_level_and_goes_to_its_page() {
    let fixture = Fixture::new();
    for at in [LIST, BOOT_AREA + 8, LIST + 0x1000 - 72] {
        fixture.world.clear_log();
        let answer = ask(&fixture, at, OUT);
        assert_eq!(answer, CallRegs { rax: 0, rcx: 65, rdx: 1, ..call(at) });
        let evidence = fixture.world.peek(OUT, 66);
        assert_eq!((evidence[0], &evidence[1..65], evidence[65]), (2, &[7; 64][..], 0));
        // The request is read once, and nothing but the evidence is written.
        assert_eq!(fixture.world.reads(), [(at, 72)]);
        assert_eq!(fixture.world.writes(), [(OUT, 65)]);
        assert!(fixture.all_are(LIST, 3, OWN));
    }
}

#[test]
fn refuses_requests_and_outputs_that_are_not_the_callers() {
    let fixture = Fixture::new();
    let parameter = CallResult::INVALID_PARAMETER;
    let address = CallResult::INVALID_ADDRESS;
    for (at, out, result) in [
        (LIST + 4, OUT, parameter),
        (LIST + 0x1000 - 64, OUT, parameter),
        (LIST, OUT + 8, parameter),
        (LIST, LIST, parameter),
        (LIST, L1, address),
        (LIST, BOOT_STATE, address),
        (LIST, BOOT_AREA, address),
        (LIST, HOLE, address),
        (LIST, FRESH, address),
        (LIST, 1 << 52, address),
        (LIST, u64::MAX, address),
        (BOOT_AREA, OUT, address),
        (L1, OUT, address),
    ] {
        let before = fixture.snapshot();
        let old = fixture.world.peek(at & !0xfff, 0x2000);
        fixture.world.clear_log();
        let answer = ask(&fixture, at, out);
        assert_eq!(answer, call(at).with_result(result), "{at:#x} to {out:#x}");
        assert_eq!(fixture.world.writes(), []);
        assert_eq!(fixture.world.instructions(), []);
        fixture.world.poke(at & !0xfff, &old);
        assert_eq!(fixture.snapshot(), before);
    }
    assert_eq!(fixture.call_regs(call(1 << 60)).result(), address);
}

#[test]
fn a_failing_backend_leaves_the_output_alone() {
    let fixture = Fixture::new();
    for (kind, result) in [
        (ErrorKind::ChannelClosed, CallResult::INVALID_REQUEST),
        (ErrorKind::HostMisbehaved, CallResult::INVALID_REQUEST),
        (ErrorKind::Unsupported, CallResult::UNSUPPORTED_CALL),
    ] {
        fixture.world.fail(At::AttestFor, 0, 0, kind);
        fixture.world.clear_log();
        assert_eq!(ask(&fixture, LIST, OUT), call(LIST).with_result(result));
        assert_eq!(fixture.world.writes(), []);
        assert!(fixture.all_are(LIST, 3, OWN));
    }
    fixture.world.fault_at(LIST);
    assert_eq!(ask(&fixture, LIST, OUT).result(), CallResult::INVALID_ADDRESS);
    fixture.world.write_fault_at(OUT);
    assert_eq!(ask(&fixture, RAM + 0x5000, OUT).result(), CallResult::INVALID_ADDRESS);
    assert!(fixture.all_are(LIST, 5, OWN));
}

#[test]
fn the_output_page_is_claimed_while_evidence_is_written() {
    let fixture = Fixture::new();
    let words = fixture.words.clone();
    fixture.world.before_write(move |_, _| {
        let ledger = Ledger::new(&words, range(0, FRAMES)).unwrap();
        assert_eq!(ledger.state(frame(OUT)), Some(State::Changing));
    });
    assert!(ask(&fixture, LIST, OUT).result().is_success());
    assert_eq!((fixture.world.writes().len(), fixture.state(OUT)), (1, OWN));
}
