//! Addresses that are not the guest's to name (M7, and H1 for shared pages).

use coco_part_api::svsm::{CREATE_VCPU, DEPOSIT_MEM, PVALIDATE, REMAP_CA, WITHDRAW_MEM};
use coco_part_api::vcpu::frame_at;
use coco_part_api::{ErrorKind, GuestPort, Validate};

use crate::bed::Bed;
use crate::check::{Check, Value, same};
use crate::guest::{
    BAD_ADDRESS, BAD_PARAMETER, BIG, Guest, NO_CHANGE, OK, VALIDATE, done, large, outcome, range, wrong,
};
use crate::{Case, case};

/// The cases of this file.
pub(crate) fn cases<P: GuestPort, B: Bed>() -> [Case<P, B>; 11] {
    [
        case!(
            "M7-pages-of-l1-image",
            "M7",
            "the image of L1 is neither validated nor rescinded, nor anything else of a call",
            image
        ),
        case!("M7-pages-of-l1-data", "M7", "the same for data of L1", data),
        case!("M7-pages-of-l1-last", "M7", "the same for the last page of L1's memory", last),
        case!("M7-pages-of-l1-secrets", "M7", "the same for the original secrets page", secrets),
        case!("M7-pages-of-l1-features", "M7", "the same for the original CPUID page", features),
        case!("M7-pages-of-l1-state", "M7", "the same for where the launch put the first state frame", launch_state),
        case!("M7-pages-of-nobody", "M7", "the same for addresses in no memory map, and for page 0", nobody),
        case!(
            "M7-call-areas",
            "M7",
            "the own call area is neither validated nor rescinded, from whichever list",
            call_area
        ),
        case!(
            "M7-remap-call-area",
            "M7",
            "a call area moves to the guest's own plain page and back; the old one is plain memory then",
            remap
        ),
        case!(
            "M1-large-page-straddles",
            "M1",
            "2 MiB are refused when any of their pages is not the guest's to ask for",
            straddles
        ),
        case!(
            "H1-shared-arguments",
            "H1",
            "a page that the guest shares with the host is no list, call area or state frame",
            shared
        ),
    ]
}

/// Every argument of a call that names a page is refused when it names this one.
pub(crate) fn in_no_call<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>, at: u64) -> Check {
    guest.neither("an entry of a list", at, BAD_ADDRESS)?;
    guest.core_answers("a list there", PVALIDATE, [at, 0, 0], BAD_ADDRESS)?;
    guest.core_answers("a list of deposits there", DEPOSIT_MEM, [at, 0, 0], BAD_ADDRESS)?;
    guest.core_answers("a list of withdrawn pages there", WITHDRAW_MEM, [at, 0, 0], BAD_ADDRESS)?;
    let deposited = guest.list_of(DEPOSIT_MEM, guest.own(0), &[at])?;
    same("a deposit", deposited, (BAD_ADDRESS, 0))?;
    guest.core_answers("a call area", REMAP_CA, [at, 0, 0], BAD_ADDRESS)?;
    guest.core_answers("a state frame", CREATE_VCPU, [at, guest.own(2), 0], BAD_ADDRESS)?;
    guest.core_answers("the call area of a vCPU", CREATE_VCPU, [guest.own(1), at, 0], BAD_ADDRESS)
}

fn image<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>) -> Check {
    in_no_call(guest, guest.places.monitor.first)
}

fn data<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>) -> Check {
    guest.mark();
    in_no_call(guest, guest.places.monitor.data)?;
    guest.mark();
    Ok(())
}

fn last<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>) -> Check {
    in_no_call(guest, guest.places.monitor.last)
}

fn secrets<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>) -> Check {
    in_no_call(guest, guest.places.monitor.secrets)
}

fn features<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>) -> Check {
    in_no_call(guest, guest.places.monitor.features)
}

fn launch_state<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>) -> Check {
    in_no_call(guest, guest.places.monitor.launch_state)
}

fn nobody<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>) -> Check {
    in_no_call(guest, guest.places.hole)?;
    in_no_call(guest, 0x7fff_ffff_f000)
}

fn call_area<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>) -> Check {
    let (area, list) = (guest.first_area(), guest.own(0));
    guest.neither("from itself", area, BAD_ADDRESS)?;
    for entry in [area | VALIDATE, area] {
        same("from another list", guest.list(list, &[entry])?, (BAD_ADDRESS, 0))?;
    }
    same("a deposit", guest.list_of(DEPOSIT_MEM, list, &[area])?, (BAD_ADDRESS, 0))?;
    guest.core_answers("a state frame", CREATE_VCPU, [area, guest.own(1), 0], BAD_ADDRESS)
}

fn remap<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>) -> Check {
    let (old, new) = (guest.first_area(), guest.own(3));
    guest.core_answers("not aligned", REMAP_CA, [new + 8, 0, 0], BAD_PARAMETER)?;
    guest.core_answers("the same again", REMAP_CA, [old, 0, 0], OK)?;
    let frame = |at| frame_at(at).ok_or(wrong("an address", ErrorKind::Misaligned));
    same("to a plain page", outcome(guest.shim.remap_call_area(frame(new)?)), Value::Done)?;
    guest.entry_answers("the new one", new, BAD_ADDRESS)?;
    guest.entry_answers("the old one", old | VALIDATE, NO_CHANGE)?;
    guest.fill(range(old, 1)?)?;
    same("and back", outcome(guest.shim.remap_call_area(frame(old)?)), Value::Done)?;
    guest.entry_answers("the new one is plain memory", new | VALIDATE, NO_CHANGE)
}

fn straddles<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>) -> Check {
    let places = guest.places;
    let blocks = [large(guest.first_area()), large(places.monitor.first), places.hole];
    for at in blocks {
        guest.entry_answers("2 MiB", at | BIG | VALIDATE, BAD_ADDRESS)?;
        guest.entry_answers("2 MiB to give up", at | BIG, BAD_ADDRESS)?;
    }
    Ok(())
}

fn shared<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>) -> Check {
    let at = guest.own(4);
    done("share", guest.shim.share(range(at, 1)?))?;
    guest.core_answers("a list", PVALIDATE, [at, 0, 0], BAD_ADDRESS)?;
    guest.core_answers("a call area", REMAP_CA, [at, 0, 0], BAD_ADDRESS)?;
    guest.core_answers("a state frame", CREATE_VCPU, [at, guest.own(2), 0], BAD_ADDRESS)?;
    guest.core_answers("the call area of a vCPU", CREATE_VCPU, [guest.own(1), at, 0], BAD_ADDRESS)?;
    guest.entry_answers("an entry to give up", at, NO_CHANGE)?;
    done("unshare", guest.shim.unshare(range(at, 1)?))
}
