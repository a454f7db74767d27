//! The table "what works on what" of the README, made from the JSON report of a run.
//!
//! A row per verb, with the rules of the contract that bind it, and a column per backend; in each cell how many cases had
//! which result. So the README claims what a run has shown.

use std::fmt::Write as _;

use serde::Deserialize;

/// Verbs by the first letter of their rules.
const VERBS: [(char, &str); 5] = [
    ('M', "validate, share, rescind, grant memory (M)"),
    ('V', "create, replace, delete a vCPU (V)"),
    ('S', "switch level, calls, exits (S)"),
    ('A', "attest (A)"),
    ('H', "under a host that lies (H)"),
];

/// Results by their names in the report, with what the table calls them.
const RESULTS: [(&str, &str); 5] = [
    ("pass", "pass"),
    ("fail", "FAIL"),
    ("unsupported", "unsupported"),
    ("not_applicable", "n/a"),
    ("not_run", "not run"),
];

/// What the table needs of a report.
#[derive(Deserialize)]
struct Report {
    cases: Vec<Case>,
    #[serde(default)]
    mutants: Vec<Mutant>,
}

#[derive(Deserialize)]
struct Case {
    rule: String,
    backend: String,
    result: String,
}

#[derive(Deserialize)]
struct Mutant {
    backend: String,
    killed_by: Vec<String>,
}

/// The table in Markdown, from the text of a JSON report. The last row is left out where no mutants ran.
///
/// # Errors
/// Text that is no such report.
pub fn markdown(json: &str) -> Result<String, String> {
    let Report { cases, mutants } =
        serde_json::from_str(json).map_err(|error| format!("no report of a run: {error}"))?;
    let mut backends: Vec<&str> = Vec::new();
    for case in &cases {
        if !backends.contains(&case.backend.as_str()) {
            backends.push(&case.backend);
        }
    }
    let mut table = String::from("| |");
    backends.iter().for_each(|backend| table += &format!(" {backend} |"));
    table += "\n|---|";
    table += &"---|".repeat(backends.len());
    for (letter, verb) in VERBS {
        let _ = write!(table, "\n| {verb} |");
        for backend in &backends {
            let of_verb = cases.iter().filter(|case| case.rule.starts_with(letter) && case.backend == *backend);
            let results: Vec<&str> = of_verb.map(|case| case.result.as_str()).collect();
            let cell = RESULTS.iter().filter_map(|(name, word)| {
                let count = results.iter().filter(|result| *result == name).count();
                (count > 0).then(|| format!("{count} {word}"))
            });
            let _ = write!(table, " {} |", cell.collect::<Vec<_>>().join(", "));
        }
    }
    if !mutants.is_empty() {
        table += "\n| deliberate defects noticed |";
        for backend in &backends {
            let of_backend: Vec<&Mutant> = mutants.iter().filter(|mutant| mutant.backend == *backend).collect();
            let noticed = of_backend.iter().filter(|mutant| !mutant.killed_by.is_empty()).count();
            let _ = write!(table, " {noticed} of {} |", of_backend.len());
        }
    }
    table.push('\n');
    Ok(table)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_results_by_verb_and_backend() {
        let case = |rule: &str, backend: &str, result: &str| {
            format!(
                r#"{{"id":"x","rule":"{rule}","backend":"{backend}","result":"{result}","reason":"","port_calls":1}}"#
            )
        };
        let cases = [
            case("M1", "one", "pass"),
            case("M7", "one", "pass"),
            case("M1", "two", "not_applicable"),
            case("S4", "two", "fail"),
        ];
        let json = format!(
            r#"{{"cases":[{}],"mutants":[{{"name":"m","backend":"one","of":"backend","killed_by":["a"]}}]}}"#,
            cases.join(",")
        );
        let table = markdown(&json).unwrap();
        assert!(table.starts_with("| | one | two |\n|---|---|---|\n"), "{table}");
        assert!(table.contains("memory (M) | 2 pass | 1 n/a |"), "{table}");
        assert!(table.contains("exits (S) |  | 1 FAIL |"), "{table}");
        assert!(table.ends_with("| deliberate defects noticed | 1 of 1 | 0 of 0 |\n"), "{table}");
    }

    #[test]
    fn refuses_what_is_no_report() {
        for text in ["", "[]", "{}", r#"{"cases":[{"rule":1}]}"#] {
            assert!(markdown(text).is_err(), "{text}");
        }
    }
}
