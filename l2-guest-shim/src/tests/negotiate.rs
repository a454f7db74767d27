use coco_part_api::{Error, ErrorKind, GuestLevel, Identify, Level, VcpuId};

use super::{CALL_AREA, CAPABILITIES, LIMITS, Lie, Outcome, RAM, World, frame, negotiated, shim};
use crate::ShimError;

fn outcome(world: World) -> Outcome {
    negotiated(world).0
}

#[test]
fn takes_level_and_capabilities_from_l1_when_both_agree() {
    let shim = outcome(World::default()).unwrap();
    assert_eq!(shim.level(), Level::Guest(GuestLevel::TWO));
    assert_eq!(shim.vcpu(), VcpuId(7));
    assert_eq!(shim.capabilities(), CAPABILITIES);
}

#[test]
fn asks_l1_for_the_level_when_the_port_cannot_tell() {
    let shim = outcome(World { port_level: None, ..World::default() }).unwrap();
    assert_eq!(shim.level(), Level::Guest(GuestLevel::TWO));
}

#[test]
fn takes_the_ports_word_when_l1_lacks_the_own_protocol() {
    let world = World { own: 0, port_capabilities: Some(CAPABILITIES), ..World::default() };
    assert_eq!(outcome(world).unwrap().level(), Level::Guest(GuestLevel::TWO));
    for (port_level, port_capabilities) in [(None, Some(CAPABILITIES)), (Some(GuestLevel::TWO), None)] {
        let error = outcome(World { own: 0, port_level, port_capabilities, ..World::default() }).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
    }
}

#[test]
fn refuses_an_l1_that_names_another_level_than_the_machine() {
    for told in [0, 1, 3, 4, 0x102, u64::MAX] {
        let error = outcome(World { identity: [told, 7, 0], ..World::default() }).unwrap_err();
        assert_eq!(error, ShimError::LevelMismatch { port: Level::Guest(GuestLevel::TWO), monitor: told });
    }
}

#[test]
fn refuses_a_level_that_is_none() {
    for told in [0, 4, 0x101, u64::MAX] {
        let world = World { identity: [told, 7, 0], port_level: None, ..World::default() };
        assert_eq!(outcome(world).unwrap_err(), ShimError::BadAnswer { what: "level", value: told });
    }
}

#[test]
fn refuses_another_vcpu_and_unknown_capabilities() {
    for told in [6, 0x1_0000_0007] {
        let error = outcome(World { identity: [2, told, 0], ..World::default() }).unwrap_err();
        assert_eq!(error, ShimError::VcpuMismatch { port: VcpuId(7), monitor: told });
    }
    let error = outcome(World { identity: [2, 7, 1 << 40], ..World::default() }).unwrap_err();
    assert_eq!(error, ShimError::BadAnswer { what: "capabilities", value: 1 << 40 });
}

#[test]
fn refuses_an_l1_without_version_1_of_the_core() {
    for (core, lowest, highest) in [(0, 0, 0), (3 << 32 | 2, 2, 3), (1 << 32 | 2, 2, 1)] {
        let error = outcome(World { core, ..World::default() }).unwrap_err();
        assert_eq!(error, ShimError::CoreVersion { lowest, highest });
    }
    assert!(outcome(World { core: 9 << 32 | 1, ..World::default() }).is_ok());
}

#[test]
fn repeats_an_unserved_call_and_gives_up_in_the_end() {
    let lies = [Lie::NotServed, Lie::NotServed].into();
    assert!(outcome(World { lies, ..World::default() }).is_ok());
    let (never, world, _) = negotiated(World { habit: Some(Lie::NotServed), ..World::default() });
    let error = never.unwrap_err();
    assert!(matches!(error, ShimError::NotServed { tries: 3, .. }));
    assert_eq!(error.kind(), ErrorKind::HostMisbehaved);
    assert_eq!(world.get().calls.len(), 3);
}

#[test]
fn takes_no_unknown_result_for_success() {
    for result in [0x1000, 0x4000_0001, 0x8000_0002, 0x8000_1011, 0xffff_ffff] {
        let lies = [Lie::Result(result)].into();
        assert!(matches!(outcome(World { lies, ..World::default() }), Err(ShimError::Refused { .. })));
    }
}

#[test]
fn gives_up_on_an_l1_that_is_busy_for_ever() {
    let (outcome, world, _) = negotiated(World { habit: Some(Lie::Result(0x8000_0007)), ..World::default() });
    let error = outcome.unwrap_err();
    assert!(matches!(error, ShimError::Stalled { rounds, .. } if rounds == LIMITS.idle_rounds));
    assert_eq!(error.kind(), ErrorKind::Busy);
    assert_eq!(world.get().calls.len(), 5);
}

#[test]
fn moves_the_call_area_only_when_l1_agrees() {
    let (mut shim, world, _) = shim();
    world.get().lies.push_back(Lie::Result(0x8000_0003));
    assert_eq!(shim.remap_call_area(frame(0x9000)).unwrap_err().kind(), ErrorKind::OutOfRange);
    assert_eq!(call_area(&shim), CALL_AREA);
    shim.remap_call_area(frame(0x9000)).unwrap();
    assert_eq!(call_area(&shim), 0x9000);
    let made = world.get().calls.len();
    shim.remap_call_area(frame(0x9000)).unwrap();
    assert_eq!(world.get().calls.len(), made);
    assert_eq!(shim.remap_call_area(frame(RAM)).unwrap_err().kind(), ErrorKind::OutOfRange);
    assert_eq!(world.get().calls.len(), made);
}

fn call_area(shim: &crate::Shim<'static, super::Port>) -> u64 {
    use coco_part_api::GuestPort;
    shim.port().call_area().start_address().as_u64()
}
