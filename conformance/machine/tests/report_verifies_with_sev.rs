//! A verifier that knows nothing of this project accepts the security processor's reports, and only those.

extern crate alloc;

use machine::psp::{
    DEFAULT_POLICY, REPORT_LEN, ReportVersion, SIGNED_LEN, SecurityProcessor,
    certs::{ARK_DER, ASK_DER, VCEK_DER},
    msg_type, page_type,
    platform::{CHIP_ID, REPORTED_TCB},
};
use sev::{
    certs::snp::{Chain, Verifiable},
    firmware::guest::AttestationReport,
    parser::ByteParser,
};

#[path = "../src/psp/client.rs"]
mod client;

const VMPCK: u8 = 1;
const REPORT_DATA: [u8; 64] = [0x42; 64];
const HOST_DATA: [u8; 32] = [0x17; 32];

fn launched() -> SecurityProcessor {
    let mut psp = SecurityProcessor::new(2024);
    psp.measure(page_type::NORMAL, 0x1000, &[1; 4096]).unwrap();
    psp.measure(page_type::SECRETS, 0x2000, &[0; 4096]).unwrap();
    psp.finish(DEFAULT_POLICY, HOST_DATA, None).unwrap();
    psp
}

/// Asks for a report as a guest does that has nothing but its secrets page.
fn report_for(psp: &mut SecurityProcessor, vmpl: u32) -> [u8; REPORT_LEN] {
    let secrets = psp.secrets_page();
    let key = secrets[0x20 + 32 * usize::from(VMPCK)..][..32].try_into().unwrap();
    let payload = client::report_request(vmpl, REPORT_DATA);
    let request = client::seal(key, VMPCK, 1, msg_type::REPORT_REQ, &payload);
    let response = psp.guest_request(&request).unwrap();
    let answer = client::open(key, VMPCK, 2, msg_type::REPORT_REQ + 1, &response).unwrap();
    assert_eq!(answer[..8], [0, 0, 0, 0, 0xa0, 0x04, 0, 0]);
    answer[0x20..].try_into().unwrap()
}

fn chain() -> Chain {
    Chain::from_der(ARK_DER, ASK_DER, VCEK_DER).unwrap()
}

fn verify(report: &[u8]) -> Result<AttestationReport, std::io::Error> {
    let report = AttestationReport::from_bytes(report)?;
    (&chain(), &report).verify()?;
    Ok(report)
}

#[test]
fn report_and_chain_verify_and_state_the_request() {
    for (version, number) in [(ReportVersion::V3, 3), (ReportVersion::V5, 5)] {
        let mut psp = launched();
        psp.set_report_version(version);
        let report = verify(&report_for(&mut psp, 2)).unwrap();
        assert_eq!(report.version, number);
        assert_eq!(report.vmpl, 2);
        assert_eq!(report.report_data, REPORT_DATA);
        assert_eq!(report.measurement, psp.digest());
        assert_eq!(report.host_data, HOST_DATA);
        assert_eq!(u64::from(report.policy), DEFAULT_POLICY);
        assert_eq!(report.chip_id, CHIP_ID);
        assert_eq!((report.cpuid_fam_id, report.cpuid_mod_id), (Some(0x19), Some(0x01)));
        assert_eq!(report.report_id_ma, [0xff; 32]);
    }
}

#[test]
fn nothing_but_the_original_is_accepted() {
    let report = report_for(&mut launched(), 2);
    let original = verify(&report).unwrap();
    let vcek = chain().vek;
    let signature = (SIGNED_LEN..SIGNED_LEN + 48).chain(SIGNED_LEN + 72..SIGNED_LEN + 120);
    let mut accepted = Vec::new();
    for at in (0..SIGNED_LEN).chain(signature) {
        let mut changed = report;
        changed[at] ^= 0x01;
        let Ok(parsed) = AttestationReport::from_bytes(&changed) else {
            continue;
        };
        // The certificate alone: checking the chain again for every byte would take most of the time.
        if (&vcek, &parsed).verify().is_ok() {
            assert_eq!(parsed, original, "byte {at:#x}");
            accepted.push(at);
        }
    }
    // Parsing keeps none of the reserved bytes in the four TCB versions, so those changes are undone there.
    let reserved = [0x038, 0x180, 0x1e0, 0x1f0].map(|tcb| [tcb + 2, tcb + 3, tcb + 4, tcb + 5]);
    assert_eq!(accepted, reserved.as_flattened());
}

#[test]
fn a_changed_byte_fails_under_the_whole_chain() {
    let report = report_for(&mut launched(), 2);
    for at in [0x030, 0x050, 0x090, 0x0c0, 0x29f, 0x2a0, 0x2e8] {
        let mut changed = report;
        changed[at] ^= 0x01;
        assert!(verify(&changed).is_err(), "byte {at:#x}");
    }
}

#[test]
fn chain_without_its_own_authority_is_refused() {
    let report = AttestationReport::from_bytes(&report_for(&mut launched(), 2)).unwrap();
    for (ark, ask) in [(ASK_DER, ASK_DER), (ARK_DER, ARK_DER)] {
        let chain = Chain::from_der(ark, ask, VCEK_DER).unwrap();
        assert!((&chain, &report).verify().is_err());
    }
}

#[test]
fn certificate_names_the_chip_and_the_reported_versions() {
    // OBJECT IDENTIFIER 1.3.6.1.4.1.3704.1.{...}, then an OCTET STRING with the value.
    let value_after = |oid: &[u8], len: usize| -> &[u8] {
        let object = [&[0x06, 8 + oid.len() as u8][..], &[0x2b, 6, 1, 4, 1, 0x9c, 0x78, 1], oid].concat();
        let at = VCEK_DER
            .windows(object.len())
            .position(|window| window == object)
            .expect("the certificate has the extension");
        let value = &VCEK_DER[at + object.len()..];
        assert_eq!(value[..2], [0x04, len as u8]);
        &value[2..2 + len]
    };
    assert_eq!(value_after(&[4], 64), CHIP_ID);
    assert_eq!(value_after(&[3, 1], 3), [2, 1, REPORTED_TCB.boot_loader]);
    assert_eq!(value_after(&[3, 2], 3), [2, 1, REPORTED_TCB.tee]);
    assert_eq!(value_after(&[3, 3], 3), [2, 1, REPORTED_TCB.snp]);
    // 0xd5 as a positive INTEGER takes two bytes.
    assert_eq!(value_after(&[3, 8], 4), [2, 2, 0, REPORTED_TCB.microcode]);
}
