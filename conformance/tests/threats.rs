//! Every threat is played or explained, and the table that says so is the one that the cases give.

use conformance::threats;

#[test]
fn every_threat_is_played_by_a_case_or_has_a_reason() {
    let all = threats::all();
    assert_eq!(all.len(), 141, "threats");
    let bare = all.iter().filter(|threat| threat.cases.is_empty() && threat.reason.is_none());
    let bare: Vec<_> = bare.map(|threat| format!("{} {}", threat.id, threat.name)).collect();
    assert!(bare.is_empty(), "neither case nor reason:\n{}", bare.join("\n"));
}

#[test]
fn a_reason_is_given_only_where_no_case_plays() {
    let all = threats::all();
    for (id, reason) in threats::reasons() {
        let threat = all.iter().find(|threat| threat.id == id).unwrap_or_else(|| panic!("no threat {id}"));
        assert_eq!(threat.cases, Vec::<&str>::new(), "{id} is played: {reason}");
    }
}

#[test]
fn the_table_of_threats_is_the_one_that_the_cases_give() {
    let kept = include_str!("../threats.md");
    assert!(kept == threats::markdown(), "threats.md is old: make it by `cargo conformance threats`");
}
