//! Hosts that answer events wrong.

use backend_snp::SnpError;
use backend_snp::abi::ghcb::ValidBit;
use backend_snp::host::{MAX_PAGES_NEEDED, Paged};
use machine::host::Policy;

use super::all::EVENTS;
use super::{START, open_at_l1, said_to_l1};
use crate::snp::host_cases::{as_l1, case, under};
use crate::snp::platform::Snp;
use crate::suite::{Bench, Case, Check, Kind, ensure, same};
use crate::world::layout::{FREE, PAGE, frame, page, range};

/// The cases of this file.
pub(super) fn cases() -> Vec<Case<Snp>> {
    vec![
        case!(
            "H1-valid-bit-of-each-result",
            "H1",
            ["GH-02"],
            HostileHost,
            "a result without its valid bit is none, for every field of every event; bits that no result needs do not matter",
            valid_bits
        ),
        case!(
            "H1-status-of-each-event",
            "H1",
            ["GH-03", "GH-04"],
            HostileHost,
            "every event refuses every status but success, every exception but #GP and #UD",
            statuses
        ),
        case!(
            "H1-lists-of-the-host",
            "H1",
            ["GH-18", "GR-04", "GR-13"],
            HostileHost,
            "counts and demands for pages that cannot be are named errors; possible ones are told with their number",
            lists
        ),
    ]
}

fn late(inner: Policy) -> Policy {
    Policy::After { exits: START, inner: Box::new(inner) }
}

fn valid_bits(bench: &mut Bench<Snp>) -> Check {
    let mut missed = 0;
    for bit in ValidBit::KNOWN.iter().map(|(_, bit)| *bit) {
        let said = said_to_l1(bench, late(Policy::ClearValidBit(bit.0)))?;
        same("events", said.len(), EVENTS.len())?;
        for ((name, result), event) in said.into_iter().zip(EVENTS) {
            let is_needed = bit == ValidBit::SW_EXIT_INFO_1 || event.outputs.contains(&bit);
            missed += u32::from(is_needed);
            // An exception needs SW_EXITINFO2 as well.
            let asks_for_exceptions = bit == ValidBit::SW_EXIT_INFO_2 && ["MSR", "performance counter"].contains(&name);
            let missing = Err(SnpError::MissingField { field: bit });
            let want = if is_needed || asks_for_exceptions { missing } else { Ok(true) };
            same(&format!("{name} without {bit:?}"), result, want)?;
        }
    }
    ensure(missed >= 40, || format!("only {missed} fields were needed"))
}

fn statuses(bench: &mut Bench<Snp>) -> Check {
    let exception = |info| (Policy::BogusException(info), SnpError::Exception { info });
    let forbidden = |info| (Policy::BogusException(info), SnpError::ForbiddenException { info });
    let rows = [
        exception(0x8000_0b0d),
        exception(0x8000_0306),
        forbidden(0x8000_0b0e),
        forbidden(0x8000_031d),
        forbidden(0x8000_000d),
        forbidden(0x0000_030d),
        forbidden(0),
        (Policy::WrongStatus(3), SnpError::UnknownStatus { status: 3 }),
        (Policy::WrongStatus(u64::MAX), SnpError::UnknownStatus { status: u64::MAX }),
    ];
    for (host, want) in rows {
        let what = format!("{host:x?}");
        for (name, result) in said_to_l1(bench, late(host))? {
            // Two of the events take #GP for an answer, but have another before it.
            same(&format!("{what}: {name}"), result, Err(want))?;
        }
    }
    Ok(())
}

fn lists(bench: &mut Bench<Snp>) -> Check {
    let pages = || range(FREE, PAGE);
    let needed = |given, needed| Err(SnpError::PagesNeeded { given, needed });
    let rows = [
        (Policy::LieListCount(0), Ok(Paged::Done(0))),
        (Policy::LieListCount(9), Err(SnpError::BufferTooSmall { needed: 36, given: 32 })),
        (Policy::LieListCount(1024), Err(SnpError::ListTooLong { count: 1024, most: 1023 })),
        (Policy::LieListCount(u32::MAX), Err(SnpError::ListTooLong { count: u32::MAX.into(), most: 1023 })),
        (Policy::DemandListPages(2), Ok(Paged::PagesNeeded(2))),
        (Policy::DemandListPages(MAX_PAGES_NEEDED), Ok(Paged::PagesNeeded(MAX_PAGES_NEEDED))),
        (Policy::DemandListPages(MAX_PAGES_NEEDED + 1), needed(1, MAX_PAGES_NEEDED + 1)),
        (Policy::DemandListPages(u64::MAX), needed(1, u64::MAX)),
    ];
    for (host, want) in rows {
        let what = format!("{host:x?}");
        let (_, result) = as_l1(bench, under(bench, host), move |l1| {
            let (mut port, mut ghcb) = open_at_l1(l1.cpu)?;
            ghcb.apic_ids(&mut port, Some(pages()), &mut [0; 8])
        });
        same(&what, result, Some(want))?;
    }
    for (demanded, given, is_possible) in [
        (2, Some(pages()), true),
        (MAX_PAGES_NEEDED, None, true),
        (MAX_PAGES_NEEDED + 1, None, false),
        (u64::MAX, Some(pages()), false),
    ] {
        let (_, result) = as_l1(bench, under(bench, Policy::DemandPages(demanded)), move |l1| {
            let (mut port, mut ghcb) = open_at_l1(l1.cpu)?;
            let (request, response) = (frame(page(FREE, 4)), frame(page(FREE, 5)));
            ghcb.extended_guest_request(&mut port, request, response, given).map(|answer| match answer {
                Paged::PagesNeeded(pages) => Some(pages),
                Paged::Done(_) => None,
            })
        });
        let count = given.map_or(0, |_| 1);
        let refused = SnpError::PagesNeeded { given: count, needed: demanded };
        let want = if is_possible { Ok(Some(demanded)) } else { Err(refused) };
        same(&format!("{demanded:#x} certificate pages"), result, Some(want))?;
    }
    Ok(())
}
