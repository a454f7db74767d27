//! The loop of a vCPU: exits, errors of the switch, endings.

use core::cell::Cell;

use coco_part_api::svsm::{CallResult, DELETE_VCPU, PVALIDATE};
use coco_part_api::{Access, ErrorKind, FaultCause, MemoryFault, VcpuId};

use super::mock::At;
use super::*;
use crate::storage::Phase;
use crate::{Outcome, Stop};

/// Errors that this thread logs meanwhile.
fn errors_logged(work: impl FnOnce()) -> u32 {
    struct Counter;
    std::thread_local!(static ERRORS: Cell<u32> = const { Cell::new(0) });
    impl log::Log for Counter {
        fn enabled(&self, _: &log::Metadata<'_>) -> bool {
            true
        }

        fn log(&self, record: &log::Record<'_>) {
            if record.level() == log::Level::Error {
                ERRORS.with(|errors| errors.set(errors.get() + 1));
            }
        }

        fn flush(&self) {}
    }
    log::set_logger(&Counter).unwrap();
    log::set_max_level(log::LevelFilter::Debug);
    ERRORS.with(|errors| errors.set(0));
    work();
    ERRORS.with(Cell::get)
}

fn pvalidate() -> CallRegs {
    CallRegs::call(CallId::new(svsm::CORE, PVALIDATE), LIST, 2, 3)
}

#[test]
fn a_vcpu_without_a_guest_idles() {
    let fixture = Fixture::new();
    assert_eq!(fixture.monitor(3).step(), Step::Idle);
    assert_eq!(fixture.world.log(), [Op::Idle]);
}

#[test]
fn a_spurious_return_serves_nothing_and_answers_nothing() {
    let fixture = Fixture::new();
    fixture.write_list(LIST, 1, 0, &[validate(FRESH)]);
    let mut monitor = fixture.monitor(0);
    assert_eq!(call_on(&mut monitor, &fixture.world, 0, pvalidate()).result(), CallResult::SUCCESS);
    let before = fixture.snapshot();
    fixture.world.clear_log();
    for exit in [Exit::Spurious, Exit::InterruptPending, Exit::Spurious] {
        fixture.world.exit(0, Ok(exit));
        assert_eq!(monitor.step(), Step::Again);
    }
    assert_eq!(fixture.world.log(), [Op::Run, Op::Pause, Op::Run, Op::Pause, Op::Run, Op::Pause]);
    assert_eq!(fixture.world.answer(0), None);
    assert_eq!(fixture.snapshot(), before);
}

#[test]
fn a_malformed_call_is_answered_and_not_served() {
    let fixture = Fixture::new();
    fixture.write_list(LIST, 1, 0, &[validate(FRESH)]);
    let before = fixture.snapshot();
    fixture.world.exit(0, Ok(Exit::MalformedCall(PendingCall::new(LEVEL, pvalidate()))));
    assert_eq!(fixture.monitor(0).step(), Step::Served(CallResult::INVALID_FORMAT));
    assert_eq!(fixture.world.answer(0), Some(pvalidate().with_result(CallResult::INVALID_FORMAT)));
    assert_eq!(fixture.snapshot(), before);
    assert_eq!(fixture.world.instructions(), []);
}

#[test]
fn a_call_of_another_level_is_nobodys_here() {
    let fixture = Fixture::new();
    fixture.write_list(LIST, 1, 0, &[validate(FRESH)]);
    fixture.world.exit(0, Ok(Exit::Call(PendingCall::new(GuestLevel::ONE, pvalidate()))));
    assert_eq!(fixture.monitor(0).step(), Step::Again);
    // It goes on with its registers as they were.
    assert_eq!((fixture.world.answer(0), fixture.state(FRESH)), (Some(pvalidate()), State::NotPrivate));
}

#[test]
fn a_halted_guest_idles_and_runs_again() {
    let fixture = Fixture::new();
    fixture.world.exit(0, Ok(Exit::Halt));
    let mut monitor = fixture.monitor(0);
    assert_eq!((monitor.step(), monitor.step()), (Step::Idle, Step::Again));
    assert_eq!(fixture.world.log(), [Op::Run, Op::Idle, Op::Run, Op::Pause]);
}

#[test]
fn exits_that_nobody_serves_stop_the_guest_by_name() {
    let at = PhysAddr::new(HOLE);
    let fault = MemoryFault { at, access: Access::Read, cause: FaultCause::NotMapped };
    for (exit, stop) in [
        (Exit::Shutdown, Stop::Shutdown),
        (Exit::Memory(fault), Stop::Memory),
        (Exit::HostCall(PendingCall::new(LEVEL, pvalidate())), Stop::HostCall),
        (Exit::Other { code: 0x77 }, Stop::Other { code: 0x77 }),
    ] {
        let fixture = Fixture::new();
        fixture.world.exit(0, Ok(exit));
        let mut monitor = fixture.monitor(0);
        assert_eq!(monitor.run(), Outcome::Stopped(stop));
        assert_eq!(fixture.storage.current(VcpuId(0)), None);
        assert_eq!(fixture.storage.record(VcpuId(0), frame(BOOT_STATE)).unwrap().phase, Phase::Parked);
        assert_eq!(monitor.step(), Step::Idle);
        assert_eq!(fixture.state(BOOT_STATE), State::VcpuState);
    }
}

#[test]
fn a_page_of_the_guest_that_the_host_has_not_mapped_is_waited_for() {
    let fixture = Fixture::new();
    let changing = fixture.ledger().claim(range(RAM + 0x5000, 1), OWN).unwrap();
    let fault = |at, cause| Exit::Memory(MemoryFault { at: PhysAddr::new(at), access: Access::Read, cause });
    fixture.world.clear_log();
    for at in [RAM + 0x4123, BOOT_AREA + 8, RAM + 0x5000] {
        fixture.world.exit(0, Ok(fault(at, FaultCause::NotMapped)));
        assert_eq!(fixture.monitor(0).step(), Step::Again, "{at:#x}");
    }
    assert_eq!(fixture.world.log(), [Op::Run, Op::Pause, Op::Run, Op::Pause, Op::Run, Op::Pause]);
    drop(changing);

    let others = RAM + 0x8000;
    for (at, cause) in [
        (FRESH, FaultCause::NotMapped),
        (L1, FaultCause::NotMapped),
        (BOOT_STATE, FaultCause::NotMapped),
        (others, FaultCause::NotMapped),
        (1 << 51, FaultCause::NotMapped),
        (RAM, FaultCause::NoRight),
        (RAM, FaultCause::NotValidated),
    ] {
        let fixture = Fixture::new();
        fixture.ledger().adopt(range(others, 1), OWN, State::Guest(GuestLevel::ONE)).unwrap();
        fixture.world.exit(0, Ok(fault(at, cause)));
        assert_eq!(fixture.monitor(0).step(), Step::Stopped(Stop::Memory), "{at:#x} {cause:?}");
    }
}

#[test]
fn a_guest_that_asked_for_the_host_can_be_deleted() {
    let fixture = Fixture::new();
    vcpus::start(&fixture, 1);
    fixture.world.exit(1, Ok(Exit::HostCall(PendingCall::new(LEVEL, pvalidate()))));
    assert_eq!(fixture.monitor(1).step(), Step::Stopped(Stop::HostCall));
    assert_eq!(fixture.world.answer(1), Some(pvalidate()));
    assert_eq!(fixture.call(DELETE_VCPU, vcpus::frames_of(1).0, 0, 0), CallResult::SUCCESS);
}

#[test]
fn errors_of_the_host_are_borne_up_to_a_limit() {
    let mut fixture = Fixture::new();
    fixture.limits.host_errors = 3;
    let mut monitor = fixture.monitor(0);
    for _ in 0..2 {
        fixture.world.exit(0, Err(ErrorKind::HostMisbehaved));
        assert_eq!(monitor.step(), Step::Again);
    }
    // One that went well starts the count again.
    fixture.world.exit(0, Ok(Exit::Spurious));
    assert_eq!(monitor.step(), Step::Again);
    (0..3).for_each(|_| fixture.world.exit(0, Err(ErrorKind::HostMisbehaved)));
    assert_eq!((monitor.step(), monitor.step()), (Step::Again, Step::Again));
    assert_eq!(monitor.run(), Outcome::HostGaveUp);
    assert!(fixture.storage.current(VcpuId(0)).is_some());
}

#[test]
fn a_host_that_does_not_know_the_vcpu_yet_is_waited_for() {
    let mut fixture = Fixture::new();
    fixture.limits.host_errors = 3;
    fixture.limits.pauses_per_idle = 4;
    let mut monitor = fixture.monitor(0);
    for number in 1..=100 {
        fixture.world.exit(0, Err(ErrorKind::HostRefused));
        assert_eq!(monitor.step(), if number % 5 == 0 { Step::Idle } else { Step::Again });
    }
    assert_eq!(count(&fixture.world.log(), |op| *op == Op::Idle), 20);
    assert_eq!(count(&fixture.world.log(), |op| *op == Op::Pause), 80);
    assert_eq!(call_on(&mut monitor, &fixture.world, 0, pvalidate()).result(), CallResult::INVALID_PARAMETER);
}

#[test]
fn an_answer_that_reaches_nobody_stops_the_vcpu() {
    let fixture = Fixture::new();
    fixture.world.exit(0, Ok(Exit::Call(PendingCall::new(LEVEL, CallRegs::default()))));
    fixture.world.fail(At::Answer, 0, 0, ErrorKind::Inaccessible);
    assert_eq!(fixture.monitor(0).step(), Step::Stopped(Stop::StateLost));
    assert_eq!(fixture.storage.current(VcpuId(0)), None);
}

#[test]
fn a_dead_monitor_runs_nobody() {
    let fixture = Fixture::new();
    fixture.storage.declare_dead();
    assert_eq!(fixture.monitor(0).run(), Outcome::Dead);
    assert_eq!(fixture.world.log(), []);
}

#[test]
fn a_vcpu_deleted_while_it_called_is_not_answered() {
    let fixture = Fixture::new();
    vcpus::start(&fixture, 1);
    let (state, _) = vcpus::frames_of(1);
    let record = fixture.storage.current(VcpuId(1)).unwrap();
    assert_eq!(fixture.call(DELETE_VCPU, state, 0, 0), CallResult::SUCCESS);
    let serving = fixture.storage.with(|registry| registry.begin_serving(VcpuId(1), record.state, LEVEL));
    assert_eq!(serving, crate::storage::Serving::Gone);
}

#[test]
fn a_seed_that_cannot_be_installed_yet_is_tried_again() {
    let fixture = Fixture::new();
    vcpus::start(&fixture, 1);
    let (state, area) = vcpus::frames_of(2);
    assert_eq!(fixture.call(svsm::CREATE_VCPU, state, area, 1), CallResult::SUCCESS);
    fixture.world.fail(At::Install, 0, 0, ErrorKind::InUse);
    let mut monitor = fixture.monitor(1);
    assert_eq!(monitor.step(), Step::Again);
    assert_eq!(fixture.world.installed(1), Some(vcpus::frames_of(1).0));
    assert!(fixture.storage.is_posted(VcpuId(1)));
    assert_eq!(monitor.step(), Step::Again);
    assert_eq!(fixture.world.installed(1), Some(state));
}

#[test]
fn a_seed_that_can_never_be_installed_is_parked_and_can_be_deleted() {
    let fixture = Fixture::new();
    let (state, area) = vcpus::frames_of(1);
    assert_eq!(fixture.call(svsm::CREATE_VCPU, state, area, 1), CallResult::SUCCESS);
    fixture.world.fail(At::Install, 0, 0, ErrorKind::InvalidArgument);
    let errors = errors_logged(|| assert_eq!(fixture.monitor(1).step(), Step::Idle));
    // A guest can cause it, so it is no broken invariant.
    assert_eq!(errors, 0);
    assert_eq!(fixture.storage.record(VcpuId(1), frame(state)).unwrap().phase, Phase::Parked);
    assert_eq!(fixture.call(DELETE_VCPU, state, 0, 0), CallResult::SUCCESS);
}

#[test]
fn a_vcpu_that_stopped_can_be_replaced() {
    let fixture = Fixture::new();
    vcpus::start(&fixture, 1);
    fixture.world.exit(1, Ok(Exit::Shutdown));
    assert_eq!(fixture.monitor(1).step(), Step::Stopped(Stop::Shutdown));
    assert_eq!(fixture.call(DELETE_VCPU, vcpus::frames_of(1).0, 0, 0), CallResult::SUCCESS);
    vcpus::start(&fixture, 1);
}

#[test]
fn what_a_deleted_vcpu_did_last_concerns_nobody() {
    let fixture = Fixture::new();
    vcpus::start(&fixture, 1);
    let state = vcpus::frames_of(1).0;
    let current = fixture.storage.current(VcpuId(1)).unwrap();
    assert_eq!(fixture.call(DELETE_VCPU, state, 0, 0), CallResult::SUCCESS);
    // Created again and posted: the seed that waits must not lose its record's phase.
    assert_eq!(fixture.call(svsm::CREATE_VCPU, state, vcpus::frames_of(1).1, 1), CallResult::SUCCESS);
    let parked = fixture.storage.with(|registry| registry.park(VcpuId(1), current.state, Phase::Current));
    assert!(!parked);
    assert_eq!(fixture.storage.record(VcpuId(1), frame(state)).unwrap().phase, Phase::Posted);
}

#[test]
fn a_call_waits_until_a_deletion_under_way_has_ended() {
    for is_deleted in [false, true] {
        let fixture = Fixture::new();
        vcpus::start(&fixture, 1);
        let state = frame(vcpus::frames_of(1).0);
        fixture.world.clear_log();
        fixture.world.exit(1, Ok(Exit::Call(PendingCall::new(LEVEL, CallRegs { rax: 6, ..CallRegs::default() }))));
        fixture.storage.with(|registry| registry.begin_retire(state, LEVEL)).unwrap();
        let step = std::thread::scope(|scope| {
            let other = scope.spawn(|| fixture.monitor(1).step());
            while !fixture.world.log().contains(&Op::Pause) {
                assert!(!other.is_finished());
                std::thread::yield_now();
            }
            fixture.storage.with(|registry| match is_deleted {
                true => registry.remove(VcpuId(1), state),
                false => registry.end_hold(VcpuId(1), state),
            });
            other.join().unwrap()
        });
        assert_eq!(step, if is_deleted { Step::Again } else { Step::Served(CallResult::SUCCESS) });
        // One that is gone goes on with its registers as they were, as far as the backend still knows it.
        let rax = if is_deleted { 6 } else { 0 };
        assert_eq!(fixture.world.answer(1).map(|regs| regs.rax), Some(rax));
    }
}
