use std::string::ToString;
use std::vec::Vec;

use super::*;

/// A report whose every byte tells its place, but where the parser looks.
fn bytes(version: u8) -> [u8; LEN] {
    let mut bytes = core::array::from_fn(|at| (at % 251) as u8);
    bytes[0x00..0x04].copy_from_slice(&[version, 0, 0, 0]);
    bytes[0x08..0x10].copy_from_slice(&(1_u64 << 17 | 0x1f33).to_le_bytes());
    bytes[0x30..0x38].copy_from_slice(&[2, 0, 0, 0, 1, 0, 0, 0]);
    bytes[0x40..0x4c].copy_from_slice(&[0xff, 0, 0, 0, 0, 0, 0, 0, 0b101, 0, 0, 0]);
    bytes
}

fn with(version: u8, at: usize, value: &[u8]) -> [u8; LEN] {
    let mut bytes = bytes(version);
    bytes[at..at + value.len()].copy_from_slice(value);
    bytes
}

/// The bytes from `at` on as they stand in the report.
fn at<const N: usize>(bytes: &[u8; LEN], at: usize) -> [u8; N] {
    *bytes[at..].first_chunk().unwrap()
}

#[test]
fn every_version_of_a_report_comes_out_byte_for_byte() {
    for version in 2..=5 {
        let bytes = bytes(version);
        let report = Report::parse(&bytes).unwrap();
        assert_eq!(report.as_bytes(), &bytes);
        assert_eq!(report.signed_bytes(), &bytes[..0x2a0]);
        assert_eq!((report.signature().r, report.signature().s), (at(&bytes, 0x2a0), at(&bytes, 0x2e8)));
        assert_eq!(report.version() as u8, version);
    }
}

#[test]
fn every_field_of_all_report_versions_is_read_from_its_place() {
    for version in 2..=5 {
        let bytes = bytes(version);
        let report = Report::parse(&bytes).unwrap();
        assert_eq!(report.guest_svn().to_le_bytes(), at(&bytes, 0x04));
        assert_eq!(report.policy().bits().to_le_bytes(), at(&bytes, 0x08));
        assert_eq!((report.policy().abi_major(), report.policy().abi_minor()), (0x1f, 0x33));
        assert_eq!((*report.family_id(), *report.image_id()), (at(&bytes, 0x10), at(&bytes, 0x20)));
        assert_eq!(report.vmpl(), Vmpl::VMPL2);
        assert_eq!(report.key_info().bits(), 0b101);
        assert_eq!(report.signing_key(), SigningKey::VLEK);
        assert_eq!(*report.report_data(), at(&bytes, 0x50));
        assert_eq!((*report.measurement(), *report.host_data()), (at(&bytes, 0x90), at(&bytes, 0xc0)));
        assert_eq!(*report.id_key_digest(), at(&bytes, 0xe0));
        assert_eq!(report.author_key_digest(), Some(&at(&bytes, 0x110)));
        assert_eq!(*report.report_id(), at(&bytes, 0x140));
        assert_eq!(report.migration_agent(), Some(&at(&bytes, 0x160)));
        let tcbs = [report.current_tcb(), report.reported_tcb(), report.committed_tcb(), report.launch_tcb()];
        assert_eq!(tcbs.map(|tcb| tcb.0), [0x38, 0x180, 0x1e0, 0x1f0].map(|place| at(&bytes, place)));
        assert_eq!(*report.chip_id(), at(&bytes, 0x1a0));
        let [build, minor, major, _] = at(&bytes, 0x1e8);
        assert_eq!(report.current_firmware(), Firmware { major, minor, build });
        let [build, minor, major, _] = at(&bytes, 0x1ec);
        assert_eq!(report.committed_firmware(), Firmware { major, minor, build });
    }
}

#[test]
fn a_report_gives_no_field_that_its_version_does_not_have() {
    let [family, model, stepping] = at(&bytes(3), 0x188);
    let processor = Some(Processor { family, model, stepping });
    let [launch, current] = [0x1f8, 0x200].map(|place| u64::from_le_bytes(at(&bytes(5), place)));
    let mitigations = Some(Mitigations { launch, current });
    for (version, processor, mitigations, alias_check, tio) in [
        (2, None, None, None, None),
        (3, processor, None, Some(true), None),
        (4, processor, None, Some(true), None),
        (5, processor, mitigations, Some(true), Some(true)),
    ] {
        let report = Report::parse(&bytes(version)).unwrap();
        assert_eq!((report.processor(), report.mitigations()), (processor, mitigations), "{version}");
        assert_eq!(report.platform_flag(PlatformInfo::ALIAS_CHECK_COMPLETE), alias_check, "{version}");
        assert_eq!(report.platform_flag(PlatformInfo::TIO_EN), tio, "{version}");
        for flag in ["SMT_EN", "TSME_EN", "ECC_EN", "RAPL_DIS", "CIPHERTEXT_HIDING_EN"] {
            let flag = PlatformInfo::from_name(flag).unwrap();
            assert_eq!(report.platform_flag(flag), Some(true), "{version} {flag:?}");
        }
    }
    let clear = Report::parse(&with(5, 0x40, &[0; 8])).unwrap();
    assert!(PlatformInfo::all().iter().all(|flag| clear.platform_flag(flag) == Some(false)));
}

#[test]
fn a_report_names_the_product_of_its_processor() {
    for (family, model, product) in [
        (0x19, 1, Some(Product::Milan)),
        (0x19, 0xa1, Some(Product::Genoa)),
        (0x1a, 2, Some(Product::Turin)),
        (1, 1, None),
    ] {
        assert_eq!(Report::parse(&with(3, 0x188, &[family, model])).unwrap().product(), product);
        assert_eq!(Report::parse(&with(2, 0x188, &[family, model])).unwrap().product(), None);
    }
}

#[test]
fn what_is_not_there_is_not_given() {
    let report = Report::parse(&with(3, 0x160, &[0xff; 32])).unwrap();
    assert_eq!(report.migration_agent(), None);
    let report = Report::parse(&with(3, 0x48, &[0b100])).unwrap();
    assert_eq!(report.author_key_digest(), None);
}

#[test]
fn a_bad_report_is_a_named_error() {
    let field = |field| ReportError::Field { field };
    let long = [&bytes(3)[..], &[0]].concat();
    let rows: Vec<(Vec<u8>, ReportError)> = [
        (Vec::new(), ReportError::Length { given: 0 }),
        (bytes(3)[..LEN - 1].to_vec(), ReportError::Length { given: LEN - 1 }),
        (long, ReportError::Length { given: LEN + 1 }),
        (bytes(0).to_vec(), ReportError::Version { version: 0 }),
        (bytes(1).to_vec(), ReportError::Version { version: 1 }),
        (bytes(6).to_vec(), ReportError::Version { version: 6 }),
        (with(3, 3, &[1]).to_vec(), ReportError::Version { version: 0x0100_0003 }),
        (with(3, 0x30, &[4]).to_vec(), field("vmpl")),
        (with(3, 0x30, &[0xff; 4]).to_vec(), field("vmpl")),
        (with(3, 0x31, &[1]).to_vec(), field("vmpl")),
        (with(3, 0x34, &[0]).to_vec(), field("signature_algo")),
        (with(3, 0x34, &[2]).to_vec(), field("signature_algo")),
        (with(3, 0x0a, &[0]).to_vec(), field("policy")),
        (with(3, 0x48, &[2 << 2]).to_vec(), field("key_info")),
        (with(3, 0x48, &[1 << 5]).to_vec(), field("key_info")),
        (with(3, 0x4b, &[1]).to_vec(), field("key_info")),
    ]
    .into();
    for (bytes, expected) in rows {
        let error = Report::parse(&bytes).unwrap_err();
        assert_eq!(error, expected);
        assert!(!error.to_string().ends_with('.'));
    }
}
