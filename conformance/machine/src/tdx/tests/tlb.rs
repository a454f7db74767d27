//! Who keeps an old translation, and what takes it away (TDX-26, TDX-33, TDX-34).

use super::*;
use crate::tdx::status::{GLA_NOT_CANONICAL, OPERAND_INVALID};

/// VM 1 on vCPU 0 has read the page, and L1 runs again. The page is not L2's any more.
fn stale() -> Machine {
    stale_of(machine())
}

fn stale_of(m: Machine) -> Machine {
    let mut m = in_l2_of(m);
    assert_eq!(m.step(CPU0, write(PAGE, &[1])), done());
    exit_with(&mut m, vmcall());
    cut(&mut m, PAGE, 1);
    m
}

fn answer(m: &mut Machine) {
    let rip = register(m, 1, 0x88);
    set_register(m, 1, 0x88, rip + 3);
}

/// Whether VM 1 still reads the page after this entry.
fn reads(m: &mut Machine, invalidate: u64) -> bool {
    answer(m);
    enter_with(m, 1, invalidate);
    m.step(CPU0, read(PAGE, 1)) == bytes(&[1])
}

#[test]
fn tdx_34_a_cut_right_works_until_invept() {
    assert!(reads(&mut stale(), 0));
    assert!(!reads(&mut stale(), 1));
}

#[test]
fn invvpid_keeps_guest_physical_translations() {
    assert!(reads(&mut stale(), 2));
    assert!(reads(&mut stale(), 3));
    let mut m = stale();
    assert_eq!(call(&mut m, leaf::VP_INVVPID, Regs { rcx: 1 << 52, rdx: PAGE, ..NONE }).rax, 0);
    assert!(reads(&mut m, 0));
}

#[test]
fn each_invept_names_its_vms() {
    for (rcx, still) in [(1 << 1, false), (1 << 2, true), (0, true), (0b1110, false)] {
        let mut m = stale();
        assert_eq!(call(&mut m, leaf::VP_INVEPT, Regs { rcx, ..NONE }).rax, 0);
        assert_eq!(reads(&mut m, 0), still, "{rcx:#b}");
    }
    let mut m = stale();
    assert_eq!(attr_wr(&mut m, PAGE, 0, part(1, 0x8000), part(1, 0x807f)).rax, 0);
    assert!(!reads(&mut m, 0));
    for rcx in [1, 1 << 4, 1 << 63] {
        assert_eq!(call(&mut machine(), leaf::VP_INVEPT, Regs { rcx, ..NONE }).rax, OPERAND_INVALID | 1);
    }
}

#[test]
fn every_way_to_ask_for_an_invalidation_counts() {
    let mut m = stale();
    let so_far = |m: &Machine| m.counters(CPU0, 0).invalidations;
    let before = so_far(&m);
    assert_eq!(call(&mut m, leaf::VP_INVEPT, Regs { rcx: 0b1110, ..NONE }).rax, 0);
    assert_eq!(so_far(&m) - before, 3);
    for (mask, count) in [(0x7f, 3), (0x807f, 4)] {
        assert_eq!(attr_wr(&mut m, PAGE, 0, part(1, 0x8000), part(1, mask)).rax, 0);
        assert_eq!(so_far(&m) - before, count);
    }
    reads(&mut m, 1);
    assert_eq!(so_far(&m) - before, 5);
}

#[test]
fn invept_acts_on_its_own_vcpu_alone() {
    let mut m = stale();
    let op = tdcall(leaf::VP_INVEPT, Regs { rcx: 1 << 1, ..NONE });
    assert!(matches!(on(&mut m, CPU1, op), Outcome::Done(Answer::Regs(Regs { rax: 0, .. }))));
    assert!(reads(&mut m, 0));
}

#[test]
fn tdx_38_rights_that_grow_need_nothing() {
    let mut m = in_l2();
    exit_with(&mut m, vmcall());
    assert_eq!(attr_wr(&mut m, PAGE, 0, part(1, 0x8001), part(1, 0x807f)).rax, 0);
    answer(&mut m);
    enter(&mut m, 1);
    assert_eq!(m.step(CPU0, read(PAGE, 1)), bytes(&[0]));
    assert_eq!(exit_with(&mut m, write(PAGE, &[1])).rax, 48);
    assert_eq!(attr_wr(&mut m, PAGE, 0, part(1, RWX), part(1, 0x7f)).rax, 0);
    assert_eq!(enter(&mut m, 1).resume, Resume::Retry);
    assert_eq!(m.step(CPU0, write(PAGE, &[1])), done());
}

#[test]
fn tdx_33_what_the_host_does_drops_translations_everywhere() {
    for act in [Machine::host_remove_page, Machine::host_block_page] {
        let mut m = stale();
        assert!(act(&mut m, PAGE));
        assert!(!reads(&mut m, 0));
    }
    let mut m = machine();
    grant(&mut m, BLOCK, true, 1, RWX);
    prepare(&mut m, 1);
    enter(&mut m, 1);
    assert_eq!(m.step(CPU0, read(BLOCK, 1)), bytes(&[0]));
    assert!(m.host_demote_page(BLOCK + 0x3000));
    assert_eq!(m.step(CPU0, read(BLOCK, 1)), bytes(&[0]));
}

#[test]
fn invvpid_checks_its_operands() {
    let mut m = machine();
    let status = |m: &mut Machine, rcx, rdx| call(m, leaf::VP_INVVPID, Regs { rcx, rdx, ..NONE }).rax;
    for rcx in [0, 2 | 1 << 52, 1 << 54 | 1 << 52] {
        assert_eq!(status(&mut m, rcx, 0), OPERAND_INVALID | 1);
    }
    // The last page of an entry counts too.
    for entry in [1 << 60, 0x7fff_ffff_f001, !0xffe] {
        assert_eq!(status(&mut m, 1 << 52, entry), GLA_NOT_CANONICAL, "{entry:#x}");
    }
    assert_eq!(status(&mut m, 1 << 52, 0x7fff_ffff_e001), 0);
    let list = 1 | 1 << 52;
    for rdx in [SCRATCH | 512 << 52 | 1, SCRATCH | SHARED, SCRATCH | 1 << 63, SCRATCH | 0x200] {
        assert_eq!(status(&mut m, list, rdx), OPERAND_INVALID | 2, "{rdx:#x}");
    }
    assert_eq!(status(&mut m, list, SCRATCH | 511 << 52 | 1), 0);
    assert_eq!(l1(&mut m, write(SCRATCH + 8, &(1u64 << 60).to_le_bytes())), done());
    assert_eq!(status(&mut m, list, SCRATCH | 1 << 52), 0);
    // RDX says that the list is done.
    let done = call(&mut m, leaf::VP_INVVPID, Regs { rcx: list, rdx: SCRATCH | 5 << 52 | 3, ..NONE });
    assert_eq!((done.rax, done.rdx), (0, SCRATCH | 8));
    assert_eq!(status(&mut m, list, SCRATCH | 2 << 52), GLA_NOT_CANONICAL);
}
