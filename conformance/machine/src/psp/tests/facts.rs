//! The firmware's layouts and codes, compared row by row with the fact tables.

use super::super::launch::page_type;
use super::super::message::msg_type;
use super::super::report::{REPORT_LEN, SIGNED_LEN};
use super::super::status;
use crate::facts::{Row, finish, number, take};

fn rows_of(rows: alloc::vec::Vec<Row>, kind: &'static str) -> impl Iterator<Item = Row> {
    rows.into_iter().filter(move |row| row.get("kind") == kind)
}

#[test]
fn status_page_and_message_types_are_those_of_the_tables() {
    let mut statuses = status::LISTED.to_vec();
    let mut types = msg_type::LISTED.to_vec();
    for row in crate::facts::table!("backend-snp", "guest_request") {
        let (name, value) = (row.get("field"), row.get("offset_or_value"));
        let known = match row.get("kind") {
            "fw_status" => take(&mut statuses, name),
            "type" => take(&mut types, name),
            _ => None,
        };
        assert!(known.is_none() || known == number(value), "{name}");
    }
    finish(&statuses);
    finish(&types);
    let mut pages = page_type::LISTED.to_vec();
    for row in rows_of(crate::facts::table!("backend-snp", "launch_measurement"), "page_type") {
        let name = row.get("field");
        assert_eq!(take(&mut pages, name), Some(row.number("offset_or_value")), "{name}");
    }
    finish(&pages);
}

#[test]
fn a_report_and_its_signature_fill_the_table() {
    let mut end = 0;
    for row in rows_of(crate::facts::table!("backend-snp", "attestation_report"), "field") {
        let at = row.number("offset_or_bits");
        assert_eq!(at, end, "{}", row.get("field"));
        end = at + row.number("size");
        if row.get("field") == "signature" {
            assert_eq!(at, SIGNED_LEN as u64);
        }
    }
    assert_eq!(end, REPORT_LEN as u64);
}
