//! `cargo conformance rates`: what the emulator costs, beside the step machine, in one run.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use image_cases::Work;
use serde::Serialize;

use super::capture::Clock;
use super::programs::Programs;
use super::qemu::{self, Event, Qemu, Start};
use crate::cli::output;
use crate::emulated::Boot;
use crate::emulated::read::mark;
use crate::emulated::step::{self, Change};

/// Rounds of each piece of work by the clock.
const ROUNDS: u64 = 2000;
/// Rounds where instructions are counted.
const COUNTED_ROUNDS: u64 = 1000;
/// Starts of each kind, of which the middle one counts.
const STARTS: usize = 5;
/// Time for a kernel that does nothing.
const NOTHING: Duration = Duration::from_secs(60);

/// Where the figures go.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Write them as JSON too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// All figures.
#[derive(Debug, Serialize)]
struct Figures {
    work: Vec<Row>,
    /// Time from the start of QEMU to the first entry of VMPL2, in milliseconds.
    first_guest_ms: u128,
    /// Time from the start of QEMU to the first byte of a kernel that does nothing else.
    empty_kernel_ms: u128,
    /// Measured pages of the monitor.
    monitor_pages: usize,
}

/// One piece of work.
#[derive(Debug, Serialize)]
struct Row {
    work: &'static str,
    emulator_per_s: u64,
    step_machine_per_s: u64,
    /// Instructions at VMPL0 for each call, where there are calls.
    monitor_instructions: Option<u64>,
}

const fn name(work: Work) -> &'static str {
    match work {
        Work::HostRequest => "requests to the host (VMGEXIT and back)",
        Work::Call => "calls to L1 (there and back)",
        Work::Page => "calls to L1 that give a page up or validate it",
    }
}

/// Measures, and prints.
///
/// # Errors
/// One sentence: something does not build, start or end as it has to.
pub(crate) fn print(arguments: &Arguments) -> Result<bool, String> {
    if let Some(path) = &arguments.json {
        output::check_writable(path)?;
    }
    let programs = Programs::build(None)?;
    let emulated = Marks::emulated(&programs, ROUNDS, Clock::Time)?;
    let stepped = Marks::stepped(ROUNDS)?;
    let counted = Marks::emulated(&programs, COUNTED_ROUNDS, Clock::Instructions)?;
    let work = Work::ALL.into_iter().map(|work| row(work, &emulated, &stepped, &counted)).collect::<Result<_, _>>()?;
    let (mut guests, mut nothings) = ([Duration::ZERO; STARTS], [Duration::ZERO; STARTS]);
    for (guest, nothing) in guests.iter_mut().zip(&mut nothings) {
        *guest = first_guest(&programs)?;
        *nothing = empty_kernel(&programs.nothing())?;
    }
    let middle = |mut times: [Duration; STARTS]| {
        times.sort_unstable();
        times[STARTS / 2].as_millis()
    };
    let figures = Figures {
        work,
        first_guest_ms: middle(guests),
        empty_kernel_ms: middle(nothings),
        monitor_pages: programs.monitor.pages().count() - programs.monitor.blank.len(),
    };
    figures.print();
    arguments.json.as_deref().map_or(Ok(()), |path| output::write_json(path, &figures))?;
    Ok(true)
}

impl Figures {
    fn print(&self) {
        println!("| in one run, one vCPU | emulator | step machine | ratio | monitor's instructions per call |");
        println!("|---|---|---|---|---|");
        for Row { work, emulator_per_s, step_machine_per_s, monitor_instructions } in &self.work {
            let ratio = *emulator_per_s as f64 / *step_machine_per_s as f64;
            let instructions = monitor_instructions.map_or_else(|| "-".to_owned(), |count| count.to_string());
            println!("| {work} | {emulator_per_s}/s | {step_machine_per_s}/s | {ratio:.2} | {instructions} |");
        }
        let Self { first_guest_ms, empty_kernel_ms, monitor_pages, .. } = self;
        let ratio = *first_guest_ms as f64 / *empty_kernel_ms as f64;
        println!(
            "first entry of VMPL2 after {first_guest_ms} ms, an empty kernel after {empty_kernel_ms} ms: ratio {ratio:.1}"
        );
        println!("monitor image: {monitor_pages} measured pages, {} KiB", monitor_pages * 4);
    }
}

fn row(work: Work, emulated: &Marks, stepped: &Marks, counted: &Marks) -> Result<Row, String> {
    // Requests are counted themselves.
    let each = work.calls().max(1);
    let per_s = |marks: &Marks| Ok::<_, String>(((ROUNDS * each) as f64 / marks.time(work)?.as_secs_f64()) as u64);
    let instructions = counted.ticks(work)? / (COUNTED_ROUNDS * each);
    Ok(Row {
        work: name(work),
        emulator_per_s: per_s(emulated)?,
        step_machine_per_s: per_s(stepped)?,
        monitor_instructions: (work.calls() > 0).then_some(instructions),
    })
}

/// When each mark was set, and what the clock of VMPL0 said then.
#[derive(Debug, Default)]
struct Marks(BTreeMap<u8, (Instant, u64)>);

impl Marks {
    fn emulated(programs: &Programs, rounds: u64, clock: Clock) -> Result<Self, String> {
        let mut marks = Self::default();
        let lines = programs.prepare(&Boot::work(rounds))?.boot(Some(clock), |line| {
            if let Some((number, rest)) = line.strip_prefix("emulator: ").and_then(mark) {
                let ticks = rest.split(' ').find_map(|word| word.strip_prefix("ticks0=")?.parse().ok());
                marks.0.insert(number, (Instant::now(), ticks.unwrap_or(0)));
            }
        })?;
        is_done(&lines, rounds).map(|()| marks)
    }

    fn stepped(rounds: u64) -> Result<Self, String> {
        let mut marks = Self::default();
        let lines = step::follow(&Boot::work(rounds), &Change::default(), |number| {
            marks.0.insert(number, (Instant::now(), 0));
        });
        is_done(&lines, rounds).map(|()| marks)
    }

    fn of(&self, work: Work) -> Result<[(Instant, u64); 2], String> {
        let [before, behind] = work.marks().map(|mark| self.0.get(&mark).copied());
        before.zip(behind).map(|(before, behind)| [before, behind]).ok_or_else(|| format!("no marks around {work:?}"))
    }

    fn time(&self, work: Work) -> Result<Duration, String> {
        self.of(work).map(|[before, behind]| behind.0.duration_since(before.0))
    }

    fn ticks(&self, work: Work) -> Result<u64, String> {
        self.of(work).map(|[before, behind]| behind.1.saturating_sub(before.1))
    }
}

/// Whether a boot says that all work was done.
fn is_done(lines: &[String], rounds: u64) -> Result<(), String> {
    let said = format!("vmpl2: work done {rounds} times");
    let last = || lines.last().map_or("nothing was said", String::as_str);
    if lines.contains(&said) { Ok(()) } else { Err(format!("the work was not done: {}", last())) }
}

/// Time until VMPL2 is entered.
fn first_guest(programs: &Programs) -> Result<Duration, String> {
    let mut at = None;
    // Making the file is no part of it.
    let boot = Boot::work(1);
    let prepared = programs.prepare(&boot)?;
    let started = Instant::now();
    prepared.boot(Some(Clock::Time), |line| {
        if line == "emulator: VMPL2 begins" {
            at = Some(started.elapsed());
        }
    })?;
    at.ok_or_else(|| "VMPL2 was never entered".to_owned())
}

/// Time until a kernel has written its first byte.
fn empty_kernel(kernel: &Path) -> Result<Duration, String> {
    let start = Start { kernel, image: None, cpus: 1, options: "", trace: None, is_counted: false };
    let program = qemu::find()?;
    let started = Instant::now();
    let mut running = Qemu::start(&program, &start, NOTHING)?;
    let Some(Event::Line(_)) = running.event() else {
        return Err(format!("the empty kernel does not start: {}", running.complaint()));
    };
    let time = started.elapsed();
    running.wait().map(|_| time).ok_or_else(|| "the empty kernel does not end".to_owned())
}
