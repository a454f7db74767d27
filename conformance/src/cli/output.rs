//! Progress and files.

use std::fs;
use std::path::Path;

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::mutants::MutantReport;
use crate::suite::CaseReport;

/// The JSON report.
#[derive(Debug, Serialize)]
pub(crate) struct Whole<'a> {
    /// One object per case and backend.
    pub(crate) cases: &'a [CaseReport],
    /// One object per mutant.
    pub(crate) mutants: &'a [MutantReport],
}

/// A progress bar on standard error; nothing where that is no terminal.
pub(crate) fn progress(length: u64, what: &'static str) -> ProgressBar {
    let bar = ProgressBar::new(length);
    if let Ok(style) = ProgressStyle::with_template("{prefix} [{bar:40}] {pos}/{len} {msg}") {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.with_prefix(what)
}

/// Checks that a report can be written, before the work that it reports on.
///
/// # Errors
/// What the file system says, with the path.
pub(crate) fn check_writable(path: &Path) -> Result<(), String> {
    let opened = fs::OpenOptions::new().create(true).append(true).open(path);
    opened.map(|_| ()).map_err(|error| format!("{}: {error}", path.display()))
}

/// Writes a value as JSON, one line per member, with a newline at the end.
///
/// # Errors
/// What the file system says, with the path.
pub(crate) fn write_json(path: &Path, value: &impl Serialize) -> Result<(), String> {
    let text = serde_json::to_string_pretty(value).map_err(|error| error.to_string())?;
    fs::write(path, text + "\n").map_err(|error| format!("{}: {error}", path.display()))
}
