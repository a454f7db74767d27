//! Further vCPUs: what a guest may ask for (V1 to V4). What becomes of one that runs is in `two`.

use core::mem::offset_of;

use backend_snp::abi::vmsa::Vmsa;
use coco_part_api::svsm::{CREATE_VCPU, CallResult, DELETE_VCPU};
use coco_part_api::vcpu::frame_at;
use coco_part_api::{ErrorKind, GuestLevel, GuestPort, Identify, Level, NewVcpu, VcpuId};

use crate::bed::{Bed, Found, Instruction};
use crate::check::{Check, same};
use crate::guest::{BAD_ADDRESS, BAD_PARAMETER, Guest, NO_CHANGE, OK, VALIDATE, outcome, start, wrong};
use crate::{Case, Value, case};

/// The state frame and the call area that these cases ask with, and a page without an image.
const STATE: u64 = 1;
const AREA: u64 = 2;
const PLAIN: u64 = 3;

/// EFER.SVME.
const SVME: u64 = 1 << 12;

/// The cases of this file.
pub(crate) fn cases<P: GuestPort, B: Bed>() -> [Case<P, B>; 11] {
    [
        case!("V2-unknown-vcpu", "V2", "a vCPU that the VM does not have is not created", unknown),
        case!("M1-unaligned-frames", "M1", "state frames and call areas that are not aligned are refused", unaligned),
        case!(
            "V1-frame-is-call-area",
            "V1",
            "one page is not state frame and call area at once, nor the caller's area either",
            one_page
        ),
        case!(
            "M7-create-placement",
            "M7",
            "state frame and call area are plain valid pages of the caller; every other page is refused",
            placement
        ),
        case!(
            "V2-level-in-image",
            "V2",
            "an image for another level than the caller's is refused, and the frame is the caller's again",
            other_level
        ),
        case!("V3-no-vcpu-at-l1", "V3", "an image that names L1's level is refused", no_vcpu_at_l1),
        case!("V2-run-bit-clear", "V2", "an image that could not run is refused", run_bit_clear),
        case!("V2-features", "V2", "an image with other features than the VM runs with is refused", features),
        case!(
            "V2-events-and-intercepts",
            "V2",
            "an image with a pending event, interrupt control or a vTOM is refused",
            events
        ),
        case!("V2-large-boundary", "V2", "an image at a multiple of 2 MiB is refused", large_boundary),
        case!(
            "V4-delete-unknown",
            "V4",
            "deleting what is no state frame of the guest is refused, with an image in it too",
            delete_unknown
        ),
    ]
}

/// The vCPU that runs this: the one that every VM has.
const SELF: u64 = 0;

/// Fills a state frame for a level.
fn fill_for<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>, state: u64, level: GuestLevel) -> Check {
    let frame = |at| frame_at(at).ok_or(wrong("an address", ErrorKind::Misaligned));
    let context = guest.bed.further();
    let (state, call_area) = (frame(state)?, frame(guest.own(AREA))?);
    let new = NewVcpu { id: VcpuId(0), context: &context, state, call_area };
    same("an image", outcome(guest.shim.port_mut().write_image(&new, level)), Value::Done)
}

/// Fills a state frame as it should be.
pub(crate) fn fill<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>, state: u64) -> Check {
    let level = own_level(guest)?;
    fill_for(guest, state, level)
}

fn own_level<P: GuestPort, B: Bed>(guest: &Guest<'_, '_, P, B>) -> Result<GuestLevel, crate::Failed> {
    match guest.shim.level() {
        Level::Guest(level) => Ok(level),
        Level::Monitor => Err(wrong("the own level", ErrorKind::Unsupported)),
    }
}

fn refused<P: GuestPort, B: Bed>(
    guest: &mut Guest<'_, '_, P, B>,
    what: &'static str,
    arguments: [u64; 3],
    want: CallResult,
) -> Check {
    guest.core_answers(what, CREATE_VCPU, arguments, want)
}

/// Both pages are the caller's plain memory.
fn pages_are_back<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>) -> Check {
    for index in [STATE, AREA] {
        guest.entry_answers("a page afterwards", guest.own(index) | VALIDATE, NO_CHANGE)?;
    }
    Ok(())
}

fn unknown<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>) -> Check {
    let (state, area) = (guest.own(STATE), guest.own(AREA));
    fill(guest, state)?;
    let first = u64::from(guest.places.vcpus);
    for id in [first, 8, 77, 0x7fff_ffff, 0xffff_ffff, 1 << 32, 1 << 32 | 1, u64::MAX] {
        refused(guest, "a vCPU", [state, area, id], BAD_PARAMETER)?;
    }
    pages_are_back(guest)
}

fn unaligned<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>) -> Check {
    let (state, area) = (guest.own(STATE), guest.own(AREA));
    for offset in [1, 8, 0x10, 0xfff] {
        refused(guest, "a state frame", [state + offset, area, SELF], BAD_PARAMETER)?;
        refused(guest, "a call area", [state, area + offset, SELF], BAD_PARAMETER)?;
        guest.core_answers("a frame to delete", DELETE_VCPU, [state + offset, 0, 0], BAD_PARAMETER)?;
    }
    Ok(())
}

fn one_page<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>) -> Check {
    let (state, own) = (guest.own(STATE), guest.first_area());
    fill(guest, state)?;
    refused(guest, "frame and area are one page", [state, state, SELF], BAD_ADDRESS)?;
    refused(guest, "the frame is the caller's area", [own, guest.own(AREA), SELF], BAD_ADDRESS)?;
    refused(guest, "both are the caller's area", [own, own, SELF], BAD_ADDRESS)?;
    pages_are_back(guest)
}

fn placement<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>) -> Check {
    let (state, area) = (guest.own(STATE), guest.own(AREA));
    fill(guest, state)?;
    let pages = guest.places.monitor;
    let fresh = guest.agreed_pages(1)?;
    let bad = [pages.first, pages.data, pages.last, pages.secrets, pages.features, guest.places.hole, start(fresh)];
    for at in bad {
        refused(guest, "a state frame", [at, area, SELF], BAD_ADDRESS)?;
        refused(guest, "a call area", [state, at, SELF], BAD_ADDRESS)?;
    }
    pages_are_back(guest)
}

fn other_level<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>) -> Check {
    let (state, area) = (guest.own(STATE), guest.own(AREA));
    let own = own_level(guest)?;
    for level in GuestLevel::ALL.into_iter().filter(|level| *level != own) {
        fill_for(guest, state, level)?;
        guest.mark();
        refused(guest, "another level", [state, area, SELF], BAD_PARAMETER)?;
        guest.mark();
        let kept = guest.word((state + offset_of!(Vmsa, vmpl) as u64) & !7)?;
        same("the image is still there", kept >> 16 & 0xff, u64::from(level.number()))?;
    }
    pages_are_back(guest)
}

/// Images that differ from a good one in one quadword are refused.
fn bad_words<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>, offset: usize, words: &[u64]) -> Check {
    let (state, area) = (guest.own(STATE), guest.own(AREA));
    for word in words {
        fill(guest, state)?;
        guest.put(state + offset as u64, *word)?;
        refused(guest, "an image", [state, area, SELF], BAD_PARAMETER)?;
        same("the image is still there", guest.word(state + offset as u64)?, *word)?;
    }
    pages_are_back(guest)
}

fn no_vcpu_at_l1<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>) -> Check {
    // The quadword that holds the level, with the level taken out.
    let at = offset_of!(Vmsa, vmpl) & !7;
    let state = guest.own(STATE);
    fill(guest, state)?;
    let word = guest.word(state + at as u64)?;
    bad_words(guest, at, &[word & !(0xff << (8 * (offset_of!(Vmsa, vmpl) % 8)))])
}

fn run_bit_clear<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>) -> Check {
    let state = guest.own(STATE);
    fill(guest, state)?;
    let good = guest.word(state + offset_of!(Vmsa, efer) as u64)?;
    same("EFER of a good image has the run bit", good & SVME, SVME)?;
    bad_words(guest, offset_of!(Vmsa, efer), &[good & !SVME, 0])
}

fn features<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>) -> Check {
    const SNP_ACTIVE: u64 = 1;
    let other = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 14, 16, 17, 62, 63].map(|bit| SNP_ACTIVE ^ 1 << bit);
    bad_words(guest, offset_of!(Vmsa, sev_features), &other)
}

fn events<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>) -> Check {
    bad_words(guest, offset_of!(Vmsa, event_inj), &[1 << 31 | 0x80])?;
    bad_words(guest, offset_of!(Vmsa, vintr_ctrl), &[1 << 63, 1 << 8 | 0x80 << 32])?;
    bad_words(guest, offset_of!(Vmsa, virtual_tom), &[1 << 40])
}

fn large_boundary<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>) -> Check {
    let pages = guest.agreed_large()?;
    let (good, at) = (guest.own(STATE), start(pages));
    guest.entry_answers("validate", at | VALIDATE, OK)?;
    fill(guest, good)?;
    // The guest's side refuses to write one there, too.
    for offset in (0..0x1000).step_by(8) {
        let word = guest.word(good + offset)?;
        guest.put(at + offset, word)?;
    }
    refused(guest, "an image", [at, guest.own(AREA), SELF], BAD_PARAMETER)?;
    guest.entry_answers("the page afterwards", at | VALIDATE, NO_CHANGE)
}

fn delete_unknown<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>) -> Check {
    let state = guest.own(STATE);
    fill(guest, state)?;
    let pages = guest.places.monitor;
    let fresh = start(guest.fresh_pages(1)?);
    let places = [
        guest.own(PLAIN),
        state,
        guest.first_area(),
        pages.data,
        pages.launch_state,
        fresh,
        guest.places.hole,
        0,
        1 << 52,
        u64::MAX,
    ];
    for at in places {
        guest.core_answers("a frame to delete", DELETE_VCPU, [at, 0, 0], BAD_PARAMETER)?;
    }
    // What was an image is memory, and no instruction of the guest's makes it a VMSA.
    const MAKE_VMSA: u64 = 1 << 16;
    for target in 0..=2 {
        let made = guest.bed.execute(Instruction::Rmpadjust { at: state, rdx: target | MAKE_VMSA });
        same("RMPADJUST", made, Found::Status(2))?;
    }
    pages_are_back(guest)
}
