//! Makes the certificate chain that vouches for the reports of the machine's security processor.
//!
//! Run it in release mode (RSA-4096 keys take minutes otherwise): `cargo run --release [folder]`. It writes `ark.der`,
//! `ask.der`, `vcek.der` and `TEST-KEY-vcek.key`, by default into the machine's own folder. The generator is seeded with
//! a constant, so the output is the same each time and every key in it is public: nothing may ever trust this chain.
//!
//! The chain has the form of AMD's: RSA-4096 for the two authorities, signatures RSA-PSS with SHA-384 and 48 bytes of
//! salt, a P-384 key at the end, and the extensions that name chip and security versions.
#![forbid(unsafe_code)]

use std::{error::Error, fs, path::Path};

use p384::SecretKey;
use rand_chacha::{ChaCha20Rng, rand_core::SeedableRng};
use rsa::{
    RsaPrivateKey, RsaPublicKey,
    pkcs8::EncodePublicKey,
    pss::SigningKey,
    sha2::Sha384,
    signature::{RandomizedSigner, SignatureEncoding},
};
use x509_cert::{
    Certificate, TbsCertificate, Version,
    der::{
        DateTime, Decode, Encode,
        asn1::{BitString, Ia5StringRef, OctetString, UtcTime},
        oid::ObjectIdentifier,
        referenced::OwnedToRef,
    },
    ext::{
        AsExtension, Extension,
        pkix::{
            AuthorityKeyIdentifier, BasicConstraints, KeyUsage, KeyUsages, SubjectKeyIdentifier,
        },
    },
    name::Name,
    serial_number::SerialNumber,
    spki::{DynSignatureAlgorithmIdentifier, SubjectPublicKeyInfoOwned},
    time::{Time, Validity},
};

#[allow(dead_code)]
#[path = "../../../machine/src/psp/platform.rs"]
mod platform;

type Outcome<T> = Result<T, Box<dyn Error>>;

/// Public on purpose: the keys are worthless.
const SEED: [u8; 32] = *b"coco-part TEST KEYS - worthless.";

const DEFAULT_FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../machine/src/psp/certs");

const KEY_NOTE: &str = "\
# TEST KEY, worthless: the private key of the model's VCEK, public on purpose. Never trust what it signs.
# P-384 scalar, big endian, hexadecimal. Made by conformance/tools/make-test-certs.
";

fn main() -> Outcome<()> {
    let folder = std::env::args()
        .nth(1)
        .unwrap_or_else(|| DEFAULT_FOLDER.into());
    let mut rng = ChaCha20Rng::from_seed(SEED);

    let ark = Authority::generate("coco-part TEST ARK - not AMD", &mut rng)?;
    let ask = Authority::generate("coco-part TEST ASK - not AMD", &mut rng)?;
    let vcek_key = SecretKey::random(&mut rng);
    let vcek_spki =
        SubjectPublicKeyInfoOwned::from_der(vcek_key.public_key().to_public_key_der()?.as_bytes())?;
    let vcek_name = name("coco-part TEST VCEK - not AMD")?;

    let ark_cert = ark.issue(
        1,
        &ark.name,
        &ark.spki,
        authority_extensions(&ark, &ark, None)?,
        &mut rng,
    )?;
    let ask_cert = ark.issue(
        2,
        &ask.name,
        &ask.spki,
        authority_extensions(&ask, &ark, Some(0))?,
        &mut rng,
    )?;
    let vcek_cert = ask.issue(3, &vcek_name, &vcek_spki, vcek_extensions()?, &mut rng)?;

    let folder = Path::new(&folder);
    fs::create_dir_all(folder)?;
    for (file, cert) in [
        ("ark.der", &ark_cert),
        ("ask.der", &ask_cert),
        ("vcek.der", &vcek_cert),
    ] {
        fs::write(folder.join(file), cert.to_der()?)?;
    }
    let scalar: String = vcek_key
        .to_bytes()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    fs::write(
        folder.join("TEST-KEY-vcek.key"),
        format!("{KEY_NOTE}{scalar}\n"),
    )?;

    println!("wrote the test chain to {}", folder.display());
    Ok(())
}

/// One of the two authorities of the chain.
struct Authority {
    name: Name,
    key: SigningKey<Sha384>,
    spki: SubjectPublicKeyInfoOwned,
}

impl Authority {
    fn generate(common_name: &str, rng: &mut ChaCha20Rng) -> Outcome<Self> {
        let key = RsaPrivateKey::new(rng, 4096)?;
        let spki = SubjectPublicKeyInfoOwned::from_der(
            RsaPublicKey::from(&key).to_public_key_der()?.as_bytes(),
        )?;
        Ok(Self {
            name: name(common_name)?,
            key: SigningKey::new(key),
            spki,
        })
    }

    fn issue(
        &self,
        serial: u8,
        subject: &Name,
        spki: &SubjectPublicKeyInfoOwned,
        extensions: Vec<Extension>,
        rng: &mut ChaCha20Rng,
    ) -> Outcome<Certificate> {
        let algorithm = self.key.signature_algorithm_identifier()?;
        let tbs_certificate = TbsCertificate {
            version: Version::V3,
            serial_number: SerialNumber::new(&[serial])?,
            signature: algorithm.clone(),
            issuer: self.name.clone(),
            validity: validity()?,
            subject: subject.clone(),
            subject_public_key_info: spki.clone(),
            issuer_unique_id: None,
            subject_unique_id: None,
            extensions: Some(extensions),
        };
        let signature = self
            .key
            .try_sign_with_rng(rng, &tbs_certificate.to_der()?)?;
        Ok(Certificate {
            tbs_certificate,
            signature_algorithm: algorithm,
            signature: BitString::from_bytes(&signature.to_vec())?,
        })
    }
}

fn authority_extensions(
    subject: &Authority,
    issuer: &Authority,
    path_len: Option<u8>,
) -> Outcome<Vec<Extension>> {
    let constraints = BasicConstraints {
        ca: true,
        path_len_constraint: path_len,
    };
    let usage = KeyUsage(KeyUsages::KeyCertSign | KeyUsages::CRLSign);
    let name = &subject.name;
    Ok(vec![
        SubjectKeyIdentifier::try_from(subject.spki.owned_to_ref())?.to_extension(name, &[])?,
        AuthorityKeyIdentifier::try_from(issuer.spki.owned_to_ref())?.to_extension(name, &[])?,
        constraints.to_extension(name, &[])?,
        usage.to_extension(name, &[])?,
    ])
}

/// What a verifier compares with the report: chip id and the security versions of REPORTED_TCB.
fn vcek_extensions() -> Outcome<Vec<Extension>> {
    let tcb = platform::REPORTED_TCB;
    let versions = [
        ("1.3.6.1.4.1.3704.1.3.1", tcb.boot_loader),
        ("1.3.6.1.4.1.3704.1.3.2", tcb.tee),
        ("1.3.6.1.4.1.3704.1.3.4", 0),
        ("1.3.6.1.4.1.3704.1.3.5", 0),
        ("1.3.6.1.4.1.3704.1.3.6", 0),
        ("1.3.6.1.4.1.3704.1.3.7", 0),
        ("1.3.6.1.4.1.3704.1.3.3", tcb.snp),
        ("1.3.6.1.4.1.3704.1.3.8", tcb.microcode),
    ];
    let mut extensions = vec![
        extension("1.3.6.1.4.1.3704.1.1", 0u8.to_der()?)?,
        extension(
            "1.3.6.1.4.1.3704.1.2",
            Ia5StringRef::new(platform::PRODUCT_NAME)?.to_der()?,
        )?,
    ];
    for (oid, version) in versions {
        extensions.push(extension(oid, version.to_der()?)?);
    }
    // The chip id stands there as bare bytes, without a DER header of its own.
    extensions.push(extension(
        "1.3.6.1.4.1.3704.1.4",
        platform::CHIP_ID.to_vec(),
    )?);
    Ok(extensions)
}

fn extension(oid: &str, value: Vec<u8>) -> Outcome<Extension> {
    Ok(Extension {
        extn_id: ObjectIdentifier::new(oid)?,
        critical: false,
        extn_value: OctetString::new(value)?,
    })
}

fn name(common_name: &str) -> Outcome<Name> {
    Ok(format!("CN={common_name},O=coco-part test keys").parse()?)
}

fn validity() -> Outcome<Validity> {
    let time = |year, month, day| -> Outcome<Time> {
        Ok(Time::UtcTime(UtcTime::from_date_time(DateTime::new(
            year, month, day, 0, 0, 0,
        )?)?))
    };
    Ok(Validity {
        not_before: time(2025, 1, 1)?,
        not_after: time(2049, 12, 31)?,
    })
}
