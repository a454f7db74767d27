//! The counted figures meet their aims.

use std::collections::BTreeSet;

use conformance::figures::measure;

const README: &str = include_str!("../../README.md");

#[test]
fn figures_meet_their_aims_and_no_figure_is_below_its_floor() {
    let figures = measure().expect("every measurement gets to its end");
    for figure in &figures {
        assert!(figure.meets_aim(), "{} is {}, its aim {:?}", figure.name, figure.value, figure.aim);
        assert!(figure.value >= figure.floor, "{} is {}, below its floor {}", figure.name, figure.value, figure.floor);
    }
    for figure in &figures {
        let row = README.lines().find(|line| line.split_whitespace().next() == Some(figure.name));
        let quoted = row.and_then(|row| row.split_whitespace().nth(1)).and_then(|value| value.parse().ok());
        assert_eq!(quoted, Some(figure.value), "README quotes another {}", figure.name);
    }
    let names: BTreeSet<_> = figures.iter().map(|figure| figure.name).collect();
    assert_eq!(names.len(), figures.len(), "names are unique");
    assert!(figures.iter().filter(|figure| figure.aim.is_some()).count() >= 15);
}
