//! A boot whose console is kept and not printed.

use std::path::Path;
use std::time::Duration;

use super::qemu::{self, Event, Qemu, Start};

/// Seconds without an exit of the guest after which the emulator ends the run.
const WATCHDOG_S: u64 = 20;

/// What boots, and how.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Boot<'a> {
    /// The emulator, an ELF file.
    pub(crate) emulator: &'a Path,
    /// The IGVM file.
    pub(crate) image: &'a Path,
    /// vCPUs.
    pub(crate) cpus: u32,
    /// How the host behaves, by its name.
    pub(crate) host: &'a str,
    /// Time that it has.
    pub(crate) timeout: Duration,
    /// Whether marks tell ticks; and of which clock.
    pub(crate) figures: Option<Clock>,
}

/// The clock of QEMU's processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Clock {
    /// That of this machine.
    Time,
    /// One tick for each instruction. On one processor only.
    Instructions,
}

impl Boot<'_> {
    /// Boots, and gives the lines of the console, each of which goes to `on_line` when it comes. A boot that did not end in time
    /// has one more line that says so.
    ///
    /// # Errors
    /// One sentence: QEMU is not there or does not start, or somebody ended the run.
    pub(crate) fn follow(&self, mut on_line: impl FnMut(&str)) -> Result<Vec<String>, String> {
        let qemu = qemu::find()?;
        let figures = if self.figures.is_some() { " figures" } else { "" };
        let options = format!("vcpus={} host={} watchdog={WATCHDOG_S}{figures}", self.cpus, self.host);
        let start = Start {
            kernel: self.emulator,
            image: Some(self.image),
            cpus: self.cpus,
            options: &options,
            trace: None,
            is_counted: self.figures == Some(Clock::Instructions),
        };
        let mut running = Qemu::start(&qemu, &start, self.timeout)?;
        let mut lines = Vec::new();
        loop {
            match running.event() {
                Some(Event::Line(line)) => {
                    on_line(&line);
                    lines.push(line);
                }
                Some(Event::Closed) => break,
                Some(Event::Interrupted) => return Err("ended by a signal".to_owned()),
                None => {
                    lines.extend(running.kill());
                    lines.push(format!("emulator: no end after {} s, so QEMU was killed", self.timeout.as_secs()));
                    return Ok(lines);
                }
            }
        }
        let status = running.wait();
        if lines.is_empty() {
            let status = status.map_or_else(|| "no status".to_owned(), |status| status.to_string());
            return Err(format!("QEMU ended by itself, {status}: {}", running.complaint()));
        }
        Ok(lines)
    }
}
