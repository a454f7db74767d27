//! Reads the fact tables in tests.

use std::string::String;
use std::vec::Vec;

/// A table: its rows without the header, each cell by column.
pub(crate) struct Table {
    columns: Vec<String>,
    rows: Vec<Vec<String>>,
}

/// One row of a table.
pub(crate) struct Row<'a> {
    columns: &'a [String],
    cells: &'a [String],
}

impl Table {
    /// Splits CSV text with a header row. Quoted cells may hold commas.
    pub(crate) fn parse(text: &str) -> Self {
        let mut lines = text.lines().map(cells);
        let columns = lines.next().expect("header");
        Self { rows: lines.inspect(|row| assert_eq!(row.len(), columns.len(), "{row:?}")).collect(), columns }
    }

    /// All rows.
    pub(crate) fn rows(&self) -> impl Iterator<Item = Row<'_>> {
        self.rows.iter().map(|cells| Row { columns: &self.columns, cells })
    }

    /// The rows whose `column` says `value`.
    pub(crate) fn with<'a>(&'a self, column: &'a str, value: &'a str) -> impl Iterator<Item = Row<'a>> {
        self.rows().filter(move |row| row.text(column) == value)
    }

    /// The one row whose `column` says `value`.
    pub(crate) fn one(&self, column: &str, value: &str) -> Row<'_> {
        let mut found = self.rows().filter(|row| row.text(column) == value);
        let row = found.next().unwrap_or_else(|| panic!("no row with {column} = {value}"));
        assert!(found.next().is_none(), "several rows with {column} = {value}");
        row
    }
}

impl<'a> Row<'a> {
    /// A cell.
    pub(crate) fn text(&self, column: &str) -> &'a str {
        let at = self.columns.iter().position(|name| name == column).unwrap_or_else(|| panic!("no column {column}"));
        &self.cells[at]
    }

    /// A cell that holds a number.
    pub(crate) fn number(&self, column: &str) -> u64 {
        number(self.text(column)).unwrap_or_else(|| panic!("no number: {}", self.text(column)))
    }
}

/// A decimal number, or a hexadecimal one behind `0x`.
pub(crate) fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

fn cells(line: &str) -> Vec<String> {
    let mut cells = Vec::from([String::new()]);
    let mut quoted = false;
    for letter in line.chars() {
        match letter {
            '"' => quoted = !quoted,
            ',' if !quoted => cells.push(String::new()),
            _ => cells.last_mut().expect("at least one cell").push(letter),
        }
    }
    cells
}
