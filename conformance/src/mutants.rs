//! Proves that cases can fail: each deliberate defect must make some case fail that passes without it.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;

use serde::Serialize;

use crate::platform::{Mutant, Platform};
use crate::suite::{Case, CaseReport, Outcome, Report, cases, run::run_with};
use crate::world::Options;

/// Which cases noticed a defect.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MutantReport {
    /// Name of the defect.
    pub name: &'static str,
    /// The backend on whose platform it is.
    pub backend: &'static str,
    /// What it is a defect of: `backend`, `monitor`, or a machine rule by its id.
    pub of: &'static str,
    /// Ids of the first cases that fail with it and pass without it, as many as were asked for.
    pub killed_by: Vec<&'static str>,
}

/// Runs the cases that passed in `report` on every mutant of a backend, each until so many have noticed it. `progress` is told
/// after each mutant.
///
/// Mutants are judged on several threads; the result does not depend on that.
pub fn run<P: Platform>(
    report: &Report,
    seed: u64,
    enough: usize,
    mut progress: impl FnMut(&str),
) -> Vec<MutantReport> {
    let turns_of = |case: &Case<P>| {
        let passed = |done: &&CaseReport| done.id == case.id && done.backend == P::NAME && done.result == Outcome::Pass;
        report.cases.iter().find(passed).map(|done| done.turns)
    };
    let cases: Vec<(Case<P>, u64)> =
        cases::<P>().into_iter().filter_map(|case| turns_of(&case).map(|turns| (case, turns))).collect();
    let mutants = P::mutants();
    let mut judged: Vec<Option<MutantReport>> = mutants.iter().map(|_| None).collect();
    let next = AtomicUsize::new(0);
    let (done, news) = mpsc::channel();
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            let (done, next, mutants, cases) = (done.clone(), &next, &mutants, &cases);
            scope.spawn(move || {
                while let Some((index, mutant)) = take(next, mutants) {
                    let killers = cases.iter().filter(|(case, turns)| kills(case, *turns, mutant, seed));
                    let killed_by = killers.take(enough).map(|(case, _)| case.id).collect();
                    // Nobody listens only when the run was given up.
                    let _ = done
                        .send((index, MutantReport { name: mutant.name, backend: P::NAME, of: mutant.of, killed_by }));
                }
            });
        }
        drop(done);
        for (index, report) in news {
            progress(report.name);
            judged[index] = Some(report);
        }
    });
    judged.into_iter().flatten().collect()
}

/// The mutants of a platform: defects of backend or monitor by name and what they are of, and machines without one rule.
pub fn of<P: Platform>(
    defects: impl Iterator<Item = (&'static str, &'static str)>,
    rules: &[&'static str],
) -> Vec<Mutant<P>> {
    let defects = defects.map(|(name, of)| {
        let options = Options { defect: Some(name), ..Options::default() };
        Mutant { name, of, options }
    });
    let rules = rules.iter().map(|rule| {
        let options = Options { broken_rules: BTreeSet::from([*rule]), ..Options::default() };
        Mutant { name: rule, of: rule, options }
    });
    defects.chain(rules).collect()
}

/// The next mutant that no thread has taken.
fn take<'m, P: Platform>(next: &AtomicUsize, mutants: &'m [Mutant<P>]) -> Option<(usize, &'m Mutant<P>)> {
    let index = next.fetch_add(1, Ordering::Relaxed);
    mutants.get(index).map(|mutant| (index, mutant))
}

/// A mutant is killed when any variant of the machine shows it. A defect may make a case wait for ever, so it gets four
/// times the turns that it takes without one.
fn kills<P: Platform>(case: &Case<P>, turns: u64, mutant: &Mutant<P>, seed: u64) -> bool {
    (0..P::VARIANTS.len()).any(|variant| {
        let options = Options { seed, variant, turns: 4 * turns + 10_000, ..mutant.options.clone() };
        run_with(case, options).result == Outcome::Fail
    })
}
