//! Encryption of one message page and the checks on its answer. Works on private copies only.

use aes_gcm::{AeadInOut, Aes256Gcm, KeyInit};
use zerocopy::IntoBytes;

use super::exchange::Request;
use crate::abi::guest_request::{AeadAlgorithm, GuestMessage, MessageHeader};
use crate::abi::secrets::Vmpck;
use crate::abi::vmpl::Vmpl;
use crate::error::SnpError;

/// Bytes that every response payload has: status and reserved words.
const SHORTEST: usize = 0x20;

/// The numbers of a request and of its response, and of the key.
pub(super) struct Numbers {
    pub(super) request: u64,
    pub(super) response: u64,
    pub(super) key: u8,
}

impl Numbers {
    /// The two numbers after `last`; `None` when there are none.
    pub(super) fn after(last: u64, key: Vmpl) -> Option<Self> {
        let request = last.checked_add(1)?;
        Some(Self { request, response: request.checked_add(1)?, key: key.number() })
    }
}

/// Makes the page of a request from a page of zeros.
///
/// # Errors
/// [`SnpError::BufferTooSmall`] for a payload that does not fit.
pub(super) fn encrypt(
    key: &Vmpck,
    numbers: &Numbers,
    request: &Request<'_>,
    page: &mut GuestMessage,
) -> Result<(), SnpError> {
    let Request { kind, version, payload, .. } = *request;
    let too_small = SnpError::BufferTooSmall { needed: payload.len(), given: page.payload.len() };
    let GuestMessage { header, payload: text } = page;
    let text = text.get_mut(..payload.len()).ok_or(too_small)?;
    text.copy_from_slice(payload);
    header.msg_seqno = numbers.request;
    header.algo = AeadAlgorithm::AES_256_GCM;
    header.hdr_version = MessageHeader::VERSION;
    header.hdr_size = MessageHeader::SIZE;
    header.msg_type = kind;
    header.msg_version = version;
    header.msg_size = u16::try_from(payload.len()).map_err(|_| too_small)?;
    header.msg_vmpck = numbers.key;
    let tag = Aes256Gcm::new((&key.0).into())
        .encrypt_inout_detached(&header.iv().into(), header.additional_data(), text.into())
        .map_err(|_| too_small)?;
    for (byte, value) in header.authtag.iter_mut().zip(tag) {
        *byte = value;
    }
    Ok(())
}

/// Checks and decrypts a private copy of a response page; gives the length of the payload in `out`.
///
/// # Errors
/// [`SnpError::BadResponse`] for a header that does not answer this request, [`SnpError::NotAuthentic`].
pub(super) fn decrypt(
    key: &Vmpck,
    numbers: &Numbers,
    request: &Request<'_>,
    page: &mut GuestMessage,
    out: &mut [u8],
) -> Result<usize, SnpError> {
    let GuestMessage { header, payload } = page;
    let len = usize::from(header.msg_size);
    let checks = [
        (header.algo == AeadAlgorithm::AES_256_GCM, "algo"),
        (header.hdr_version == MessageHeader::VERSION, "hdr_version"),
        (header.hdr_size == MessageHeader::SIZE, "hdr_size"),
        (Some(header.msg_type.0) == request.kind.0.checked_add(1), "msg_type"),
        (header.msg_version == request.version, "msg_version"),
        (header.msg_seqno == numbers.response, "msg_seqno"),
        (header.msg_vmpck == numbers.key, "msg_vmpck"),
        ((SHORTEST..=out.len()).contains(&len), "msg_size"),
    ];
    if let Some((_, field)) = checks.into_iter().find(|(sound, _)| !sound) {
        return Err(SnpError::BadResponse { field });
    }
    let size = SnpError::BadResponse { field: "msg_size" };
    let (text, out) = (payload.get_mut(..len).ok_or(size)?, out.get_mut(..len).ok_or(size)?);
    let tag: &[u8; MessageHeader::TAG_LEN] = header.authtag.first_chunk().ok_or(SnpError::NotAuthentic)?;
    Aes256Gcm::new((&key.0).into())
        .decrypt_inout_detached(&header.iv().into(), header.additional_data(), text.into(), &(*tag).into())
        .map_err(|_| SnpError::NotAuthentic)?;
    out.copy_from_slice(text.as_bytes());
    Ok(len)
}
