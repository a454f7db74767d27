//! Runs cases and collects their reports.

use serde::Serialize;

use super::bench::{Bench, Stop};
use super::{Case, cases, table};
use crate::platform::Platform;
use crate::world::Options;

/// Result of a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Everything held.
    Pass,
    /// Something did not.
    Fail,
    /// The backend declares that it cannot do it.
    Unsupported,
    /// The vendor has no counterpart, by the table of exceptions.
    NotApplicable,
    /// Left out by the caller.
    NotRun,
}

/// What a case led to on one backend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CaseReport {
    /// Id of the case.
    pub id: &'static str,
    /// Its rule.
    pub rule: &'static str,
    /// The backend.
    pub backend: &'static str,
    /// Result.
    pub result: Outcome,
    /// Why, where there is something to say.
    pub reason: String,
    /// Instructions of the vendor that ran.
    pub port_calls: u64,
    /// Turns of its longest run.
    #[serde(skip)]
    pub turns: u64,
}

impl CaseReport {
    /// A case that somebody left out, and why.
    pub fn not_run<P: Platform>(case: &Case<P>, why: &str) -> Self {
        Self {
            id: case.id,
            rule: case.rule,
            backend: P::NAME,
            result: Outcome::NotRun,
            reason: why.to_owned(),
            port_calls: 0,
            turns: 0,
        }
    }
}

/// All of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Cases in the order of the suite.
    pub cases: Vec<CaseReport>,
}

impl Report {
    /// True when no case failed.
    pub fn is_good(&self) -> bool {
        self.cases.iter().all(|case| case.result != Outcome::Fail)
    }
}

/// Runs every case on a backend with this seed, in every variant of its machine.
pub fn run<P: Platform>(seed: u64) -> Report {
    let cases = cases::<P>();
    Report { cases: cases.iter().map(|case| run_case(case, seed)).collect() }
}

/// Runs one case in every variant of the machine. The first variant that does not pass decides.
pub fn run_case<P: Platform>(case: &Case<P>, seed: u64) -> CaseReport {
    let mut report = None;
    let (mut port_calls, mut turns) = (0, 0);
    for (variant, name) in P::VARIANTS.iter().enumerate() {
        let mut one = run_with(case, Options { seed, variant, ..Options::default() });
        port_calls += one.port_calls;
        turns = turns.max(one.turns);
        if one.result == Outcome::Fail {
            one.reason = format!("{name}: {}", one.reason);
        }
        if report.as_ref().is_none_or(|report: &CaseReport| report.result == Outcome::Pass) {
            report = Some(one);
        }
    }
    let mut report = report.unwrap_or_else(|| CaseReport {
        id: case.id,
        rule: case.rule,
        backend: P::NAME,
        result: Outcome::Fail,
        reason: "the platform names no variant of its machine".to_owned(),
        port_calls: 0,
        turns: 0,
    });
    (report.port_calls, report.turns) = (port_calls, turns);
    report
}

/// Runs one case once with these options.
pub fn run_with<P: Platform>(case: &Case<P>, options: Options<P>) -> CaseReport {
    let mut bench = Bench::new(options);
    let check = (case.run)(&mut bench);
    let record = bench.record();
    let (result, reason) = match check {
        Err(Stop::Wrong(text)) => (Outcome::Fail, text),
        Err(Stop::Unsupported(text)) => (Outcome::Unsupported, text),
        Err(Stop::NotApplicable) => match table::exceptions().iter().find(|row| row.applies(case.id, P::NAME)) {
            Some(row) => (Outcome::NotApplicable, row.reason.to_owned()),
            None => (Outcome::Fail, "not applicable here, but the table of exceptions has no row for it".to_owned()),
        },
        Ok(()) if !record.violations.is_empty() => (Outcome::Fail, record.violations.join("; ")),
        Ok(()) if record.port_calls == 0 => (Outcome::Fail, "no instruction ran on the machine".to_owned()),
        Ok(()) => (Outcome::Pass, String::new()),
    };
    CaseReport {
        id: case.id,
        rule: case.rule,
        backend: P::NAME,
        result,
        reason,
        port_calls: record.port_calls,
        turns: record.turns,
    }
}
