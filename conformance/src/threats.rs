//! Which case plays which threat: the table in `threats.md`, made from the cases and from `policy.md`.
//!
//! `threats.csv` lists the threats that an SNP monitor and its guests have to survive. Each is played by a case, or stands
//! in `policy.md` with the reason why none plays it.

use std::fmt::Write as _;

use crate::platform::Platform;
use crate::snp::Snp;
use crate::suite::cases;

/// Id and name, a line each, behind a header.
const THREATS: &str = include_str!("../threats.csv");
const POLICY: &str = include_str!("../policy.md");
/// Heading of the threats that no case plays.
const WITHOUT_A_CASE: &str = "\n## Threats that no case plays\n";

/// A threat, and what is done about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Threat {
    /// Id in the catalogue.
    pub id: &'static str,
    /// What the attacker does.
    pub name: String,
    /// Ids of the cases that play it.
    pub cases: Vec<&'static str>,
    /// Why none does.
    pub reason: Option<&'static str>,
}

/// All threats, with the cases of SNP.
pub fn all() -> Vec<Threat> {
    let (cases, reasons) = (cases::<Snp>(), reasons());
    let threats = THREATS.lines().skip(1).filter_map(|line| line.split_once(','));
    let of = |id| cases.iter().filter(move |case| case.threats.contains(&id)).map(|case| case.id);
    let reason = |id| reasons.iter().find(|(known, _)| *known == id).map(|(_, reason)| *reason);
    threats
        .map(|(id, name)| Threat {
            id,
            name: name.trim_matches('"').replace("\"\"", "\""),
            cases: of(id).collect(),
            reason: reason(id),
        })
        .collect()
}

/// Rows `| id | reason |` of the section of `policy.md`.
pub fn reasons() -> Vec<(&'static str, &'static str)> {
    let section = POLICY.split_once(WITHOUT_A_CASE).map_or("", |(_, section)| section);
    let rows = section.lines().filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |")?.split_once(" | "));
    rows.skip(1).collect()
}

/// The table in Markdown.
pub fn markdown() -> String {
    let threats = all();
    let played = threats.iter().filter(|threat| !threat.cases.is_empty()).count();
    let mut text = format!(
        "# Threats\n\nMade by `cargo conformance threats`. Of {} threats {played} are played by cases on {}; for the others \
         `policy.md` gives the reason.\n\n| threat | what the attacker does | cases, or why there is none |\n|---|---|---|\n",
        threats.len(),
        Snp::NAME
    );
    for Threat { id, name, cases, reason } in threats {
        let cases: Vec<_> = cases.iter().map(|case| format!("`{case}`")).collect();
        let done = if cases.is_empty() { reason.unwrap_or("**nothing**").to_owned() } else { cases.join(", ") };
        // Writing to a string does not fail.
        let _ = writeln!(text, "| {id} | {name} | {done} |");
    }
    text
}
