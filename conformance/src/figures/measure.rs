//! The measurements on the SNP machine.

use coco_part_api::svsm::{CORE, CallId, QUERY_PROTOCOL};
use coco_part_api::{After, CallMonitor, CallRegs, FrameRange, Grants, Origin, Rights, Validate};
use l1_monitor::Ledger;
use l2_guest_shim::Shim;
use machine::Counters;

use super::counted::{self, text};
use super::{Figure, switches, tdx, vcpus};
use crate::platform::Platform;
use crate::snp::{Snp, SnpModel};
use crate::suite::Check;
use crate::world::Options;
use crate::world::layout::{DATA, FREE, LARGE, PAGE, page, range};

/// Bytes of the memory that is validated.
pub(super) const GIB: u64 = 1 << 30;
/// Small pages in it.
const SMALL_PAGES: u64 = GIB / PAGE;
/// Large pages in it.
pub(super) const LARGE_PAGES: u64 = GIB / LARGE;
/// Entries of a page state list.
const PAGE_STATES: u64 = 253;
/// Entries of a list for L1.
const LIST: u64 = 511;
/// Small pages of one large page but the last: so many in a row are never taken for a large one.
const RUN: u64 = LARGE / PAGE - 1;

/// Takes all figures, in the order of the table.
///
/// # Errors
/// Work that did not succeed, or a violation that an oracle found meanwhile.
pub fn measure() -> Result<Vec<Figure>, String> {
    let call = call()?;
    let figure = |name, what, value, floor, aim| Figure { name, what, value, floor, aim };
    let mut figures = vec![
        figure("vmgexit_per_call", "VMGEXITs of one call, both levels", call.vmgexit, 2, Some(2)),
        figure(
            "rmpadjust_per_call",
            "RMPADJUSTs of one call: proof that the caller stands still",
            call.rmpadjust,
            0,
            None,
        ),
    ];
    figures.extend(switches::figures()?);
    figures.extend(validation(call.rmpadjust)?);
    figures.extend(vcpus::figures(call.rmpadjust)?);
    figures.extend(flushes()?);
    figures.extend(tdx::figures()?);
    figures.push(Figure {
        name: "ledger_bytes_per_gib",
        what: "bytes of page ledger",
        value: Ledger::words_for(SMALL_PAGES) as u64 * 8,
        floor: SMALL_PAGES / 2,
        aim: Some(128 << 10),
    });
    Ok(figures)
}

/// The instructions that figures are about.
#[derive(Clone, Copy, Debug)]
struct Cost {
    pvalidate: u64,
    rmpadjust: u64,
    vmgexit: u64,
    flushes: u64,
    /// VMGEXITs of L1: one for each call that it served.
    of_l1: u64,
}

impl Cost {
    fn between(([l1_before, before], [l1_after, after]): ([Counters; 2], [Counters; 2])) -> Self {
        Self {
            pvalidate: after.pvalidate - before.pvalidate,
            rmpadjust: after.rmpadjust - before.rmpadjust,
            vmgexit: after.vmgexit - before.vmgexit,
            flushes: after.invlpgb - before.invlpgb,
            of_l1: l1_after.vmgexit - l1_before.vmgexit,
        }
    }
}

/// Counters of L1, and of everybody.
fn counters(model: &SnpModel) -> [Counters; 2] {
    [model.0.counters_of_vmpl(0), model.0.total_counters()]
}

/// RAM for a GiB in runs of small pages, one run per 2 MiB.
fn roomy() -> Options<Snp> {
    Options { guest_bytes: (LARGE_PAGES + 16) * LARGE, ..Options::default() }
}

/// The cost of work that L1 does with the machine to itself.
fn at_l1(
    options: Options<Snp>,
    body: impl for<'y> FnOnce(&mut <Snp as Platform>::Monitor<'y>) -> Check + 'static,
) -> Result<Cost, String> {
    counted::at_l1(options, counters, body).map(Cost::between)
}

/// The cost of work that a guest does through the shim.
fn at_l2(
    options: Options<Snp>,
    prepare: impl FnOnce(&mut SnpModel),
    body: impl for<'m, 'y> FnOnce(&mut Shim<'m, <Snp as Platform>::Guest<'y>>) -> Check + 'static,
) -> Result<Cost, String> {
    counted::at_l2(options, prepare, counters, body).map(Cost::between)
}

/// A call that does next to nothing.
fn call() -> Result<Cost, String> {
    const CALLS: u64 = 64;
    let cost = at_l2(
        Options::default(),
        |_| (),
        |shim| {
            for _ in 0..CALLS {
                let query = CallRegs::call(CallId::new(CORE, QUERY_PROTOCOL), 1, 0, 0);
                shim.port_mut().call(query).map_err(text)?;
            }
            Ok(())
        },
    )?;
    let one = Cost { vmgexit: cost.vmgexit / CALLS, rmpadjust: cost.rmpadjust / CALLS, ..cost };
    let is_even = one.vmgexit * CALLS == cost.vmgexit && one.rmpadjust * CALLS == cost.rmpadjust;
    if is_even { Ok(one) } else { Err(format!("{CALLS} calls cost {cost:?}")) }
}

/// A GiB that consists of 2 MiB pages.
fn large() -> Vec<FrameRange> {
    vec![range(FREE, GIB)]
}

/// A GiB of 4 KiB pages, none of which is part of a 2 MiB page.
fn small() -> Vec<FrameRange> {
    let runs = SMALL_PAGES / RUN;
    let run = |index: u64, pages: u64| range(FREE + index * LARGE, pages * PAGE);
    (0..runs).map(|index| run(index, RUN)).chain([run(runs, SMALL_PAGES % RUN)]).collect()
}

fn l1_validates(parts: Vec<FrameRange>) -> Result<Cost, String> {
    let options = roomy();
    let grants = Grants::one(options.guest_level(), Rights::RAM);
    at_l1(options, move |l1| {
        let validate = |part| l1.validate_for(part, &grants, Origin::Monitor).map_err(|stop| text(stop.cause));
        parts.into_iter().try_for_each(validate)
    })
}

fn l2_validates(parts: Vec<FrameRange>, prepare: impl FnOnce(&mut SnpModel)) -> Result<Cost, String> {
    at_l2(roomy(), prepare, move |shim| {
        parts.into_iter().try_for_each(|part| shim.validate(part).map_err(|stop| text(stop.cause)))
    })
}

/// A host that has no 2 MiB pages for the guest: it gives one small page of each too early.
fn only_small(model: &mut SnpModel) {
    for index in 0..LARGE_PAGES {
        let at = FREE + index * LARGE;
        model.0.rmpupdate(at, false, Some(at));
    }
}

/// What the rows of one way to validate a GiB are called: PVALIDATEs, RMPADJUSTs, VMGEXITs, flushes, calls.
macro_rules! rows {
    ($way:literal) => {
        [
            concat!($way, "_pvalidate_per_gib"),
            concat!($way, "_rmpadjust_per_gib"),
            concat!($way, "_vmgexit_per_gib"),
            concat!($way, "_flushes_per_gib"),
            concat!($way, "_calls_per_gib"),
        ]
    };
}

fn validation(per_call: u64) -> Result<Vec<Figure>, String> {
    let states = |pages: u64| pages.div_ceil(PAGE_STATES);
    let calls = |pages: u64| pages.div_ceil(LIST);
    let mut figures = Vec::new();
    let mut add = |names: [&'static str; 5], cost: Cost, pages: u64, [states, calls]: [u64; 2], has_aims: bool| {
        let [pvalidate, rmpadjust, vmgexit, flushes, served] = names;
        let aim = |value| has_aims.then_some(value);
        let made = if calls == 0 { 0 } else { cost.of_l1 };
        let figure = |name, what, value, floor, aim| Figure { name, what, value, floor, aim };
        figures.extend([
            figure(pvalidate, "PVALIDATEs", cost.pvalidate, pages, aim(pages)),
            figure(
                rmpadjust,
                "RMPADJUSTs, but for those per call",
                cost.rmpadjust - made * per_call,
                pages,
                aim(pages),
            ),
            figure(vmgexit, "VMGEXITs: page states and calls", cost.vmgexit, states + 2 * calls, None),
            figure(flushes, "TLB flushes", cost.flushes, 0, Some(0)),
        ]);
        if calls > 0 {
            figures.push(figure(served, "calls of L1", made, calls, None));
        }
    };
    let by_large = [states(LARGE_PAGES), calls(LARGE_PAGES)];
    let by_small = [states(SMALL_PAGES), calls(SMALL_PAGES)];
    add(rows!("l1_2m"), l1_validates(large())?, LARGE_PAGES, [by_large[0], 0], true);
    add(rows!("l1_4k"), l1_validates(small())?, SMALL_PAGES, [by_small[0], 0], true);
    add(rows!("l2_2m"), l2_validates(large(), |_| ())?, LARGE_PAGES, by_large, true);
    add(rows!("l2_4k"), l2_validates(small(), |_| ())?, SMALL_PAGES, by_small, true);
    // A host without large pages: each is tried once before it is done in small ones, so there is no aim.
    add(rows!("l2_split"), l2_validates(large(), only_small)?, SMALL_PAGES, [by_large[0], by_small[1]], false);
    Ok(figures)
}

/// Flushes of requests.
fn flushes() -> Result<Vec<Figure>, String> {
    let nothing = at_l2(
        Options::default(),
        |_| (),
        |shim| shim.validate(range(FREE, 32 * PAGE)).map_err(|stop| text(stop.cause)),
    )?;
    let many = at_l2(
        Options::default(),
        |_| (),
        |shim| shim.rescind(range(page(DATA, 8), 32 * PAGE), After::Unassigned).map_err(|stop| text(stop.cause)),
    )?;
    let figure = |name, what, value, floor| Figure { name, what, value, floor, aim: Some(floor) };
    Ok(vec![
        figure(
            "flushes_no_cut",
            "TLB flushes of a request that cuts no right (32 pages validated)",
            nothing.flushes,
            0,
        ),
        figure("flushes_per_request", "TLB flushes of a request that rescinds 32 pages", many.flushes, 1),
    ])
}
