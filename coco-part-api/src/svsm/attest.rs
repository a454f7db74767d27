//! Protocol 1, attestation: requests, manifests, and the report data that binds them (fact table `svsm_protocol`, protocol 1).
//!
//! The report is one of L1's own level over [`ReportData`]. Where the hardware signs the level, nobody can take it for
//! evidence of another one; where it does not, the protocol must not be served (rule A1).

use sha2::{Digest, Sha512};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::attest::{DOMAIN_TAG, REPORT_DATA};
use crate::error::ErrorKind;

/// Version of the protocol that is spoken here.
pub const VERSION: u32 = 1;

/// Call: evidence over all services. RCX in: address of a [`ServicesRequest`], 8-byte aligned and within one page. Out: lengths
/// of the manifest (RCX), the certificates (RDX) and the report (R8), also where a buffer is too small.
pub const ATTEST_SERVICES: u32 = 0;
/// Call: evidence over one service. As [`ATTEST_SERVICES`], with a [`SingleRequest`].
pub const ATTEST_SINGLE_SERVICE: u32 = 1;

/// A GUID as it lies in memory: its first three fields little endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(transparent)]
pub struct Guid(pub [u8; 16]);

impl Guid {
    /// The GUID that is written `a-b-c-d`, with the last two groups as bytes.
    pub const fn new(a: u32, b: u16, c: u16, d: [u8; 8]) -> Self {
        let ([a0, a1, a2, a3], [b0, b1], [c0, c1]) = (a.to_le_bytes(), b.to_le_bytes(), c.to_le_bytes());
        let [d0, d1, d2, d3, d4, d5, d6, d7] = d;
        Self([a0, a1, a2, a3, b0, b1, c0, c1, d0, d1, d2, d3, d4, d5, d6, d7])
    }
}

/// The services manifest.
pub const MANIFEST: Guid = Guid::new(0x6384_9ebb, 0x3d92, 0x4670, [0xa1, 0xff, 0x58, 0xf9, 0xc9, 0x4b, 0x87, 0xbb]);
/// The vTPM service. Its manifest, version [`VTPM_MANIFEST`], is the public part of the endorsement key (TPMT_PUBLIC).
pub const VTPM_SERVICE: Guid = Guid::new(0xc476_f1eb, 0x0123, 0x45a5, [0x96, 0x41, 0xb4, 0xe7, 0xdd, 0xe5, 0xbf, 0xe3]);
/// The version of the vTPM's manifest that there is.
pub const VTPM_MANIFEST: u32 = 0;

/// Argument of [`ATTEST_SERVICES`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct ServicesRequest {
    /// Where the report goes; 4 KiB aligned.
    pub report_gpa: u64,
    /// Room there in bytes.
    pub report_size: u32,
    /// Zero.
    pub reserved_0x0c: u32,
    /// The nonce, any alignment, within one page.
    pub nonce_gpa: u64,
    /// Its length in bytes.
    pub nonce_size: u16,
    /// Zero.
    pub reserved_0x1a: [u8; 6],
    /// Where the manifest goes; 4 KiB aligned.
    pub manifest_gpa: u64,
    /// Room there in bytes.
    pub manifest_size: u32,
    /// Zero.
    pub reserved_0x2c: u32,
    /// Where certificates go; 4 KiB aligned.
    pub certificates_gpa: u64,
    /// Room there in bytes; 0 when none are wanted.
    pub certificates_size: u32,
    /// Zero.
    pub reserved_0x3c: u32,
}

const _: () = assert!(core::mem::offset_of!(ServicesRequest, report_size) == 0x08);
const _: () = assert!(core::mem::offset_of!(ServicesRequest, nonce_gpa) == 0x10);
const _: () = assert!(core::mem::offset_of!(ServicesRequest, nonce_size) == 0x18);
const _: () = assert!(core::mem::offset_of!(ServicesRequest, manifest_gpa) == 0x20);
const _: () = assert!(core::mem::offset_of!(ServicesRequest, manifest_size) == 0x28);
const _: () = assert!(core::mem::offset_of!(ServicesRequest, certificates_gpa) == 0x30);
const _: () = assert!(core::mem::offset_of!(ServicesRequest, certificates_size) == 0x38);
const _: () = assert!(size_of::<ServicesRequest>() == 0x40);

impl ServicesRequest {
    /// True when all reserved bytes are zero.
    pub const fn is_reserved_zero(&self) -> bool {
        let Self { reserved_0x0c, reserved_0x1a: [a, b, c, d, e, f], reserved_0x2c, reserved_0x3c, .. } = *self;
        reserved_0x0c | reserved_0x2c | reserved_0x3c == 0 && a | b | c | d | e | f == 0
    }
}

/// Argument of [`ATTEST_SINGLE_SERVICE`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct SingleRequest {
    /// As for all services.
    pub common: ServicesRequest,
    /// Which service.
    pub service_guid: Guid,
    /// Which version of its manifest.
    pub manifest_version: u32,
    /// Zero.
    pub reserved_0x54: u32,
}

const _: () = assert!(core::mem::offset_of!(SingleRequest, service_guid) == 0x40);
const _: () = assert!(core::mem::offset_of!(SingleRequest, manifest_version) == 0x50);
const _: () = assert!(size_of::<SingleRequest>() == 0x58);

/// Head of the services manifest. The entries follow, then the data of each service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct ManifestHeader {
    /// [`MANIFEST`].
    pub guid: Guid,
    /// Bytes of all of it.
    pub length: u32,
    /// How many services.
    pub count: u32,
}

const _: () = assert!(core::mem::offset_of!(ManifestHeader, length) == 0x10);
const _: () = assert!(core::mem::offset_of!(ManifestHeader, count) == 0x14);
const _: () = assert!(size_of::<ManifestHeader>() == 0x18);

/// One service in the manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct ManifestEntry {
    /// The service.
    pub guid: Guid,
    /// Where its data begins, from the start of the manifest.
    pub offset: u32,
    /// Bytes of its data.
    pub length: u32,
}

const _: () = assert!(core::mem::offset_of!(ManifestEntry, offset) == 0x10);
const _: () = assert!(core::mem::offset_of!(ManifestEntry, length) == 0x14);
const _: () = assert!(size_of::<ManifestEntry>() == 0x18);

/// Writes the services manifest into `out` and gives its length.
///
/// # Errors
/// `OutOfRange` when it does not fit.
pub fn write_manifest(services: &[(Guid, &[u8])], out: &mut [u8]) -> Result<usize, ErrorKind> {
    let entries = services.len().checked_mul(size_of::<ManifestEntry>()).ok_or(ErrorKind::OutOfRange)?;
    let data = size_of::<ManifestHeader>().checked_add(entries).ok_or(ErrorKind::OutOfRange)?;
    let sum = services.iter().try_fold(data, |sum, (_, data)| sum.checked_add(data.len()));
    let length = sum.ok_or(ErrorKind::OutOfRange)?;
    let number = |value: usize| u32::try_from(value).map_err(|_| ErrorKind::OutOfRange);
    let mut rest = out.get_mut(..length).ok_or(ErrorKind::OutOfRange)?;
    let header = ManifestHeader { guid: MANIFEST, length: number(length)?, count: number(services.len())? };
    rest = append(rest, header.as_bytes())?;
    let mut offset = data;
    for (guid, data) in services {
        let entry = ManifestEntry { guid: *guid, offset: number(offset)?, length: number(data.len())? };
        rest = append(rest, entry.as_bytes())?;
        offset = offset.saturating_add(data.len());
    }
    for (_, data) in services {
        rest = append(rest, data)?;
    }
    Ok(length)
}

fn append<'a>(out: &'a mut [u8], bytes: &[u8]) -> Result<&'a mut [u8], ErrorKind> {
    let (place, rest) = out.split_at_mut_checked(bytes.len()).ok_or(ErrorKind::OutOfRange)?;
    place.copy_from_slice(bytes);
    Ok(rest)
}

/// SHA-512 over nonce and manifest, in this order: the report data of the protocol. Fed in pieces, so that a nonce needs no
/// place of its own.
#[derive(Clone, Debug)]
pub struct ReportData {
    digest: Sha512,
    /// How much of [`DOMAIN_TAG`] the bytes so far are.
    tag: Option<usize>,
}

impl ReportData {
    /// Over nothing so far.
    pub fn new() -> Self {
        Self { digest: Sha512::new(), tag: Some(0) }
    }

    /// Goes on with these bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.tag = self.tag.and_then(|seen| {
            let left = DOMAIN_TAG.get(seen..)?;
            let common = left.len().min(bytes.len());
            (left.get(..common) == bytes.get(..common)).then_some(seen + common)
        });
        self.digest.update(bytes);
    }

    /// The 64 bytes.
    ///
    /// # Errors
    /// `InvalidArgument` for bytes that begin with [`DOMAIN_TAG`]: a guest could choose them so that L1 seems to have made
    /// [`report_data`](crate::report_data) of its own (rule A1).
    pub fn finish(self) -> Result<[u8; REPORT_DATA], ErrorKind> {
        if self.tag == Some(DOMAIN_TAG.len()) {
            return Err(ErrorKind::InvalidArgument);
        }
        Ok(self.digest.finalize().into())
    }
}

impl Default for ReportData {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::level::Level;

    #[test]
    fn a_guid_has_its_first_three_fields_in_little_endian() {
        assert_eq!(
            VTPM_SERVICE.0,
            [0xeb, 0xf1, 0x76, 0xc4, 0x23, 1, 0xa5, 0x45, 0x96, 0x41, 0xb4, 0xe7, 0xdd, 0xe5, 0xbf, 0xe3]
        );
    }

    #[test]
    fn a_manifest_tells_where_the_data_of_each_service_lies() {
        let services: [(Guid, &[u8]); 2] = [(VTPM_SERVICE, b"key"), (MANIFEST, b"more")];
        let mut out = [0xff; 0x60];
        assert_eq!(write_manifest(&services, &mut out), Ok(0x4f));
        let (header, rest) = ManifestHeader::read_from_prefix(&out).unwrap();
        assert_eq!((header.guid, header.length, header.count), (MANIFEST, 0x4f, 2));
        let (entry, _) = ManifestEntry::read_from_prefix(&rest[0x18..]).unwrap();
        assert_eq!((entry.guid, entry.offset, entry.length), (MANIFEST, 0x4b, 4));
        assert_eq!(&out[0x48..0x50], b"keymore\xff");
        assert_eq!(write_manifest(&[], &mut out), Ok(0x18));
        for short in [0, 0x17, 0x4e] {
            assert_eq!(write_manifest(&services, &mut out[..short]), Err(ErrorKind::OutOfRange));
        }
    }

    #[test]
    fn report_data_is_the_digest_of_nonce_and_manifest_in_whatever_pieces() {
        let of = |pieces: &[&[u8]]| {
            let mut data = ReportData::new();
            pieces.iter().for_each(|piece| data.update(piece));
            data.finish()
        };
        let plain: [u8; 64] = Sha512::digest(b"noncemanifest").into();
        assert_eq!(of(&[b"nonce", b"manifest"]), Ok(plain));
        assert_eq!(of(&[b"no", b"nce", b"", b"manifest"]), Ok(plain));
        assert!(of(&[]).is_ok());
    }

    #[test]
    fn nothing_that_begins_like_l1s_own_data_is_signed() {
        let forged = |at: usize| {
            let mut data = ReportData::new();
            data.update(&DOMAIN_TAG[..at]);
            data.update(&DOMAIN_TAG[at..]);
            data.update(&[Level::Monitor.number()]);
            data.finish()
        };
        for at in 0..=DOMAIN_TAG.len() {
            assert_eq!(forged(at), Err(ErrorKind::InvalidArgument));
        }
        let mut shorter = ReportData::new();
        shorter.update(&DOMAIN_TAG[..31]);
        assert!(shorter.clone().finish().is_ok());
        shorter.update(b"?");
        assert!(shorter.finish().is_ok());
    }
}
