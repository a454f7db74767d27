//! A verifier that knows nothing of this project accepts the evidence that the guest program got, and nothing else. On
//! TDX, where evidence is a local report, that is the platform itself.

use coco_part_api::{Binding, DataForm, GuestLevel, Level, REPORT_DATA, report_data};
use conformance::snp::Snp;
use conformance::suite::Bench;
use conformance::suite::guest_program::{Outcome, Run, Then, plan, run_at_l1, run_programs};
use conformance::tdx::Tdx;
use conformance::world::{Options, World};
use machine::psp::certs::{ARK_DER, ASK_DER, VCEK_DER};
use sev::certs::snp::{Chain, Verifiable};
use sev::firmware::guest::AttestationReport;
use sev::parser::ByteParser;

/// Runs the program; gives what it and its second vCPU got, and the launch digest of the machine.
fn run(seed: u64, then: Option<Then>) -> (Run, [u8; 48]) {
    let mut bench = Bench::<Snp>::new(Options::default());
    let (run, world) =
        run_programs(&mut bench, Options { seed, ..Options::default() }, then).expect("the program runs");
    (run, world.runner.machine.0.psp().digest())
}

fn boot_evidence(seed: u64) -> (Outcome, [u8; 48]) {
    let (run, digest) = run(seed, None);
    (run.outcome.expect("the program has an outcome"), digest)
}

fn chain() -> Chain {
    Chain::from_der(ARK_DER, ASK_DER, VCEK_DER).expect("the test chain parses")
}

fn verify(report: &[u8]) -> Result<AttestationReport, std::io::Error> {
    let report = AttestationReport::from_bytes(report)?;
    (&chain(), &report).verify()?;
    Ok(report)
}

#[test]
fn evidence_of_the_guest_verifies_and_says_where_it_ran() {
    let (outcome, digest) = boot_evidence(1);
    assert_eq!(outcome.level, Level::Guest(GuestLevel::TWO));
    assert_eq!((outcome.evidence.names, outcome.evidence.data), (outcome.level, DataForm::Verbatim));
    let report = verify(&outcome.bytes).expect("chain and report verify");
    assert_eq!(report.vmpl, 2);
    assert_eq!(report.report_data, plan(None).nonce);
    assert_eq!(report.measurement, digest);
}

#[test]
fn evidence_through_l1_verifies_and_binds_level_and_nonce() {
    let (run, digest) = run(1, Some(Then::Leave));
    let outcome = run.further_outcome.expect("the second vCPU has an outcome");
    assert_eq!(outcome.evidence.data, DataForm::Digest);
    let report = verify(&outcome.bytes).expect("chain and report verify");
    assert_eq!(report.vmpl, 2);
    assert_eq!(report.report_data, report_data(outcome.level, &[0x22; REPORT_DATA], b""));
    assert_eq!(report.measurement, digest);
}

#[test]
fn every_changed_field_fails() {
    let (outcome, _) = boot_evidence(1);
    // Version, level, report data, measurement, chip, and the signature itself.
    for at in [0x000, 0x030, 0x050, 0x08f, 0x090, 0x0bf, 0x0c0, 0x1a0, 0x29f, 0x2a0, 0x2e8] {
        let mut changed = outcome.bytes.clone();
        changed[at] ^= 1;
        assert!(verify(&changed).is_err(), "byte {at:#x}");
    }
    assert!(verify(&outcome.bytes[..outcome.bytes.len() - 1]).is_err());
}

#[test]
fn another_run_of_the_same_image_has_the_same_measurement_and_another_report() {
    let ((one, first), (two, second)) = (boot_evidence(1), boot_evidence(2));
    assert_eq!(first, second);
    assert_ne!(one.bytes, two.bytes);
}

/// Where the caller's bytes stand in a local report (`tdreport.csv`: REPORTDATA).
const LOCAL_REPORTDATA: usize = 128;
/// Bytes between what the hash of TEE_TCB_INFO and that of TDINFO are over: nothing that a report says.
const UNUSED: std::ops::Range<usize> = 256 + 239..512;

/// What the programs of a TDX guest got, and the platform that made their reports.
fn tdx_run(seed: u64, then: Option<Then>) -> (Run, World<Tdx>) {
    let mut bench = Bench::<Tdx>::new(Options::default());
    run_programs(&mut bench, Options { seed, ..Options::default() }, then).expect("the programs run")
}

fn is_genuine(platform: &World<Tdx>, bytes: &[u8]) -> bool {
    bytes.try_into().is_ok_and(|report| platform.runner.machine.0.report_is_genuine(report))
}

/// A genuine report, whose level L1 vouches for: over the digest of level and nonce.
fn expect_local(platform: &World<Tdx>, outcome: &Outcome, level: Level, nonce: &[u8; REPORT_DATA]) {
    assert!(is_genuine(platform, &outcome.bytes));
    assert_eq!((outcome.level, outcome.evidence.names), (level, level));
    assert_eq!((outcome.evidence.bound_by, outcome.evidence.data), (Binding::Monitor, DataForm::Digest));
    let data = &outcome.bytes[LOCAL_REPORTDATA..][..REPORT_DATA];
    assert_eq!(data, report_data(level, nonce, &[]));
}

#[test]
fn local_reports_are_genuine_and_bind_level_and_nonce() {
    let guest = Level::Guest(GuestLevel::TWO);
    let (run, platform) = tdx_run(1, Some(Then::Leave));
    expect_local(&platform, &run.outcome.expect("the first vCPU has an outcome"), guest, &plan(None).nonce);
    expect_local(&platform, &run.further_outcome.expect("the second one too"), guest, &[0x22; REPORT_DATA]);

    let mut bench = Bench::<Tdx>::new(Options::default());
    let (run, platform) = run_at_l1(&mut bench, Options::default()).expect("the program runs at L1");
    expect_local(&platform, &run.outcome.expect("it has an outcome"), Level::Monitor, &plan(None).nonce);
}

#[test]
fn every_changed_byte_of_a_local_report_fails_and_so_does_another_platform() {
    let (run, platform) = tdx_run(1, None);
    let report = run.outcome.expect("the program has an outcome").bytes;
    for at in (0..report.len()).filter(|at| !UNUSED.contains(at)) {
        let mut changed = report.clone();
        changed[at] ^= 1;
        assert!(!is_genuine(&platform, &changed), "byte {at}");
    }
    assert!(!is_genuine(&platform, &report[..report.len() - 1]));
    let (_, other) = tdx_run(2, None);
    assert!(!is_genuine(&other, &report));
}
