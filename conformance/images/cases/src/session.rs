//! Runs what is selected, one after the other, and reports.

use coco_part_api::GuestPort;
use coco_part_api::svsm::CallResult;

use crate::bed::Bed;
use crate::check::{Check, same};
use crate::guest::{Guest, IGNORE_NO_CHANGE, VALIDATE};
use crate::{Selection, cases, work};

/// Runs the selected cases in their order, or the work. Gives how many failed.
///
/// Around each case there is a mark, with number 0 before it and 255 behind it. Marks of its own lie between.
pub fn run<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>, selection: &Selection) -> u32 {
    if selection.rounds() > 0 {
        return work::all(guest, selection.rounds());
    }
    let (mut done, mut failed) = (0_u32, 0_u32);
    for (number, case) in cases::<P, B>().enumerate() {
        if !selection.has(number) {
            continue;
        }
        let about = case.about;
        guest.bed.say(format_args!("case {} begin", about.id));
        done = done.saturating_add(1);
        if about.vcpus > guest.places.vcpus {
            guest.bed.say(format_args!("case {} skip needs {} vCPUs", about.id, about.vcpus));
            continue;
        }
        guest.bed.mark(FIRST_MARK);
        guest.begin();
        let check = (case.run)(guest);
        guest.bed.mark(LAST_MARK);
        match check.and_then(|()| is_usable(guest)) {
            Ok(()) => guest.bed.say(format_args!("case {} pass", about.id)),
            Err(why) => {
                failed = failed.saturating_add(1);
                guest.bed.say(format_args!("case {} fail {why}", about.id));
            }
        }
    }
    guest.bed.say(format_args!("cases done {done}"));
    failed
}

const FIRST_MARK: u8 = 0;
const LAST_MARK: u8 = u8::MAX;

/// Whether the pages that every case gets are plain memory of the guest, and its calls are served.
fn is_usable<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>) -> Check {
    let mut entries = [0; crate::OWN_PAGES as usize];
    for (index, entry) in (0..).zip(&mut entries) {
        *entry = guest.own(index) | VALIDATE | IGNORE_NO_CHANGE;
    }
    let (result, _) = guest.list(guest.area_list(), &entries)?;
    same("what the case leaves: its own pages", result, CallResult::SUCCESS)?;
    let host = guest.shim.port().call_area().start_address().as_u64();
    same("what the case leaves: the call area", host, guest.first_area())
}
