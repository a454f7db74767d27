//! TDG.MEM.PAGE.ATTR.RD and ATTR.WR, row by row of page_attr.csv.

use super::*;
use crate::tdx::host::Policy;
use crate::tdx::status::{L2_SEPT_WALK_FAILED, OPERAND_BUSY, OPERAND_INVALID, PAGE_ATTR_INVALID, PAGE_SIZE_MISMATCH};
use crate::tdx::{EptCause, TdExit};

fn attr_rd(m: &mut Machine, gpa: u64) -> Regs {
    call(m, leaf::MEM_PAGE_ATTR_RD, Regs { rcx: gpa, ..NONE })
}

#[test]
fn tdx_22_a_page_has_no_alias_until_it_is_given_one() {
    let mut m = machine();
    assert_eq!(accept(&mut m, PAGE, 0), 0);
    let none = attr_rd(&mut m, PAGE);
    assert_eq!((none.rax, none.rcx, none.rdx), (0, PAGE, 0));
    let set = attr_wr(&mut m, PAGE, 0, 0x8001_8003_800f_0000, 0x007f_007f_007f_0000);
    assert_eq!((set.rax, set.rcx, set.rdx), (0, PAGE, 0x8001_8003_800f_0000));
    assert_eq!(attr_rd(&mut m, PAGE).rdx, 0x8001_8003_800f_0000);
    assert_eq!(m.sept_entry(PAGE).map(|entry| entry.aliases), Some([0x800f, 0x8003, 0x8001]));
}

#[test]
fn removal_is_valid_without_a_right() {
    let mut m = machine();
    grant(&mut m, PAGE, false, 2, RWX);
    let gone = attr_wr(&mut m, PAGE, 0, part(2, 0x8000), part(2, 0xf));
    // RDX has VALID of each VM that was named; ATTR.RD says that there is no alias.
    assert_eq!((gone.rax, gone.rdx), (0, part(2, 0x8000)));
    assert_eq!(attr_rd(&mut m, PAGE).rdx, 0);
    assert_eq!(m.sept_entry(PAGE).map(|entry| entry.aliases), Some([0; 3]));
    // Nothing to remove is no error, and needs no table page.
    assert_eq!(attr_wr(&mut m, PAGE, 0, part(3, 0x8000), part(3, 0x7f)).rax, 0);
}

#[test]
fn the_mask_says_which_bits_change_and_a_fresh_alias_starts_from_none() {
    let mut m = machine();
    assert_eq!(accept(&mut m, PAGE, 0), 0);
    assert_eq!(attr_wr(&mut m, PAGE, 0, part(1, RWX), part(1, 0x3)).rdx, part(1, 0x8003));
    assert_eq!(attr_wr(&mut m, PAGE, 0, part(1, 0x8004), part(1, 0x4)).rdx, part(1, 0x8007));
    // Without VALID a VM is left alone whatever the mask says, and RDX does not speak of it.
    let other = attr_wr(&mut m, PAGE, 0, part(2, 0x8001), part(2, 0x1) | part(1, 0x7f));
    assert_eq!(other.rdx, part(2, 0x8001));
    assert_eq!(attr_rd(&mut m, PAGE).rdx, part(1, 0x8007) | part(2, 0x8001));
    // Bits that the mask leaves out are not looked at.
    assert_eq!(attr_wr(&mut m, PAGE, 0, part(1, 0x8f82), part(1, 0x2)).rdx, part(1, 0x8007));
}

#[test]
fn operands_are_checked_in_order() {
    let mut m = machine_with(|config| config.l2_vms = 2);
    grant(&mut m, PAGE, false, 1, RWX);
    let refused = |m: &mut Machine, rcx: u64, rdx: u64, r8: u64| {
        let regs = attr_wr(m, rcx, 0, rdx, r8);
        assert_eq!((regs.rcx, regs.rdx), (0, 0));
        regs.rax ^ OPERAND_INVALID
    };
    let good = part(1, RWX);
    for rdx in [0x8001, part(3, RWX), part(1, 0x000f), part(1, 0x0080), 1] {
        assert_eq!(refused(&mut m, PAGE | 3, rdx, part(3, 1)), 2, "{rdx:#x}");
    }
    for r8 in [1, part(3, 1), 0x8000] {
        assert_eq!(refused(&mut m, PAGE | 3, good, r8), 8, "{r8:#x}");
    }
    // Both words are looked at VM by VM.
    assert_eq!(refused(&mut m, PAGE, part(1, 0x000f), 1), 8);
    for rcx in [PAGE | 3, PAGE | 1, PAGE | 2, PAGE | 8, PAGE | SHARED, PAGE | 1 << 52] {
        assert_eq!(refused(&mut m, rcx, good, 0), 1, "{rcx:#x}");
    }
    assert_eq!(m.sept_entry(PAGE).map(|entry| entry.aliases), Some([0x800f, 0, 0]));
}

#[test]
fn illegal_combinations_are_attr_invalid_for_all_vms() {
    let mut m = machine();
    grant(&mut m, PAGE, false, 1, RWX);
    for bad in [0x8002, 0x8024, 0x8022, 0x8081, 0x8101, 0xc001] {
        let mask = part(1, 0x7f) | part(2, 0x7fff);
        // RDX: what is legal as it would be, what is not as it is.
        let regs = attr_wr(&mut m, PAGE, 0, part(1, 0x8001) | part(2, bad), mask);
        assert_eq!((regs.rax, regs.rcx, regs.rdx), (PAGE_ATTR_INVALID, 0, part(1, 0x8001)), "{bad:#x}");
        let regs = attr_wr(&mut m, PAGE, 0, part(1, bad), part(1, 0x7fff));
        assert_eq!((regs.rax, regs.rcx, regs.rdx), (PAGE_ATTR_INVALID, 0, part(1, RWX)), "{bad:#x}");
    }
    // W without R can come about by the mask too.
    assert_eq!(attr_wr(&mut m, PAGE, 0, part(1, 0x8000), part(1, 0x1)).rax, PAGE_ATTR_INVALID);
    assert_eq!(m.sept_entry(PAGE).map(|entry| entry.aliases), Some([0x800f, 0, 0]));
    // Execute-only is legal, and so are the bits of paging verification with R.
    assert_eq!(attr_wr(&mut m, PAGE, 0, part(1, 0x8004), part(1, 0x7f)).rdx, part(1, 0x8004));
    assert_eq!(attr_wr(&mut m, PAGE, 0, part(1, 0x8071), part(1, 0x7f)).rdx, part(1, 0x8071));
}

#[test]
fn sizes_below_mismatch_and_sizes_above_are_split_by_the_host() {
    let mut m = machine();
    assert_eq!(accept(&mut m, BLOCK + 0x1000, 0), 0);
    assert_eq!(attr_wr(&mut m, BLOCK, 1, part(1, RWX), part(1, 0x7f)).rax, PAGE_SIZE_MISMATCH | 1);
    assert_eq!(attr_wr(&mut m, 0, 2, part(1, RWX), part(1, 0x7f)).rax, PAGE_SIZE_MISMATCH | 2);

    let other = BLOCK + 0x20_0000;
    grant(&mut m, other, true, 1, RWX);
    assert_eq!(attr_rd(&mut m, other + 0x5000).rcx, other | 1);
    let before = m.host_state().exits();
    assert_eq!(attr_wr(&mut m, other + 0x5000, 0, part(1, 0x8001), part(1, 0x7f)).rax, 0);
    assert_eq!(m.host_state().exits(), before + 1);
    assert_eq!(attr_rd(&mut m, other + 0x5000).rdx, part(1, 0x8001));
    assert_eq!(attr_rd(&mut m, other + 0x6000).rdx, part(1, RWX));
}

#[test]
fn not_mapped_and_blocked_go_to_the_host() {
    let mut m = machine();
    for (number, cause) in
        [(leaf::MEM_PAGE_ATTR_RD, EptCause::AttrRead), (leaf::MEM_PAGE_ATTR_WR, EptCause::AttrWrite { level: 0 })]
    {
        let mut m = m.clone();
        assert_eq!(m.step(CPU0, tdcall(number, Regs { rcx: PAGE, ..NONE })), Outcome::Exit);
        assert_eq!(m.td_exit_info(CPU0), Some(&TdExit::EptViolation { level: 0, gpa: PAGE, cause }));
    }
    grant(&mut m, PAGE, false, 1, RWX);
    assert!(m.host_block_page(PAGE));
    assert_eq!(m.step(CPU0, tdcall(leaf::MEM_PAGE_ATTR_RD, Regs { rcx: PAGE, ..NONE })), Outcome::Exit);
}

#[test]
fn attr_rd_checks_its_address_and_clears_its_outputs() {
    let mut m = machine();
    grant(&mut m, PAGE, false, 1, RWX);
    // The walk goes to the leaf: the low bits do not count.
    assert_eq!(attr_rd(&mut m, PAGE | 0xfff).rcx, PAGE);
    for rcx in [PAGE | SHARED, PAGE | 1 << 52, PAGE | 1 << 62] {
        let regs = call(&mut m, leaf::MEM_PAGE_ATTR_RD, Regs { rcx, rdx: 5, ..NONE });
        assert_eq!((regs.rax, regs.rcx, regs.rdx), (OPERAND_INVALID | 1, 0, 0));
    }
    m.host_state_mut().set_policy(Policy::Busy(1));
    let busy = attr_rd(&mut m, PAGE);
    assert_eq!((busy.rax, busy.rcx, busy.rdx), (OPERAND_BUSY | 1, 0, 0));
}

#[test]
fn a_walk_that_ends_above_the_level_goes_to_the_host_before_any_lock() {
    let mut m = machine();
    m.host_state_mut().set_policy(Policy::Busy(u64::MAX));
    let attr = |level: u64| tdcall(leaf::MEM_PAGE_ATTR_WR, Regs { rcx: PAGE | level, ..NONE });
    let accept = |gpa: u64| tdcall(leaf::MEM_PAGE_ACCEPT, Regs { rcx: gpa, ..NONE });
    for op in [attr(0), accept(PAGE)] {
        assert_eq!(m.clone().step(CPU0, op), Outcome::Exit);
    }
    // With another page of the 2M there is a table, and its empty entry is locked.
    assert!(m.host_add_page(PAGE + 0x1000, false));
    for op in [attr(0), accept(PAGE), accept(BLOCK | 1)] {
        assert_eq!(status_of(&mut m, op), OPERAND_BUSY | 1);
    }
}

#[test]
fn tdx_24_a_table_page_is_asked_for_before_the_next_vm_is_looked_at() {
    let mut m = machine_with(|config| config.table_exits = false);
    assert!(m.host_add_page(PAGE, false));
    let words = part(1, RWX) | part(2, 0x8002);
    let regs = attr_wr(&mut m, PAGE, 0, words, part(1, 0x7f) | part(2, 0x7f));
    assert_eq!(regs.rax, L2_SEPT_WALK_FAILED | 1 << 16 | 1);
}

#[test]
fn pending_pages_have_attributes_and_say_so() {
    let mut m = machine();
    assert!(m.host_add_page(BLOCK, true));
    let set = attr_wr(&mut m, BLOCK, 1, part(3, 0x8001), part(3, 0x7f));
    assert_eq!((set.rax, set.rcx), (0, BLOCK | 1 | 1 << 62));
    assert_eq!(attr_rd(&mut m, BLOCK).rcx, BLOCK | 1 | 1 << 62);
}

#[test]
fn tdx_24_a_missing_table_page_is_an_exit_or_a_status() {
    let mut m = machine();
    assert_eq!(accept(&mut m, PAGE, 0), 0);
    let op = tdcall(leaf::MEM_PAGE_ATTR_WR, Regs { rcx: PAGE, rdx: part(2, RWX), r8: part(2, 0x7f), ..NONE });
    assert_eq!(m.step(CPU0, op.clone()), Outcome::Exit);
    let cause = EptCause::Table { vm: 2, level: 1 };
    assert_eq!(m.td_exit_info(CPU0), Some(&TdExit::EptViolation { level: 0, gpa: PAGE, cause }));
    assert!(matches!(m.host(CPU0), HostStep::Entered(Entry { resume: Resume::Retry, .. })));
    assert_eq!(status_of(&mut m, op), 0);

    let mut m = machine_with(|config| config.table_exits = false);
    assert!(m.host_add_page(PAGE, false));
    assert_eq!(accept(&mut m, PAGE, 0), 0);
    let failed = attr_wr(&mut m, PAGE, 0, part(2, RWX), part(2, 0x7f));
    assert_eq!((failed.rax, failed.rdx), (L2_SEPT_WALK_FAILED | 2 << 16 | 1, 0));
    // Removal needs no table, and the host can add it.
    assert_eq!(attr_wr(&mut m, PAGE, 0, part(2, 0x8000), part(2, 0x7f)).rax, 0);
    m.host_add_table(2, PAGE);
    assert_eq!(attr_wr(&mut m, PAGE, 0, part(2, RWX), part(2, 0x7f)).rax, 0);
}
