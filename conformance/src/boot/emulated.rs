//! `cargo conformance emulated`: the cases of a guest's side in an image under the emulator, beside the step machine.

use std::path::PathBuf;

use super::programs::Programs;
use crate::cli::{matrix, output};
use crate::emulated::compare::{Depth, compare};
use crate::emulated::step::{self, Change};
use crate::emulated::{CaseRun, LIMITS, Result as CaseResult, all, plan, read};
use crate::suite::{CaseReport, Outcome, Report};

/// Column of the matrix.
pub(crate) const NAME: &str = "snp-emulated";

/// Which cases run, and where the report goes.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Number of vCPUs
    #[arg(long, value_name = "NUMBER", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=2))]
    cpus: u8,
    /// Only cases whose id or rule contains this text
    #[arg(long, value_name = "TEXT")]
    filter: Option<String>,
    /// Write the report as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Take this ELF file for the monitor, and do not build it; not in boots with programs beside the guest
    #[arg(long, value_name = "FILE")]
    monitor: Option<PathBuf>,
    /// Leave the step machine out: compare nothing
    #[arg(long)]
    no_comparison: bool,
    /// Print every line of every console
    #[arg(long)]
    verbose: bool,
}

/// Runs them. False if a case failed, or the two machines do not agree.
///
/// # Errors
/// One sentence: something does not build or start, or no case matches.
pub(crate) fn run(arguments: &Arguments) -> Result<bool, String> {
    let wanted =
        |id: &str, rule: &str| arguments.filter.as_deref().is_none_or(|text| id.contains(text) || rule == text);
    let boots = plan(arguments.cpus, |about| wanted(about.id, about.rule));
    if boots.is_empty() {
        let filter = arguments.filter.as_deref().unwrap_or_default();
        return Err(format!("no case matches `{filter}` on {} vCPUs", arguments.cpus));
    }
    if let Some(path) = &arguments.json {
        output::check_writable(path)?;
    }
    let programs = Programs::build(arguments.monitor.as_deref())?;
    let progress = output::progress(boots.len() as u64, NAME);
    let (mut emulated, mut stepped) = (Vec::new(), Vec::new());
    for boot in &boots {
        let lines = programs.prepare(boot)?.boot(None, |_| ())?;
        if arguments.verbose {
            lines.iter().for_each(|line| println!("{line}"));
        }
        emulated.extend(read(boot, &lines));
        if !arguments.no_comparison {
            stepped.extend(read(boot, &step::boot(boot, &Change::default())));
        }
        progress.inc(1);
    }
    progress.finish_and_clear();

    let report = report(&emulated, arguments.cpus, |id, rule| wanted(id, rule));
    if let Some(path) = &arguments.json {
        output::write_json(path, &output::Whole { cases: &report.cases, mutants: &[] })?;
    }
    matrix::print(&report, &[NAME]);
    let mut agree = true;
    if !arguments.no_comparison {
        let depth = if arguments.cpus == 1 { Depth::Counts } else { Depth::Results };
        let differences = compare(&emulated, &stepped, depth);
        agree = differences.is_empty();
        differences.iter().for_each(|difference| println!("DIFFERS {difference}"));
        let marks: usize = emulated.iter().map(|run| run.counts.len()).sum();
        let compared = match depth {
            Depth::Counts => format!("results and {marks} counts between marks"),
            Depth::Results => "results".to_owned(),
        };
        println!("step machine: {compared} compared, {} differences", differences.len());
    }
    Ok(report.is_good() && agree)
}

/// What the cases came to, as the matrix has it: those that ran, those that need more vCPUs, and those that the emulator
/// cannot show.
fn report(runs: &[CaseRun], cpus: u8, wanted: impl Fn(&str, &str) -> bool) -> Report {
    let row = |id, rule, result, reason, port_calls| CaseReport {
        id,
        rule,
        backend: NAME,
        result,
        reason,
        port_calls,
        turns: 0,
    };
    let mut cases: Vec<CaseReport> = runs
        .iter()
        .map(|run| {
            let calls = run.counts.iter().map(|(_, counts)| counts.pvalidate + counts.rmpadjust + counts.vmgexit).sum();
            let (result, reason) = match &run.result {
                CaseResult::Pass => (Outcome::Pass, String::new()),
                CaseResult::Fail(why) => (Outcome::Fail, why.clone()),
                CaseResult::NotRun(why) => (Outcome::NotRun, why.clone()),
            };
            row(run.about.id, run.about.rule, result, reason, calls)
        })
        .collect();
    for about in all() {
        if cases.iter().all(|case| case.id != about.id) {
            let why = if wanted(about.id, about.rule) {
                format!("needs {} vCPUs, there are {cpus}", about.vcpus)
            } else {
                "left out by --filter".to_owned()
            };
            cases.push(row(about.id, about.rule, Outcome::NotRun, why, 0));
        }
    }
    for limit in LIMITS {
        for id in limit.cases.iter().filter(|id| runs.iter().all(|run| run.about.id != **id)) {
            let rule = id.split('-').next().unwrap_or_default();
            cases.push(row(id, rule, Outcome::NotRun, format!("emulator limit {}", limit.name), 0));
        }
    }
    Report { cases }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_case_and_every_limit_has_a_row() {
        let report = report(&[], 1, |_, _| true);
        for about in all() {
            assert!(report.cases.iter().any(|case| case.id == about.id), "{}", about.id);
        }
        for limit in LIMITS {
            for id in limit.cases {
                let row = report.cases.iter().find(|case| case.id == *id).expect("a row");
                assert_eq!(
                    (row.result, row.reason.as_str()),
                    (Outcome::NotRun, format!("emulator limit {}", limit.name).as_str())
                );
            }
        }
    }
}
