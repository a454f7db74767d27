//! Running a level: statuses, calls and their answers.

use coco_part_api::{CallRegs, Error as _, ErrorKind, Exit, Grant, GuestMemory, PendingCall, RunLevel, Source};

use super::*;
use crate::abi::guest_state::EnterGuestState;
use crate::abi::status::Status;

const ENTER_ONE: u64 = 1 << 52;
const VMCALL: u64 = 18;
const TDCALL: u64 = 77;

/// An exit of the level with this reason, at CPL 0, of an instruction of three bytes.
fn left(reason: u64) -> Regs {
    Regs { rax: reason, r11: 3 << 32, ..Regs::default() }
}

fn enters(script: &Script, gives: Regs) {
    script.enter(ENTER_ONE, REGISTERS, gives, || ());
}

fn registers(ram: &Ram) -> EnterGuestState {
    ram.read_value(PhysAddr::new(REGISTERS)).unwrap()
}

/// The level stops with these registers.
fn stops_with(script: &Script, ram: &Ram, state: EnterGuestState, gives: Regs) {
    let ram = ram.clone();
    script.enter(ENTER_ONE, REGISTERS, gives, move || ram.write_value(PhysAddr::new(REGISTERS), &state).unwrap());
}

fn calling() -> EnterGuestState {
    let mut state = EnterGuestState::new([0xff; 16], 0x1234, 0x202);
    (state.gpr[0], state.gpr[1], state.gpr[2], state.gpr[8], state.gpr[9]) = (1, 2, 3, 4, 5);
    (state.ssp, state.rvi, state.svi) = (6, 7, 8);
    state
}

const REGS: CallRegs = CallRegs { rax: 1, rcx: 2, rdx: 3, r8: 4, r9: 5 };
const ANSWER: CallRegs = CallRegs { rax: 10, rcx: 20, rdx: 30, r8: 40, r9: 50 };

#[test]
fn a_level_without_a_vcpu_cannot_be_entered() {
    let (mut l1, _script, _ram) = l1();
    assert_eq!(l1.run(ONE).unwrap_err(), Error::NoVcpu { level: ONE });
    assert_eq!(l1.run(GuestLevel::THREE).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(l1.set_call_area(ONE, frame(0x1000)).unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn a_call_is_copied_once_and_answered_in_five_registers() {
    let (mut l1, script, ram) = ready();
    stops_with(&script, &ram, calling(), left(VMCALL));
    let Exit::Call(call) = l1.run(ONE).unwrap() else { panic!("no call") };
    assert_eq!((call.level(), call.regs()), (ONE, REGS));
    l1.answer(call, ANSWER).unwrap();
    let mut expected = calling();
    (expected.gpr[0], expected.gpr[1], expected.gpr[2], expected.gpr[8], expected.gpr[9]) = (10, 20, 30, 40, 50);
    expected.rip += 3;
    assert_eq!(registers(&ram), expected);
}

#[test]
fn an_unanswered_call_keeps_its_level_stopped_and_its_frame_in_use() {
    let (mut l1, script, ram) = ready();
    stops_with(&script, &ram, calling(), left(VMCALL));
    assert!(matches!(l1.run(ONE), Ok(Exit::Call(_))), "dropped here");
    assert_eq!(l1.run(ONE).unwrap_err(), Error::CallPending { level: ONE });
    let at = frame(FRAME + 0x2000);
    assert_eq!(l1.retire(at, &terms(ONE, 0)).unwrap_err().kind(), ErrorKind::InUse);
    let proof = l1.redeem(Default::default()).unwrap();
    let seed = l1.admit(frame(FRAME), Source::Context(&kernel()), &terms(ONE, 0), &proof).unwrap();
    assert_eq!(l1.install(seed).unwrap_err().1, Error::CallPending { level: ONE });
    assert_eq!(registers(&ram), calling());
}

#[test]
fn a_call_is_answered_once() {
    let (mut l1, script, ram) = ready();
    stops_with(&script, &ram, calling(), left(VMCALL));
    let Exit::Call(call) = l1.run(ONE).unwrap() else { panic!("no call") };
    l1.answer(call, ANSWER).unwrap();
    let after = registers(&ram);
    assert_eq!(l1.answer(PendingCall::new(ONE, REGS), REGS), Err(Error::NoCall { level: ONE }));
    assert_eq!(registers(&ram), after);
    enters(&script, left(2));
    assert!(matches!(l1.run(ONE), Ok(Exit::Shutdown)));
}

#[test]
fn an_answer_that_cannot_be_written_leaves_the_caller_stopped() {
    let (mut l1, script, ram) = ready();
    stops_with(&script, &ram, calling(), left(VMCALL));
    let Exit::Call(call) = l1.run(ONE).unwrap() else { panic!("no call") };
    ram.break_at(REGISTERS);
    assert_eq!(l1.answer(call, ANSWER).unwrap_err().kind(), ErrorKind::Inaccessible);
    assert_eq!(l1.run(ONE).unwrap_err().kind(), ErrorKind::InUse);
}

#[test]
fn the_instruction_pointer_wraps_and_does_not_panic() {
    let (mut l1, script, ram) = ready();
    stops_with(&script, &ram, EnterGuestState::new([0; 16], u64::MAX, 2), left(VMCALL));
    let Exit::Call(call) = l1.run(ONE).unwrap() else { panic!("no call") };
    l1.answer(call, ANSWER).unwrap();
    assert_eq!(registers(&ram).rip, 2);
}

#[test]
fn a_tdcall_wants_the_host_and_waits_for_an_answer() {
    let (mut l1, script, ram) = ready();
    stops_with(&script, &ram, calling(), Regs { r11: 4 << 32, ..left(TDCALL) });
    let Exit::HostCall(call) = l1.run(ONE).unwrap() else { panic!("no host call") };
    assert_eq!(call.regs(), REGS);
    assert_eq!(l1.run(ONE).unwrap_err().kind(), ErrorKind::InUse);
    l1.answer(call, ANSWER).unwrap();
    assert_eq!(registers(&ram).rip, 0x1238);
}

#[test]
fn user_code_that_calls_gets_a_general_protection_fault() {
    for reason in [VMCALL, TDCALL] {
        let (mut l1, script, ram) = ready();
        stops_with(&script, &ram, calling(), Regs { r12: 3, ..left(reason) });
        read(&script, ONE, VmcsField::ENTRY_INTERRUPTION, 0);
        write(&script, ONE, VmcsField::ENTRY_ERROR_CODE, 0, u64::MAX);
        write(&script, ONE, VmcsField::ENTRY_INTERRUPTION, 0x8000_0b0d, u64::MAX);
        assert!(matches!(l1.run(ONE), Ok(Exit::Spurious)));
        assert_eq!(registers(&ram), calling(), "RIP stays at the instruction");
        enters(&script, left(2));
        assert!(matches!(l1.run(ONE), Ok(Exit::Shutdown)), "no call waits");
    }
}

#[test]
fn an_instruction_of_impossible_length_is_no_call() {
    for length in [0, 16, 0x103] {
        let (mut l1, script, ram) = ready();
        stops_with(&script, &ram, calling(), Regs { r11: length << 32, ..left(VMCALL) });
        assert!(matches!(l1.run(ONE), Ok(Exit::Other { code: VMCALL })));
        assert_eq!(registers(&ram), calling());
    }
}

#[test]
fn a_pending_interrupt_of_l1_comes_first() {
    for raw in [Status::PENDING_INTERRUPT.0, Status::L2_EXIT_PENDING_INTERRUPT.0 | 1] {
        let (mut l1, script, _ram) = ready();
        enters(&script, status(raw));
        assert!(matches!(l1.run(ONE), Ok(Exit::InterruptPending)));
    }
}

#[test]
fn a_host_that_resumes_l1_for_nothing_loses_nothing() {
    for raw in [
        Status::L2_EXIT_HOST_ROUTED_ASYNC.0 | 1,
        Status::L2_EXIT_HOST_ROUTED_ASYNC.0,
        Status::L2_EXIT_HOST_ROUTED_ASYNC.0 | VMCALL,
        Status::L2_EXIT_HOST_ROUTED_TDVMCALL.0 | TDCALL,
    ] {
        let (mut l1, script, ram) = ready();
        stops_with(&script, &ram, calling(), status(raw));
        assert!(matches!(l1.run(ONE), Ok(Exit::Spurious)), "{raw:#x}");
        assert_eq!(registers(&ram), calling());
        enters(&script, left(2));
        l1.run(ONE).unwrap();
    }
}

#[test]
fn a_host_routed_tdvmcall_with_another_reason_is_refused() {
    let (mut l1, script, _ram) = ready();
    let odd = Status(Status::L2_EXIT_HOST_ROUTED_TDVMCALL.0 | VMCALL);
    enters(&script, status(odd.0));
    assert_eq!(l1.run(ONE).unwrap_err(), Error::Unexpected { leaf: Leaf::VP_ENTER, status: odd });
}

#[test]
fn a_state_that_the_processor_does_not_take_is_the_end_of_the_vcpu() {
    for raw in [1 << 31 | 33, Status::L2_VM_ENTRY_FAILED.0 | 1 << 31 | 0xffff] {
        let (mut l1, script, _ram) = ready();
        enters(&script, left(raw));
        assert!(matches!(l1.run(ONE), Ok(Exit::Shutdown)));
    }
}

#[test]
fn what_the_module_refuses_is_an_error_with_its_status() {
    let refused = [
        Status::OPERAND_INVALID.with_details(1),
        Status::OPERAND_INVALID.with_details(2),
        Status::OPERAND_INVALID.with_details(170),
    ];
    for raw in refused {
        let (mut l1, script, _ram) = ready();
        enters(&script, status(raw.0));
        assert_eq!(l1.run(ONE).unwrap_err(), Error::Refused { leaf: Leaf::VP_ENTER, status: raw });
        enters(&script, left(2));
        assert!(matches!(l1.run(ONE), Ok(Exit::Shutdown)), "it can be run again");
    }
    for raw in [0x1103_0000_0000, 0x1140_0000_0000, 0x6000_0002_0000_0000, 0x4000_0001_0000_0000, 1 << 50] {
        let (mut l1, script, _ram) = ready();
        enters(&script, status(raw));
        let error = l1.run(ONE).unwrap_err();
        assert_eq!(error, Error::Unexpected { leaf: Leaf::VP_ENTER, status: Status(raw) });
    }
}

#[test]
fn a_busy_entry_is_tried_again() {
    let (mut l1, script, _ram) = ready();
    enters(&script, status(Status::OPERAND_BUSY.0));
    script.pause();
    enters(&script, left(2));
    assert!(matches!(l1.run(ONE), Ok(Exit::Shutdown)));
}

#[test]
fn the_call_area_of_a_vcpu_may_move() {
    let (mut l1, _script, _ram) = ready();
    l1.set_call_area(ONE, frame(0x1000)).unwrap();
}
