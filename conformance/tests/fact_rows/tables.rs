//! The fact tables.

use std::fs;
use std::path::{Path, PathBuf};

/// The folder of the tables.
pub(crate) fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../backend-snp/facts")
}

/// A table.
pub(crate) struct Table {
    pub(crate) name: String,
    pub(crate) rows: Vec<Row>,
}

/// A row; the last cell says how sure it is.
pub(crate) struct Row {
    pub(crate) cells: Vec<String>,
}

impl Row {
    /// Whether nobody confirmed what it says.
    pub(crate) fn is_doubtful(&self) -> bool {
        self.cells.last().is_some_and(|sure| sure == "C")
    }
}

/// The rows of a CSV file behind its header.
pub(crate) fn read(path: &Path) -> Vec<Vec<String>> {
    let mut reader = csv::Reader::from_path(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let rows = reader.records().map(|row| row.unwrap_or_else(|error| panic!("{}: {error}", path.display())));
    rows.map(|row| row.iter().map(str::to_owned).collect()).collect()
}

impl Table {
    /// All tables, in order of their names.
    pub(crate) fn all() -> Vec<Self> {
        let files = fs::read_dir(folder()).expect("the folder of the tables");
        let mut paths: Vec<_> = files.map(|file| file.expect("a file").path()).collect();
        paths.retain(|path| path.extension().is_some_and(|extension| extension == "csv"));
        paths.sort();
        paths.iter().map(|path| Self::read(path)).collect()
    }

    fn read(path: &Path) -> Self {
        let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
        Self { name, rows: read(path).into_iter().map(|cells| Row { cells }).collect() }
    }
}
