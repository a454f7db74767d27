//! The attestation report (fact table `attestation_report`) and its signature.

use p384::ecdsa::{Signature, SigningKey, signature::Signer};

use super::{
    bytes::put,
    certs::VCEK_SCALAR,
    launch::Launched,
    platform::{
        CHIP_ID, COMMITTED_TCB, COMMITTED_VERSION, CPUID_FAMILY, CPUID_MODEL, CPUID_STEPPING, CURRENT_MIT_VECTOR,
        CURRENT_TCB, CURRENT_VERSION, LAUNCH_MIT_VECTOR, LAUNCH_TCB, PLATFORM_INFO, REPORTED_TCB,
    },
};

/// Bytes of a report, signature included.
pub const REPORT_LEN: usize = 0x4a0;

/// Bytes that the signature covers.
pub const SIGNED_LEN: usize = 0x2a0;

/// Layout version of a report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReportVersion {
    /// Version 2: names no processor.
    V2,
    /// Version 3: has family, model and stepping.
    #[default]
    V3,
    /// Version 5: has the mitigation vectors too.
    V5,
}

const SIGNATURE_ECDSA_P384_SHA384: u32 = 1;
const KEY_INFO_AUTHOR_KEY_EN: u32 = 1 << 0;
const SIGNATURE_S: usize = SIGNED_LEN + 72;

/// Makes the signed report of a launched guest.
pub(super) fn make(
    guest: &Launched,
    report_id: &[u8; 32],
    version: ReportVersion,
    vmpl: u32,
    report_data: &[u8; 64],
) -> [u8; REPORT_LEN] {
    let mut report = [0; REPORT_LEN];
    let bytes = &mut report[..];
    let number = match version {
        ReportVersion::V2 => 2u32,
        ReportVersion::V3 => 3,
        ReportVersion::V5 => 5,
    };
    put(bytes, 0x000, &number.to_le_bytes());
    put(bytes, 0x008, &guest.policy.to_le_bytes());
    put(bytes, 0x030, &vmpl.to_le_bytes());
    put(bytes, 0x034, &SIGNATURE_ECDSA_P384_SHA384.to_le_bytes());
    put(bytes, 0x038, &CURRENT_TCB.to_bytes());
    put(bytes, 0x040, &PLATFORM_INFO.to_le_bytes());
    put(bytes, 0x050, report_data);
    put(bytes, 0x090, &guest.digest);
    put(bytes, 0x0c0, &guest.host_data);
    put(bytes, 0x140, report_id);
    // No migration agent.
    put(bytes, 0x160, &[0xff; 32]);
    put(bytes, 0x180, &REPORTED_TCB.to_bytes());
    if version != ReportVersion::V2 {
        put(bytes, 0x188, &[CPUID_FAMILY, CPUID_MODEL, CPUID_STEPPING]);
    }
    put(bytes, 0x1a0, &CHIP_ID);
    put(bytes, 0x1e0, &COMMITTED_TCB.to_bytes());
    put(bytes, 0x1e8, &build_minor_major(CURRENT_VERSION));
    put(bytes, 0x1ec, &build_minor_major(COMMITTED_VERSION));
    put(bytes, 0x1f0, &LAUNCH_TCB.to_bytes());
    if version == ReportVersion::V5 {
        put(bytes, 0x1f8, &LAUNCH_MIT_VECTOR.to_le_bytes());
        put(bytes, 0x200, &CURRENT_MIT_VECTOR.to_le_bytes());
    }
    if let Some(block) = &guest.id_block {
        put(bytes, 0x004, &block.guest_svn.to_le_bytes());
        put(bytes, 0x010, &block.family_id);
        put(bytes, 0x020, &block.image_id);
        put(bytes, 0x0e0, &block.id_key_digest);
        if let Some(digest) = &block.author_key_digest {
            put(bytes, 0x048, &KEY_INFO_AUTHOR_KEY_EN.to_le_bytes());
            put(bytes, 0x110, digest);
        }
    }
    sign(bytes);
    report
}

/// Signs with the VCEK; the nonce comes from the text (RFC 6979), so one report has one signature.
fn sign(report: &mut [u8]) {
    let key = SigningKey::from_slice(&VCEK_SCALAR).expect("the embedded test key is a P-384 scalar");
    let signature: Signature = key.sign(&report[..SIGNED_LEN]);
    let (mut r, mut s) = signature.split_bytes();
    r.reverse();
    s.reverse();
    put(report, SIGNED_LEN, &r);
    put(report, SIGNATURE_S, &s);
}

const fn build_minor_major([major, minor, build]: [u8; 3]) -> [u8; 3] {
    [build, minor, major]
}

#[cfg(test)]
mod tests {
    use p384::ecdsa::signature::Verifier;

    use super::*;
    use crate::psp::launch::IdBlock;

    fn guest(author_key_digest: Option<[u8; 48]>) -> Launched {
        Launched {
            policy: 0x0102_0304_0506_0708,
            host_data: [0xd1; 32],
            id_block: Some(IdBlock {
                launch_digest: [0xd2; 48],
                family_id: [0xd3; 16],
                image_id: [0xd4; 16],
                guest_svn: 0x1122_3344,
                policy: 0x0102_0304_0506_0708,
                id_key_digest: [0xd5; 48],
                author_key_digest,
            }),
            digest: [0xd2; 48],
        }
    }

    fn check(report: &[u8; REPORT_LEN], expected: &[(usize, &[u8])]) {
        let mut at = 0;
        for &(offset, bytes) in expected {
            assert_eq!(offset, at, "the list has a gap");
            assert_eq!(&report[at..at + bytes.len()], bytes, "offset {offset:#x}");
            at += bytes.len();
        }
        assert_eq!(at, SIGNED_LEN);
    }

    #[test]
    fn every_field_stands_at_its_offset() {
        let report = make(&guest(Some([0xd6; 48])), &[0xd7; 32], ReportVersion::V3, 2, &[0xd8; 64]);
        check(
            &report,
            &[
                (0x000, &[3, 0, 0, 0]),
                (0x004, &[0x44, 0x33, 0x22, 0x11]),
                (0x008, &[8, 7, 6, 5, 4, 3, 2, 1]),
                (0x010, &[0xd3; 16]),
                (0x020, &[0xd4; 16]),
                (0x030, &[2, 0, 0, 0]),
                (0x034, &[1, 0, 0, 0]),
                (0x038, &[4, 1, 0, 0, 0, 0, 0x18, 0xdb]),
                (0x040, &[0x25, 0, 0, 0, 0, 0, 0, 0]),
                (0x048, &[1, 0, 0, 0]),
                (0x04c, &[0; 4]),
                (0x050, &[0xd8; 64]),
                (0x090, &[0xd2; 48]),
                (0x0c0, &[0xd1; 32]),
                (0x0e0, &[0xd5; 48]),
                (0x110, &[0xd6; 48]),
                (0x140, &[0xd7; 32]),
                (0x160, &[0xff; 32]),
                (0x180, &[3, 0, 0, 0, 0, 0, 0x16, 0xd5]),
                (0x188, &[0x19, 0x01, 0x01]),
                (0x18b, &[0; 21]),
                (0x1a0, &CHIP_ID),
                (0x1e0, &[4, 1, 0, 0, 0, 0, 0x17, 0xda]),
                (0x1e8, &[41, 55, 1, 0]),
                (0x1ec, &[29, 55, 1, 0]),
                (0x1f0, &[4, 1, 0, 0, 0, 0, 0x18, 0xd9]),
                (0x1f8, &[0; 8]),
                (0x200, &[0; 8]),
                (0x208, &[0; 152]),
            ],
        );
        assert_eq!(report[0x2d0..0x2e8], [0; 24], "R is zero-extended");
        assert_eq!(report[0x318..0x330], [0; 24], "S is zero-extended");
        assert_eq!(report[0x330..0x4a0], [0; 368]);
    }

    #[test]
    fn version_2_names_no_processor() {
        let v2 = make(&guest(None), &[1; 32], ReportVersion::V2, 0, &[2; 64]);
        let v3 = make(&guest(None), &[1; 32], ReportVersion::V3, 0, &[2; 64]);
        assert_eq!((v2[0], &v2[0x188..0x18b]), (2, &[0; 3][..]));
        assert_eq!((&v2[4..0x188], &v2[0x18b..0x2a0]), (&v3[4..0x188], &v3[0x18b..0x2a0]));
    }

    #[test]
    fn version_5_adds_the_mitigation_vectors_only() {
        let v3 = make(&guest(None), &[1; 32], ReportVersion::V3, 0, &[2; 64]);
        let v5 = make(&guest(None), &[1; 32], ReportVersion::V5, 0, &[2; 64]);
        assert_eq!(v5[0], 5);
        assert_eq!(v5[4..0x1f8], v3[4..0x1f8]);
        assert_eq!(v5[0x1f8..0x208], [3, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(v5[0x208..0x2a0], [0; 152]);
    }

    #[test]
    fn a_guest_without_id_block_or_author_key_has_zeros_there() {
        let report = make(&guest(None), &[1; 32], ReportVersion::V3, 0, &[2; 64]);
        assert_eq!(report[0x048..0x04c], [0; 4]);
        assert_eq!(report[0x110..0x140], [0; 48]);
        let plain = Launched { id_block: None, ..guest(None) };
        let report = make(&plain, &[1; 32], ReportVersion::V3, 0, &[2; 64]);
        assert_eq!(report[0x004..0x008], [0; 4]);
        assert_eq!(report[0x010..0x030], [0; 32]);
        assert_eq!(report[0x0e0..0x140], [0; 96]);
    }

    #[test]
    fn signature_is_little_endian_deterministic_and_covers_the_text() {
        let make = || make(&guest(None), &[1; 32], ReportVersion::V3, 1, &[2; 64]);
        let mut report = make();
        assert_eq!(report, make());
        let mut big_endian = [0; 96];
        for at in 0..48 {
            big_endian[47 - at] = report[0x2a0 + at];
            big_endian[95 - at] = report[0x2e8 + at];
        }
        let signature = Signature::from_slice(&big_endian).unwrap();
        let key = SigningKey::from_slice(&VCEK_SCALAR).unwrap();
        let verify = |report: &[u8]| key.verifying_key().verify(&report[..SIGNED_LEN], &signature);
        assert!(verify(&report).is_ok());
        for at in [0, 0x30, 0x29f] {
            report[at] ^= 1;
            assert!(verify(&report).is_err(), "byte {at:#x}");
            report[at] ^= 1;
        }
    }
}
