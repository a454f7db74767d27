//! Snapshots, looks, counters and the trace.

use alloc::string::ToString;

use super::*;

#[test]
fn a_snapshot_sees_entries_contents_fields_and_measurements() {
    let mut m = in_l2();
    exit_with(&mut m, vmcall());
    let before = m.snapshot();
    assert_eq!(before.diff(&m.snapshot()), Vec::<alloc::string::String>::new());
    let difference = |change: &dyn Fn(&mut Machine)| {
        let mut m = m.clone();
        change(&mut m);
        before.diff(&m.snapshot())
    };
    let lines = difference(&|m| cut(m, PAGE, 1));
    assert_eq!(lines, ["sept 0x603000: 4K accepted aliases 800f/0/0 -> 4K accepted aliases 0/0/0"]);
    let lines = difference(&|m| assert_eq!(l1(m, write(PAGE + 3, &[1])), done()));
    assert_eq!(lines, ["page 0x603000: 1 bytes differ from 0x3 on"]);
    let lines = difference(&|m| assert!(m.host_remove_page(PAGE)));
    assert_eq!(lines, ["sept 0x603000: 4K accepted aliases 800f/0/0 -> not mapped"]);
    let lines = difference(&|m| assert_eq!(vp_wr(m, vmcs(2, 0x6802), 5, u64::MAX).rax, 0));
    assert_eq!(lines, ["cpu0 vm2 Vmcs(6802): None -> Some(5)"]);
    let lines = difference(&|m| assert_eq!(call(m, leaf::MR_RTMR_EXTEND, Regs { rcx: VAPIC, ..NONE }).rax, 0));
    assert_eq!(lines, ["td: measurements or controls differ"]);
    // Looking, waiting and shared memory are no difference.
    let lines = difference(&|m| {
        m.host_set_shared(BLOCK, 0x1000, true);
        assert_eq!(l1(m, Op::Pause), done());
        m.peek(PAGE, 16, Some(1));
    });
    assert!(lines.is_empty(), "{lines:?}");
}

#[test]
fn peek_sees_what_a_level_would() {
    let mut m = in_l2();
    assert_eq!(m.step(CPU0, write(PAGE, &[4])), done());
    assert_eq!(m.peek(PAGE, 1, Some(0)), Some(alloc::vec![4]));
    assert_eq!(m.peek(PAGE, 1, Some(1)), Some(alloc::vec![4]));
    assert_eq!((m.peek(PAGE, 1, Some(2)), m.peek(PAGE, 1, None)), (None, None));
    assert_eq!((m.peek(BLOCK, 1, Some(0)), m.peek(u64::MAX, 2, Some(0))), (None, None));
}

#[test]
fn counters_count_what_went_through_once() {
    let mut m = in_l2();
    exit_with(&mut m, vmcall());
    let l1 = m.counters_of_level(0);
    // ACCEPT and ATTR.WR went to the host and were executed again.
    assert_eq!((l1.accept, l1.attr_wr, l1.enter, l1.vp_wr), (10, 1, 1, 1));
    assert_eq!(l1.port_calls, 13);
    let vm1 = m.counters(CPU0, 1);
    assert_eq!((vm1.vmcall, vm1.entered, vm1.l2_exits, vm1.port_calls), (1, 1, 1, 1));
    assert_eq!(m.total_counters().port_calls, 14);
    assert_eq!(m.counters(Vcpu(7), 0), Default::default());
}

#[test]
fn a_call_is_one_exit_and_one_entry_and_its_td_exits_are_counted() {
    let mut m = in_l2();
    let before = (m.counters(CPU0, 0), m.counters(CPU0, 1));
    exit_with(&mut m, vmcall());
    for vm in 1..=3 {
        let rights = part(vm, 0x8001);
        assert_eq!(attr_wr(&mut m, REGISTERS, 0, rights, part(vm, 0x7f)).rax, 0);
    }
    assert_eq!(status_of(&mut m, tdcall(leaf::VP_VMCALL, Regs { rcx: 0xff00, r11: 0x36, ..NONE })), 0);
    enter(&mut m, 1);
    let (l1, vm1) = (m.counters(CPU0, 0), m.counters(CPU0, 1));
    assert_eq!(
        (l1.enter - before.0.enter, vm1.entered - before.1.entered, vm1.l2_exits - before.1.l2_exits),
        (1, 1, 1)
    );
    assert_eq!((l1.attr_wr - before.0.attr_wr, l1.tdvmcall - before.0.tdvmcall), (3, 1));
    // Three missing table pages and the TDVMCALL. What happened before the call is not in it.
    assert_eq!((l1.td_exits_in_calls, vm1.td_exits_in_calls), (4, 0));
    assert!(l1.td_exits - l1.td_exits_in_calls > 0 && vm1.td_exits == 0);
    exit_with(&mut m, Op::Hlt);
    assert_eq!(accept(&mut m, BLOCK, 0), 0);
    assert_eq!(m.counters(CPU0, 0).td_exits_in_calls, 4);
}

#[test]
fn each_leaf_has_its_counter() {
    let mut m = machine();
    let before = m.counters(CPU0, 0);
    for number in [1, 2, 3, 4, 5, 7, 8, 9, 10, 11, 22, 23, 24, 25, 26, 27, 12, 0xffff] {
        l1(&mut m, tdcall(number, Regs { rcx: SCRATCH, rdx: VAPIC, ..NONE }));
    }
    let now = m.counters(CPU0, 0);
    for (name, count) in [
        ("info", now.vp_info),
        ("extend", now.rtmr_extend),
        ("veinfo", now.veinfo_get),
        ("report", now.report),
        ("cpuidve", now.cpuidve_set),
        ("vp.rd", now.vp_rd),
        ("verify", now.verify_report),
        ("attr.rd", now.attr_rd),
        ("attr.wr", now.attr_wr),
        ("enter", now.enter),
        ("invept", now.invept),
        ("invvpid", now.invvpid),
    ] {
        assert_eq!(count, 1, "{name}");
    }
    assert_eq!((now.vp_wr, now.td_fields, now.other_leaves, now.accept - before.accept), (1, 3, 2, 0));
}

#[test]
fn a_trace_tells_who_ran_when() {
    let mut m = in_l2_of(machine_with(|config| config.trace = true));
    exit_with(&mut m, vmcall());
    let lines: Vec<_> = m.trace().iter().map(ToString::to_string).collect();
    let has = |text: &str| assert!(lines.iter().any(|line| line.contains(text)), "{text} in {lines:#?}");
    has("cpu0 host  enters l1");
    has("cpu0 l1    leaves with ept violation at 0x603000: accept level 0");
    has("cpu0 host  adds 4K 0x603000");
    has("cpu0 host  adds table of vm1 for 0x603000");
    has("cpu0 l1    tdcall rax=0x6 rcx=0x603000 rdx=0x0 r8=0x0 -> rax=0x0");
    has("cpu0 host  enters vm1");
    has("cpu0 vm1   vmcall rax=0x100000000 rcx=0x2 cpl=0x0 -> exit");
    has("cpu0 vm1   leaves to l1 with 0x12");
    assert!(machine().trace().is_empty());
}
