//! Each exit reason, and events whose delivery an exit broke off.

use coco_part_api::{
    Access, Completion, Direction, Error as _, ErrorKind, Exit, FaultCause, GuestMemory, GuestState, MemoryFault,
    MsrAccess, PortAccess, RunLevel,
};

use super::*;
use crate::abi::guest_state::EnterGuestState;
use crate::abi::status::Status;
use crate::facts::{Table, number};

const ENTER_ONE: u64 = 1 << 52;

fn state() -> EnterGuestState {
    let mut gpr = [0; 16];
    (gpr[0], gpr[1], gpr[2]) = (0xaaaa_aaaa_8000_0001, 0xcccc_cccc_c000_0080, 0xdddd_dddd_0000_0002);
    EnterGuestState::new(gpr, 0x1000, 2)
}

/// Runs level 1 once; it stops in `state` with these registers.
fn run(gives: Regs) -> (Exit, Tested, Script, Ram) {
    let (mut l1, script, ram) = ready();
    let page = ram.clone();
    let write = move || page.write_value(PhysAddr::new(REGISTERS), &state()).unwrap();
    script.enter(ENTER_ONE, REGISTERS, gives, write);
    let exit = l1.run(ONE).unwrap();
    (exit, l1, script, ram)
}

fn exit(gives: Regs) -> Exit {
    let (exit, _l1, _script, ram) = run(gives);
    assert_eq!(ram.read_value(PhysAddr::new(REGISTERS)), Ok(state()), "no register changed");
    exit
}

fn reason(rax: u64) -> Regs {
    Regs { rax, r11: 2 << 32, ..Regs::default() }
}

#[test]
fn cpuid_takes_leaf_and_subleaf_from_the_registers_of_the_level() {
    let exit = exit(reason(10));
    assert!(matches!(exit, Exit::Cpuid { leaf: 0x8000_0001, subleaf: 0xc000_0080 }), "{exit:?}");
}

#[test]
fn msr_accesses_carry_number_and_value() {
    let Exit::Msr(read) = exit(reason(31)) else { panic!("no MSR") };
    assert_eq!(read, MsrAccess::Read { msr: 0xc000_0080 });
    let Exit::Msr(written) = exit(reason(32)) else { panic!("no MSR") };
    assert_eq!(written, MsrAccess::Write { msr: 0xc000_0080, value: 0x2_8000_0001 });
}

#[test]
fn port_accesses_carry_size_direction_and_value() {
    let io = |qualification| exit(Regs { rcx: qualification, ..reason(30) });
    let Exit::Port(out) = io(0x3f8_0000) else { panic!("no port") };
    assert_eq!(out, PortAccess { port: 0x3f8, size: 1, direction: Direction::Out, value: 1 });
    let Exit::Port(out) = io(0x80_0001) else { panic!("no port") };
    assert_eq!(out, PortAccess { port: 0x80, size: 2, direction: Direction::Out, value: 1 });
    let Exit::Port(out) = io(0xcf8_0003) else { panic!("no port") };
    assert_eq!(out, PortAccess { port: 0xcf8, size: 4, direction: Direction::Out, value: 0x8000_0001 });
    let Exit::Port(input) = io(0xffff_000b) else { panic!("no port") };
    assert_eq!(input, PortAccess { port: 0xffff, size: 4, direction: Direction::In, value: 0 });
    for odd in [0x3f8_0010, 0x3f8_0030, 0x3f8_0002, 0x3f8_0007] {
        assert!(matches!(io(odd), Exit::Other { code: 30 }), "string or impossible size: {odd:#x}");
    }
}

#[test]
fn hlt_is_over_when_it_is_reported() {
    let (mut l1, script, ram) = ready();
    let page = ram.clone();
    let write_state = move || page.write_value(PhysAddr::new(REGISTERS), &state()).unwrap();
    script.enter(ENTER_ONE, REGISTERS, Regs { r11: 1 << 32, ..reason(12) }, write_state);
    write(&script, ONE, VmcsField::INTERRUPTIBILITY, 0, 3);
    assert!(matches!(l1.run(ONE), Ok(Exit::Halt)));
    let after: EnterGuestState = ram.read_value(PhysAddr::new(REGISTERS)).unwrap();
    assert_eq!(after, EnterGuestState::new(state().gpr, 0x1001, 2));
}

#[test]
fn memory_faults_tell_what_was_tried_and_why_it_failed() {
    let fault = |rax: u64, qualification: u64, kind: u64| {
        let gives = Regs { rcx: qualification, r8: 0x5678, r13: kind, ..reason(rax) };
        match exit(gives) {
            Exit::Memory(fault) => fault,
            other => panic!("{other:?}"),
        }
    };
    let at = PhysAddr::new(0x5678);
    let expect = |access, cause| MemoryFault { at, access, cause };
    assert_eq!(fault(48, 1, 6), expect(Access::Read, FaultCause::NotValidated));
    assert_eq!(fault(48, 2, 0), expect(Access::Write, FaultCause::NoRight));
    assert_eq!(fault(48, 3, 0), expect(Access::Write, FaultCause::NoRight));
    assert_eq!(fault(48, 4, 0), expect(Access::Execute, FaultCause::NoRight));
    let routed = Status::L2_EXIT_HOST_ROUTED_ASYNC.0 | 48;
    assert_eq!(fault(routed, 1, 0), expect(Access::Read, FaultCause::NotMapped));
}

#[test]
fn an_address_that_no_memory_has_is_no_memory_fault() {
    assert!(matches!(exit(Regs { r8: 1 << 52, ..reason(48) }), Exit::Other { code: 48 }));
    let routed = Status::L2_EXIT_HOST_ROUTED_ASYNC.0 | 48;
    assert!(matches!(exit(Regs { r8: u64::MAX, ..reason(routed) }), Exit::Spurious));
}

#[test]
fn every_reason_of_the_table_that_comes_to_l1_is_some_exit() {
    let named = [2, 10, 12, 18, 30, 31, 32, 48, 77];
    let table = Table::parse(include_str!("../../../facts/vmx_exit_reasons.csv"));
    let mut others = 0;
    for row in table.rows().filter(|row| row.text("delivered_to_L1") != "no") {
        let code = number(row.text("basic_reason")).unwrap();
        if named.contains(&code) {
            continue;
        }
        let exit = exit(reason(code));
        assert!(matches!(exit, Exit::Other { code: reported } if reported == code), "{code}: {exit:?}");
        others += 1;
    }
    assert!(others > 40);
    assert!(matches!(exit(reason(2)), Exit::Shutdown));
}

#[test]
fn unlisted_reasons_and_flags_beside_the_reason_do_not_confuse() {
    assert!(matches!(exit(reason(0x1234)), Exit::Other { code: 0x1234 }));
    assert!(matches!(exit(reason(1 << 26 | 2)), Exit::Shutdown), "a bus lock was seen as well");
}

#[test]
fn an_exception_whose_delivery_was_broken_off_is_delivered_again() {
    let (mut l1, script, _ram) = ready();
    // #PF with error code 4, bit 12 undefined.
    let gives = Regs { r10: 4 << 32 | 0x8000_1b0e, r8: 0x5000, ..reason(48) };
    script.enter(ENTER_ONE, REGISTERS, gives, || ());
    write(&script, ONE, VmcsField::ENTRY_ERROR_CODE, 4, u64::MAX);
    write(&script, ONE, VmcsField::ENTRY_INTERRUPTION, 0x8000_0b0e, u64::MAX);
    assert!(matches!(l1.run(ONE), Ok(Exit::Memory(_))));
}

#[test]
fn a_broken_off_nmi_does_not_block_itself() {
    let (mut l1, script, _ram) = ready();
    let gives = Regs { rax: Status::L2_EXIT_HOST_ROUTED_ASYNC.0 | 48, r10: 0x8000_0202, r8: 0x5000, ..Regs::default() };
    script.enter(ENTER_ONE, REGISTERS, gives, || ());
    write(&script, ONE, VmcsField::INTERRUPTIBILITY, 0, 8);
    write(&script, ONE, VmcsField::ENTRY_INTERRUPTION, 0x8000_0202, u64::MAX);
    assert!(matches!(l1.run(ONE), Ok(Exit::Memory(_))));
}

#[test]
fn a_broken_off_software_interrupt_keeps_its_length() {
    let (mut l1, script, _ram) = ready();
    let gives = Regs { r10: 0x8000_0480, r8: 0x5000, ..reason(48) };
    script.enter(ENTER_ONE, REGISTERS, gives, || ());
    write(&script, ONE, VmcsField::ENTRY_LENGTH, 2, u64::MAX);
    write(&script, ONE, VmcsField::ENTRY_INTERRUPTION, 0x8000_0480, u64::MAX);
    assert!(matches!(l1.run(ONE), Ok(Exit::Memory(_))));
}

#[test]
fn nothing_is_delivered_again_when_the_level_did_not_run() {
    let (mut l1, script, _ram) = ready();
    let gives = Regs { rax: Status::PENDING_INTERRUPT.0, r10: 0x8000_0b0e, ..Regs::default() };
    script.enter(ENTER_ONE, REGISTERS, gives, || ());
    assert!(matches!(l1.run(ONE), Ok(Exit::InterruptPending)));
}

/// Completes an exit with these registers, and gives the registers afterwards.
fn completed(gives: Regs, with: Completion) -> EnterGuestState {
    let (_exit, mut l1, script, ram) = run(gives);
    write(&script, ONE, VmcsField::INTERRUPTIBILITY, 0, 3);
    l1.complete(ONE, with).unwrap();
    assert_eq!(l1.complete(ONE, with), Err(Error::NoTrap { level: ONE }), "once");
    ram.read_value(PhysAddr::new(REGISTERS)).unwrap()
}

#[test]
fn a_trapped_instruction_is_completed_in_its_registers_and_rip() {
    let with = |changed: &[(usize, u64)], length: u64| {
        let mut gpr = state().gpr;
        changed.iter().for_each(|(register, value)| gpr[*register] = *value);
        EnterGuestState::new(gpr, 0x1000 + length, 2)
    };
    let cpuid = completed(reason(10), Completion::Cpuid([0xa, 0xb, 0xc, 0xd]));
    assert_eq!(cpuid, with(&[(0, 0xa), (1, 0xc), (2, 0xd), (3, 0xb)], 2));
    let msr = completed(reason(31), Completion::Msr(0x1234_0000_5678));
    assert_eq!(msr, with(&[(0, 0x5678), (2, 0x1234)], 2));
    assert_eq!(completed(reason(32), Completion::Plain), with(&[], 2));
    // IN of one byte, OUT, and XSETBV that no exit names.
    let input = completed(Regs { rcx: 0x3fd_0008, ..reason(30) }, Completion::In(0xffff_ff60));
    assert_eq!(input, with(&[(0, 0xaaaa_aaaa_8000_0060)], 2));
    assert_eq!(completed(Regs { rcx: 0x3f8_0000, ..reason(30) }, Completion::Plain), with(&[], 2));
    assert_eq!(completed(Regs { r11: 15 << 32, ..reason(55) }, Completion::Plain), with(&[], 15));
}

#[test]
fn what_does_not_fit_or_has_no_length_is_not_completed() {
    let refused = |gives: Regs, with: Completion| {
        let (_exit, mut l1, _script, ram) = run(gives);
        let error = l1.complete(ONE, with).unwrap_err();
        assert_eq!(ram.read_value(PhysAddr::new(REGISTERS)), Ok(state()), "no register changed");
        error
    };
    for with in [Completion::Plain, Completion::Msr(1), Completion::In(1)] {
        assert_eq!(refused(reason(10), with), Error::NoTrap { level: ONE });
    }
    for length in [0, 16, u64::from(u32::MAX)] {
        let error = refused(Regs { r11: length << 32, ..reason(10) }, Completion::Cpuid([0; 4]));
        assert_eq!((error, error.kind()), (Error::NoLength { level: ONE }, ErrorKind::Refused));
    }
    // Memory, shutdown, and what the host brought about.
    for gives in [Regs { r8: 0x5000, ..reason(48) }, reason(2), reason(Status::L2_EXIT_HOST_ROUTED_ASYNC.0 | 1)] {
        let error = refused(gives, Completion::Plain);
        assert_eq!((error, error.kind()), (Error::NoTrap { level: ONE }, ErrorKind::InvalidArgument));
    }
}

#[test]
fn an_instruction_is_not_completed_after_the_level_has_run_again() {
    let (_exit, mut l1, script, _ram) = run(reason(10));
    script.enter(ENTER_ONE, REGISTERS, reason(Status::L2_EXIT_HOST_ROUTED_ASYNC.0 | 1), || ());
    assert!(matches!(l1.run(ONE), Ok(Exit::Spurious)));
    assert_eq!(l1.complete(ONE, Completion::Cpuid([0; 4])), Err(Error::NoTrap { level: ONE }));
}

#[test]
fn no_leaf_of_cpuid_is_vouched_for() {
    let (mut l1, _script, _ram) = ready();
    assert_eq!(l1.cpuid(ONE, 0, 0), Ok(None));
    assert_eq!(l1.cpuid(GuestLevel::TWO, 0, 0).unwrap_err().kind(), ErrorKind::NotFound);
}
