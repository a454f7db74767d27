//! The machine's numbers and placements, compared row by row with the fact tables. What a row says about behaviour has
//! its tests beside this folder.

mod codes;
mod enter;
mod exits;
mod fields;
mod pages;
mod report;

use super::*;
use crate::facts::{Row, bits_of, finish, number, numbers_in, take};

/// The rows of a table.
macro_rules! table {
    ($name:literal) => {
        crate::facts::table!("backend-tdx-stub", $name)
    };
}
use table;
