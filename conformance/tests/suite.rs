//! The suite itself: on every machine it passes, it is reproducible, it can fail, and it covers what it says.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::LazyLock;
use std::{fs, thread};

use conformance::mutants;
use conformance::platform::Platform;
use conformance::snp::Snp;
use conformance::suite::{CaseReport, Exception, Outcome, Report, cases, exceptions, run};
use conformance::table;
use conformance::tdx::Tdx;

/// The seed of most tests.
const SEED: u64 = 1;

/// One run with it on each machine.
static ON_SNP: LazyLock<Report> = LazyLock::new(|| run::<Snp>(SEED));
static ON_TDX: LazyLock<Report> = LazyLock::new(|| run::<Tdx>(SEED));

/// Every rule of the contract.
const RULES: &[&str] = &[
    "M1", "M2", "M3", "M4", "M5", "M6", "M7", "V1", "V2", "V3", "V4", "S1", "S2", "S3", "S4", "A1", "A2", "A3", "H1",
    "H2", "H3",
];

/// Threats of the catalogue that some case has to play on SNP.
const THREATS: &[&str] = &[
    "SW-01", "SW-03", "SW-04", "SW-07", "SW-08", "PG-03", "PG-04", "PG-06", "PG-10", "PG-14", "PG-15", "PG-16",
    "PG-17", "PG-20", "PG-22", "RQ-01", "RQ-02", "RQ-03", "RQ-04", "RQ-05", "RQ-06", "RQ-07", "RQ-08", "RQ-09",
    "RQ-10", "RQ-11", "RQ-12", "RQ-13", "RQ-17", "VC-01", "VC-02", "VC-03", "VC-04", "VC-05", "VC-06", "VC-14",
    "GH-01", "GR-01", "GR-03", "GR-05", "GR-09", "CP-01", "CP-07",
];

/// Threats that some case has to play on TDX.
const TDX_THREATS: &[&str] =
    &["TD-01", "TD-02", "TD-03", "TD-04", "TD-05", "TD-06", "TD-07", "TD-10", "TD-12", "TD-13", "TD-18", "SW-14"];

/// Cases of what a backend declares that it cannot do, with that backend.
const UNSUPPORTED: &[(&str, &str)] = &[("M6-rescind-unassigned", Tdx::NAME)];

/// Fewest cases that together notice the mutants of a machine, each being the first one to notice some.
const KILLERS: usize = 7;

/// The fact tables of each vendor, from the root of the workspace.
const FACTS: &[(&str, &str)] = &[(Snp::NAME, "backend-snp/facts"), (Tdx::NAME, "backend-tdx-stub/facts")];

/// What did not pass, a line each. What does not apply is right for the cases of the table, what is unsupported for those of
/// [`UNSUPPORTED`], and for these alone.
fn failures(report: &Report) -> Vec<String> {
    let wanted = |case: &CaseReport| {
        if exceptions().iter().any(|row| row.applies(case.id, case.backend)) {
            Outcome::NotApplicable
        } else if UNSUPPORTED.contains(&(case.id, case.backend)) {
            Outcome::Unsupported
        } else {
            Outcome::Pass
        }
    };
    let bad = report.cases.iter().filter(|case| case.result != wanted(case));
    bad.map(|case| format!("{} {:?}: {}", case.id, case.result, case.reason)).collect()
}

fn every_case_passes<P: Platform>(known: &Report) {
    let seeds = [SEED, 2, 3];
    let reports: Vec<Report> = thread::scope(|scope| {
        let runs = seeds.map(|seed| scope.spawn(move || run::<P>(seed)));
        runs.into_iter().map(|run| run.join().expect("a run does not panic")).collect()
    });
    for (seed, report) in seeds.iter().zip(&reports) {
        assert_eq!(failures(report), Vec::<String>::new(), "seed {seed}");
        assert_eq!(report.cases.len(), cases::<P>().len());
        let idle = |case: &&CaseReport| case.result == Outcome::Pass && case.port_calls == 0;
        assert_eq!(report.cases.iter().filter(idle).count(), 0, "seed {seed}: a case ran nothing");
    }
    let json = |report| serde_json::to_vec(report).expect("a report is JSON");
    assert_eq!(json(&reports[0]), json(known), "one seed gives two reports");
    assert_ne!(json(&reports[0]), json(&reports[1]), "the seed decides nothing");
}

#[test]
fn on_snp_every_case_passes_with_every_seed_and_one_seed_gives_one_report() {
    every_case_passes::<Snp>(&ON_SNP);
}

#[test]
fn on_tdx_every_case_passes_with_every_seed_and_one_seed_gives_one_report() {
    every_case_passes::<Tdx>(&ON_TDX);
}

/// The README's table is made by `cargo conformance table` from the JSON report of a run.
#[test]
fn the_readme_says_what_works_on_what_as_the_report_does() {
    let cases: Vec<_> = ON_SNP.cases.iter().chain(&ON_TDX.cases).collect();
    let table = table::markdown(&serde_json::json!({ "cases": cases }).to_string()).expect("a report");
    let readme = include_str!("../../README.md");
    // Every one of them is noticed, or another test fails.
    let [snp, tdx] = [Snp::mutants().len(), Tdx::mutants().len()];
    let table = format!("{table}| deliberate defects noticed | {snp} of {snp} | {tdx} of {tdx} |\n");
    let missing: Vec<_> = table.lines().filter(|line| !readme.lines().any(|known| known == *line)).collect();
    assert!(missing.is_empty(), "README lacks these rows of the table:\n{}", missing.join("\n"));
}

#[test]
fn on_tdx_most_cases_apply_and_few_are_unsupported() {
    let count = |wanted| ON_TDX.cases.iter().filter(|case| case.result == wanted).count();
    assert!(count(Outcome::Pass) >= 30, "{} pass", count(Outcome::Pass));
    assert!(count(Outcome::Unsupported) <= 5, "{} are unsupported", count(Outcome::Unsupported));
}

/// The mutants of a backend by what they are defects of, each of which some case has to notice.
fn every_mutant_is_noticed<P: Platform>(report: &Report) -> Vec<&'static str> {
    let mutants = mutants::run::<P>(report, SEED, 1, |_| ());
    assert_eq!(mutants.len(), P::mutants().len());
    let survivors: Vec<_> = mutants.iter().filter(|mutant| mutant.killed_by.is_empty()).map(|m| m.name).collect();
    assert!(survivors.is_empty(), "nobody notices {survivors:?}");
    let first: BTreeSet<_> = mutants.iter().filter_map(|mutant| mutant.killed_by.first()).collect();
    assert!(first.len() >= KILLERS, "only {first:?} notice anything first");
    mutants.iter().map(|mutant| mutant.of).collect()
}

#[test]
fn on_snp_every_mutant_is_noticed_and_not_always_by_the_same_case() {
    every_mutant_is_noticed::<Snp>(&ON_SNP);
}

#[test]
fn on_tdx_every_mutant_is_noticed_and_not_always_by_the_same_case() {
    let of = every_mutant_is_noticed::<Tdx>(&ON_TDX);
    assert!(of.len() >= 16, "{} mutants", of.len());
    assert!(of.iter().filter(|of| **of == "backend").count() >= 5, "defects of {of:?}");
}

/// The cases of a platform by their ids, checked one by one: rule and text.
fn by_id<P: Platform>() -> BTreeMap<&'static str, (&'static str, &'static str)> {
    let mut ids = BTreeMap::new();
    for case in cases::<P>() {
        assert!(RULES.contains(&case.rule), "{} is for {}, which is no rule", case.id, case.rule);
        assert!(case.id.starts_with(&format!("{}-", case.rule)), "{} does not begin with {}", case.id, case.rule);
        assert!(!case.text.is_empty(), "{} says nothing", case.id);
        assert!(ids.insert(case.id, (case.rule, case.text)).is_none(), "{} stands there twice", case.id);
    }
    let without: Vec<_> = RULES.iter().filter(|rule| !ids.values().any(|(known, _)| known == *rule)).collect();
    assert!(without.is_empty(), "{}: no case for {without:?}", P::NAME);
    ids
}

#[test]
fn every_rule_has_a_case_and_an_id_means_the_same_on_every_machine() {
    let (snp, tdx) = (by_id::<Snp>(), by_id::<Tdx>());
    let shared: Vec<_> = snp.keys().filter(|id| tdx.contains_key(*id)).collect();
    assert!(shared.len() >= 45, "{} cases run on both", shared.len());
    for id in shared {
        assert_eq!(snp[id], tdx[id], "{id}");
    }
}

#[test]
fn every_exception_names_a_case_its_rule_and_a_fact_of_its_vendor() {
    let all = [(Snp::NAME, by_id::<Snp>()), (Tdx::NAME, by_id::<Tdx>())];
    let mut seen = BTreeSet::new();
    for row in exceptions() {
        let Exception { case, rule, vendor, fact, reason } = *row;
        let (_, ids) = all.iter().find(|(name, _)| *name == vendor).unwrap_or_else(|| panic!("no vendor {vendor}"));
        let (known, _) = ids.get(case).unwrap_or_else(|| panic!("{vendor} has no case {case}"));
        assert_eq!(rule, *known, "{case}");
        assert!(!reason.is_empty(), "{case} gives no reason");
        assert!(seen.insert((case, vendor)), "{case} is excepted twice for {vendor}");
        assert!(fact_ids(vendor).contains(fact), "{case}: no fact of {vendor} is called {fact}");
    }
}

/// What the facts of a vendor are called: the first two columns of its tables.
fn fact_ids(vendor: &str) -> BTreeSet<String> {
    let (_, folder) = FACTS.iter().find(|(name, _)| *name == vendor).expect("every vendor has tables");
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(folder);
    let files = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let paths = files.map(|file| file.expect("a readable folder").path());
    let tables = paths.filter(|path| path.extension().is_some_and(|extension| extension == "csv"));
    let mut ids = BTreeSet::new();
    for path in tables {
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        ids.extend(text.lines().skip(1).flat_map(|row| row.split(',').take(2)).map(str::to_owned));
    }
    ids
}

/// Demands that the cases of a platform play these threats.
fn plays<P: Platform>(threats: &[&str]) {
    let played: BTreeSet<_> = cases::<P>().iter().flat_map(|case| case.threats).copied().collect();
    let missing: Vec<_> = threats.iter().filter(|threat| !played.contains(**threat)).collect();
    assert!(missing.is_empty(), "{}: no case plays {missing:?}", P::NAME);
}

#[test]
fn every_threat_that_has_to_be_played_is_played() {
    plays::<Snp>(THREATS);
    plays::<Tdx>(TDX_THREATS);
}
