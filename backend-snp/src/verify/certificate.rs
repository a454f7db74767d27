//! One certificate, read once, and what is asked of it.

use alloc::vec::Vec;

use p384::ecdsa::VerifyingKey;
use rsa::PublicKey;
use rsa::pkcs8::DecodePublicKey;
use rsa::pss;
use rsa::signature::Verifier as _;
use rsa::traits::PublicKeyParts;
use sha2::{Digest, Sha256, Sha384};
use x509_cert::certificate::Certificate as X509;
use x509_cert::der::oid::ObjectIdentifier;
use x509_cert::der::{Decode, Encode, Reader, SliceReader};
use x509_cert::ext::Extension;
use x509_cert::ext::pkix::{BasicConstraints, KeyUsage};

use super::verdict::Fault;

const RSASSA_PSS: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.10");
const RSA_ENCRYPTION: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
const EC_PUBLIC_KEY: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
const SECP384R1: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.34");
const BASIC_CONSTRAINTS: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.19");
const KEY_USAGE: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.15");

/// Bits of the vendor's RSA keys.
const RSA_BITS: u32 = 4096;

/// What a certificate is, by its contents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Ark,
    Ask,
    /// VCEK or VLEK.
    Vek,
}

impl Kind {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Ark => "ARK",
            Self::Ask => "ASK",
            Self::Vek => "VCEK or VLEK",
        }
    }
}

/// A certificate that parsed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Certificate {
    parsed: X509,
    /// The signed bytes as they came.
    signed: Vec<u8>,
    key_info: Vec<u8>,
}

impl Certificate {
    pub(super) fn parse(der: &[u8]) -> Option<Self> {
        let parsed = X509::from_der(der).ok()?;
        let key_info = parsed.tbs_certificate().subject_public_key_info().to_der().ok()?;
        let mut reader = SliceReader::new(der).ok()?;
        let signed = reader
            .sequence(|inner| {
                let signed = inner.tlv_bytes()?.to_vec();
                inner.drain(inner.remaining_len())?;
                Ok::<_, x509_cert::der::Error>(signed)
            })
            .ok()?;
        Some(Self { parsed, signed, key_info })
    }

    /// An elliptic key is that of a report's signer; of the authorities the root issued itself.
    pub(super) fn kind(&self) -> Option<Kind> {
        let tbs = self.parsed.tbs_certificate();
        match tbs.subject_public_key_info().algorithm.oid {
            EC_PUBLIC_KEY => Some(Kind::Vek),
            RSA_ENCRYPTION if tbs.issuer() == tbs.subject() => Some(Kind::Ark),
            RSA_ENCRYPTION => Some(Kind::Ask),
            _ => None,
        }
    }

    /// SHA-256 of the subject public key info.
    pub(super) fn key_hash(&self) -> [u8; 32] {
        Sha256::digest(&self.key_info).into()
    }

    /// The subject public key info.
    pub(super) fn key_info(&self) -> &[u8] {
        &self.key_info
    }

    /// Checks that this certificate may sign others.
    pub(super) fn check_authority(&self) -> Result<(), Fault> {
        let constraints = self.standard::<BasicConstraints>(BASIC_CONSTRAINTS, "basicConstraints")?;
        let usage = self.standard::<KeyUsage>(KEY_USAGE, "keyUsage")?;
        let is_authority = constraints.is_some_and(|constraints| constraints.ca);
        if !is_authority || !usage.is_some_and(|usage| usage.key_cert_sign()) {
            return Err(Fault::WrongRole);
        }
        self.check_critical()
    }

    /// Checks that this certificate may not sign others.
    pub(super) fn check_leaf(&self) -> Result<(), Fault> {
        let constraints = self.standard::<BasicConstraints>(BASIC_CONSTRAINTS, "basicConstraints")?;
        let usage = self.standard::<KeyUsage>(KEY_USAGE, "keyUsage")?;
        if constraints.is_some_and(|constraints| constraints.ca) || usage.is_some_and(|usage| usage.key_cert_sign()) {
            return Err(Fault::WrongRole);
        }
        self.check_critical()
    }

    /// Checks that `authority` signed this certificate.
    pub(super) fn check_issued_by(&self, authority: &Self) -> Result<(), Fault> {
        let tbs = self.parsed.tbs_certificate();
        if tbs.issuer() != authority.parsed.tbs_certificate().subject() {
            return Err(Fault::WrongIssuer);
        }
        let algorithm = self.parsed.signature_algorithm();
        if algorithm.oid != RSASSA_PSS || algorithm != tbs.signature() {
            return Err(Fault::WrongAlgorithm);
        }
        let key = PublicKey::from_public_key_der(&authority.key_info).map_err(|_| Fault::WrongAlgorithm)?;
        if key.n().bit_width() != RSA_BITS {
            return Err(Fault::WrongAlgorithm);
        }
        let bytes = self.parsed.signature().as_bytes().ok_or(Fault::MalformedSignature)?;
        let signature = pss::Signature::try_from(bytes).map_err(|_| Fault::MalformedSignature)?;
        // The salt is as long as the hash.
        let key = pss::VerifyingKey::<Sha384>::new(key);
        key.verify(&self.signed, &signature).map_err(|_| Fault::BadSignature)
    }

    /// Checks that the certificate is valid at a time in seconds since 1970.
    pub(super) fn check_time(&self, time_s: u64, name: &'static str) -> Result<(), Fault> {
        let validity = self.parsed.tbs_certificate().validity();
        if time_s < validity.not_before.to_unix_duration().as_secs() {
            return Err(Fault::NotYetValid(name));
        }
        if time_s > validity.not_after.to_unix_duration().as_secs() {
            return Err(Fault::Expired(name));
        }
        Ok(())
    }

    /// The key that verifies reports.
    pub(super) fn report_key(&self) -> Result<VerifyingKey, Fault> {
        let info = self.parsed.tbs_certificate().subject_public_key_info();
        let curve = info.algorithm.parameters.as_ref().ok_or(Fault::WrongAlgorithm)?;
        let curve = curve.decode_as::<ObjectIdentifier>().map_err(|_| Fault::WrongAlgorithm)?;
        let point = info.subject_public_key.as_bytes().ok_or(Fault::WrongAlgorithm)?;
        if curve != SECP384R1 {
            return Err(Fault::WrongAlgorithm);
        }
        VerifyingKey::from_sec1_bytes(point).map_err(|_| Fault::WrongAlgorithm)
    }

    /// The value of an extension; `None` when there is none.
    ///
    /// # Errors
    /// [`Fault::Extension`] when there are two.
    pub(super) fn extension(&self, oid: ObjectIdentifier, name: &'static str) -> Result<Option<&[u8]>, Fault> {
        let mut found = self.extensions().filter(|extension| extension.extn_id == oid);
        let first = found.next();
        if found.next().is_some() {
            Err(Fault::Extension(name))
        } else {
            Ok(first.map(|found| found.extn_value.as_bytes()))
        }
    }

    fn standard<'a, T: Decode<'a>>(&'a self, oid: ObjectIdentifier, name: &'static str) -> Result<Option<T>, Fault> {
        let value = self.extension(oid, name)?;
        value.map(|value| T::from_der(value).map_err(|_| Fault::Extension(name))).transpose()
    }

    fn extensions(&self) -> impl Iterator<Item = &Extension> {
        self.parsed.tbs_certificate().extensions().into_iter().flatten()
    }

    fn check_critical(&self) -> Result<(), Fault> {
        let is_known = |extension: &Extension| matches!(extension.extn_id, BASIC_CONSTRAINTS | KEY_USAGE);
        let is_sound = self.extensions().all(|extension| !extension.critical || is_known(extension));
        if is_sound { Ok(()) } else { Err(Fault::CriticalExtension) }
    }
}
