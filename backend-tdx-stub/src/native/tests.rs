//! Disassembles what was assembled. None of the instructions can be executed here; the moving of registers can.

use std::vec::Vec;

use iced_x86::{Code, Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic};

use super::*;
use crate::facts::Table;

/// More than any of the functions is long.
const MOST_BYTES: usize = 512;

/// Decodes the function at `start` up to its return.
fn body(start: *const ()) -> Vec<(Instruction, Vec<u8>)> {
    let mut bytes = Vec::new();
    let mut found: Vec<(Instruction, Vec<u8>)> = Vec::new();
    let mut done = 0;
    while bytes.len() < MOST_BYTES {
        // SAFETY: the byte belongs to the function: decoding has not come to its return yet. Code can be read.
        bytes.push(unsafe { start.cast::<u8>().wrapping_add(bytes.len()).read() });
        let instruction = Decoder::new(64, &bytes[done..], DecoderOptions::NONE).decode();
        if instruction.code() == Code::INVALID {
            continue;
        }
        found.push((instruction, bytes[done..].to_vec()));
        done = bytes.len();
        match instruction.flow_control() {
            FlowControl::Return => return found,
            FlowControl::Next | FlowControl::Exception | FlowControl::Call => {}
            other => panic!("{other:?} in a function that shall have no branch"),
        }
    }
    panic!("no return within {MOST_BYTES} bytes");
}

/// The instructions of a function that are more than moving registers.
fn notable(start: *const ()) -> Vec<Mnemonic> {
    let moves = [Mnemonic::Mov, Mnemonic::Push, Mnemonic::Pop, Mnemonic::Xor, Mnemonic::Ret];
    body(start).into_iter().map(|(instruction, _)| instruction.mnemonic()).filter(|it| !moves.contains(it)).collect()
}

#[test]
fn tdcall_has_the_listed_bytes() {
    let table = Table::parse(include_str!("../../facts/tdcall_leaves.csv"));
    assert_eq!(table.one("leaf", "-").text("name"), "(common) TDCALL register rule");
    let bytes = [0x66, 0x0f, 0x01, 0xcc];
    for start in [raw::tdcall as *const (), raw::enter as *const ()] {
        let found: Vec<_> = body(start).into_iter().filter(|(_, found)| *found == bytes).collect();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].0.code(), Code::Tdcall);
    }
    assert_eq!(notable(raw::tdcall as *const ()), [Mnemonic::Tdcall]);
}

#[test]
fn vmcall_has_its_bytes_once() {
    let found: Vec<_> =
        body(raw::vmcall as *const ()).into_iter().filter(|(_, it)| *it == [0x0f, 0x01, 0xc1]).collect();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].0.code(), Code::Vmcall);
}

#[test]
fn entering_switches_the_extended_state_on_both_sides_of_the_call() {
    let order = [
        Mnemonic::Xsave64,
        Mnemonic::Xrstor64,
        Mnemonic::Xsetbv,
        Mnemonic::Tdcall,
        Mnemonic::Xsetbv,
        Mnemonic::Xsave64,
        Mnemonic::Xrstor64,
    ];
    assert_eq!(notable(raw::enter as *const ()), order);
}

#[test]
fn entering_names_the_right_area_each_time() {
    // The displacement of the load of RCX before each XSAVE and XRSTOR.
    let own = 0x70;
    let guest = 0x78;
    let mut last = 0;
    let mut areas = Vec::new();
    for (instruction, _) in body(raw::enter as *const ()) {
        match instruction.mnemonic() {
            Mnemonic::Mov if instruction.op0_register() == iced_x86::Register::RCX => {
                last = instruction.memory_displacement64();
            }
            Mnemonic::Xsave64 | Mnemonic::Xrstor64 => areas.push((instruction.mnemonic(), last)),
            _ => {}
        }
    }
    let expected =
        [(Mnemonic::Xsave64, own), (Mnemonic::Xrstor64, guest), (Mnemonic::Xsave64, guest), (Mnemonic::Xrstor64, own)];
    assert_eq!(areas, expected);
}

#[cfg(not(miri))] // executes assembly
#[test]
fn every_register_goes_in_and_comes_back_to_its_place() {
    let regs = Regs {
        rax: 1,
        rcx: 2,
        rdx: 3,
        rbx: 4,
        rsi: 5,
        rdi: 6,
        r8: 7,
        r9: 8,
        r10: 9,
        r11: 10,
        r12: 11,
        r13: 12,
        r14: 13,
        r15: 14,
    };
    let mut file = regs;
    // SAFETY: a register file; the instructions only invert registers.
    unsafe { raw::invert(&mut file) };
    let inverted = Regs {
        rax: !1,
        rcx: !2,
        rdx: !3,
        rbx: !4,
        rsi: !5,
        rdi: !6,
        r8: !7,
        r9: !8,
        r10: !9,
        r11: !10,
        r12: !11,
        r13: !12,
        r14: !13,
        r15: !14,
    };
    assert_eq!(file, inverted);
    // SAFETY: as before.
    unsafe { raw::invert(&mut file) };
    assert_eq!(file, regs);
}

#[test]
fn everything_unswitched_is_exchanged() {
    let mut reads = Vec::new();
    let mut writes = Vec::new();
    let text = body_with_branches(raw::exchange as *const ());
    for instruction in text {
        if instruction.mnemonic() == Mnemonic::Mov {
            let special = |register: iced_x86::Register| register.is_cr() || register.is_dr();
            if special(instruction.op0_register()) {
                writes.push(instruction.op0_register());
            } else if instruction.op_count() == 2 && special(instruction.op1_register()) {
                reads.push(instruction.op1_register());
            }
        }
    }
    use iced_x86::Register::{CR2, DR0, DR1, DR2, DR3, DR6};
    for register in [CR2, DR0, DR1, DR2, DR3, DR6] {
        assert!(reads.contains(&register) && writes.contains(&register), "{register:?}");
    }
}

/// Instructions of a function that may branch, in memory order up to the first return.
fn body_with_branches(start: *const ()) -> Vec<Instruction> {
    let mut bytes = Vec::new();
    let mut found: Vec<Instruction> = Vec::new();
    let mut done = 0;
    while bytes.len() < 4096 && found.last().is_none_or(|last| last.flow_control() != FlowControl::Return) {
        // SAFETY: as in `body`.
        bytes.push(unsafe { start.cast::<u8>().wrapping_add(bytes.len()).read() });
        let instruction = Decoder::new(64, &bytes[done..], DecoderOptions::NONE).decode();
        if instruction.code() != Code::INVALID {
            found.push(instruction);
            done = bytes.len();
        }
    }
    found
}

#[test]
fn a_fresh_area_loads_the_initial_state() {
    let mut area = SaveArea::new();
    let start = area.as_mut_ptr();
    assert_eq!(start as usize % 64, 0);
    // SAFETY: 28 bytes of the area.
    let mxcsr = unsafe { start.wrapping_add(24).cast::<u32>().read() };
    assert_eq!(mxcsr, 0x1f80);
}

#[test]
fn a_new_vcpu_begins_with_the_values_after_reset() {
    let mut guest = GuestRegisters::new();
    assert!(guest.set_xcr0(7) && guest.set_msr(0xC000_0082, 0x1000));
    guest.unswitched.dr[3] = 5;
    let start = guest.area.as_mut_ptr();
    for at in [24, 512, SAVE_AREA - 1] {
        // SAFETY: bytes of the area: MXCSR, XSTATE_BV, and the last one.
        unsafe { start.wrapping_add(at).write(0xff) };
    }
    guest.reset();
    assert_eq!((guest.xcr0(), guest.unswitched), (1, GuestRegisters::new().unswitched));
    let mut fresh = SaveArea::new();
    let fresh = fresh.as_mut_ptr();
    // SAFETY: every byte is one of the two areas.
    let byte = |area: *mut u8, at: usize| unsafe { area.wrapping_add(at).read() };
    assert!((0..SAVE_AREA).all(|at| byte(start, at) == byte(fresh, at)));
}

#[test]
fn values_that_would_fault_in_l1_are_refused() {
    let mut guest = GuestRegisters::new();
    assert!(guest.set_msr(0xC000_0082, 0xffff_8000_0000_0000));
    assert!(!guest.set_msr(0xC000_0082, 0x8000_0000_0000));
    assert!(!guest.set_msr(0xC000_0084, 1 << 32));
    assert!(!guest.set_msr(0xDA0, 1 << 8));
    assert!(!guest.set_msr(0xC000_0080, 0), "EFER is no register of this set");
    assert_eq!(guest.msr(0xC000_0082), Some(0xffff_8000_0000_0000));
    for bad in [0, 2, 5, 1 | 1 << 3, 7 | 1 << 5, 3 | 7 << 5, 1 | 1 << 17, 1 | 1 << 8, 1 << 63 | 1] {
        assert!(!guest.set_xcr0(bad), "{bad:#x}");
    }
    assert!(guest.set_xcr0(0xe7));
    guest.restrict(7);
    assert_eq!(guest.xcr0(), 7);
}
