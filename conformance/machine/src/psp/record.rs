//! Memory of every message under the VMPCKs, so that a nonce used for two messages is noticed.
//!
//! AES-GCM breaks when one key and IV protect two messages. The IV is the message number alone, so a request and a
//! response of one number count as two messages too.

use alloc::{collections::BTreeMap, format, string::String, vec::Vec};

use sha2::{Digest, Sha384};

/// Who made a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// The guest, or whoever holds its key.
    Request,
    /// The security processor.
    Response,
}

/// One authentic message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Number of the key.
    pub vmpck: u8,
    /// Message number, and so the IV.
    pub seqno: u64,
    /// Who made it.
    pub direction: Direction,
    /// SHA-384 over the authenticated header bytes and the plaintext.
    pub digest: [u8; 48],
}

/// All different messages so far, by key and number.
#[derive(Clone, Debug, Default)]
pub(super) struct Records {
    by_iv: BTreeMap<(u8, u64), Vec<Record>>,
    reused: Option<(u8, u64)>,
}

impl Records {
    /// Notes a message; one that is already known, repeated unchanged, is no news.
    pub(super) fn note(&mut self, (vmpck, seqno): (u8, u64), direction: Direction, aad: &[u8], plaintext: &[u8]) {
        let digest = Sha384::new().chain_update(aad).chain_update(plaintext).finalize().into();
        let same_iv = self.by_iv.entry((vmpck, seqno)).or_default();
        if same_iv.iter().any(|record| record.digest == digest) {
            return;
        }
        same_iv.push(Record { vmpck, seqno, direction, digest });
        if same_iv.len() > 1 && self.reused.is_none() {
            self.reused = Some((vmpck, seqno));
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Record> {
        self.by_iv.values().flatten()
    }

    pub(super) fn nonce_reuse(&self) -> Option<String> {
        let (vmpck, seqno) = self.reused?;
        let messages = self.by_iv.get(&(vmpck, seqno))?;
        let directions: Vec<_> = messages.iter().map(|record| record.direction).collect();
        Some(format!(
            "VMPCK{vmpck} protects {} different messages under number {seqno:#x}: {directions:?}",
            messages.len(),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repeated_message_is_no_reuse() {
        let mut records = Records::default();
        for _ in 0..3 {
            records.note((0, 1), Direction::Request, &[1; 48], b"text");
        }
        assert_eq!(records.nonce_reuse(), None);
        assert_eq!(records.iter().count(), 1);
    }

    #[test]
    fn another_text_header_or_direction_under_one_number_is_reuse() {
        let cases: [(Direction, [u8; 48], &[u8]); 3] = [
            (Direction::Request, [1; 48], b"other"),
            (Direction::Request, [2; 48], b"text"),
            (Direction::Response, [3; 48], b"answer"),
        ];
        for (direction, aad, text) in cases {
            let mut records = Records::default();
            records.note((2, 7), Direction::Request, &[1; 48], b"text");
            records.note((2, 7), direction, &aad, text);
            let found = records.nonce_reuse().unwrap();
            assert!(found.contains("VMPCK2") && found.contains("0x7"), "{found}");
        }
    }

    #[test]
    fn other_keys_and_numbers_are_apart() {
        let mut records = Records::default();
        records.note((0, 1), Direction::Request, &[], b"a");
        records.note((1, 1), Direction::Request, &[], b"b");
        records.note((0, 2), Direction::Response, &[], b"c");
        assert_eq!(records.nonce_reuse(), None);
        assert_eq!(records.iter().count(), 3);
    }
}
