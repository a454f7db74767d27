//! Which pages and numbers a guest may name when it creates a vCPU, and for what it may name those of one it has.

use coco_part_api::svsm::{CallResult, DELETE_VCPU, PVALIDATE, REMAP_CA};
use coco_part_api::{GuestPort, HostState};

use super::vcpus::{Plan, bring_up, create, fill, one_entry, wait_for};
use super::{BAD_ADDRESS, BAD_PARAMETER, LIST, case, refusal, with_vcpus};
use crate::platform::Platform;
use crate::suite::probe::{Probe, refused_beside, refused_in, rescind, validate};
use crate::suite::{Bench, Case, Check, same};
use crate::world::layout::{
    BOOT_STATE, CALL_AREA, DATA, FREE, HOLE, MONITOR_DATA, MONITOR_FEATURES, MONITOR_SECRETS, MONITOR_STATE, PAGE,
    page, range,
};
use crate::world::{Gate, L2};

/// The cases of this file.
pub(super) fn cases<P: Platform>() -> Vec<Case<P>> {
    vec![
        case!(
            "V1-frame-is-call-area",
            "V1",
            ["VC-06"],
            HostileGuest,
            "one page is not state frame and call area at once, nor the caller's own call area a state frame",
            frame_is_call_area
        ),
        case!(
            "M7-create-placement",
            "M7",
            ["VC-07", "VC-06"],
            HostileGuest,
            "state frame and call area of a new vCPU are plain pages of the caller; every other page is refused",
            placement
        ),
        case!(
            "V2-unknown-vcpu",
            "V2",
            ["VC-11"],
            HostileGuest,
            "a vCPU that does not exist is not created",
            unknown_vcpu
        ),
        case!(
            "M7-second-vcpu",
            "M7",
            ["RQ-02", "RQ-03", "RQ-10", "RQ-17"],
            HostileGuest,
            "frame and call area of another vCPU are neither validated, rescinded, mapped as call area nor used for lists",
            second_vcpu
        ),
    ]
}

fn frame_is_call_area<P: Platform>(bench: &mut Bench<P>) -> Check {
    let plan = Plan::of(1);
    let mut world = bench.world(with_vcpus(bench, 2));
    let plain = page(DATA, 3);
    let (one_page, own_area) = (Plan { area: plan.state, ..plan }, Plan { state: CALL_AREA, ..plan });
    refused_in(
        &mut world,
        vec![
            refusal("frame and area are one page", one_page, BAD_ADDRESS),
            refusal("frame is the caller's area", own_area, BAD_ADDRESS),
            refusal("area inside the frame", Plan { area: plan.state + 8, ..plan }, BAD_PARAMETER),
            refusal("area is the caller's", Plan { area: CALL_AREA, ..plan }, BAD_ADDRESS),
            refusal("both are the caller's area", Plan { state: CALL_AREA, area: CALL_AREA, ..plan }, BAD_ADDRESS),
            refusal("area is the caller's frame", Plan { area: BOOT_STATE, state: plain, ..plan }, BAD_ADDRESS),
        ],
        move |l2| fill(l2, plan),
    )
}

fn placement<P: Platform>(bench: &mut Bench<P>) -> Check {
    const SHARED: u64 = page(DATA, 9);
    let (second, third) = (Plan::of(1), Plan::of(2));
    let mut world = bench.world(with_vcpus(bench, 3));
    let end_of_ram = world.guest_ram().start().as_u64() + world.guest_ram().bytes();
    let bad = [
        ("a page of L1", MONITOR_DATA),
        ("a state frame of L1", MONITOR_STATE),
        ("the secrets page of L1", MONITOR_SECRETS),
        ("the features page of L1", MONITOR_FEATURES),
        ("the state frame of the caller", BOOT_STATE),
        ("the call area of the caller", CALL_AREA),
        ("the state frame of another vCPU", second.state),
        ("the call area of another vCPU", second.area),
        ("a page shared with the host", SHARED),
        ("a page that is not validated", FREE),
        ("a hole", HOLE),
        ("the end of RAM", end_of_ram),
    ];
    let probes = bad.into_iter().flat_map(|(what, at)| {
        [
            refusal(&format!("frame is {what}"), Plan { state: at, ..third }, BAD_ADDRESS),
            refusal(&format!("area is {what}"), Plan { area: at, ..third }, BAD_ADDRESS),
        ]
    });
    refused_in(&mut world, probes.collect(), move |l2| {
        same("give up", one_entry(l2, LIST, rescind(SHARED))?, CallResult::SUCCESS)?;
        let shared = l2.port.agree(range(SHARED, PAGE), HostState::Shared);
        shared.map_err(|stopped| stopped.cause.to_string())?;
        fill(l2, second)?;
        same("create", create(l2, second)?, CallResult::SUCCESS)?;
        fill(l2, third)
    })
}

fn unknown_vcpu<P: Platform>(bench: &mut Bench<P>) -> Check {
    let plan = Plan::of(1);
    let mut world = bench.world(with_vcpus(bench, 2));
    let ids = [2, 7, 8, 0x7fff_ffff, 0xffff_ffff, 1 << 32, 1 << 32 | 1, u64::MAX];
    let probes = ids.map(|id| refusal(&format!("vCPU {id:#x}"), Plan { id, ..plan }, BAD_PARAMETER));
    refused_in(&mut world, probes.into(), move |l2| fill(l2, plan))
}

fn second_vcpu<P: Platform>(bench: &mut Bench<P>) -> Check {
    let (plan, third) = (Plan::of(1), Plan::of(2));
    for runs in [false, true] {
        let mut world = bench.world(with_vcpus(bench, 3));
        let mut probes = Vec::new();
        for (what, at) in [("frame", plan.state), ("call area", plan.area)] {
            probes.push(Probe::list(&format!("validate the {what}"), &[validate(at)], BAD_ADDRESS));
            probes.push(Probe::list(&format!("rescind the {what}"), &[rescind(at)], BAD_ADDRESS));
            probes.push(Probe::list(&format!("rescind the {what}, no change"), &[rescind(at) | 8], BAD_ADDRESS));
            probes.push(Probe::core(&format!("list in the {what}"), PVALIDATE, at + 8, BAD_ADDRESS));
            probes.push(Probe::core(&format!("call area on the {what}"), REMAP_CA, at, BAD_ADDRESS));
            probes.push(refusal(&format!("frame is its {what}"), Plan { state: at, ..third }, BAD_ADDRESS));
            probes.push(refusal(&format!("area is its {what}"), Plan { area: at, ..third }, BAD_ADDRESS));
        }
        probes.push(Probe::core("delete its call area", DELETE_VCPU, plan.area, BAD_PARAMETER));
        probes.push(refusal("the frame again", plan, BAD_ADDRESS));
        let (up, done) = (Gate::new(), Gate::new());
        if runs {
            let leave = up.clone();
            let over = done.clone();
            world.on_guest(1, move |l2| {
                leave.pass();
                l2.wait(&over);
                Ok(())
            });
        }
        let prepare = move |l2: &mut L2<'_, P>| {
            if runs {
                bring_up(l2, plan)?;
                wait_for(l2, &up);
                return Ok(());
            }
            fill(l2, plan)?;
            same("create", create(l2, plan)?, CallResult::SUCCESS)
        };
        refused_beside(&mut world, probes, prepare, &done)?;
    }
    Ok(())
}
