//! SHA-2 and the MAC of reports.

use sha2::{Digest, Sha256, Sha384};

/// Block of SHA-256.
const BLOCK: usize = 64;

/// SHA-384 over the parts in order.
pub(crate) fn sha384(parts: &[&[u8]]) -> [u8; 48] {
    let mut hash = Sha384::new();
    parts.iter().for_each(|part| hash.update(part));
    hash.finalize().into()
}

fn sha256(parts: &[&[u8]]) -> [u8; 32] {
    let mut hash = Sha256::new();
    parts.iter().for_each(|part| hash.update(part));
    hash.finalize().into()
}

/// HMAC-SHA256 with a 32-byte key (RFC 2104).
pub(crate) fn hmac_sha256(key: &[u8; 32], message: &[u8]) -> [u8; 32] {
    let pad = |with: u8| {
        let mut pad = [with; BLOCK];
        pad.iter_mut().zip(key).for_each(|(slot, byte)| *slot ^= byte);
        pad
    };
    sha256(&[&pad(0x5c), &sha256(&[&pad(0x36), message])])
}

/// The report key of a platform: a test key that depends on the seed alone.
pub(crate) fn report_key(seed: u64) -> [u8; 32] {
    sha256(&[b"TEST KEY of a TDX machine model", &seed.to_le_bytes()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hmac_gives_the_answer_of_rfc_4231_case_2() {
        let mut key = [0; 32];
        key[..4].copy_from_slice(b"Jefe");
        let mac = hmac_sha256(&key, b"what do ya want for nothing?");
        assert_eq!(mac[..8], [0x5b, 0xdc, 0xc1, 0x46, 0xbf, 0x60, 0x75, 0x4e]);
        assert_eq!(mac[28..], [0x64, 0xec, 0x38, 0x43]);
    }
}
