//! Two vCPUs of a guest at once, on one page and on one list.

use std::cell::RefCell;
use std::rc::Rc;

use coco_part_api::svsm::list::Action;
use coco_part_api::svsm::{CORE, CallId, CallResult, PVALIDATE};
use coco_part_api::{CallRegs, GuestMemory, HasMemory, PageSize};
use x86_64::PhysAddr;

use super::races::{OTHER_LIST, SEEDS, SUCCESS};
use super::vcpus::{Plan, agree_private, bring_up, meet, one_entry, peek_word, with_seeds};
use super::{LIST, case, with_vcpus};
use crate::platform::Platform;
use crate::suite::probe::{call, entry, put, rescind, validate};
use crate::suite::{Bench, Case, Check, Stop, ensure, same};
use crate::world::layout::{DATA, FREE, page};
use crate::world::{Gate, L2};

/// The cases of this file.
pub(super) fn cases<P: Platform>() -> Vec<Case<P>> {
    vec![
        case!(
            "M2-page-validated-by-two",
            "M2",
            ["RQ-25", "PG-03"],
            Concurrency,
            "of two vCPUs that validate one page at once one succeeds, and the page is zeroed once",
            page_validated_by_two
        ),
        case!(
            "H1-list-changes-under-l1",
            "H1",
            ["RQ-12"],
            Concurrency,
            "a list that another vCPU rewrites all the time is done as it was at some moment, its bounds from one header",
            list_changes
        ),
    ]
}

fn page_validated_by_two<P: Platform>(bench: &mut Bench<P>) -> Check {
    let helper = Plan::of(1);
    for options in with_seeds(&with_vcpus(bench, 2), SEEDS) {
        let mut world = bench.world(options);
        let gates = [Gate::new(), Gate::new()];
        let answers = Rc::new(RefCell::new(Vec::new()));
        for vcpu in [0_u8, 1] {
            let (mine, other) = (gates[usize::from(vcpu)].clone(), gates[usize::from(1 - vcpu)].clone());
            let log = Rc::clone(&answers);
            let list = if vcpu == 0 { LIST } else { OTHER_LIST };
            world.on_guest(vcpu, move |mut l2| {
                if vcpu == 0 {
                    agree_private(&mut l2, FREE, 1)?;
                    bring_up(&mut l2, helper)?;
                }
                meet(&l2, &mine, &other);
                let result = one_entry(&mut l2, list, validate(FREE))?;
                if result == SUCCESS {
                    same("contents", peek_word(&l2, FREE)?, 0)?;
                    put(&l2, &[(FREE, 0x6669_7273_7421)])?;
                }
                log.borrow_mut().push(result);
                Ok(())
            });
        }
        world.finish()?;
        let mut results = answers.borrow().clone();
        results.sort_by_key(|result| result.0);
        same("answers", results, vec![SUCCESS, CallResult::NO_CHANGE])?;
        let kept = world.peek(FREE, 8, Some(world.guest_level().number()));
        same("what the winner wrote", kept, Some(0x6669_7273_7421_u64.to_le_bytes().to_vec()))?;
    }
    Ok(())
}

/// What the list of [`list_changes`] may and may not touch.
struct Targets {
    /// Named in entries that validate, with "no change" ignored: stays as it is.
    kept: u64,
    /// Named in entries that rescind.
    given_up: u64,
    /// Behind the end of the one header and before the cursor of the other: never done.
    poison: u64,
}

const TARGETS: Targets = Targets { kept: page(DATA, 0x40), given_up: page(DATA, 0x41), poison: page(DATA, 0x42) };
/// A word that stands in a page which must not be touched.
const PRECIOUS: u64 = 0x7072_6563_696f_7573;

/// The entry that alternates: validate one page, or rescind another one. No mixture of the two may be done.
fn entries() -> [u64; 2] {
    [
        entry(TARGETS.kept, PageSize::Small, Action::Validate, true),
        entry(TARGETS.given_up, PageSize::Small, Action::Rescind, true),
    ]
}

/// The headers that alternate: entries 0 and 1, or entry 3 alone. No mixture reaches entry 2 unless bounds come from both.
const HEADERS: [u64; 2] = [2, 4 | 3 << 16];

fn list_changes<P: Platform>(bench: &mut Bench<P>) -> Check {
    const CALLS: usize = 10;
    let helper = Plan::of(1);
    for options in with_seeds(&with_vcpus(bench, 2), SEEDS) {
        let mut world = bench.world(options);
        let (gates, done) = ([Gate::new(), Gate::new()], Gate::new());
        let (mine, other, over) = (gates[0].clone(), gates[1].clone(), done.clone());
        world.on_guest(0, move |mut l2| {
            put(&l2, &[(TARGETS.kept, PRECIOUS), (TARGETS.poison, PRECIOUS)])?;
            let [first, second] = entries();
            let poison = rescind(TARGETS.poison);
            put(&l2, &[(LIST, HEADERS[0]), (LIST + 8, first), (LIST + 16, second)])?;
            put(&l2, &[(LIST + 24, poison), (LIST + 32, first)])?;
            bring_up(&mut l2, helper)?;
            meet(&l2, &mine, &other);
            for round in 0..CALLS {
                // A whole header, so that what L1 writes back is never part of one it reads.
                put(&l2, &[(LIST, HEADERS[round % 2])])?;
                let regs = CallRegs::call(CallId::new(CORE, PVALIDATE), LIST, 0, 0);
                // Nobody else changes pages, so it is never busy.
                let result = call(&mut l2, regs)?.result();
                ensure([SUCCESS, CallResult::INCOMPLETE].contains(&result), || format!("list answered {result}"))?;
            }
            for (what, at) in [("named only to be validated", TARGETS.kept), ("never named", TARGETS.poison)] {
                same(what, peek_word(&l2, at)?, PRECIOUS)?;
            }
            over.pass();
            Ok(())
        });
        let (mine, other) = (gates[1].clone(), gates[0].clone());
        world.on_guest(1, move |l2| {
            meet(&l2, &mine, &other);
            rewrite(&l2, &done)
        });
        world.finish()?;
        let level = Some(world.guest_level().number());
        for at in [TARGETS.kept, TARGETS.poison] {
            same("the page", world.peek(at, 8, level), Some(PRECIOUS.to_le_bytes().to_vec()))?;
        }
    }
    Ok(())
}

/// Rewrites header and first entry until the other program is done.
fn rewrite<P: Platform>(l2: &L2<'_, P>, done: &Gate) -> Check {
    let memory = l2.port.memory();
    let write = |at: u64, word: u64| {
        memory.write(PhysAddr::new(at), &word.to_le_bytes()).map_err(|error| Stop::Wrong(error.to_string()))
    };
    let mut round = 0_usize;
    while !done.is_reached() {
        write(LIST + 8, entries()[round % 2])?;
        write(LIST, HEADERS[round / 2 % 2])?;
        round += 1;
    }
    Ok(())
}
