//! Error codes: which fit which instruction, and that no other does anything (EV-03, `vc_exit_codes`).

use std::format;
use std::string::String;
use std::vec::Vec;

use super::super::*;
use super::mock::*;
use crate::insn::LinearAddr;

const TABLE: &str = include_str!("../../../facts/vc_exit_codes.csv");

/// The error codes of a row: one number, a range of them, or a negative number.
fn codes_of(row: &str) -> Vec<ExitCode> {
    let number = |text: &str| match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).unwrap(),
        None => text.parse::<i64>().unwrap() as u64,
    };
    let key = row.split(',').next().unwrap();
    match key.split_once("..") {
        Some((first, last)) => (number(first)..=number(last)).map(ExitCode).collect(),
        None => [ExitCode(number(key))].into(),
    }
}

/// Instructions that fit no error code that is handled.
const OTHERS: [&[u8]; 12] = [
    &[0x90],
    &[0xf3, 0x90],
    &[0xf4],
    &[0x0f, 0x08],
    &[0x0f, 0x20, 0xc0],
    &[0x0f, 0x22, 0xd8],
    &[0x0f, 0x21, 0xc0],
    &[0x0f, 0x01, 0xd1],
    &[0xf3, 0x0f, 0x01, 0xd9],
    &[0x89, 0xc3],
    &[0xf0, 0x89, 0x07],
    &[0xcc],
];

#[test]
fn every_row_of_vc_exit_codes_is_handled_or_refused_by_name() {
    let (mut rows, mut handled, mut refused) = (0, 0, 0);
    for row in TABLE.lines().skip(1) {
        rows += 1;
        for code in codes_of(row) {
            let mut fitting = HANDLED.iter().filter(|(handled, _)| *handled == code).peekable();
            if fitting.peek().is_some() {
                handled += 1;
                for (_, bytes) in fitting {
                    ready(code, bytes).done(code, bytes.len() as u64);
                }
                continue;
            }
            refused += 1;
            for bytes in HANDLED.iter().map(|(_, bytes)| *bytes).chain(OTHERS) {
                let outcome = ready(code, bytes).refused(code);
                let expected = match code {
                    ExitCode::DB => Ok(Outcome::Raise(Exception::DEBUG)),
                    ExitCode::AC => FALSE_EXIT,
                    ExitCode::PAGE_NOT_VALIDATED => Err(VcError::PageNotValidated { at: LinearAddr::new(0) }),
                    ExitCode::NOT_RESTARTABLE => Err(VcError::NotRestartable),
                    _ => Err(VcError::Unsupported { code }),
                };
                assert_eq!(outcome, expected, "{row}");
            }
        }
    }
    assert!(rows >= 70 && handled >= 14 && refused >= 100, "{rows} rows, {handled} handled, {refused} refused");
}

#[test]
fn an_error_code_that_does_not_fit_the_instruction_changes_nothing_and_asks_nothing() {
    let mut pairs = 0;
    for (code, _) in HANDLED {
        for (fits, bytes) in HANDLED {
            let mwait = [code, fits].iter().all(|code| [ExitCode::MWAIT, ExitCode::MWAIT_CONDITIONAL].contains(code));
            if code != fits && !mwait {
                assert_eq!(ready(fits, bytes).refused(code), FALSE_EXIT, "{code:?} {bytes:02x?}");
                pairs += 1;
            }
        }
        for bytes in OTHERS {
            assert_eq!(ready(code, bytes).refused(code), FALSE_EXIT, "{code:?} {bytes:02x?}");
            pairs += 1;
        }
    }
    assert!(pairs > 1000, "{pairs}");
}

#[test]
fn unknown_error_codes_are_refused_without_a_look_at_the_code() {
    for code in [0x100, 0x403, 0x405, 0x407, 0x8000_0001, 0x1_0000_0072, u64::MAX].map(ExitCode) {
        let mut scene = Scene::new(&[0x0f, 0xa2]);
        assert_eq!(scene.refused(code), Err(VcError::Unsupported { code }));
        assert_eq!(scene.space.fetched, []);
    }
}

#[test]
fn a_page_that_is_not_validated_is_fatal_and_never_repaired() {
    let mut scene = Scene::new(&[0x8b, 0x06]);
    scene.context.cr2 = 0x1234;
    let at = LinearAddr::new(0x1234);
    assert_eq!(scene.refused(ExitCode::PAGE_NOT_VALIDATED), Err(VcError::PageNotValidated { at }));
    assert_eq!(scene.refused(ExitCode::NOT_RESTARTABLE), Err(VcError::NotRestartable));
    // There is nothing here that could execute PVALIDATE: the handler has no port. It did not even look at the code.
    assert_eq!(scene.space.fetched, []);
}

#[test]
fn alignment_checks_are_forwarded_only_where_they_can_happen() {
    let scene = |cpl, rflags, cr0| {
        let mut scene = Scene::new(&[0x8b, 0x06]).at_cpl(cpl);
        (scene.context.registers.rflags, scene.context.cr0) = (rflags, cr0);
        scene.refused(ExitCode::AC)
    };
    let (flag, mask) = (1 << 18, 0x8004_0001);
    assert_eq!(scene(3, flag, mask), Ok(Outcome::Raise(Exception::ALIGNMENT_CHECK)));
    for (cpl, rflags, cr0) in [(0, flag, mask), (3, 0, mask), (3, flag, 1)] {
        assert_eq!(scene(cpl, rflags, cr0), FALSE_EXIT);
    }
}

#[test]
fn errors_of_vc_name_who_is_at_fault() {
    use coco_part_api::{Error, ErrorKind};
    let at = LinearAddr::new(0xabc);
    for (error, kind) in [
        (VcError::FalseExit { rip: 1 }, ErrorKind::HostMisbehaved),
        (VcError::Unsupported { code: ExitCode::HLT }, ErrorKind::Unsupported),
        (VcError::PageNotValidated { at }, ErrorKind::Inaccessible),
        (VcError::NotRestartable, ErrorKind::Inaccessible),
        (VcError::PrivateDevice { at }, ErrorKind::HostMisbehaved),
        (VcError::CrossesPage { at }, ErrorKind::Unsupported),
        (VcError::UserDevice { rip: 1 }, ErrorKind::NotPermitted),
        (VcError::ProtectedMsr { msr: 1 }, ErrorKind::HostMisbehaved),
        (VcError::Host(crate::SnpError::UnknownStatus { status: 7 }), ErrorKind::HostMisbehaved),
    ] {
        assert_eq!(error.kind(), kind);
        let text: String = format!("{error}");
        assert!(!text.ends_with('.') && text.chars().all(|c| !c.is_control()), "{text}");
    }
}
