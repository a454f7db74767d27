//! The classes of the rows of one table.

use std::collections::BTreeMap;

use crate::tables::{self, Row};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    Implemented,
    Unsupported,
    Informative,
}

/// By the cells with which a row begins, joined.
pub(crate) struct Classes {
    by_start: BTreeMap<String, Entry>,
}

struct Entry {
    class: Class,
    /// Tests, subject of the documentation, or reason.
    text: String,
    used: bool,
}

impl Classes {
    /// Reads `classes/<table>.csv`: start of the row, class, text.
    pub(crate) fn read(table: &str) -> Self {
        let mut by_start = BTreeMap::new();
        for cells in tables::read(&tables::folder().join("classes").join(format!("{table}.csv"))) {
            let [start, class, text] = &cells[..] else { panic!("{table}: {cells:?}") };
            let class = match class.as_str() {
                "implemented" => Class::Implemented,
                "unsupported" => Class::Unsupported,
                "informative" => Class::Informative,
                other => panic!("{table}: {start}: no class {other}"),
            };
            let entry = Entry { class, text: text.clone(), used: false };
            assert!(by_start.insert(start.clone(), entry).is_none(), "{table}: {cells:?} stands there twice");
        }
        Self { by_start }
    }

    /// Class and text of the longest start that fits.
    pub(crate) fn of(&mut self, row: &Row) -> Option<(Class, &str)> {
        let name = row.cells.join("|");
        let fits = |start: &str| name.strip_prefix(start).is_some_and(|rest| rest.is_empty() || rest.starts_with('|'));
        let entries = self.by_start.iter_mut().filter(|(start, _)| fits(start));
        let (_, entry) = entries.max_by_key(|(start, _)| start.len())?;
        entry.used = true;
        Some((entry.class, &entry.text))
    }

    /// Starts that fit no row.
    pub(crate) fn unused(&self) -> impl Iterator<Item = &str> {
        self.by_start.iter().filter(|(_, entry)| !entry.used).map(|(start, _)| start.as_str())
    }
}
