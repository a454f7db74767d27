//! The chain: from a trusted root to the key that signs reports.

use alloc::vec::Vec;

use p384::ecdsa::VerifyingKey;
use x509_cert::der::Decode;
use x509_cert::der::asn1::Ia5StringRef;
use x509_cert::der::oid::ObjectIdentifier;

use super::certificate::{Certificate, Kind};
use super::verdict::{Check, Fault, Line};
use super::{Expectations, Root, VENDOR_ROOTS};
use crate::evidence::{Product, Tcb};

/// A chain that was checked.
#[derive(Clone, Debug)]
pub(super) struct Chain {
    pub(super) lines: Vec<Line>,
    /// The signing key as its certificate describes it, good or not.
    pub(super) vek: Option<Vek>,
}

/// Which key signs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum KeyOf {
    /// Of the chip with this id, VCEK; bytes beyond the product's length are zero.
    Chip([u8; 64]),
    /// Of the host's operator, VLEK.
    Operator,
}

/// The certificate of the signing key.
#[derive(Clone, Debug)]
pub(super) struct Vek {
    pub(super) key: Result<VerifyingKey, Fault>,
    /// Of the certificate, and of the root where that is the vendor's.
    pub(super) product: Result<Product, Fault>,
    pub(super) key_of: Result<KeyOf, Fault>,
    pub(super) tcb: Result<Tcb, Fault>,
}

impl Chain {
    pub(super) fn check(chain: &[&[u8]], expectations: &Expectations<'_>) -> Self {
        let mut lines = Vec::new();
        let mut say = |check, result: Result<(), Fault>| lines.push(Line { check, outcome: result.into() });
        let sorted = Sorted::of(chain);
        say(Check::Certificates, sorted.check());
        let missing = Fault::Follows(Check::Certificates);
        let [ark, ask, vek] = [&sorted.ark, &sorted.ask, &sorted.vek].map(|found| found.first().ok_or(missing));
        let root = ark.and_then(|ark| root_product(ark, expectations.root));
        say(Check::Root, root.map(|_| ()));
        say(Check::Ark, ark.and_then(|ark| ark.check_authority().and_then(|()| ark.check_issued_by(ark))));
        let is_issued = |lower: Result<&Certificate, Fault>, upper: Result<&Certificate, Fault>| {
            lower.and_then(|lower| lower.check_issued_by(upper?))
        };
        say(Check::Ask, ask.and_then(Certificate::check_authority).and_then(|()| is_issued(ask, ark)));
        say(Check::Vek, vek.and_then(Certificate::check_leaf).and_then(|()| is_issued(vek, ask)));
        let in_time =
            |found: Result<&Certificate, Fault>, kind: Kind| found?.check_time(expectations.time_s, kind.name());
        let times = [in_time(ark, Kind::Ark), in_time(ask, Kind::Ask), in_time(vek, Kind::Vek)];
        say(Check::Validity, times.into_iter().collect());
        let vek = vek.ok().map(|vek| Vek::of(vek, root.ok().flatten()));
        Self { lines, vek }
    }
}

/// Certificates by kind.
#[derive(Default)]
struct Sorted {
    ark: Vec<Certificate>,
    ask: Vec<Certificate>,
    vek: Vec<Certificate>,
    unreadable: Option<usize>,
}

impl Sorted {
    fn of(chain: &[&[u8]]) -> Self {
        let mut sorted = Self::default();
        for (number, der) in chain.iter().enumerate() {
            let Some((certificate, kind)) = Certificate::parse(der).and_then(|it| it.kind().map(|kind| (it, kind)))
            else {
                sorted.unreadable.get_or_insert(number);
                continue;
            };
            let place = match kind {
                Kind::Ark => &mut sorted.ark,
                Kind::Ask => &mut sorted.ask,
                Kind::Vek => &mut sorted.vek,
            };
            // The same certificate may come in two files.
            if !place.contains(&certificate) {
                place.push(certificate);
            }
        }
        sorted
    }

    fn check(&self) -> Result<(), Fault> {
        if let Some(number) = self.unreadable {
            return Err(Fault::Unreadable { number });
        }
        for (found, kind) in [(&self.ark, Kind::Ark), (&self.ask, Kind::Ask), (&self.vek, Kind::Vek)] {
            match found.len() {
                0 => return Err(Fault::Missing(kind.name())),
                1 => {}
                _ => return Err(Fault::Repeated(kind.name())),
            }
        }
        Ok(())
    }
}

/// Checks that the root is trusted; gives its product where that is known.
fn root_product(ark: &Certificate, root: Root<'_>) -> Result<Option<Product>, Fault> {
    let unknown = Fault::UnknownRoot { key: ark.key_hash() };
    match root {
        Root::Vendor => {
            let found = VENDOR_ROOTS.into_iter().find(|(_, key)| *key == ark.key_hash());
            found.map(|(product, _)| Some(product)).ok_or(unknown)
        }
        Root::Named(der) => {
            let named = Certificate::parse(der).ok_or(Fault::UnreadableRoot)?;
            if named.key_info() == ark.key_info() { Ok(None) } else { Err(unknown) }
        }
    }
}

/// An extension of the vendor's, 1.3.6.1.4.1.3704.1 and the rest.
const fn oid(rest: &str) -> ObjectIdentifier {
    const ARC: &str = "1.3.6.1.4.1.3704.1.";
    let mut text = [0; ARC.len() + 3];
    let (head, tail) = text.split_at_mut(ARC.len());
    head.copy_from_slice(ARC.as_bytes());
    let (tail, _) = tail.split_at_mut(rest.len());
    tail.copy_from_slice(rest.as_bytes());
    let (text, _) = text.split_at(ARC.len() + rest.len());
    match core::str::from_utf8(text) {
        Ok(text) => ObjectIdentifier::new_unwrap(text),
        Err(_) => panic!("an identifier is ASCII"),
    }
}

const PRODUCT_NAME: ObjectIdentifier = oid("2");
const BOOT_LOADER: ObjectIdentifier = oid("3.1");
const TEE: ObjectIdentifier = oid("3.2");
const SNP: ObjectIdentifier = oid("3.3");
const MICROCODE: ObjectIdentifier = oid("3.8");
const FMC: ObjectIdentifier = oid("3.9");
const HARDWARE_ID: ObjectIdentifier = oid("4");
const OPERATOR: ObjectIdentifier = oid("5");

/// Header of an OCTET STRING.
const OCTET_STRING: u8 = 0x04;

impl Vek {
    fn of(certificate: &Certificate, root: Option<Product>) -> Self {
        let own = product(certificate);
        let agreed = match (own, root) {
            (Ok(own), Some(root)) if own != root => Err(Fault::Products(own, root)),
            _ => own,
        };
        Self {
            key: certificate.report_key(),
            product: agreed,
            key_of: own.and_then(|product| key_of(certificate, product)),
            tcb: own.and_then(|product| tcb(certificate, product)),
        }
    }
}

fn product(certificate: &Certificate) -> Result<Product, Fault> {
    const NAME: &str = "productName";
    let bad = Fault::Extension(NAME);
    let value = certificate.extension(PRODUCT_NAME, NAME)?.ok_or(bad)?;
    let name = Ia5StringRef::from_der(value).map_err(|_| bad)?;
    Product::of_name(name.as_str()).ok_or(Fault::UnknownProduct)
}

fn tcb(certificate: &Certificate, product: Product) -> Result<Tcb, Fault> {
    let version = |oid, name| {
        let value = certificate.extension(oid, name)?.ok_or(Fault::Extension(name))?;
        u8::from_der(value).map_err(|_| Fault::Extension(name))
    };
    let fmc = match product {
        Product::Milan | Product::Genoa => None,
        Product::Turin => Some(version(FMC, "fmcSPL")?),
    };
    Ok(Tcb {
        fmc,
        boot_loader: version(BOOT_LOADER, "blSPL")?,
        tee: version(TEE, "teeSPL")?,
        snp: version(SNP, "snpSPL")?,
        microcode: version(MICROCODE, "ucodeSPL")?,
    })
}

/// The chip id stands there as bare bytes, or as an OCTET STRING.
fn key_of(certificate: &Certificate, product: Product) -> Result<KeyOf, Fault> {
    const NAME: &str = "hwID";
    let bad = Fault::Extension(NAME);
    let hardware = certificate.extension(HARDWARE_ID, NAME)?;
    let operator = certificate.extension(OPERATOR, "cspID")?;
    let value = match (hardware, operator) {
        (Some(value), None) => value,
        (None, Some(_)) => return Ok(KeyOf::Operator),
        _ => return Err(bad),
    };
    let len = product.chip_id_len();
    let value = match value {
        [OCTET_STRING, inner, rest @ ..] if usize::from(*inner) == len && rest.len() == len => rest,
        bare => bare,
    };
    let mut chip_id = [0; 64];
    match chip_id.get_mut(..len) {
        Some(place) if value.len() == len => place.copy_from_slice(value),
        _ => return Err(bad),
    }
    Ok(KeyOf::Chip(chip_id))
}
