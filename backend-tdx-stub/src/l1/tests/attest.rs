//! Reports: what is signed, and what is refused.

use coco_part_api::{
    Attest, AttestFor, Binding, DataForm, Error as _, ErrorKind, Evidence, GuestMemory, Level, report_data,
};

use super::*;
use crate::abi::report::{REPORT, TYPE_TDX, TdReport};
use crate::abi::status::Status;
use zerocopy::{FromZeros, IntoBytes};

const DATA: u64 = SCRATCH + 0x400;

/// TDG.MR.REPORT, with a report of this type lying in the scratch page already.
fn reports(script: &Script, ram: &Ram, kind: u8, data: [u8; 64], rax: u64) -> TdReport {
    let mut report = TdReport::new_zeroed();
    report.mac.report_type = kind;
    report.mac.reportdata = data;
    report.td.mrtd = [0x5a; 48];
    ram.write_value(PhysAddr::new(SCRATCH), &report).unwrap();
    script.call(Leaf::MR_REPORT, Regs { rcx: SCRATCH, rdx: DATA, ..Regs::default() }, status(rax));
    report
}

#[test]
fn a_report_for_a_level_signs_the_digest_of_level_nonce_and_manifest() {
    let (mut l1, script, ram) = l1();
    let data = report_data(Level::Guest(TWO), &[7; 64], b"services");
    let report = reports(&script, &ram, TYPE_TDX, data, 0);
    let mut out = [0xee; REPORT + 1];
    let evidence = l1.attest_for(TWO, &[7; 64], b"services", &mut out).unwrap();
    let expected =
        Evidence { len: REPORT, names: Level::Guest(TWO), bound_by: Binding::Monitor, data: DataForm::Digest };
    assert_eq!(evidence, expected);
    assert_eq!(&out[..REPORT], report.as_bytes());
    assert_eq!(out[REPORT], 0xee);
    assert_eq!(ram.read_value::<[u8; 64]>(PhysAddr::new(DATA)), Ok(data));
}

#[test]
fn the_own_report_signs_a_digest_too() {
    let (mut l1, script, ram) = l1();
    let data = report_data(Level::Monitor, &[7; 64], &[]);
    reports(&script, &ram, TYPE_TDX, data, 0);
    let evidence = l1.attest(&[7; 64], &mut [0; REPORT]).unwrap();
    assert_eq!((evidence.names, evidence.data), (Level::Monitor, DataForm::Digest));
    assert_eq!(ram.read_value::<[u8; 64]>(PhysAddr::new(DATA)), Ok(data), "never the caller's bytes");
}

#[test]
fn a_buffer_that_is_too_small_costs_no_call() {
    let (mut l1, _script, _ram) = l1();
    let error = l1.attest(&[0; 64], &mut [0; REPORT - 1]).unwrap_err();
    assert_eq!(error, Error::BufferTooSmall { needed: REPORT, given: REPORT - 1 });
}

#[test]
fn a_level_that_the_td_does_not_have_gets_no_report() {
    let (mut l1, _script, _ram) = l1();
    let error = l1.attest_for(GuestLevel::THREE, &[0; 64], &[], &mut [0; REPORT]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

#[test]
fn a_refused_or_foreign_report_is_not_handed_on() {
    let data = report_data(Level::Monitor, &[0; 64], &[]);
    let cases = [
        (TYPE_TDX, data, Status::OPERAND_INVALID.0, ErrorKind::Refused),
        (TYPE_TDX, data, 1, ErrorKind::Refused),
        (TYPE_TDX, [1; 64], 0, ErrorKind::Refused),
        (0, data, 0, ErrorKind::Refused),
    ];
    for (kind, data, rax, expected) in cases {
        let (mut l1, script, ram) = l1();
        reports(&script, &ram, kind, data, rax);
        let mut out = [0xee; REPORT];
        assert_eq!(l1.attest(&[0; 64], &mut out).unwrap_err().kind(), expected);
        assert_eq!(out, [0xee; REPORT]);
    }
}
