//! The attestation protocol: evidence over the monitor's services.

use std::vec;

use coco_part_api::svsm::attest::{
    ATTEST_SERVICES, ATTEST_SINGLE_SERVICE, MANIFEST, ReportData, ServicesRequest, SingleRequest, VTPM_SERVICE,
};
use coco_part_api::svsm::{ATTESTATION, CallId, CallResult, QUERY_PROTOCOL};
use coco_part_api::{ErrorKind, attest::DOMAIN_TAG};
use zerocopy::IntoBytes;

use super::mock::{At, MockTpm};
use super::*;

const REPORT: u64 = RAM + 0x3000;
const MANIFEST_AT: u64 = RAM + 0x5000;
const NONCE: u64 = RAM + 0x7010;
const ADDRESS: CallResult = CallResult::INVALID_ADDRESS;
const PARAMETER: CallResult = CallResult::INVALID_PARAMETER;
const PROTOCOL: CallResult = CallResult::UNSUPPORTED_PROTOCOL;
const KEY: &[u8] = b"public part of a key";

fn request() -> ServicesRequest {
    ServicesRequest {
        report_gpa: REPORT,
        report_size: 0x1000,
        nonce_gpa: NONCE,
        nonce_size: 100,
        manifest_gpa: MANIFEST_AT,
        manifest_size: 0x1000,
        ..ServicesRequest::default()
    }
}

fn single() -> SingleRequest {
    SingleRequest { common: request(), service_guid: VTPM_SERVICE, manifest_version: 0, reserved_0x54: 0 }
}

fn with_key() -> Fixture {
    let mut fixture = Fixture::new();
    fixture.vtpm = Some(Vtpm::new(MockTpm::with_key(KEY)));
    fixture
}

fn regs(call: u32, at: u64) -> CallRegs {
    CallRegs { rax: CallId::new(ATTESTATION, call).to_rax(), rcx: at, rdx: 0x22, r8: 0x88, r9: 0x99 }
}

fn ask_at(fixture: &Fixture, call: u32, at: u64, request: &[u8]) -> CallRegs {
    fixture.world.poke(at, request);
    fixture.world.clear_log();
    fixture.call_regs(regs(call, at))
}

fn ask(fixture: &Fixture, request: &ServicesRequest) -> CallRegs {
    ask_at(fixture, ATTEST_SERVICES, LIST, request.as_bytes())
}

fn ask_single(fixture: &Fixture, request: &SingleRequest) -> CallRegs {
    ask_at(fixture, ATTEST_SINGLE_SERVICE, LIST, request.as_bytes())
}

/// The report that the mock makes at L1's own level over these.
fn report(nonce: &[u8], manifest: &[u8]) -> Vec<u8> {
    let mut data = ReportData::new();
    data.update(nonce);
    data.update(manifest);
    let mut report = vec![0];
    report.extend_from_slice(&data.finish().unwrap());
    report
}

#[test]
fn evidence_is_l1s_own_over_nonce_and_manifest() {
    let fixture = Fixture::new();
    let nonce: Vec<u8> = (0..100).collect();
    fixture.world.poke(NONCE, &nonce);
    let manifest = [&MANIFEST.0[..], &[0x18, 0, 0, 0, 0, 0, 0, 0]].concat();
    for at in [LIST, BOOT_AREA + 8, LIST + 0x1000 - 0x40] {
        let answer = ask_at(&fixture, ATTEST_SERVICES, at, request().as_bytes());
        assert_eq!(answer, CallRegs { rax: 0, rcx: 0x18, rdx: 0, r8: 65, ..regs(0, at) });
        assert_eq!(fixture.world.peek(MANIFEST_AT, 0x18), manifest);
        assert_eq!(fixture.world.peek(REPORT, 65), report(&nonce, &manifest));
        assert_eq!(fixture.world.writes(), [(REPORT, 65), (MANIFEST_AT, 0x18)]);
        // Every byte of request and nonce is read once.
        assert_eq!(fixture.world.reads(), [(at, 0x40), (NONCE, 64), (NONCE + 64, 36)]);
        assert!(fixture.all_are(LIST, 16, OWN));
    }
}

#[test]
fn the_services_manifest_names_the_vtpm_and_its_key() {
    let fixture = with_key();
    let request = ServicesRequest { nonce_size: 0, nonce_gpa: !0, ..request() };
    let answer = ask(&fixture, &request);
    assert_eq!((answer.result(), answer.rcx), (CallResult::SUCCESS, 0x30 + KEY.len() as u64));
    let manifest = [
        &MANIFEST.0[..],
        &[0x44, 0, 0, 0, 1, 0, 0, 0],
        &VTPM_SERVICE.0,
        &[0x30, 0, 0, 0, KEY.len() as u8, 0, 0, 0],
        KEY,
    ]
    .concat();
    assert_eq!(fixture.world.peek(MANIFEST_AT, manifest.len()), manifest);
    assert_eq!(fixture.world.peek(REPORT, 65), report(&[], &manifest));
}

#[test]
fn a_single_service_is_the_vtpm_by_its_key_and_every_other_one_is_unknown() {
    let fixture = with_key();
    fixture.world.poke(NONCE, &[7; 100]);
    let answer = ask_single(&fixture, &single());
    assert_eq!(answer, CallRegs { rax: 0, rcx: KEY.len() as u64, rdx: 0, r8: 65, ..regs(1, LIST) });
    assert_eq!(fixture.world.peek(MANIFEST_AT, KEY.len()), KEY);
    assert_eq!(fixture.world.peek(REPORT, 65), report(&[7; 100], KEY));

    let unknown = SingleRequest { service_guid: MANIFEST, ..single() };
    let version = SingleRequest { manifest_version: 1, ..single() };
    let reserved = SingleRequest { reserved_0x54: 1, ..single() };
    for (request, result) in [(unknown, PROTOCOL), (version, PARAMETER), (reserved, PARAMETER)] {
        assert_eq!(ask_single(&fixture, &request), regs(1, LIST).with_result(result));
        assert_eq!((fixture.world.writes(), fixture.world.instructions()), (vec![], vec![]));
    }
    // No vTPM, and one without a key.
    let mut fixture = Fixture::new();
    assert_eq!(ask_single(&fixture, &single()), regs(1, LIST).with_result(PROTOCOL));
    fixture.vtpm = Some(Vtpm::new(MockTpm::default()));
    assert_eq!(ask_single(&fixture, &single()), regs(1, LIST).with_result(PROTOCOL));
    assert_eq!(ask(&fixture, &request()).rcx, 0x18);
}

#[test]
fn buffers_that_are_too_small_are_told_what_is_needed() {
    let fixture = Fixture::new();
    for small in [
        ServicesRequest { report_size: 64, ..request() },
        ServicesRequest { report_size: 0, report_gpa: !0, ..request() },
        ServicesRequest { manifest_size: 0x17, ..request() },
        ServicesRequest { manifest_size: 0, ..request() },
    ] {
        let answer = ask(&fixture, &small);
        assert_eq!(answer, CallRegs { rcx: 0x18, rdx: 0, r8: 65, ..regs(0, LIST) }.with_result(PARAMETER));
        assert_eq!(fixture.world.writes(), []);
    }
    let fits = ServicesRequest { report_size: 65, manifest_size: 0x18, certificates_size: 4, ..request() };
    let fits = ServicesRequest { certificates_gpa: RAM + 0x9000, ..fits };
    assert!(ask(&fixture, &fits).result().is_success());
}

#[test]
fn refuses_bad_requests_before_the_backend_is_asked() {
    let fixture = Fixture::new();
    fixture.ledger().adopt(range(RAM + 0x8000, 1), OWN, State::Guest(GuestLevel::ONE)).unwrap();
    let base = request();
    let cases = [
        (ServicesRequest { report_gpa: REPORT + 8, ..base }, PARAMETER),
        (ServicesRequest { manifest_gpa: MANIFEST_AT + 0x800, ..base }, PARAMETER),
        (ServicesRequest { certificates_size: 1, certificates_gpa: 1, ..base }, PARAMETER),
        (ServicesRequest { reserved_0x0c: 1, ..base }, PARAMETER),
        (ServicesRequest { reserved_0x1a: [0, 0, 0, 0, 0, 1], ..base }, PARAMETER),
        (ServicesRequest { reserved_0x2c: 1 << 31, ..base }, PARAMETER),
        (ServicesRequest { reserved_0x3c: 1, ..base }, PARAMETER),
        // A nonce that crosses its page.
        (ServicesRequest { nonce_size: 0xff1, ..base }, PARAMETER),
        (ServicesRequest { nonce_size: u16::MAX, ..base }, PARAMETER),
        (ServicesRequest { nonce_gpa: 1 << 52, ..base }, ADDRESS),
        (ServicesRequest { nonce_gpa: u64::MAX, ..base }, ADDRESS),
        // Buffers over each other, over the request and over the nonce.
        (ServicesRequest { manifest_gpa: REPORT, ..base }, PARAMETER),
        (ServicesRequest { report_size: 0x2001, ..base }, PARAMETER),
        (ServicesRequest { certificates_gpa: REPORT, certificates_size: 1, ..base }, PARAMETER),
        (ServicesRequest { report_gpa: LIST, ..base }, PARAMETER),
        (ServicesRequest { manifest_gpa: NONCE & !0xfff, ..base }, PARAMETER),
        // Places that are not the caller's.
        (ServicesRequest { report_gpa: L1, ..base }, ADDRESS),
        (ServicesRequest { report_gpa: BOOT_AREA, ..base }, ADDRESS),
        (ServicesRequest { report_gpa: BOOT_STATE, ..base }, ADDRESS),
        (ServicesRequest { report_gpa: FRESH, ..base }, ADDRESS),
        (ServicesRequest { manifest_gpa: RAM + 0x8000, ..base }, ADDRESS),
        (ServicesRequest { manifest_gpa: HOLE, ..base }, ADDRESS),
        (ServicesRequest { manifest_gpa: 1 << 52, ..base }, ADDRESS),
        (ServicesRequest { manifest_gpa: !0xfff, ..base }, ADDRESS),
        (ServicesRequest { report_gpa: RAM + 0xf_f000, report_size: u32::MAX, ..base }, ADDRESS),
        (ServicesRequest { certificates_gpa: L1, certificates_size: 1, ..base }, ADDRESS),
        (ServicesRequest { nonce_gpa: L1, ..base }, ADDRESS),
        (ServicesRequest { nonce_gpa: RAM + 0x8000, ..base }, ADDRESS),
        (ServicesRequest { nonce_gpa: BOOT_AREA, ..base }, ADDRESS),
    ];
    for (request, result) in cases {
        fixture.world.poke(LIST, request.as_bytes());
        let before = fixture.snapshot();
        let answer = ask(&fixture, &request);
        assert_eq!(answer, regs(0, LIST).with_result(result), "{request:x?}");
        assert_eq!((fixture.world.writes(), fixture.world.instructions()), (vec![], vec![]));
        assert_eq!(fixture.snapshot(), before);
    }
    for (at, result) in [
        (LIST + 4, PARAMETER),
        (LIST + 0x1000 - 0x38, PARAMETER),
        (BOOT_AREA, ADDRESS),
        (L1, ADDRESS),
        (FRESH, ADDRESS),
        (1 << 52, ADDRESS),
        (u64::MAX, ADDRESS),
    ] {
        assert_eq!(fixture.call_regs(regs(0, at)), regs(0, at).with_result(result), "{at:#x}");
    }
    let _held = fixture.ledger().claim(range(REPORT, 1), OWN).unwrap();
    assert_eq!(ask(&fixture, &base).result(), CallResult::BUSY);
}

#[test]
fn a_nonce_cannot_make_evidence_look_like_l1s_own() {
    let fixture = Fixture::new();
    fixture.world.poke(NONCE, DOMAIN_TAG);
    assert_eq!(ask(&fixture, &request()), regs(0, LIST).with_result(PARAMETER));
    assert_eq!((fixture.world.writes(), fixture.world.instructions()), (vec![], vec![]));
    // Any other nonce is fine, the tag's own beginning too.
    fixture.world.poke(NONCE + 31, b"?");
    assert!(ask(&fixture, &request()).result().is_success());
    let short = ServicesRequest { nonce_size: 31, ..request() };
    assert!(ask(&fixture, &short).result().is_success());
}

#[test]
fn the_protocol_is_not_spoken_where_no_hardware_signs_the_level() {
    let fixture = with_key();
    fixture.world.bound_by_monitor();
    for call in [ATTEST_SERVICES, ATTEST_SINGLE_SERVICE, 2] {
        assert_eq!(ask_at(&fixture, call, LIST, single().as_bytes()), regs(call, LIST).with_result(PROTOCOL));
    }
    assert_eq!((fixture.world.writes(), fixture.world.instructions()), (vec![], vec![]));
    let query = CallRegs::call(CallId::new(0, QUERY_PROTOCOL), CallId::new(ATTESTATION, 1).to_rax(), 0, 0);
    assert_eq!(fixture.call_regs(query).rcx, 0);
}

#[test]
fn a_failing_backend_leaves_the_buffers_alone() {
    let fixture = Fixture::new();
    for (kind, result) in [
        (ErrorKind::ChannelClosed, CallResult::INVALID_REQUEST),
        (ErrorKind::HostMisbehaved, CallResult::INVALID_REQUEST),
        (ErrorKind::Busy, CallResult::BUSY),
    ] {
        fixture.world.fail(At::Attest, 0, 0, kind);
        assert_eq!(ask(&fixture, &request()), regs(0, LIST).with_result(result));
        assert_eq!(fixture.world.writes(), []);
        assert!(fixture.all_are(LIST, 8, OWN));
    }
    fixture.world.write_fault_at(MANIFEST_AT);
    assert_eq!(ask(&fixture, &request()), regs(0, LIST).with_result(ADDRESS));
    assert!(fixture.all_are(LIST, 8, OWN));
}
