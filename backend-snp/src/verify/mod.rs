//! Verifying evidence: who signed a report, on which platform, and whether it says what was wanted.
//!
//! A [`Verifier`] has a chain of certificates and [`Expectations`], every one of which has to be given: a verifier that
//! overlooks a field is one that accepts it (AT-05). It gives a [`Verdict`] with a line for each check, so that a refusal
//! names its reason and an acceptance what it rests on.
//!
//! What is proved by an accepted verdict: the holder of a key of the vendor's, made for a platform at least as new as
//! asked for, said all that the report says. What is not: which chip it was and whose
//! operator's, where a VLEK signed (see the line `signing_key`), that a certificate was not revoked (no revocation list is looked
//! at), that the report is fresh (that is for the caller's report data), and that its bytes are the only ones: with an
//! ECDSA signature `(r, s)`, `(r, -s)` is one as well, and anybody can make it. Do not use a report as a key of a table.
//!
//! Needs `alloc`. Source: 56860, fact table `attestation_report`.

mod certificate;
mod chain;
mod files;
mod judge;
mod roots;
mod verdict;

use alloc::vec::Vec;

use crate::abi::report::{GuestPolicy, PlatformInfo};
use crate::abi::vmpl::Vmpl;
use crate::evidence::{Product, Tcb};

pub use files::{FileError, certificates};
pub use roots::VENDOR_ROOTS;
pub use verdict::{Check, Fault, Line, Outcome, Verdict};

/// Which root a chain has to end in.
#[derive(Clone, Copy, Debug)]
pub enum Root<'a> {
    /// One of [`VENDOR_ROOTS`].
    Vendor,
    /// The root with the public key of this certificate (DER).
    Named(&'a [u8]),
}

/// A value that a report has to have, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted<T> {
    /// Exactly this one.
    Is(T),
    /// Whatever it is. Say so on purpose.
    Any,
}

/// What a report has to say to be accepted. No field has a default.
#[derive(Clone, Copy, Debug)]
pub struct Expectations<'a> {
    /// The root of trust.
    pub root: Root<'a>,
    /// Time at which the certificates have to be valid, in seconds since 1970.
    pub time_s: u64,
    /// Least platform version by product. A product that is not listed is refused. It applies to what runs, to what the
    /// signing key belongs to, to what cannot be undercut, and to what ran at launch.
    pub minimum: &'a [(Product, Tcb)],
    /// The level that the report has to name.
    pub vmpl: Vmpl,
    /// The most permissive policy. The report's allows nothing beyond it, demands all that it demands, and asks for at least
    /// its firmware version. A policy that allows debugging is refused in any case.
    pub policy: GuestPolicy,
    /// Data of the request: freshness, and what else the report binds.
    pub report_data: [u8; 64],
    /// Launch digest.
    pub measurement: Wanted<[u8; 48]>,
    /// Data of the host, given at launch.
    pub host_data: Wanted<[u8; 32]>,
    /// SHA-384 of the ID key; zeros for a launch without an ID block.
    pub id_key_digest: Wanted<[u8; 48]>,
    /// Platform flags that have to be set. A version without the flag is refused.
    pub platform: PlatformInfo,
}

/// A chain that was checked, ready for reports.
#[derive(Clone, Debug)]
pub struct Verifier<'a> {
    expectations: Expectations<'a>,
    chain: chain::Chain,
}

impl<'a> Verifier<'a> {
    /// Checks a chain: DER certificates in any order, told apart by what they are. Whatever is wrong with it every verdict
    /// says.
    pub fn new(chain: &[&[u8]], expectations: Expectations<'a>) -> Self {
        Self { chain: chain::Chain::check(chain, &expectations), expectations }
    }

    /// Judges a report.
    pub fn verify(&self, report: &[u8]) -> Verdict {
        let mut lines: Vec<Line> = self.chain.lines.clone();
        judge::report(report, self.chain.vek.as_ref(), &self.expectations, &mut lines);
        Verdict::new(lines)
    }
}
