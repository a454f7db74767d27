//! Every row of the SNP fact tables has a class: implemented, with the tests that show it; unsupported, with a reason that
//! the documentation of `backend-snp` gives; informative, with what it is instead of an interface.
//!
//! The classes stand in `backend-snp/facts/classes/`, one file per table. A row is named by its first cells joined by `|`;
//! fewer cells stand for all rows that begin with them, and the longest name counts.
//!
//! That a test exists is seen from the sources. That it ran and passed is seen from the output of the test command, when
//! `FACT_ROWS_LOG` names a file with it: `.ci/run` does so. A case counts when there is one for SNP that no exception takes out:
//! the test program `suite` runs all of them and fails with the first that does not pass.

mod classes;
mod docs;
mod evidence;
mod tables;

use std::collections::BTreeMap;

use classes::{Class, Classes};
use docs::Docs;
use evidence::Evidence;
use tables::Table;

/// Most unsupported rows of a table, in hundredths, without those of subjects that are [planned](Docs::is_planned).
const UNSUPPORTED_PERCENT: usize = 10;

/// Rows that may not be unsupported, but for what is planned: the table and the beginning of the name.
const NEVER_UNSUPPORTED: &[(&str, &str)] = &[
    ("instructions", "PVALIDATE|return_code"),
    ("instructions", "RMPADJUST|return_code"),
    ("ghcb_nae", "status"),
    ("ghcb_nae", "error"),
    ("guest_request", "vmm_error"),
    ("guest_request", "fw_status"),
    ("psc", "limit"),
    ("psc", "error"),
    ("svsm_protocol", "result"),
    ("svsm_protocol", "limit"),
];

/// Topics of `rmp_semantics` that may not be unsupported.
const TOPICS: [&str; 4] = ["check", "adjust", "validate", "vmsa"];

/// Rows of a table by class.
#[derive(Default)]
struct Count {
    implemented: usize,
    unsupported: usize,
    planned: usize,
    informative: usize,
}

#[test]
fn fact_rows() {
    let (docs, evidence) = (Docs::read(), Evidence::find());
    let mut complaints = Vec::new();
    let mut counts = BTreeMap::new();
    for table in Table::all() {
        let mut classes = Classes::read(&table.name);
        let mut count = Count::default();
        for row in &table.rows {
            let complaint = match classes.of(row) {
                None => Some("has no class".to_owned()),
                Some((Class::Implemented, tests)) => {
                    count.implemented += 1;
                    tests.split("; ").find_map(|test| evidence.complaint(test))
                }
                Some((Class::Unsupported, subject)) => {
                    count.unsupported += 1;
                    count.planned += usize::from(docs.is_planned(subject));
                    if is_never_unsupported(&table.name, row) && !docs.is_planned(subject) {
                        Some("may not be unsupported".to_owned())
                    } else {
                        (!docs.names(subject)).then(|| format!("the documentation has no subject {subject}"))
                    }
                }
                Some((Class::Informative, reason)) => {
                    count.informative += 1;
                    reason.is_empty().then(|| "gives no reason".to_owned())
                }
            };
            complaints.extend(complaint.map(|text| format!("{}: {}: {text}", table.name, row.cells.join("|"))));
            if row.is_doubtful() && !docs.doubts(&row.cells) {
                complaints.push(format!("{}: {}: the documentation does not name it", table.name, row.cells.join("|")));
            }
        }
        complaints.extend(classes.unused().map(|name| format!("{}: no row begins with {name}", table.name)));
        let (unsupported, all) = (count.unsupported - count.planned, table.rows.len());
        if unsupported * 100 > (all - count.planned) * UNSUPPORTED_PERCENT {
            complaints.push(format!("{}: {unsupported} of {all} rows are unsupported", table.name));
        }
        counts.insert(table.name, (count, all));
    }
    for (name, (count, total)) in &counts {
        println!(
            "{name}: implemented {}, unsupported {}, informative {}, total {total}",
            count.implemented, count.unsupported, count.informative
        );
    }
    assert_eq!(counts.len(), 18, "tables");
    assert!(complaints.is_empty(), "{} complaints:\n{}", complaints.len(), complaints.join("\n"));
}

fn is_never_unsupported(table: &str, row: &tables::Row) -> bool {
    let name = row.cells.join("|");
    NEVER_UNSUPPORTED.iter().any(|(known, start)| *known == table && name.starts_with(start))
        || table == "rmp_semantics" && TOPICS.contains(&row.cells[1].as_str())
}
