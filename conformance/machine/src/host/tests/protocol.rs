//! MSR protocol, GHCB page and AP creation of the honest host.

use super::super::ghcb::{RAX, RBX, RCX, RDX, SW_EXIT_INFO_1, SW_EXIT_INFO_2, SW_SCRATCH, USAGE, VERSION};
use super::*;
use crate::op::Stop;

#[test]
fn answers_the_msr_protocol() {
    let mut bench = Bench::new(Policy::Honest);
    assert_eq!(bench.msr(0x002), 0x0002_0002_3300_0001);
    assert_eq!(bench.msr(0x080), 0x33_081);
    assert_eq!(bench.msr(0x010), 0xffff_ffff_ffff_f011);
    assert_eq!(bench.msr(0x8000_001f_4000_0004) & 0x3f_ffff_ffff, 0x33_4000_0005);
    assert_eq!(bench.msr(GHCB | 0x012), GHCB | 0x013);
    assert_eq!(bench.machine.host_state().ghcb(BOOT, 0), Some(GHCB));
}

#[test]
fn refuses_a_ghcb_outside_memory() {
    let mut bench = Bench::new(Policy::Honest);
    assert_eq!(bench.msr(1 << 45 | 0x012), 0xffff_ffff_ffff_f013);
    assert_eq!(bench.machine.host_state().ghcb(BOOT, 0), None);
}

#[test]
fn stops_at_an_unknown_msr_request() {
    let mut bench = Bench::new(Policy::Honest);
    bench.send_msr(BOOT, 0xf00);
    assert_eq!(bench.machine.host(BOOT), HostStep::Stopped(Stop::Refused));
    assert_eq!(bench.machine.host(BOOT), HostStep::Stopped(Stop::Refused));
    assert!(!bench.machine.host_ready(BOOT));
}

#[test]
fn a_terminated_guest_runs_nowhere() {
    let mut bench = Bench::with_guest_and_vcpus(Policy::Honest, 2);
    assert_eq!(bench.create(Vcpu(1), 0, 1, OTHER_VMSA_0), (0, 0));
    bench.enter(Vcpu(1));
    bench.send_msr(BOOT, 0x0003_5100);
    let stop = HostStep::Stopped(Stop::Terminated { set: 5, code: 3 });
    assert_eq!(bench.machine.host(BOOT), stop);
    assert_eq!(bench.machine.step(Vcpu(1), Op::Pause), Outcome::Exit);
    assert_eq!(bench.machine.host(Vcpu(1)), stop);
}

#[test]
fn terminates_by_page_too() {
    let mut bench = Bench::with_guest(Policy::Honest);
    bench.fill(BOOT, GHCB, (0x8000_fffe, 0x7f << 4 | 2, 0), &[]);
    bench.vmgexit(BOOT);
    assert_eq!(bench.machine.host(BOOT), HostStep::Stopped(Stop::Terminated { set: 2, code: 0x7f }));
}

#[test]
fn marks_valid_exactly_what_it_returns() {
    let mut bench = Bench::with_guest(Policy::Honest);
    assert_eq!(bench.event((0x72, 0, 0), &[(RAX, 0x8000_001f), (RCX, 0)]), (0, 0));
    assert_eq!(bench.field(RBX).unwrap() & 0x3f, 51);
    assert!(bench.field(RAX).is_some() && bench.field(RCX).is_some() && bench.field(RDX).is_some());
    assert_eq!(bench.event((0x8000_fffd, 0, 0), &[]), (0, 0x33));
    assert!(bench.field(SW_EXIT_INFO_1).is_some() && bench.field(SW_EXIT_INFO_2).is_some());
    assert!(bench.field(RAX).is_none() && bench.field(RBX).is_none());
}

#[test]
fn answers_a_page_that_is_not_registered_with_error_1() {
    let mut bench = Bench::new(Policy::Honest);
    assert_eq!(bench.event((0x8000_fffd, 0, 0), &[]), (2, 1));
}

#[test]
fn stops_at_a_page_that_it_cannot_write() {
    let mut bench = Bench::new(Policy::Honest);
    bench.send_msr(BOOT, PRIVATE_PAGE);
    assert_eq!(bench.machine.host(BOOT), HostStep::Stopped(Stop::Refused));
}

#[test]
fn names_what_is_wrong_with_a_request() {
    let mut bench = Bench::with_guest(Policy::Honest);
    assert_eq!(bench.event((0x8000_0099, 0, 0), &[]), (2, 6));
    assert_eq!(bench.event((0x72, 0, 0), &[(RAX, 0)]), (2, 4));
    assert_eq!(bench.event((0x72, 0, 0), &[(RAX, 0xd), (RCX, 0)]), (2, 4));
    assert_eq!(bench.event((0x8000_0010, 0, 0), &[]), (2, 4));
    assert_eq!(bench.event((0x8000_0010, 0, 0), &[(SW_SCRATCH, PAGE)]), (2, 3));
    assert_eq!(bench.event((0x8000_0010, 0, 0), &[(SW_SCRATCH, GHCB + 0xfe9)]), (2, 3));
    assert_eq!(bench.event((0x7c, 2, 0), &[(RCX, 0x830)]), (2, 5));
    assert_eq!(bench.event((0x7c, 0, 0), &[(RCX, 0x1234)]), (1, 0x8000_0b0d));
    bench.write(BOOT, GHCB + USAGE as u64, &[1]);
    assert_eq!(bench.event((0x8000_fffd, 0, 0), &[]), (2, 2));
}

#[test]
fn wants_version_2() {
    let mut bench = Bench::with_guest(Policy::Honest);
    bench.fill(BOOT, GHCB, (0x8000_fffd, 0, 0), &[]);
    bench.write(BOOT, GHCB + VERSION as u64, &[1, 0]);
    bench.vmgexit(BOOT);
    bench.enter(BOOT);
    assert_eq!(bench.status(), (2, 5));
}

#[test]
fn lists_apic_ids() {
    let mut bench = Bench::with_guest_and_vcpus(Policy::Honest, 3);
    assert_eq!(bench.event((0x8000_0017, 0, 0), &[(RAX, 0)]), (0, 0));
    assert_eq!(bench.field(RAX), Some(1));
    assert_eq!(bench.event((0x8000_0017, PAGE, 0), &[(RAX, 1)]), (0, 0));
    let words: Vec<u32> =
        bench.read(BOOT, PAGE, 16).chunks(4).map(|word| u32::from_le_bytes(word.try_into().unwrap())).collect();
    assert_eq!(words, [3, 0, 1, 2]);
    assert_eq!(bench.event((0x8000_0017, PRIVATE_PAGE, 0), &[(RAX, 1)]), (2, 5));
    assert_eq!(bench.event((0x8000_0017, PAGE + 8, 0), &[(RAX, 1)]), (2, 5));
}

#[test]
fn checks_ap_creation() {
    let mut bench = Bench::with_guest(Policy::Honest);
    assert_eq!(bench.create(BOOT, 4, 1, VMSA_2), (2, 5));
    assert_eq!(bench.create(BOOT, 2, 3, VMSA_2), (2, 5));
    assert_eq!(bench.create(Vcpu(1), 2, 1, VMSA_2), (2, 5));
    assert_eq!(bench.create(BOOT, 2, 1, VMSA_2 + 1), (2, 5));
    assert_eq!(bench.create(BOOT, 2, 1, LARGE), (2, 5));
    assert_eq!(bench.create(BOOT, 2, 1, 1 << 45 | 0x1000), (2, 5));
    assert_eq!(bench.event((0x8000_0013, 2 << 16 | 1, VMSA_2), &[]), (2, 4));
    assert_eq!(bench.event((0x8000_0013, 2 << 16 | 1, VMSA_2), &[(RAX, 1 | 1 << 4)]), (2, 5));
    assert_eq!(bench.machine.host_state().vmsa(BOOT, 2), Some(VMSA_2));
    assert_eq!(bench.event((0x8000_0013, 2 << 16 | 2, 0), &[]), (0, 0));
    assert_eq!(bench.machine.host_state().vmsa(BOOT, 2), None);
}

#[test]
fn a_lower_level_does_not_replace_vmpl0() {
    let mut bench = Bench::with_guest(Policy::Honest);
    bench.run_guest();
    bench.register(GHCB_2);
    for kind in [0, 1, 2] {
        bench.fill(BOOT, GHCB_2, (0x8000_0013, kind, OTHER_VMSA_0), &[(RAX, 1)]);
        bench.vmgexit(BOOT);
        assert_eq!(bench.enter(BOOT).vmpl, 2);
        assert_eq!(bench.read_u64(BOOT, GHCB_2 + SW_EXIT_INFO_1 as u64), 2);
        assert_eq!(bench.machine.host_state().vmsa(BOOT, 0), Some(VMSA_0));
    }
}

#[test]
fn a_vmpl_uses_only_the_page_it_registered_itself() {
    let mut bench = Bench::with_guest(Policy::Honest);
    bench.run_guest();
    bench.fill(BOOT, GHCB, (0x8000_fffd, 0, 0), &[]);
    bench.vmgexit(BOOT);
    bench.enter(BOOT);
    assert_eq!(bench.status(), (2, 1));
}
