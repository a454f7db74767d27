//! Reads the fact tables of the backends, for tests that compare them with the numbers of the machines. Only the data
//! files are shared: a machine has its numbers from the tables, and a backend has its own.

use alloc::string::String;
use alloc::vec::Vec;

/// All rows of a table: the folder of a backend, and its name.
macro_rules! table {
    ($backend:literal, $name:literal) => {
        crate::facts::rows(include_str!(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../",
            $backend,
            "/facts/",
            $name,
            ".csv"
        )))
    };
}
pub(crate) use table;

/// A row: the name of each column with its cell.
#[derive(Debug)]
pub(crate) struct Row(Vec<(String, String)>);

/// The rows behind the header line.
///
/// # Panics
/// If a row has another number of cells.
pub(crate) fn rows(text: &str) -> Vec<Row> {
    let mut lines = text.lines().map(split);
    let header = lines.next().unwrap_or_default();
    lines
        .map(|cells| {
            assert_eq!(cells.len(), header.len(), "{cells:?}");
            Row(header.iter().cloned().zip(cells).collect())
        })
        .collect()
}

/// The cells of a line: between quotation marks a comma is text.
fn split(line: &str) -> Vec<String> {
    let mut open = false;
    let ends = move |c: char| {
        open ^= c == '"';
        c == ',' && !open
    };
    line.split(ends).map(|cell| cell.replace("\"\"", "\u{1}").replace('"', "").replace('\u{1}', "\"")).collect()
}

impl Row {
    /// A cell.
    ///
    /// # Panics
    /// If there is no such column.
    pub(crate) fn get(&self, column: &str) -> &str {
        let cell = self.0.iter().find(|(name, _)| name == column);
        cell.map(|(_, cell)| cell.as_str()).unwrap_or_else(|| panic!("no column {column} in {self:?}"))
    }

    /// A cell that is a number.
    ///
    /// # Panics
    /// If it is none.
    pub(crate) fn number(&self, column: &str) -> u64 {
        number(self.get(column)).unwrap_or_else(|| panic!("no number in {column} of {self:?}"))
    }
}

/// Decimal, or hexadecimal behind `0x`.
pub(crate) fn number(text: &str) -> Option<u64> {
    let hexadecimal = text.strip_prefix("0x").map(|digits| u64::from_str_radix(digits, 16));
    hexadecimal.unwrap_or_else(|| text.parse()).ok()
}

/// The hexadecimal numbers in a text.
pub(crate) fn numbers_in(text: &str) -> Vec<u64> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric());
    words.filter(|word| word.starts_with("0x")).filter_map(number).collect()
}

/// Bits `63:32` or `5` of a value, shifted down.
///
/// # Panics
/// If the text is neither.
pub(crate) fn bits_of(value: u64, range: &str) -> u64 {
    let (high, low) = range.split_once(':').unwrap_or((range, range));
    let bit = |text: &str| text.parse::<u32>().unwrap_or_else(|_| panic!("no bits: {range}"));
    value << (63 - bit(high)) >> (63 - bit(high)) >> bit(low)
}

/// Takes the number of a name out of a list.
pub(crate) fn take<T: Copy + Into<u64>>(list: &mut Vec<(&str, T)>, name: &str) -> Option<u64> {
    let at = list.iter().position(|(known, _)| *known == name)?;
    Some(list.remove(at).1.into())
}

/// Fails if names are left over that the table does not have.
pub(crate) fn finish<T>(list: &[(&str, T)]) {
    let names: Vec<&str> = list.iter().map(|(name, _)| *name).collect();
    assert!(names.is_empty(), "not in the table: {names:?}");
}

#[test]
fn cells_with_commas_and_quotation_marks_stay_whole() {
    let rows = rows("a,b,c\n1,\"x, \"\"y\"\"\",\n");
    assert_eq!((rows[0].number("a"), rows[0].get("b"), rows[0].get("c")), (1, "x, \"y\"", ""));
    assert_eq!(bits_of(0xabcd_0000_1234, "47:32"), 0xabcd);
    assert_eq!((bits_of(4, "2"), bits_of(u64::MAX, "63:0")), (1, u64::MAX));
    assert_eq!(numbers_in("from 0x10 to 0x1F, 7"), [0x10, 0x1f]);
}
