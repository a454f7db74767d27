//! Interface, monitor, shim, guest programs and what else of the suite is for every vendor name no vendor's things.
//!
//! What they may say, and where, is [`ALLOWED`]; an allowance that nobody uses fails too.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Words of vendors. A word counts whatever its case, with a number or a plural behind it, and as a part of a name.
const WORDS: &[&str] = &[
    // AMD
    "amd",
    "svm",
    "vmcb",
    "vmmcall",
    "vtom",
    "avic",
    "sev",
    "snp",
    "vmpl",
    "vmpck",
    "vmsa",
    "ghcb",
    "rmp",
    "vmgexit",
    "vmrun",
    "pvalidate",
    "rmpadjust",
    "rmpquery",
    "rmpupdate",
    "psmash",
    "invlpgb",
    "tlbsync",
    "svme",
    "asid",
    "vcek",
    "psp",
    "apm",
    "vtl",
    // Intel
    "intel",
    "vmx",
    "tdcs",
    "tdreport",
    "tdx",
    "tdcall",
    "tdvps",
    "tdvmcall",
    "tdreport",
    "seamcall",
    "seam",
    "sept",
    "secureept",
    "vmcs",
    "tdg",
    "tdh",
    "mapgpa",
    "invept",
    "vmcall",
    "vmlaunch",
    "vmresume",
    "mrtd",
    "rtmr",
    // Arm
    "cca",
    "rmm",
    "rmi",
];

/// Where vendor words are not allowed.
const PLACES: &[&str] = &[
    "coco-part-api/README.md",
    "coco-part-api/docs",
    "coco-part-api/src",
    "l1-monitor/README.md",
    "l1-monitor/src",
    "l2-guest-shim/README.md",
    "l2-guest-shim/src",
    "conformance/src/suite",
    "conformance/src/platform.rs",
    "conformance/src/window.rs",
    "conformance/src/mutants.rs",
    "conformance/src/runner",
    "conformance/src/world",
    "conformance/src/figures/counted.rs",
];

/// Which word is allowed below which path, and why.
const ALLOWED: &[(&str, &str, &str)] = &[
    ("coco-part-api/README.md", "amd", "says which vendors are served"),
    ("coco-part-api/README.md", "sev", "says which vendors are served"),
    ("coco-part-api/README.md", "snp", "says which vendors are served"),
    ("coco-part-api/README.md", "intel", "says which vendors are served"),
    ("coco-part-api/README.md", "tdx", "says which vendors are served"),
    ("coco-part-api/README.md", "cca", "says which vendors are served"),
    ("coco-part-api/src/svsm/", "*", "the codec of the published call protocol, and how vendors carry it"),
    ("coco-part-api/src/level.rs", "vmpl", "says what a level is called by each vendor"),
    ("coco-part-api/src/level.rs", "snp", "says what a vCPU's number is on each vendor"),
    ("coco-part-api/src/level.rs", "tdx", "says what a vCPU's number is on each vendor"),
    ("coco-part-api/docs/monitor.rs", "pvalidate", "a call of the protocol"),
    ("l1-monitor/src/service/", "pvalidate", "a call of the protocol, and the file that serves it"),
    ("l1-monitor/src/tests/", "pvalidate", "a call of the protocol"),
    ("l1-monitor/src/service/", "vtom", "a call of the protocol"),
    ("l1-monitor/src/tests/", "vtom", "a call of the protocol"),
    ("l2-guest-shim/src/codec.rs", "pvalidate", "a call of the protocol"),
    ("conformance/src/suite/", "pvalidate", "a call of the protocol"),
    ("conformance/src/suite/", "vtom", "a call of the protocol"),
    ("conformance/src/suite/table.rs", "*", "the table of what a vendor has no counterpart for"),
];

#[test]
fn neutral_sources_use_no_vendor_words() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let (mut used, mut bad) = (BTreeSet::new(), Vec::new());
    for place in PLACES {
        for file in files(&root.join(place)) {
            let name = file.strip_prefix(&root).expect("files lie below the root").display().to_string();
            let text = fs::read_to_string(&file).unwrap_or_else(|error| panic!("{name}: {error}"));
            for (number, line) in (1..).zip(text.lines()) {
                for word in vendor_words(line) {
                    match ALLOWED.iter().position(|row| name.starts_with(row.0) && ["*", word].contains(&row.1)) {
                        Some(row) => {
                            used.insert(row);
                        }
                        None => bad.push(format!("{name}:{number}: {word}: {}", line.trim())),
                    }
                }
            }
        }
    }
    assert!(bad.is_empty(), "vendor words in neutral sources:\n{}", bad.join("\n"));
    let idle: Vec<_> = (0..ALLOWED.len()).filter(|row| !used.contains(row)).map(|row| ALLOWED[row]).collect();
    assert!(idle.is_empty(), "allowances that nobody uses: {idle:?}");
}

#[test]
fn vendor_words_are_found_however_they_are_written() {
    let find = |line| vendor_words(line).collect::<Vec<_>>();
    assert_eq!(find("let error = SnpError::Vmsa;"), ["snp", "vmsa"]);
    assert_eq!(find("VMPLs and VMPL0, RMP-025, TD_G, tdg_vp"), ["vmpl", "vmpl", "rmp", "tdg"]);
    assert_eq!(find("SVSM is AMD's; TdxModel of Intel"), ["amd", "tdx", "intel"]);
    assert_eq!(find("#[doc(alias = \"TDG.MEM.PAGE.ACCEPT\")]"), [""; 0]);
    assert_eq!(find("seven several trump TdParts September"), [""; 0]);
}

/// Every source file below a path, or the file itself.
fn files(path: &Path) -> Vec<PathBuf> {
    if path.is_file() {
        return vec![path.to_owned()];
    }
    let entries = fs::read_dir(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("a readable folder").path()).collect();
    paths.sort();
    paths.iter().flat_map(|path| files(path)).collect()
}

/// The vendor words of a line, in lower case. Aliases for the search in the documentation are not looked at.
fn vendor_words(line: &str) -> impl Iterator<Item = &'static str> {
    let line = if line.trim_start().starts_with("#[doc(alias") { "" } else { line };
    parts(line).into_iter().filter_map(|part| {
        let bare = part.trim_end_matches(|end: char| end.is_ascii_digit());
        let singular = bare.strip_suffix('s').unwrap_or(bare);
        WORDS.iter().copied().find(|word| *word == bare || *word == singular)
    })
}

/// Words of a line in lower case, also those that make up a name in camel case.
fn parts(line: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut was_lower = false;
    for letter in line.chars() {
        let begins = letter.is_ascii_uppercase() && was_lower;
        if !letter.is_ascii_alphanumeric() || begins {
            parts.push(String::new());
        }
        if letter.is_ascii_alphanumeric()
            && let Some(part) = parts.last_mut()
        {
            part.push(letter.to_ascii_lowercase());
        }
        was_lower = letter.is_ascii_lowercase();
    }
    parts
}
