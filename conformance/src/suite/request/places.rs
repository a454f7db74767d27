//! Arguments that name memory which is not the caller's to name.

use coco_part_api::svsm::list::Action;
use coco_part_api::svsm::{CORE, CREATE_VCPU, CallId, CallResult, PVALIDATE, QUERY_PROTOCOL, REMAP_CA};
use coco_part_api::{CallRegs, GuestPort, HostState, PageSize};

use crate::platform::Platform;
use crate::suite::bench::same;
use crate::suite::probe::{Probe, as_guest, call, entry, list_words, put, refused, refused_in, rescind, validate};
use crate::suite::{Bench, Check};
use crate::world::layout::{
    BOOT_STATE, CALL_AREA, DATA, FREE, GUEST, HOLE, LARGE, MONITOR, MONITOR_DATA, MONITOR_FEATURES, MONITOR_SECRETS,
    MONITOR_STATE, PAGE, frame, range,
};

const BAD_ADDRESS: CallResult = CallResult::INVALID_ADDRESS;
const BAD_PARAMETER: CallResult = CallResult::INVALID_PARAMETER;
/// Where cases put lists of their own.
const LIST: u64 = DATA + 0x1_0000;

/// Validate and rescind of a page, both refused.
fn neither(what: &str, at: u64, want: CallResult) -> [Probe; 2] {
    [
        Probe::list(&format!("validate {what}"), &[validate(at)], want),
        Probe::list(&format!("rescind {what}"), &[rescind(at)], want),
    ]
}

pub(super) fn pages_of_l1<P: Platform>(bench: &mut Bench<P>) -> Check {
    let pages = [
        ("first page of L1", MONITOR),
        ("data of L1", MONITOR_DATA),
        ("state frame of L1", MONITOR_STATE),
        ("secrets page", MONITOR_SECRETS),
        ("features page", MONITOR_FEATURES),
        ("last page of L1", HOLE - PAGE),
        ("a hole", HOLE),
        ("page 0", 0),
        ("where a ROM may be", 0xc_0000),
        ("where the launch may have put the first state frame", 0xffff_ffff_f000),
        ("the same below 2^47", 0x7fff_ffff_f000),
    ];
    refused(bench, pages.into_iter().flat_map(|(what, at)| neither(what, at, BAD_ADDRESS)).collect())
}

pub(super) fn call_areas<P: Platform>(bench: &mut Bench<P>) -> Check {
    let mut probes = neither("own call area", CALL_AREA, BAD_ADDRESS).to_vec();
    let at = LIST;
    for (what, word) in [("validate", validate(CALL_AREA)), ("rescind", rescind(CALL_AREA))] {
        let probe = Probe::core(&format!("{what} own call area from another list"), PVALIDATE, at, BAD_ADDRESS);
        probes.push(probe.with_words(list_words(at, &[word])));
    }
    refused(bench, probes)
}

pub(super) fn state_frames<P: Platform>(bench: &mut Bench<P>) -> Check {
    refused(bench, neither("state frame of the boot vCPU", BOOT_STATE, BAD_ADDRESS).to_vec())
}

pub(super) fn unaligned<P: Platform>(bench: &mut Bench<P>) -> Check {
    let large = |at: u64| at | 1 | 4;
    refused(
        bench,
        vec![
            Probe::core("list at an odd address", PVALIDATE, CALL_AREA + 9, BAD_PARAMETER),
            Probe::core("list at a multiple of 4", PVALIDATE, LIST + 4, BAD_PARAMETER),
            Probe::list("large entry not 2 MiB aligned", &[large(FREE + PAGE)], BAD_PARAMETER),
            Probe::core("call area", REMAP_CA, DATA + 8, BAD_PARAMETER),
            Probe::core("state frame", CREATE_VCPU, DATA + 0x10, BAD_PARAMETER),
            Probe::core("state frame to delete", coco_part_api::svsm::DELETE_VCPU, BOOT_STATE + 1, BAD_PARAMETER),
        ],
    )
}

pub(super) fn wrapping<P: Platform>(bench: &mut Bench<P>) -> Check {
    let mut probes = Vec::new();
    for at in [!0xfff, 1 << 63, 1 << 52, (1 << 52) - PAGE, (1 << 51) | FREE, (1 << 47) | FREE] {
        probes.extend(neither(&format!("{at:#x}"), at & ((1 << 52) - 1), BAD_ADDRESS));
        let raw = Probe::list(&format!("raw entry {at:#x}"), &[at | 4], BAD_ADDRESS);
        probes.push(raw);
        probes.push(Probe::core(&format!("list at {at:#x}"), PVALIDATE, at, BAD_ADDRESS));
        probes.push(Probe::core(&format!("call area at {at:#x}"), REMAP_CA, at, BAD_ADDRESS));
        probes.push(Probe::core(&format!("state frame at {at:#x}"), CREATE_VCPU, at, BAD_ADDRESS));
    }
    let last_large = ((1u64 << 52) - LARGE) | 1 | 4;
    probes.push(Probe::list("the last 2 MiB there are", &[last_large], BAD_ADDRESS));
    refused(bench, probes)
}

pub(super) fn straddles<P: Platform>(bench: &mut Bench<P>) -> Check {
    let large = |at: u64, action| entry(at, PageSize::Large, action, false);
    let mut world = {
        let options = crate::world::Options { guest_bytes: 4 * LARGE - PAGE, ..bench.options() };
        bench.world(options)
    };
    refused_in(
        &mut world,
        vec![
            Probe::list("2 MiB that end behind RAM", &[large(GUEST + 3 * LARGE, Action::Validate)], BAD_ADDRESS),
            Probe::list("2 MiB with live call area and state frame", &[large(GUEST, Action::Rescind)], BAD_ADDRESS),
            Probe::list("the same, to validate", &[large(GUEST, Action::Validate)], BAD_ADDRESS),
            Probe::list("2 MiB of a hole", &[large(HOLE, Action::Validate)], BAD_ADDRESS),
            Probe::list("2 MiB with L1 in them", &[large(0, Action::Validate)], BAD_ADDRESS),
        ],
        |_| Ok(()),
    )
}

pub(super) fn remap<P: Platform>(bench: &mut Bench<P>) -> Check {
    refused(
        bench,
        vec![
            Probe::core("onto L1", REMAP_CA, MONITOR_DATA, BAD_ADDRESS),
            Probe::core("onto the secrets page of L1", REMAP_CA, MONITOR_SECRETS, BAD_ADDRESS),
            Probe::core("onto a state frame", REMAP_CA, BOOT_STATE, BAD_ADDRESS),
            Probe::core("onto memory that is not valid", REMAP_CA, FREE, BAD_ADDRESS),
            Probe::core("onto a hole", REMAP_CA, HOLE, BAD_ADDRESS),
            Probe::core("onto an unaligned address", REMAP_CA, DATA + 1, BAD_PARAMETER),
            Probe::core("with the private bit", REMAP_CA, DATA | 1 << 51, BAD_ADDRESS),
        ],
    )?;
    let options = bench.options();
    as_guest(bench, options, |mut l2| {
        let query = CallRegs::call(CallId::new(CORE, QUERY_PROTOCOL), 1, 0, 0);
        let remap = |at| CallRegs::call(CallId::new(CORE, REMAP_CA), at, 0, 0);
        put(&l2, &[(DATA, u64::MAX)])?;
        same("the same again", call(&mut l2, remap(CALL_AREA))?.result(), CallResult::SUCCESS)?;
        same("a plain page", call(&mut l2, remap(DATA))?.result(), CallResult::SUCCESS)?;
        l2.port.set_call_area(frame(DATA));
        same("through the new one", call(&mut l2, query)?.result(), CallResult::SUCCESS)?;
        // The old one is plain memory again.
        same("and back", call(&mut l2, remap(CALL_AREA))?.result(), CallResult::SUCCESS)?;
        l2.port.set_call_area(frame(CALL_AREA));
        same("through the old one", call(&mut l2, query)?.result(), CallResult::SUCCESS)
    })
    .map(|_| ())
}

/// A page that the guest gave to the host, given as an argument: what lies in it is the host's to change.
pub(super) fn shared_pages<P: Platform>(bench: &mut Bench<P>) -> Check {
    const LENT: u64 = DATA + 0x2_0000;
    let options = crate::world::Options { vcpus: 2, ..bench.options() };
    let mut world = bench.world(options);
    let create = CallRegs::call(CallId::new(CORE, CREATE_VCPU), DATA + 0x3_0000, LENT, 1);
    let call_area = Probe { regs: create, ..Probe::core("call area of a new vCPU", CREATE_VCPU, 0, BAD_ADDRESS) };
    refused_in(
        &mut world,
        vec![
            Probe::core("list", PVALIDATE, LENT, BAD_ADDRESS),
            Probe::list("entry to rescind", &[rescind(LENT)], CallResult::NO_CHANGE),
            Probe::core("call area", REMAP_CA, LENT, BAD_ADDRESS),
            Probe::core("state frame", CREATE_VCPU, LENT, BAD_ADDRESS),
            call_area,
        ],
        |l2| {
            let at = CALL_AREA + 8;
            put(l2, &list_words(at, &[rescind(LENT)]))?;
            let regs = CallRegs::call(CallId::new(CORE, PVALIDATE), at, 0, 0);
            same("rescind", call(l2, regs)?.result(), CallResult::SUCCESS)?;
            l2.port.agree(range(LENT, PAGE), HostState::Shared).map_err(|stop| stop.cause.to_string().into())
        },
    )
}
