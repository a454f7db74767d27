//! The machine's numbers and placements, compared row by row with the fact tables. What a row says about behaviour has
//! its tests beside this folder.

mod codes;
mod enter;
mod exits;
mod fields;
mod pages;
mod report;

use super::*;
use crate::facts::{Row, bits_of, number, numbers_in};

/// The rows of a table.
macro_rules! table {
    ($name:literal) => {
        crate::facts::table!("backend-tdx-stub", $name)
    };
}
use table;

/// Takes the number of a name out of a list.
fn take<T: Copy + Into<u64>>(list: &mut Vec<(&str, T)>, name: &str) -> Option<u64> {
    let at = list.iter().position(|(known, _)| *known == name)?;
    Some(list.remove(at).1.into())
}

/// Names that the tables do not have.
fn finish<T>(list: &[(&str, T)]) {
    let names: Vec<&str> = list.iter().map(|(name, _)| *name).collect();
    assert!(names.is_empty(), "not in the table: {names:?}");
}
