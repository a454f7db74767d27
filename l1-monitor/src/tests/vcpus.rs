//! CREATE_VCPU and DELETE_VCPU.

use coco_part_api::svsm::{CREATE_VCPU, CallResult, DELETE_VCPU, PVALIDATE, REMAP_CA};
use coco_part_api::{ErrorKind, Rights, VcpuId};

use super::mock::At;
use super::*;
use crate::storage::Phase;

const ADDRESS: CallResult = CallResult::INVALID_ADDRESS;
const INUSE: CallResult = CallResult::FAIL_INUSE;
const PARAMETER: CallResult = CallResult::INVALID_PARAMETER;
const SUCCESS: CallResult = CallResult::SUCCESS;

/// State frame and call area of the tests' vCPU `id`.
pub(crate) const fn frames_of(id: u64) -> (u64, u64) {
    (RAM + 0x2_1000 + id * 0x2000, RAM + 0x2_2000 + id * 0x2000)
}

/// Has the guest create a vCPU and the target take it.
pub(crate) fn start(fixture: &Fixture, id: u32) {
    let (state, area) = frames_of(id.into());
    assert_eq!(fixture.call(CREATE_VCPU, state, area, id.into()), SUCCESS);
    assert_eq!(fixture.monitor(id).step(), Step::Again);
    assert_eq!(fixture.storage.current(VcpuId(id)).unwrap().state, frame(state));
}

#[test]
fn a_created_vcpu_is_cut_flushed_admitted_posted_and_kicked() {
    let fixture = Fixture::new();
    let (state, area) = frames_of(1);
    assert_eq!(fixture.call(CREATE_VCPU, state, area, 1), SUCCESS);
    assert_eq!(
        fixture.world.instructions(),
        [Op::Withdraw(range(state, 1)), Op::Redeem { is_empty: false }, Op::Admit(state)]
    );
    assert_eq!(count(&fixture.world.log(), |op| *op == Op::Kick(1)), 1);
    assert_eq!((fixture.state(state), fixture.state(area)), (State::VcpuState, State::CallArea));
    assert_eq!((fixture.world.rights(state), fixture.world.rights(area)), (Rights::empty(), Rights::RAM));
    let record = fixture.storage.record(VcpuId(1), frame(state)).unwrap();
    assert_eq!((record.phase, record.is_boot, record.terms.call_area), (Phase::Posted, false, frame(area)));

    assert!(fixture.storage.is_posted(VcpuId(1)));
    assert_eq!(fixture.monitor(1).step(), Step::Again);
    assert_eq!(fixture.world.installed(1), Some(state));
    assert!(!fixture.storage.is_posted(VcpuId(1)));
    assert_eq!(fixture.storage.current(VcpuId(1)).unwrap().phase, Phase::Current);
}

#[test]
fn refuses_bad_arguments_of_create() {
    let fixture = Fixture::new();
    let (state, area) = frames_of(1);
    fixture.ledger().adopt(range(RAM + 0x8000, 1), OWN, State::Guest(GuestLevel::ONE)).unwrap();
    let mut cases = std::vec![
        (state, area, 4, PARAMETER),
        (state, area, 0xffff_ffff, PARAMETER),
        (state, area, 1 << 32 | 1, PARAMETER),
        (state, state, 1, ADDRESS),
    ];
    let places = [
        (L1, ADDRESS),
        (BOOT_STATE, ADDRESS),
        (BOOT_AREA, ADDRESS),
        (HOLE, ADDRESS),
        (FRESH, ADDRESS),
        (mock::SECRETS_AT + 0x4000, ADDRESS),
        (RAM + 0x8000, ADDRESS),
        (1 << 52, ADDRESS),
        (!0xfff, ADDRESS),
        (1 << 40, ADDRESS),
        (RAM + 0x5008, PARAMETER),
    ];
    for (bad, result) in places {
        cases.push((bad, area, 1, result));
        cases.push((state, bad, 1, result));
    }
    for (state, area, target, result) in cases {
        assert_eq!(fixture.refuses(CREATE_VCPU, state, area, target), result, "{state:#x} {area:#x} {target:#x}");
    }
    let held = fixture.ledger().claim(range(state, 1), OWN).unwrap();
    assert_eq!(fixture.refuses(CREATE_VCPU, state, area, 1), CallResult::BUSY);
    assert_eq!(fixture.refuses(CREATE_VCPU, area, state, 1), CallResult::BUSY);
    drop(held);
}

#[test]
fn there_are_no_more_vcpus_than_the_limit_says() {
    let mut fixture = Fixture::new();
    fixture.limits.vcpus = 2;
    let (state, area) = frames_of(2);
    assert_eq!(fixture.refuses(CREATE_VCPU, state, area, 2), PARAMETER);
    assert_eq!(fixture.call(CREATE_VCPU, state, area, 1), SUCCESS);
}

#[test]
fn a_state_frame_or_call_area_in_use_is_refused_everywhere() {
    let fixture = Fixture::new();
    start(&fixture, 1);
    let ((state, area), (other, free)) = (frames_of(1), frames_of(2));
    for (new_state, new_area) in [(state, free), (area, free), (other, area), (other, state)] {
        assert_eq!(fixture.refuses(CREATE_VCPU, new_state, new_area, 2), ADDRESS);
    }
    for at in [state, area] {
        assert_eq!(fixture.refuses(REMAP_CA, at, 0, 0), ADDRESS);
        for word in [validate(at), rescind(at)] {
            fixture.write_list(LIST, 1, 0, &[word]);
            assert_eq!(fixture.refuses(PVALIDATE, LIST, 0, 0), ADDRESS);
        }
        assert_eq!(fixture.refuses(PVALIDATE, at + 8, 0, 0), ADDRESS);
    }
}

#[test]
fn every_error_of_create_leaves_everything_as_it_was_and_a_second_try_succeeds() {
    for (at, kind, result) in [
        (At::Withdraw, ErrorKind::Inaccessible, ADDRESS),
        (At::Withdraw, ErrorKind::SizeMismatch, CallResult::FAIL_SIZE_MISMATCH),
        (At::Admit, ErrorKind::BadState, PARAMETER),
        (At::Admit, ErrorKind::Misaligned, PARAMETER),
        (At::Admit, ErrorKind::NotFound, PARAMETER),
        (At::Admit, ErrorKind::Refused, CallResult::FAIL_INPUT),
    ] {
        let fixture = Fixture::new();
        let (state, area) = frames_of(1);
        fixture.world.poke(state, b"image");
        let before = fixture.snapshot();
        fixture.world.fail(at, 0, 0, kind);
        assert_eq!(fixture.call(CREATE_VCPU, state, area, 1), result, "{kind:?}");
        assert_eq!(fixture.snapshot(), before);
        assert_eq!(fixture.call(CREATE_VCPU, state, area, 1), SUCCESS);
    }
}

#[test]
fn a_frame_that_lost_some_rights_is_granted_again() {
    let fixture = Fixture::new();
    let (state, area) = frames_of(1);
    fixture.world.fail(At::HalfWithdraw, 0, 0, ErrorKind::Refused);
    assert_eq!(fixture.call(CREATE_VCPU, state, area, 1), CallResult::FAIL_INPUT);
    assert_eq!((fixture.state(state), fixture.world.rights(state)), (OWN, Rights::RAM));
    assert_eq!(fixture.call(CREATE_VCPU, state, area, 1), SUCCESS);
}

#[test]
fn a_target_that_takes_its_vcpu_at_this_moment_is_busy() {
    let fixture = Fixture::new();
    let ((state, area), (other, other_area)) = (frames_of(1), frames_of(2));
    assert_eq!(fixture.call(CREATE_VCPU, state, area, 1), SUCCESS);
    let (_, seed) = fixture.storage.take(VcpuId(1)).unwrap();
    assert_eq!(fixture.refuses(CREATE_VCPU, other, other_area, 1), CallResult::BUSY);
    fixture.storage.post(VcpuId(1), frame(state), seed);
    assert_eq!(fixture.refuses(CREATE_VCPU, other, other_area, 1), INUSE);
}

#[test]
fn a_refused_frame_that_cannot_be_given_back_is_quarantined() {
    let fixture = Fixture::new();
    let (state, area) = frames_of(1);
    fixture.world.fail(At::Admit, 0, 0, ErrorKind::BadState);
    fixture.world.fail(At::Regrant, 0, 0, ErrorKind::Inaccessible);
    assert_eq!(fixture.call(CREATE_VCPU, state, area, 1), PARAMETER);
    assert_eq!((fixture.state(state), fixture.state(area)), (State::Quarantined, OWN));
    assert_eq!(fixture.storage.registered(), 1);
}

#[test]
fn a_frame_that_the_backend_gave_up_is_quarantined() {
    let fixture = Fixture::new();
    let (state, area) = frames_of(1);
    fixture.world.fail(At::Admit, 0, 0, ErrorKind::Quarantined);
    assert_eq!(fixture.call(CREATE_VCPU, state, area, 1), CallResult::INVALID_REQUEST);
    assert_eq!((fixture.state(state), fixture.state(area)), (State::Quarantined, OWN));
    assert!(fixture.world.rights(state).is_empty());
}

#[test]
fn a_target_whose_slot_is_taken_is_in_use() {
    let fixture = Fixture::new();
    let ((state, area), (other, other_area)) = (frames_of(1), frames_of(2));
    assert_eq!(fixture.call(CREATE_VCPU, state, area, 1), SUCCESS);
    assert_eq!(fixture.refuses(CREATE_VCPU, other, other_area, 1), INUSE);
    assert_eq!(fixture.monitor(1).step(), Step::Again);
    // Taken: now there is room for the next, which replaces it between two runs.
    assert_eq!(fixture.call(CREATE_VCPU, other, other_area, 1), SUCCESS);
    assert_eq!(fixture.world.installed(1), Some(state));
    assert_eq!(fixture.monitor(1).step(), Step::Again);
    assert_eq!(fixture.world.installed(1), Some(other));
    assert_eq!(fixture.storage.record(VcpuId(1), frame(state)).unwrap().phase, Phase::Parked);
}

#[test]
fn a_full_registry_refuses_before_any_instruction() {
    let fixture = Fixture::new();
    for id in 0..4 {
        let (state, area) = frames_of(id);
        assert_eq!(fixture.call(CREATE_VCPU, state, area, 1), SUCCESS);
        fixture.monitor(1).step();
    }
    let (state, area) = frames_of(4);
    assert_eq!(fixture.refuses(CREATE_VCPU, state, area, 1), CallResult::INVALID_REQUEST);
    assert_eq!(fixture.call(DELETE_VCPU, frames_of(0).0, 0, 0), SUCCESS);
    assert_eq!(fixture.call(CREATE_VCPU, state, area, 1), SUCCESS);
}

#[test]
fn an_own_new_vcpu_takes_over_after_the_call_and_not_before() {
    let fixture = Fixture::new();
    let (state, area) = frames_of(0);
    assert_eq!(fixture.call(CREATE_VCPU, state, area, 0), SUCCESS);
    assert_eq!(fixture.world.installed(0), Some(BOOT_STATE));
    assert_eq!(count(&fixture.world.log(), |op| matches!(op, Op::Kick(_))), 0);
    assert_eq!(fixture.monitor(0).step(), Step::Again);
    assert_eq!(fixture.world.installed(0), Some(state));
    // The boot vCPU is parked but still cannot be deleted, nor can the caller delete itself.
    assert_eq!(fixture.refuses(DELETE_VCPU, BOOT_STATE, 0, 0), PARAMETER);
    assert_eq!(fixture.refuses(DELETE_VCPU, state, 0, 0), INUSE);
}

#[test]
fn a_new_vcpu_may_have_the_area_of_the_older_one_it_replaces() {
    let fixture = Fixture::new();
    let ((old, area), (new, free)) = (frames_of(1), frames_of(2));
    start(&fixture, 1);
    // Of another target's vCPU it may not.
    assert_eq!(fixture.refuses(CREATE_VCPU, new, area, 2), ADDRESS);
    fixture.world.fail(At::Admit, 0, 0, ErrorKind::BadState);
    assert_eq!(fixture.call(CREATE_VCPU, new, area, 1), PARAMETER);
    assert_eq!(fixture.state(area), State::CallArea);
    assert_eq!(fixture.call(CREATE_VCPU, new, area, 1), SUCCESS);
    assert_eq!(fixture.monitor(1).step(), Step::Again);
    assert_eq!(fixture.call(DELETE_VCPU, old, 0, 0), SUCCESS);
    assert_eq!((fixture.state(old), fixture.state(area)), (OWN, State::CallArea));
    assert_eq!(fixture.refuses(CREATE_VCPU, old, area, 2), ADDRESS);

    // It moves away while another older one still has the area.
    assert_eq!(fixture.call(CREATE_VCPU, old, area, 1), SUCCESS);
    assert_eq!(fixture.monitor(1).step(), Step::Again);
    let regs = CallRegs::call(CallId::new(svsm::CORE, REMAP_CA), free, 0, 0);
    assert_eq!(call_on(&mut fixture.monitor(1), &fixture.world, 1, regs).result(), SUCCESS);
    assert_eq!((fixture.state(area), fixture.state(free)), (State::CallArea, State::CallArea));
    for (state, freed) in [(new, area), (old, free)] {
        assert_eq!(fixture.call(DELETE_VCPU, state, 0, 0), SUCCESS);
        assert_eq!(fixture.state(freed), OWN);
    }
}

#[test]
fn a_deleted_vcpu_gives_both_pages_back_with_their_contents() {
    let fixture = Fixture::new();
    let (state, area) = frames_of(1);
    fixture.world.poke(state, b"registers");
    start(&fixture, 1);
    fixture.world.clear_log();
    assert_eq!(fixture.call(DELETE_VCPU, state, 0, 0), SUCCESS);
    assert_eq!(
        fixture.world.instructions(),
        [Op::Retire(state), Op::Redeem { is_empty: true }, Op::Regrant(range(state, 1))]
    );
    assert_eq!((fixture.state(state), fixture.state(area)), (OWN, OWN));
    assert_eq!(fixture.world.rights(state), Rights::RAM);
    assert_eq!(fixture.world.peek(state, 9), b"registers");
    assert_eq!(fixture.storage.registered(), 1);
    assert_eq!(fixture.refuses(DELETE_VCPU, state, 0, 0), PARAMETER);
    assert_eq!(fixture.monitor(1).step(), Step::Idle);
    start(&fixture, 1);
}

#[test]
fn a_vcpu_that_was_never_taken_can_be_deleted() {
    let fixture = Fixture::new();
    let (state, area) = frames_of(1);
    assert_eq!(fixture.call(CREATE_VCPU, state, area, 1), SUCCESS);
    assert_eq!(fixture.call(DELETE_VCPU, state, 0, 0), SUCCESS);
    assert!(!fixture.storage.is_posted(VcpuId(1)));
    assert_eq!(fixture.monitor(1).step(), Step::Idle);
    assert_eq!(fixture.world.installed(1), None);
    start(&fixture, 1);
}

#[test]
fn refuses_bad_arguments_of_delete() {
    let fixture = Fixture::new();
    let (state, area) = frames_of(1);
    start(&fixture, 1);
    for at in [state + 8, area, RAM + 0x5000, L1, BOOT_STATE, HOLE, 0, 1 << 52, u64::MAX] {
        assert_eq!(fixture.refuses(DELETE_VCPU, at, 0, 0), PARAMETER, "{at:#x}");
    }
}

#[test]
fn another_levels_vcpu_cannot_be_deleted() {
    let fixture = Fixture::new();
    start(&fixture, 1);
    let state = frame(frames_of(1).0);
    fixture.storage.with(|registry| registry.find(VcpuId(1), state).unwrap().terms.level = GuestLevel::ONE);
    assert_eq!(fixture.refuses(DELETE_VCPU, frames_of(1).0, 0, 0), PARAMETER);
}

#[test]
fn a_running_vcpu_stays_as_it_is() {
    let fixture = Fixture::new();
    let (state, area) = frames_of(1);
    start(&fixture, 1);
    let before = fixture.snapshot();
    fixture.world.fail(At::Retire, 0, 0, ErrorKind::InUse);
    assert_eq!(fixture.call(DELETE_VCPU, state, 0, 0), INUSE);
    assert_eq!(fixture.snapshot(), before);
    assert_eq!(fixture.monitor(1).step(), Step::Again);
    assert_eq!(fixture.call(DELETE_VCPU, state, 0, 0), SUCCESS);

    assert_eq!(fixture.call(CREATE_VCPU, state, area, 1), SUCCESS);
    let before = fixture.snapshot();
    fixture.world.fail(At::Retire, 0, 0, ErrorKind::Refused);
    assert_eq!(fixture.call(DELETE_VCPU, state, 0, 0), CallResult::FAIL_INPUT);
    assert_eq!(fixture.snapshot(), before);
    assert!(fixture.storage.is_posted(VcpuId(1)));
}

#[test]
fn a_deleted_frame_that_cannot_be_given_back_is_quarantined() {
    let fixture = Fixture::new();
    let (state, area) = frames_of(1);
    start(&fixture, 1);
    fixture.world.fail(At::Regrant, 0, 0, ErrorKind::Inaccessible);
    assert_eq!(fixture.call(DELETE_VCPU, state, 0, 0), ADDRESS);
    assert_eq!((fixture.state(state), fixture.state(area)), (State::Quarantined, OWN));
    assert_eq!(fixture.storage.registered(), 1);
}

#[test]
fn a_vcpu_whose_call_is_being_served_is_in_use() {
    let fixture = Fixture::new();
    let (state, _) = frames_of(1);
    start(&fixture, 1);
    fixture.storage.with(|registry| registry.begin_serving(VcpuId(1), frame(state), LEVEL));
    assert_eq!(fixture.refuses(DELETE_VCPU, state, 0, 0), INUSE);
    fixture.storage.with(|registry| registry.end_hold(VcpuId(1), frame(state)));
    assert_eq!(fixture.call(DELETE_VCPU, state, 0, 0), SUCCESS);
}

#[test]
fn the_call_area_that_is_given_back_is_the_one_in_use() {
    let fixture = Fixture::new();
    let (state, area) = frames_of(1);
    let moved = RAM + 0x6000;
    start(&fixture, 1);
    let regs = CallRegs::call(CallId::new(svsm::CORE, REMAP_CA), moved, 0, 0);
    assert_eq!(call_on(&mut fixture.monitor(1), &fixture.world, 1, regs).result(), SUCCESS);
    assert_eq!((fixture.state(area), fixture.state(moved)), (OWN, State::CallArea));
    assert_eq!(fixture.call(DELETE_VCPU, state, 0, 0), SUCCESS);
    assert_eq!(fixture.state(moved), OWN);
}
