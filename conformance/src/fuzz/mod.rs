//! What reads bytes of somebody untrusted: one function per parser, for fuzzers and for bounded tests.
//!
//! A target takes any bytes, brings them to one parser as the host, a guest or a file would, and checks what must hold
//! whatever they are: no panic, bounded work, results in range, nothing changed by what was refused. It panics when
//! something does not hold. `conformance/fuzz` gives the targets to libFuzzer; [`drive`] runs them without it, with random
//! bytes and with changed examples.

mod bytes;
mod calls;
mod ghcb;
mod images;
mod message;
mod pages;
mod port;

use crate::runner::Rng;

/// One parser.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Name, also of the fuzzer's program.
    pub name: &'static str,
    /// Feeds it with bytes; says whether it took them.
    pub run: fn(&[u8]) -> bool,
    /// Inputs that get far.
    pub examples: fn() -> Vec<Vec<u8>>,
}

/// Every target.
pub const TARGETS: &[Target] = &[
    Target { name: "ghcb_answer", run: ghcb::answer, examples: ghcb::answer_examples },
    Target { name: "page_state_answer", run: ghcb::page_state, examples: ghcb::page_state_examples },
    Target { name: "msr_answer", run: ghcb::msr, examples: ghcb::msr_examples },
    Target { name: "message_answer", run: message::run, examples: message::examples },
    Target { name: "secrets_page", run: pages::secrets, examples: pages::secrets_examples },
    Target { name: "cpuid_page", run: pages::cpuid, examples: pages::cpuid_examples },
    Target { name: "report", run: pages::report, examples: pages::report_examples },
    Target { name: "igvm", run: images::igvm, examples: images::igvm_examples },
    Target { name: "launch_parameters", run: images::parameters, examples: images::parameter_examples },
    Target { name: "instruction", run: images::instruction, examples: images::instruction_examples },
    Target { name: "call_list", run: calls::list, examples: calls::list_examples },
    Target { name: "state_frame", run: calls::state_frame, examples: calls::state_frame_examples },
    Target { name: "monitor_calls", run: calls::monitor, examples: calls::monitor_examples },
];

/// Runs the target of a name; says whether the parser took the bytes.
///
/// # Panics
/// If there is none, or if something does not hold.
pub fn run(name: &str, data: &[u8]) -> bool {
    let target = TARGETS.iter().find(|target| target.name == name);
    (target.unwrap_or_else(|| panic!("no target {name}")).run)(data)
}

/// Longest random input.
const LONGEST: usize = 640;

/// Runs a target on its examples, and then on random bytes and on examples with random changes. Gives how many of all inputs
/// the parser took, and how many it refused.
///
/// # Panics
/// If something does not hold.
pub fn drive(target: &Target, seed: u64, runs: usize) -> [usize; 2] {
    let examples = (target.examples)();
    let mut counts = [0; 2];
    let mut feed = |input: &[u8]| counts[usize::from(!(target.run)(input))] += 1;
    examples.iter().for_each(|example| feed(example));
    let mut rng = Rng::new(seed);
    for _ in 0..runs {
        let input = if rng.below(4) == 0 || examples.is_empty() {
            let len = rng.below(LONGEST);
            (0..len).map(|_| rng.next_u64() as u8).collect()
        } else {
            let mut input = examples[rng.below(examples.len())].clone();
            for _ in 0..=rng.below(4) {
                change(&mut input, &mut rng);
            }
            input
        };
        feed(&input);
    }
    counts
}

/// One change of an input.
fn change(input: &mut Vec<u8>, rng: &mut Rng) {
    let len = input.len().max(1);
    let at = rng.below(len);
    match rng.below(8) {
        0 => input.truncate(at),
        1 => {
            let tail = input.get(at..).unwrap_or_default().to_vec();
            input.extend(tail);
            input.truncate(2 * LONGEST);
        }
        2 | 3 => {
            // A word that often is a limit.
            let words = [0, 1, 2, 0x7f, 0xff, 0x100, 0xfff, 0x1000, 0x20_0000, 1 << 31, 1 << 52, 1 << 63, u64::MAX];
            let word = words[rng.below(words.len())].to_le_bytes();
            let width = 1 << rng.below(4);
            input.iter_mut().skip(at & !(width - 1)).zip(word).take(width).for_each(|(byte, new)| *byte = new);
        }
        4 => input.iter_mut().skip(at).take(1).for_each(|byte| *byte = rng.next_u64() as u8),
        _ => input.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1 << rng.below(8)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One test per target, so that each has its own line.
    macro_rules! driven {
        ($($test:ident: $name:literal, $runs:literal;)*) => {
            $(#[test]
            fn $test() {
                let target = TARGETS.iter().find(|target| target.name == $name).expect("listed");
                let [taken, refused] = drive(target, 0xf022, $runs);
                println!("fuzz: {}: {taken} taken, {refused} refused", target.name);
                assert!(taken > 0 && refused > 0, "{taken} taken, {refused} refused");
            })*

            #[test]
            fn every_target_is_driven_and_has_a_program() {
                let driven = [$($name),*];
                let names: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
                assert_eq!(names, driven);
                let manifest = include_str!("../../fuzz/Cargo.toml");
                for name in names {
                    assert!(manifest.contains(&format!("name = \"{name}\"")), "{name}");
                }
            }
        };
    }

    driven! {
        ghcb_answers_are_checked_whatever_the_host_writes: "ghcb_answer", 20_000;
        page_state_answers_are_checked_whatever_the_host_writes: "page_state_answer", 10_000;
        msr_answers_are_checked_whatever_the_host_writes: "msr_answer", 20_000;
        message_answers_are_checked_whatever_the_host_writes: "message_answer", 1_000;
        secrets_pages_are_checked_whatever_they_hold: "secrets_page", 10_000;
        cpuid_pages_are_checked_whatever_they_hold: "cpuid_page", 10_000;
        reports_keep_every_byte: "report", 10_000;
        igvm_files_are_checked_whatever_they_hold: "igvm", 3_000;
        launch_parameters_are_checked_whatever_they_hold: "launch_parameters", 20_000;
        instruction_bytes_are_decoded_or_refused: "instruction", 50_000;
        lists_of_a_caller_are_checked_whatever_they_hold: "call_list", 20_000;
        state_frames_are_checked_whatever_they_hold: "state_frame", 20_000;
        a_monitor_stands_any_sequence_of_calls: "monitor_calls", 60;
    }
}
