//! Arguments, and what each subcommand does.

mod matrix;
pub(crate) mod output;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::figures;
use crate::mutants;
use crate::platform::Platform;
use crate::runner;
use crate::snp::Snp;
use crate::suite::run::{CaseReport, run_case, run_with};
use crate::suite::{Outcome, Report, cases};
use crate::world::Options;

/// Runs the coco-part conformance suite on the embedded machine models.
///
/// Without a subcommand every case runs on every backend, then every case on every mutant. The exit status is 0 when no
/// case failed and every mutant was noticed, 1 otherwise, 2 for wrong arguments.
#[derive(Debug, Parser)]
#[command(name = "conformance", version)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    selection: Selection,
}

/// Which cases run, and where the report goes.
#[derive(Debug, clap::Args)]
struct Selection {
    /// Only cases whose id, rule or threat contains this text
    #[arg(long, value_name = "TEXT")]
    filter: Option<String>,
    /// Only this backend
    #[arg(long, value_name = "NAME", value_parser = [Snp::NAME])]
    backend: Option<String>,
    /// Seed that decides which vCPU steps next
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    seed: u64,
    /// List the cases and end
    #[arg(long)]
    list: bool,
    /// Leave the mutants out; a filter does so too
    #[arg(long)]
    no_mutants: bool,
    /// Write the report as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show who ran when in one case: instructions, switches, host requests
    Trace {
        /// Id of the case
        case: String,
        /// Seed that decides which vCPU steps next
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// Print counted figures: world switches, instructions and flushes per piece of work
    Figures {
        /// Write them as JSON too
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
    },
}

/// The program.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // A program that panics is the result of its case, not news for the terminal.
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if !runner::is_in_program() {
            report(panic);
        }
    }));
    let done = match arguments.command {
        None => conformance(&arguments.selection),
        Some(Command::Trace { case, seed }) => trace::<Snp>(&case, seed),
        Some(Command::Figures { json }) => figures::print(json.as_deref()),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(complaint) => {
            eprintln!("conformance: {complaint}");
            ExitCode::from(2)
        }
    }
}

fn conformance(selection: &Selection) -> Result<bool, String> {
    let all = cases::<Snp>();
    let wanted = |id: &str, rule: &str, threats: &[&str]| {
        selection
            .filter
            .as_deref()
            .is_none_or(|text| id.contains(text) || rule == text || threats.iter().any(|threat| threat.contains(text)))
    };
    let chosen: Vec<_> = all.iter().filter(|case| wanted(case.id, case.rule, case.threats)).collect();
    if chosen.is_empty() {
        let filter = selection.filter.as_deref().unwrap_or_default();
        return Err(format!("no case matches `{filter}`; --list shows them"));
    }
    if selection.list {
        for case in chosen {
            println!("{:<36} {:<3} {:<22} {}", case.id, case.rule, case.threats.join(","), case.text);
        }
        return Ok(true);
    }

    if let Some(path) = &selection.json {
        output::check_writable(path)?;
    }
    let progress = output::progress(chosen.len() as u64, "cases");
    let mut report = Report::default();
    for case in &all {
        if chosen.iter().any(|wanted| wanted.id == case.id) {
            progress.set_message(case.id);
            report.cases.push(run_case(case, selection.seed));
            progress.inc(1);
        } else {
            report.cases.push(CaseReport {
                id: case.id,
                rule: case.rule,
                backend: Snp::NAME,
                result: Outcome::NotRun,
                reason: "left out by --filter".to_owned(),
                port_calls: 0,
                turns: 0,
            });
        }
    }
    progress.finish_and_clear();
    matrix::print(&report, &[Snp::NAME]);

    // A filter leaves out the cases that notice most mutants.
    let mutants = if selection.no_mutants || selection.filter.is_some() {
        Vec::new()
    } else {
        let progress = output::progress(Snp::mutants().len() as u64, "mutants");
        let mutants = mutants::run::<Snp>(&report, selection.seed, |name| {
            progress.set_message(name.to_owned());
            progress.inc(1);
        });
        progress.finish_and_clear();
        matrix::print_mutants(&mutants);
        mutants
    };
    if let Some(path) = &selection.json {
        output::write_json(path, &output::Whole { cases: &report.cases, mutants: &mutants })?;
    }
    Ok(report.is_good() && mutants.iter().all(|mutant| !mutant.killed_by.is_empty()))
}

fn trace<P: Platform>(id: &str, seed: u64) -> Result<bool, String> {
    let all = cases::<P>();
    let case =
        all.iter().find(|case| case.id == id).ok_or_else(|| format!("no case is called `{id}`; --list shows them"))?;
    let mut bench = crate::suite::Bench::new(Options { seed, trace: true, ..Options::default() });
    let check = (case.run)(&mut bench);
    println!("{}: {}", case.id, case.text);
    for line in &bench.record().trace {
        println!("{line}");
    }
    let report = run_with(case, Options { seed, ..Options::default() });
    println!(
        "result: {:?}{}",
        report.result,
        if report.reason.is_empty() { String::new() } else { format!(" ({})", report.reason) }
    );
    Ok(check.is_ok())
}
