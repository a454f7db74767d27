//! QEMU as a process that is never left behind.

use std::env;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

const PROGRAM: &str = "qemu-system-x86_64";
/// Longest line that is kept whole, in bytes: several reports in hex.
const LINE: u64 = 16 << 10;
/// Lines that wait to be printed.
const WAITING: usize = 256;
/// Bytes that are kept of what QEMU complains.
const COMPLAINT: usize = 4 << 10;
/// How long what is written already may take to arrive after QEMU was killed.
const REST: Duration = Duration::from_secs(1);

/// Finds QEMU: what the variable QEMU names, or the program in PATH.
///
/// # Errors
/// One sentence that says how to get it.
pub(super) fn find() -> Result<PathBuf, String> {
    let named = env::var_os("QEMU").filter(|name| !name.is_empty()).map(PathBuf::from);
    let name = named.clone().unwrap_or_else(|| PROGRAM.into());
    let found = if name.components().count() > 1 {
        Some(name.clone()).filter(|path| path.is_file())
    } else {
        let folders = env::var_os("PATH").unwrap_or_default();
        env::split_paths(&folders).map(|folder| folder.join(&name)).find(|path| path.is_file())
    };
    found.ok_or_else(|| match named {
        Some(name) => format!("QEMU={}: there is no such program", name.display()),
        None => format!(
            "there is no {PROGRAM} in PATH: install it (Debian, Ubuntu: apt-get install qemu-system-x86; Fedora: dnf \
             install qemu-system-x86; macOS: brew install qemu) or name it in the variable QEMU"
        ),
    })
}

/// What QEMU is started with.
#[derive(Clone, Copy, Debug)]
pub(super) struct Start<'a> {
    /// The emulator, an ELF file.
    pub(super) kernel: &'a Path,
    /// The IGVM file.
    pub(super) image: Option<&'a Path>,
    /// Number of processors.
    pub(super) cpus: u32,
    /// Its options.
    pub(super) options: &'a str,
    /// Where its trace goes.
    pub(super) trace: Option<&'a Path>,
    /// Whether its clock counts instructions: one is a tick. On one processor.
    pub(super) is_counted: bool,
}

impl Start<'_> {
    fn command(&self, qemu: &Path) -> Command {
        let mut command = Command::new(qemu);
        command.args(["-M", "q35", "-cpu", "max,phys-bits=52", "-m", "1G"]);
        if self.is_counted {
            command.args(["-accel", "tcg,thread=single", "-icount", "shift=0,sleep=off"]);
        } else {
            command.args(["-accel", "tcg,thread=multi"]);
        }
        command.args(["-smp", &self.cpus.to_string(), "-display", "none", "-nodefaults", "-no-reboot"]);
        command.args(["-serial", "stdio", "-device", "isa-debug-exit,iobase=0xf4,iosize=4"]);
        if let Some(trace) = self.trace {
            let mut file = std::ffi::OsString::from("file:");
            file.push(trace);
            command.arg("-serial").arg(file);
        }
        command.arg("-kernel").arg(self.kernel).args(["-append", self.options]);
        if let Some(image) = self.image {
            command.arg("-initrd").arg(image);
        }
        command
    }
}

/// What happens to a run.
#[derive(Debug)]
pub(super) enum Event {
    /// A line on the console, without its end.
    Line(String),
    /// There will be no further line.
    Closed,
    /// Somebody wants this program to end.
    Interrupted,
}

/// A QEMU that runs. It is killed with all that it started when this goes out of use before it has ended.
#[derive(Debug)]
pub(super) struct Qemu {
    child: Child,
    has_ended: bool,
    events: Receiver<Event>,
    complaint: Receiver<String>,
    deadline: Instant,
}

impl Qemu {
    /// Starts it with an empty standard input. It has so long to end.
    ///
    /// # Errors
    /// One sentence.
    pub(super) fn start(qemu: &Path, start: &Start<'_>, timeout: Duration) -> Result<Self, String> {
        let (sender, events) = sync_channel(WAITING);
        let interrupted = sender.clone();
        // It runs in a thread of its own, so it may wait. A second one is refused, and the first one's run is over then.
        let _ = ctrlc::set_handler(move || drop(interrupted.send(Event::Interrupted)));
        let mut command = start.command(qemu);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let deadline = Instant::now() + timeout;
        let mut child = command.spawn().map_err(|error| format!("{}: {error}", qemu.display()))?;
        let (complain, complaint) = sync_channel(1);
        let (console, errors) = (child.stdout.take(), child.stderr.take());
        let running = Self { child, has_ended: false, events, complaint, deadline };
        thread::spawn(move || console.map(|console| send_lines(console, &sender)));
        thread::spawn(move || complain.send(errors.map(first_bytes).unwrap_or_default()));
        Ok(running)
    }

    /// The next event; `None` when the time is over.
    pub(super) fn event(&self) -> Option<Event> {
        self.events.recv_timeout(self.deadline.saturating_duration_since(Instant::now())).ok()
    }

    /// Waits for the end of the process; `None` when the time is over before it.
    pub(super) fn wait(&mut self) -> Option<ExitStatus> {
        while !self.has_ended {
            match self.child.try_wait() {
                Ok(Some(status)) => {
                    self.has_ended = true;
                    return Some(status);
                }
                Ok(None) if Instant::now() < self.deadline => thread::sleep(Duration::from_millis(5)),
                _ => break,
            }
        }
        None
    }

    /// Kills it, and gives the lines that it had written by then.
    pub(super) fn kill(&mut self) -> Vec<String> {
        self.end();
        let last = Instant::now() + REST;
        let mut lines = Vec::new();
        while let Ok(event) = self.events.recv_timeout(last.saturating_duration_since(Instant::now())) {
            match event {
                Event::Line(line) => lines.push(line),
                Event::Closed => break,
                Event::Interrupted => (),
            }
        }
        lines
    }

    /// The first line of what QEMU wrote to standard error, once it has ended.
    pub(super) fn complaint(&self) -> String {
        let text = self.complaint.recv_timeout(REST).unwrap_or_default();
        text.lines().next().unwrap_or("it said nothing").to_owned()
    }

    fn end(&mut self) {
        if !self.has_ended {
            // Not waited for yet, so the number is still its own, and that of its group.
            let group = i32::try_from(self.child.id()).map(Pid::from_raw);
            let _ = group.map(|group| killpg(group, Signal::SIGKILL));
            let _ = self.child.wait();
            self.has_ended = true;
        }
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        self.end();
    }
}

/// Sends line after line, until there are no more or nobody listens.
fn send_lines(console: impl Read, events: &SyncSender<Event>) {
    let mut console = BufReader::new(console);
    loop {
        let mut line = Vec::new();
        // A line without an end comes in pieces.
        if !matches!(console.by_ref().take(LINE).read_until(b'\n', &mut line), Ok(1..)) {
            break;
        }
        if events.send(Event::Line(printable(&line))).is_err() {
            return;
        }
    }
    let _ = events.send(Event::Closed);
}

/// The text of a line, in which nothing moves the cursor of a terminal.
fn printable(line: &[u8]) -> String {
    let line = String::from_utf8_lossy(line);
    let line = line.trim_end_matches(['\r', '\n']);
    line.chars().map(|char| if char.is_control() { char::REPLACEMENT_CHARACTER } else { char }).collect()
}

/// Reads to the end and keeps the beginning.
fn first_bytes(mut errors: impl Read) -> String {
    let mut kept = Vec::new();
    let mut piece = [0; 512];
    while let Ok(len @ 1..) = errors.read(&mut piece) {
        let room = COMPLAINT.saturating_sub(kept.len());
        kept.extend_from_slice(&piece[..len.min(room)]);
    }
    kept.split(|byte| *byte == b'\n').map(printable).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_a_guest_cannot_steer_a_terminal() {
        assert_eq!(printable(b"vmpl2: \x1b[2Jtext\x07\xff\r\n"), "vmpl2: \u{fffd}[2Jtext\u{fffd}\u{fffd}");
    }

    #[test]
    fn a_line_without_an_end_comes_in_pieces() {
        let (sender, events) = sync_channel(8);
        let text = [vec![b'x'; LINE as usize + 1], b"\nlast".to_vec()].concat();
        send_lines(&text[..], &sender);
        let lengths: Vec<usize> = events
            .try_iter()
            .map(|event| match event {
                Event::Line(line) => line.len(),
                _ => 0,
            })
            .collect();
        assert_eq!(lengths, [LINE as usize, 1, 4, 0]);
    }
}
