//! The conformance suite: cases by rule, results, and the run over a backend.
//!
//! A case is a function that makes worlds on a [`Bench`] and says what is wrong. Whatever it looks at itself, it fails
//! too when an oracle of the machine was violated at any step, when a program panicked, or when it claims to pass without
//! one instruction on its machine.

mod attest;
mod bench;
pub(crate) mod create;
pub mod guest_program;
pub(crate) mod hostile;
mod memory;
pub(crate) mod probe;
mod request;
pub mod run;
pub(crate) mod switch;
mod table;

pub use bench::{Bench, Check, Stop, ensure, same};
pub use run::{CaseReport, Outcome, Report, run};
pub use table::{Exception, exceptions};

use crate::platform::Platform;

/// What a case is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A rule of the contract under an honest host.
    Contract,
    /// A host that lies.
    HostileHost,
    /// A guest that attacks L1.
    HostileGuest,
    /// Two vCPUs at once.
    Concurrency,
    /// A bound on work.
    Bounds,
}

/// One case.
pub struct Case<P: Platform> {
    /// Stable id; begins with its rule.
    pub id: &'static str,
    /// The rule of the contract.
    pub rule: &'static str,
    /// Threats of the catalogue that it plays.
    pub threats: &'static [&'static str],
    /// What kind of case.
    pub kind: Kind,
    /// What must hold, in one sentence.
    pub text: &'static str,
    /// The case.
    pub run: fn(&mut Bench<P>) -> Check,
}

/// All cases for a backend: those of the contract, then its machine's own.
pub fn cases<P: Platform>() -> Vec<Case<P>> {
    let mut all = Vec::new();
    all.extend(memory::cases());
    all.extend(create::cases());
    all.extend(switch::cases());
    all.extend(request::cases());
    all.extend(attest::cases());
    all.extend(hostile::cases());
    all.extend(guest_program::cases());
    all.extend(P::own_cases());
    all
}
