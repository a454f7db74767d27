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
