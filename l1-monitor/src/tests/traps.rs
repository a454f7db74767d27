//! Guests that trap: who is asked, and what the instruction is completed with.

use std::vec;

use coco_part_api::{Completion, Direction, Emulate, ErrorKind, Event, MsrAccess, PortAccess, VcpuId};

use super::mock::At;
use super::*;
use crate::storage::Phase;
use crate::{Outcome, Stop};

/// What one exit leads to: the step, and what was done after the run.
fn step(exit: Exit) -> (Step, Vec<Op>) {
    let fixture = Fixture::new();
    fixture.world.clear_log();
    fixture.world.exit(0, Ok(exit));
    let step = fixture.monitor(0).step();
    let log = fixture.world.log();
    assert_eq!(log.first(), Some(&Op::Run));
    (step, log[1..].to_vec())
}

const fn port(size: u8, direction: Direction, value: u32) -> Exit {
    Exit::Port(PortAccess { port: 0x3f8, size, direction, value })
}

#[test]
fn each_instruction_is_played_once_and_completed_with_what_it_gave() {
    for (exit, asked, with) in [
        (Exit::Cpuid { leaf: 1, subleaf: 9 }, Op::Cpuid(0, 1, 9), Completion::Cpuid([1, 2, 3, 4])),
        // The machine says nothing of this leaf.
        (Exit::Cpuid { leaf: 8, subleaf: 9 }, Op::Cpuid(0, 8, 9), Completion::Cpuid([8, 9, 0xc, 0xd])),
        (Exit::Msr(MsrAccess::Read { msr: 7 }), Op::ReadMsr(0, 7), Completion::Msr(0x77)),
        (Exit::Msr(MsrAccess::Write { msr: 7, value: 5 }), Op::WriteMsr(0, 7, 5), Completion::Plain),
        (port(2, Direction::In, 0), Op::ReadPort(0, 0x3f8, 2), Completion::In(0x60)),
        (port(1, Direction::Out, 0x41), Op::WritePort(0, 0x3f8, 1, 0x41), Completion::Plain),
    ] {
        assert_eq!(step(exit), (Step::Emulated, vec![asked, Op::Complete(with)]));
    }
}

#[test]
fn a_register_that_does_not_exist_is_a_general_protection_fault() {
    let fault = Op::Inject(Event::GeneralProtection(0));
    let read = step(Exit::Msr(MsrAccess::Read { msr: 8 }));
    assert_eq!(read, (Step::Emulated, vec![Op::ReadMsr(0, 8), fault.clone()]));
    let write = step(Exit::Msr(MsrAccess::Write { msr: 8, value: 1 }));
    assert_eq!(write, (Step::Emulated, vec![Op::WriteMsr(0, 8, 1), fault]));
}

#[test]
fn where_no_fault_can_be_raised_the_guest_is_stopped_by_name() {
    for (kind, want) in [
        (ErrorKind::Unsupported, Step::Stopped(Stop::Msr)),
        (ErrorKind::Inaccessible, Step::Stopped(Stop::Msr)),
        // Another event comes first; the instruction is executed again after it.
        (ErrorKind::Busy, Step::Emulated),
    ] {
        let fixture = Fixture::new();
        fixture.world.fail(At::Inject, 0, 0, kind);
        fixture.world.exit(0, Ok(Exit::Msr(MsrAccess::Read { msr: 8 })));
        assert_eq!(fixture.monitor(0).step(), want);
    }
}

#[test]
fn an_instruction_that_cannot_be_completed_stops_the_guest_and_its_frame_can_be_deleted() {
    for (at, kind) in [(At::Complete, ErrorKind::Refused), (At::Vouch, ErrorKind::Inaccessible)] {
        let fixture = Fixture::new();
        fixture.world.fail(at, 0, 0, kind);
        fixture.world.exit(0, Ok(Exit::Cpuid { leaf: 1, subleaf: 0 }));
        assert_eq!(fixture.monitor(0).run(), Outcome::Stopped(Stop::NotCompleted));
        let record = fixture.storage.record(VcpuId(0), frame(BOOT_STATE)).unwrap();
        assert_eq!((record.phase, record.hold), (Phase::Parked, crate::storage::Hold::Free));
    }
}

#[test]
fn the_frame_of_a_guest_that_traps_is_not_deleted_while_it_is_served() {
    let fixture = Fixture::new();
    let current = fixture.storage.current(VcpuId(0)).unwrap();
    let mut monitor = fixture.monitor(0);
    let held = monitor.hold(&current, LEVEL).unwrap();
    assert_eq!(fixture.storage.record(VcpuId(0), frame(BOOT_STATE)).unwrap().hold, crate::storage::Hold::Serving);
    monitor.release(&held);
    assert_eq!(fixture.storage.record(VcpuId(0), frame(BOOT_STATE)).unwrap().hold, crate::storage::Hold::Free);
    // One that was replaced meanwhile is not served.
    fixture.storage.with(|registry| registry.park(VcpuId(0), frame(BOOT_STATE), Phase::Current));
    assert_eq!(monitor.hold(&current, LEVEL), None);
}

#[test]
fn an_integrator_who_keeps_the_defaults_gives_a_bare_processor() {
    struct Bare;
    impl Emulate for Bare {}
    let (mut bare, vcpu) = (Bare, VcpuId(0));
    let bare: &mut dyn Emulate = &mut bare;
    assert_eq!(bare.cpuid(vcpu, 1, 0, Some([1, 2, 3, 4])), [1, 2, 3, 4]);
    assert_eq!(bare.cpuid(vcpu, 1, 0, None), [0; 4]);
    assert_eq!((bare.read_msr(vcpu, 0x1b), bare.write_msr(vcpu, 0x1b, 0)), (None, None));
    bare.write_port(vcpu, 0x80, 1, 0);
    assert_eq!(bare.read_port(vcpu, 0x80, 1), u32::MAX);
}
