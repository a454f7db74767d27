//! What the lines of a boot say about each of its cases.

use image_cases::{About, End};

use super::plan::{Boot, all};

/// What a case came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Result {
    /// Everything held.
    Pass,
    /// Something did not; what.
    Fail(String),
    /// It did not run; why.
    NotRun(String),
}

/// Instructions of all levels and vCPUs since the machine began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// PVALIDATE.
    pub pvalidate: u64,
    /// RMPADJUST.
    pub rmpadjust: u64,
    /// VMGEXIT.
    pub vmgexit: u64,
    /// VMRUN: switches to a level.
    pub vmrun: u64,
}

impl Counts {
    const NAMES: [&'static str; 4] = ["pvalidate", "rmpadjust", "vmgexit", "vmrun"];

    fn values(&self) -> [u64; 4] {
        [self.pvalidate, self.rmpadjust, self.vmgexit, self.vmrun]
    }

    fn of([pvalidate, rmpadjust, vmgexit, vmrun]: [u64; 4]) -> Self {
        Self { pvalidate, rmpadjust, vmgexit, vmrun }
    }

    /// What was executed since an earlier moment.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        let (now, before) = (self.values(), before.values());
        Self::of(core::array::from_fn(|index| now[index].saturating_sub(before[index])))
    }
}

/// A case in one boot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaseRun {
    /// What is known of it.
    pub about: About,
    /// What it came to.
    pub result: Result,
    /// What was executed from each of its marks to the next, with the number of the next one.
    pub counts: Vec<(u8, Counts)>,
}

/// The line for a mark.
pub fn mark_line(number: u8, vcpu: u8, counts: &Counts) -> String {
    let mut line = format!("emulator: mark {number} vcpu={vcpu}");
    for (name, value) in Counts::NAMES.into_iter().zip(counts.values()) {
        line += &format!(" {name}={value}");
    }
    line
}

/// The line for a nested page fault that no host repairs.
pub fn fault_line(vcpu: u8, vmpl: u8, gpa: u64, info: u64) -> String {
    format!(
        "emulator: vCPU {vcpu} at VMPL{vmpl}: nested page fault at {gpa:#x} (EXITINFO1 {info:#x}), which the host does not repair"
    )
}

/// Number and rest of what the emulator says at a mark.
pub(crate) fn mark(text: &str) -> Option<(u8, &str)> {
    let (number, rest) = text.strip_prefix("mark ")?.split_once(' ')?;
    Some((number.parse().ok()?, rest))
}

fn counts_of(text: &str) -> Option<(u8, Counts)> {
    let (number, rest) = mark(text)?;
    let value = |name| {
        let prefix = format!("{name}=");
        rest.split(' ').find_map(|word| word.strip_prefix(&prefix)?.parse().ok())
    };
    let mut values = [0; 4];
    for (place, name) in values.iter_mut().zip(Counts::NAMES) {
        *place = value(name)?;
    }
    Some((number, Counts::of(values)))
}

/// Reads the lines of a boot. Every case of the boot has a result; one that nothing is said about has failed.
pub fn read(boot: &Boot, lines: &[String]) -> Vec<CaseRun> {
    let all = all();
    let abouts = boot.cases.iter().filter_map(|number| all.get(*number));
    let mut reader = Reader { runs: Vec::new(), current: None, last: None, reaches: None, trouble: Vec::new() };
    reader.runs.extend(abouts.map(|about| CaseRun {
        about: *about,
        result: Result::Fail("nothing is said about it".to_owned()),
        counts: Vec::new(),
    }));
    for line in lines {
        if let Some(text) = line.strip_prefix("emulator: ") {
            reader.machine(text, line);
        } else if let Some((_, text)) = line.split_once(": ") {
            reader.guest(text);
        }
    }
    reader.end()
}

struct Reader {
    runs: Vec<CaseRun>,
    /// The case that runs.
    current: Option<usize>,
    /// The counts at its last mark.
    last: Option<Counts>,
    /// Where the guest said that it will not come back from.
    reaches: Option<u64>,
    /// What is wrong with the boot as a whole.
    trouble: Vec<String>,
}

impl Reader {
    fn guest(&mut self, text: &str) {
        if let Some(at) = text.strip_prefix("expects a nested page fault at 0x") {
            self.reaches = u64::from_str_radix(at, 16).ok();
        }
        let Some((id, what)) = text.strip_prefix("case ").and_then(|text| text.split_once(' ')) else { return };
        let Some(index) = self.runs.iter().position(|run| run.about.id == id) else {
            return self.trouble.push(format!("a case that was not asked for: {id}"));
        };
        let (word, rest) = what.split_once(' ').unwrap_or((what, ""));
        let result = match word {
            "begin" => {
                (self.current, self.last, self.reaches) = (Some(index), None, None);
                Result::Fail("it does not come to an end".to_owned())
            }
            "pass" if self.runs[index].about.end == End::Reports => Result::Pass,
            "pass" => Result::Fail("its boot did not end as it has to".to_owned()),
            "skip" => Result::NotRun(rest.to_owned()),
            _ => Result::Fail(rest.to_owned()),
        };
        self.runs[index].result = result;
    }

    fn machine(&mut self, text: &str, line: &str) {
        if let Some(violation) = text.strip_prefix("violation ") {
            return self.trouble.push(format!("a rule of the machine was broken: {violation}"));
        }
        let Some(run) = self.current.and_then(|index| self.runs.get_mut(index)) else { return };
        if let Some((number, counts)) = counts_of(text) {
            if let Some(before) = &self.last {
                run.counts.push((number, counts.since(before)));
            }
            self.last = Some(counts);
        } else if let (End::Faults { vmpl: level, info }, Some(at)) = (run.about.end, self.reaches)
            && (0..8).any(|vcpu| line == fault_line(vcpu, level, at, info))
        {
            run.result = Result::Pass;
        } else if matches!(&run.result, Result::Fail(why) if why == "it does not come to an end") {
            run.result = Result::Fail(format!("the boot ended: {text}"));
        }
    }

    fn end(mut self) -> Vec<CaseRun> {
        if !self.trouble.is_empty()
            && let Some(run) = self.current.and_then(|index| self.runs.get_mut(index))
        {
            run.result = Result::Fail(self.trouble.join("; "));
        }
        self.runs
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::emulated::plan::plan;

    fn boot(id: &str) -> Boot {
        plan(2, |about| about.id == id).remove(0)
    }

    fn lines(lines: &[&str]) -> Vec<String> {
        lines.iter().map(|line| (*line).to_owned()).collect()
    }

    fn result(id: &str, said: &[&str]) -> Result {
        read(&boot(id), &lines(said)).remove(0).result
    }

    #[test]
    fn a_case_passes_only_if_it_says_so() {
        const ID: &str = "M2-validate-twice";
        assert_eq!(
            result(ID, &["vmpl2: case M2-validate-twice begin", "vmpl2: case M2-validate-twice pass"]),
            Result::Pass
        );
        let failed = ["vmpl2: case M2-validate-twice begin", "vmpl2: case M2-validate-twice fail a: got 1, want 2"];
        assert_eq!(result(ID, &failed), Result::Fail("a: got 1, want 2".into()));
        for nothing in [&[][..], &["vmpl2: case M2-validate-twice begin"], &["vmpl2: cases done 0"]] {
            assert!(matches!(result(ID, nothing), Result::Fail(_)), "{nothing:?}");
        }
        let ended = ["vmpl2: case M2-validate-twice begin", "emulator: vCPU 0 at VMPL2: triple fault"];
        assert_eq!(result(ID, &ended), Result::Fail("the boot ended: vCPU 0 at VMPL2: triple fault".into()));
    }

    #[test]
    fn a_broken_rule_of_the_machine_fails_the_case_that_ran_last() {
        let said = [
            "vmpl2: case M2-validate-twice begin",
            "vmpl2: case M2-validate-twice pass",
            "emulator: violation O1: text",
        ];
        assert!(matches!(result("M2-validate-twice", &said), Result::Fail(_)));
    }

    #[test]
    fn a_denied_access_has_to_fault_where_and_how_it_was_told() {
        const ID: &str = "M7-denied-load-of-l1";
        let about = *all().iter().find(|about| about.id == ID).expect("the case is there");
        let End::Faults { info, .. } = about.end else { panic!("{about:?}") };
        let begin = "vmpl2: case M7-denied-load-of-l1 begin";
        let told = "vmpl2: expects a nested page fault at 0x180000";
        let fault = |vmpl, gpa, info| fault_line(0, vmpl, gpa, info);
        assert_eq!(result(ID, &[begin, told, &fault(2, 0x18_0000, info)]), Result::Pass);
        for wrong in [fault(2, 0x18_1000, info), fault(2, 0x18_0000, info | 2), fault(0, 0x18_0000, info)] {
            assert!(matches!(result(ID, &[begin, told, &wrong]), Result::Fail(_)), "{wrong}");
        }
        assert!(matches!(result(ID, &[begin, &fault(2, 0x18_0000, info)]), Result::Fail(_)), "it was not told");
        let passed = "vmpl2: case M7-denied-load-of-l1 pass";
        assert!(matches!(result(ID, &[begin, told, passed]), Result::Fail(_)), "it came back");
    }

    #[test]
    fn counts_are_those_between_two_marks() {
        let counts = |value| Counts { pvalidate: value, rmpadjust: 2 * value, vmgexit: 3 * value, vmrun: 4 * value };
        let said = [
            "vmpl2: case M2-validate-twice begin".to_owned(),
            mark_line(0, 0, &counts(100)),
            mark_line(1, 0, &counts(101)),
            mark_line(255, 0, &counts(105)),
            "vmpl2: case M2-validate-twice pass".to_owned(),
        ];
        let run = read(&boot("M2-validate-twice"), &said).remove(0);
        assert_eq!(run.counts, [(1, counts(1)), (255, counts(4))]);
    }
}
