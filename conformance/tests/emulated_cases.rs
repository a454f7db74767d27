//! The cases of a guest's side on the step machine: they pass, they can fail, and what they count is what it says.

use std::collections::BTreeSet;

use conformance::emulated::step::{Change, boot, policy};
use conformance::emulated::{Boot, CaseRun, LIMITS, Result, all, plan, read};
use conformance::snp::Snp;
use conformance::suite;

/// Runs the wanted cases on a VM with so many vCPUs.
fn run(vcpus: u8, change: &Change, wanted: impl Fn(&str) -> bool) -> Vec<CaseRun> {
    let boots = plan(vcpus, |about| wanted(about.id));
    boots.iter().flat_map(|one: &Boot| read(one, &boot(one, change))).collect()
}

fn failures(runs: &[CaseRun]) -> Vec<String> {
    let failed = runs.iter().filter(|run| run.result != Result::Pass);
    failed.map(|run| format!("{}: {:?}", run.about.id, run.result)).collect()
}

#[test]
fn every_case_passes_on_one_vcpu_in_both_variants_of_the_machine() {
    for variant in 0..2 {
        let runs = run(1, &Change { variant, ..Change::default() }, |_| true);
        assert_eq!(failures(&runs), [""; 0], "variant {variant}");
        assert!(runs.len() >= 50, "{} cases", runs.len());
    }
}

#[test]
fn every_case_passes_on_two_vcpus() {
    let runs = run(2, &Change::default(), |_| true);
    assert_eq!(failures(&runs), [""; 0]);
    assert_eq!(runs.len(), all().len());
}

#[test]
fn ids_are_unique_begin_with_their_rule_and_name_hosts_that_there_are() {
    let mut seen = BTreeSet::new();
    for about in all() {
        assert!(seen.insert(about.id), "{} twice", about.id);
        assert!(about.id.starts_with(&format!("{}-", about.rule)), "{}", about.id);
        assert!(policy(about.host).is_some(), "{}: host {}", about.id, about.host);
        assert!((1..=2).contains(&about.vcpus), "{}", about.id);
        assert!(!about.text.is_empty());
    }
    assert!(all().len() <= image_cases::MOST_CASES);
}

#[test]
fn every_limit_names_cases_that_there_are() {
    let of_guests = all().into_iter().map(|about| about.id);
    let ids: BTreeSet<&str> = suite::cases::<Snp>().iter().map(|case| case.id).chain(of_guests).collect();
    for limit in LIMITS {
        for case in limit.cases {
            assert!(ids.contains(case), "{}: there is no case {case}", limit.name);
        }
    }
}

#[test]
fn every_limit_stands_in_the_readme_of_the_emulator() {
    let readme = include_str!("../emulator/README.md");
    for limit in LIMITS {
        let row = readme.lines().find(|line| line.starts_with(&format!("| {} |", limit.name)));
        let row = row.unwrap_or_else(|| panic!("{} is not there", limit.name));
        assert!(limit.cases.iter().all(|case| row.contains(case)), "{row}");
    }
}

/// The counts up to a mark of a case: PVALIDATE, RMPADJUST, VMGEXIT, VMRUN.
fn counts(runs: &[CaseRun], id: &str, mark: u8) -> [u64; 4] {
    let run = runs.iter().find(|run| run.about.id == id).unwrap_or_else(|| panic!("no case {id}"));
    let (_, counts) = run.counts.iter().find(|(number, _)| *number == mark).unwrap_or_else(|| panic!("{run:?}"));
    [counts.pvalidate, counts.rmpadjust, counts.vmgexit, counts.vmrun]
}

#[test]
fn marks_count_what_is_executed_between_them() {
    let wanted = ["S1-calls-cost-the-same", "M2-validate-twice-ignored", "M1-range-outside-map", "M3-zero-2m"];
    let runs = run(1, &Change::default(), |id| wanted.contains(&id));
    // The mark itself is one exit, and the guest runs again after the one before.
    const MARK: [u64; 2] = [1, 1];
    let [exits, runs_of_mark] = MARK;
    assert_eq!(counts(&runs, "M1-range-outside-map", 2), [0, 0, exits, runs_of_mark]);
    // A call is an exit of the guest and one of L1, and L1 proves with one RMPADJUST that the caller stands still.
    assert_eq!(counts(&runs, "S1-calls-cost-the-same", 2), [0, 100, 200 + exits, 200 + runs_of_mark]);
    let [pvalidate, _, vmgexit, _] = counts(&runs, "M2-validate-twice-ignored", 2);
    assert_eq!((pvalidate, vmgexit), (0, 2 + exits));
    let [pvalidate, _, vmgexit, _] = counts(&runs, "M3-zero-2m", 2);
    assert_eq!((pvalidate, vmgexit), (1, 2 + exits));
}

#[test]
fn two_runs_count_the_same() {
    let wanted = |id: &str| id.starts_with("M3-") || id.starts_with("S2-");
    assert_eq!(run(1, &Change::default(), wanted), run(1, &Change::default(), wanted));
}

#[test]
fn cases_with_companions_have_boots_of_their_own() {
    let all = all();
    for boot in plan(2, |_| true) {
        assert!(boot.cases.iter().all(|case| all[*case].companions == boot.companions), "{boot:?}");
    }
}

/// Ids of the cases that fail with a defect of L1.
fn caught(defect: &'static str, vcpus: u8, wanted: impl Fn(&str) -> bool) -> Vec<&'static str> {
    let change = Change { defect: Some(defect), ..Change::default() };
    let runs = run(vcpus, &change, wanted);
    runs.iter().filter(|run| run.result != Result::Pass).map(|run| run.about.id).collect()
}

#[test]
fn a_monitor_with_a_defect_is_caught_by_a_named_case() {
    for (defect, id) in [
        ("zeroing-dropped", "M3-comes-back-zero"),
        ("level-not-checked", "V2-level-in-image"),
        ("pending-not-cleared", "S1-calls-cost-the-same"),
        ("revoke-dropped", "M7-denied-load-of-deposit"),
        ("pending-not-cleared", "S3-four-levels"),
    ] {
        assert_eq!(caught(defect, 1, |one| one == id), [id], "{defect}");
    }
}
