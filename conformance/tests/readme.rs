//! What the README quotes is what there is.

const README: &str = include_str!("../../README.md");

#[test]
fn the_small_monitor_stands_in_the_readme_as_it_is_run() {
    let monitor = include_str!("../../coco-part-api/docs/monitor.rs");
    assert!(README.contains(monitor), "README quotes another monitor");
    assert!(monitor.lines().count() <= 40);
}

#[test]
fn the_readme_names_every_crate_of_the_workspace() {
    let workspace = include_str!("../../Cargo.toml");
    let members = workspace.lines().skip_while(|line| !line.starts_with("members")).skip(1);
    let members: Vec<_> =
        members.take_while(|line| *line != "]").map(|line| line.trim_matches([' ', '"', ','])).collect();
    assert!(members.len() >= 7);
    for member in members {
        assert!(README.contains(&format!("({member})")), "README does not name {member}");
    }
}
