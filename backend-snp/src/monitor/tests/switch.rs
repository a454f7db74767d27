use coco_part_api::{CallRegs, Error, ErrorKind, Exit, PendingCall};

use super::mock::{Did, PageBytes, VmsaStore, World};
use super::*;
use crate::SnpError;
use crate::abi::exit_codes::ExitCode;
use crate::abi::vmsa::Vmsa;

const MARK: Did = Did::Rmpadjust { at: VMSA, large: false, vmpl: 1, rights: 0, vmsa: true };
pub(super) const BOTH: [VmsaStore; 2] = [VmsaStore::Waits, VmsaStore::Plain];

pub(super) fn run(l1: &mut TestL1<'_>) -> Exit {
    l1.run(GuestLevel::ONE).unwrap()
}

pub(super) fn call(exit: Exit) -> PendingCall {
    match exit {
        Exit::Call(call) => call,
        other => panic!("{other:?}"),
    }
}

/// The level runs and calls while L1 waits.
fn calls(bench: &Bench, rax: u64) {
    bench.machine.on_run(move |machine| machine.with(|world| assert!(world.calls(VMSA, CALL_AREA, 1, rax))));
}

#[test]
fn a_call_is_reported_with_its_registers_and_cannot_run_meanwhile() {
    for store in BOTH {
        let bench = Bench::new();
        let mut l1 = bench.with_guest();
        bench.machine.with(|world| world.store = store);
        calls(&bench, 0x99);
        let call = call(run(&mut l1));
        assert_eq!(bench.machine.take_log(), [Did::Run(1), MARK]);
        assert_eq!(call.regs(), CallRegs { rax: 0x99, rcx: 1, rdx: 2, r8: 3, r9: 4 });
        assert_eq!(bench.machine.page(CALL_AREA)[0], 0, "the mark is taken");
        bench.machine.with(|world| assert!(!world.vmrun(VMSA), "the gate is closed"));
        l1.answer(call, CallRegs { rax: 7, ..CallRegs::default() }).unwrap();
        bench.machine.with(|world| assert!(!world.vmrun(VMSA), "it opens when the level runs"));
        bench.machine.on_run(|machine| machine.with(|world| assert!(world.calls(VMSA, CALL_AREA, 1, 5))));
        assert!(matches!(run(&mut l1), Exit::Call(_)));
    }
}

#[test]
fn an_answer_changes_five_registers_and_no_other() {
    let bench = Bench::new();
    let mut l1 = bench.with_guest();
    calls(&bench, 1);
    let call = call(run(&mut l1));
    let before = bench.machine.page(VMSA);
    let regs = CallRegs { rax: 10, rcx: 11, rdx: 12, r8: 13, r9: 14 };
    l1.answer(call, regs).unwrap();
    let mut expected: PageBytes = before;
    for (offset, value) in [(0x1f8, 10_u64), (0x308, 11), (0x310, 12), (0x340, 13), (0x348, 14)] {
        expected[offset..offset + 8].copy_from_slice(&value.to_le_bytes());
    }
    assert_eq!(bench.machine.page(VMSA), expected);
}

#[test]
fn an_unanswered_call_keeps_the_level_stopped() {
    let bench = Bench::new();
    let mut l1 = bench.with_guest();
    calls(&bench, 1);
    let _unanswered = call(run(&mut l1));
    bench.machine.take_log();
    let error = l1.run(GuestLevel::ONE).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InUse);
    assert_eq!(bench.machine.take_log(), []);
}

#[test]
fn an_answer_without_a_call_is_refused() {
    let bench = Bench::new();
    let mut l1 = bench.with_guest();
    let page = bench.machine.page(VMSA);
    let forged = PendingCall::new(GuestLevel::ONE, CallRegs::default());
    assert!(l1.answer(forged, CallRegs { rax: 1, ..CallRegs::default() }).is_err());
    assert_eq!(bench.machine.page(VMSA), page);
}

#[test]
fn a_repeated_return_finds_no_call() {
    for store in BOTH {
        let bench = Bench::new();
        let mut l1 = bench.with_guest();
        bench.machine.with(|world| world.store = store);
        calls(&bench, 1);
        let call = call(run(&mut l1));
        l1.answer(call, CallRegs::default()).unwrap();
        // The host does not run the level again, but returns.
        let page = bench.machine.page(VMSA);
        for _ in 0..3 {
            assert!(matches!(run(&mut l1), Exit::Spurious));
        }
        let changed: std::vec::Vec<usize> = (0..4096).filter(|at| page[*at] != bench.machine.page(VMSA)[*at]).collect();
        assert_eq!(changed, [0xd1], "EFER.SVME alone");
    }
}

#[test]
fn a_mark_without_an_exit_or_an_exit_without_a_mark_is_no_call() {
    let bench = Bench::new();
    let mut l1 = bench.with_guest();
    let page = |bench: &Bench| bench.machine.page(VMSA);
    // Somebody else of the guest sets the mark.
    bench.machine.poke(CALL_AREA, &[1]);
    assert!(matches!(run(&mut l1), Exit::Spurious));
    assert_eq!(bench.machine.page(CALL_AREA)[0], 1);
    bench.machine.poke(CALL_AREA, &[0]);
    // A VMGEXIT for the host.
    bench.machine.on_run(|machine| machine.with(|world| assert!(world.calls(VMSA, CALL_AREA, 0, 5))));
    let before = page(&bench);
    assert!(matches!(run(&mut l1), Exit::Spurious));
    assert_ne!(before, page(&bench), "it ran");
    bench.machine.take_log();
    // An interrupt, with a mark that is half set up.
    bench.machine.on_run(|machine| {
        machine.with(|world| {
            assert!(world.vmrun(VMSA));
            world.put(CALL_AREA, &[1]);
            world.exit(VMSA, ExitCode::INTR);
        });
    });
    assert!(matches!(run(&mut l1), Exit::Spurious));
    assert_eq!(bench.machine.take_log(), [Did::Run(1)], "and nothing was gated");
}

#[test]
fn any_other_mark_is_malformed() {
    for mark in [2, 0x80, 0xff] {
        let bench = Bench::new();
        let mut l1 = bench.with_guest();
        bench.machine.on_run(move |machine| machine.with(|world| assert!(world.calls(VMSA, CALL_AREA, mark, 5))));
        let Exit::MalformedCall(call) = run(&mut l1) else { panic!("mark {mark}") };
        l1.answer(call, CallRegs { rax: 0x8000_0004, ..CallRegs::default() }).unwrap();
        assert_eq!(bench.machine.page(CALL_AREA)[0], 0);
        assert!(matches!(run(&mut l1), Exit::Spurious));
    }
}

#[test]
fn a_call_area_that_is_gone_is_no_call() {
    let bench = Bench::new();
    let mut l1 = bench.with_guest();
    let area = |world: &mut World, valid| world.rmp.get_mut(&(CALL_AREA >> 12)).unwrap().valid = valid;
    bench.machine.on_run(move |machine| {
        machine.with(|world| {
            assert!(world.calls(VMSA, CALL_AREA, 1, 0x33));
            area(world, false);
        });
    });
    assert!(matches!(run(&mut l1), Exit::Spurious));
    bench.machine.with(|world| area(world, true));
    assert_eq!(call(run(&mut l1)).regs().rax, 0x33);
}

#[test]
fn a_moved_call_area_is_the_one_that_counts() {
    let bench = Bench::new();
    let mut l1 = bench.with_guest();
    l1.set_call_area(GuestLevel::ONE, frame(CALL_AREA + 0x1000)).unwrap();
    bench.machine.on_run(|machine| machine.with(|world| assert!(world.calls(VMSA, CALL_AREA + 0x1000, 1, 5))));
    assert!(matches!(run(&mut l1), Exit::Call(_)));
    assert!(l1.set_call_area(GuestLevel::TWO, frame(CALL_AREA)).is_err());
}

/// The host returns to L1 while it runs the caller on another processor.
fn runs_elsewhere(world: &mut World) {
    assert!(world.calls(VMSA, CALL_AREA, 1, 0x55));
    assert!(world.vmrun(VMSA));
}

#[test]
fn a_caller_that_runs_elsewhere_is_not_touched() {
    let bench = Bench::new();
    let mut l1 = bench.with_guest();
    bench.machine.with(|world| world.store = VmsaStore::Plain);
    bench.machine.on_run(|machine| machine.with(runs_elsewhere));
    assert!(matches!(run(&mut l1), Exit::Spurious));
    assert_eq!(bench.machine.take_log(), [Did::Run(1), MARK, Did::Pause]);
    assert_eq!(bench.machine.page(CALL_AREA)[0], 1, "the mark is still there");
    // It leaves with the same call: now it is served, once, and without entering again.
    bench.machine.with(|world| world.exit(VMSA, ExitCode::VMGEXIT));
    assert_eq!(call(run(&mut l1)).regs().rax, 0x55);
    assert_eq!(bench.machine.take_log(), [MARK]);
}

#[test]
fn a_store_that_waits_stops_the_caller_first() {
    let bench = Bench::new();
    let mut l1 = bench.with_guest();
    bench.machine.on_run(|machine| machine.with(runs_elsewhere));
    // The exit that lets the store through is an interrupt: the VMGEXIT on record is gone, and no call is served.
    assert!(matches!(run(&mut l1), Exit::Spurious));
    assert_eq!(bench.machine.take_log(), [Did::Run(1), MARK]);
    assert_eq!(bench.machine.page(CALL_AREA)[0], 1);
    bench.machine.with(|world| assert!(!world.running.contains_key(&(VMSA >> 12))));
    calls(&bench, 0x66);
    assert_eq!(call(run(&mut l1)).regs().rax, 0x66);
}

#[test]
fn a_plain_store_that_an_exit_overwrites_is_noticed() {
    let bench = Bench::new();
    let mut l1 = bench.with_guest();
    bench.machine.with(|world| world.store = VmsaStore::Plain);
    bench.machine.on_run(|machine| machine.with(runs_elsewhere));
    // The VMSA leaves between the store and the RMPADJUST, saving an EFER with SVME.
    bench.machine.with(|world| {
        world.before_adjust = Some(std::boxed::Box::new(|world| world.exit(VMSA, ExitCode::VMGEXIT)));
    });
    let call = call(run(&mut l1));
    assert_eq!(bench.machine.take_log(), [Did::Run(1), MARK, MARK]);
    bench.machine.with(|world| assert!(!world.vmrun(VMSA)));
    l1.answer(call, CallRegs::default()).unwrap();
}

#[test]
fn a_call_that_came_before_the_installation_is_served_without_entering() {
    let bench = Bench::new();
    let mut l1 = bench.start(0);
    let seed = admit(&mut l1, VMSA).unwrap();
    bench.machine.with(|world| assert!(world.calls(VMSA, CALL_AREA, 1, 0x77)));
    l1.install(seed).unwrap();
    bench.machine.take_log();
    assert_eq!(call(run(&mut l1)).regs().rax, 0x77);
    assert_eq!(bench.machine.take_log(), [MARK]);
}

#[test]
fn an_error_of_the_host_changes_nothing() {
    let bench = Bench::new();
    let mut l1 = bench.with_guest();
    let page = bench.machine.page(VMSA);
    for (answer, kind) in [((2, 5), ErrorKind::HostRefused), ((0x17, 0), ErrorKind::HostMisbehaved)] {
        bench.machine.with(|world| world.run_answer = answer);
        assert_eq!(l1.run(GuestLevel::ONE).unwrap_err().kind(), kind);
    }
    assert_eq!(bench.machine.page(VMSA), page);
    bench.machine.with(|world| world.run_answer = (0, 0));
    assert!(matches!(run(&mut l1), Exit::Spurious));
}

#[test]
fn a_call_is_not_lost_when_the_host_answers_the_switch_wrongly() {
    let bench = Bench::new();
    let mut l1 = bench.with_guest();
    bench.machine.with(|world| world.run_answer = (0x17, 0));
    calls(&bench, 0x11);
    assert!(l1.run(GuestLevel::ONE).is_err());
    assert_eq!(call(run(&mut l1)).regs().rax, 0x11);
}

#[test]
fn the_msr_protocol_does_it_too() {
    let bench = Bench::new();
    let mut setup = bench.setup(0);
    setup.switch_by = SwitchBy::Msr;
    let mut l1 = L1::start(bench.machine.port(), setup, &bench.shared).unwrap();
    let seed = admit(&mut l1, VMSA).unwrap();
    l1.install(seed).unwrap();
    calls(&bench, 3);
    let call = call(run(&mut l1));
    l1.answer(call, CallRegs::default()).unwrap();
    bench.machine.with(|world| world.run_msr_answer = 1 << 32 | 0x017);
    assert_eq!(l1.run(GuestLevel::ONE).unwrap_err(), SnpError::RunVmpl { code: 1 });
    bench.machine.with(|world| world.run_msr_answer = 0x005);
    assert_eq!(l1.run(GuestLevel::ONE).unwrap_err().kind(), ErrorKind::HostMisbehaved);
    assert_eq!(bench.machine.with(|world| world.ghcb_msr), GHCB);
}

#[test]
fn a_level_without_a_vcpu_is_not_entered() {
    let bench = Bench::new();
    let mut l1 = bench.with_guest();
    assert_eq!(l1.run(GuestLevel::TWO).unwrap_err(), SnpError::NoVcpu { level: GuestLevel::TWO });
    assert_eq!(bench.machine.take_log(), []);
}

#[test]
fn a_frame_that_is_retired_during_the_run_is_not_touched_afterwards() {
    let bench: &'static Bench = std::boxed::Box::leak(std::boxed::Box::new(Bench::new()));
    let (mut first, mut second) = (bench.with_guest(), bench.start(1));
    bench.machine.on_run(move |machine| {
        machine.with(|world| assert!(world.calls(VMSA, CALL_AREA, 1, 9)));
        second.retire(frame(VMSA), &terms(0)).unwrap();
        // The page goes back to the guest, which makes it look like a VMSA with a call.
        machine.with(|world| world.put(VMSA + 0xd0, &Vmsa::EFER_SVME.to_le_bytes()));
    });
    assert_eq!(first.run(GuestLevel::ONE).unwrap_err(), SnpError::NoVcpu { level: GuestLevel::ONE });
    bench.machine.with(|world| {
        assert!(!world.entry(VMSA >> 12).vmsa, "it was not made a VMSA again");
        assert_eq!(world.quad(VMSA + 0xd0), Vmsa::EFER_SVME);
        assert_eq!(world.page(CALL_AREA >> 12)[0], 1);
    });
}

#[test]
fn a_frame_that_is_just_being_retired_is_not_touched() {
    use crate::monitor::frames::Phase;
    let bench = Bench::new();
    let mut l1 = bench.with_guest();
    let place = bench.shared.frames().find(VcpuId(0), crate::instr::Vmpl::VMPL1, frame(VMSA)).unwrap();
    bench.machine.on_run(move |machine| machine.with(|world| assert!(world.calls(VMSA, CALL_AREA, 1, 9))));
    let contested = |l1: &mut TestL1<'_>, log: &[Did]| {
        assert!(place.shift(Phase::Ready, Phase::Changing));
        let page = bench.machine.page(VMSA);
        assert!(matches!(run(l1), Exit::Spurious));
        assert_eq!((bench.machine.page(VMSA), &bench.machine.take_log()[..]), (page, log));
        assert!(place.shift(Phase::Changing, Phase::Ready));
    };
    contested(&mut l1, &[Did::Pause]);
    bench.machine.with(|world| assert!(world.calls(VMSA, CALL_AREA, 1, 9)));
    contested(&mut l1, &[Did::Pause]);
    assert_eq!(call(run(&mut l1)).regs().rax, 9);
}

#[test]
fn an_exit_is_reported_once_to_an_l1_that_wants_reflected_exceptions() {
    let bench = Bench::new();
    let mut l1 = reflecting(&bench);
    let leaves = |code| {
        bench.machine.on_run(move |machine| {
            machine.with(|world| {
                assert!(world.vmrun(VMSA));
                world.exit(VMSA, code);
            });
        });
    };
    leaves(ExitCode::CPUID);
    assert!(matches!(run(&mut l1), Exit::Cpuid { .. }));
    bench.machine.with(|world| assert!(!world.vmrun(VMSA)));
    assert!(matches!(run(&mut l1), Exit::Spurious));
    leaves(ExitCode::INTR);
    assert!(matches!(run(&mut l1), Exit::Spurious));
    leaves(ExitCode::SHUTDOWN);
    assert!(matches!(run(&mut l1), Exit::Shutdown));
    l1.retire(frame(VMSA), &terms(0)).unwrap();
}

#[test]
fn exceptions_of_other_levels_are_not_l1s() {
    let bench = Bench::new();
    let mut l1 = bench.with_guest();
    bench.machine.on_run(|machine| {
        machine.with(|world| {
            assert!(world.vmrun(VMSA));
            world.exit(VMSA, ExitCode::CPUID);
        });
    });
    assert!(matches!(run(&mut l1), Exit::Spurious));
}

/// L1 that wants reflected exceptions of its guest.
fn reflecting(bench: &Bench) -> TestL1<'_> {
    let mut setup = bench.setup(0);
    setup.reflect = &[GuestLevel::ONE];
    let mut l1 = L1::start(bench.machine.port(), setup, &bench.shared).unwrap();
    let seed = admit(&mut l1, VMSA).unwrap();
    l1.install(seed).unwrap();
    l1
}

#[test]
fn a_vmsa_is_retired_from_anywhere_after_an_exit_that_is_no_call() {
    use coco_part_api::GuestState;
    let bench = Bench::new();
    let (mut first, mut second) = (reflecting(&bench), bench.start(1));
    bench.machine.on_run(|machine| {
        machine.with(|world| {
            assert!(world.vmrun(VMSA));
            world.exit(VMSA, ExitCode::SHUTDOWN);
        });
    });
    assert!(matches!(run(&mut first), Exit::Shutdown));
    bench.machine.with(|world| assert!(!world.vmrun(VMSA), "the gate stays closed"));
    assert!(first.context(GuestLevel::ONE).is_ok());
    bench.machine.with(|world| assert!(!world.vmrun(VMSA), "and reading does not open it"));
    second.retire(frame(VMSA), &terms(0)).unwrap();
    assert_eq!(first.run(GuestLevel::ONE).unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn a_nested_fault_is_reflected_only_with_the_reserved_bit() {
    let bench = Bench::new();
    let mut l1 = reflecting(&bench);
    for (info_1, is_reflected) in [(0x6_u64, false), (0xe, true)] {
        bench.machine.on_run(move |machine| {
            machine.with(|world| {
                assert!(world.vmrun(VMSA));
                world.exit(VMSA, ExitCode::NPF);
                world.put(VMSA + 0x390, &info_1.to_le_bytes());
            });
        });
        assert_eq!(matches!(run(&mut l1), Exit::Memory(_)), is_reflected, "{info_1:#x}");
    }
}
