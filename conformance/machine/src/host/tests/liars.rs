//! Each liar about switching and answers lies in the way it says, and only in that way.

use super::super::all_policies;
use super::super::ghcb::{RAX, RBX, RCX, RDX, SW_EXIT_INFO_2};
use super::*;
use crate::op::{Resume, Stop};

/// VMPL0 asks for VMPL2: who is entered, and the MSR that VMPL0 sees if it is VMPL0.
fn ask(bench: &mut Bench) -> (u8, u64) {
    let vmpl = bench.run_guest().vmpl;
    let answer = if vmpl == 0 { bench.ghcb_msr(BOOT) } else { 0 };
    (vmpl, answer)
}

#[test]
fn never_switches() {
    for policy in [Policy::NeverSwitch, Policy::NeverSwitchFrom(0)] {
        let mut bench = Bench::with_guest(policy);
        assert_eq!(ask(&mut bench), (0, 0x017));
        assert_eq!(bench.event((0x8000_0018, 2, 0), &[]), (0, 0));
    }
}

#[test]
fn fakes_the_completion_of_the_guests_calls_only() {
    let mut bench = Bench::with_guest(Policy::NeverSwitchFrom(2));
    assert_eq!(ask(&mut bench).0, 2);
    assert_eq!(bench.call().vmpl, 2);
    assert_eq!(bench.ghcb_msr(BOOT), 0x017);
}

#[test]
fn returns_again_after_each_call() {
    let mut bench = Bench::with_guest(Policy::ReturnAgain(2));
    for _ in 0..2 {
        assert_eq!(ask(&mut bench).0, 2);
        assert_eq!(bench.call().vmpl, 0);
        assert_eq!(ask(&mut bench), (0, 0x017));
        assert_eq!(ask(&mut bench), (0, 0x017));
    }
    assert_eq!(ask(&mut bench).0, 2);
}

#[test]
fn returns_though_nobody_called() {
    let mut bench = Bench::with_guest(Policy::SpuriousReturn { every: 3 });
    assert_eq!(ask(&mut bench).0, 2);
    // Another exit of the guest: VMPL0 gets the processor, the guest its answer later.
    bench.send_msr(BOOT, 0x080);
    assert_eq!(bench.enter(BOOT).vmpl, 0);
    assert_eq!(bench.ghcb_msr(BOOT), 0x017);
    assert_eq!(ask(&mut bench).0, 2);
    // The third step of the guest is interrupted.
    assert_eq!(bench.machine.step(BOOT, Op::Rdmsr(msr::GHCB)), Outcome::Exit);
    assert_eq!(bench.enter(BOOT).vmpl, 0);
    let entry = bench.run_guest();
    assert_eq!((entry.vmpl, entry.resume), (2, Resume::Retry));
    assert_eq!(bench.ghcb_msr(BOOT), 0x33_081);
}

#[test]
fn enters_the_wrong_level() {
    let mut bench = Bench::with_guest(Policy::WrongLevel(2));
    bench.create(BOOT, 1, 0, OTHER_VMSA_2);
    bench.send_msr(BOOT, 1 << 32 | 0x016);
    assert_eq!(bench.enter(BOOT).run.vmsa, VMSA_2);
}

/// `WrongLevel`, where what it would rather run has no state that VMRUN takes: it runs what was asked for.
#[test]
fn a_lie_that_vmrun_refuses_is_none() {
    let mut bench = Bench::with_guest(Policy::WrongLevel(2));
    bench.create(BOOT, 1, 0, OTHER_VMSA_2);
    // Without EFER.SVME it cannot be entered.
    let spa = bench.machine.translate(VMSA_2).expect("memory");
    bench.machine.memory.write(spa / 4096, crate::vmsa::EFER, &[0; 8]);
    bench.send_msr(BOOT, 1 << 32 | 0x016);
    assert_eq!(bench.enter(BOOT).run.vmsa, OTHER_VMSA_2);
}

#[test]
fn enters_the_level_of_another_vcpu() {
    let mut bench = Bench::with_guest_and_vcpus(Policy::Honest, 2);
    bench.create(Vcpu(1), 0, 1, OTHER_VMSA_0);
    bench.create(Vcpu(1), 2, 0, OTHER_VMSA_2);
    bench.machine.host_state_mut().set_policy(Policy::WrongVcpu);
    assert_eq!(bench.run_guest().run.vmsa, OTHER_VMSA_2);
    // VMPL0 of the other vCPU does not run: the call goes there.
    assert_eq!(bench.call().run.vmsa, OTHER_VMSA_0);
}

#[test]
fn answers_a_switch_with_the_wrong_code_or_with_error_bits() {
    let answer = |policy, expected| {
        let mut bench = Bench::with_guest(policy);
        assert_eq!(ask(&mut bench).0, 2);
        assert_eq!(bench.call().vmpl, 0);
        assert_eq!(bench.ghcb_msr(BOOT), expected);
        assert_eq!(bench.msr(0x080), 0x33_081);
    };
    answer(Policy::WrongResponseCode(0x005), 0x005);
    answer(Policy::SwitchErrorBits(3), 3 << 32 | 0x017);
    let mut bench = Bench::with_guest(Policy::RefuseSwitch);
    let (vmpl, msr) = ask(&mut bench);
    assert_eq!((vmpl, msr & 0xfff), (0, 0x017));
    assert_ne!(msr >> 32, 0);
}

#[test]
fn puts_error_bits_into_the_page_too() {
    let mut bench = Bench::with_guest(Policy::SwitchErrorBits(3));
    bench.fill(BOOT, GHCB, (0x8000_0018, 2, 0), &[]);
    bench.vmgexit(BOOT);
    bench.enter(BOOT);
    bench.call();
    assert_eq!(bench.status(), (3, 0));
}

#[test]
fn runs_the_guest_elsewhere_while_vmpl0_serves_it() {
    let mut bench = Bench::with_guest_and_vcpus(Policy::RunDuringService, 2);
    let thief = Vcpu(1);
    assert_eq!(ask(&mut bench).0, 2);
    // Nothing to steal while it runs where it belongs.
    assert_eq!(bench.machine.host(thief), HostStep::Parked);
    assert_eq!(bench.call().vmpl, 0);
    assert!(bench.machine.host_ready(thief));
    assert_eq!(bench.enter(thief).run.vmsa, VMSA_2);
    assert_eq!(bench.ghcb_msr(thief), 0x017);
    // VMPL0 at home cannot get it back meanwhile, and sees it as returned.
    assert_eq!(ask(&mut bench), (0, 0x017));
    // It calls from there: the thief has no VMPL0 and steals it again as long as VMPL0 at home runs.
    bench.send_msr(thief, 0x016);
    assert_eq!(bench.enter(thief).run.vmsa, VMSA_2);
}

#[test]
fn cannot_steal_what_vmpl0_has_made_unrunnable() {
    let mut bench = Bench::with_guest_and_vcpus(Policy::RunDuringService, 2);
    assert_eq!(ask(&mut bench).0, 2);
    assert_eq!(bench.call().vmpl, 0);
    let efer = VMSA_2 + vmsa::EFER as u64;
    bench.step(BOOT, Op::Write { gpa: efer, bytes: alloc::vec![0; 8], private: true });
    assert_eq!(bench.machine.host(Vcpu(1)), HostStep::Parked);
    bench.step(BOOT, Op::Write { gpa: efer, bytes: vmsa::EFER_SVME.to_le_bytes().to_vec(), private: true });
    assert_eq!(ask(&mut bench).0, 2);
    assert_eq!(bench.ghcb_msr(BOOT), 0x017);
}

#[test]
fn lies_about_identity_and_features() {
    let msr = |policy: Policy, request| Bench::new(policy).msr(request);
    let cpuid = |policy| msr(policy, 0x8000_001f_4000_0004);
    assert_eq!(cpuid(Policy::LieCpuid) >> 32, !cpuid(Policy::Honest) >> 32);
    assert_eq!(cpuid(Policy::LieCBit(47)) >> 32 & 0x3f, 47);
    assert_eq!(msr(Policy::LieCBit(47), 0x002) >> 24 & 0xff, 47);
    assert_eq!(msr(Policy::LieFeatures(0), 0x080), 0x081);
    assert_eq!(msr(Policy::LieFeatures(u64::MAX), 0x080), u64::MAX << 12 | 0x081);
    assert_eq!(msr(Policy::LieVersion { min: 3, max: 1 }, 0x002), 0x0001_0003_3300_0001);
    assert_eq!(msr(Policy::WrongMsrResponseCode(0x015), 0x080), 0x33_015);
}

#[test]
fn registers_another_ghcb() {
    let mut bench = Bench::new(Policy::WrongGhcbRegistration(1));
    assert_eq!(bench.msr(GHCB | 0x012), 0x1013);
    let mut bench = Bench::new(Policy::WrongGhcbRegistration(u64::MAX));
    assert_eq!(bench.msr(GHCB | 0x012), 0xffff_ffff_ffff_f013);
    assert_eq!(bench.machine.host_state().ghcb(BOOT, 0), None);
}

#[test]
fn lies_in_the_ghcb_page() {
    let mut bench = Bench::with_guest(Policy::ClearValidBits);
    assert_eq!(bench.event((0x8000_fffd, 0, 0), &[]), (0, 0x33));
    assert_eq!(bench.field(SW_EXIT_INFO_2), None);
    let mut bench = Bench::with_guest(Policy::BogusException(0x8000_0b0e));
    assert_eq!(bench.event((0x8000_fffd, 0, 0), &[]), (1, 0x8000_0b0e));
    let mut bench = Bench::with_guest(Policy::WrongStatus(7));
    assert_eq!(bench.event((0x8000_fffd, 0, 0), &[]), (7, 0x33));
    let mut bench = Bench::with_guest(Policy::LieFeatures(4));
    assert_eq!(bench.event((0x8000_fffd, 0, 0), &[]), (0, 4));
    let mut bench = Bench::with_guest(Policy::LieCpuid);
    assert_eq!(bench.event((0x72, 0, 0), &[(RAX, 0x1234_5678), (RCX, 0)]), (0, 0));
    assert_eq!(bench.field(RBX), Some(0xffff_ffff));
    let mut bench = Bench::with_guest(Policy::LieMsr);
    assert_eq!(bench.event((0x7c, 0, 0), &[(RCX, 0x1b)]), (0, 0));
    assert_eq!((bench.field(RAX), bench.field(RDX)), (Some(0xffff_ffff), Some(0xffff_ffff)));
}

#[test]
fn stops_after_so_many_exits() {
    let mut bench = Bench::new(Policy::StopAfter(2));
    bench.msr(0x080);
    bench.msr(0x080);
    bench.send_msr(BOOT, 0x080);
    assert_eq!(bench.machine.host(BOOT), HostStep::Stopped(Stop::Refused));
}

#[test]
fn resumes_a_terminated_guest() {
    let mut bench = Bench::new(Policy::IgnoreTerminate);
    for _ in 0..3 {
        bench.send_msr(BOOT, 0x100);
        assert_eq!(bench.enter(BOOT).vmpl, 0);
    }
}

#[test]
fn stops_only_the_vcpu_that_terminates() {
    let mut bench = Bench::with_guest_and_vcpus(Policy::TerminateOne, 2);
    bench.create(Vcpu(1), 0, 1, OTHER_VMSA_0);
    bench.enter(Vcpu(1));
    bench.send_msr(BOOT, 0x100);
    assert!(matches!(bench.machine.host(BOOT), HostStep::Stopped(Stop::Terminated { .. })));
    assert_eq!(bench.step(Vcpu(1), Op::Pause), Answer::None);
}

#[test]
fn wakes_everybody_all_the_time() {
    let mut bench = Bench::with_guest(Policy::KickForever);
    assert_eq!(ask(&mut bench).0, 2);
    let mut done = 0;
    for _ in 0..8 {
        match bench.machine.step(BOOT, Op::Pause) {
            Outcome::Done(_) => done += 1,
            _ => {
                assert_eq!(bench.enter(BOOT).vmpl, 0);
                assert_eq!(ask(&mut bench).0, 2);
            }
        }
    }
    assert_eq!(done, 4);
}

#[test]
fn lies_only_where_and_when_it_is_told_to() {
    let inner = Box::new(Policy::LieFeatures(0));
    let mut bench = Bench::new(Policy::After { exits: 1, inner: inner.clone() });
    assert_eq!(bench.msr(0x080), 0x33_081);
    assert_eq!(bench.msr(0x080), 0x081);
    let mut bench = Bench::new(Policy::OnlyOn { vcpu: Vcpu(1), inner });
    assert_eq!(bench.msr(0x080), 0x33_081);
}

/// A guest that ignores every answer runs against every host for a while: nothing panics, and a stopped vCPU stays so.
#[test]
fn no_host_panics() {
    for (name, policy, _) in all_policies() {
        let mut bench = Bench::with_guest_and_vcpus(policy.based_at(PRIVATE_PAGE), 2);
        for round in 0_u64..60 {
            let vcpu = Vcpu((round % 2) as u8);
            if bench.machine.running(vcpu).is_none() {
                bench.machine.host(vcpu);
            }
            let Some(vmpl) = bench.machine.running_vmpl(vcpu) else { continue };
            let request = match (round / 2 % 6, vmpl) {
                (0, _) => GHCB | 0x012,
                (1, _) => GHCB,
                (2, _) => 1 << 52 | PAGE | 0x014,
                (3, _) => 0x4000_0004,
                (_, 0) => 2 << 32 | 0x016,
                _ => 0x016,
            };
            for op in [
                Op::Read { gpa: GHCB, len: 8, private: false },
                Op::Wrmsr(msr::GHCB, request),
                Op::Vmgexit(Regs::default()),
            ] {
                if bench.machine.running(vcpu).is_some() {
                    bench.machine.step(vcpu, op);
                }
            }
            if let HostStep::Stopped(stop) = bench.machine.host(vcpu) {
                assert_eq!(bench.machine.host(vcpu), HostStep::Stopped(stop), "{name}");
            }
        }
    }
}
