//! Compares the machine code of each function in `raw` with the fact tables.
//!
//! None of the instructions can be executed here. What can be checked: that the assembler made the right bytes, once,
//! and that SETC follows PVALIDATE at once.

use std::vec::Vec;

use iced_x86::{Code, Decoder, DecoderOptions, FlowControl, Instruction};
use x86_64::VirtAddr;

use super::*;

extern crate std;

const INSTRUCTIONS: &str = include_str!("../../facts/instructions.csv");
const EXIT_CODES: &str = include_str!("../../facts/vc_exit_codes.csv");

/// More than any of the functions is long.
const MOST_BYTES: usize = 256;

/// Decodes the function at `start` up to its return.
fn body(start: *const ()) -> Vec<(Instruction, Vec<u8>)> {
    let mut bytes = Vec::new();
    let mut found: Vec<(Instruction, Vec<u8>)> = Vec::new();
    while bytes.len() < MOST_BYTES {
        let next = start.cast::<u8>().wrapping_add(bytes.len());
        // SAFETY: the byte belongs to the function: decoding has not come to its return yet. Code is readable.
        bytes.push(unsafe { next.read() });
        let done: usize = found.iter().map(|(_, bytes)| bytes.len()).sum();
        let mut decoder = Decoder::new(64, &bytes[done..], DecoderOptions::NONE);
        let instruction = decoder.decode();
        if instruction.code() == Code::INVALID {
            continue;
        }
        found.push((instruction, bytes[done..].to_vec()));
        match instruction.flow_control() {
            FlowControl::Return => return found,
            FlowControl::Next | FlowControl::Exception | FlowControl::Call => {}
            other => panic!("{other:?} in a function that shall have no branch"),
        }
    }
    panic!("no return within {MOST_BYTES} bytes");
}

/// The bytes that the table has in `column` of the row that starts with `row`.
fn expected(table: &str, row: &str, column: usize) -> Vec<u8> {
    let line = table.lines().find(|line| line.starts_with(row)).expect(row);
    let text = line.split(',').nth(column).expect("column");
    text.split(' ').map(|byte| u8::from_str_radix(byte, 16).expect("hex byte")).collect()
}

/// Asserts that the function has the bytes exactly once, as one instruction, and returns what follows them.
fn assert_executes(start: *const (), bytes: &[u8]) -> Instruction {
    let body = body(start);
    let at: Vec<usize> = (0..body.len()).filter(|&index| body[index].1 == bytes).collect();
    assert_eq!(at.len(), 1, "{bytes:02x?} in {body:02x?}");
    body[at[0] + 1].0
}

#[test]
fn pvalidate_has_the_listed_bytes_and_setc_follows() {
    let next = assert_executes(raw::pvalidate as *const (), &expected(INSTRUCTIONS, "PVALIDATE,encoding", 4));
    assert_eq!(next.code(), Code::Setb_rm8);
}

#[test]
fn the_other_instructions_of_snp_have_the_listed_bytes() {
    for (start, row) in [
        (raw::rmpadjust as *const (), "RMPADJUST,encoding"),
        (raw::rmpquery as *const (), "RMPQUERY,encoding"),
        (raw::vmgexit as *const (), "VMGEXIT,encoding"),
        (raw::vmgexit_call as *const (), "VMGEXIT,encoding"),
        (raw::invlpgb as *const (), "INVLPGB,encoding"),
        (raw::tlbsync as *const (), "TLBSYNC,encoding"),
    ] {
        assert_executes(start, &expected(INSTRUCTIONS, row, 4));
    }
}

#[test]
fn the_common_instructions_have_the_listed_bytes() {
    for (start, row) in [(raw::pause as *const (), "0x77,PAUSE"), (raw::hlt as *const (), "0x78,HLT")] {
        assert_executes(start, &expected(EXIT_CODES, row, 3));
    }
    // The table lists both directions in one cell: read, then write.
    let line = EXIT_CODES.lines().find(|line| line.starts_with("0x7C,MSR")).expect("MSR row");
    assert_eq!(line.split(',').nth(3), Some("0F 32 / 0F 30"));
    assert_executes(raw::rdmsr as *const (), &[0x0f, 0x32]);
    assert_executes(raw::wrmsr as *const (), &[0x0f, 0x30]);
}

#[test]
fn an_address_outside_of_the_direct_map_executes_nothing() {
    let map = DirectMap::try_new(VirtAddr::new(0xffff_8000_0000_0000), 0x3000).expect("a possible map");
    // SAFETY: every call below is refused before its instruction; PVALIDATE would raise #UD or #GP here.
    let mut port = unsafe { NativePort::new(map) };
    for (at, size) in
        [(0x3000, PageSize::Size4KiB), (0x0, PageSize::Size2MiB), (0xf_ffff_ffff_f000, PageSize::Size4KiB)]
    {
        let page = Page::try_new(PhysAddr::new(at), size).expect("aligned");
        assert_eq!(port.pvalidate(page, PvalidateOp::Rescind), Err(Fault::GeneralProtection));
        assert_eq!(port.rmpadjust(page, RmpAttributes::default()), Err(Fault::GeneralProtection));
    }
    assert_eq!(port.rmpquery(PhysAddr::new(0x3000), Vmpl::VMPL1), Err(Fault::GeneralProtection));
}
