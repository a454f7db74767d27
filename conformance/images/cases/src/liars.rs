//! Hosts that lie (H2, S1, A2): they stop progress at most, and what they can do without is done.

use coco_part_api::{Attest, ErrorKind, GuestPort, Identify, REPORT_DATA, Support, Validate};

use crate::bed::Bed;
use crate::calls::{query, query_answer};
use crate::check::{Check, Value, ensure, same};
use crate::evidence::attest;
use crate::guest::{Guest, done, outcome, range, start};
use crate::{Case, case};

const NONCE: [u8; REPORT_DATA] = [0xb7; REPORT_DATA];

/// The cases of this file.
pub(crate) fn cases<P: GuestPort, B: Bed>() -> [Case<P, B>; 16] {
    [
        case!(
            "S1-returned-again",
            "S1",
            "a host that comes back for a call again has it served once",
            everything,
            under("return-again-once")
        ),
        case!(
            "S1-returned-again-often",
            "S1",
            "the same for one that comes back seven times",
            everything,
            under("return-again-often")
        ),
        case!(
            "S1-returns-without-call",
            "S1",
            "a return to L1 without a call is none, and loses none",
            everything,
            under("spurious-return")
        ),
        case!(
            "S3-wrong-level",
            "S3",
            "a host that would run another level finds none to run",
            everything,
            under("wrong-level-3")
        ),
        case!(
            "H2-kicks-for-ever",
            "H2",
            "a host that wakes everybody all the time stops nothing",
            everything,
            under("kick-forever")
        ),
        case!(
            "H2-withholds-kick",
            "H2",
            "a host that wakes nobody stops nothing that can be done without",
            everything,
            under("no-kick")
        ),
        case!(
            "H2-page-state-edits",
            "H2",
            "a host that rewrites page state lists has no say in what is validated",
            everything,
            under("psc-edits-entries")
        ),
        case!(
            "H2-page-state-partial",
            "H2",
            "a host that does one page state at a time is asked again",
            everything,
            under("psc-partial-1")
        ),
        case!(
            "H2-splits-large-pages",
            "H2",
            "a host that splits every large page costs time only",
            everything,
            under("smash-all")
        ),
        case!(
            "H2-says-busy",
            "H2",
            "a busy firmware gets the same request again",
            everything,
            under("report-busy-twice")
        ),
        case!(
            "A2-changed-answer",
            "A2",
            "a changed answer of the firmware is no evidence, and closes the channel for good",
            no_evidence,
            under("corrupt-payload")
        ),
        case!("A2-changed-tag", "A2", "nor is one with a changed tag", no_evidence, under("corrupt-tag")),
        case!("A2-short-answer", "A2", "nor is one that was cut", no_evidence, under("truncate-message")),
        case!("A2-echoed-request", "A2", "nor is the request itself", no_evidence, under("echo-request")),
        case!(
            "A2-lost-request",
            "A2",
            "a request that the host keeps brings no evidence, and closes the channel for good",
            no_evidence,
            under("drop-message-host-error")
        ),
        case!(
            "A2-lost-answer",
            "A2",
            "nor does one whose answer the host keeps",
            no_evidence,
            under("drop-response-firmware-error")
        ),
    ]
}

/// All that a guest does but evidence.
fn work<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>) -> Check {
    for tag in 0..20 {
        same("an answer", guest.call_patiently(query(tag))?, query_answer(tag))?;
    }
    let pages = guest.fresh_pages(6)?;
    done("validate", guest.shim.validate(pages))?;
    guest.is_zero("new memory", pages)?;
    guest.fill(pages)?;
    let one = range(start(pages) + 0x2000, 1)?;
    done("share", guest.shim.share(one))?;
    done("unshare", guest.shim.unshare(one))?;
    guest.is_zero_page("the page that came back", start(one))?;
    guest.is_filled("the pages before it", range(start(pages), 2)?)?;
    guest.is_filled("the pages behind it", range(start(one) + 0x1000, 3)?)?;
    let large = guest.fresh_large()?;
    done("validate 2 MiB", guest.shim.validate(large))?;
    guest.is_zero("2 MiB", large)?;
    guest.fill(large)?;
    guest.is_filled("2 MiB", large)
}

/// All that a guest does.
pub(crate) fn everything<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>) -> Check {
    work(guest)?;
    for round in 0..2 {
        attest(guest, &[round; REPORT_DATA], &mut [0; 4096])?;
    }
    ensure("pages can be given up alone", guest.shim.capabilities().rescind_unassigned == Support::Yes)
}

fn no_evidence<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>) -> Check {
    work(guest)?;
    let mut out = [0xee; 4096];
    let first = outcome(guest.shim.attest(&NONCE, &mut out));
    let is_refused = matches!(
        first,
        Value::Stopped(ErrorKind::HostMisbehaved | ErrorKind::HostRefused | ErrorKind::ChannelClosed, _)
    );
    ensure("there is no evidence", is_refused)?;
    ensure("nothing was written", out.iter().all(|byte| *byte == 0xee))?;
    same("and the channel is closed", outcome(guest.shim.attest(&NONCE, &mut out)), ErrorKind::ChannelClosed)?;
    work(guest)
}
