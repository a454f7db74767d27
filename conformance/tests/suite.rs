//! The suite itself: it passes, it is reproducible, it can fail, and it covers what it says.

use std::collections::BTreeSet;
use std::sync::LazyLock;
use std::thread;

use conformance::mutants;
use conformance::platform::Platform;
use conformance::snp::Snp;
use conformance::suite::{CaseReport, Outcome, Report, cases, exceptions, run};

/// The seed of most tests.
const SEED: u64 = 1;

/// One run with it.
static REPORT: LazyLock<Report> = LazyLock::new(|| run::<Snp>(SEED));

/// Every rule of the contract.
const RULES: &[&str] = &[
    "M1", "M2", "M3", "M4", "M5", "M6", "M7", "V1", "V2", "V3", "V4", "S1", "S2", "S3", "S4", "A1", "A2", "A3", "H1",
    "H2", "H3",
];

/// Threats of the catalogue that some case has to play.
const THREATS: &[&str] = &[
    "SW-01", "SW-03", "SW-04", "SW-07", "SW-08", "PG-03", "PG-04", "PG-06", "PG-10", "PG-14", "PG-15", "PG-16",
    "PG-17", "PG-20", "PG-22", "RQ-01", "RQ-02", "RQ-03", "RQ-04", "RQ-05", "RQ-06", "RQ-07", "RQ-08", "RQ-09",
    "RQ-10", "RQ-11", "RQ-12", "RQ-13", "RQ-17", "VC-01", "VC-02", "VC-03", "VC-04", "VC-05", "VC-06", "VC-14",
    "GH-01", "GR-01", "GR-03", "GR-05", "GR-09", "CP-01", "CP-07",
];

/// Fewest cases that together notice the mutants, each being the first one to notice some.
const KILLERS: usize = 7;

/// What did not pass, a line each. What does not apply is right for the cases of the table, and for these alone.
fn failures(report: &Report) -> Vec<String> {
    let excepted = |case: &CaseReport| exceptions().iter().any(|row| row.applies(case.id, case.backend));
    let wanted = |case: &CaseReport| if excepted(case) { Outcome::NotApplicable } else { Outcome::Pass };
    let bad = report.cases.iter().filter(|case| case.result != wanted(case));
    bad.map(|case| format!("{} {:?}: {}", case.id, case.result, case.reason)).collect()
}

#[test]
fn every_case_passes_with_every_seed_and_one_seed_gives_one_report() {
    let seeds = [SEED, 2, 3];
    let reports: Vec<Report> = thread::scope(|scope| {
        let runs = seeds.map(|seed| scope.spawn(move || run::<Snp>(seed)));
        runs.into_iter().map(|run| run.join().expect("a run does not panic")).collect()
    });
    for (seed, report) in seeds.iter().zip(&reports) {
        assert_eq!(failures(report), Vec::<String>::new(), "seed {seed}");
        assert_eq!(report.cases.len(), cases::<Snp>().len());
        let idle = |case: &&CaseReport| case.result == Outcome::Pass && case.port_calls == 0;
        assert_eq!(report.cases.iter().filter(idle).count(), 0, "seed {seed}: a case ran nothing");
    }
    let json = |report| serde_json::to_vec(report).expect("a report is JSON");
    assert_eq!(json(&reports[0]), json(&*REPORT), "one seed gives two reports");
    assert_ne!(json(&reports[0]), json(&reports[1]), "the seed decides nothing");
}

#[test]
fn every_mutant_is_noticed_and_not_always_by_the_same_case() {
    let mutants = mutants::run::<Snp>(&REPORT, SEED, |_| ());
    assert_eq!(mutants.len(), Snp::mutants().len());
    let survivors: Vec<_> = mutants.iter().filter(|mutant| mutant.killed_by.is_empty()).map(|m| m.name).collect();
    assert!(survivors.is_empty(), "nobody notices {survivors:?}");
    let first: BTreeSet<_> = mutants.iter().filter_map(|mutant| mutant.killed_by.first()).collect();
    assert!(first.len() >= KILLERS, "only {first:?} notice anything first");
}

#[test]
fn every_rule_has_a_case_and_ids_are_unique_and_begin_with_their_rule() {
    let cases = cases::<Snp>();
    let mut ids = BTreeSet::new();
    for case in &cases {
        assert!(RULES.contains(&case.rule), "{} is for {}, which is no rule", case.id, case.rule);
        assert!(case.id.starts_with(&format!("{}-", case.rule)), "{} does not begin with {}", case.id, case.rule);
        assert!(ids.insert(case.id), "{} stands there twice", case.id);
        assert!(!case.text.is_empty());
    }
    let without: Vec<_> = RULES.iter().filter(|rule| !cases.iter().any(|case| case.rule == **rule)).collect();
    assert!(without.is_empty(), "no case for {without:?}");
}

#[test]
fn every_threat_that_has_to_be_played_is_played() {
    let played: BTreeSet<_> = cases::<Snp>().iter().flat_map(|case| case.threats).copied().collect();
    let missing: Vec<_> = THREATS.iter().filter(|threat| !played.contains(**threat)).collect();
    assert!(missing.is_empty(), "no case plays {missing:?}");
}
