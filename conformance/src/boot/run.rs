//! `cargo conformance boot`: the images under the emulator, in QEMU.

use std::fs;
use std::io::{Write, stdout};
use std::path::PathBuf;
use std::time::Duration;

use backend_snp::abi::vmpl::Vmpl;
use backend_snp::launch::Igvm;
use machine::host::all_policies;

use super::build::{EMULATOR, IMAGES};
use super::evidence::{Collector, Launch};
use super::image::{Programs, complaint};
use super::qemu::{self, Event, Qemu, Start};
use crate::cli::output;

/// Most vCPUs of the machine.
const MOST_CPUS: u32 = 8;
/// Seconds without an exit of the guest after which the emulator ends the run; fewer where the whole run has less time.
const WATCHDOG_S: u64 = 20;
/// Seconds that the emulator ends before QEMU is killed.
const MARGIN_S: u64 = 2;
/// Most that the emulator takes as its limit.
const MOST_LIMIT_S: u64 = 3600;

/// Exit status: the guest's result is not 0, its report is missing or refused, or a rule of the machine was broken.
const FAILURE: u8 = 1;
/// Exit status: nothing ran.
const NOT_STARTED: u8 = 2;
/// Exit status: the guest ended without a result.
const ENDED: u8 = 3;
/// Exit status: the guest did not get on, and was ended.
const STUCK: u8 = 4;
/// Exit status: QEMU or the emulator failed, or somebody ended the run.
const BROKEN: u8 = 5;

/// What boots, and how.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Boot this IGVM file, and build none
    #[arg(long, value_name = "FILE", conflicts_with = "guest")]
    image: Option<PathBuf>,
    /// Take this ELF file for the guest, and do not build it
    #[arg(long, value_name = "FILE")]
    guest: Option<PathBuf>,
    /// Take this ELF file for the emulator, and do not build it
    #[arg(long, value_name = "FILE")]
    emulator: Option<PathBuf>,
    /// Number of vCPUs, 1 to 8
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    cpus: u32,
    /// How the host behaves: honest, or the name of a liar
    #[arg(long, value_name = "POLICY", default_value = "honest")]
    host: String,
    /// Write every event of the machine to this file
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// Seconds after which QEMU is ended
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    timeout: u64,
    /// Accept a guest that prints no attestation report
    #[arg(long)]
    no_report: bool,
}

/// Why a run is no success: its exit status, and one sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Trouble {
    pub(crate) status: u8,
    pub(crate) sentence: String,
}

impl Trouble {
    fn new(status: u8, sentence: impl Into<String>) -> Self {
        Self { status, sentence: sentence.into() }
    }

    fn not_started(sentence: impl Into<String>) -> Self {
        Self::new(NOT_STARTED, sentence)
    }
}

/// Boots, and gives what the guest gave.
///
/// # Errors
/// [`Trouble`] for everything but a guest whose result is 0 and whose reports are right.
pub(crate) fn run(arguments: &Arguments) -> Result<(), Trouble> {
    arguments.check().map_err(Trouble::not_started)?;
    let qemu = qemu::find().map_err(Trouble::not_started)?;
    let image = arguments.image().map_err(Trouble::not_started)?;
    let file = fs::read(&image.path).map_err(|error| Trouble::not_started(complaint(&image.path, &error)))?;
    let igvm = Igvm::try_new(&file).map_err(|error| Trouble::not_started(complaint(&image.path, &error)))?;
    let launch = Launch::of(&igvm);
    let emulator = match &arguments.emulator {
        Some(path) if path.is_file() => path.clone(),
        Some(path) => return Err(Trouble::not_started(complaint(path, &"there is no such file"))),
        None => EMULATOR.build().map_err(Trouble::not_started)?.join("emulator"),
    };
    let trace = if arguments.trace.is_some() { " trace" } else { "" };
    let watchdog = (arguments.timeout / 2).clamp(1, WATCHDOG_S);
    // The emulator ends first, because it knows where each vCPU is.
    let limit = arguments.timeout.saturating_sub(MARGIN_S).clamp(1, MOST_LIMIT_S);
    let (cpus, host) = (arguments.cpus, &arguments.host);
    let options = format!("vcpus={cpus} host={host} watchdog={watchdog} limit={limit}{trace}");
    let start = Start {
        kernel: &emulator,
        image: Some(&image.path),
        cpus: arguments.cpus,
        options: &options,
        trace: arguments.trace.as_deref(),
        is_counted: false,
    };
    let timeout = Duration::from_secs(arguments.timeout);
    let mut qemu = Qemu::start(&qemu, &start, timeout).map_err(Trouble::not_started)?;
    let mut console = Console::default();
    let ended = follow(&mut qemu, &mut console, arguments.timeout);
    let is_success = ended.is_ok();
    let (lines, verified) = console.evidence.verify(launch, is_success && !arguments.no_report);
    for line in lines {
        print(&format!("boot: {line}"))?;
    }
    // What ended the run comes first.
    ended.and(verified.map_err(|sentence| Trouble::new(FAILURE, sentence)))?;
    print(&format!("boot: the guest's result is 0, on {} vCPUs under host {}", arguments.cpus, arguments.host))
}

impl Arguments {
    /// Looks at everything that takes no time.
    fn check(&self) -> Result<(), String> {
        if !(1..=MOST_CPUS).contains(&self.cpus) {
            return Err(format!("--cpus {}: the machine has 1 to {MOST_CPUS} vCPUs", self.cpus));
        }
        if self.timeout == 0 {
            return Err("--timeout 0: at least one second".to_owned());
        }
        let names = || ["honest"].into_iter().chain(all_policies().into_iter().map(|(name, ..)| name));
        if !names().any(|name| name == self.host) {
            let names: Vec<_> = names().collect();
            return Err(format!("--host {}: no such host; there are {}", self.host, names.join(", ")));
        }
        self.trace.as_deref().map_or(Ok(()), output::check_writable)
    }

    fn image(&self) -> Result<ImageFile, String> {
        if let Some(path) = &self.image {
            return Ok(ImageFile { path: path.clone(), is_ours: false });
        }
        let built = Programs { monitor: None, guest: self.guest.clone() }.build()?;
        let path = IMAGES.file(&format!("boot-{}.igvm", std::process::id()));
        fs::write(&path, built.file).map_err(|error| complaint(&path, &error))?;
        Ok(ImageFile { path, is_ours: true })
    }
}

/// The IGVM file; one that was made for this run goes with it.
struct ImageFile {
    path: PathBuf,
    is_ours: bool,
}

impl Drop for ImageFile {
    fn drop(&mut self) {
        if self.is_ours {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// What is kept of the console.
#[derive(Debug, Default)]
struct Console {
    evidence: Collector,
    /// The emulator's last sentence.
    last: Option<String>,
    /// The guest's result, as the emulator gives it.
    result: Option<u8>,
    /// The first rule of the machine that was broken.
    violation: Option<String>,
}

impl Console {
    /// Prints a line and keeps what it says.
    fn line(&mut self, line: &str) -> Result<(), Trouble> {
        if let Some(text) = line.strip_prefix("emulator: ") {
            if let Some(result) = text.strip_prefix("result ") {
                self.result = result.parse().ok();
            }
            if let Some(violation) = text.strip_prefix("violation ") {
                self.violation.get_or_insert_with(|| violation.to_owned());
            }
            self.last = Some(text.to_owned());
        } else if let Some((level, text)) = line.split_once(": ")
            && let Some(Ok(level)) = level.strip_prefix("vmpl").map(str::parse::<u8>)
            && let Ok(level) = Vmpl::try_from(level)
        {
            self.evidence.line(level, text);
        }
        print(line)
    }

    fn last(&self) -> &str {
        self.last.as_deref().unwrap_or("the emulator said nothing")
    }
}

/// Prints what comes until it ends.
fn follow(qemu: &mut Qemu, console: &mut Console, timeout_s: u64) -> Result<(), Trouble> {
    loop {
        match qemu.event() {
            Some(Event::Line(line)) => console.line(&line)?,
            Some(Event::Closed) => break,
            Some(Event::Interrupted) => return Err(Trouble::new(BROKEN, "ended by a signal")),
            None => return Err(stuck(qemu, console, timeout_s)),
        }
    }
    let Some(status) = qemu.wait() else { return Err(stuck(qemu, console, timeout_s)) };
    let said = |status, what: &str| Err(Trouble::new(status, format!("{what}: {}", console.last())));
    // QEMU itself ends with 1 too, but then nobody has told a result.
    match (status.code(), console.result) {
        (Some(1), Some(0)) => console.violation.as_ref().map_or(Ok(()), |violation| {
            Err(Trouble::new(FAILURE, format!("a rule of the machine was broken: {violation}")))
        }),
        (Some(3), Some(1..)) => said(FAILURE, "the guest reports a failure"),
        (Some(5), None) => said(ENDED, "the guest ended without a result"),
        (Some(7), None) => said(NOT_STARTED, "the emulator runs nothing"),
        (Some(9), None) => said(STUCK, "the guest does not get on"),
        (Some(11), _) => said(BROKEN, "the emulator failed"),
        _ => Err(Trouble::new(BROKEN, format!("QEMU ended by itself, {status}: {}", qemu.complaint()))),
    }
}

/// The time is over.
fn stuck(qemu: &mut Qemu, console: &mut Console, timeout_s: u64) -> Trouble {
    for line in qemu.kill() {
        if let Err(trouble) = console.line(&line) {
            return trouble;
        }
    }
    Trouble::new(
        STUCK,
        format!("no end after {timeout_s} s, so QEMU was killed; last from the emulator: {}", console.last()),
    )
}

/// A line on standard output, at once.
fn print(line: &str) -> Result<(), Trouble> {
    let mut out = stdout().lock();
    let written = writeln!(out, "{line}").and_then(|()| out.flush());
    written.map_err(|error| Trouble::new(BROKEN, format!("standard output: {error}")))
}
