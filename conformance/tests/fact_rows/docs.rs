//! What the documentation of `backend-snp` says about what it does not do.

/// `backend-snp/docs/unsupported.md`, which is part of the crate's documentation.
const TEXT: &str = include_str!("../../../backend-snp/docs/unsupported.md");

/// Heading of the subjects that are left out for good, of those that are to come, and of facts that nobody confirmed.
const HEADINGS: [&str; 3] = ["## Not supported", "## Not yet supported", "## Doubtful facts"];

/// Subjects that are to come. No other may be.
const PLANNED: [&str; 4] = ["injection", "doorbell", "register protection", "vTOM"];

/// The subjects, each an item that begins with its name between asterisks.
pub(crate) struct Docs {
    left_out: Vec<&'static str>,
    planned: Vec<&'static str>,
    doubtful: Vec<&'static str>,
}

impl Docs {
    pub(crate) fn read() -> Self {
        let [left_out, planned, doubtful] = HEADINGS.map(|heading| {
            let section = TEXT.split_once(&format!("{heading}\n")).unwrap_or_else(|| panic!("no {heading}")).1;
            let section = section.split("\n## ").next().unwrap_or_default();
            let items = section.lines().filter_map(|line| line.strip_prefix("- **"));
            items.map(|line| line.split_once("**: ").expect("a name and a text").0).collect::<Vec<_>>()
        });
        assert!(planned.iter().all(|subject| PLANNED.contains(subject)), "{planned:?}");
        Self { left_out, planned, doubtful }
    }

    pub(crate) fn is_planned(&self, subject: &str) -> bool {
        self.planned.contains(&subject)
    }

    pub(crate) fn names(&self, subject: &str) -> bool {
        self.is_planned(subject) || self.left_out.contains(&subject)
    }

    /// Whether a doubtful row is named: its first three cells that are not empty, joined by commas.
    pub(crate) fn doubts(&self, cells: &[String]) -> bool {
        let name: Vec<_> = cells.iter().filter(|cell| !cell.is_empty()).take(3).map(String::as_str).collect();
        self.doubtful.contains(&name.join(", ").as_str())
    }
}
