//! Reads the fact tables and walks them row by row.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

/// One row of a table, with the names of its columns.
pub(crate) struct Row {
    columns: Vec<String>,
    cells: Vec<String>,
    line: usize,
}

impl Row {
    /// The cell in `column`.
    pub(crate) fn get(&self, column: &str) -> &str {
        let index = self.columns.iter().position(|name| name == column).unwrap_or_else(|| panic!("no column {column}"));
        &self.cells[index]
    }

    /// The cell in `column` as a number, decimal or with `0x`.
    pub(crate) fn number(&self, column: &str) -> u64 {
        parse(self.get(column)).unwrap_or_else(|| panic!("line {}: no number in {column}", self.line))
    }

    /// The first `count` cells, joined by slashes.
    fn label(&self, count: usize) -> String {
        self.cells[..count].join("/")
    }
}

/// Parses a number, decimal or with `0x`. A sign means two's complement.
pub(crate) fn parse(text: &str) -> Option<u64> {
    if let Some(rest) = text.strip_prefix('-') {
        return parse(rest).map(u64::wrapping_neg);
    }
    match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    }
}

/// Parses bits such as `31:12` or `7` to the highest and the lowest bit.
pub(crate) fn bits(text: &str) -> Option<(u32, u32)> {
    let (high, low) = text.split_once(':').unwrap_or((text, text));
    Some((high.trim().parse().ok()?, low.trim().parse().ok()?))
}

/// All ones from bit `low` to bit `high`.
pub(crate) fn mask((high, low): (u32, u32)) -> u64 {
    (u64::MAX >> (63 - high + low)) << low
}

/// A name without anything but letters and digits, in capitals; text in parentheses is dropped.
pub(crate) fn plain(name: &str) -> String {
    let name = name.split('(').next().unwrap_or_default();
    name.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_uppercase()).collect()
}

/// Reads `facts/<name>.csv`.
pub(crate) fn table(name: &str) -> Vec<Row> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("facts").join(format!("{name}.csv"));
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut lines = text.lines().map(cells);
    let columns = lines.next().expect("a header row");
    let rows: Vec<Row> =
        lines.enumerate().map(|(index, cells)| Row { columns: columns.clone(), cells, line: index + 2 }).collect();
    assert!(!rows.is_empty(), "{name} is empty");
    assert_eq!(columns.last().map(String::as_str), Some("sure"), "{name}");
    for row in &rows {
        assert_eq!(row.cells.len(), columns.len(), "{name} line {}", row.line);
        assert!(matches!(row.get("sure"), "A" | "B" | "C"), "{name} line {}", row.line);
    }
    rows
}

/// Splits a line at commas outside of quotes. No cell of the tables holds a line break.
fn cells(line: &str) -> Vec<String> {
    let mut cells = vec![String::new()];
    let mut quoted = false;
    let mut characters = line.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '"' if quoted && characters.peek() == Some(&'"') => {
                characters.next();
                cells.last_mut().expect("a cell").push('"');
            }
            '"' => quoted = !quoted,
            ',' if !quoted => cells.push(String::new()),
            other => cells.last_mut().expect("a cell").push(other),
        }
    }
    assert!(!quoted, "open quote in {line}");
    cells
}

/// Rows that no Rust item corresponds to: the first cells joined by slashes, or the beginning of them, and the reason.
pub(crate) type Informative = &'static [(&'static str, &'static str)];

/// Checks every row of a table that is not informative.
///
/// Fails with all complaints at once. Fails as well if nothing was checked or an entry of `informative` fits no row.
pub(crate) fn walk(name: &str, informative: Informative, check: impl FnMut(&Row) -> Result<(), String>) {
    walk_by(3, name, informative, check);
}

/// As [`walk`], for a table whose rows are told apart by their first `columns` cells.
pub(crate) fn walk_by(
    columns: usize,
    name: &str,
    informative: Informative,
    mut check: impl FnMut(&Row) -> Result<(), String>,
) {
    let mut complaints = Vec::new();
    let mut used = BTreeSet::new();
    let mut checked = 0;
    for row in table(name) {
        let label = row.label(columns.min(row.cells.len()));
        match informative.iter().find(|(start, _)| label.starts_with(start)) {
            Some((start, reason)) => {
                assert!(!reason.is_empty(), "{start} has no reason");
                used.insert(*start);
            }
            None => {
                checked += 1;
                if let Err(complaint) = check(&row) {
                    complaints.push(format!("line {} ({label}): {complaint}", row.line));
                }
            }
        }
    }
    for (start, _) in informative {
        if !used.contains(start) {
            complaints.push(format!("{start} is listed as informative but fits no row"));
        }
    }
    assert!(complaints.is_empty(), "{name}:\n{}", complaints.join("\n"));
    assert!(checked > 0, "{name}: nothing was checked");
}

/// The names of all tables.
pub(crate) fn all() -> Vec<String> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("facts");
    let files = fs::read_dir(folder).expect("the folder of the tables");
    let names = files.map(|file| file.expect("a file").file_name().into_string().expect("a name"));
    names.filter_map(|name| name.strip_suffix(".csv").map(str::to_owned)).collect()
}

/// Turns a complaint into a result.
pub(crate) fn expect(is_so: bool, complaint: &str) -> Result<(), String> {
    if is_so { Ok(()) } else { Err(complaint.to_owned()) }
}
