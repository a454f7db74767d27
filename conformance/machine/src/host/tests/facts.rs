//! Numbers of the GHCB protocol, compared row by row with the fact tables.

use alloc::vec::Vec;

use crate::facts::{bits_of, finish, number, take};
use crate::host::ghcb::{self, Malformed};
use crate::host::{msr, nae, ports, psc};

#[test]
fn the_page_has_the_offsets_of_the_table() {
    let mut known = ghcb::LISTED.to_vec();
    for row in crate::facts::table!("backend-snp", "ghcb_page") {
        let name = row.get("field").to_uppercase();
        if let Some(at) = known.iter().position(|(other, _)| *other == name) {
            assert_eq!(known.remove(at).1 as u64, row.number("offset"), "{name}");
        }
        match name.as_str() {
            "SHARED_BUFFER" => {
                assert_eq!((ghcb::SHARED_BUFFER_END - ghcb::SHARED_BUFFER) as u64, row.number("size"));
            }
            "VALID_BITMAP" => assert!(row.get("meaning").starts_with("bit n covers the qword at offset 8*n")),
            _ => {}
        }
        if let Some(bit) = number(row.get("valid_bit")) {
            assert_eq!(bit, row.number("offset") / 8, "{name}");
        }
    }
    assert!(known.is_empty(), "{known:?}");
}

#[test]
fn codes_of_the_msr_protocol_are_those_of_the_table() {
    let mut known = msr::LISTED.to_vec();
    for row in crate::facts::table!("backend-snp", "ghcb_msr") {
        let spoken = match row.get("name") {
            "SEV info" => "SEV_INFO",
            "AP reset hold" => "RESET_HOLD",
            "preferred GHCB GPA" => "PREFERRED_GHCB",
            "register GHCB GPA" => "REGISTER_GHCB",
            "page state change" => "PSC",
            "run VMPL" => "RUN_VMPL",
            "unregister GHCB GPA" => "UNREGISTER_GHCB",
            "hypervisor features" => "FEATURES",
            "terminate" => "TERMINATE",
            "CPUID" => "CPUID",
            _ => continue,
        };
        let direction = row.get("direction");
        if !matches!(direction, "request" | "response") {
            continue;
        }
        let name = alloc::format!("{spoken}_{}", direction.to_uppercase());
        // A message has a row for each of its fields.
        let listed = msr::LISTED.iter().find(|(other, _)| *other == name);
        let (_, value) = listed.unwrap_or_else(|| panic!("{name} is not listed"));
        assert_eq!(*value, row.number("code"), "{name}");
        known.retain(|(other, _)| *other != name);
    }
    finish(&known);
}

#[test]
fn events_and_their_status_are_those_of_the_table() {
    let mut events = nae::event::LISTED.to_vec();
    let mut not_served = Vec::new();
    let mut bits = ports::ioio::LISTED.to_vec();
    for row in crate::facts::table!("backend-snp", "ghcb_nae") {
        let (name, meaning) = (row.get("name"), row.get("exitinfo1_or_meaning"));
        match row.get("kind") {
            "event" => {
                let constant =
                    name.trim_end_matches(" (HLT loop)").trim_start_matches('#').to_uppercase().replace(' ', "_");
                match take(&mut events, &constant) {
                    Some(value) => assert_eq!(value, row.number("code"), "{name}"),
                    None => not_served.push(row.number("code")),
                }
            }
            "status" if meaning.contains("exception") => assert_eq!(row.number("code"), ghcb::STATUS_EXCEPTION),
            "status" if meaning.contains("malformed") => assert_eq!(row.number("code"), ghcb::STATUS_MALFORMED),
            "error" => {
                let error = match meaning {
                    "GHCB not registered" => Malformed::NotRegistered,
                    "invalid usage value" => Malformed::Usage,
                    "invalid scratch area" => Malformed::Scratch,
                    "missing input (valid bit not set)" => Malformed::MissingInput,
                    "invalid input value" => Malformed::InvalidInput,
                    "invalid event" => Malformed::InvalidEvent,
                    other => panic!("unknown {other}"),
                };
                assert_eq!(error as u64, row.number("code"), "{meaning}");
            }
            "hv_feature" => {
                let offered = matches!(name, "SEV-SNP" | "AP creation" | "APIC ID list" | "multiple VMPLs");
                assert_eq!(msr::FEATURES >> row.number("code") & 1 == 1, offered, "{name}");
            }
            "ioio" => {
                let constant = match meaning {
                    "1 = IN, 0 = OUT" => "IN",
                    "string instruction" => "STRING",
                    "REP prefix" => "REP",
                    "8-bit operand" => "SIZE_8",
                    "16-bit operand" => "SIZE_16",
                    "32-bit operand" => "SIZE_32",
                    "16-bit address" => "ADDRESS_16",
                    "32-bit address" => "ADDRESS_32",
                    "64-bit address" => "ADDRESS_64",
                    "port" => "PORT",
                    _ if meaning.starts_with("segment") => "SEGMENT",
                    other => panic!("unknown {other}"),
                };
                let value = take(&mut bits, constant).unwrap_or_else(|| panic!("{constant} is not listed"));
                let width = bits_of(u64::MAX, bit_of(name));
                assert_eq!(bits_of(value, bit_of(name)), width, "{name}");
                assert_eq!(value.count_ones(), width.count_ones(), "{name}");
            }
            _ => {}
        }
    }
    finish(&events);
    finish(&bits);
    // PAUSE is no request; doorbell, its timer, secure AVIC, injection and end of interrupt are not modelled.
    let missing = [0x77, 0x8000_0014, 0x8000_0016, 0x8000_001a, 0x8000_001b, 0x8000_001c, 0x8000_001d];
    assert_eq!(not_served, missing);
}

/// `SW_EXITINFO1 bit 2`.
fn bit_of(name: &str) -> &str {
    name.rsplit(' ').next().unwrap_or_default()
}

#[test]
fn page_state_changes_have_the_numbers_of_the_table() {
    for row in crate::facts::table!("backend-snp", "psc") {
        let value = row.get("bits_or_value");
        match (row.get("kind"), row.get("field"), row.get("meaning")) {
            ("header", "reserved", _) => assert_eq!(psc::HEADER as u64, row.number("offset") + row.number("size")),
            ("entry_bits", "gfn", _) => assert_eq!(bits_of(psc::FRAME_BITS, value), (1 << 40) - 1),
            ("error", _, "invalid header") => assert_eq!(number(value), Some(psc::INVALID_HEADER)),
            ("error", _, "invalid entry") => assert_eq!(number(value), Some(psc::INVALID_ENTRY)),
            ("error", _, meaning) if meaning.starts_with("other failure") => {
                assert_eq!(number(value), Some(psc::FAILED));
            }
            ("limit", "max entries", _) => {
                let room = ghcb::SHARED_BUFFER_END - ghcb::SHARED_BUFFER - psc::HEADER;
                assert_eq!(number(value), Some(room as u64 / 8));
            }
            _ => {}
        }
    }
}
