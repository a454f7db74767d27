//! Memory that the guest lends L1 (M3, M4, M7).

use coco_part_api::svsm::{DEPOSIT_MEM, PVALIDATE, REMAP_CA};
use coco_part_api::vcpu::frame_at;
use coco_part_api::{ErrorKind, FrameRange, GuestPort};
use x86_64::structures::paging::PhysFrame;

use crate::bed::Bed;
use crate::check::{Check, same};
use crate::guest::{BAD_ADDRESS, BIG, Guest, NO_CHANGE, OK, VALIDATE, done, page, range, start, wrong};
use crate::{Case, case};

/// The cases of this file.
pub(crate) fn cases<P: GuestPort, B: Bed>() -> [Case<P, B>; 4] {
    [
        case!(
            "M3-deposit-withdraw",
            "M3",
            "deposited pages come back as zeros, each once, and are plain memory again",
            there_and_back
        ),
        case!(
            "M7-deposit-not-own",
            "M7",
            "memory that is not valid, 2 MiB with a call area, and the page of the list are not deposited",
            not_own
        ),
        case!("M7-deposited-pages", "M7", "a deposited page is named in no other call", named),
        case!(
            "M4-deposit-stops-at-entry",
            "M4",
            "a deposit stops at its first bad entry, and keeps nothing behind it",
            stops
        ),
    ]
}

/// Withdraws until nothing is left, and demands that exactly these pages come.
fn withdraw_all<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>, pages: FrameRange) -> Check {
    let mut seen = 0_u64;
    let nothing = frame_at(guest.own(0)).ok_or(wrong("an address", ErrorKind::Misaligned))?;
    while guest.shim.has_deposits().unwrap_or(false) {
        let mut frames = [nothing; 16];
        let count = guest.shim.withdraw(&mut frames);
        let count = count.map_err(|error| wrong("withdraw", coco_part_api::Error::kind(&error)))?;
        for frame in frames.iter().take(count) {
            let is_one = pages.contains(FrameRange::of(*frame));
            same("a withdrawn page is one that was deposited", is_one, true)?;
            seen |= 1 << bit(pages, *frame);
        }
    }
    let all = (1_u64 << pages.frames()) - 1;
    same("withdrawn pages, a bit each", seen, all)
}

fn bit(pages: FrameRange, frame: PhysFrame) -> u64 {
    FrameRange::of(frame).first_number().wrapping_sub(pages.first_number()) % 64
}

fn there_and_back<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>) -> Check {
    let pages = guest.own_range(8, 5)?;
    guest.fill(pages)?;
    guest.mark();
    done("deposit", guest.shim.deposit(pages))?;
    guest.mark();
    withdraw_all(guest, pages)?;
    guest.mark();
    for index in 0..5 {
        guest.is_zero_page("a page that came back", page(start(pages), index))?;
    }
    guest.fill(pages)?;
    guest.is_filled("plain memory", pages)
}

fn not_own<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>) -> Check {
    let (list, block) = (guest.own(0), guest.fresh_large()?);
    for entry in [start(block), start(block) | BIG, guest.first_area()] {
        same("a deposit", guest.list_of(DEPOSIT_MEM, list, &[entry])?, (BAD_ADDRESS, 0))?;
    }
    let area = guest.first_area() & !((1 << 21) - 1);
    same("2 MiB with a call area", guest.list_of(DEPOSIT_MEM, list, &[area | BIG])?, (BAD_ADDRESS, 0))?;
    same("the page of the list", guest.list_of(DEPOSIT_MEM, list, &[list])?, (BAD_ADDRESS, 0))
}

fn named<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>) -> Check {
    let one = guest.own_range(8, 1)?;
    let at = start(one);
    done("deposit", guest.shim.deposit(one))?;
    guest.neither("an entry", at, BAD_ADDRESS)?;
    same("a deposit", guest.list_of(DEPOSIT_MEM, guest.own(0), &[at])?, (BAD_ADDRESS, 0))?;
    guest.core_answers("a list there", PVALIDATE, [at, 0, 0], BAD_ADDRESS)?;
    guest.core_answers("a call area", REMAP_CA, [at, 0, 0], BAD_ADDRESS)?;
    withdraw_all(guest, one)
}

fn stops<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>) -> Check {
    let (list, bad) = (guest.own(0), guest.places.monitor.data);
    let [a, b, c] = [8, 9, 10].map(|index| guest.own(index));
    same("the list", guest.list_of(DEPOSIT_MEM, list, &[a, b, bad, c])?, (BAD_ADDRESS, 2))?;
    guest.put(c, 1)?;
    withdraw_all(guest, range(a, 2)?)?;
    same("a page twice", guest.list_of(DEPOSIT_MEM, list, &[a, a])?, (BAD_ADDRESS, 1))?;
    withdraw_all(guest, range(a, 1)?)?;
    guest.entry_answers("plain memory", a | VALIDATE, NO_CHANGE)?;
    same("nothing is kept", guest.list_of(DEPOSIT_MEM, list, &[a])?, (OK, 1))?;
    withdraw_all(guest, range(a, 1)?)
}
