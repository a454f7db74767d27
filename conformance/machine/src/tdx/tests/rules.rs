//! Every rule that can be removed is enforced, and missed when it is removed.

use super::*;
use crate::tdx::host::Policy;
use crate::tdx::status::PAGE_ALREADY_ACCEPTED;
use crate::tdx::{RULES, TdExit};

/// Whether a machine without this rule does what the rule forbids.
fn is_missed(rule: &'static str, without: &[&'static str]) -> bool {
    let mut m = broken(without);
    match rule {
        "TDX-11" => {
            set_register(&mut m, 1, 0x80, 2);
            l1(&mut m, enter_op(1, 0)) == Outcome::Exit
        }
        "TDX-14" => {
            prepare(&mut m, 1);
            m.host_post_interrupt(CPU0);
            l1(&mut m, enter_op(1, 0)) == Outcome::Exit
        }
        "TDX-21" => {
            assert!(m.host_add_page(PAGE, false));
            matches!(l1(&mut m, read(PAGE, 1)), Outcome::Done(_))
        }
        "TDX-22" => {
            let mut m = in_l2_of(m);
            m.step(CPU0, read(SCRATCH, 1)) == bytes(&[0])
        }
        "TDX-23" => {
            grant(&mut m, PAGE, false, 1, 0x8001);
            prepare(&mut m, 1);
            enter(&mut m, 1);
            m.step(CPU0, write(PAGE, &[1])) == done()
        }
        "TDX-24" => {
            m.host_state_mut().set_policy(Policy::NoTables { exits: false });
            assert_eq!(accept(&mut m, PAGE, 0), 0);
            attr_wr(&mut m, PAGE, 0, part(1, RWX), part(1, 0x7f)).rax == 0
        }
        "TDX-25" => {
            assert_eq!(accept(&mut m, PAGE, 0), 0);
            assert!(m.host_remove_page(PAGE) && m.host_add_page(PAGE, false));
            matches!(l1(&mut m, read(PAGE, 1)), Outcome::Done(_))
        }
        "TDX-27" => {
            m.host_set_shared(BLOCK, 0x1000, true);
            let mut m = in_l2_of(m);
            matches!(m.step(CPU0, Op::Read { gpa: BLOCK, len: 1, private: false }), Outcome::Done(_))
        }
        "TDX-33" => {
            let mut m = in_l2_of(m);
            assert_eq!(m.step(CPU0, read(PAGE, 1)), bytes(&[0]));
            assert!(m.host_remove_page(PAGE));
            matches!(m.step(CPU0, read(PAGE, 1)), Outcome::Done(_))
        }
        "TDX-34" => {
            let mut m = in_l2_of(m);
            assert_eq!(m.step(CPU0, read(PAGE, 1)), bytes(&[0]));
            exit_with(&mut m, vmcall());
            cut(&mut m, PAGE, 1);
            enter(&mut m, 1);
            m.step(CPU0, read(PAGE, 1)) == Outcome::Exit
        }
        "TDX-48" => {
            let mut m = in_l2_of(m);
            assert_eq!(m.step(CPU0, Op::Tdcall(Regs { rcx: 0xff00, ..NONE })), Outcome::Exit);
            m.td_exit_info(CPU0).is_some()
        }
        "TDX-53" => {
            let mut m = in_l2_of(m);
            m.step(CPU0, Op::Wrmsr(0xc000_0082, 1)) == done()
        }
        "TDX-56" => vp_wr(&mut m, vmcs(1, 0x6800), 0, u64::MAX).rax == 0,
        "TDX-60" => {
            prepare(&mut m, 1);
            set_register(&mut m, 1, 0x80, 0);
            l1(&mut m, enter_op(1, 0)) == Outcome::Exit
        }
        "ACCEPT-ZERO" => {
            assert_eq!(accept(&mut m, PAGE, 0), 0);
            l1(&mut m, read(PAGE, 8)) != bytes(&[0; 8])
        }
        "ACCEPT-AGAIN" => {
            assert_eq!(accept(&mut m, PAGE, 0), 0);
            let again = accept(&mut m, PAGE, 0);
            assert!(matches!(again, 0 | PAGE_ALREADY_ACCEPTED));
            again == 0
        }
        "ACCEPT-SIZE" => {
            assert_eq!(accept(&mut m, BLOCK, 0), 0);
            accept(&mut m, BLOCK, 1) == 0
        }
        "ATTR-LEGAL" => {
            assert_eq!(accept(&mut m, PAGE, 0), 0);
            attr_wr(&mut m, PAGE, 0, part(1, 0x8002), part(1, 0x7f)).rax == 0
        }
        "ATTR-OPERANDS" => {
            assert_eq!(accept(&mut m, PAGE, 0), 0);
            attr_wr(&mut m, PAGE, 0, 0x8001, 1).rax == 0
        }
        "BLOCKED" => {
            assert_eq!(accept(&mut m, PAGE, 0), 0);
            assert!(m.host_block_page(PAGE));
            matches!(l1(&mut m, read(PAGE, 1)), Outcome::Done(_))
        }
        "PAMT" => {
            assert_eq!(accept(&mut m, PAGE, 0), 0);
            m.host_add_system_page(PAGE + 0x1000, false, PAGE)
        }
        "ENTER-PAGE" => {
            prepare(&mut m, 1);
            let regs = Regs { rax: 25, rcx: 1 << 52, rdx: registers_of(CPU0, 1) + 8, ..NONE };
            assert_eq!(l1(&mut m, write(regs.rdx + 0x80, &2u64.to_le_bytes())), done());
            l1(&mut m, Op::Enter(regs)) == Outcome::Exit
        }
        "REPORT-MAC" => {
            assert_eq!(call(&mut m, leaf::MR_REPORT, Regs { rcx: SCRATCH, rdx: VAPIC, ..NONE }).rax, 0);
            assert_eq!(l1(&mut m, write(SCRATCH + 200, &[1])), done());
            call(&mut m, leaf::MR_VERIFYREPORT, Regs { rcx: SCRATCH, ..NONE }).rax == 0
        }
        "VMCALL-MASK" => {
            let op = tdcall(leaf::VP_VMCALL, Regs { rcx: 0x3c00, rbx: 5, r11: 0x36, ..NONE });
            assert_eq!(m.step(CPU0, op.clone()), Outcome::Exit);
            let shown = matches!(m.td_exit_info(CPU0), Some(TdExit::Vmcall { regs, .. }) if regs.rbx == 5);
            let HostStep::Entered(Entry { resume: Resume::Complete(Answer::Regs(regs)), .. }) = m.host(CPU0) else {
                panic!("the host answers")
            };
            assert_eq!(regs.rbx == 5, !shown, "what the host does not see it does not change");
            shown
        }
        _ => panic!("no test for {rule}"),
    }
}

#[test]
fn each_rule_is_enforced_and_missed_without() {
    for (rule, _) in RULES {
        assert!(!is_missed(rule, &[]), "{rule} is not enforced");
        assert!(is_missed(rule, &[rule]), "{rule} is not missed");
    }
}

#[test]
#[should_panic(expected = "no rule has the id")]
fn an_unknown_rule_is_no_mutant() {
    broken(&["TDX-99"]);
}
