//! The matrix of cases by backends, as text.

use crate::mutants::MutantReport;
use crate::suite::{Outcome, Report};

/// Columns of a result.
const WIDTH: usize = 11;

/// Prints a row per case that ran with a column per backend, then the sums, then every failure with its reason.
pub(crate) fn print(report: &Report, backends: &[&str]) {
    let head: Vec<String> = backends.iter().map(|backend| format!("{backend:<WIDTH$}")).collect();
    println!("{:<40} {:<4} {}", "case", "rule", head.join(" ").trim_end());
    let mut ids: Vec<(&str, &str)> = Vec::new();
    for case in &report.cases {
        if !ids.iter().any(|(id, _)| *id == case.id) {
            ids.push((case.id, case.rule));
        }
    }
    let was_run = |id: &str| report.cases.iter().any(|case| case.id == id && case.result != Outcome::NotRun);
    for (id, rule) in ids.into_iter().filter(|(id, _)| was_run(id)) {
        let cells = backends.iter().map(|backend| {
            let cell = report.cases.iter().find(|case| case.id == id && case.backend == *backend);
            // A case of another vendor's machine.
            format!("{:<WIDTH$}", cell.map_or("-", |case| word(case.result)))
        });
        println!("{id:<40} {rule:<4} {}", cells.collect::<Vec<_>>().join(" ").trim_end());
    }
    for backend in backends {
        let count = |wanted: Outcome| {
            report.cases.iter().filter(|case| case.backend == *backend && case.result == wanted).count()
        };
        println!(
            "{backend}: {} passed, {} failed, {} unsupported, {} not applicable, {} not run",
            count(Outcome::Pass),
            count(Outcome::Fail),
            count(Outcome::Unsupported),
            count(Outcome::NotApplicable),
            count(Outcome::NotRun),
        );
    }
    for case in report.cases.iter().filter(|case| matches!(case.result, Outcome::Fail | Outcome::Unsupported)) {
        println!("{} {} on {}: {}", word(case.result), case.id, case.backend, case.reason);
    }
}

/// Prints which cases noticed each mutant.
pub(crate) fn print_mutants(mutants: &[MutantReport]) {
    println!();
    println!("{:<28} {:<7} {:<10} noticed by", "mutant", "backend", "of");
    for mutant in mutants {
        let killers = match mutant.killed_by.as_slice() {
            [] => "NOBODY".to_owned(),
            [one] => (*one).to_owned(),
            [first, rest @ ..] => format!("{first} and {} more", rest.len()),
        };
        println!("{:<28} {:<7} {:<10} {killers}", mutant.name, mutant.backend, mutant.of);
    }
    let noticed = mutants.iter().filter(|mutant| !mutant.killed_by.is_empty()).count();
    println!("{noticed} of {} mutants noticed", mutants.len());
}

const fn word(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Pass => "pass",
        Outcome::Fail => "FAIL",
        Outcome::Unsupported => "unsupported",
        Outcome::NotApplicable => "n/a",
        Outcome::NotRun => "not run",
    }
}
