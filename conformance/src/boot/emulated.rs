//! `cargo conformance emulated`: the cases of a guest's side in an image under the emulator, beside the step machine.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use image_cases::Selection;
use image_layout::{GUEST, MONITOR, RAM_END, SECRETS};

use super::build::{EMULATOR, IMAGES};
use super::capture;
use super::elf::Image;
use super::file::file;
use super::image::complaint;
use crate::cli::{matrix, output};
use crate::emulated::compare::{Depth, compare};
use crate::emulated::step::{self, Change};
use crate::emulated::{Boot, CaseRun, LIMITS, Result as CaseResult, all, plan, read};
use crate::suite::{CaseReport, Outcome, Report};

/// Column of the matrix.
pub(crate) const NAME: &str = "snp-emulated";

/// Seconds that a boot has, and for every case in it.
const BOOT_S: u64 = 60;
const CASE_S: u64 = 5;

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
    /// Take this ELF file for the monitor, and do not build it
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
        let lines = programs.boot(boot)?;
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

/// What boots.
struct Programs {
    emulator: PathBuf,
    monitor: Image,
    /// The guest as cargo built it: it runs no case.
    guest: Vec<u8>,
}

impl Programs {
    fn build(monitor: Option<&Path>) -> Result<Self, String> {
        let images = IMAGES.build()?;
        let emulator = EMULATOR.build()?.join("emulator");
        let read = |path: &Path| fs::read(path).map_err(|error| complaint(path, &error));
        let monitor = monitor.map_or_else(|| images.join("monitor"), Path::to_owned);
        let image = Image::try_new(&read(&monitor)?, MONITOR..SECRETS).map_err(|error| complaint(&monitor, &error))?;
        Ok(Self { emulator, monitor: image, guest: read(&images.join("suite"))? })
    }

    /// Boots the monitor with a guest that is told which cases to run.
    fn boot(&self, boot: &Boot) -> Result<Vec<String>, String> {
        let mut guest = self.guest.clone();
        select(&mut guest, &boot.selection())?;
        let guest = Image::try_new(&guest, GUEST..RAM_END).map_err(|error| format!("the guest: {error}"))?;
        let igvm = file(&self.monitor, &guest).map_err(|error| format!("no IGVM file can be made: {error}"))?;
        let path = Scratch(IMAGES.file(&format!("{NAME}-{}.igvm", std::process::id())));
        fs::write(&path.0, igvm).map_err(|error| complaint(&path.0, &error))?;
        let timeout = Duration::from_secs(BOOT_S + CASE_S * boot.cases.len() as u64);
        let (emulator, image) = (self.emulator.as_path(), path.0.as_path());
        capture::Boot { emulator, image, cpus: boot.vcpus.into(), host: boot.host, timeout }.lines()
    }
}

/// A file that goes when it is out of use.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Writes a selection where the guest has it: behind the only magic in the file.
///
/// # Errors
/// One sentence for a file without one.
fn select(guest: &mut [u8], selection: &Selection) -> Result<(), String> {
    let magic = Selection::MAGIC.to_le_bytes();
    let mut places = guest.windows(magic.len()).enumerate().filter(|(_, bytes)| *bytes == magic);
    let (Some((at, _)), None) = (places.next(), places.next()) else {
        return Err("the guest is none that runs cases: it has no place for their numbers".to_owned());
    };
    let words = selection.words().map(u64::to_le_bytes);
    let into = guest.get_mut(at + magic.len()..).unwrap_or_default();
    for (place, word) in into.chunks_exact_mut(8).zip(words) {
        place.copy_from_slice(&word);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_selection_stands_behind_the_only_magic() {
        let selection = Selection::NONE.with(0).with(65);
        let mut file = [&[7; 5][..], &Selection::MAGIC.to_le_bytes(), &[0; 8 * Selection::WORDS], &[9; 3]].concat();
        select(&mut file, &selection).unwrap();
        assert_eq!(file[13..21], 1_u64.to_le_bytes());
        assert_eq!(file[21..29], 2_u64.to_le_bytes());
        assert_eq!((&file[..5], &file[file.len() - 3..]), (&[7; 5][..], &[9; 3][..]));
        let twice = [Selection::MAGIC.to_le_bytes(); 2].concat();
        for mut bad in [Vec::new(), vec![0; 64], twice] {
            assert!(select(&mut bad, &selection).is_err());
        }
    }

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
