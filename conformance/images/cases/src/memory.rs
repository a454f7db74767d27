//! Validate, rescind and share the guest's own memory (M1 to M4, M6).

use coco_part_api::range::{FRAMES_PER_LARGE, LARGE, SMALL};
use coco_part_api::svsm::CallResult;
use coco_part_api::{After, ErrorKind, GuestPort, HostState, Validate};

use crate::bed::{Bed, Found, Instruction, View};
use crate::check::{Check, Value, same};
use crate::guest::{BIG, Guest, IGNORE_NO_CHANGE, NO_CHANGE, OK, VALIDATE, done, page, range, start, stopped};
use crate::{Case, case};

/// What the host must not see, nor the guest again.
const SECRET: u64 = 0x7365_6372_6574_2121;

/// The cases of this file.
pub(crate) fn cases<P: GuestPort, B: Bed>() -> [Case<P, B>; 23] {
    [
        case!(
            "M1-range-outside-map",
            "M1",
            "a verb on pages that no memory map holds is refused before any call",
            outside_map
        ),
        case!(
            "M1-range-across-the-end",
            "M1",
            "a range that begins in RAM and ends behind it is refused as a whole",
            across_end
        ),
        case!(
            "M2-validate-twice",
            "M2",
            "validating the own valid page again is \"no change\", and keeps its contents",
            twice
        ),
        case!(
            "M2-validate-twice-ignored",
            "M2",
            "with ignore_cf it succeeds, without an instruction and without zeroing",
            twice_ignored
        ),
        case!("M2-validate-twice-2m", "M2", "the same for 2 MiB", twice_large),
        case!(
            "M2-validate-twice-by-the-verb",
            "M2",
            "the verb says that the pages are in that state, at the first of them",
            twice_verb
        ),
        case!("M2-mixed-large-page", "M2", "2 MiB of which one page is valid already are refused as a whole", mixed),
        case!("M2-rescind-twice", "M2", "rescinding what is not valid is \"no change\"", rescind_twice),
        case!("M3-zero-4k", "M3", "a validated page reads zero everywhere", zero_small),
        case!("M3-zero-2m", "M3", "2 MiB validated by one entry read zero", zero_large),
        case!(
            "M3-both-sizes",
            "M3",
            "a range that begins and ends inside of large pages is validated in pages of both sizes",
            both_sizes
        ),
        case!(
            "M3-keeps-what-is-written",
            "M3",
            "what the guest writes stays, whatever becomes of the pages beside it",
            keeps
        ),
        case!("M3-comes-back-zero", "M3", "a page that was given up and validated again reads zero", comes_back),
        case!(
            "M3-small-page-of-large",
            "M3",
            "of 2 MiB one page is given up and taken back; the others keep their contents",
            small_of_large
        ),
        case!("M3-large-page-given-up", "M3", "2 MiB are given up by one entry and come back as zeros", large_given_up),
        case!(
            "M3-unvalidated-page",
            "M3",
            "a page that the host made private and nobody validated is no memory",
            unvalidated
        ),
        case!("M3-rescinded-page", "M3", "a page that was given up is no memory any more", rescinded),
        case!(
            "M4-mapped-small",
            "M4",
            "2 MiB that the host holds in small pages: the entry is refused for its size, the verb does them small",
            mapped_small
        ),
        case!(
            "M4-verb-resumes",
            "M4",
            "the verb stops where a page is valid already, says how far it came, and goes on behind it",
            resumes
        ),
        case!(
            "M6-share-and-unshare",
            "M6",
            "a shared page shows the host nothing of its past, and comes back as zeros",
            share
        ),
        case!(
            "M6-share-inside-large",
            "M6",
            "a page inside of 2 MiB is shared; the pages beside it stay private and keep their contents",
            share_inside
        ),
        case!(
            "M6-shared-page-is-not-shared-again",
            "M6",
            "sharing what is shared is refused, and it stays as it is",
            share_twice
        ),
        case!(
            "M6-rescind-unassigned",
            "M6",
            "pages given up without being shared can be validated again, without the host",
            rescind_unassigned
        ),
    ]
}

fn outside_map<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>) -> Check {
    let hole = range(guest.places.hole, 2)?;
    guest.mark();
    let outside = Value::from(ErrorKind::OutOfRange);
    same("validate", stopped(guest.shim.validate(hole)), outside)?;
    same("rescind", stopped(guest.shim.rescind(hole, After::Unassigned)), outside)?;
    same("share", stopped(guest.shim.share(hole)), outside)?;
    same("unshare", stopped(guest.shim.unshare(hole)), outside)?;
    guest.mark();
    Ok(())
}

fn across_end<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>) -> Check {
    let end = start(guest.places.fresh) + guest.places.fresh.bytes();
    let across = range(end - SMALL, 2)?;
    same("validate", stopped(guest.shim.validate(across)), ErrorKind::OutOfRange)?;
    same("share", stopped(guest.shim.share(across)), ErrorKind::OutOfRange)?;
    // The same by an entry: 2 MiB behind the last ones.
    guest.entry_answers("2 MiB behind RAM", end | BIG | VALIDATE, CallResult::INVALID_ADDRESS)
}

fn twice<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>) -> Check {
    let at = guest.own(1);
    guest.put(at, SECRET)?;
    guest.mark();
    guest.entry_answers("the own valid page", at | VALIDATE, NO_CHANGE)?;
    guest.mark();
    same("contents", guest.word(at)?, SECRET)
}

fn twice_ignored<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>) -> Check {
    let at = guest.own(1);
    guest.put(at, SECRET)?;
    guest.mark();
    guest.entry_answers("the own valid page", at | VALIDATE | IGNORE_NO_CHANGE, OK)?;
    guest.mark();
    same("contents", guest.word(at)?, SECRET)
}

fn twice_large<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>) -> Check {
    let pages = guest.agreed_large()?;
    let at = start(pages);
    guest.entry_answers("2 MiB", at | BIG | VALIDATE, OK)?;
    guest.fill(pages)?;
    guest.entry_answers("2 MiB again", at | BIG | VALIDATE, NO_CHANGE)?;
    guest.mark();
    guest.entry_answers("2 MiB again, with ignore_cf", at | BIG | VALIDATE | IGNORE_NO_CHANGE, OK)?;
    guest.mark();
    guest.entry_answers("one page of them", page(at, 7) | VALIDATE, NO_CHANGE)?;
    guest.is_filled("contents", pages)
}

fn twice_verb<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>) -> Check {
    let pages = guest.own_range(1, 3)?;
    guest.fill(pages)?;
    same("validate", stopped(guest.shim.validate(pages)), ErrorKind::AlreadyInState)?;
    guest.is_filled("contents", pages)
}

fn mixed<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>) -> Check {
    let pages = guest.agreed_large()?;
    let (at, one) = (start(pages), page(start(pages), 7));
    // The machine holds the 2 MiB as one entry and splits it first.
    guest.entry_answers("the page in the middle", one | VALIDATE, OK)?;
    guest.put(one, SECRET)?;
    guest.entry_answers("2 MiB", at | BIG | VALIDATE, NO_CHANGE)?;
    guest.entry_answers("2 MiB with ignore_cf", at | BIG | VALIDATE | IGNORE_NO_CHANGE, NO_CHANGE)?;
    guest.entry_answers("2 MiB to give up", at | BIG, NO_CHANGE)?;
    same("the page in the middle", guest.word(one)?, SECRET)?;
    unreachable(guest, page(at, 8))
}

fn rescind_twice<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>) -> Check {
    let at = guest.own(1);
    guest.entry_answers("rescind", at, OK)?;
    guest.entry_answers("rescind again", at, NO_CHANGE)?;
    guest.entry_answers("rescind again, with ignore_cf", at | IGNORE_NO_CHANGE, OK)?;
    guest.entry_answers("validate", at | VALIDATE, OK)
}

fn zero_small<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>) -> Check {
    let pages = guest.agreed_pages(4)?;
    let list = guest.area_list();
    let entries = [0, 1, 2, 3].map(|index| page(start(pages), index) | VALIDATE);
    guest.mark();
    let listed = guest.list(list, &entries)?;
    guest.mark();
    same("four pages", listed, (OK, 4))?;
    for index in 0..4 {
        guest.is_zero_page("a new page", page(start(pages), index))?;
    }
    guest.fill(pages)?;
    guest.is_filled("what is written", pages)
}

fn zero_large<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>) -> Check {
    let pages = guest.agreed_large()?;
    guest.mark();
    guest.entry_answers("2 MiB", start(pages) | BIG | VALIDATE, OK)?;
    guest.mark();
    guest.is_zero("new memory", pages)?;
    guest.is_zero_page("its last page", page(start(pages), FRAMES_PER_LARGE - 1))?;
    guest.fill(pages)?;
    guest.is_filled("what is written", pages)
}

fn both_sizes<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>) -> Check {
    let first = guest.fresh_large()?;
    let last = [guest.fresh_large()?, guest.fresh_large()?];
    same("2 MiB in a row", start(last[1]), start(first) + 2 * LARGE)?;
    // Two pages, 2 MiB, three pages.
    let pages = range(page(start(first), FRAMES_PER_LARGE - 2), 2 + FRAMES_PER_LARGE + 3)?;
    guest.mark();
    done("validate", guest.shim.validate(pages))?;
    guest.mark();
    guest.is_zero("new memory", pages)?;
    guest.fill(pages)?;
    guest.is_filled("what is written", pages)
}

fn keeps<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>) -> Check {
    let [before, changed, behind] = [guest.own_range(1, 2)?, guest.own_range(3, 2)?, guest.own_range(5, 2)?];
    for pages in [before, changed, behind] {
        guest.fill(pages)?;
    }
    done("give up", guest.shim.rescind(changed, After::Unassigned))?;
    done("take back", guest.shim.validate(changed))?;
    for pages in [before, behind] {
        guest.is_filled("the pages beside", pages)?;
    }
    guest.is_zero("the pages that were changed", changed)
}

fn comes_back<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>) -> Check {
    let at = guest.own(1);
    guest.fill(range(at, 1)?)?;
    guest.mark();
    guest.entry_answers("give up", at, OK)?;
    guest.mark();
    guest.entry_answers("take back", at | VALIDATE, OK)?;
    guest.mark();
    guest.is_zero_page("the page", at)
}

fn small_of_large<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>) -> Check {
    let pages = guest.agreed_large()?;
    guest.entry_answers("2 MiB", start(pages) | BIG | VALIDATE, OK)?;
    guest.fill(pages)?;
    let one = page(start(pages), 100);
    guest.mark();
    guest.entry_answers("give one page up", one, OK)?;
    guest.mark();
    unreachable(guest, one)?;
    guest.entry_answers("take it back", one | VALIDATE, OK)?;
    guest.mark();
    guest.is_zero_page("the page", one)?;
    guest.is_filled("the pages before it", range(start(pages), 100)?)?;
    guest.is_filled("the pages behind it", range(page(one, 1), FRAMES_PER_LARGE - 101)?)
}

fn large_given_up<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>) -> Check {
    let pages = guest.agreed_large()?;
    let at = start(pages);
    guest.entry_answers("2 MiB", at | BIG | VALIDATE, OK)?;
    guest.fill(pages)?;
    guest.mark();
    guest.entry_answers("give them up", at | BIG, OK)?;
    guest.mark();
    unreachable(guest, page(at, 3))?;
    guest.entry_answers("take them back", at | BIG | VALIDATE, OK)?;
    guest.mark();
    guest.is_zero("the pages", pages)
}

/// Loads and stores of a page raise #VC.
fn unreachable<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>, at: u64) -> Check {
    let load = guest.bed.execute(Instruction::Load { at, view: View::Private });
    same("a load", load, NOT_VALIDATED)?;
    let store = guest.bed.execute(Instruction::Store { at, view: View::Private, value: SECRET });
    same("a store", store, NOT_VALIDATED)
}

/// #VC: the page is not validated (56421, exit code 0x404).
const NOT_VALIDATED: Found = Found::Vc(0x404);

fn unvalidated<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>) -> Check {
    let pages = guest.agreed_pages(1)?;
    unreachable(guest, start(pages))?;
    guest.entry_answers("validate", start(pages) | VALIDATE, OK)?;
    guest.is_zero_page("the page", start(pages))
}

fn rescinded<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>) -> Check {
    let at = guest.own(2);
    guest.put(at, SECRET)?;
    guest.entry_answers("give up", at, OK)?;
    unreachable(guest, at)?;
    guest.entry_answers("take back", at | VALIDATE, OK)?;
    guest.is_zero_page("the page", at)
}

fn mapped_small<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>) -> Check {
    let pages = guest.fresh_large()?;
    // In halves, so that the host holds them small.
    for half in [0, FRAMES_PER_LARGE / 2] {
        guest.agree(range(page(start(pages), half), FRAMES_PER_LARGE / 2)?, HostState::Private)?;
    }
    guest.entry_answers("2 MiB", start(pages) | BIG | VALIDATE, CallResult::FAIL_SIZE_MISMATCH)?;
    unreachable(guest, start(pages))?;
    for half in [0, FRAMES_PER_LARGE / 2] {
        done("validate", guest.shim.validate(range(page(start(pages), half), FRAMES_PER_LARGE / 2)?))?;
    }
    guest.is_zero("new memory", pages)?;
    guest.fill(pages)?;
    guest.is_filled("what is written", pages)
}

fn resumes<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>) -> Check {
    let pages = guest.agreed_pages(8)?;
    guest.entry_answers("one in the middle", page(start(pages), 5) | VALIDATE, OK)?;
    guest.fill(range(page(start(pages), 5), 1)?)?;
    let first = guest.shim.validate(pages);
    same("all of them", stopped(first), Value::Stopped(ErrorKind::AlreadyInState, 5))?;
    guest.is_zero("the pages before", range(start(pages), 5)?)?;
    unreachable(guest, page(start(pages), 6))?;
    done("the rest", guest.shim.validate(range(page(start(pages), 6), 2)?))?;
    guest.is_filled("the page in the middle", range(page(start(pages), 5), 1)?)
}

fn share<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>) -> Check {
    let at = guest.own(1);
    guest.put(at, SECRET)?;
    guest.mark();
    done("share", guest.shim.share(range(at, 1)?))?;
    guest.mark();
    let seen = guest.bed.execute(Instruction::Load { at, view: View::Shared });
    same("the host sees what it held", seen == Found::Value(SECRET), false)?;
    let stored = guest.bed.execute(Instruction::Store { at, view: View::Shared, value: !SECRET });
    same("a store for the host", stored, Found::Done)?;
    let loaded = guest.bed.execute(Instruction::Load { at, view: View::Shared });
    same("a load of it", loaded, Found::Value(!SECRET))?;
    done("unshare", guest.shim.unshare(range(at, 1)?))?;
    guest.mark();
    guest.is_zero_page("the page", at)
}

fn share_inside<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>) -> Check {
    let pages = guest.fresh_large()?;
    done("validate", guest.shim.validate(pages))?;
    guest.fill(pages)?;
    let one = range(page(start(pages), 256), 1)?;
    guest.mark();
    done("share", guest.shim.share(one))?;
    guest.mark();
    guest.is_filled("the pages before it", range(start(pages), 256)?)?;
    guest.is_filled("the pages behind it", range(page(start(pages), 257), FRAMES_PER_LARGE - 257)?)?;
    done("unshare", guest.shim.unshare(one))?;
    guest.is_zero_page("the page", start(one))
}

fn share_twice<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>) -> Check {
    let one = guest.own_range(1, 1)?;
    done("share", guest.shim.share(one))?;
    let at = start(one);
    let stored = guest.bed.execute(Instruction::Store { at, view: View::Shared, value: SECRET });
    same("a store for the host", stored, Found::Done)?;
    same("share again", stopped(guest.shim.share(one)), ErrorKind::AlreadyInState)?;
    let loaded = guest.bed.execute(Instruction::Load { at, view: View::Shared });
    same("a load of it", loaded, Found::Value(SECRET))?;
    done("unshare", guest.shim.unshare(one))
}

fn rescind_unassigned<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>) -> Check {
    let pages = guest.own_range(1, 3)?;
    guest.fill(pages)?;
    guest.mark();
    done("give up", guest.shim.rescind(pages, After::Unassigned))?;
    guest.mark();
    let entries = [0, 1, 2].map(|index| page(start(pages), index) | VALIDATE);
    let listed = guest.list(guest.area_list(), &entries)?;
    same("take back", listed, (OK, 3))?;
    guest.is_zero("the pages", pages)
}
