//! Verdicts: a line for each check.

use alloc::vec::Vec;
use core::fmt;

use crate::evidence::{Product, ReportError, Tcb};

/// What was checked. The order is that of the lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Check {
    /// There is one certificate of each kind.
    Certificates,
    /// The root is one that is trusted.
    Root,
    /// The root's certificate is an authority's and signed by itself.
    Ark,
    /// The intermediate certificate is an authority's and signed by the root.
    Ask,
    /// The certificate of the signing key is signed by the intermediate one.
    Vek,
    /// All certificates are valid at the time.
    Validity,
    /// The bytes are a report.
    Report,
    /// Certificates and report are of one product.
    Product,
    /// The report says that it was signed by a key of this kind.
    SigningKey,
    /// The signature is that of the signing key.
    Signature,
    /// The signing key belongs to the platform version that the report names.
    KeyTcb,
    /// The signing key belongs to the chip that the report names.
    KeyChip,
    /// The platform version of the signing key is new enough.
    ReportedTcb,
    /// The platform version now running is new enough.
    CurrentTcb,
    /// The platform version that cannot be undercut is new enough.
    CommittedTcb,
    /// The platform version at launch is new enough.
    LaunchTcb,
    /// The level.
    Vmpl,
    /// No debugging.
    Debug,
    /// The launch policy is within the one that was given.
    Policy,
    /// Data of the request.
    ReportData,
    /// Launch digest.
    Measurement,
    /// Data of the host.
    HostData,
    /// The ID key.
    IdKey,
    /// Platform flags.
    Platform,
}

impl Check {
    /// The name of the line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Certificates => "certificates",
            Self::Root => "root",
            Self::Ark => "ark",
            Self::Ask => "ask",
            Self::Vek => "vek",
            Self::Validity => "validity",
            Self::Report => "report",
            Self::Product => "product",
            Self::SigningKey => "signing_key",
            Self::Signature => "signature",
            Self::KeyTcb => "key_tcb",
            Self::KeyChip => "key_chip",
            Self::ReportedTcb => "reported_tcb",
            Self::CurrentTcb => "current_tcb",
            Self::CommittedTcb => "committed_tcb",
            Self::LaunchTcb => "launch_tcb",
            Self::Vmpl => "vmpl",
            Self::Debug => "debug",
            Self::Policy => "policy",
            Self::ReportData => "report_data",
            Self::Measurement => "measurement",
            Self::HostData => "host_data",
            Self::IdKey => "id_key",
            Self::Platform => "platform",
        }
    }
}

/// Why a check refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// What it looks at is missing, because another check refused.
    Follows(Check),
    /// A certificate is not one that can be read.
    Unreadable {
        /// Its number in the chain as given, from 0.
        number: usize,
    },
    /// No certificate of this kind.
    Missing(&'static str),
    /// More than one certificate of this kind.
    Repeated(&'static str),
    /// The root is not trusted.
    UnknownRoot {
        /// SHA-256 of its subject public key info.
        key: [u8; 32],
    },
    /// The certificate that names the root cannot be read.
    UnreadableRoot,
    /// The certificate is not allowed to sign certificates, or it is and should not be.
    WrongRole,
    /// A critical extension that is not known here.
    CriticalExtension,
    /// Issuer and subject of two certificates do not fit.
    WrongIssuer,
    /// Another kind of key or signature than the vendor's.
    WrongAlgorithm,
    /// The signature is wrong.
    BadSignature,
    /// The bytes of the signature are no signature.
    MalformedSignature,
    /// Not valid yet.
    NotYetValid(&'static str),
    /// Not valid any more.
    Expired(&'static str),
    /// An extension is missing, there twice, or cannot be read.
    Extension(&'static str),
    /// The bytes are no report.
    Report(ReportError),
    /// Neither certificate nor report name a product that is known.
    UnknownProduct,
    /// Two products.
    Products(Product, Product),
    /// The report is signed by another kind of key, or by none.
    OtherKey {
        /// What the report says.
        signing_key: u32,
    },
    /// The host masks the chip's key: the report is not signed.
    Masked,
    /// A reserved byte of a platform version is not zero.
    ReservedTcb,
    /// The platform version of the key is another one than the report's.
    OtherTcb {
        /// What the certificate says.
        certificate: Tcb,
        /// What the report says.
        report: Tcb,
    },
    /// The chip of the key is another one than the report's.
    OtherChip,
    /// No minimum was given for the product, which is thus refused.
    ProductNotAllowed(Product),
    /// A part of the platform is older than allowed.
    TooOld {
        /// The part.
        part: &'static str,
        /// The platform version.
        is: Tcb,
    },
    /// Another level.
    OtherVmpl {
        /// The report's.
        is: u8,
    },
    /// Debugging is allowed.
    Debuggable,
    /// The policy allows more, or demands less.
    Policy {
        /// Name of the field.
        field: &'static str,
    },
    /// Another value.
    Differs,
    /// Platform flags are not set, or this version of the report does not have them.
    FlagsMissing {
        /// The bits.
        missing: u64,
    },
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Follows(check) => write!(f, "not checked, see {}", check.name()),
            Self::Unreadable { number } => write!(f, "certificate {} is not an X.509 certificate in DER", number + 1),
            Self::Missing(kind) => write!(f, "no {kind} certificate"),
            Self::Repeated(kind) => write!(f, "more than one {kind} certificate"),
            Self::UnknownRoot { key } => {
                f.write_str("root key with SHA-256 ")?;
                key.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
                f.write_str(" is not trusted")
            }
            Self::UnreadableRoot => f.write_str("the certificate that names the root cannot be read"),
            Self::WrongRole => f.write_str("wrong role: it is an authority and should not be, or the reverse"),
            Self::CriticalExtension => f.write_str("unknown critical extension"),
            Self::WrongIssuer => f.write_str("issuer is not the subject of the certificate above"),
            Self::WrongAlgorithm => f.write_str("key or signature of another kind than the vendor's"),
            Self::BadSignature => f.write_str("signature is wrong"),
            Self::MalformedSignature => f.write_str("bytes of the signature are not a signature"),
            Self::NotYetValid(kind) => write!(f, "{kind} certificate is not valid yet"),
            Self::Expired(kind) => write!(f, "{kind} certificate has expired"),
            Self::Extension(name) => write!(f, "extension {name} is missing or malformed"),
            Self::Report(error) => error.fmt(f),
            Self::UnknownProduct => f.write_str("product is not known"),
            Self::Products(one, other) => write!(f, "{one} and {other} are two products"),
            Self::OtherKey { signing_key } => {
                write!(f, "report names signing key {signing_key}, not that of the certificate")
            }
            Self::Masked => f.write_str("chip key is masked, so there is no signature"),
            Self::ReservedTcb => f.write_str("reserved byte of a platform version is not zero"),
            Self::OtherTcb { certificate, report } => {
                write!(f, "certificate is for {certificate}, report for {report}")
            }
            Self::OtherChip => f.write_str("certificate is for another chip"),
            Self::ProductNotAllowed(product) => write!(f, "no minimum is given for {product}"),
            Self::TooOld { part, is } => write!(f, "{part} is too old in {is}"),
            Self::OtherVmpl { is } => write!(f, "report is for VMPL{is}"),
            Self::Debuggable => f.write_str("policy allows debugging"),
            Self::Policy { field } => write!(f, "policy field {field} is laxer than allowed"),
            Self::Differs => f.write_str("another value than expected"),
            Self::FlagsMissing { missing } => write!(f, "flags {missing:#x} are not set"),
        }
    }
}

impl core::error::Error for Fault {}

/// What a check found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// As it should be.
    Passed,
    /// Nothing to check, for this reason. Does not refuse the report.
    Skipped(&'static str),
    /// Not as it should be.
    Refused(Fault),
}

impl From<Result<(), Fault>> for Outcome {
    fn from(result: Result<(), Fault>) -> Self {
        match result {
            Ok(()) => Self::Passed,
            Err(fault) => Self::Refused(fault),
        }
    }
}

/// One check and what it found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line {
    /// The check.
    pub check: Check,
    /// What it found.
    pub outcome: Outcome,
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.check.name();
        match self.outcome {
            Outcome::Passed => write!(f, "{name:<14} ok"),
            Outcome::Skipped(reason) => write!(f, "{name:<14} skipped: {reason}"),
            Outcome::Refused(fault) => write!(f, "{name:<14} REFUSED: {fault}"),
        }
    }
}

/// All checks of one report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    lines: Vec<Line>,
}

impl Verdict {
    pub(super) fn new(mut lines: Vec<Line>) -> Self {
        lines.sort_by_key(|line| line.check);
        Self { lines }
    }

    /// One line for each [`Check`], in their order.
    pub fn lines(&self) -> &[Line] {
        &self.lines
    }

    /// Whether no check refused.
    pub fn is_accepted(&self) -> bool {
        self.faults().next().is_none()
    }

    /// The checks that refused, and why.
    pub fn faults(&self) -> impl Iterator<Item = (Check, Fault)> {
        self.lines.iter().filter_map(|line| match line.outcome {
            Outcome::Refused(fault) => Some((line.check, fault)),
            _ => None,
        })
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.lines.iter().try_for_each(|line| writeln!(f, "{line}"))?;
        f.write_str(if self.is_accepted() { "verdict        accepted" } else { "verdict        REFUSED" })
    }
}
