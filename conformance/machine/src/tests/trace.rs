//! Counters, trace, snapshots.

use alloc::format;
use alloc::string::ToString;

use super::*;
use crate::{EventKind, HostEvent};

#[test]
fn counters_are_kept_by_vcpu_and_vmpl() {
    let mut m = machine();
    grant(&mut m, PAGE, false, 1, RWX);
    assert_eq!(on(&mut m, CPU1, 1, write(PAGE, &[1])), done());
    assert_eq!(at(&mut m, 0, flush_all()), done());
    assert_eq!(at(&mut m, 0, Op::Tlbsync), done());
    assert_eq!(at(&mut m, 0, Op::Vmgexit(REGS)), Outcome::Exit);
    let own = m.counters(CPU0, 0);
    assert_eq!((own.pvalidate, own.rmpadjust, own.invlpgb, own.tlbsync, own.vmgexit), (1, 1, 1, 1, 1));
    assert_eq!((own.zeroed_pages, own.port_calls, own.vmruns, own.writes), (1, 5, 1, 0));
    assert_eq!(m.counters(CPU1, 1).writes, 1);
    assert_eq!(m.counters_of_vmpl(1).vmruns, 1);
    assert_eq!(m.total_counters().port_calls, 5);
}

#[test]
fn the_trace_tells_who_did_what_and_no_contents() {
    let mut m = machine_with(|config| config.trace = true);
    take(&mut m, PAGE, false);
    assert_eq!(at(&mut m, 0, write(PAGE, b"secret")), done());
    assert_eq!(at(&mut m, 1, read(PAGE, 1)), Outcome::Exit);
    m.note(CPU0, HostEvent::Idle("parked"));
    let lines: Vec<_> = m.trace().iter().map(ToString::to_string).collect();
    let all = lines.join("\n");
    for part in [
        "rmpupdate 4K 0x603000 assigned to 0x603000: 0",
        "pvalidate gpa=0x603000 ecx=0x0 edx=0x1 -> eax=0 cf=0",
        "write gpa=0x603000 len=0x6 c=0x1 -> done",
        "enters vmsa 0x2000 at vmpl1",
        "vmpl1 leaves with 0x400 at 0x603000",
        "-> exit",
        "parked",
    ] {
        assert!(all.contains(part), "{part} in:\n{all}");
    }
    assert!(!all.contains("secret") && !all.contains(&format!("{:?}", b"secret")));
    assert!(m.trace().iter().any(|event| matches!(event.kind, EventKind::Host(HostEvent::Rmpupdate { .. }))));
    let mut silent = machine();
    take(&mut silent, PAGE, false);
    assert!(silent.trace().is_empty());
}

#[test]
fn snapshots_show_entries_contents_and_vmsas_but_not_shared_memory() {
    let mut m = machine();
    grant(&mut m, PAGE, false, 1, RWX);
    let before = m.snapshot();
    assert!(m.host_write(PAGE + 0x1000, b"shared"));
    assert_eq!(at(&mut m, 0, read(PAGE, 1)), bytes(&[0]));
    assert_eq!(at(&mut m, 0, write(PAGE, &[0; 16])), done());
    assert_eq!(m.snapshot(), before);
    assert_eq!(before.diff(&m.snapshot()), Vec::<alloc::string::String>::new());
    assert_eq!(at(&mut m, 0, write(PAGE + 9, &[1])), done());
    assert_eq!(at(&mut m, 0, rmpadjust(PAGE, false, 2, 1)), rmpadjusted(0));
    let vmsa = vmsa_of(CPU1, 1);
    assert_eq!(at(&mut m, 0, write(vmsa + layout::RAX as u64, &[9])), done());
    m.psp_mut().set_used(1, 4);
    let after = m.snapshot();
    assert_ne!(after, before);
    let lines = before.diff(&after).join("\n");
    for part in [
        "rmp 0x603000: 4K gpa 0x603000 valid rights f/0/0 -> 4K gpa 0x603000 valid rights f/1/0",
        "page 0x603000: 1 bytes differ from 0x9 on",
        "vmsa 0x6000: 1 bytes differ, first 0x1f8: 0x0 -> 0x9",
        "security processor",
    ] {
        assert!(lines.contains(part), "{part} in:\n{lines}");
    }
}
