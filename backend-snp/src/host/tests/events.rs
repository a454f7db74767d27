//! Every event against the fact table: what the host sees, what it must answer, and what comes of bad answers.

use std::collections::BTreeSet;
use std::string::String;
use std::sync::OnceLock;
use std::vec::Vec;

use super::forms::{ANSWER, FORMS, Form};
use super::{GHCB, page};
use crate::abi::ghcb::ValidBit;
use crate::error::SnpError;
use crate::host::{NEVER_SENT, refusal};
use crate::testing::{BITMAP, Memory, number, reply, rows};

const NAE: &str = include_str!("../../../facts/ghcb_nae.csv");
const PAGE: &str = include_str!("../../../facts/ghcb_page.csv");

/// The fields of the page with their valid bits, by the names of the event table.
fn valid_bits() -> &'static [(String, u8)] {
    static BITS: OnceLock<Vec<(String, u8)>> = OnceLock::new();
    let named = |row: Vec<String>| {
        let name = row[0].to_uppercase().replace("EXIT_CODE", "EXITCODE").replace("EXIT_INFO_", "EXITINFO");
        Some((name, number(&row[3])? as u8))
    };
    BITS.get_or_init(|| rows(PAGE).into_iter().filter_map(named).collect())
}

/// Valid bit of a field.
fn bit(name: &str) -> u8 {
    valid_bits().iter().find(|(known, _)| known == name).unwrap_or_else(|| panic!("no field {name}")).1
}

/// Names of fields in a cell. `as above` is that of the row before, which names SW_EXITINFO2.
fn fields_in(cell: &str) -> BTreeSet<String> {
    let text = cell.replace("as above", "SW_EXITINFO2").replace("SEV_FEATURES", "");
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| valid_bits().iter().any(|(name, _)| name == word)).map(String::from).collect()
}

/// What the host answers: SW_EXITINFO1 and 2, and the valid bits.
#[derive(Clone, Copy)]
struct Says {
    info_1: u64,
    info_2: u64,
    bits: u128,
}

impl Says {
    /// Success with every field.
    fn success(form: &Form) -> Self {
        Self { info_1: 0, info_2: form.detail, bits: u128::MAX }
    }

    fn without(self, name: &str) -> Self {
        Self { bits: self.bits & !(1 << bit(name)), ..self }
    }
}

/// Sends a form to a host that answers so. Gives the outcome and the page as the host saw it first.
fn send(form: &Form, says: Says) -> (Result<(), SnpError>, Vec<u8>) {
    let memory = Memory::new();
    memory.bytes()[GHCB as usize..][..0x1000].fill(0xee);
    let seen = std::rc::Rc::new(core::cell::RefCell::new(Vec::new()));
    let (view, log) = (memory.clone(), std::rc::Rc::clone(&seen));
    let at = GHCB as usize;
    let (mut ghcb, mut port) = page(&memory, move |exit| {
        if exit.count == 0 {
            assert_eq!(*exit.msr, GHCB);
            *log.borrow_mut() = view.bytes()[at..at + 0x1000].to_vec();
        }
        reply(&view, GHCB, says.info_1, says.info_2);
        view.bytes()[at + BITMAP..][..16].copy_from_slice(&says.bits.to_le_bytes());
        for (name, value) in ["RAX", "RBX", "RCX", "RDX"].iter().zip(ANSWER) {
            view.set_word(at + usize::from(bit(name)) * 8, value);
        }
        // Data of a device; a page state list is done instead.
        for (byte, value) in view.bytes()[at + 0x800..at + 0xff0].iter_mut().zip(0xb0_u8..=0xff) {
            *byte = value;
        }
        if view.word(at + 0x390) == 0x8000_0010 {
            view.set_word(at + 0x800, 1);
        }
    });
    let outcome = (form.send)(&mut ghcb, &mut port);
    let seen = seen.borrow().clone();
    (outcome, seen)
}

fn event_rows() -> Vec<Vec<String>> {
    rows(NAE).into_iter().filter(|row| row[0] == "event").collect()
}

fn forms_of(code: u64) -> impl Iterator<Item = &'static Form> {
    FORMS.iter().filter(move |form| form.code == code)
}

#[test]
fn every_event_of_the_table_is_sent_or_refused_by_name() {
    for row in event_rows() {
        let code = number(&row[1]).unwrap();
        let never = NEVER_SENT.iter().any(|(never, _)| never.0 == code);
        let forms = forms_of(code).count();
        assert!(never != (forms > 0), "{row:?} has {forms} forms");
        let refused = refusal(crate::abi::nae::NaeCode(code));
        assert_eq!(refused.is_some(), never, "{row:?}");
        assert!(refused.is_none_or(|error| matches!(error, SnpError::Unsupported { .. })));
    }
    for form in FORMS {
        assert!(event_rows().iter().any(|row| number(&row[1]) == Some(form.code)), "{:#x}", form.code);
    }
}

#[test]
fn the_page_shows_exactly_the_fields_of_its_event() {
    for form in FORMS {
        let what = std::format!("{:#x} {}", form.code, form.what);
        let (outcome, seen) = send(form, Says::success(form));
        assert_eq!(outcome, Ok(()), "{what}");
        let mut expected = std::vec![0_u8; 0x1000];
        let mut bitmap = 0_u128;
        let header = [("SW_EXITCODE", form.code), ("SW_EXITINFO1", form.info.0), ("SW_EXITINFO2", form.info.1)];
        for (name, value) in header.iter().chain(form.inputs) {
            let bit = bit(name);
            bitmap |= 1 << bit;
            expected[usize::from(bit) * 8..][..8].copy_from_slice(&value.to_le_bytes());
        }
        expected[0x3f0..0x400].copy_from_slice(&bitmap.to_le_bytes());
        expected[0x800..][..form.buffer.len()].copy_from_slice(form.buffer);
        expected[0xffa] = 2;
        let differs = (0..0x1000).find(|at| seen[*at] != expected[*at]);
        assert_eq!(differs, None, "{what}");
    }
}

#[test]
fn the_forms_of_an_event_have_the_inputs_of_its_row() {
    for row in event_rows() {
        let code = number(&row[1]).unwrap();
        if forms_of(code).next().is_none() {
            continue;
        }
        let inputs: BTreeSet<String> =
            forms_of(code).flat_map(|form| form.inputs.iter().map(|(name, _)| String::from(*name))).collect();
        assert_eq!(inputs, fields_in(&row[5]), "{row:?}");
        let outputs: BTreeSet<String> =
            forms_of(code).flat_map(|form| form.outputs.iter().copied().map(String::from)).collect();
        assert_eq!(outputs, fields_in(&row[6]), "{row:?}");
    }
}

#[test]
fn each_field_of_an_answer_needs_its_valid_bit_and_no_other_does() {
    for form in forms_that_return() {
        for (name, bit) in valid_bits() {
            let needed = name == "SW_EXITINFO1" || form.outputs.contains(&name.as_str());
            let missing = SnpError::MissingField { field: ValidBit(*bit) };
            let expected = if needed { Err(missing) } else { Ok(()) };
            let (outcome, _) = send(form, Says::success(form).without(name));
            assert_eq!(outcome, expected, "{:#x} {} without {name}", form.code, form.what);
        }
    }
}

/// All forms but the end of the guest.
fn forms_that_return() -> impl Iterator<Item = &'static Form> {
    FORMS.iter().filter(|form| form.code != 0x8000_fffe)
}

#[test]
fn every_event_doubts_every_status_that_is_not_success() {
    let mut cases = Vec::new();
    // Every error of the table, and some that it does not have.
    let errors = rows(NAE).into_iter().filter(|row| row[0] == "error").map(|row| number(&row[1]).unwrap());
    let errors: Vec<u64> = errors.collect();
    assert_eq!(errors, [1, 2, 3, 4, 5, 6]);
    for code in errors.into_iter().chain([0, 7, u64::MAX]) {
        cases.push((2, code, SnpError::MalformedRequest { code }));
    }
    // Every vector as an exception.
    for vector in 0..=255 {
        let info = 0x8000_0300 | vector;
        let allowed = matches!(vector, 6 | 13);
        let error = if allowed { SnpError::Exception { info } } else { SnpError::ForbiddenException { info } };
        cases.push((1, info, error));
    }
    // #GP with its error code; of another type; not valid.
    let info = 0x1234_8000_0b0d;
    cases.push((1, info, SnpError::Exception { info }));
    for kind in (0..8).filter(|kind| *kind != 3) {
        let info = 0x8000_000d | kind << 8;
        cases.push((1, info, SnpError::ForbiddenException { info }));
    }
    for info in [0x0000_030d, 0x0000_0306, 0] {
        cases.push((1, info, SnpError::ForbiddenException { info }));
    }
    for status in [3, 0xff, 0x8000_0000, 0xffff_ffff, 0x1_0000_0003] {
        cases.push((status, 0, SnpError::UnknownStatus { status }));
    }
    for form in forms_that_return() {
        for (info_1, info_2, error) in &cases {
            let says = Says { info_1: *info_1, info_2: *info_2, bits: u128::MAX };
            let (outcome, _) = send(form, says);
            assert_eq!(outcome, Err(*error), "{:#x} {}: {info_1:#x} {info_2:#x}", form.code, form.what);
        }
        for status in [1, 2] {
            let says = Says { info_1: status, info_2: 0x8000_0b0d, bits: u128::MAX }.without("SW_EXITINFO2");
            let missing = SnpError::MissingField { field: ValidBit::SW_EXIT_INFO_2 };
            assert_eq!(send(form, says).0, Err(missing), "{:#x} {}", form.code, form.what);
        }
    }
}

#[test]
fn the_information_of_port_io_has_the_bits_of_the_table() {
    // The bits that the forms of port I/O set, over all of them, are those of the rows; each row has a form with it.
    let all = forms_of(0x7b).fold(0, |all, form| all | form.info.0);
    let mut named = 0_u64;
    for row in rows(NAE).into_iter().filter(|row| row[0] == "ioio") {
        let bits = row[2].strip_prefix("SW_EXITINFO1 bit ").unwrap();
        let (high, low) = bits.split_once(':').unwrap_or((bits, bits));
        let (high, low): (u32, u32) = (high.parse().unwrap(), low.parse().unwrap());
        let mask = (u64::MAX >> (63 - high)) & (u64::MAX << low);
        assert!(all & mask != 0, "{row:?}");
        named |= mask;
    }
    assert_eq!(all & !named, 0);
}
