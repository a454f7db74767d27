//! The certificate chain that vouches for the model's reports. All of it is made of public test keys.
//!
//! `conformance/tools/make-test-certs` makes the files; the form is that of AMD's chain.

use alloc::vec::Vec;

/// Self-signed RSA-4096 root, DER.
pub const ARK_DER: &[u8] = include_bytes!("certs/ark.der");

/// RSA-4096 authority signed by the root, DER.
pub const ASK_DER: &[u8] = include_bytes!("certs/ask.der");

/// P-384 certificate of the key that signs reports, signed by the authority; names
/// [`CHIP_ID`](super::platform::CHIP_ID) and [`REPORTED_TCB`](super::platform::REPORTED_TCB), DER.
pub const VCEK_DER: &[u8] = include_bytes!("certs/vcek.der");

/// Private scalar that belongs to [`VCEK_DER`], big endian. A worthless test key.
pub(super) const VCEK_SCALAR: [u8; 48] = scalar(include_bytes!("certs/TEST-KEY-vcek.key"));

// GUIDs in text order (fact table `attestation_report`, rows `cert_guid`).
const ARK_GUID: u128 = 0xc0b406a4_a803_4952_9743_3fb6014cd0ae;
const ASK_GUID: u128 = 0x4ab7b379_bbac_4fe4_a02f_05aef327c782;
const VCEK_GUID: u128 = 0x63da758d_e664_4564_adc5_f4b93be8accd;
const ENTRY_LEN: usize = 24;

/// The chain as a certificate table, the form in which a host hands it out with an extended guest request.
///
/// Entries of 24 bytes (GUID, offset, length), a zero entry, then the certificates; offsets count from the start.
pub fn table() -> Vec<u8> {
    let certs = [(ARK_GUID, ARK_DER), (ASK_GUID, ASK_DER), (VCEK_GUID, VCEK_DER)];
    let mut entries = Vec::new();
    let mut data = Vec::new();
    let base = (certs.len() + 1) * ENTRY_LEN;
    for (guid, der) in certs {
        entries.extend_from_slice(&guid.to_be_bytes());
        entries.extend_from_slice(&((base + data.len()) as u32).to_le_bytes());
        entries.extend_from_slice(&(der.len() as u32).to_le_bytes());
        data.extend_from_slice(der);
    }
    entries.extend_from_slice(&[0; ENTRY_LEN]);
    entries.extend_from_slice(&data);
    entries
}

/// Reads the key file at compile time: lines that start with `#` are notes, the rest are 96 hexadecimal digits.
const fn scalar(file: &[u8]) -> [u8; 48] {
    let mut out = [0; 48];
    let mut digits = 0;
    let mut is_note = false;
    let mut at = 0;
    while at < file.len() {
        let byte = file[at];
        at += 1;
        if byte == b'\n' {
            is_note = false;
        } else if byte == b'#' {
            is_note = true;
        } else if !is_note {
            let digit = match byte {
                b'0'..=b'9' => byte - b'0',
                b'a'..=b'f' => byte - b'a' + 10,
                _ => panic!("the key file has a byte that is no hexadecimal digit"),
            };
            out[digits / 2] = out[digits / 2] << 4 | digit;
            digits += 1;
        }
    }
    assert!(digits == 96, "the key file has not 96 digits");
    out
}

#[cfg(test)]
mod tests {
    use p384::ecdsa::SigningKey;

    use super::*;

    #[test]
    fn private_key_belongs_to_the_certificate() {
        let key = SigningKey::from_slice(&VCEK_SCALAR).unwrap();
        let point = key.verifying_key().to_sec1_point(false);
        assert!(VCEK_DER.windows(97).any(|window| window == point.as_bytes()));
    }

    #[test]
    fn table_entries_lead_to_the_certificates() {
        let table = table();
        for (entry, der) in [ARK_DER, ASK_DER, VCEK_DER].iter().enumerate() {
            let offset = u32::from_le_bytes(table[entry * 24 + 16..][..4].try_into().unwrap());
            let len = u32::from_le_bytes(table[entry * 24 + 20..][..4].try_into().unwrap());
            assert_eq!(&table[offset as usize..][..len as usize], *der);
        }
        assert_eq!(table[..4], [0xc0, 0xb4, 0x06, 0xa4]);
        assert_eq!(table[72..96], [0; 24]);
        assert!(table.len() <= 0x4000, "four pages hold the table");
    }
}
