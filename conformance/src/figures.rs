//! Counted figures: how many instructions, world switches and flushes a piece of work costs.
//!
//! Most counts come from the machines' own counters, so they are exact and the same on every computer. How many instructions
//! the monitor itself executes is counted by callgrind ([`instructions`]).

mod counted;
pub mod instructions;
mod measure;
pub mod switches;
mod tdx;
mod vcpus;

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;

pub use measure::measure;

/// One count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Figure {
    /// Stable name.
    pub name: &'static str,
    /// What was counted, for a reader of the table.
    pub what: &'static str,
    /// The count.
    pub value: u64,
    /// The least that the architecture allows.
    pub floor: u64,
    /// The most that this project wants, where it has set itself an aim.
    pub aim: Option<u64>,
}

impl Figure {
    /// False for a count above its aim.
    pub fn meets_aim(&self) -> bool {
        self.aim.is_none_or(|aim| self.value <= aim)
    }
}

/// A figure as it stands in the JSON file, under its name.
#[derive(Serialize)]
struct Entry {
    value: u64,
    floor: u64,
    aim: Option<u64>,
}

/// Measures, prints a table, and writes JSON if a file is named. False when a figure misses its aim.
///
/// Where instructions cannot be counted, everything else is printed and written before that is said.
///
/// # Errors
/// A measurement that did not get to its end, or what the file system says.
pub fn print(json: Option<&Path>) -> Result<bool, String> {
    let mut figures = measure()?;
    let counted = instructions::measure();
    if let Ok(rows) = &counted {
        figures.extend_from_slice(rows);
    }
    println!("{:<28} {:>10} {:>10} {:>10}  counted", "figure", "value", "floor", "aim");
    for Figure { name, what, value, floor, aim } in &figures {
        let aim = aim.map_or("-".to_owned(), |aim| aim.to_string());
        println!("{name:<28} {value:>10} {floor:>10} {aim:>10}  {what}");
    }
    if let Some(path) = json {
        let entry = |figure: &Figure| Entry { value: figure.value, floor: figure.floor, aim: figure.aim };
        let entries: BTreeMap<_, _> = figures.iter().map(|figure| (figure.name, entry(figure))).collect();
        crate::cli::output::write_json(path, &entries)?;
    }
    counted?;
    Ok(figures.iter().all(Figure::meets_aim))
}
