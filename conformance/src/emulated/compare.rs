//! Machine and emulator side by side.

use std::fmt;

use super::limits::{counts_steps, limit};
use super::read::{CaseRun, Counts, Result};

/// Something that the two do not agree about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Id of the case.
    pub case: &'static str,
    /// What it is.
    pub what: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.case, self.what)
    }
}

/// How much is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// Results: where vCPUs meet in another order each time.
    Results,
    /// Results, and the counts between marks.
    Counts,
}

/// What the emulator's runs and the step machine's runs of the same boots differ in. Cases that the emulator cannot show are
/// left out.
pub fn compare(emulated: &[CaseRun], stepped: &[CaseRun], depth: Depth) -> Vec<Difference> {
    let mut differences = Vec::new();
    for emulated in emulated.iter().filter(|run| limit(run.about.id).is_none()) {
        let case = emulated.about.id;
        let mut differs = |what| differences.push(Difference { case, what });
        let Some(stepped) = stepped.iter().find(|run| run.about.id == case) else {
            differs("the step machine did not run it".to_owned());
            continue;
        };
        let (ours, theirs) = (&emulated.result, &stepped.result);
        let has_counts = depth == Depth::Counts && !counts_steps(emulated.about.host);
        let is_alike = match (ours, theirs) {
            (Result::Fail(_), Result::Fail(_)) => true,
            (ours, theirs) => ours == theirs,
        };
        if !is_alike {
            differs(format!("{} in the emulator, {} on the step machine", name(ours), name(theirs)));
        } else if has_counts && emulated.counts != stepped.counts {
            differs(counts(&emulated.counts, &stepped.counts));
        }
    }
    differences
}

fn name(result: &Result) -> &'static str {
    match result {
        Result::Pass => "pass",
        Result::Fail(_) => "fail",
        Result::NotRun(_) => "not run",
    }
}

fn counts(emulated: &[(u8, Counts)], stepped: &[(u8, Counts)]) -> String {
    if emulated.len() != stepped.len() {
        return format!("{} marks in the emulator, {} on the step machine", emulated.len(), stepped.len());
    }
    let first = emulated.iter().zip(stepped).find(|(ours, theirs)| ours != theirs);
    first.map_or_else(String::new, |((mark, ours), (other, theirs))| {
        if mark == other {
            format!("up to mark {mark}: {ours:?} in the emulator, {theirs:?} on the step machine")
        } else {
            format!("mark {mark} in the emulator, mark {other} on the step machine")
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::emulated::plan::all;

    fn run(result: Result, counts: &[(u8, u64)]) -> CaseRun {
        let counts = counts.iter().map(|(mark, vmgexit)| (*mark, Counts { vmgexit: *vmgexit, ..Counts::default() }));
        CaseRun { about: all().remove(0), result, counts: counts.collect() }
    }

    #[test]
    fn equal_runs_do_not_differ() {
        let one = [run(Result::Pass, &[(1, 5), (255, 7)])];
        assert_eq!(compare(&one, &one, Depth::Counts), []);
    }

    #[test]
    fn another_result_another_count_or_a_missing_run_is_a_difference() {
        let pass = |counts: &[(u8, u64)]| [run(Result::Pass, counts)];
        let fail = [run(Result::Fail("why".into()), &[])];
        assert_eq!(compare(&pass(&[]), &fail, Depth::Results).len(), 1);
        assert_eq!(compare(&pass(&[]), &[], Depth::Results).len(), 1);
        for other in [&[(1, 6)][..], &[(2, 5)], &[(1, 5), (2, 5)], &[]] {
            assert_eq!(compare(&pass(&[(1, 5)]), &pass(other), Depth::Counts).len(), 1, "{other:?}");
            assert_eq!(compare(&pass(&[(1, 5)]), &pass(other), Depth::Results), [], "{other:?}");
        }
    }
}
