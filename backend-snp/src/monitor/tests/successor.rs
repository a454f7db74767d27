//! Two VMSAs of one vCPU with one call area: whose mark is it?

use coco_part_api::{CallRegs, Error, ErrorKind, Exit};

use super::mock::{Did, World};
use super::switch::{BOTH, call, run};
use super::*;
use crate::abi::exit_codes::ExitCode;

/// The second VMSA of a vCPU, with the call area of the first.
const NEW: u64 = VMSA + 0x1000;

/// The level of a VMSA runs and leaves for the host, without touching the mark.
fn leaves_for_host(world: &mut World, vmsa: u64, rax: u64) {
    let mark = world.page(CALL_AREA >> 12)[0];
    assert!(world.calls(vmsa, CALL_AREA, mark, rax));
}

#[test]
fn a_call_of_a_vmsa_that_is_not_installed_yet_is_not_reported_with_the_registers_of_the_current_one() {
    for store in BOTH {
        let bench: &'static Bench = std::boxed::Box::leak(std::boxed::Box::new(Bench::new()));
        let (mut first, mut second) = (bench.with_guest(), bench.start(1));
        bench.machine.with(|world| world.store = store);
        // The current one waits in an exit for the host, and another vCPU creates its successor.
        bench.machine.on_run(|machine| machine.with(|world| leaves_for_host(world, VMSA, 0x11)));
        assert!(matches!(run(&mut first), Exit::Spurious));
        let proof = second.redeem(Cut::default()).unwrap();
        let context = Context::long_mode(1, 2, 3);
        let seed = second.admit(frame(NEW), Source::Context(&context), &terms(0), &proof).unwrap();
        // The host runs it before L1 of its vCPU comes back.
        calls_at(bench, NEW, 0x22);
        assert!(matches!(run(&mut first), Exit::Spurious));
        assert_eq!(bench.machine.page(CALL_AREA)[0], 1, "the mark is not the current one's");
        bench.machine.take_log();
        assert!(matches!(run(&mut first), Exit::Spurious), "nor is the current one entered again");
        assert_eq!(bench.machine.take_log(), [Did::Pause]);
        first.install(seed).unwrap();
        assert_eq!(call(run(&mut first)).regs().rax, 0x22);
    }
}

#[test]
fn a_mark_of_a_vmsa_that_runs_and_is_not_installed_yet_is_left_alone() {
    let bench = Bench::new();
    let mut l1 = bench.with_guest();
    bench.machine.on_run(|machine| machine.with(|world| leaves_for_host(world, VMSA, 0x11)));
    assert!(matches!(run(&mut l1), Exit::Spurious));
    let seed = admit(&mut l1, NEW).unwrap();
    bench.machine.with(|world| {
        assert!(world.vmrun(NEW));
        world.put(CALL_AREA, &[1]);
    });
    assert!(matches!(run(&mut l1), Exit::Spurious));
    assert_eq!(bench.machine.page(CALL_AREA)[0], 1);
    bench.machine.with(|world| world.exit(NEW, ExitCode::VMGEXIT));
    l1.install(seed).unwrap();
    assert!(matches!(run(&mut l1), Exit::Call(_)));
}

#[test]
fn a_vmsa_that_has_not_run_or_stands_still_does_not_keep_the_current_one_from_its_calls() {
    let bench = Bench::new();
    let mut l1 = bench.with_guest();
    let seed = admit(&mut l1, NEW).unwrap();
    calls_at(&bench, VMSA, 0x33);
    let waiting = call(run(&mut l1));
    assert_eq!(waiting.regs().rax, 0x33);
    l1.answer(waiting, CallRegs::default()).unwrap();
    l1.install(seed).unwrap();
    // Now the older one has a VMGEXIT on record, and its gate is closed.
    bench.machine.with(|world| world.put(VMSA + 0x3c0, &ExitCode::VMGEXIT.0.to_le_bytes()));
    calls_at(&bench, NEW, 0x44);
    assert_eq!(call(run(&mut l1)).regs().rax, 0x44);
}

#[test]
fn a_mark_that_an_older_vmsa_left_is_no_call_of_its_successor() {
    for store in BOTH {
        let bench = Bench::new();
        let mut l1 = bench.with_guest();
        bench.machine.with(|world| world.store = store);
        // The older one is stopped between mark and VMGEXIT.
        bench.machine.on_run(|machine| {
            machine.with(|world| {
                assert!(world.vmrun(VMSA));
                world.put(CALL_AREA, &[1]);
                world.exit(VMSA, ExitCode::INTR);
            });
        });
        assert!(matches!(run(&mut l1), Exit::Spurious));
        let seed = admit(&mut l1, NEW).unwrap();
        l1.install(seed).unwrap();
        assert_eq!(bench.machine.page(CALL_AREA)[0], 0);
        bench.machine.on_run(|machine| machine.with(|world| leaves_for_host(world, NEW, 0x55)));
        assert!(matches!(run(&mut l1), Exit::Spurious));
        calls_at(&bench, NEW, 0x66);
        assert_eq!(call(run(&mut l1)).regs().rax, 0x66);
    }
}

fn calls_at(bench: &Bench, vmsa: u64, rax: u64) {
    bench.machine.on_run(move |machine| machine.with(|world| assert!(world.calls(vmsa, CALL_AREA, 1, rax))));
}

#[test]
fn an_installation_that_fails_leaves_the_older_vmsa_in_service() {
    let bench = Bench::new();
    let mut l1 = bench.with_guest();
    let seed = admit(&mut l1, NEW).unwrap();
    bench.machine.with(|world| world.ap_answer = (2, 5));
    let (_seed, error) = l1.install(seed).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::HostRefused);
    calls_at(&bench, VMSA, 0x77);
    assert_eq!(call(run(&mut l1)).regs().rax, 0x77);
}
