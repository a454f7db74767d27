//! Who runs when, with the honest host.

use super::super::ghcb::{RAX, RCX, RDX};
use super::*;
use crate::op::{Resume, Stop};

#[test]
fn switches_down_and_up_by_msr() {
    let mut bench = Bench::with_guest(Policy::Honest);
    let entry = bench.run_guest();
    assert_eq!((entry.run.vmsa, entry.vmpl), (VMSA_2, 2));
    assert_eq!(entry.resume, Resume::Start { rip: 0x1000, regs: Regs::default() });
    let entry = bench.call();
    assert_eq!((entry.run.vmsa, entry.vmpl), (VMSA_0, 0));
    assert_eq!(entry.resume, Resume::Complete(Answer::Regs(Regs::default())));
    assert_eq!(bench.ghcb_msr(BOOT), 0x017);
    let entry = bench.run_guest();
    assert_eq!((entry.vmpl, entry.resume), (2, Resume::Complete(Answer::Regs(Regs::default()))));
    assert_eq!(bench.ghcb_msr(BOOT), 0x017);
}

#[test]
fn switches_by_page() {
    let mut bench = Bench::with_guest(Policy::Honest);
    bench.fill(BOOT, GHCB, (0x8000_0018, 2, 0), &[]);
    bench.vmgexit(BOOT);
    assert_eq!(bench.enter(BOOT).vmpl, 2);
    assert_eq!(bench.call().vmpl, 0);
    assert_eq!(bench.status(), (0, 0));
}

#[test]
fn answers_an_error_for_a_level_that_is_not_there() {
    let mut bench = Bench::with_guest(Policy::Honest);
    for request in [0x016, 1 << 32 | 0x016, 4 << 32 | 0x016, 2 << 32 | 0x1016, 1 << 40 | 2 << 32 | 0x016] {
        let answer = bench.msr(request);
        assert_eq!(answer & 0xffff_ffff, 0x017, "{request:#x}");
        assert_ne!(answer >> 32, 0, "{request:#x}");
    }
    for vmpl in [0, 1, 4, 0x102] {
        assert_eq!(bench.event((0x8000_0018, vmpl, 0), &[]), (2, 5), "{vmpl}");
    }
}

#[test]
fn parks_a_vcpu_until_it_gets_a_vmsa() {
    let mut bench = Bench::with_guest_and_vcpus(Policy::Honest, 2);
    let other = Vcpu(1);
    assert_eq!(bench.machine.host(other), HostStep::Parked);
    assert!(!bench.machine.host_ready(other));
    assert_eq!(bench.create(other, 0, 1, OTHER_VMSA_0), (0, 0));
    assert!(bench.machine.host_ready(other));
    assert_eq!(bench.enter(other).run.vmsa, OTHER_VMSA_0);
}

#[test]
fn create_on_init_waits_for_init() {
    let mut bench = Bench::with_guest_and_vcpus(Policy::Honest, 2);
    let other = Vcpu(1);
    assert_eq!(bench.create(other, 0, 0, OTHER_VMSA_0), (0, 0));
    assert_eq!(bench.machine.host(other), HostStep::Parked);
    assert_eq!(bench.event((0x7c, 1, 0), &[(RCX, 0x830), (RAX, 0x500), (RDX, 1)]), (0, 0));
    assert_eq!(bench.enter(other).run.vmsa, OTHER_VMSA_0);
}

#[test]
fn a_new_vmsa_runs_when_vmpl0_halts() {
    let mut bench = Bench::with_guest_and_vcpus(Policy::Honest, 2);
    let other = Vcpu(1);
    bench.create(other, 0, 1, OTHER_VMSA_0);
    bench.enter(other);
    assert_eq!(bench.create(other, 2, 1, OTHER_VMSA_2), (0, 0));
    assert_eq!(bench.step(other, Op::Pause), Answer::None);
    assert_eq!(bench.machine.step(other, Op::Hlt), Outcome::Exit);
    assert_eq!(bench.enter(other).run.vmsa, OTHER_VMSA_2);
    // The new one calls: the halt of VMPL0 is over.
    bench.send_msr(other, 0x016);
    let entry = bench.enter(other);
    assert_eq!((entry.run.vmsa, entry.resume), (OTHER_VMSA_0, Resume::Complete(Answer::None)));
    // VMPL0 runs it again, and its call has an answer.
    bench.send_msr(other, 2 << 32 | 0x016);
    assert_eq!(bench.enter(other).run.vmsa, OTHER_VMSA_2);
    assert_eq!(bench.ghcb_msr(other), 0x017);
}

#[test]
fn hlt_is_over_at_once_where_nothing_else_waits() {
    let mut bench = Bench::new(Policy::Honest);
    assert_eq!(bench.machine.step(BOOT, Op::Hlt), Outcome::Exit);
    assert_eq!(bench.enter(BOOT).resume, Resume::Complete(Answer::None));
}

#[test]
fn two_levels_that_halt_take_turns() {
    let mut bench = Bench::with_guest(Policy::Honest);
    bench.create(BOOT, 2, 1, VMSA_2);
    let mut vmpls = Vec::new();
    for _ in 0..4 {
        assert_eq!(bench.machine.step(BOOT, Op::Hlt), Outcome::Exit);
        vmpls.push(bench.enter(BOOT).vmpl);
    }
    assert_eq!(vmpls, [2, 0, 2, 0]);
}

/// The boot vCPU sends an interrupt to vCPU 1.
fn kick(bench: &mut Bench) {
    assert_eq!(bench.event((0x7c, 1, 0), &[(RCX, 0x830), (RAX, 0xfb), (RDX, 1)]), (0, 0));
}

fn two_vcpus(policy: Policy) -> (Bench, Vcpu) {
    let mut bench = Bench::with_guest_and_vcpus(Policy::Honest, 2);
    let other = Vcpu(1);
    bench.create(other, 0, 1, OTHER_VMSA_0);
    bench.enter(other);
    bench.create(other, 2, 0, OTHER_VMSA_2);
    bench.machine.host_state_mut().set_policy(policy);
    (bench, other)
}

#[test]
fn a_kick_brings_vmpl0_back() {
    let (mut bench, other) = two_vcpus(Policy::Honest);
    bench.send_msr(other, 2 << 32 | 0x016);
    assert_eq!(bench.enter(other).vmpl, 2);
    kick(&mut bench);
    assert_eq!(bench.machine.step(other, Op::Pause), Outcome::Exit);
    assert_eq!(bench.enter(other).vmpl, 0);
    assert_eq!(bench.ghcb_msr(other), 0x017);
    // Once, and the interrupted step is repeated.
    bench.send_msr(other, 2 << 32 | 0x016);
    let entry = bench.enter(other);
    assert_eq!((entry.vmpl, entry.resume), (2, Resume::Retry));
    assert_eq!(bench.step(other, Op::Pause), Answer::None);
}

#[test]
fn a_kick_of_a_running_vmpl0_is_not_lost() {
    let (mut bench, other) = two_vcpus(Policy::Honest);
    kick(&mut bench);
    bench.send_msr(other, 2 << 32 | 0x016);
    assert_eq!(bench.enter(other).vmpl, 0);
    assert_eq!(bench.ghcb_msr(other), 0x017);
    bench.send_msr(other, 2 << 32 | 0x016);
    assert_eq!(bench.enter(other).vmpl, 2);
}

#[test]
fn a_host_may_swallow_kicks() {
    let (mut bench, other) = two_vcpus(Policy::NoKick);
    bench.send_msr(other, 2 << 32 | 0x016);
    bench.enter(other);
    kick(&mut bench);
    assert_eq!(bench.step(other, Op::Pause), Answer::None);
}

#[test]
fn a_reset_hold_ends_with_a_startup_ipi() {
    let (mut bench, other) = two_vcpus(Policy::Honest);
    bench.send_msr(other, 0x006);
    assert_eq!(bench.machine.host(other), HostStep::Parked);
    assert_eq!(bench.event((0x7c, 1, 0), &[(RCX, 0x830), (RAX, 0x600), (RDX, 1)]), (0, 0));
    assert_eq!(bench.enter(other).vmpl, 0);
    assert_eq!(bench.ghcb_msr(other), 0x1007);
}

#[test]
fn a_destroyed_vmsa_leaves_and_vmpl0_goes_on() {
    let (mut bench, other) = two_vcpus(Policy::Honest);
    bench.send_msr(other, 2 << 32 | 0x016);
    bench.enter(other);
    assert_eq!(bench.create(other, 2, 2, 0), (0, 0));
    assert_eq!(bench.machine.step(other, Op::Pause), Outcome::Exit);
    assert_eq!(bench.enter(other).vmpl, 0);
}

#[test]
fn an_ended_program_leaves_its_vcpu_and_cannot_be_run() {
    let mut bench = Bench::with_guest(Policy::Honest);
    bench.run_guest();
    assert_eq!(bench.machine.step(BOOT, Op::End), Outcome::Exit);
    assert_eq!(bench.machine.host(BOOT), HostStep::Parked);
}

#[test]
fn a_vmsa_that_cannot_run_stops_the_vcpu() {
    let mut bench = Bench::with_guest(Policy::Honest);
    assert_eq!(bench.create(BOOT, 2, 0, PRIVATE_PAGE), (0, 0));
    bench.send_msr(BOOT, 2 << 32 | 0x016);
    assert_eq!(bench.machine.host(BOOT), HostStep::Stopped(Stop::VmrunRefused));
}
