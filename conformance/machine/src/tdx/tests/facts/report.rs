//! TDREPORT.

use super::*;
use crate::tdx::{DEBUG, SEPT_VE_DISABLE};

#[test]
fn every_field_of_a_report_stands_where_the_table_has_it() {
    let mut m = machine_with(|config| config.attributes = SEPT_VE_DISABLE | DEBUG);
    for index in 0..4 {
        assert_eq!(l1(&mut m, write(VAPIC, &[index + 1; 48])), done());
        assert_eq!(call(&mut m, leaf::MR_RTMR_EXTEND, Regs { rcx: VAPIC, rdx: index.into(), ..NONE }).rax, 0);
    }
    let data: Vec<u8> = (1..=64).collect();
    assert_eq!(l1(&mut m, write(VAPIC, &data)), done());
    assert_eq!(call(&mut m, leaf::MR_REPORT, Regs { rcx: SCRATCH, rdx: VAPIC, ..NONE }).rax, 0);
    let report = m.peek(SCRATCH, 1024, Some(0)).expect("accepted");
    let is_zero = |bytes: &[u8]| bytes.iter().all(|byte| *byte == 0);
    let mut covered = 0;
    for row in table!("tdreport").iter().filter(|row| row.get("structure") != "rule") {
        let (structure, field) = (row.get("structure"), row.get("field"));
        let [at, within, size] = ["offset_in_report", "offset_in_struct", "size"].map(|name| row.number(name) as usize);
        let start = match structure {
            "REPORTMACSTRUCT" => 0,
            "TEE_TCB_INFO" => 256,
            "TDINFO" => 512,
            other => panic!("unknown {other}"),
        };
        assert_eq!(at, start + within, "{structure} {field}");
        if field == "size note" {
            continue;
        }
        // No gaps but the end of TEE_TCB_INFO.
        assert!(at == covered || (at, covered) == (512, 495) && is_zero(&report[covered..at]), "{structure} {field}");
        covered = at + size;
        let bytes = &report[at..covered];
        let right = match (structure, field) {
            (_, "REPORT_TYPE.type") => row.get("meaning").starts_with("0x81") && bytes == [0x81],
            (_, "REPORTDATA") => bytes == data,
            (_, "TEE_TCB_INFO_HASH") => bytes == crate::tdx::module::hash::sha384(&[&report[256..495]]),
            (_, "TEE_INFO_HASH") => bytes == crate::tdx::module::hash::sha384(&[&report[512..]]),
            ("TDINFO", "ATTRIBUTES") => bytes == (SEPT_VE_DISABLE | DEBUG).to_le_bytes(),
            ("TDINFO", "XFAM") => bytes == value(&mut m, 0x1110_0003_0000_0001).to_le_bytes(),
            (_, "MRTD") => bytes == m.mrtd(),
            (_, rtmr) if rtmr.starts_with("RTMR") => {
                let index = rtmr[4..].parse::<usize>().expect("an index");
                m.rtmr(index).is_some_and(|rtmr| bytes == rtmr && !is_zero(bytes))
            }
            (_, "CPUSVN" | "MAC" | "TEE_TCB_SVN" | "MRSEAM" | "valid") => !is_zero(bytes),
            // Not set in this TD.
            _ => is_zero(bytes),
        };
        assert!(right, "{structure} {field}: {bytes:x?}");
    }
    assert_eq!(covered, 1024);
    let whole: [u8; 1024] = report.clone().try_into().expect("1024 bytes");
    assert!(m.report_is_genuine(&whole));
    // Each byte is covered by the MAC or by a hash, but the gap, which is in neither.
    for at in (0..495).chain(512..1024) {
        let mut other = whole;
        other[at] ^= 1;
        assert!(!m.report_is_genuine(&other), "{at}");
    }
}

fn value(m: &mut Machine, id: u64) -> u64 {
    call(m, leaf::VM_RD, Regs { rdx: id, ..NONE }).r8
}
