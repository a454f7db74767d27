//! Arguments, and what each subcommand does.

pub(crate) mod matrix;
pub(crate) mod output;
mod verify;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::boot::{self, run::Trouble};
use crate::figures::{
    self,
    instructions::{Job, Vendor, Work},
};
use crate::mutants;
use crate::platform::Platform;
use crate::runner;
use crate::snp::{Snp, igvm, replay};
use crate::suite::run::{CaseReport, run_case, run_with};
use crate::suite::{Case, Report, cases};
use crate::table;
use crate::tdx::Tdx;
use crate::threats;
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
    #[arg(long, value_name = "NAME", value_parser = [Snp::NAME, Tdx::NAME])]
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
        /// On which backend
        #[arg(long, value_name = "NAME", value_parser = [Snp::NAME, Tdx::NAME], default_value = Snp::NAME)]
        backend: String,
        /// Seed that decides which vCPU steps next
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// Print what an unmodified Linux guest asks for and is answered: a replay of its source
    Replay {
        /// Seed that decides which vCPU steps next
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Write the list to a file, too
        #[arg(long, value_name = "FILE")]
        write: Option<PathBuf>,
    },
    /// Print the table "what works on what" of README.md from the JSON report of a run
    Table {
        /// The report, as a run with --json wrote it
        #[arg(long, value_name = "FILE")]
        json: PathBuf,
    },
    /// Print which case plays which threat of the catalogue: the text of threats.md
    Threats,
    /// Print counted figures: world switches, instructions and flushes per piece of work
    Figures {
        /// Write them as JSON too
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
    },
    /// Verify an attestation report: a line for each check, exit status 0 only if every one passes
    Verify(Box<verify::Arguments>),
    /// Print the launch digest of an IGVM file for SNP, and its pages by type
    ///
    /// The exit status is 1 if an ID block in the file expects another digest, 2 if it is no such file.
    Measure {
        /// The file
        file: PathBuf,
    },
    /// Build monitor and guest as one IGVM file for SNP; print its launch digest and sizes
    Image(boot::image::Arguments),
    /// Boot monitor and guest under the emulator in QEMU, without KVM, and verify the guest's report
    ///
    /// The exit status is 0 if the guest's result is 0, its report is right and no rule of the machine was broken, 1 if not,
    /// 2 if nothing ran, 3 if the guest ended without a result, 4 if it did not get on and was ended, 5 if QEMU or the
    /// emulator failed or was interrupted.
    Boot(boot::run::Arguments),
    /// Run the cases of a guest's side under the emulator, with real instructions, and compare them with the step machine
    ///
    /// The exit status is 0 if no case failed and both agree, 1 if not, 2 if nothing ran.
    Emulated(boot::emulated::Arguments),
    /// Print what the emulator costs beside the step machine: requests and calls per second, the monitor's instructions per
    /// call, and the time to the first instruction of a guest
    Rates(boot::rates::Arguments),
    /// Do a piece of work whose instructions `figures` has counted
    #[command(hide = true)]
    Count {
        /// What to do
        work: Work,
        /// On which backend
        vendor: Vendor,
        /// Entries of its list, or pages
        entries: u64,
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
        Some(Command::Trace { case, backend, seed }) => match backend.as_str() {
            Tdx::NAME => trace::<Tdx>(&case, seed),
            _ => trace::<Snp>(&case, seed),
        },
        Some(Command::Replay { seed, write }) => replay::print(seed, write.as_deref()),
        Some(Command::Table { json }) => print_table(&json),
        Some(Command::Threats) => {
            print!("{}", threats::markdown());
            Ok(true)
        }
        Some(Command::Figures { json }) => figures::print(json.as_deref()),
        Some(Command::Verify(arguments)) => verify::run(&arguments),
        Some(Command::Measure { file }) => igvm::print(&file),
        Some(Command::Image(arguments)) => boot::image::print(&arguments),
        Some(Command::Boot(arguments)) => {
            return match boot::run::run(&arguments) {
                Ok(()) => ExitCode::SUCCESS,
                Err(Trouble { status, sentence }) => failed(status, &sentence),
            };
        }
        Some(Command::Rates(arguments)) => boot::rates::print(&arguments),
        Some(Command::Emulated(arguments)) => boot::emulated::run(&arguments),
        Some(Command::Count { work, vendor, entries }) => Job { work, vendor, entries }.run().map(|()| true),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(complaint) => failed(2, &complaint),
    }
}

fn failed(status: u8, complaint: &str) -> ExitCode {
    eprintln!("conformance: {complaint}");
    ExitCode::from(status)
}

/// What the command line needs to know of a case.
struct Row {
    id: &'static str,
    rule: &'static str,
    threats: &'static [&'static str],
    text: &'static str,
}

fn rows<P: Platform>() -> Vec<Row> {
    cases::<P>().into_iter().map(|Case { id, rule, threats, text, .. }| Row { id, rule, threats, text }).collect()
}

impl Selection {
    fn has_backend(&self, name: &str) -> bool {
        self.backend.as_deref().is_none_or(|wanted| wanted == name)
    }

    fn wants(&self, row: &Row) -> bool {
        let matches = |text: &str| {
            row.id.contains(text) || row.rule == text || row.threats.iter().any(|threat| threat.contains(text))
        };
        self.filter.as_deref().is_none_or(matches)
    }

    /// The cases of all chosen backends, each once: those of the first backend, then what the next one has beyond them.
    fn all_rows(&self) -> Vec<Row> {
        let mut all: Vec<Row> = Vec::new();
        let of_each = [(Snp::NAME, rows::<Snp> as fn() -> Vec<Row>), (Tdx::NAME, rows::<Tdx>)];
        for (_, rows) in of_each.into_iter().filter(|(name, _)| self.has_backend(name)) {
            let new: Vec<Row> = rows().into_iter().filter(|row| all.iter().all(|known| known.id != row.id)).collect();
            all.extend(new);
        }
        all
    }
}

fn conformance(selection: &Selection) -> Result<bool, String> {
    let chosen: Vec<Row> = selection.all_rows().into_iter().filter(|row| selection.wants(row)).collect();
    if chosen.is_empty() {
        let filter = selection.filter.as_deref().unwrap_or_default();
        return Err(format!("no case matches `{filter}`; --list shows them"));
    }
    if selection.list {
        for Row { id, rule, threats, text } in chosen {
            println!("{id:<36} {rule:<3} {:<22} {text}", threats.join(","));
        }
        return Ok(true);
    }
    if let Some(path) = &selection.json {
        output::check_writable(path)?;
    }

    let mut report = Report::default();
    let backends: Vec<&str> = [Snp::NAME, Tdx::NAME].into_iter().filter(|name| selection.has_backend(name)).collect();
    for name in &backends {
        match *name {
            Snp::NAME => run_column::<Snp>(selection, &mut report),
            _ => run_column::<Tdx>(selection, &mut report),
        }
    }
    matrix::print(&report, &backends);
    if selection.filter.is_none() && backends.contains(&Snp::NAME) {
        println!("{}", figures::switches::line()?);
    }

    // A filter leaves out the cases that notice most mutants.
    let mut mutants = Vec::new();
    if !selection.no_mutants && selection.filter.is_none() {
        for name in &backends {
            mutants.extend(match *name {
                Snp::NAME => judge::<Snp>(&report, selection.seed),
                _ => judge::<Tdx>(&report, selection.seed),
            });
        }
        matrix::print_mutants(&mutants);
    }
    if let Some(path) = &selection.json {
        output::write_json(path, &output::Whole { cases: &report.cases, mutants: &mutants })?;
    }
    Ok(report.is_good() && mutants.iter().all(|mutant| !mutant.killed_by.is_empty()))
}

/// Runs the chosen cases on one backend.
fn run_column<P: Platform>(selection: &Selection, report: &mut Report) {
    let all = cases::<P>();
    let chosen = rows::<P>().iter().filter(|row| selection.wants(row)).count();
    let progress = output::progress(chosen as u64, P::NAME);
    for (case, row) in all.iter().zip(rows::<P>()) {
        if selection.wants(&row) {
            progress.set_message(case.id);
            report.cases.push(run_case(case, selection.seed));
            progress.inc(1);
        } else {
            report.cases.push(CaseReport::not_run(case, "left out by --filter"));
        }
    }
    progress.finish_and_clear();
}

/// Cases that are looked for that notice one mutant.
const KILLERS: usize = 5;

/// Runs the mutants of one backend.
fn judge<P: Platform>(report: &Report, seed: u64) -> Vec<mutants::MutantReport> {
    let progress = output::progress(P::mutants().len() as u64, "mutants");
    let judged = mutants::run::<P>(report, seed, KILLERS, |name| {
        progress.set_message(name.to_owned());
        progress.inc(1);
    });
    progress.finish_and_clear();
    judged
}

fn print_table(report: &Path) -> Result<bool, String> {
    let text = std::fs::read_to_string(report).map_err(|error| format!("{}: {error}", report.display()))?;
    let table = table::markdown(&text).map_err(|complaint| format!("{}: {complaint}", report.display()))?;
    print!("{table}");
    Ok(true)
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
