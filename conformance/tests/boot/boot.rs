//! `cargo conformance boot` with a script in the place of QEMU.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use coco_part_api::{GuestLevel, Level, report_data};
use conformance::boot::elf::Image;
use conformance::boot::file::file;
use image_layout::{GUEST, MONITOR, RAM_END, SECRETS};

use crate::command::{Done, Folder, conformance};
use crate::evidence::{launched, report};
use crate::program::small;

const STAND_IN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/boot/stand-in");
const NONCE: [u8; 64] = [0x5a; 64];
const RESULT_0: &str = "echo 'emulator: result 0'; exit 1";

fn image() -> Vec<u8> {
    let monitor = Image::try_new(&small(MONITOR), MONITOR..SECRETS).unwrap();
    file(&monitor, &Image::try_new(&small(GUEST), GUEST..RAM_END).unwrap()).unwrap()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A boot of a small image, in a folder of its own.
struct Boot(Folder);

impl Boot {
    fn new(name: &str) -> Self {
        let boot = Self(Folder::new(name));
        boot.0.write("image", &image());
        boot.0.write("emulator", b"the stand-in does not load it");
        boot
    }

    fn arguments(&self, more: &[&str]) -> Vec<String> {
        let files =
            ["boot", "--image", &self.0.path("image"), "--emulator", &self.0.path("emulator")].map(str::to_owned);
        files.into_iter().chain(more.iter().map(|argument| (*argument).to_owned())).collect()
    }

    /// Boots with a stand-in that does what the script says.
    fn run(&self, script: &str, more: &[&str]) -> Done {
        let script = self.0.write("script", script.as_bytes());
        let arguments = self.arguments(more);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        conformance(&arguments, &[("QEMU", STAND_IN), ("STAND_IN", &script)])
    }

    /// The same, where the console says just this before the result 0.
    fn run_console(&self, console: &str, more: &[&str]) -> Done {
        let console = self.0.write("console", console.as_bytes());
        self.run(&format!("cat '{console}'; {RESULT_0}"), more)
    }
}

#[test]
fn the_console_is_shown_and_success_is_the_result_0() {
    let done = Boot::new("success").run(&format!("echo 'vmpl2: hello'; {RESULT_0}"), &["--no-report"]);
    assert_eq!((done.status, done.stderr.as_str()), (Some(0), ""), "{done:?}");
    let wanted = "vmpl2: hello\nemulator: result 0\nboot: the guest's result is 0, on 1 vCPUs under host honest\n";
    assert_eq!(done.stdout, wanted);
}

#[test]
fn qemu_gets_the_files_and_options_and_never_kvm() {
    let boot = Boot::new("options");
    let trace = boot.0.path("trace");
    let script = format!("for argument; do echo \"$argument\"; done; {RESULT_0}");
    let done = boot
        .run(&script, &["--no-report", "--cpus", "2", "--host", "never-switch", "--timeout", "9", "--trace", &trace]);
    assert_eq!(done.status, Some(0), "{done:?}");
    let lines: Vec<&str> = done.stdout.lines().collect();
    let follows = |name: &str, value: &str| lines.windows(2).any(|pair| pair == [name, value]);
    assert!(follows("-kernel", &boot.0.path("emulator")) && follows("-initrd", &boot.0.path("image")));
    assert!(follows("-append", "vcpus=2 host=never-switch watchdog=4 limit=7 trace"), "{lines:?}");
    assert!(follows("-smp", "2") && follows("-accel", "tcg,thread=multi") && follows("-serial", "stdio"));
    assert!(follows("-serial", &format!("file:{trace}")));
    assert!(!done.stdout.contains("kvm"));
}

#[test]
fn every_way_to_end_has_its_status_and_one_sentence() {
    let boot = Boot::new("statuses");
    let said = |text: &str, status: u8| format!("echo 'vmpl0: hello'; echo 'emulator: {text}'; exit {status}");
    let rows = [
        (said("result 7", 3), 1, "the guest reports a failure: result 7\n"),
        (
            said("vCPU 0 at VMPL0 asked to be terminated: reason 1:0x2", 5),
            3,
            "the guest ended without a result: vCPU 0 at VMPL0 asked to be terminated: reason 1:0x2\n",
        ),
        (
            said("vCPU 1 at VMPL2: triple fault", 5),
            3,
            "the guest ended without a result: vCPU 1 at VMPL2: triple fault\n",
        ),
        (said("IGVM file: no VMSA for vCPU 0", 7), 2, "the emulator runs nothing: IGVM file: no VMSA for vCPU 0\n"),
        (
            said("vCPU 1 at VMPL2 made no exit for 20 s; RIP 0x400123", 9),
            4,
            "the guest does not get on: vCPU 1 at VMPL2 made no exit for 20 s; RIP 0x400123\n",
        ),
        (said("panicked", 11), 5, "the emulator failed: panicked\n"),
        // Results and statuses that do not belong together, and ends that are QEMU's own.
        (said("result 1", 1), 5, "QEMU ended by itself, exit status: 1: it said nothing\n"),
        (said("result 0", 3), 5, "QEMU ended by itself, exit status: 3: it said nothing\n"),
        (said("result 0", 5), 5, "QEMU ended by itself, exit status: 5: it said nothing\n"),
        (said("result 256", 1), 5, "QEMU ended by itself, exit status: 1"),
        ("echo 'vmpl2: emulator: result 0'; exit 1".to_owned(), 5, "QEMU ended by itself, exit status: 1"),
        (
            "echo 'no such option' >&2; echo more >&2; exit 1".to_owned(),
            5,
            "QEMU ended by itself, exit status: 1: no such option\n",
        ),
        ("exit 0".to_owned(), 5, "QEMU ended by itself, exit status: 0"),
        ("kill -9 $$".to_owned(), 5, "QEMU ended by itself, signal: 9"),
    ];
    for (script, status, sentence) in rows {
        boot.run(&script, &["--no-report"]).expect_sentence(status, sentence);
    }
}

#[test]
fn a_broken_rule_of_the_machine_fails_a_run_that_else_succeeds() {
    let console = "emulator: violation O1: VMPL2 reads a page of VMPL0\n";
    let done = Boot::new("violation").run_console(console, &["--no-report"]);
    done.expect_sentence(1, "a rule of the machine was broken: O1: VMPL2 reads a page of VMPL0\n");
}

#[test]
fn what_a_guest_writes_cannot_steer_the_terminal() {
    let done = Boot::new("control").run_console("vmpl2: \x1b[2J\x07text\r\n", &["--no-report"]);
    assert_eq!(done.status, Some(0), "{done:?}");
    assert_eq!(done.stdout.lines().next(), Some("vmpl2: \u{fffd}[2J\u{fffd}text"));
}

/// The lines of a guest at `vmpl` with a report over `data`.
fn evidence(vmpl: u8, report: &[u8], nonce: &[u8]) -> String {
    format!("vmpl{vmpl}: report: {}\nvmpl{vmpl}: nonce: {}\n", hex(report), hex(nonce))
}

#[test]
fn a_report_is_verified_against_the_file_in_both_forms_and_at_each_level() {
    let mut psp = launched(&image());
    let digest = hex(&psp.digest());
    let through_l1 = report_data(Level::Guest(GuestLevel::TWO), &NONCE, &[]);
    let console = [
        evidence(2, &report(&mut psp, 2, NONCE), &NONCE),
        evidence(2, &report(&mut psp, 2, through_l1), &NONCE),
        evidence(0, &report(&mut psp, 0, NONCE), &NONCE),
    ];
    let done = Boot::new("evidence").run_console(&console.concat(), &[]);
    assert_eq!((done.status, done.stderr.as_str()), (Some(0), ""), "{done:?}");
    let accepted: Vec<&str> = done.stdout.lines().filter(|line| line.starts_with("boot: report")).collect();
    let wanted = [2, 2, 0].map(|level| {
        format!("boot: report of VMPL{level} accepted: chain and signature, level, nonce, and measurement {digest}")
    });
    assert_eq!(accepted, wanted);
}

#[test]
fn a_report_that_is_not_right_fails_a_run_that_else_succeeds() {
    let boot = Boot::new("refused");
    let mut psp = launched(&image());
    let good = report(&mut psp, 2, NONCE);
    let mut forged = good.clone();
    forged[0x90] ^= 1;
    let mut other_file = image();
    let last = other_file.len() - 0x1000;
    other_file[last] ^= 1;
    let of_other = report(&mut launched(&other_file), 2, NONCE);
    let other_level = report_data(Level::Guest(GuestLevel::ONE), &NONCE, &[]);
    let bound_to_other = report(&mut psp, 2, other_level);
    let rows = [
        (evidence(2, &forged, &NONCE), "the report of VMPL2 is refused\n", "signature"),
        (evidence(2, &of_other, &NONCE), "the report of VMPL2 is refused\n", "measurement"),
        (evidence(2, &good, &[0x5b; 64]), "the report of VMPL2 is refused\n", "report_data"),
        (evidence(2, &bound_to_other, &NONCE), "the report of VMPL2 is refused\n", "report_data"),
        (evidence(1, &good, &NONCE), "the report of VMPL1 is refused\n", "vmpl"),
        (evidence(2, &good, &NONCE) + &evidence(2, &forged, &NONCE), "the report of VMPL2 is refused\n", "signature"),
        (evidence(2, &good[1..], &NONCE), "VMPL2: a report is 1184 bytes in hex\n", ""),
        (evidence(2, &good, &NONCE[1..]), "VMPL2: a nonce is 64 bytes in hex\n", ""),
        (format!("vmpl2: nonce: {}\n", hex(&NONCE)), "VMPL2: a nonce without a report\n", ""),
        (format!("vmpl2: report: {}\n", hex(&good)), "a report without its nonce\n", ""),
        (evidence(2, &good, &NONCE).repeat(17), "more than 16 reports\n", ""),
        ("vmpl2: hello\n".to_owned(), "the guest gave no report; --no-report allows that\n", ""),
        // Only what a level wrote is evidence.
        (evidence(2, &good, &NONCE).replace("vmpl2", "emulator"), "the guest gave no report", ""),
    ];
    for (console, sentence, check) in rows {
        let done = boot.run_console(&console, &[]);
        done.expect_sentence(1, sentence);
        let is_refused = |line: &str| line.starts_with(&format!("boot: {check} ")) && line.contains("REFUSED");
        assert!(check.is_empty() || done.stdout.lines().any(is_refused), "{check}: {done:?}");
    }
    // One that was not asked for is verified too.
    boot.run_console(&evidence(2, &forged, &NONCE), &["--no-report"])
        .expect_sentence(1, "the report of VMPL2 is refused");
}

#[test]
fn bad_input_is_one_sentence_before_anything_starts() {
    let boot = Boot::new("bad");
    let started = boot.0.path("started");
    let script = format!("touch '{started}'");
    let run = |more: &[&str]| boot.run(&script, more);
    run(&["--cpus", "9"]).expect_sentence(2, "--cpus 9: the machine has 1 to 8 vCPUs\n");
    run(&["--cpus", "0"]).expect_sentence(2, "--cpus 0: the machine has 1 to 8 vCPUs\n");
    run(&["--timeout", "0"]).expect_sentence(2, "--timeout 0: at least one second\n");
    let unknown = run(&["--host", "liar"]);
    unknown.expect_sentence(2, "--host liar: no such host; there are honest, never-switch, ");
    assert!(machine::host::all_policies().iter().all(|(name, ..)| unknown.stderr.contains(name)));
    let nowhere = boot.0.path("missing/trace");
    run(&["--trace", &nowhere]).expect_sentence(2, &format!("{nowhere}: No such file"));

    let good = image();
    let broken = boot.0.path("image");
    let mut damaged = good.clone();
    damaged[0x40] ^= 1;
    for bytes in [&b"not an image"[..], &[], &good[..good.len() - 1], &damaged] {
        fs::write(&broken, bytes).unwrap();
        run(&[]).expect_sentence(2, &format!("{broken}: "));
    }
    fs::remove_file(&broken).unwrap();
    run(&[]).expect_sentence(2, &format!("{broken}: No such file"));
    fs::write(&broken, &good).unwrap();
    let emulator = boot.0.path("emulator");
    fs::remove_file(&emulator).unwrap();
    run(&[]).expect_sentence(2, &format!("{emulator}: there is no such file\n"));
    assert!(!Path::new(&started).exists());
}

#[test]
fn a_guest_that_is_no_program_for_its_place_is_one_sentence() {
    let folder = Folder::new("guest");
    let environment = [("QEMU", STAND_IN), ("STAND_IN", "/nonexistent")];
    let text = folder.write("text", b"not a program");
    let done = conformance(&["boot", "--guest", &text], &environment);
    done.expect_sentence(2, &format!("{text}: not an ELF file: "));
    let monitor = folder.write("monitor", &small(MONITOR));
    let done = conformance(&["boot", "--guest", &monitor], &environment);
    done.expect_sentence(2, &format!("{monitor}: the segment 0x100000..0x101000 lies outside of "));
}

#[test]
fn a_missing_qemu_is_one_sentence_that_says_how_to_get_it() {
    let boot = Boot::new("missing");
    let arguments = boot.arguments(&[]);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = conformance(&arguments, &[("QEMU", "/nonexistent/qemu")]);
    done.expect_sentence(2, "QEMU=/nonexistent/qemu: there is no such program\n");
    let done = conformance(&arguments, &[("QEMU", "no-such-qemu-anywhere")]);
    done.expect_sentence(2, "QEMU=no-such-qemu-anywhere: there is no such program\n");
    let done = conformance(&arguments, &[("QEMU", ""), ("PATH", "/nonexistent")]);
    done.expect_sentence(2, "there is no qemu-system-x86_64 in PATH: install it (Debian, Ubuntu: apt-get install ");
    let done = conformance(&arguments, &[("QEMU", &boot.0.path("image"))]);
    done.expect_sentence(2, &format!("{}: Permission denied", boot.0.path("image")));
}

/// Whether a process runs. One that has ended and that nobody has waited for does not.
fn is_running(pid: &str) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/stat"));
    status.is_ok_and(|status| status.rsplit(')').next().is_some_and(|rest| !rest.trim_start().starts_with('Z')))
}

/// A script that runs on and on in two processes, whose numbers it writes down.
fn endless(pids: &str) -> String {
    format!(
        "echo 'emulator: starts'; printf 'vmpl2: half'; sleep 600 & echo $$ $! > '{pids}.new'; mv '{pids}.new' '{pids}'; wait"
    )
}

fn expect_gone(pids: &str) {
    let pids = fs::read_to_string(pids).unwrap();
    assert_eq!(pids.split_whitespace().count(), 2);
    let end = Instant::now() + Duration::from_secs(5);
    for pid in pids.split_whitespace() {
        while is_running(pid) {
            assert!(Instant::now() < end, "process {pid} is left behind");
            sleep(Duration::from_millis(10));
        }
    }
}

#[test]
fn a_qemu_that_does_not_end_is_killed_with_all_its_processes() {
    let boot = Boot::new("timeout");
    let pids = boot.0.path("pids");
    let begin = Instant::now();
    let done = boot.run(&endless(&pids), &["--timeout", "1"]);
    done.expect_sentence(4, "no end after 1 s, so QEMU was killed; last from the emulator: starts\n");
    assert!(begin.elapsed() < Duration::from_secs(20));
    // What had been written is shown.
    assert_eq!(done.stdout, "emulator: starts\nvmpl2: half\n");
    expect_gone(&pids);
}

#[test]
fn a_qemu_that_closes_its_console_and_runs_on_is_killed() {
    let boot = Boot::new("closed");
    let pids = boot.0.path("pids");
    let done = boot.run(&format!("exec >/dev/null 2>&1; {}", endless(&pids)), &["--timeout", "1"]);
    done.expect_sentence(
        4,
        "no end after 1 s, so QEMU was killed; last from the emulator: the emulator said nothing\n",
    );
    expect_gone(&pids);
}

#[test]
fn a_guest_that_writes_for_ever_is_ended_too() {
    let done = Boot::new("flood").run("while :; do echo 'vmpl2: and on'; done", &["--timeout", "1"]);
    done.expect_sentence(
        4,
        "no end after 1 s, so QEMU was killed; last from the emulator: the emulator said nothing\n",
    );
}

/// Starts a boot whose script writes down its processes, and gives it once they run.
fn start(boot: &Boot, script: &str, pids: &str) -> Child {
    let script = boot.0.write("script", script.as_bytes());
    let mut command = Command::new(env!("CARGO_BIN_EXE_conformance"));
    command.args(boot.arguments(&[])).env("QEMU", STAND_IN).env("STAND_IN", &script);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let end = Instant::now() + Duration::from_secs(20);
    while !Path::new(pids).exists() {
        assert!(Instant::now() < end);
        sleep(Duration::from_millis(10));
    }
    child
}

/// The same, and it writes without end.
fn flood(pids: &str) -> String {
    format!("while :; do echo x; done & {}", endless(pids))
}

#[test]
fn a_signal_ends_qemu_with_the_command() {
    for (signal, script) in
        [("-TERM", endless as fn(&str) -> String), ("-INT", endless), ("-HUP", endless), ("-TERM", flood)]
    {
        let boot = Boot::new(&format!("signal{signal}"));
        let pids = boot.0.path("pids");
        let child = start(&boot, &script(&pids), &pids);
        assert!(Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap().success());
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(5), "{signal}");
        assert_eq!(String::from_utf8(output.stderr).unwrap(), "conformance: ended by a signal\n");
        expect_gone(&pids);
    }
}

#[test]
fn a_reader_that_goes_away_ends_qemu_with_the_command() {
    let boot = Boot::new("pipe");
    let pids = boot.0.path("pids");
    let mut child = start(&boot, &flood(&pids), &pids);
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(5));
    assert!(String::from_utf8(output.stderr).unwrap().starts_with("conformance: standard output: Broken pipe"));
    expect_gone(&pids);
}
