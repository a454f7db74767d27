//! Tests that are named as evidence: `PROGRAM PATH`, or `case ID`.
//!
//! A program is a crate for its unit tests, or a crate and one of its test programs: `backend-snp/facts_layout`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::{env, fs};

use conformance::platform::Platform;
use conformance::snp::Snp;
use conformance::suite::{cases, exceptions};

/// Where the crates are, from the root of the workspace.
const CRATES: &[(&str, &str)] = &[
    ("coco-part-api", "coco-part-api"),
    ("backend-snp", "backend-snp"),
    ("l1-monitor", "l1-monitor"),
    ("l2-guest-shim", "l2-guest-shim"),
    ("machine", "conformance/machine"),
    ("conformance", "conformance"),
];

pub(crate) struct Evidence {
    cases: BTreeSet<&'static str>,
    /// Names of the test functions in the sources of a program.
    sources: BTreeMap<String, BTreeSet<String>>,
    /// What the test command printed: per program the tests that passed.
    passed: Option<BTreeMap<String, BTreeSet<String>>>,
}

impl Evidence {
    pub(crate) fn find() -> Self {
        let excepted = |id| exceptions().iter().any(|row| row.applies(id, Snp::NAME));
        let cases = cases::<Snp>().iter().map(|case| case.id).filter(|id| !excepted(id)).collect();
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let mut sources = BTreeMap::new();
        for (name, folder) in CRATES {
            sources.insert((*name).to_owned(), tests_in(&root.join(folder).join("src")));
            let programs = fs::read_dir(root.join(folder).join("tests"));
            for program in programs.into_iter().flatten() {
                let path = program.expect("a file").path();
                let program = path.file_stem().expect("a name").to_string_lossy();
                sources.insert(format!("{name}/{program}"), tests_in(&path));
            }
        }
        let passed = env::var_os("FACT_ROWS_LOG").map(|path| {
            let path = root.join(path);
            passed(&fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())))
        });
        Self { cases, sources, passed }
    }

    /// What is wrong with a piece of evidence.
    pub(crate) fn complaint(&self, test: &str) -> Option<String> {
        let Some((program, path)) = test.split_once(' ') else { return Some(format!("{test} names no test")) };
        if program == "case" {
            return (!self.cases.contains(path)).then(|| format!("there is no case {path}"));
        }
        let name = path.rsplit("::").next().unwrap_or_default();
        if !self.sources.get(program).is_some_and(|tests| tests.contains(name)) {
            return Some(format!("{program} has no test {path}"));
        }
        let passed = self.passed.as_ref()?;
        // The name of a program in the output is its own, or that of its crate with underscores.
        let program = program.rsplit('/').next().unwrap_or_default().replace('-', "_");
        let ran = passed.get(&program).is_some_and(|tests| tests.contains(path));
        (!ran).then(|| format!("{test} did not run and pass"))
    }
}

/// Names of the functions behind `#[test]` in a file or in all files of a folder. Tests that are ignored do not count.
fn tests_in(path: &Path) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for file in files(path).into_iter().filter(|file| file.extension().is_some_and(|extension| extension == "rs")) {
        let text = fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        for part in text.split("#[test]").skip(1) {
            let head = part.split_once("fn ").map(|(attributes, rest)| (attributes, rest.split('(').next()));
            if let Some((attributes, Some(name))) = head
                && !attributes.contains("#[ignore")
            {
                names.insert(name.to_owned());
            }
        }
    }
    names
}

fn files(path: &Path) -> Vec<PathBuf> {
    if !path.is_dir() {
        return Vec::from_iter(path.is_file().then(|| path.to_owned()));
    }
    let entries = fs::read_dir(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    entries.flat_map(|entry| files(&entry.expect("a file").path())).collect()
}

/// The tests that passed, by program: `Running unittests src/lib.rs (target/debug/deps/backend_snp-0123456789abcdef)`, then
/// `test name ... ok`.
fn passed(log: &str) -> BTreeMap<String, BTreeSet<String>> {
    let mut program = String::new();
    let mut all: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for line in log.lines() {
        if let Some(rest) = line.trim_start().strip_prefix("Running ") {
            let file = rest.rsplit('/').next().unwrap_or_default();
            program = file.rsplit_once('-').map_or(file, |(name, _)| name).to_owned();
        } else if let Some(name) = line.strip_prefix("test ").and_then(|rest| rest.strip_suffix(" ... ok")) {
            let name = name.split(" - ").next().unwrap_or_default();
            all.entry(program.clone()).or_default().insert(name.to_owned());
        }
    }
    all
}
