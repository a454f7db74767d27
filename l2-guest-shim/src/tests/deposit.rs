use std::vec;
use std::vec::Vec;

use coco_part_api::range::LARGE;
use coco_part_api::svsm::CallResult;
use coco_part_api::{Error, ErrorKind, GuestMemory};
use x86_64::PhysAddr;
use x86_64::structures::paging::PhysFrame;

use super::{CALL_AREA, Fault, Handle, Lie, Memory, Port, RAM, frame, range, shim};
use crate::codec::{DEPOSIT, WITHDRAW};
use crate::{Shim, ShimError};

const PAGE: u64 = 4096;

/// A shim whose L1 has all RAM as valid.
fn with_ram() -> (Shim<'static, Port>, Handle, Memory) {
    let (shim, world, memory) = shim();
    world.get().valid.extend(0..RAM / PAGE);
    (shim, world, memory)
}

/// Withdraws into a place for `most` pages.
fn withdraw(shim: &mut Shim<'_, Port>, most: usize) -> Result<Vec<PhysFrame>, ShimError<Fault>> {
    let mut into = vec![frame(0); most];
    let count = shim.withdraw(&mut into)?;
    into.truncate(count);
    Ok(into)
}

#[test]
fn pages_go_to_l1_in_large_ones_where_they_fit() {
    let (mut shim, world, memory) = with_ram();
    let pages = range(2 * LARGE - PAGE, LARGE + 2 * PAGE);
    world.get().budget = 2;
    shim.deposit(pages).unwrap();
    assert_eq!(world.get().deposited.len(), 514);
    assert!(world.get().calls.iter().all(|regs| regs.rax == DEPOSIT.to_rax()));
    assert_eq!(world.get().calls.len(), 2);
    // The entries: page sizes and nothing else.
    let mut words = [0; 32];
    memory.read(PhysAddr::new(CALL_AREA + 8), &mut words).unwrap();
    let word = |index: usize| u64::from_le_bytes(words[8 * index..][..8].try_into().unwrap());
    assert_eq!([word(1), word(2), word(3)], [2 * LARGE - PAGE, (2 * LARGE) | 1, 3 * LARGE]);
}

#[test]
fn a_large_page_that_l1_holds_in_small_ones_is_deposited_in_small_ones() {
    let (mut shim, world, _) = with_ram();
    world.get().small.insert(2 * LARGE / PAGE);
    shim.deposit(range(2 * LARGE, 2 * LARGE)).unwrap();
    assert_eq!(world.get().deposited.len(), 1024);
}

#[test]
fn a_deposit_that_l1_refuses_says_how_far_it_came() {
    let (mut shim, world, _) = with_ram();
    world.get().valid.remove(&(5 * LARGE / PAGE + 7));
    let stopped = shim.deposit(range(5 * LARGE, 20 * PAGE)).unwrap_err();
    assert_eq!(stopped.done, 7);
    assert_eq!(stopped.cause, ShimError::Refused { call: DEPOSIT, result: CallResult::INVALID_ADDRESS });
    world.get().calls.clear();
    let outside = shim.deposit(range(RAM - PAGE, 2 * PAGE)).unwrap_err();
    assert_eq!((outside.done, outside.cause.kind()), (0, ErrorKind::OutOfRange));
    assert!(world.get().calls.is_empty());
}

#[test]
fn withdrawn_pages_are_at_most_as_many_as_asked_for() {
    let (mut shim, world, _) = with_ram();
    assert_eq!(shim.has_deposits(), Ok(false));
    shim.deposit(range(2 * LARGE, 2 * LARGE)).unwrap();
    world.get().calls.clear();
    assert_eq!(withdraw(&mut shim, 0), Ok(vec![]));
    assert!(world.get().calls.is_empty());
    assert_eq!(withdraw(&mut shim, 3), Ok([0, 1, 2].map(|index| frame(2 * LARGE + index * PAGE)).to_vec()));
    assert_eq!(shim.has_deposits(), Ok(true));
    // The list ends with the page of the call area.
    assert_eq!(
        world.get().calls.last().map(|regs| (regs.rax, regs.rcx)),
        Some((WITHDRAW.to_rax(), CALL_AREA + PAGE - 32))
    );
    assert_eq!(withdraw(&mut shim, 4000).map(|pages| pages.len()), Ok(510));
    assert_eq!(withdraw(&mut shim, 4000).map(|pages| pages.len()), Ok(510));
    assert_eq!(withdraw(&mut shim, 510).map(|pages| pages.len()), Ok(1));
    assert_eq!(withdraw(&mut shim, 510), Ok(vec![]));
    assert_eq!(shim.has_deposits(), Ok(false));
}

#[test]
fn refuses_pages_and_counts_that_cannot_be() {
    for bad in [RAM, 1 << 52, u64::MAX >> 12 << 12, CALL_AREA, 2 * LARGE + 8] {
        let (mut shim, world, memory) = with_ram();
        // L1 says that it gave one page: this one.
        world.get().lies.push_back(Lie::Result(0));
        let list = CALL_AREA + PAGE - 16;
        memory.write(PhysAddr::new(list), &1_u64.to_le_bytes()).unwrap();
        memory.write(PhysAddr::new(list + 8), &bad.to_le_bytes()).unwrap();
        let error = withdraw(&mut shim, 1).unwrap_err();
        assert_eq!(error, ShimError::BadAnswer { what: "withdrawn page", value: bad });
    }
    for count in [2_u64, 511, 0xffff] {
        let (mut shim, world, memory) = with_ram();
        world.get().lies.push_back(Lie::Result(0));
        memory.write(PhysAddr::new(CALL_AREA + PAGE - 16), &count.to_le_bytes()).unwrap();
        let error = withdraw(&mut shim, 1).unwrap_err();
        assert_eq!(error, ShimError::BadAnswer { what: "number of withdrawn pages", value: count });
    }
}

#[test]
fn a_withdrawal_waits_for_a_busy_l1_and_reports_a_refusal() {
    let (mut shim, world, _) = with_ram();
    shim.deposit(range(LARGE, PAGE)).unwrap();
    world.get().lies.push_back(Lie::Result(CallResult::BUSY.0));
    assert_eq!(withdraw(&mut shim, 1), Ok(vec![frame(LARGE)]));
    world.get().lies.push_back(Lie::Result(CallResult::INVALID_REQUEST.0));
    let refused = ShimError::Refused { call: WITHDRAW, result: CallResult::INVALID_REQUEST };
    assert_eq!(withdraw(&mut shim, 1), Err(refused));
}
