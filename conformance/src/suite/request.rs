//! What a hostile guest may ask of L1: every bad argument has a named answer and changes nothing.

mod calls;
mod lists;
mod memory;
mod places;
mod services;

use calls::{mixed_large_page, unknown_calls, validate_twice};
use lists::{bounded_work, counts, duplicates, names_itself, placement, reserved_bits, stops_at_entry};
use places::{call_areas, pages_of_l1, remap, shared_pages, state_frames, straddles, unaligned, wrapping};

use super::{Case, Kind};
use crate::platform::Platform;

macro_rules! case {
    ($id:literal, $rule:literal, [$($threat:literal),*], $kind:ident, $text:literal, $run:expr) => {
        Case { id: $id, rule: $rule, threats: &[$($threat),*], kind: Kind::$kind, text: $text, run: $run }
    };
}

/// The cases of this file.
pub(crate) fn cases<P: Platform>() -> Vec<Case<P>> {
    let mut all = vec![
        case!(
            "M7-pages-of-l1",
            "M7",
            ["RQ-01", "RQ-04", "PG-07", "PG-24"],
            HostileGuest,
            "pages of L1 and addresses outside of the memory map are neither validated nor rescinded for a guest",
            pages_of_l1
        ),
        case!(
            "M7-call-areas",
            "M7",
            ["RQ-02", "RQ-05"],
            HostileGuest,
            "registered call areas, the boot vCPU's too, are neither validated nor rescinded",
            call_areas
        ),
        case!(
            "M7-state-frames",
            "M7",
            ["RQ-03", "RQ-05"],
            HostileGuest,
            "live state frames, the boot vCPU's too, are neither validated nor rescinded",
            state_frames
        ),
        case!(
            "M1-unaligned-arguments",
            "M1",
            ["RQ-06"],
            HostileGuest,
            "lists, call areas, state frames and large entries that are not aligned are refused",
            unaligned
        ),
        case!(
            "M1-wrapping-arguments",
            "M1",
            ["RQ-07", "PG-22"],
            HostileGuest,
            "addresses near 2^52 and 2^64, or with the bit that marks private mappings, are refused",
            wrapping
        ),
        case!(
            "M1-large-page-straddles",
            "M1",
            ["PG-10", "PG-09"],
            HostileGuest,
            "a 2 MiB entry is refused when any of its frames is not the caller's to ask for",
            straddles
        ),
        case!(
            "M2-validate-twice",
            "M2",
            ["PG-03", "PG-04"],
            HostileGuest,
            "validating the own valid page again is \"no change\"; with ignore_cf it succeeds and touches nothing",
            validate_twice
        ),
        case!(
            "M2-mixed-large-page",
            "M2",
            ["PG-03"],
            HostileGuest,
            "a 2 MiB range with one 4 KiB page that is valid already is refused as a whole",
            mixed_large_page
        ),
        case!(
            "H1-reserved-bits",
            "H1",
            ["RQ-08"],
            HostileGuest,
            "reserved sizes, entry bits, header bytes and register halves are refused",
            reserved_bits
        ),
        case!(
            "H1-list-counts",
            "H1",
            ["RQ-09"],
            HostileGuest,
            "counts of zero, cursors beyond the list and lists beyond their page are refused",
            counts
        ),
        case!(
            "H1-list-placement",
            "H1",
            ["RQ-10"],
            HostileGuest,
            "lists lie in the caller's own memory or behind the mark of its call area, nowhere else",
            placement
        ),
        case!(
            "H1-shared-arguments",
            "H1",
            ["RQ-28"],
            HostileGuest,
            "a page that the guest shares with the host is no list, call area or state frame",
            shared_pages
        ),
        case!(
            "H1-list-names-itself",
            "H1",
            ["RQ-11"],
            HostileGuest,
            "an entry that names the page of the list stops there; entries before it are done",
            names_itself
        ),
        case!(
            "H1-duplicates",
            "H1",
            ["RQ-13"],
            HostileGuest,
            "a list that names a page twice has the effect of its entries one after the other",
            duplicates
        ),
        case!(
            "M4-list-stops-at-entry",
            "M4",
            ["PG-27"],
            HostileGuest,
            "a list stops at its first bad entry; the cursor names it and nothing behind it is done",
            stops_at_entry
        ),
        case!(
            "M7-remap-call-area",
            "M7",
            ["RQ-17"],
            HostileGuest,
            "a call area moves only to the caller's own plain page; a refusal writes nothing and the old one still works",
            remap
        ),
        case!(
            "S2-unknown-calls",
            "S2",
            ["RQ-19", "RQ-20", "RQ-23"],
            HostileGuest,
            "unknown protocols and calls are named as such and change no register but RAX",
            unknown_calls
        ),
        case!(
            "H2-bounded-work",
            "H2",
            ["RQ-22"],
            Bounds,
            "a long list is done in several calls, each answering \"incomplete\" with its cursor",
            bounded_work
        ),
    ];
    all.extend(further());
    all
}

/// Cases of what came after the first calls: memory for L1, and its services.
fn further<P: Platform>() -> Vec<Case<P>> {
    vec![
        case!(
            "M3-deposit-withdraw",
            "M3",
            ["PG-09"],
            Contract,
            "deposited pages are out of the guest's reach; withdrawn ones read as zero and are plain memory again",
            memory::there_and_back
        ),
        case!(
            "M7-deposit-not-own",
            "M7",
            ["RQ-01", "RQ-02", "RQ-03", "RQ-04"],
            HostileGuest,
            "nothing but the caller's plain valid pages is deposited",
            memory::not_own
        ),
        case!(
            "M7-deposited-pages",
            "M7",
            ["RQ-01", "RQ-10"],
            HostileGuest,
            "a deposited page is named in no other call and holds no argument of one",
            memory::kept_by_l1
        ),
        case!(
            "H1-deposit-lists",
            "H1",
            ["RQ-06", "RQ-07", "RQ-08", "RQ-09", "RQ-10"],
            HostileGuest,
            "lists of pages to deposit, and places for withdrawn ones, are refused for every bad bit, count and place",
            memory::lists
        ),
        case!(
            "H1-withdrawn-lists",
            "H1",
            ["RQ-09"],
            HostileGuest,
            "a list of withdrawn pages ends with its page, whatever count the guest put there",
            memory::bounded_lists
        ),
        case!(
            "M4-deposit-stops-at-entry",
            "M4",
            ["PG-27", "RQ-13"],
            HostileGuest,
            "a deposit stops at its first bad entry, a page named twice among them, and keeps nothing behind it",
            memory::stops_at_entry
        ),
        case!(
            "S2-vtpm-commands",
            "S2",
            ["VT-01"],
            Contract,
            "a vTPM command is framed as published, at any address, and its response overwrites the buffer",
            services::vtpm
        ),
        case!(
            "H1-vtpm-frames",
            "H1",
            ["VT-01", "VT-02"],
            HostileGuest,
            "other platform commands, localities, sizes and places of a vTPM command are refused",
            services::vtpm_refusals
        ),
        case!(
            "A1-services-evidence",
            "A1",
            ["AT-01"],
            Contract,
            "evidence over L1's services is its own over nonce and manifest, and is given where the hardware signs levels",
            services::evidence
        ),
        case!(
            "H1-services-requests",
            "H1",
            ["RQ-26", "RQ-27"],
            HostileGuest,
            "requests for such evidence with bad buffers, sizes, overlaps and places are refused",
            services::evidence_refusals
        ),
    ]
}
