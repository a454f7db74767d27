//! One run, two vendors: the guest program's verbs and their neutral results are the same on both machines, line by line.
//!
//! What may differ between the vendors is [`Differs`], and it has to be what each vendor's documentation says.

use coco_part_api::{
    Binding, Capabilities, DataForm, FlushReach, GuestLevel, Hierarchy, HostReach, Level, Support, VcpuId,
};
use conformance::platform::Platform;
use conformance::snp::Snp;
use conformance::suite::Bench;
use conformance::suite::guest_program::{Outcome, Run, Then, run_at_l1, run_programs};
use conformance::tdx::Tdx;
use conformance::world::Options;

/// Seeds of the schedules; each goes with another variant of the machine and, on SNP, another way to ask for a switch.
const SEEDS: [u64; 4] = [1, 2, 3, 4];

/// Which programs run, and where.
#[derive(Clone, Copy, Debug)]
enum Program {
    /// The boot program below L1, on one vCPU.
    Alone,
    /// It creates a second vCPU.
    Two(Then),
    /// The boot program at L1.
    AtL1,
}

/// One run, which no oracle of its machine objects to.
fn run<P: Platform>(program: Program, seed: u64) -> Run {
    let mut bench = Bench::<P>::new(Options::default());
    let options = Options { seed, variant: (seed / 2) as usize % P::VARIANTS.len(), ..bench.options() };
    let done = match program {
        Program::Alone => run_programs(&mut bench, options, None),
        Program::Two(then) => run_programs(&mut bench, options, Some(then)),
        Program::AtL1 => run_at_l1(&mut bench, options),
    };
    let (run, _) = done.unwrap_or_else(|stop| panic!("{program:?} on {} with seed {seed}: {stop:?}", P::NAME));
    assert_eq!(bench.record().violations, [""; 0], "{program:?} on {} with seed {seed}", P::NAME);
    run
}

/// The programs of a run that got to an end.
fn outcomes(run: &Run) -> impl Iterator<Item = (VcpuId, &Outcome)> {
    let programs = [(VcpuId(0), &run.outcome), (VcpuId(1), &run.further_outcome)];
    programs.into_iter().filter_map(|(vcpu, outcome)| Some((vcpu, outcome.as_ref()?)))
}

/// Everything of a run that no vendor may change: verbs with their ranges and results, errors by their kinds, levels.
fn neutral(run: &Run) -> Vec<String> {
    let logs = [(VcpuId(0), &run.boot), (VcpuId(1), &run.further)];
    let verbs = logs.iter().flat_map(|(vcpu, log)| log.lines().iter().map(move |line| format!("{vcpu}: {line}")));
    let levels = outcomes(run).map(|(vcpu, Outcome { level, evidence, .. })| {
        format!("{vcpu}: ran at {level:?}, its evidence names {:?}", evidence.names)
    });
    verbs.chain(levels).collect()
}

/// The first line in which two runs differ, `None` where they are the same.
fn first_difference(one: &[String], other: &[String]) -> Option<String> {
    let line = |run: &[String], index: usize| run.get(index).map_or("(nothing)".to_owned(), String::clone);
    let differs = |index: &usize| one.get(*index) != other.get(*index);
    let index = (0..one.len().max(other.len())).find(differs)?;
    Some(format!("line {}: `{}` against `{}`", index + 1, line(one, index), line(other, index)))
}

/// Runs a program with every seed on both machines, demands the same lines of all, and gives the last run of each vendor.
fn same_on_both(program: Program, lines: usize) -> [Run; 2] {
    let runs = SEEDS.map(|seed| [run::<Snp>(program, seed), run::<Tdx>(program, seed)]);
    let [first, _] = &runs[0];
    let want = neutral(first);
    assert_eq!(want.len(), lines, "{want:#?}");
    for (seed, [snp, tdx]) in SEEDS.iter().zip(&runs) {
        for (name, run) in [(Snp::NAME, snp), (Tdx::NAME, tdx)] {
            if let Some(line) = first_difference(&want, &neutral(run)) {
                panic!("{program:?}: {} with seed {} against {name} with seed {seed}, {line}", Snp::NAME, SEEDS[0]);
            }
        }
    }
    let [.., last] = runs;
    last
}

/// What the vendors' documentation lets a program find different.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Differs {
    /// Who vouches for the level in its evidence.
    bound_by: Binding,
    /// What its evidence is over.
    data: DataForm,
    /// Bytes of it.
    len: usize,
    /// What the vendor can do.
    capabilities: Capabilities,
}

/// What a program found.
fn found(outcome: &Outcome) -> Differs {
    let Outcome { evidence, capabilities, bytes, .. } = outcome;
    assert_eq!(bytes.len(), evidence.len);
    Differs { bound_by: evidence.bound_by, data: evidence.data, len: evidence.len, capabilities: *capabilities }
}

/// SEV-SNP: the firmware signs the level as a field of a report of 1184 bytes (`attestation_report.csv`). Who has a key of
/// its own gets its own bytes signed; for whom L1 asks, a digest.
fn snp_differs(data: DataForm) -> Differs {
    let capabilities = Capabilities {
        hierarchy: Hierarchy::Ordered,
        guest_levels: 1,
        host_reach: HostReach::Direct,
        rescind_unassigned: Support::Yes,
        flush: FlushReach::AllVcpus,
        binding: Binding::Hardware,
        inject: Support::No,
    };
    Differs { bound_by: Binding::Hardware, data, len: 1184, capabilities }
}

/// TDX, "What it cannot do" in the README of `backend-tdx-stub`: a local report of 1024 bytes (`tdreport.csv`) names no
/// level (TDX-65), so L1 puts it into the report data of every one, its own included.
fn tdx_differs() -> Differs {
    let capabilities = Capabilities {
        hierarchy: Hierarchy::Siblings,
        guest_levels: 3,
        host_reach: HostReach::ThroughMonitor,
        rescind_unassigned: Support::No,
        flush: FlushReach::OwnVcpu,
        binding: Binding::Monitor,
        inject: Support::Yes,
    };
    Differs { bound_by: Binding::Monitor, data: DataForm::Digest, len: 1024, capabilities }
}

/// Demands of each vendor's programs what its documentation says, and evidence that is not the other vendor's.
fn differ_as_documented([snp, tdx]: &[Run; 2], level: Level, of_snp: &[DataForm]) {
    let want: Vec<_> = of_snp.iter().map(|data| snp_differs(*data)).collect();
    assert_eq!(outcomes(snp).map(|(_, outcome)| found(outcome)).collect::<Vec<_>>(), want);
    let want: Vec<_> = of_snp.iter().map(|_| tdx_differs()).collect();
    assert_eq!(outcomes(tdx).map(|(_, outcome)| found(outcome)).collect::<Vec<_>>(), want);
    for ((_, one), (_, other)) in outcomes(snp).zip(outcomes(tdx)) {
        assert_eq!([one.level, other.level], [level; 2]);
        assert_ne!(one.bytes, other.bytes);
    }
}

const GUEST: Level = Level::Guest(GuestLevel::TWO);

#[test]
fn a_guest_on_one_vcpu_does_the_same_on_both() {
    let runs = same_on_both(Program::Alone, 14);
    differ_as_documented(&runs, GUEST, &[DataForm::Verbatim]);
}

#[test]
fn a_guest_that_destroys_its_second_vcpu_does_the_same_on_both() {
    let runs = same_on_both(Program::Two(Then::Destroy), 25);
    // On SNP only the first vCPU has a key.
    differ_as_documented(&runs, GUEST, &[DataForm::Verbatim, DataForm::Digest]);
}

#[test]
fn a_guest_that_leaves_its_second_vcpu_does_the_same_on_both() {
    let runs = same_on_both(Program::Two(Then::Leave), 23);
    differ_as_documented(&runs, GUEST, &[DataForm::Verbatim, DataForm::Digest]);
}

#[test]
fn the_same_program_at_l1_does_the_same_on_both_and_logs_what_a_guest_logs() {
    let runs = same_on_both(Program::AtL1, 14);
    differ_as_documented(&runs, Level::Monitor, &[DataForm::Verbatim]);
    let guest = run::<Tdx>(Program::Alone, SEEDS[0]);
    assert_eq!(first_difference(runs[0].boot.lines(), guest.boot.lines()), None);
}

#[test]
fn the_first_line_that_differs_is_named() {
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
    let run = lines("validate: done\nshare: done\nattest: done");
    assert_eq!(first_difference(&run, &run), None);
    let other = lines("validate: done\nshare: Busy\nattest: Busy");
    assert_eq!(first_difference(&run, &other).as_deref(), Some("line 2: `share: done` against `share: Busy`"));
    let shorter = &run[..2];
    assert_eq!(first_difference(&run, shorter).as_deref(), Some("line 3: `attest: done` against `(nothing)`"));
    assert_eq!(first_difference(shorter, &run).as_deref(), Some("line 3: `(nothing)` against `attest: done`"));
}
