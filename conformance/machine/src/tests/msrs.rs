//! MSRs that are the level's own, because the VMSA has a field for them.

use alloc::vec::Vec;

use super::{CPU0, CPU1, at, done, machine, on, switch, vmsa_of};
use crate::facts::table;
use crate::{Answer, Fault, Machine, Op, Outcome};

/// Field of the VMSA, number, and a value that it takes and that no other one of them has.
const FIELDS: &[(&str, u32, u64)] = &[
    ("spec_ctrl", 0x48, 0x87),
    ("sysenter_cs", 0x174, 0x8),
    ("sysenter_esp", 0x175, 0x1111_2222_3333_4444),
    ("sysenter_eip", 0x176, u64::MAX),
    ("dbgctl", 0x1d9, 0x3f),
    ("g_pat", 0x277, 0x0007_0106_0504_0706),
    ("xss", 0xda0, 0x1800),
    ("efer", 0xc000_0080, 0x9d01),
    ("star", 0xc000_0081, 0x23_0010_0000_0000),
    ("lstar", 0xc000_0082, 0xffff_ffff_8100_0000),
    ("cstar", 0xc000_0083, 0xff00_0000_0000_0000),
    ("sfmask", 0xc000_0084, 0x4_7700),
    ("fs", 0xc000_0100, 0x7fff_0000_1000),
    ("gs", 0xc000_0101, 0xffff_8880_0000_0000),
    ("kernel_gs_base", 0xc000_0102, 0x00ff_ffff_ffff_ffff),
    ("tsc_aux", 0xc000_0103, 0xffff_fffe),
];
/// Those without a field.
const COMMAND: u32 = 0x49;

/// Their numbers.
pub(super) const OLDER: &[u32] = &{
    let mut numbers = [COMMAND; FIELDS.len() + 1];
    let mut index = 0;
    while index < FIELDS.len() {
        numbers[index] = FIELDS[index].1;
        index += 1;
    }
    numbers
};

fn rdmsr(machine: &mut Machine, vmpl: u8, number: u32) -> Outcome {
    at(machine, vmpl, Op::Rdmsr(number))
}

fn value(value: u64) -> Outcome {
    Outcome::Done(Answer::Value(value))
}

const GENERAL_PROTECTION: Outcome = Outcome::Fault(Fault::GeneralProtection);

#[test]
fn each_msr_is_the_field_of_the_table_and_of_one_level_alone() {
    let mut m = machine();
    let before: Vec<Outcome> = FIELDS.iter().map(|(_, number, _)| rdmsr(&mut m, 1, *number)).collect();
    for (field, number, written) in FIELDS {
        assert_eq!(at(&mut m, 2, Op::Wrmsr(*number, *written)), done(), "{field}");
    }
    for ((field, number, _), before) in FIELDS.iter().zip(before) {
        assert_eq!(rdmsr(&mut m, 1, *number), before, "{field} of another level");
        assert_ne!(on(&mut m, CPU1, 2, Op::Rdmsr(*number)), rdmsr(&mut m, 2, *number), "{field} of another vCPU");
    }
    for (field, number, written) in FIELDS {
        assert_eq!(rdmsr(&mut m, 2, *number), value(*written), "{field}");
    }
    // Another level runs, so the page has them.
    switch(&mut m, CPU0, 0);
    let mut page = [0; 4096];
    let spa = m.translate(vmsa_of(CPU0, 2)).expect("memory");
    m.memory.read(spa / 4096, 0, &mut page);
    for (field, _, written) in FIELDS {
        let row = table!("backend-snp", "vmsa").into_iter().find(|row| row.get("field") == *field).expect("a row");
        // A segment has its base behind selector, attributes and limit.
        let (skipped, bytes) = match row.number("size") {
            16 => (8, 8),
            size => (0, size as usize),
        };
        let first = row.number("offset") as usize + skipped;
        assert_eq!(page[first..first + bytes], written.to_le_bytes()[..bytes], "{field}");
    }
}

#[test]
fn values_that_no_processor_takes_raise_general_protection_and_change_nothing() {
    let mut m = machine();
    let rows: &[(u32, &[u64])] = &[
        (0x48, &[1 << 3, 1 << 6, 1 << 8, 1 << 63]),
        (0x49, &[1 << 1, 1 << 6, 1 << 63]),
        (0x1d9, &[1 << 6, 1 << 63]),
        (0x277, &[2, 3 << 8, 8 << 16, 0xff << 56, 0x87]),
        (0xda0, &[1, 1 << 10, 1 << 13, 1 << 63]),
        (0xc000_0080, &[1 << 1, 1 << 9, 1 << 16, 1 << 19, 1 << 22, 1 << 63]),
        (0xc000_0082, &[1 << 56, 0xfe00 << 48]),
        (0xc000_0083, &[1 << 63]),
        (0xc000_0100, &[1 << 56]),
        (0xc000_0101, &[1 << 60]),
        (0xc000_0102, &[0xfeff << 48]),
    ];
    for (number, values) in rows {
        let before = rdmsr(&mut m, 2, *number);
        for written in *values {
            let refused = at(&mut m, 2, Op::Wrmsr(*number, *written));
            assert_eq!(refused, GENERAL_PROTECTION, "{number:#x} takes {written:#x}");
        }
        assert_eq!(rdmsr(&mut m, 2, *number), before, "{number:#x}");
    }
}

#[test]
fn a_prediction_command_is_written_and_never_read() {
    let mut m = machine();
    assert_eq!(
        [1, 0x80, 0x81, 0].map(|command| at(&mut m, 2, Op::Wrmsr(COMMAND, command))),
        [done(), done(), done(), done()]
    );
    assert_eq!(rdmsr(&mut m, 2, COMMAND), GENERAL_PROTECTION);
}

#[test]
fn tsc_aux_has_32_bits_and_leaves_what_lies_beside_it() {
    let mut m = machine();
    assert_eq!(at(&mut m, 2, Op::Wrmsr(0xc000_0103, 0x1234_5678_9abc_def0)), done());
    assert_eq!(rdmsr(&mut m, 2, 0xc000_0103), value(0x9abc_def0));
    let registers = m.registers(CPU0).expect("it runs");
    // PKRU before it, the TSC scale behind it.
    assert_eq!((&registers[0x2e8..0x2ec], &registers[0x2f0..0x2f8]), (&[0; 4][..], &[0; 8][..]));
}

#[test]
fn long_mode_is_not_switched_while_the_guest_pages() {
    let mut m = machine();
    switch(&mut m, CPU0, 2);
    let registers = m.registers_mut(CPU0).expect("it runs");
    crate::vmsa::write_u64(registers, crate::vmsa::EFER, 0x1500);
    crate::vmsa::write_u64(registers, crate::vmsa::CR0, 0x8000_0011);
    assert_eq!(at(&mut m, 2, Op::Wrmsr(0xc000_0080, 0x1400)), GENERAL_PROTECTION);
    assert_eq!(at(&mut m, 2, Op::Wrmsr(0xc000_0080, 0x1d01)), done());
    assert_eq!(rdmsr(&mut m, 2, 0xc000_0080), value(0x1d01));
}
