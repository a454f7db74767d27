//! A guest's side of the message channel for tests, written apart from `message.rs`.

use alloc::{boxed::Box, vec::Vec};

use aes_gcm::{AeadInOut, Aes256Gcm, KeyInit};

/// A request of REPORT type for `vmpl` as plaintext.
pub(crate) fn report_request(vmpl: u32, report_data: [u8; 64]) -> Vec<u8> {
    let mut payload = report_data.to_vec();
    payload.extend_from_slice(&vmpl.to_le_bytes());
    payload.extend_from_slice(&[0; 28]);
    payload
}

/// Encrypts a message of version 1.
pub(crate) fn seal(key: &[u8; 32], vmpck: u8, seqno: u64, msg_type: u8, payload: &[u8]) -> Box<[u8; 4096]> {
    seal_version(key, vmpck, seqno, (msg_type, 1), payload)
}

/// Encrypts a message of a given type and version.
pub(crate) fn seal_version(
    key: &[u8; 32],
    vmpck: u8,
    seqno: u64,
    (msg_type, msg_version): (u8, u8),
    payload: &[u8],
) -> Box<[u8; 4096]> {
    let [size_low, size_high] = u16::try_from(payload.len()).unwrap().to_le_bytes();
    let mut aad = [0; 48];
    aad[..8].copy_from_slice(&[1, 1, 0x60, 0, msg_type, msg_version, size_low, size_high]);
    aad[12] = vmpck;
    let mut text = payload.to_vec();
    let tag = Aes256Gcm::new(&(*key).into())
        .encrypt_inout_detached(&iv(seqno).into(), &aad, text.as_mut_slice().into())
        .unwrap();

    let mut page = Box::new([0; 4096]);
    page[0x00..0x10].copy_from_slice(&tag);
    page[0x20..0x28].copy_from_slice(&seqno.to_le_bytes());
    page[0x30..0x60].copy_from_slice(&aad);
    page[0x60..0x60 + text.len()].copy_from_slice(&text);
    page
}

/// Decrypts a response after checking number, key, type and version against what is expected.
pub(crate) fn open(key: &[u8; 32], vmpck: u8, seqno: u64, msg_type: u8, page: &[u8; 4096]) -> Option<Vec<u8>> {
    let size = usize::from(u16::from_le_bytes([page[0x36], page[0x37]]));
    let is_expected =
        page[0x20..0x28] == seqno.to_le_bytes() && page[0x30..0x35] == [1, 1, 0x60, 0, msg_type] && page[0x3c] == vmpck;
    let mut text = page[0x60..].get(..size)?.to_vec();
    let tag: [u8; 16] = page[..16].try_into().unwrap();
    let result = Aes256Gcm::new(&(*key).into()).decrypt_inout_detached(
        &iv(seqno).into(),
        &page[0x30..0x60],
        text.as_mut_slice().into(),
        &tag.into(),
    );
    (is_expected && result.is_ok()).then_some(text)
}

fn iv(seqno: u64) -> [u8; 12] {
    let mut iv = [0; 12];
    iv[..8].copy_from_slice(&seqno.to_le_bytes());
    iv
}
