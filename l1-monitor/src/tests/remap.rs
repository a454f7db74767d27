//! REMAP_CA.

use coco_part_api::svsm::{CallResult, REMAP_CA};
use coco_part_api::{ErrorKind, VcpuId};

use super::mock::{At, Op};
use super::*;

const NEW: u64 = RAM + 0x6000;

#[test]
fn moves_the_call_area_and_clears_both_marks() {
    let fixture = Fixture::new();
    fixture.world.poke(NEW, &[1, 7]);
    fixture.world.poke(BOOT_AREA, &[1]);
    assert_eq!(fixture.call(REMAP_CA, NEW, 0, 0), CallResult::SUCCESS);
    assert_eq!(fixture.state(NEW), State::CallArea);
    assert_eq!(fixture.state(BOOT_AREA), OWN);
    assert_eq!(fixture.world.writes(), [(NEW, 1), (BOOT_AREA, 1)]);
    assert_eq!((fixture.world.peek(NEW, 2), fixture.world.peek(BOOT_AREA, 1)), (std::vec![0, 7], std::vec![0]));
    assert_eq!(fixture.world.instructions(), [Op::SetCallArea(NEW)]);
    assert_eq!(fixture.storage.current(VcpuId(0)).unwrap().terms.call_area, frame(NEW));
    // The new one is used from now on, and the old one can become a call area again.
    assert_eq!(fixture.list_at(NEW + 8, &[validate(FRESH)]), (CallResult::SUCCESS, 1));
    assert_eq!(fixture.call(REMAP_CA, BOOT_AREA, 0, 0), CallResult::SUCCESS);
}

#[test]
fn the_same_address_is_a_success_that_does_nothing() {
    let fixture = Fixture::new();
    let before = fixture.snapshot();
    assert_eq!(fixture.call(REMAP_CA, BOOT_AREA, 0, 0), CallResult::SUCCESS);
    assert_eq!(fixture.snapshot(), before);
    assert_eq!((fixture.world.writes(), fixture.world.instructions()), (std::vec![], std::vec![]));
}

#[test]
fn writes_nothing_to_a_page_it_refuses() {
    let fixture = Fixture::new();
    fixture.ledger().adopt(range(RAM + 0x7000, 1), OWN, State::CallArea).unwrap();
    fixture.ledger().adopt(range(RAM + 0x8000, 1), OWN, State::Guest(GuestLevel::ONE)).unwrap();
    fixture.ledger().adopt(range(RAM + 0x9000, 1), OWN, State::Quarantined).unwrap();
    for (at, result) in [
        (NEW + 8, CallResult::INVALID_PARAMETER),
        (NEW + 1, CallResult::INVALID_PARAMETER),
        (1 << 52, CallResult::INVALID_ADDRESS),
        (!0xfff, CallResult::INVALID_ADDRESS),
        (L1, CallResult::INVALID_ADDRESS),
        (BOOT_STATE, CallResult::INVALID_ADDRESS),
        (mock::SECRETS_AT, CallResult::INVALID_ADDRESS),
        (HOLE, CallResult::INVALID_ADDRESS),
        (FRESH, CallResult::INVALID_ADDRESS),
        (RAM + 0x7000, CallResult::INVALID_ADDRESS),
        (RAM + 0x8000, CallResult::INVALID_ADDRESS),
        (RAM + 0x9000, CallResult::INVALID_ADDRESS),
        (1 << 40, CallResult::INVALID_ADDRESS),
    ] {
        assert_eq!(fixture.refuses(REMAP_CA, at, 0, 0), result, "{at:#x}");
        assert_eq!(fixture.world.writes(), []);
    }
    let _held = fixture.ledger().claim(range(NEW, 1), OWN).unwrap();
    assert_eq!(fixture.refuses(REMAP_CA, NEW, 0, 0), CallResult::BUSY);
}

#[test]
fn a_page_that_does_not_answer_is_refused_before_anything_changes() {
    let fixture = Fixture::new();
    fixture.world.fault_at(NEW);
    assert_eq!(fixture.refuses(REMAP_CA, NEW, 0, 0), CallResult::INVALID_ADDRESS);
}

#[test]
fn errors_leave_the_old_area_in_use() {
    let fixture = Fixture::new();
    let before = fixture.snapshot();
    fixture.world.fail(At::SetCallArea, 0, 0, ErrorKind::NotFound);
    assert_eq!(fixture.call(REMAP_CA, NEW, 0, 0), CallResult::INVALID_PARAMETER);
    assert_eq!(fixture.snapshot(), before);

    fixture.world.write_fault_at(NEW);
    assert_eq!(fixture.call(REMAP_CA, NEW, 0, 0), CallResult::INVALID_ADDRESS);
    assert_eq!(fixture.snapshot(), before);

    fixture.world.fail(At::SetCallArea, 1, 0, ErrorKind::Refused);
    assert_eq!(fixture.call(REMAP_CA, NEW, 0, 0), CallResult::INVALID_REQUEST);
    assert_eq!((fixture.state(NEW), fixture.state(BOOT_AREA)), (State::Quarantined, State::Quarantined));
}

#[test]
fn an_old_area_that_does_not_answer_harms_nobody() {
    let fixture = Fixture::new();
    fixture.world.fault_at(BOOT_AREA);
    assert_eq!(fixture.call(REMAP_CA, NEW, 0, 0), CallResult::SUCCESS);
    assert_eq!(fixture.state(BOOT_AREA), OWN);
}
