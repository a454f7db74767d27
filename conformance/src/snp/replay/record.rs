//! The list of a run: a line per request and its answer; what repeats is written once, with its number.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::{self, Write};
use std::rc::Rc;

/// Most lines of a group that is looked for.
const LONGEST_GROUP: usize = 6;

/// Something of a list.
#[derive(Clone, Debug)]
enum Item {
    Heading(String),
    Line(String),
}

/// What one CPU asked for and was answered, from its first instruction on.
#[derive(Clone, Debug, Default)]
struct List {
    items: Vec<Item>,
    /// VMGEXITs: those that have a line, and those that were answered "busy".
    vmgexits: u64,
}

/// The lists of all CPUs, and how often each kind of request was made.
#[derive(Clone, Debug, Default)]
struct Lists {
    cpus: BTreeMap<u8, List>,
    totals: BTreeMap<String, u64>,
}

/// What the CPUs of a client asked for. Clones write to the same lists.
#[derive(Clone, Debug, Default)]
pub(super) struct Record(Rc<RefCell<Lists>>);

/// Where one CPU writes what it asks for.
#[derive(Clone, Debug)]
pub(super) struct Log {
    cpu: u8,
    record: Record,
}

impl Record {
    /// Where this CPU writes.
    pub(super) fn log(&self, cpu: u8) -> Log {
        Log { cpu, record: self.clone() }
    }

    /// VMGEXITs that were noted.
    pub(super) fn vmgexits(&self) -> u64 {
        self.0.borrow().cpus.values().map(|list| list.vmgexits).sum()
    }
}

impl Log {
    /// Begins a part of the list.
    pub(super) fn heading(&self, text: &str) {
        self.write(|list| list.items.push(Item::Heading(text.to_owned())));
    }

    /// An instruction that is no VMGEXIT.
    pub(super) fn instruction(&self, name: &str, operands: &str, answer: &str) {
        self.line(name, operands, answer, 0);
    }

    /// A VMGEXIT: by which protocol and code, what it asks for, and what came of it.
    pub(super) fn vmgexit(&self, code: &str, request: &str, answer: &str) {
        self.line(code, request, answer, 1);
    }

    /// A VMGEXIT that was answered "busy" and is repeated. It has no line: how many there are depends on who runs when.
    pub(super) fn busy(&self) {
        self.write(|list| list.vmgexits += 1);
    }

    fn line(&self, code: &str, request: &str, answer: &str, vmgexits: u64) {
        // Calls of L1 are told apart by their name, which comes first.
        let kind = match code {
            super::client::RUN_VMPL_MSR | super::client::RUN_VMPL_PAGE => request.split(' ').next().unwrap_or_default(),
            _ => "",
        };
        let kind = format!("{code} {kind}").trim_end().to_owned();
        *self.record.0.borrow_mut().totals.entry(kind).or_insert(0) += 1;
        let line = format!("{code:<13} {request:<54} -> {answer}");
        self.write(|list| {
            list.items.push(Item::Line(line));
            list.vmgexits += vmgexits;
        });
    }

    fn write(&self, change: impl FnOnce(&mut List)) {
        change(self.record.0.borrow_mut().cpus.entry(self.cpu).or_default());
    }
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lists = self.0.borrow();
        for (cpu, list) in &lists.cpus {
            let mut items = list.items.as_slice();
            while let Some((first, rest)) = items.split_first() {
                let Item::Heading(heading) = first else { break };
                let length = rest.iter().take_while(|item| matches!(item, Item::Line(_))).count();
                let (part, behind) = rest.split_at(length);
                writeln!(f, "\n## CPU {cpu}: {heading}")?;
                let lines = part.iter().filter_map(|item| match item {
                    Item::Line(line) => Some(line.as_str()),
                    Item::Heading(_) => None,
                });
                write_groups(f, &runs(lines))?;
                items = behind;
            }
        }
        writeln!(f, "\n## Totals")?;
        lists.totals.iter().try_for_each(|(kind, count)| writeln!(f, "{count:>6}  {kind}"))
    }
}

/// So many equal lines in a row.
type Run<'l> = (u64, &'l str);

fn runs<'l>(lines: impl Iterator<Item = &'l str>) -> Vec<Run<'l>> {
    let mut runs: Vec<Run<'l>> = Vec::new();
    for line in lines {
        match runs.last_mut() {
            Some((count, last)) if *last == line => *count += 1,
            _ => runs.push((1, line)),
        }
    }
    runs
}

/// Writes runs, and groups of them that repeat in braces.
fn write_groups(f: &mut impl Write, runs: &[Run<'_>]) -> fmt::Result {
    let mut rest = runs;
    while !rest.is_empty() {
        let (length, times) = (2..=LONGEST_GROUP.min(rest.len()))
            .map(|length| (length, repetitions(rest, length)))
            .filter(|(_, times)| *times > 1)
            .max_by_key(|(length, times)| (length * times, usize::MAX - length))
            .unwrap_or((1, 1));
        let (group, _) = rest.split_at(length);
        if times > 1 {
            writeln!(f, "{times:>6}  {{")?;
        }
        let indent = if times > 1 { "  " } else { "" };
        group.iter().try_for_each(|(count, line)| writeln!(f, "{indent}{count:>6}  {line}"))?;
        if times > 1 {
            writeln!(f, "        }}")?;
        }
        rest = &rest[length * times..];
    }
    Ok(())
}

/// How often the first `length` runs stand there in a row.
fn repetitions(runs: &[Run<'_>], length: usize) -> usize {
    let first = &runs[..length];
    runs.chunks_exact(length).take_while(|chunk| *chunk == first).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(lines: &[&str]) -> String {
        let mut text = String::new();
        write_groups(&mut text, &runs(lines.iter().copied())).expect("strings take everything");
        text
    }

    #[test]
    fn equal_lines_and_groups_are_written_once() {
        assert_eq!(written(&["a", "a", "a", "b"]), "     3  a\n     1  b\n");
        let group = "     3  {\n       2  a\n       1  b\n        }\n     1  c\n";
        assert_eq!(written(&["a", "a", "b", "a", "a", "b", "a", "a", "b", "c"]), group);
    }

    #[test]
    fn nothing_is_lost_where_nothing_repeats() {
        assert_eq!(written(&["a", "b", "a"]), "     1  a\n     1  b\n     1  a\n");
    }

    #[test]
    fn calls_are_counted_by_name_and_other_requests_by_code() {
        let record = Record::default();
        let log = record.log(0);
        log.heading("a part");
        log.vmgexit(super::super::client::RUN_VMPL_MSR, "REMAP_CA here", "SUCCESS");
        log.vmgexit("MSR 014", "shared 1 x 4K", "done");
        log.instruction("RMPADJUST", "VMPL1", "refused");
        assert_eq!(record.vmgexits(), 2);
        let text = record.to_string();
        assert!(text.contains("\n## CPU 0: a part\n     1  MSR 016       REMAP_CA here"), "{text}");
        assert!(text.ends_with("     1  MSR 014\n     1  MSR 016 REMAP_CA\n     1  RMPADJUST\n"), "{text}");
    }
}
