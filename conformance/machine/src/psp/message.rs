//! Message pages between guest and security processor: header and AES-256-GCM (fact table `guest_request`).
//!
//! The tag covers the header from 0x30 on and the payload; the number is covered because it is the IV.

use alloc::{boxed::Box, vec::Vec};

use aes_gcm::{AeadInOut, Aes256Gcm, KeyInit, Nonce};

use super::{
    Page,
    bytes::{is_zero, put, take, u64_at},
    status,
};

/// Message types; a response has the type of its request plus one.
pub mod msg_type {
    numbers! {
        pub u8:
        /// MSG_KEY_REQ.
        KEY_REQ = 3;
        /// MSG_REPORT_REQ.
        REPORT_REQ = 5;
        /// MSG_TSC_INFO_REQ.
        TSC_INFO_REQ = 17;
    }
    /// The highest type the tables know, a response.
    pub const LAST: u8 = 18;
}

const ALGO_AES_256_GCM: u8 = 1;
const HDR_VERSION: u8 = 1;
const HDR_SIZE: usize = 0x60;
const AAD_START: usize = 0x30;
const MAX_PAYLOAD: usize = 4096 - HDR_SIZE;
const TAG_LEN: usize = 16;

/// The header fields that differ from message to message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) seqno: u64,
    pub(super) msg_type: u8,
    pub(super) msg_version: u8,
    pub(super) vmpck: u8,
}

impl Header {
    /// Reads the header of a request and refuses what no request may have.
    pub(super) fn parse(page: &Page) -> Result<Self, u32> {
        let is_good = page[0x30] == ALGO_AES_256_GCM
            && page[0x31] == HDR_VERSION
            && usize::from(u16::from_le_bytes(take(page, 0x32))) == HDR_SIZE
            && payload_len(page).is_some()
            && vmpck(page).is_some()
            && is_zero(&page[TAG_LEN..0x20])
            && is_zero(&page[0x28..0x30])
            && is_zero(&page[0x38..0x3c])
            && is_zero(&page[0x3d..HDR_SIZE]);
        is_good
            .then_some(Self { seqno: seqno(page), msg_type: page[0x34], msg_version: page[0x35], vmpck: page[0x3c] })
            .ok_or(status::INVALID_PARAMETER)
    }
}

/// The message number as it stands in the header, unchecked.
pub(super) fn seqno(page: &Page) -> u64 {
    u64_at(page, 0x20)
}

/// The number of the key as it stands in the header; `None` if there is no such key.
pub(super) fn vmpck(page: &Page) -> Option<u8> {
    (page[0x3c] <= 3).then_some(page[0x3c])
}

/// The authenticated part of the header.
pub(super) fn aad(page: &Page) -> &[u8] {
    &page[AAD_START..HDR_SIZE]
}

/// Decrypts the payload of any message page; `None` if it is not authentic.
pub(super) fn open(key: &[u8; 32], page: &Page) -> Option<Vec<u8>> {
    let len = payload_len(page)?;
    let mut payload = page[HDR_SIZE..HDR_SIZE + len].to_vec();
    let tag: [u8; TAG_LEN] = take(page, 0);
    Aes256Gcm::new(&(*key).into())
        .decrypt_inout_detached(&nonce(seqno(page)), aad(page), payload.as_mut_slice().into(), &tag.into())
        .ok()?;
    Some(payload)
}

/// Makes the page of a message.
///
/// # Panics
/// If the payload does not fit a page.
pub(super) fn seal(key: &[u8; 32], header: Header, payload: &[u8]) -> Box<Page> {
    assert!(payload.len() <= MAX_PAYLOAD, "the payload fits a page");
    let mut page = Box::new([0; 4096]);
    put(&mut page[..], 0x20, &header.seqno.to_le_bytes());
    page[0x30] = ALGO_AES_256_GCM;
    page[0x31] = HDR_VERSION;
    put(&mut page[..], 0x32, &(HDR_SIZE as u16).to_le_bytes());
    page[0x34] = header.msg_type;
    page[0x35] = header.msg_version;
    put(&mut page[..], 0x36, &(payload.len() as u16).to_le_bytes());
    page[0x3c] = header.vmpck;

    let (head, body) = page.split_at_mut(HDR_SIZE);
    let body = &mut body[..payload.len()];
    body.copy_from_slice(payload);
    let tag = Aes256Gcm::new(&(*key).into())
        .encrypt_inout_detached(&nonce(header.seqno), &head[AAD_START..], body.into())
        .expect("a page is below the limits of AES-GCM");
    put(head, 0, &tag);
    page
}

fn payload_len(page: &Page) -> Option<usize> {
    let len = usize::from(u16::from_le_bytes(take(page, 0x36)));
    (len <= MAX_PAYLOAD).then_some(len)
}

fn nonce(seqno: u64) -> Nonce<aes_gcm::aead::consts::U12> {
    let mut iv = [0; 12];
    put(&mut iv, 0, &seqno.to_le_bytes());
    iv.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: Header =
        Header { seqno: 0x0102_0304_0506_0708, msg_type: msg_type::REPORT_REQ, msg_version: 1, vmpck: 2 };

    #[test]
    fn header_has_the_known_bytes() {
        let page = seal(&[7; 32], HEADER, &[0; 0x60]);
        assert_eq!(page[0x10..0x20], [0; 16]);
        assert_eq!(page[0x20..0x28], [8, 7, 6, 5, 4, 3, 2, 1]);
        assert_eq!(page[0x28..0x38], [0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 0x60, 0, 5, 1, 0x60, 0]);
        assert_eq!(page[0x38..0x40], [0, 0, 0, 0, 2, 0, 0, 0]);
        assert_eq!(page[0x40..0x60], [0; 32]);
        assert!(page[0xc0..].iter().all(|&byte| byte == 0));
        assert_eq!(Header::parse(&page), Ok(HEADER));
    }

    /// Known answer from another implementation of AES-256-GCM (OpenSSL).
    #[test]
    fn payload_and_tag_have_the_known_bytes() {
        let key: [u8; 32] = core::array::from_fn(|at| at as u8);
        let page = seal(&key, HEADER, b"sixteen and more");
        let text = 0xc4d60911_f7230c4a_74f58f0b_b3faeeaf_u128;
        let tag = 0x2a1a6083_bb45b31b_6967b35a_579d7942_u128;
        assert_eq!(page[0x60..0x70], text.to_be_bytes());
        assert_eq!(page[..0x10], tag.to_be_bytes());
    }

    #[test]
    fn opens_what_it_sealed_and_nothing_altered() {
        let page = seal(&[7; 32], HEADER, b"payload");
        assert_eq!(open(&[7; 32], &page).as_deref(), Some(&b"payload"[..]));
        assert_eq!(open(&[8; 32], &page), None);
        let covered = (0..0x10).chain(0x20..0x28).chain(0x30..0x67);
        for at in covered {
            let mut altered = page.clone();
            altered[at] ^= 0x80;
            assert_eq!(open(&[7; 32], &altered), None, "byte {at:#x}");
        }
    }

    #[test]
    fn refuses_wrong_header_fields() {
        let page = seal(&[7; 32], HEADER, b"payload");
        let reserved = (0x10..0x20).chain(0x28..0x30).chain(0x38..0x3c).chain(0x3d..0x60);
        for at in reserved.chain([0x30, 0x31, 0x32, 0x33]) {
            let mut altered = page.clone();
            altered[at] ^= 0x02;
            assert_eq!(Header::parse(&altered), Err(status::INVALID_PARAMETER), "byte {at:#x}");
        }
        for (at, value) in [(0x3c, 4), (0x3c, 0xff), (0x37, 0x10), (0x37, 0xff)] {
            let mut altered = page.clone();
            altered[at] = value;
            assert_eq!(Header::parse(&altered), Err(status::INVALID_PARAMETER), "byte {at:#x}");
        }
    }
}
