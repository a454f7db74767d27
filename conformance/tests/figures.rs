//! The counted figures meet their aims.

use std::collections::BTreeSet;

use conformance::figures::{instructions, measure};

const README: &str = include_str!("../../README.md");

/// What the README quotes in a column of a figure's row: 1 the value, 3 the aim.
fn quoted(name: &str, column: usize) -> Option<u64> {
    let row = README.lines().find(|line| line.split_whitespace().next() == Some(name));
    row.and_then(|row| row.split_whitespace().nth(column)).and_then(|value| value.parse().ok())
}

#[test]
fn figures_meet_their_aims_and_no_figure_is_below_its_floor() {
    let figures = measure().expect("every measurement gets to its end");
    for figure in &figures {
        assert!(figure.meets_aim(), "{} is {}, its aim {:?}", figure.name, figure.value, figure.aim);
        assert!(figure.value >= figure.floor, "{} is {}, below its floor {}", figure.name, figure.value, figure.floor);
    }
    for figure in &figures {
        assert_eq!(quoted(figure.name, 1), Some(figure.value), "README quotes another {}", figure.name);
    }
    let rows = instructions::ROWS.iter().map(|row| row.name);
    let names: BTreeSet<_> = figures.iter().map(|figure| figure.name).chain(rows).collect();
    assert_eq!(names.len(), figures.len() + instructions::ROWS.len(), "names are unique");
    assert!(figures.iter().filter(|figure| figure.aim.is_some()).count() >= 15);
}

/// How many instructions it takes says `cargo conformance figures`, of the release build; what is counted is done here.
#[test]
fn work_whose_instructions_are_counted_comes_to_what_it_should() {
    for row in instructions::ROWS {
        for job in row.jobs() {
            assert_eq!(job.run(), Ok(()), "{}: {job:?}", row.name);
        }
    }
}

/// Counts change with the compiler, so the README's are compared with the aims, not with new ones.
#[test]
fn the_readme_quotes_instructions_within_their_aims() {
    for row in instructions::ROWS {
        let value = quoted(row.name, 1).unwrap_or_else(|| panic!("README quotes no {}", row.name));
        assert_eq!(quoted(row.name, 3), row.aim, "README quotes another aim of {}", row.name);
        assert!(row.aim.is_none_or(|aim| value <= aim), "{} is quoted as {value}", row.name);
    }
}
