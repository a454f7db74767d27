//! Memory rules of a backend, tried by a program that has L1 to itself.

mod leaving;
mod pages;

use coco_part_api::{Error, ErrorKind, Grants, GuestLevel, Rights, Stopped};
use leaving::{
    moved_secret, page_state_lie, rescind_in_order, rescind_twice, rescind_unassigned, share_and_unshare, swapped_page,
};
use pages::{
    double_validate, only_what_was_asked, publish_keeps_contents, range_outside_map, stop_is_exact,
    zero_for_lower_level,
};

use super::{Bench, Case, Check, Kind};
use crate::platform::Platform;
use crate::world::L1;

/// The cases of this file.
pub(crate) fn cases<P: Platform>() -> Vec<Case<P>> {
    vec![
        Case {
            id: "M1-range-outside-map",
            rule: "M1",
            threats: &["PG-10", "RQ-07"],
            kind: Kind::Contract,
            text: "ranges that are empty, unaligned, wrap or leave the memory map are refused and change nothing",
            run: range_outside_map,
        },
        Case {
            id: "M2-double-validate",
            rule: "M2",
            threats: &["PG-03", "PG-04"],
            kind: Kind::Contract,
            text: "validating a valid page of L1 is an error and leaves its contents alone, in 4 KiB and 2 MiB",
            run: double_validate,
        },
        Case {
            id: "M3-zero-for-lower-level",
            rule: "M3",
            threats: &["PG-09"],
            kind: Kind::Contract,
            text: "a page validated for a lower level reads as zero there, over its whole size",
            run: zero_for_lower_level,
        },
        Case {
            id: "M3-moved-secret",
            rule: "M3",
            threats: &["PG-06"],
            kind: Kind::HostileHost,
            text: "memory of L1 that the host moves under another address shows nothing after validation",
            run: moved_secret,
        },
        Case {
            id: "M3-publish-keeps-contents",
            rule: "M3",
            threats: &[],
            kind: Kind::Contract,
            text: "a published page shows what L1 wrote, and only to the level it is for",
            run: publish_keeps_contents,
        },
        Case {
            id: "M4-stop-is-exact",
            rule: "M4",
            threats: &["PG-27"],
            kind: Kind::Contract,
            text: "a range with one valid page in its middle stops there; before it all is done, from it on nothing changed",
            run: stop_is_exact,
        },
        Case {
            id: "M5-only-what-was-asked",
            rule: "M5",
            threats: &["PG-25"],
            kind: Kind::Contract,
            text: "a read-only grant gives one level reading and nobody anything else; illegal sets are refused",
            run: only_what_was_asked,
        },
        Case {
            id: "M6-rescind-in-order",
            rule: "M6",
            threats: &["PG-18", "RQ-15"],
            kind: Kind::Contract,
            text: "rescinding cuts, flushes and gives up; afterwards no level reaches the page",
            run: rescind_in_order,
        },
        Case {
            id: "M2-rescind-twice",
            rule: "M2",
            threats: &["PG-03"],
            kind: Kind::Contract,
            text: "a page that was given up is not given up again: an error, never a success",
            run: rescind_twice,
        },
        Case {
            id: "M6-rescind-unassigned",
            rule: "M6",
            threats: &["PG-18"],
            kind: Kind::Contract,
            text: "a page leaves L1's hands without being shared: nobody reads it, the host neither",
            run: rescind_unassigned,
        },
        Case {
            id: "M6-share-and-unshare",
            rule: "M6",
            threats: &["PG-18"],
            kind: Kind::Contract,
            text: "a shared page shows the host nothing of its past, and comes back as zeros",
            run: share_and_unshare,
        },
        Case {
            id: "H2-swapped-page",
            rule: "H2",
            threats: &["PG-02"],
            kind: Kind::HostileHost,
            text: "other memory under a page of L1 is never read as L1's: the access faults",
            run: swapped_page,
        },
        Case {
            id: "H2-page-state-lie",
            rule: "H2",
            threats: &["PG-14"],
            kind: Kind::HostileHost,
            text: "a host that says it agreed a page state and did not stops progress, and nothing else",
            run: page_state_lie,
        },
    ]
}

const LEVEL: GuestLevel = GuestLevel::TWO;

fn ram() -> Grants {
    Grants::one(LEVEL, Rights::RAM)
}

/// Runs `body` as L1 on an otherwise empty VM.
fn as_l1<P: Platform>(
    bench: &mut Bench<P>,
    body: impl for<'y> FnOnce(L1<'y, P>) -> Check + 'static,
) -> Result<crate::world::World<P>, super::bench::Stop> {
    let options = bench.options();
    let mut world = bench.world(options);
    world.on_l1(body);
    world.finish()?;
    Ok(world)
}

/// The stop of a range operation as (frames done, kind).
fn stop<E: Error>(result: Result<(), Stopped<E>>) -> Result<(), (u64, ErrorKind)> {
    result.map_err(|stopped| (stopped.done, stopped.cause.kind()))
}
