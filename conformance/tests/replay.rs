//! What an unmodified Linux guest asks for and is answered stands in a file that is compared line by line.
//!
//! After a change that is meant: `cargo conformance replay --write conformance/replay/linux.txt`.

use std::collections::BTreeSet;

use conformance::snp::Snp;
use conformance::snp::replay::{POOL, TURNS, first_difference, list};
use conformance::world::Options;

const FILE: &str = include_str!("../replay/linux.txt");

/// DMA buffers where the whole file is not needed.
const SMALL: u64 = 16 << 20;

fn options(seed: u64) -> Options<Snp> {
    Options { seed, turns: TURNS, ..Options::default() }
}

#[test]
fn the_list_is_the_one_in_the_file() {
    let got = list(options(1), POOL).expect("every answer is what the kernel needs");
    if let Some(difference) = first_difference(&got, FILE) {
        panic!("conformance/replay/linux.txt, {difference}\nIf that is meant: cargo conformance replay --write FILE");
    }
    assert!(FILE.lines().count() <= 300, "the file is for people");
}

#[test]
fn the_list_does_not_depend_on_who_runs_when() {
    let mut lists = BTreeSet::new();
    for seed in 1..=4 {
        for variant in [0, 1] {
            let got = list(Options { variant, ..options(seed) }, SMALL);
            lists.insert(got.unwrap_or_else(|wrong| panic!("seed {seed}, variant {variant}: {wrong}")));
        }
    }
    assert_eq!(lists.len(), 1);
}

#[test]
fn an_answer_that_the_kernel_cannot_live_with_and_what_an_oracle_finds_are_errors() {
    let broken = |defect| list(Options { defect: Some(defect), turns: 1_000_000, ..options(1) }, SMALL).unwrap_err();
    assert!(broken("pending-not-cleared").contains("CPU 0: L1 did not run: the call is still pending"));
    for defect in ["flush-dropped", "revoke-dropped"] {
        assert!(broken(defect).contains("VMPL2 can write the VMSA"), "{defect}");
    }
}

#[test]
fn the_first_line_that_differs_is_named() {
    assert_eq!(first_difference("a\nb\nc", "a\nb\nc"), None);
    assert_eq!(first_difference("a\nb", "a\nc"), Some("line 2: got `b`, want `c`".to_owned()));
    assert_eq!(first_difference("a", "a\nb"), Some("line 2: got `nothing`, want `b`".to_owned()));
    assert_eq!(first_difference("a\nb", "a"), Some("line 2: got `b`, want `nothing`".to_owned()));
}
