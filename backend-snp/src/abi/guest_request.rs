//! The encrypted message between a level and the firmware.
//!
//! Source: 56860, `facts/guest_request.csv`. The host carries the messages: they are built in private memory, copied
//! out, and the answer is copied in before anything is checked.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, transmute_ref};

pub use super::firmware_status::{FirmwareStatus, GuestRequestStatus, VmmError};

codes! {
    /// Type of a message. An answer has the type of its request plus one.
    pub struct MessageType(u8) {
        /// CPUID check.
        CPUID_REQ = 1;
        /// Answer to it.
        CPUID_RSP = 2;
        /// Derived key, see [`KeyRequest`](super::guest_messages::KeyRequest).
        KEY_REQ = 3;
        /// Answer to it.
        KEY_RSP = 4;
        /// Attestation report, see [`ReportRequest`](super::guest_messages::ReportRequest).
        REPORT_REQ = 5;
        /// Answer to it.
        REPORT_RSP = 6;
        /// Export of the guest context.
        EXPORT_REQ = 7;
        /// Answer to it.
        EXPORT_RSP = 8;
        /// Import of the guest context.
        IMPORT_REQ = 9;
        /// Answer to it.
        IMPORT_RSP = 10;
        /// Absorbing of a guest context.
        ABSORB_REQ = 11;
        /// Answer to it.
        ABSORB_RSP = 12;
        /// Root key of the machine.
        VMRK_REQ = 13;
        /// Answer to it.
        VMRK_RSP = 14;
        /// Absorbing without migration agent.
        ABSORB_NOMA_REQ = 15;
        /// Answer to it.
        ABSORB_NOMA_RSP = 16;
        /// Secure TSC values, see [`TscInfoRequest`](super::guest_messages::TscInfoRequest).
        TSC_INFO_REQ = 17;
        /// Answer to it.
        TSC_INFO_RSP = 18;
    }
}

codes! {
    /// Encryption of a message.
    pub struct AeadAlgorithm(u8) {
        /// AES-256 in GCM, tag of 16 bytes.
        AES_256_GCM = 1;
    }
}

/// Head of a message. Bytes 0x30 to 0x5f are authenticated as additional data.
#[derive(Clone, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct MessageHeader {
    /// Tag in the first 16 bytes, then zero.
    pub authtag: [u8; 32],
    /// Message number.
    pub msg_seqno: u64,
    _reserved_0x28: [u8; 8],
    /// Encryption.
    pub algo: AeadAlgorithm,
    /// Version of the head, [`MessageHeader::VERSION`].
    pub hdr_version: u8,
    /// Size of the head in bytes, [`MessageHeader::SIZE`].
    pub hdr_size: u16,
    /// Type of the payload.
    pub msg_type: MessageType,
    /// Version of the payload.
    pub msg_version: u8,
    /// Size of the payload in bytes.
    pub msg_size: u16,
    _reserved_0x38: u32,
    /// Number of the key, 0 to 3.
    pub msg_vmpck: u8,
    _reserved_0x3d: [u8; 35],
}

layout! { MessageHeader: 0x60 {
    authtag @ 0x00,
    msg_seqno @ 0x20,
    _reserved_0x28 @ 0x28,
    algo @ 0x30,
    hdr_version @ 0x31,
    hdr_size @ 0x32,
    msg_type @ 0x34,
    msg_version @ 0x35,
    msg_size @ 0x36,
    _reserved_0x38 @ 0x38,
    msg_vmpck @ 0x3c,
    _reserved_0x3d @ 0x3d,
} }

impl MessageHeader {
    /// Version of the head.
    pub const VERSION: u8 = 1;
    /// Size of the head in bytes.
    pub const SIZE: u16 = 0x60;
    /// Size of the tag in bytes.
    pub const TAG_LEN: usize = 16;

    /// Returns the bytes that are authenticated as additional data.
    pub fn additional_data(&self) -> &[u8; 48] {
        let halves: &[[u8; 48]; 2] = transmute_ref!(self);
        let [_, authenticated] = halves;
        authenticated
    }

    /// Returns the initialisation vector: the message number and 4 zero bytes.
    pub const fn iv(&self) -> [u8; 12] {
        let [a, b, c, d, e, f, g, h] = self.msg_seqno.to_le_bytes();
        [a, b, c, d, e, f, g, h, 0, 0, 0, 0]
    }
}

/// A message page, 4096 bytes.
#[derive(Clone, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct GuestMessage {
    /// Head.
    pub header: MessageHeader,
    /// Payload, encrypted; `header.msg_size` bytes count.
    pub payload: [u8; 4000],
}

layout! { GuestMessage: 0x1000 {
    header @ 0x00,
    payload @ 0x60,
} }

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn additional_data_starts_at_the_algorithm() {
        let bytes: [u8; 0x60] = core::array::from_fn(|index| index as u8);
        let header = MessageHeader::read_from_bytes(&bytes).unwrap();
        assert_eq!(header.additional_data()[..], bytes[0x30..]);
        assert_eq!(header.iv(), [0x20, 0x21, 0x22, 0x23, 0x24, 0x25, 0x26, 0x27, 0, 0, 0, 0]);
    }
}
