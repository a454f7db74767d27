//! Page states: lists that the host tampers with, the order and number of instructions, sizes, and address bits.

use std::cell::Cell;
use std::rc::Rc;

use backend_snp::SnpError;
use backend_snp::instr::Fault;
use coco_part_api::svsm::list::Action;
use coco_part_api::svsm::{CORE, CREATE_VCPU, CallId, CallResult, DELETE_VCPU, PVALIDATE, REMAP_CA, own};
use coco_part_api::{
    After, CallRegs, Grants, GuestLevel, GuestMemory, GuestPort, HasMemory, HostState, Origin, PageSize, Rights,
};
use machine::host::Policy;
use machine::rmp::perm;
use machine::{Counters, Vcpu};
use x86_64::PhysAddr;

use super::{Done, as_l1, case, exits_of_l1, free, stop, trace_from, under};
use crate::platform::Platform;
use crate::snp::platform::Snp;
use crate::suite::probe::{Probe, call, cursor, entry, list_words, put, refused, refused_in, rescind, validate};
use crate::suite::{Bench, Case, Check, Kind, Stop, ensure, same};
use crate::world::layout::{BOOT_STATE, CALL_AREA, DATA, FREE, LARGE, PAGE, STATE, page, range};
use crate::world::{Gate, L2, Options, World};

const PAGES: u64 = 4;
/// Where guests put their lists.
const LIST: u64 = DATA + 0x1_0000;
/// The bit that marks private mappings on this machine.
const C_BIT: u64 = 1 << 51;

/// The cases of this file.
pub(super) fn cases() -> Vec<Case<Snp>> {
    vec![
        case!(
            "H1-page-state-list",
            "H1",
            ["PG-14", "PG-15", "PG-17", "GH-20"],
            HostileHost,
            "a page state list that the host tampers with is a named error, in one exit more than it has entries",
            page_state_list
        ),
        case!(
            "H1-page-state-entries",
            "H1",
            ["PG-16"],
            HostileHost,
            "PVALIDATE works on the pages that were asked for, whatever the host writes into the list",
            page_state_entries
        ),
        case!(
            "H2-page-state-stops-early",
            "H2",
            ["PG-14"],
            HostileHost,
            "a host that does a part of a list and claims the rest stalls at the first page that it did not do",
            stops_early
        ),
        case!(
            "M2-carry-flag",
            "M2",
            ["PG-04", "PG-05"],
            Contract,
            "CF = 1 is an error of its own for every instruction that L1 does on its own account",
            carry_flag
        ),
        case!(
            "M6-flush-order",
            "M6",
            ["PG-20", "PG-18"],
            Contract,
            "a rescind of n pages is n cuts, one INVLPGB, one TLBSYNC, then n times PVALIDATE",
            flush_order
        ),
        case!("M5-no-idle-flush", "M5", ["PG-20"], Bounds, "a call that cuts no right flushes nothing", no_idle_flush),
        case!(
            "M5-request-costs",
            "M5",
            [],
            Bounds,
            "a page costs one PVALIDATE, one RMPADJUST and its zeroing; a call costs two exits",
            request_costs
        ),
        case!(
            "M1-c-bit-in-address",
            "M1",
            ["PG-22"],
            HostileGuest,
            "an address with the C-bit is refused in every call",
            c_bit
        ),
        case!(
            "M4-size-mismatch",
            "M4",
            ["PG-11"],
            HostileGuest,
            "a 2 MiB request on 4 KiB entries is told so, with the cursor on it and nothing changed",
            size_mismatch
        ),
        case!(
            "M3-small-page-of-large",
            "M3",
            ["PG-11", "PG-09"],
            HostileGuest,
            "a 4 KiB request on a 2 MiB entry gives that page and no other",
            small_of_large
        ),
        case!(
            "M5-rights-on-invalid-page",
            "M5",
            ["PG-26", "PG-18"],
            Contract,
            "a page that is not validated is granted to nobody",
            rights_on_invalid_page
        ),
    ]
}

fn page_state_list(bench: &mut Bench<Snp>) -> Check {
    let header = |now, end, reserved| SnpError::PageStateHeader { was: 0, now, end, reserved };
    // Host, what comes of a list of four, and in how many exits.
    let rows = [
        (Policy::PscRewindsCursor, SnpError::PageStateStalled { exits: 5 }, 5),
        (Policy::PscPartial(0), SnpError::PageStateStalled { exits: 5 }, 5),
        (Policy::PscGrowsEnd, header(4, 4, 0), 1),
        (Policy::PscSetsReserved, header(4, 3, 1), 1),
        (Policy::PscErrorOnlyInInfo2, SnpError::PageState { code: 0x100 << 32 }, 1),
    ];
    for (policy, want, exits) in rows {
        let name = format!("{policy:?}");
        // L1 shares its own first pages by register: six exits until it has a GHCB page.
        let late = Policy::After { exits: 6, inner: Box::new(policy) };
        let mut world = bench.world(under(bench, late));
        let (before, done) = (Gate::new(), Gate::new());
        let gates = (before.clone(), done.clone());
        let slot = Rc::new(Cell::new(None));
        let inside = Rc::clone(&slot);
        world.on_l1(move |mut l1| {
            let cpu = l1.cpu;
            gates.0.wait(|| Snp::pause(cpu));
            inside.set(Some(stop(l1.backend.validate(free(PAGES)))));
            gates.1.wait(|| Snp::pause(cpu));
            Ok(())
        });
        let end = world.run_to(&before);
        world.expect(end)?;
        let count = exits_of_l1(&world);
        before.open();
        let end = world.run_to(&done);
        world.expect(end)?;
        same(&name, slot.take(), Some(Err((0, want))))?;
        same(&format!("{name}: exits"), exits_of_l1(&world) - count, exits)?;
        for index in 0..PAGES {
            let at = page(FREE, index);
            same(&format!("{name}: page {index} for L1"), world.peek(at, 8, Some(0)), None)?;
        }
        done.open();
        world.finish()?;
    }
    // One entry per exit is slow and allowed.
    let (world, result) =
        as_l1(bench, under(bench, Policy::PscPartial(1)), |mut l1| stop(l1.backend.validate(free(PAGES))));
    same("one entry per exit", result, Some(Ok(())))?;
    same("the last page", world.peek(page(FREE, PAGES - 1), 8, Some(0)), Some(vec![0; 8]))
}

fn page_state_entries(bench: &mut Bench<Snp>) -> Check {
    for size in [PAGE, LARGE] {
        let options = Options { trace: true, ..under(bench, Policy::PscEditsEntries) };
        let (world, result) = as_l1(bench, options, move |mut l1| stop(l1.backend.validate(range(FREE, 3 * size))));
        same("validate", result, Some(Ok(())))?;
        let seen: Vec<Vec<u64>> = trace_from(&world, 0)
            .into_iter()
            .filter(|done| done.name == "pvalidate" && done.operands.get(2) == Some(&1))
            .map(|done| done.operands)
            .collect();
        // Blocks of the range itself, in order: address, size, validate.
        let want: Vec<Vec<u64>> = (0..3).map(|index| vec![FREE + index * size, u64::from(size == LARGE), 1]).collect();
        same("PVALIDATE", seen, want)?;
        for at in [FREE - PAGE, FREE + 3 * size] {
            same("a neighbour", world.peek(at, 8, Some(0)), None)?;
        }
    }
    Ok(())
}

fn stops_early(bench: &mut Bench<Snp>) -> Check {
    for done in [1, 3] {
        // Small pages by list.
        let (world, result) = as_l1(
            bench,
            under(bench, Policy::After { exits: 5, inner: Box::new(Policy::PscStopsAfter(done)) }),
            |mut l1| stop(l1.backend.validate(free(PAGES))),
        );
        // PVALIDATE of a page that is not the guest's is a nested fault, which this host does not repair.
        same("validate", result, None)?;
        let stops = world.runner.stops();
        let at = format!("gpa: {:x}", page(FREE, done.into()));
        ensure(stops.iter().any(|(_, why)| why.contains("NestedFault") && why.contains(&at)), || format!("{stops:?}"))?;
        for index in 0..PAGES {
            let reached = world.peek(page(FREE, index), 8, Some(0));
            same(&format!("page {index} of {done} done"), reached.is_some(), index < u64::from(done))?;
        }
    }
    Ok(())
}

fn carry_flag(bench: &mut Bench<Snp>) -> Check {
    let (_, results) = as_l1(bench, bench.options(), |mut l1| {
        let l1 = &mut l1.backend;
        let one = free(1);
        let twice = range(FREE + LARGE, LARGE);
        vec![
            stop(l1.validate(one)),
            stop(l1.validate(one)),
            stop(l1.validate_for(one, &Grants::NONE, Origin::Request)),
            stop(l1.validate(twice)),
            stop(l1.validate(twice)),
            stop(l1.rescind(one, After::Unassigned)),
            stop(l1.rescind(one, After::Unassigned)),
            stop(l1.rescind(one, After::Shared)),
        ]
    });
    let changed = Ok(());
    let no = Err((0, SnpError::NoChange));
    same("validate and rescind", results, Some(vec![changed, no, no, changed, no, changed, no, no]))
}

/// What one call cost.
struct Cost {
    /// What VMPL0 executed meanwhile.
    done: Vec<Done>,
    /// Counters of VMPL0 before and after.
    l1: [Counters; 2],
    /// The same of the guest's.
    guest: [Counters; 2],
}

/// Makes one call from the boot vCPU of a guest, which must succeed.
fn one_call(
    bench: &mut Bench<Snp>,
    entries: Vec<u64>,
    prepare: impl for<'y> FnOnce(&mut L2<'y, Snp>) -> Check + 'static,
) -> Result<Cost, Stop> {
    let mut world = bench.world(Options { trace: true, ..bench.options() });
    let (before, after) = (Gate::new(), Gate::new());
    let gates = (before.clone(), after.clone());
    world.on_guest(0, move |mut l2| {
        prepare(&mut l2)?;
        put(&l2, &list_words(LIST, &entries))?;
        l2.wait(&gates.0);
        let answer = call(&mut l2, CallRegs::call(CallId::new(CORE, PVALIDATE), LIST, 0, 0))?;
        l2.wait(&gates.1);
        same("the call", answer.result(), CallResult::SUCCESS)
    });
    let counters = |world: &World<Snp>| [0, 2].map(|vmpl| world.runner.machine.0.counters(Vcpu(0), vmpl));
    let end = world.run_to(&before);
    world.expect(end)?;
    let first = counters(&world);
    let from = world.runner.machine.0.trace().len();
    before.open();
    let end = world.run_to(&after);
    world.expect(end)?;
    let done = trace_from(&world, from).into_iter().filter(|done| done.vmpl == 0).collect();
    let last = counters(&world);
    after.open();
    world.finish()?;
    Ok(Cost { done, l1: [first[0], last[0]], guest: [first[1], last[1]] })
}

/// Has the host make pages private.
fn agreed(l2: &mut L2<'_, Snp>, pages: coco_part_api::FrameRange) -> Check {
    l2.port.agree(pages, HostState::Private).map_err(|stopped| stopped.cause.to_string().into())
}

fn flush_order(bench: &mut Bench<Snp>) -> Check {
    for pages in [1, 5] {
        let entries = (0..pages).map(|index| rescind(page(DATA, index))).collect();
        let Cost { done, .. } = one_call(bench, entries, |_| Ok(()))?;
        let is_target = |at: u64| (DATA..page(DATA, pages)).contains(&at);
        let order: Vec<(&str, u64, u64)> = done
            .iter()
            .filter_map(|done| match (done.name, done.operands.as_slice()) {
                ("rmpadjust", [at, _, rdx]) if is_target(*at) => Some(("rmpadjust", *at, *rdx)),
                ("pvalidate", [at, _, edx]) if is_target(*at) => Some(("pvalidate", *at, *edx)),
                ("invlpgb" | "tlbsync", _) => Some((done.name, 0, 0)),
                _ => None,
            })
            .collect();
        let all = || (0..pages).map(|index| page(DATA, index));
        // RDX: VMPL2, no right. EDX: not valid.
        let want: Vec<_> = all()
            .map(|at| ("rmpadjust", at, 2))
            .chain([("invlpgb", 0, 0), ("tlbsync", 0, 0)])
            .chain(all().map(|at| ("pvalidate", at, 0)))
            .collect();
        same(&format!("order for {pages} pages"), order, want)?;
    }
    Ok(())
}

fn no_idle_flush(bench: &mut Bench<Snp>) -> Check {
    let ignored = entry(DATA, PageSize::Small, Action::Validate, true);
    for entries in [vec![validate(FREE), validate(FREE + PAGE)], vec![ignored]] {
        let Cost { done, .. } = one_call(bench, entries, |l2| agreed(l2, free(2)))?;
        let flushes: Vec<_> = done.iter().filter(|done| matches!(done.name, "invlpgb" | "tlbsync")).collect();
        same("flushes", flushes, Vec::new())?;
    }
    Ok(())
}

fn request_costs(bench: &mut Bench<Snp>) -> Check {
    let large = |action| entry(FREE + LARGE, PageSize::Large, action, false);
    let small: Vec<u64> = (0..PAGES).map(|index| validate(page(FREE, index))).collect();
    // Entries, frames to agree, and what they cost: PVALIDATE, RMPADJUST, pages zeroed, flushes.
    let rows = [
        (small, free(PAGES), [PAGES, PAGES, PAGES, 0]),
        (vec![large(Action::Validate)], range(FREE + LARGE, LARGE), [1, 1, LARGE / PAGE, 0]),
        ((0..PAGES).map(|index| rescind(page(DATA, index))).collect(), free(1), [PAGES, PAGES, 0, 1]),
    ];
    for (entries, agree, want) in rows {
        let what = format!("{entries:x?}");
        let Cost { done, l1: [first, last], guest: [guest_first, guest_last] } =
            one_call(bench, entries, move |l2| agreed(l2, agree))?;
        // RMPADJUST of the caller's VMSA is the proof that it stands still, once per call.
        let gates =
            done.iter().filter(|d| d.name == "rmpadjust" && d.operands.first() == Some(&BOOT_STATE)).count() as u64;
        let cost = [
            last.pvalidate - first.pvalidate,
            last.rmpadjust - first.rmpadjust - gates,
            // Private ones: the GHCB page is zeroed for every exit.
            done.iter().filter(|d| d.name == "zero" && d.operands.get(2) == Some(&1)).map(|d| d.operands[1]).sum(),
            last.invlpgb - first.invlpgb,
        ];
        same(&what, cost, want)?;
        ensure(gates <= 1, || format!("{what}: {gates} looks at the gate"))?;
        same(&format!("{what}: TLBSYNC"), last.tlbsync - first.tlbsync, want[3])?;
        let exits = (last.vmgexit - first.vmgexit) + (guest_last.vmgexit - guest_first.vmgexit);
        same(&format!("{what}: exits"), exits, 2)?;
    }
    Ok(())
}

fn c_bit(bench: &mut Bench<Snp>) -> Check {
    let bad = CallResult::INVALID_ADDRESS;
    let create = |state: u64, area: u64| {
        let mut probe = Probe::core(&format!("create {state:#x} {area:#x}"), CREATE_VCPU, state, bad);
        probe.regs.rdx = area;
        probe
    };
    let mut attest = Probe::core("request for evidence", 0, LIST | C_BIT, bad);
    attest.regs.rax = CallId::new(own::PROTOCOL, own::ATTEST).to_rax();
    let delete = Probe::core("delete", DELETE_VCPU, BOOT_STATE | C_BIT, CallResult::INVALID_PARAMETER);
    refused(
        bench,
        vec![
            Probe::list("validate", &[validate(FREE | C_BIT)], bad),
            Probe::list("rescind", &[rescind(DATA | C_BIT)], bad),
            Probe::list("2 MiB", &[entry(FREE | C_BIT, PageSize::Large, Action::Validate, false)], bad),
            Probe::list("with ignore_cf", &[entry(DATA | C_BIT, PageSize::Small, Action::Validate, true)], bad),
            Probe::core("list", PVALIDATE, LIST | C_BIT, bad).with_words(list_words(LIST, &[validate(FREE)])),
            Probe::core("list in the call area", PVALIDATE, CALL_AREA | C_BIT | 8, bad),
            Probe::core("call area", REMAP_CA, DATA | C_BIT, bad),
            create(STATE | C_BIT, DATA),
            create(STATE, DATA | C_BIT),
            delete,
            attest,
        ],
    )
}

fn size_mismatch(bench: &mut Bench<Snp>) -> Check {
    let mut world = bench.world(bench.options());
    let large = entry(FREE, PageSize::Large, Action::Validate, false);
    let probe = Probe::list("2 MiB in 4 KiB entries", &[large], CallResult::FAIL_SIZE_MISMATCH);
    refused_in(&mut world, vec![probe], |l2| {
        // Not 2 MiB at once, so that the host assigns small pages.
        agreed(l2, range(FREE, LARGE - PAGE))?;
        agreed(l2, range(FREE + LARGE - PAGE, PAGE))
    })?;
    for at in [FREE, FREE + LARGE - PAGE] {
        same("level 2", world.peek(at, 8, Some(2)), None)?;
        same("L1", world.peek(at, 8, Some(0)), None)?;
    }
    Ok(())
}

fn small_of_large(bench: &mut Bench<Snp>) -> Check {
    const ONE: u64 = FREE + 9 * PAGE;
    let mut world = bench.world(bench.options());
    world.on_guest(0, |mut l2| {
        agreed(&mut l2, range(FREE, LARGE))?;
        put(&l2, &list_words(LIST, &[validate(ONE)]))?;
        let answer = call(&mut l2, CallRegs::call(CallId::new(CORE, PVALIDATE), LIST, 0, 0))?;
        same("the call", answer.result(), CallResult::SUCCESS)?;
        same("cursor", cursor(&l2, LIST)?, 1)?;
        let word: u64 = l2.port.memory().read_value(PhysAddr::new(ONE)).map_err(|error| error.to_string())?;
        same("contents", word, 0)
    });
    world.finish()?;
    for at in (FREE..FREE + LARGE).step_by(PAGE as usize) {
        same(&format!("level 2 reaches {at:#x}"), world.peek(at, 8, Some(2)).is_some(), at == ONE)?;
        same(&format!("{at:#x} is valid"), world.peek(at, 8, Some(0)).is_some(), at == ONE)?;
    }
    Ok(())
}

fn rights_on_invalid_page(bench: &mut Bench<Snp>) -> Check {
    let grants = Grants::one(GuestLevel::TWO, Rights::RAM);
    let (world, results) = as_l1(bench, bench.options(), move |mut l1| {
        let l1 = &mut l1.backend;
        let mut cut = Default::default();
        let results = vec![
            stop(l1.validate(free(1))),
            stop(l1.rescind(free(1), After::Unassigned)),
            stop(l1.publish(free(1), &grants)),
            stop(l1.set_rights(free(1), &grants, &mut cut)),
            stop(l1.withdraw(free(1), Origin::Monitor, &mut cut)),
        ];
        // What was not cut needs no flush, but is redeemed all the same.
        let _ = l1.redeem(cut);
        results
    });
    let invalid = Err((0, SnpError::Fault(Fault::Vc { code: 0x404 })));
    same("on a page that is not valid", results, Some(vec![Ok(()), Ok(()), invalid, invalid, invalid]))?;
    let entry = world.runner.machine.0.rmp_entry(FREE);
    same("rights", entry.map(|entry| entry.perms), Some([perm::ALL, 0, 0, 0]))
}
