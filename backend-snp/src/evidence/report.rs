//! One view of all versions of the report.

use core::fmt;

use zerocopy::{FromBytes, IntoBytes, transmute_ref};

use super::product::Product;
use crate::abi::report::{
    AttestationReport, GuestPolicy, KeyInfo, PlatformInfo, Signature, SignatureAlgorithm, SigningKey, TcbVersion,
};
use crate::abi::vmpl::Vmpl;

/// Bytes of a report.
const LEN: usize = size_of::<AttestationReport>();
/// Bytes that the signature covers.
const SIGNED: usize = core::mem::offset_of!(AttestationReport, signature);

/// Version of a report's layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ReportVersion {
    /// The first one in use.
    V2 = 2,
    /// Adds family, model and stepping of the processor.
    V3 = 3,
    /// Read as version 3.
    V4 = 4,
    /// Adds the mitigation vectors.
    V5 = 5,
}

/// Family, model and stepping, combined as CPUID has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Processor {
    /// Family.
    pub family: u8,
    /// Model.
    pub model: u8,
    /// Stepping.
    pub stepping: u8,
}

/// Vectors of mitigations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mitigations {
    /// At launch.
    pub launch: u64,
    /// Now.
    pub current: u64,
}

/// Version of the firmware's interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Firmware {
    /// Major version.
    pub major: u8,
    /// Minor version.
    pub minor: u8,
    /// Build.
    pub build: u8,
}

/// What is wrong with the bytes of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReportError {
    /// Too short or too long.
    Length {
        /// Bytes given.
        given: usize,
    },
    /// A version that is not known here.
    Version {
        /// The version.
        version: u32,
    },
    /// A field has a value that it cannot have.
    Field {
        /// Its name.
        field: &'static str,
    },
}

impl fmt::Display for ReportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Length { given } => write!(f, "a report has {LEN:#x} bytes, not {given:#x}"),
            Self::Version { version } => write!(f, "report version {version} is not known"),
            Self::Field { field } => write!(f, "report field {field} has a value that it cannot have"),
        }
    }
}

impl core::error::Error for ReportError {}

/// An attestation report of version 2 to 5. Its bytes are kept as they are.
#[derive(Clone, Debug)]
pub struct Report {
    raw: AttestationReport,
    version: ReportVersion,
    vmpl: Vmpl,
}

impl Report {
    /// Reads a report and checks what a signed report of a guest always is. Whether it is genuine is another question.
    ///
    /// # Errors
    /// [`ReportError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, ReportError> {
        let raw = AttestationReport::read_from_bytes(bytes).map_err(|_| ReportError::Length { given: bytes.len() })?;
        let version = match raw.version {
            2 => ReportVersion::V2,
            3 => ReportVersion::V3,
            4 => ReportVersion::V4,
            5 => ReportVersion::V5,
            version => return Err(ReportError::Version { version }),
        };
        let field = |field| ReportError::Field { field };
        // A report that the host asked for names no VMPL.
        let vmpl = u8::try_from(raw.vmpl).ok().and_then(|number| Vmpl::try_from(number).ok());
        let vmpl = vmpl.ok_or(field("vmpl"))?;
        let checks = [
            (raw.signature_algo == SignatureAlgorithm::ECDSA_P384_SHA384, "signature_algo"),
            (raw.policy.reserved_1() == 1, "policy"),
            (!raw.key_info.has_reserved_bits(), "key_info"),
            (SigningKey::KNOWN.iter().any(|(_, key)| key.0 == raw.key_info.signing_key()), "key_info"),
        ];
        match checks.into_iter().find(|(sound, _)| !sound) {
            Some((_, name)) => Err(field(name)),
            None => Ok(Self { raw, version, vmpl }),
        }
    }

    /// The bytes, all of them.
    pub fn as_bytes(&self) -> &[u8; LEN] {
        transmute_ref!(&self.raw)
    }

    /// The bytes that the signature covers.
    pub fn signed_bytes(&self) -> &[u8] {
        self.raw.as_bytes().get(..SIGNED).unwrap_or_default()
    }

    /// The signature.
    pub const fn signature(&self) -> &Signature {
        &self.raw.signature
    }

    /// Version of the layout.
    pub const fn version(&self) -> ReportVersion {
        self.version
    }

    /// The level that the request stated.
    pub const fn vmpl(&self) -> Vmpl {
        self.vmpl
    }

    /// Security version of the guest, from the ID block.
    pub const fn guest_svn(&self) -> u32 {
        self.raw.guest_svn
    }

    /// Launch policy.
    pub const fn policy(&self) -> GuestPolicy {
        self.raw.policy
    }

    /// Family id, from the ID block.
    pub const fn family_id(&self) -> &[u8; 16] {
        &self.raw.family_id
    }

    /// Image id, from the ID block.
    pub const fn image_id(&self) -> &[u8; 16] {
        &self.raw.image_id
    }

    /// A platform flag; `None` where this version does not have it.
    pub const fn platform_flag(&self, flag: PlatformInfo) -> Option<bool> {
        let since = if flag.intersects(PlatformInfo::TIO_EN) {
            ReportVersion::V5
        } else if flag.intersects(PlatformInfo::ALIAS_CHECK_COMPLETE) {
            ReportVersion::V3
        } else {
            ReportVersion::V2
        };
        if self.version as u32 >= since as u32 { Some(self.raw.platform_info.contains(flag)) } else { None }
    }

    /// What is said about keys.
    pub const fn key_info(&self) -> KeyInfo {
        self.raw.key_info
    }

    /// Which key signed.
    pub const fn signing_key(&self) -> SigningKey {
        SigningKey(self.raw.key_info.signing_key())
    }

    /// Data of the request.
    pub const fn report_data(&self) -> &[u8; 64] {
        &self.raw.report_data
    }

    /// Launch digest.
    pub const fn measurement(&self) -> &[u8; 48] {
        &self.raw.measurement
    }

    /// Data of the host, given at launch.
    pub const fn host_data(&self) -> &[u8; 32] {
        &self.raw.host_data
    }

    /// SHA-384 of the ID key; zero without an ID block.
    pub const fn id_key_digest(&self) -> &[u8; 48] {
        &self.raw.id_key_digest
    }

    /// SHA-384 of the author key, if there is one.
    pub const fn author_key_digest(&self) -> Option<&[u8; 48]> {
        if self.raw.key_info.author_key_en() == 1 { Some(&self.raw.author_key_digest) } else { None }
    }

    /// Id of this guest.
    pub const fn report_id(&self) -> &[u8; 32] {
        &self.raw.report_id
    }

    /// Id of the migration agent, if there is one.
    pub fn migration_agent(&self) -> Option<&[u8; 32]> {
        (self.raw.report_id_ma != [0xff; 32]).then_some(&self.raw.report_id_ma)
    }

    /// Platform version now running.
    pub const fn current_tcb(&self) -> TcbVersion {
        self.raw.current_tcb
    }

    /// Platform version that the signing key belongs to.
    pub const fn reported_tcb(&self) -> TcbVersion {
        self.raw.reported_tcb
    }

    /// Platform version that cannot be undercut any more.
    pub const fn committed_tcb(&self) -> TcbVersion {
        self.raw.committed_tcb
    }

    /// Platform version at launch or import.
    pub const fn launch_tcb(&self) -> TcbVersion {
        self.raw.launch_tcb
    }

    /// The processor. From version 3 on.
    pub fn processor(&self) -> Option<Processor> {
        let AttestationReport { cpuid_fam_id: family, cpuid_mod_id: model, cpuid_step: stepping, .. } = self.raw;
        (self.version >= ReportVersion::V3).then_some(Processor { family, model, stepping })
    }

    /// The product, where the report names the processor and the processor is known.
    pub fn product(&self) -> Option<Product> {
        self.processor().and_then(|processor| Product::of_processor(processor.family, processor.model))
    }

    /// Id of the chip; all zero when masked. See [`Product::chip_id_len`].
    pub const fn chip_id(&self) -> &[u8; 64] {
        &self.raw.chip_id
    }

    /// Firmware now running.
    pub const fn current_firmware(&self) -> Firmware {
        let AttestationReport { current_major: major, current_minor: minor, current_build: build, .. } = self.raw;
        Firmware { major, minor, build }
    }

    /// Firmware that cannot be undercut any more.
    pub const fn committed_firmware(&self) -> Firmware {
        let AttestationReport { committed_major: major, committed_minor: minor, committed_build: build, .. } = self.raw;
        Firmware { major, minor, build }
    }

    /// Mitigations. From version 5 on.
    pub fn mitigations(&self) -> Option<Mitigations> {
        let AttestationReport { launch_mit_vector: launch, current_mit_vector: current, .. } = self.raw;
        (self.version >= ReportVersion::V5).then_some(Mitigations { launch, current })
    }
}

#[cfg(test)]
mod tests;
