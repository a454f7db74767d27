//! Cuts on two vCPUs (rule M5): who waits for whom, and who invalidates when.

use std::cell::RefCell;
use std::rc::Rc;

use coco_part_api::{Error as _, ErrorKind, Exit, Grant, NotYet, Origin, RunLevel};

use super::*;
use crate::abi::status::Status;
use crate::l1::Cut;

const ENTER_ONE: u64 = 1 << 52;
const ENTER_TWO: u64 = 2 << 52;
const INVALIDATE: u64 = 1;
const REGISTERS_1: u64 = REGISTERS + 0x1000;

fn shutdown() -> Regs {
    status(2)
}

/// Withdraws one page on vCPU 0.
fn cut(l1: &mut Tested, script: &Script, into: &mut Cut) {
    let takes = Regs { rcx: 0x1000, rdx: 0x8000_8000_0000, r8: 0x007f_007f_0000, ..Regs::default() };
    script.call(Leaf::MEM_PAGE_ATTR_WR, takes, Regs::default());
    l1.withdraw(range(0x1000, 0x1000), Origin::Monitor, into).unwrap();
    script.done();
}

fn two() -> (Rc<RefCell<Tested>>, Script, Tested, Script) {
    let (shared, ram) = (shared(), Ram::default());
    let (script_0, script_1) = (Script::default(), Script::default());
    let mut vcpu_0 = l1_on(0, &script_0, &ram, shared);
    let mut vcpu_1 = l1_on(1, &script_1, &ram, shared);
    install(&mut vcpu_0, &script_0, ONE);
    install(&mut vcpu_1, &script_1, ONE);
    (Rc::new(RefCell::new(vcpu_0)), script_0, vcpu_1, script_1)
}

#[test]
fn a_ticket_is_redeemed_only_when_the_other_vcpu_has_left() {
    let (vcpu_0, script_0, mut vcpu_1, script_1) = two();
    let ticket = Rc::new(RefCell::new(None));
    let during = {
        let (vcpu_0, script_0, ticket) = (vcpu_0.clone(), script_0.clone(), ticket.clone());
        move || {
            let mut mine = Cut::default();
            let mut vcpu_0 = vcpu_0.borrow_mut();
            cut(&mut vcpu_0, &script_0, &mut mine);
            let NotYet(mine) = vcpu_0.redeem(mine).unwrap_err();
            // Asking again changes nothing while it is inside.
            let NotYet(mine) = vcpu_0.redeem(mine).unwrap_err();
            *ticket.borrow_mut() = Some(mine);
        }
    };
    script_1.enter(ENTER_ONE, REGISTERS_1, shutdown(), during);
    assert!(matches!(vcpu_1.run(ONE), Ok(Exit::Shutdown)));
    let mine = ticket.borrow_mut().take().unwrap();
    assert!(vcpu_0.borrow_mut().redeem(mine).is_ok(), "it has left");
    // It drops its old translations when it enters again, once.
    script_1.enter(ENTER_ONE | INVALIDATE, REGISTERS_1, shutdown(), || ());
    vcpu_1.run(ONE).unwrap();
    script_1.enter(ENTER_ONE, REGISTERS_1, shutdown(), || ());
    vcpu_1.run(ONE).unwrap();
}

#[test]
fn a_ticket_does_not_wait_for_a_vcpu_that_entered_after_the_cut() {
    let (vcpu_0, script_0, mut vcpu_1, script_1) = two();
    let mut mine = Cut::default();
    cut(&mut vcpu_0.borrow_mut(), &script_0, &mut mine);
    let during = {
        let vcpu_0 = vcpu_0.clone();
        move || assert!(vcpu_0.borrow_mut().redeem(mine).is_ok())
    };
    script_1.enter(ENTER_ONE | INVALIDATE, REGISTERS_1, shutdown(), during);
    vcpu_1.run(ONE).unwrap();
}

#[test]
fn a_cut_during_a_run_is_invalidated_at_the_next_entry_even_by_another_level() {
    let (vcpu_0, script_0, mut vcpu_1, script_1) = two();
    install(&mut vcpu_1, &script_1, TWO);
    let during = {
        let (vcpu_0, script_0) = (vcpu_0.clone(), script_0.clone());
        move || cut(&mut vcpu_0.borrow_mut(), &script_0, &mut Cut::default())
    };
    script_1.enter(ENTER_ONE, REGISTERS_1, shutdown(), during);
    vcpu_1.run(ONE).unwrap();
    script_1.enter(ENTER_TWO | INVALIDATE, REGISTERS_1 + 0x100, shutdown(), || ());
    vcpu_1.run(TWO).unwrap();
    script_1.enter(ENTER_ONE | INVALIDATE, REGISTERS_1, shutdown(), || ());
    vcpu_1.run(ONE).unwrap();
}

#[test]
fn the_request_to_invalidate_stays_until_the_level_really_ran() {
    let (vcpu_0, script_0, mut vcpu_1, script_1) = two();
    cut(&mut vcpu_0.borrow_mut(), &script_0, &mut Cut::default());
    let not_entered = [
        Status::PENDING_INTERRUPT.0,
        Status::OPERAND_INVALID.with_details(2).0,
        Status::L2_VM_ENTRY_FAILED.0,
        1 << 31 | 33,
    ];
    for raw in not_entered {
        script_1.enter(ENTER_ONE | INVALIDATE, REGISTERS_1, status(raw), || ());
        let _ = vcpu_1.run(ONE);
    }
    let async_exit = status(Status::L2_EXIT_HOST_ROUTED_ASYNC.0);
    script_1.enter(ENTER_ONE | INVALIDATE, REGISTERS_1, async_exit, || ());
    vcpu_1.run(ONE).unwrap();
    script_1.enter(ENTER_ONE, REGISTERS_1, shutdown(), || ());
    vcpu_1.run(ONE).unwrap();
}

#[test]
fn the_cutting_vcpu_invalidates_once_for_all_cuts() {
    let (mut l1, script, _ram) = ready();
    let mut mine = Cut::default();
    cut(&mut l1, &script, &mut mine);
    cut(&mut l1, &script, &mut mine);
    assert!(l1.redeem(mine).is_ok());
    script.enter(ENTER_ONE | INVALIDATE, REGISTERS, shutdown(), || ());
    l1.run(ONE).unwrap();
    script.enter(ENTER_ONE, REGISTERS, shutdown(), || ());
    l1.run(ONE).unwrap();
}

#[test]
fn a_cut_that_broke_off_is_invalidated_here_too() {
    let (mut l1, script, _ram) = ready();
    let takes = Regs { rcx: 0x1000, rdx: 0x8000_8000_0000, r8: 0x007f_007f_0000, ..Regs::default() };
    script.call(Leaf::MEM_PAGE_ATTR_WR, takes, status(Status::OPERAND_INVALID.0));
    let mut mine = Cut::default();
    assert_eq!(cause(l1.withdraw(range(0x1000, 0x1000), Origin::Monitor, &mut mine)).0, 0);
    script.enter(ENTER_ONE | INVALIDATE, REGISTERS, shutdown(), || ());
    l1.run(ONE).unwrap();
}

#[test]
fn a_ticket_for_nothing_costs_nothing() {
    let (vcpu_0, _script_0, mut vcpu_1, script_1) = two();
    let during = move || assert!(vcpu_0.borrow_mut().redeem(Cut::default()).is_ok());
    script_1.enter(ENTER_ONE, REGISTERS_1, shutdown(), during);
    vcpu_1.run(ONE).unwrap();
}

#[test]
fn a_running_vcpu_is_not_retired_by_another_one() {
    let (vcpu_0, _script_0, mut vcpu_1, script_1) = two();
    let state = frame(FRAME + 0x3000);
    let during = {
        let vcpu_0 = vcpu_0.clone();
        move || {
            let error = vcpu_0.borrow_mut().retire(state, &terms(ONE, 1)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InUse);
        }
    };
    script_1.enter(ENTER_ONE, REGISTERS_1, shutdown(), during);
    vcpu_1.run(ONE).unwrap();
    vcpu_0.borrow_mut().retire(state, &terms(ONE, 1)).unwrap();
    assert_eq!(vcpu_1.run(ONE).unwrap_err(), Error::NoVcpu { level: ONE });
}
