//! Lists of pages: bits, counts, places, and what they come to (H1, M4, H2).

use coco_part_api::GuestPort;
use coco_part_api::range::SMALL;
use coco_part_api::svsm::{CallResult, PVALIDATE};

use crate::bed::Bed;
use crate::check::{Check, same};
use crate::guest::{BAD_ADDRESS, BAD_PARAMETER, BIG, Guest, NO_CHANGE, OK, VALIDATE, address, page, start, wrong};
use crate::{Case, case};

/// The cases of this file.
pub(crate) fn cases<P: GuestPort, B: Bed>() -> [Case<P, B>; 12] {
    [
        case!("M1-unaligned-arguments", "M1", "lists and large entries that are not aligned are refused", unaligned),
        case!("M1-wrapping-arguments", "M1", "addresses near 2^52 and 2^64 are refused", wrapping),
        case!("M1-c-bit-in-address", "M1", "an address with the bit that marks private mappings is refused", c_bit),
        case!("H1-reserved-bits", "H1", "reserved sizes, entry bits and header bits are refused", reserved),
        case!(
            "H1-list-counts",
            "H1",
            "counts of zero, cursors beyond the list and lists beyond their page are refused",
            counts
        ),
        case!(
            "H1-list-placement",
            "H1",
            "a list lies in the guest's own memory or behind the mark of its call area",
            placement
        ),
        case!(
            "H1-list-names-itself",
            "H1",
            "an entry that names the page of the list stops there; entries before it are done",
            itself
        ),
        case!(
            "H1-duplicates",
            "H1",
            "a list that names a page twice has the effect of its entries one after the other",
            duplicates
        ),
        case!("M4-list-stops-at-first", "M4", "a list whose first entry is bad does nothing", stops_first),
        case!(
            "M4-list-stops-at-entry",
            "M4",
            "a list stops at its bad entry; those before are done, those behind are not",
            stops_middle
        ),
        case!("M4-list-stops-at-last", "M4", "a list whose last entry is bad is done up to there", stops_last),
        case!("H2-bounded-work", "H2", "a list of a whole page is done in several calls, each one further", bounded),
    ]
}

fn unaligned<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>) -> Check {
    let list = guest.own(0);
    guest.write_list(list, &[guest.own(1) | VALIDATE])?;
    for at in [guest.area_list() + 1, list + 4] {
        guest.core_answers("a list that is not aligned", PVALIDATE, [at, 0, 0], BAD_PARAMETER)?;
    }
    let large = start(guest.places.fresh);
    guest.entry_answers("a large entry", page(large, 1) | BIG | VALIDATE, BAD_PARAMETER)?;
    guest.entry_answers("a large entry to give up", page(large, 511) | BIG, BAD_PARAMETER)
}

fn wrapping<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>) -> Check {
    for at in [!0xfff, 1 << 63, 1 << 52, (1 << 52) - SMALL, 1 << 47 | guest.own(1)] {
        guest.entry_answers("an entry", at | VALIDATE, BAD_ADDRESS)?;
        guest.entry_answers("an entry to give up", at, BAD_ADDRESS)?;
        guest.core_answers("a list", PVALIDATE, [at, 0, 0], BAD_ADDRESS)?;
    }
    let last = (1 << 52) - (1 << 21);
    guest.entry_answers("the last 2 MiB there are", last | BIG | VALIDATE, BAD_ADDRESS)
}

fn c_bit<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>) -> Check {
    const C_BIT: u64 = 1 << 51;
    let at = guest.own(1) | C_BIT;
    guest.neither("a page of the guest", at, BAD_ADDRESS)?;
    guest.write_list(guest.own(0), &[guest.own(1) | VALIDATE])?;
    guest.core_answers("a list", PVALIDATE, [guest.own(0) | C_BIT, 0, 0], BAD_ADDRESS)
}

fn reserved<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>) -> Check {
    let at = start(guest.places.fresh);
    for size in [2, 3] {
        guest.entry_answers("a size", at | size | VALIDATE, BAD_PARAMETER)?;
    }
    for bit in 4..12 {
        guest.entry_answers("a bit of an entry", at | VALIDATE | 1 << bit, BAD_PARAMETER)?;
    }
    let list = guest.area_list();
    for bit in [32, 63] {
        guest.write_list(list, &[guest.own(1) | VALIDATE])?;
        guest.put(list, 1 | 1 << bit)?;
        guest.core_answers("a bit of the header", PVALIDATE, [list, 0, 0], BAD_PARAMETER)?;
    }
    Ok(())
}

fn counts<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>) -> Check {
    let list = guest.area_list();
    for header in [0, 1 | 1 << 16, 1 | 0xffff << 16, 511, 0xffff] {
        guest.write_list(list, &[guest.own(1) | VALIDATE])?;
        guest.put(list, header)?;
        guest.core_answers("a header", PVALIDATE, [list, 0, 0], BAD_PARAMETER)?;
        same("the header", guest.word(list)?, header)?;
    }
    let last = page(guest.own(0), 1) - 8;
    guest.put(last, 1)?;
    guest.core_answers("a list that begins at the end of its page", PVALIDATE, [last, 0, 0], BAD_PARAMETER)
}

fn placement<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>) -> Check {
    let places = guest.places;
    let (area, fresh) = (guest.first_area(), start(guest.fresh_pages(1)?));
    for at in [area, places.monitor.data, places.monitor.secrets, places.hole, fresh] {
        guest.core_answers("a list", PVALIDATE, [at, 0, 0], BAD_ADDRESS)?;
    }
    let pages = guest.agreed_pages(3)?;
    let good = [guest.area_list(), guest.own(0), page(guest.own(0), 1) - 0x10];
    for (index, list) in (0..).zip(good) {
        let listed = guest.list(list, &[page(start(pages), index) | VALIDATE])?;
        same("a list where it may lie", listed, (OK, 1))?;
    }
    guest.is_zero("the pages", pages)
}

fn itself<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>) -> Check {
    let [list, first, second] = [0, 1, 2].map(|index| guest.own(index));
    same("alone", guest.list(list, &[list])?, (BAD_ADDRESS, 0))?;
    same("in the middle", guest.list(list, &[first, list, second])?, (BAD_ADDRESS, 1))?;
    guest.put(second, 1)?;
    guest.entry_answers("the page before", first | VALIDATE, OK)
}

fn duplicates<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>) -> Check {
    let list = guest.own(0);
    let at = start(guest.agreed_pages(1)?);
    same("valid twice", guest.list(list, &[at | VALIDATE, at | VALIDATE])?, (NO_CHANGE, 1))?;
    guest.put(at, 0x6d69_6e65)?;
    // Down, up, down, up.
    guest.mark();
    same("and back", guest.list(list, &[at, at | VALIDATE, at, at | VALIDATE])?, (OK, 4))?;
    guest.mark();
    guest.is_zero_page("the page", at)
}

/// Four pages of which one entry, put in at `index`, is a page of L1.
fn stops_at<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>, index: u16) -> Check {
    let pages = guest.agreed_pages(4)?;
    let entry = |index: u64| page(start(pages), index) | VALIDATE;
    let mut entries = [0; 5];
    for (place, word) in (0..).zip(&mut entries) {
        *word = match index {
            at if at > place => entry(u64::from(place)),
            at if at == place => guest.places.monitor.data | VALIDATE,
            _ => entry(u64::from(place) - 1),
        };
    }
    guest.mark();
    same("the list", guest.list(guest.area_list(), &entries)?, (BAD_ADDRESS, index))?;
    guest.mark();
    // Whoever is done is "no change"; the others are done now.
    for place in 0..4 {
        let want = if place < index { NO_CHANGE } else { OK };
        guest.entry_answers("each page afterwards", entry(u64::from(place)), want)?;
    }
    guest.is_zero("the pages", pages)
}

fn stops_first<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>) -> Check {
    stops_at(guest, 0)
}

fn stops_middle<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>) -> Check {
    stops_at(guest, 2)
}

fn stops_last<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>) -> Check {
    stops_at(guest, 4)
}

fn bounded<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>) -> Check {
    // The own page 1 goes down and comes back, all over a list that fills its page.
    const ENTRIES: u16 = 510;
    let (list, at) = (guest.own(0), guest.own(1));
    address(list)?;
    guest.put(list, ENTRIES.into())?;
    for index in 0..u64::from(ENTRIES) {
        guest.put(list + 8 * (index + 1), if index % 2 == 0 { at } else { at | VALIDATE })?;
    }
    let (mut before, mut calls) = (0, 0_u32);
    guest.mark();
    loop {
        let result = guest.core(PVALIDATE, [list, 0, 0])?;
        let now = guest.cursor(list)?;
        calls += 1;
        same("the cursor moves on", now > before, true)?;
        before = now;
        match result {
            OK => break,
            CallResult::INCOMPLETE => {}
            result => return Err(wrong("the list", result.kind())),
        }
    }
    guest.mark();
    same("the cursor", u64::from(before), u64::from(ENTRIES))?;
    same("one call does it all", calls == 1, false)?;
    guest.is_zero_page("the page", at)
}
