//! The measurements on the TDX machine: what a call and a page cost in leaves of the module and in exits.

use coco_part_api::svsm::{CORE, CallId, QUERY_PROTOCOL};
use coco_part_api::{CallMonitor, CallRegs, FrameRange, Grant, Grants, Origin, Rights, Validate};
use l2_guest_shim::Shim;
use machine::tdx::Counters;

use super::Figure;
use super::counted::{at_l1, at_l2, text};
use super::measure::{GIB, LARGE_PAGES};
use crate::platform::Platform;
use crate::suite::Check;
use crate::tdx::{Tdx, TdxModel};
use crate::world::Options;
use crate::world::layout::{DATA, FREE, LARGE, PAGE, page, range};

/// Calls that are counted together.
const CALLS: u64 = 64;
/// Small pages that are counted together: less than a large page, so that none is taken for one.
const SMALL_PAGES: u64 = LARGE / PAGE - 1;
/// Pages of a request whose invalidations are counted.
const REQUEST: u64 = 32;

/// What happened meanwhile, at L1 and at all levels together.
struct Cost {
    l1: Counters,
    all: Counters,
}

fn counters(model: &TdxModel) -> Cost {
    Cost { l1: model.at_level(0), all: model.0.total_counters() }
}

/// All figures of this machine.
pub(super) fn figures() -> Result<Vec<Figure>, String> {
    let mut figures = calls()?;
    let large = range(FREE, GIB);
    let small = range(FREE, SMALL_PAGES * PAGE);
    figures.extend(by_l1(["tdx_l1_2m_accept_per_page", "tdx_l1_2m_attr_wr_per_page"], large, LARGE_PAGES)?);
    figures.extend(by_l1(["tdx_l1_4k_accept_per_page", "tdx_l1_4k_attr_wr_per_page"], small, SMALL_PAGES)?);
    figures.extend(by_l2(["tdx_l2_2m_accept_per_page", "tdx_l2_2m_attr_wr_per_page"], large, LARGE_PAGES)?);
    figures.extend(by_l2(["tdx_l2_4k_accept_per_page", "tdx_l2_4k_attr_wr_per_page"], small, SMALL_PAGES)?);
    figures.extend(flushes()?);
    Ok(figures)
}

/// Invalidations that requests cost.
fn flushes() -> Result<Vec<Figure>, String> {
    let validated = range(FREE, REQUEST * PAGE);
    let shared = range(page(DATA, 8), REQUEST * PAGE);
    let nothing = invalidations(move |shim| shim.validate(validated).map_err(|stop| text(stop.cause)))?;
    let many = invalidations(move |shim| shim.share(shared).map_err(|stop| text(stop.cause)))?;
    let row = |name, what, value, floor| Figure { name, what, value, floor, aim: Some(floor) };
    Ok(vec![
        row("tdx_flushes_no_cut", "INVEPTs of a request that cuts no right (32 pages validated)", nothing, 0),
        row("tdx_flushes_per_request", "INVEPTs of a request that shares 32 pages", many, 1),
    ])
}

/// Those of one request, the one on the way back into the level among them.
fn invalidations(
    body: impl for<'m, 'y> FnOnce(&mut Shim<'m, <Tdx as Platform>::Guest<'y>>) -> Check + 'static,
) -> Result<u64, String> {
    let (before, after) = at_l2::<Tdx, _>(Options::default(), |_| (), counters, body)?;
    Ok(after.l1.invalidations - before.l1.invalidations)
}

/// A difference as so many for each of `of`; counts that do not divide are an error, not rounded.
fn per(of: u64, before: u64, after: u64) -> Result<u64, String> {
    let count = after - before;
    if count.is_multiple_of(of) { Ok(count / of) } else { Err(format!("{count} for {of}")) }
}

/// Calls that do next to nothing.
fn calls() -> Result<Vec<Figure>, String> {
    let (before, after) = at_l2::<Tdx, _>(
        Options::default(),
        |_| (),
        counters,
        |shim| {
            for _ in 0..CALLS {
                let query = CallRegs::call(CallId::new(CORE, QUERY_PROTOCOL), 1, 0, 0);
                shim.port_mut().call(query).map_err(text)?;
            }
            Ok(())
        },
    )?;
    let row = |name, what, value, floor| Figure { name, what, value, floor, aim: Some(floor) };
    Ok(vec![
        row(
            "tdx_exits_per_call",
            "exits of the level for one call",
            per(CALLS, before.all.l2_exits, after.all.l2_exits)?,
            1,
        ),
        row("tdx_enters_per_call", "TDG.VP.ENTERs for one call", per(CALLS, before.l1.enter, after.l1.enter)?, 1),
        row(
            "tdx_host_exits_per_call",
            "exits to the host for one call, all levels",
            per(CALLS, before.all.td_exits, after.all.td_exits)?,
            0,
        ),
    ])
}

/// Roomy enough for a GiB of large pages.
fn roomy() -> Options<Tdx> {
    Options { guest_bytes: (LARGE_PAGES + 16) * LARGE, ..Options::default() }
}

fn by_l1(names: [&'static str; 2], pages: FrameRange, count: u64) -> Result<Vec<Figure>, String> {
    let options = roomy();
    let grants = Grants::one(options.guest_level(), Rights::RAM);
    let counts = at_l1::<Tdx, _>(options, counters, move |l1| {
        l1.validate_for(pages, &grants, Origin::Monitor).map_err(|stop| text(stop.cause))
    })?;
    rows(names, counts, count)
}

fn by_l2(names: [&'static str; 2], pages: FrameRange, count: u64) -> Result<Vec<Figure>, String> {
    let validate =
        at_l2::<Tdx, _>(roomy(), |_| (), counters, move |shim| shim.validate(pages).map_err(|stop| text(stop.cause)))?;
    rows(names, validate, count)
}

fn rows(names: [&'static str; 2], (before, after): (Cost, Cost), pages: u64) -> Result<Vec<Figure>, String> {
    let [accept, attr_wr] = names;
    let row = |name, what, value| Figure { name, what, value, floor: 1, aim: Some(1) };
    Ok(vec![
        row(accept, "TDG.MEM.PAGE.ACCEPTs per page", per(pages, before.l1.accept, after.l1.accept)?),
        row(
            attr_wr,
            "TDG.MEM.PAGE.ATTR.WRs per page, for all levels together",
            per(pages, before.l1.attr_wr, after.l1.attr_wr)?,
        ),
    ])
}
