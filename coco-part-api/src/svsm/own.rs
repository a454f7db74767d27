//! What the verbs need beside the SVSM protocol: one protocol of our own, found by QUERY_PROTOCOL.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::attest::REPORT_DATA;

/// Number of the protocol. Outside the vendor range that 58019 sets aside.
pub const PROTOCOL: u32 = 0x00c0_c000;
/// Its only version.
pub const VERSION: u32 = 1;

/// Call: who am I. Out: RCX the caller's level, RDX its vCPU, R8 the capabilities
/// ([`Capabilities::to_bits`](crate::Capabilities::to_bits)).
pub const IDENTIFY: u32 = 0;
/// Call: evidence for the caller's level. RCX: address of an [`AttestRequest`], 8-byte aligned and within one page. The
/// evidence is written to the page named in it. Out: RCX its length, RDX 1 when the hardware vouches for the level.
pub const ATTEST: u32 = 1;

/// Argument of [`ATTEST`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct AttestRequest {
    /// Page that receives the evidence, 4 KiB aligned and the caller's own.
    pub out: u64,
    /// The caller's nonce; evidence carries [`report_data`](crate::attest::report_data) over it with an empty manifest.
    pub nonce: [u8; REPORT_DATA],
}

const _: () = assert!(core::mem::offset_of!(AttestRequest, nonce) == 8);
const _: () = assert!(size_of::<AttestRequest>() == 72);
