//! The project's own verifier accepts the reports of the model's security processor under its test chain, says what they
//! are, and refuses everything else. The crate `sev` is the second opinion.

extern crate alloc;

use backend_snp::abi::report::{GuestPolicy, PlatformInfo};
use backend_snp::abi::vmpl::Vmpl;
use backend_snp::evidence::{Product, Report, ReportError, Tcb};
use backend_snp::verify::{Check, Expectations, Fault, Root, Verdict, Verifier, Wanted};
use machine::psp::certs::{ARK_DER, ASK_DER, VCEK_DER};
use machine::psp::platform::{CHIP_ID, COMMITTED_TCB, REPORTED_TCB};
use machine::psp::{DEFAULT_POLICY, REPORT_LEN, ReportVersion, SIGNED_LEN, SecurityProcessor, msg_type, page_type};
use sev::certs::snp::{Chain, Verifiable};
use sev::firmware::guest::AttestationReport;
use sev::parser::ByteParser;

#[path = "../machine/src/psp/client.rs"]
#[allow(dead_code, unreachable_pub)]
mod client;

const VMPCK: u8 = 1;
const REPORT_DATA: [u8; 64] = [0x42; 64];
const HOST_DATA: [u8; 32] = [0x17; 32];
/// Within the validity of the test chain, which is 2025 to 2049.
const TIME: u64 = 1_800_000_000;
const CHAIN: [&[u8]; 3] = [ARK_DER, ASK_DER, VCEK_DER];
const TCB: Tcb = Tcb {
    fmc: None,
    boot_loader: REPORTED_TCB.boot_loader,
    tee: REPORTED_TCB.tee,
    snp: REPORTED_TCB.snp,
    microcode: REPORTED_TCB.microcode,
};
const MINIMUM: [(Product, Tcb); 1] = [(Product::Milan, TCB)];

/// Asks for a report as a guest does that has nothing but its secrets page; gives it with the launch digest.
fn report(version: ReportVersion, vmpl: u32, policy: u64) -> ([u8; REPORT_LEN], [u8; 48]) {
    let mut psp = SecurityProcessor::new(2024);
    psp.measure(page_type::NORMAL, 0x1000, &[1; 4096]).unwrap();
    psp.finish(policy, HOST_DATA, None).unwrap();
    psp.set_report_version(version);
    let secrets = psp.secrets_page();
    let key = secrets[0x20 + 32 * usize::from(VMPCK)..][..32].try_into().unwrap();
    let payload = client::report_request(vmpl, REPORT_DATA);
    let request = client::seal(key, VMPCK, 1, msg_type::REPORT_REQ, &payload);
    let response = psp.guest_request(&request).unwrap();
    let answer = client::open(key, VMPCK, 2, msg_type::REPORT_REQ + 1, &response).unwrap();
    (answer[0x20..].try_into().unwrap(), psp.digest())
}

fn good() -> ([u8; REPORT_LEN], Expectations<'static>) {
    let (report, digest) = report(ReportVersion::V3, 2, DEFAULT_POLICY);
    (report, expectations(digest))
}

fn expectations(digest: [u8; 48]) -> Expectations<'static> {
    Expectations {
        root: Root::Named(ARK_DER),
        time_s: TIME,
        minimum: &MINIMUM,
        vmpl: Vmpl::VMPL2,
        policy: GuestPolicy::from_bits_retain(DEFAULT_POLICY),
        report_data: REPORT_DATA,
        measurement: Wanted::Is(digest),
        host_data: Wanted::Is(HOST_DATA),
        id_key_digest: Wanted::Is([0; 48]),
        platform: PlatformInfo::ECC_EN,
    }
}

fn faults(verdict: &Verdict) -> Vec<(Check, Fault)> {
    verdict.faults().collect()
}

/// What the crate `sev` says of chain and signature.
fn second_opinion(report: &[u8]) -> bool {
    let chain = Chain::from_der(ARK_DER, ASK_DER, VCEK_DER).unwrap();
    AttestationReport::from_bytes(report).is_ok_and(|report| (&chain, &report).verify().is_ok())
}

#[test]
fn reports_of_version_2_3_and_5_verify_and_come_out_byte_for_byte() {
    for version in [ReportVersion::V2, ReportVersion::V3, ReportVersion::V5] {
        let (bytes, digest) = report(version, 2, DEFAULT_POLICY);
        let verdict = Verifier::new(&CHAIN, expectations(digest)).verify(&bytes);
        assert!(verdict.is_accepted(), "{version:?}\n{verdict}");
        assert!(second_opinion(&bytes), "{version:?}");
        let parsed = Report::parse(&bytes).unwrap();
        assert_eq!(parsed.as_bytes(), &bytes);
        assert_eq!(*parsed.chip_id(), CHIP_ID);
        let product = if version == ReportVersion::V2 { None } else { Some(Product::Milan) };
        assert_eq!(parsed.product(), product);
        assert_eq!(parsed.mitigations().is_some(), version == ReportVersion::V5);
    }
}

#[test]
fn a_verdict_has_one_line_for_each_check() {
    let (bytes, expectations) = good();
    let any = Expectations { measurement: Wanted::Any, ..expectations };
    let text = Verifier::new(&CHAIN, any).verify(&bytes).to_string();
    let names: Vec<&str> = text.lines().filter_map(|line| line.split_whitespace().next()).collect();
    assert_eq!(
        names,
        [
            "certificates",
            "root",
            "ark",
            "ask",
            "vek",
            "validity",
            "report",
            "product",
            "signing_key",
            "signature",
            "key_tcb",
            "key_chip",
            "reported_tcb",
            "current_tcb",
            "committed_tcb",
            "launch_tcb",
            "vmpl",
            "debug",
            "policy",
            "report_data",
            "measurement",
            "host_data",
            "id_key",
            "platform",
            "verdict"
        ]
    );
    assert!(
        text.contains("measurement    skipped: any value was asked for") && text.ends_with("verdict        accepted")
    );
    // A refused one has the same.
    let refused = Verifier::new(&[], expectations).verify(&[]).to_string();
    assert_eq!(refused.lines().count(), text.lines().count());
    assert!(refused.ends_with("verdict        REFUSED"));
}

#[test]
fn a_report_changed_in_any_byte_is_refused() {
    let (bytes, expectations) = good();
    let verifier = Verifier::new(&CHAIN, expectations);
    for at in 0..REPORT_LEN {
        for mask in [0x01, 0x80, 0xff] {
            let mut changed = bytes;
            changed[at] ^= mask;
            let found = faults(&verifier.verify(&changed));
            assert!(!found.is_empty(), "byte {at:#x} mask {mask:#x}");
            // The signature alone refuses it, whatever else does, unless the bytes are no report at all.
            let is_unsigned = found.iter().any(|(check, fault)| match check {
                Check::Signature => *fault != Fault::MalformedSignature || at >= SIGNED_LEN,
                _ => false,
            });
            assert!(is_unsigned, "byte {at:#x} mask {mask:#x}: {found:?}");
        }
    }
    for len in [0, 1, SIGNED_LEN, REPORT_LEN - 1] {
        let found = faults(&verifier.verify(&bytes[..len]));
        assert!(found.contains(&(Check::Report, Fault::Report(ReportError::Length { given: len }))));
    }
    assert!(verifier.verify(&bytes).is_accepted());
}

#[test]
fn a_value_that_was_not_expected_is_refused_by_its_own_line() {
    let (bytes, right) = good();
    let newer = |change: fn(&mut Tcb)| {
        let mut tcb = TCB;
        change(&mut tcb);
        [(Product::Milan, tcb)]
    };
    let too_old = |part| Fault::TooOld { part, is: TCB };
    let (loader, tee, snp, microcode) = (
        newer(|tcb| tcb.boot_loader += 1),
        newer(|tcb| tcb.tee += 1),
        newer(|tcb| tcb.snp += 1),
        newer(|tcb| tcb.microcode += 1),
    );
    let policy = GuestPolicy::from_bits_retain(DEFAULT_POLICY);
    let rows = [
        (Expectations { minimum: &loader, ..right }, Check::ReportedTcb, too_old("boot_loader")),
        (Expectations { minimum: &tee, ..right }, Check::ReportedTcb, too_old("tee")),
        (Expectations { minimum: &snp, ..right }, Check::ReportedTcb, too_old("snp")),
        (Expectations { minimum: &microcode, ..right }, Check::ReportedTcb, too_old("microcode")),
        (Expectations { vmpl: Vmpl::VMPL0, ..right }, Check::Vmpl, Fault::OtherVmpl { is: 2 }),
        (Expectations { vmpl: Vmpl::VMPL3, ..right }, Check::Vmpl, Fault::OtherVmpl { is: 2 }),
        (Expectations { policy: policy.with_smt(0), ..right }, Check::Policy, Fault::Policy { field: "smt" }),
        (Expectations { report_data: [0x43; 64], ..right }, Check::ReportData, Fault::Differs),
        (Expectations { measurement: Wanted::Is([0; 48]), ..right }, Check::Measurement, Fault::Differs),
        (Expectations { host_data: Wanted::Is([0; 32]), ..right }, Check::HostData, Fault::Differs),
        (Expectations { id_key_digest: Wanted::Is([1; 48]), ..right }, Check::IdKey, Fault::Differs),
        (
            Expectations { platform: PlatformInfo::CIPHERTEXT_HIDING_EN, ..right },
            Check::Platform,
            Fault::FlagsMissing { missing: 0x10 },
        ),
    ];
    for (wrong, check, fault) in rows {
        assert_eq!(faults(&Verifier::new(&CHAIN, wrong).verify(&bytes)), [(check, fault)]);
    }
    let none = Expectations { minimum: &[], ..right };
    let found = faults(&Verifier::new(&CHAIN, none).verify(&bytes));
    assert_eq!(found.len(), 4);
    assert!(found.iter().all(|(_, fault)| *fault == Fault::ProductNotAllowed(Product::Milan)));
    const { assert!(COMMITTED_TCB.snp > REPORTED_TCB.snp) };
}

#[test]
fn a_guest_that_may_be_debugged_is_refused() {
    let (bytes, digest) = report(ReportVersion::V3, 2, DEFAULT_POLICY | 1 << 19);
    let lax = Expectations { policy: GuestPolicy::from_bits_retain(DEFAULT_POLICY | 1 << 19), ..expectations(digest) };
    assert_eq!(faults(&Verifier::new(&CHAIN, lax).verify(&bytes)), [(Check::Debug, Fault::Debuggable)]);
    assert!(second_opinion(&bytes), "the signature is good");
}

#[test]
fn a_chain_comes_in_any_order_and_a_certificate_may_come_twice() {
    let (bytes, expectations) = good();
    for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        let chain = order.map(|at| CHAIN[at]);
        assert!(Verifier::new(&chain, expectations).verify(&bytes).is_accepted());
    }
    assert!(Verifier::new(&[CHAIN, CHAIN].concat(), expectations).verify(&bytes).is_accepted());
}

#[test]
fn a_chain_with_a_certificate_missing_or_unreadable_is_refused() {
    let (bytes, expectations) = good();
    let first = |chain: &[&[u8]]| faults(&Verifier::new(chain, expectations).verify(&bytes)).first().copied();
    let rows: [(&[&[u8]], Fault); 6] = [
        (&[], Fault::Missing("ARK")),
        (&[ASK_DER, VCEK_DER], Fault::Missing("ARK")),
        (&[ARK_DER, VCEK_DER], Fault::Missing("ASK")),
        (&[ARK_DER, ASK_DER], Fault::Missing("VCEK or VLEK")),
        (&[ARK_DER, ASK_DER, VCEK_DER, &[]], Fault::Unreadable { number: 3 }),
        (&[ARK_DER, &ASK_DER[..ASK_DER.len() - 1], VCEK_DER], Fault::Unreadable { number: 1 }),
    ];
    for (chain, fault) in rows {
        assert_eq!(first(chain), Some((Check::Certificates, fault)));
    }
    let long = [VCEK_DER, &[0]].concat();
    assert_eq!(first(&[ARK_DER, ASK_DER, &long]), Some((Check::Certificates, Fault::Unreadable { number: 2 })));
}

#[test]
fn a_chain_changed_in_any_place_is_refused() {
    let (bytes, expectations) = good();
    for at in 0..CHAIN.len() {
        // Every part of a certificate, and both ends of its signature.
        let len = CHAIN[at].len();
        for byte in (0..len).step_by(37).chain([len - 512, len - 1]) {
            let mut changed = CHAIN[at].to_vec();
            changed[byte] ^= 0x01;
            let mut chain = CHAIN;
            chain[at] = &changed;
            let verdict = Verifier::new(&chain, expectations).verify(&bytes);
            assert!(!verdict.is_accepted(), "certificate {at} byte {byte:#x}");
        }
    }
}

#[test]
fn a_chain_of_two_chains_is_refused() {
    let (bytes, expectations) = good();
    // An authority that differs in its signature only.
    for (at, kind) in [(0, "ARK"), (1, "ASK"), (2, "VCEK or VLEK")] {
        let mut other = CHAIN[at].to_vec();
        let last = other.len() - 1;
        other[last] ^= 1;
        let chain = [&CHAIN[..], &[&other[..]]].concat();
        let found = faults(&Verifier::new(&chain, expectations).verify(&bytes));
        assert_eq!(found, [(Check::Certificates, Fault::Repeated(kind))]);
    }
}

#[test]
fn a_root_is_the_vendors_or_the_one_that_was_named() {
    let (bytes, named) = good();
    let vendor = Expectations { root: Root::Vendor, ..named };
    let found = faults(&Verifier::new(&CHAIN, vendor).verify(&bytes));
    assert!(matches!(found[..], [(Check::Root, Fault::UnknownRoot { .. })]), "{found:?}");
    let other = Expectations { root: Root::Named(ASK_DER), ..named };
    let found = faults(&Verifier::new(&CHAIN, other).verify(&bytes));
    assert!(matches!(found[..], [(Check::Root, Fault::UnknownRoot { .. })]), "{found:?}");
    let unreadable = Expectations { root: Root::Named(&[]), ..named };
    let found = faults(&Verifier::new(&CHAIN, unreadable).verify(&bytes));
    assert_eq!(found, [(Check::Root, Fault::UnreadableRoot)]);
}

#[test]
fn a_chain_out_of_its_time_is_refused() {
    let (bytes, right) = good();
    let at = |time_s| faults(&Verifier::new(&CHAIN, Expectations { time_s, ..right }).verify(&bytes));
    // 1 January 2025 and 31 December 2049, each at midnight.
    let (start, end) = (1_735_689_600, 2_524_521_600);
    assert_eq!(at(start), []);
    assert_eq!(at(end), []);
    assert_eq!(at(start - 1), [(Check::Validity, Fault::NotYetValid("ARK"))]);
    assert_eq!(at(end + 1), [(Check::Validity, Fault::Expired("ARK"))]);
    assert_eq!(at(0), [(Check::Validity, Fault::NotYetValid("ARK"))]);
    assert_eq!(at(u64::MAX), [(Check::Validity, Fault::Expired("ARK"))]);
}

/// The command line over a report and the test chain in files; `change` edits the arguments.
fn command(name: &str, report: &[u8], change: impl FnOnce(&mut Vec<String>)) -> (Option<i32>, String, String) {
    let folder = std::env::temp_dir().join(format!("coco-part-verify-{}-{name}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let file = |name: &str, bytes: &[u8]| {
        let path = folder.join(name);
        std::fs::write(&path, bytes).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let report = file("report", report);
    let [ark, ask, vcek] = [("ark", ARK_DER), ("ask", ASK_DER), ("vcek", VCEK_DER)].map(|(name, der)| file(name, der));
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let tcb = format!("milan:{TCB}");
    let (policy, data, host) = (format!("{DEFAULT_POLICY:#x}"), hex(&REPORT_DATA), hex(&HOST_DATA));
    let options = [
        ("--root", ark.as_str()),
        ("--vmpl", "2"),
        ("--report-data", &data),
        ("--min-tcb", &tcb),
        ("--policy", &policy),
        ("--measurement", "any"),
        ("--host-data", &host),
        ("--id-key", &"0".repeat(96)),
        ("--platform", "ecc_en,alias_check_complete"),
        ("--time", "1800000000"),
    ];
    let mut arguments = vec!["verify".to_owned(), report, "--chain".to_owned(), vcek, ark.clone(), ask];
    arguments.extend(options.into_iter().flat_map(|(name, value)| [name.to_owned(), value.to_owned()]));
    change(&mut arguments);
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_conformance")).args(&arguments).output().unwrap();
    std::fs::remove_dir_all(&folder).unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn the_command_prints_every_check_and_its_exit_status_is_the_verdict() {
    let (report, _) = good();
    let (status, out, err) = command("good", &report, |_| ());
    assert_eq!((status, err.as_str()), (Some(0), ""), "{out}");
    assert_eq!(out.lines().count(), 25);
    assert!(out.contains("\nsignature      ok\n") && out.ends_with("\nverdict        accepted\n"));

    let mut changed = report;
    changed[0x90] ^= 1;
    let (status, out, _) = command("changed", &changed, |_| ());
    assert_eq!(status, Some(1));
    assert!(
        out.contains("\nsignature      REFUSED: signature is wrong\n") && out.ends_with("\nverdict        REFUSED\n")
    );

    let (status, out, _) = command("vendor", &report, |arguments| remove(arguments, "--root"));
    assert_eq!(status, Some(1));
    assert!(out.lines().any(|line| line.starts_with("root           REFUSED: root key with SHA-256 ")));
}

/// Takes an option and its value away.
fn remove(arguments: &mut Vec<String>, option: &str) {
    let at = arguments.iter().position(|argument| argument == option).unwrap();
    arguments.drain(at..at + 2);
}

#[test]
fn every_missing_input_of_the_command_is_one_sentence() {
    let (report, _) = good();
    let rows = [
        ("--vmpl", "the level that the report has to name"),
        ("--report-data", "the 64 bytes of the request"),
        ("--min-tcb", "the least platform version of each product that is accepted"),
        ("--policy", "the most permissive launch policy"),
        ("--measurement", "the launch digest, or `any`"),
        ("--host-data", "the data that the host gave at launch, or `any`"),
        ("--id-key", "the SHA-384 of the ID key, or `any`"),
        ("--platform", "the platform flags that have to be set, or `none`"),
    ];
    for (option, what) in rows {
        let (status, out, err) = command(option, &report, |arguments| remove(arguments, option));
        assert_eq!((status, out.as_str()), (Some(2), ""), "{option}");
        assert_eq!(err, format!("conformance: {option} is missing: {what}\n"));
    }
    let (status, _, err) = command("chain", &report, |arguments| drop(arguments.drain(2..6)));
    assert_eq!(status, Some(2));
    assert_eq!(err, "conformance: --chain is missing: the files with ARK, ASK, and VCEK or VLEK\n");
}
