//! What the host answers to MapGPA, and addresses with the shared bit.

use coco_part_api::svsm::{CREATE_VCPU, CallResult, PVALIDATE, REMAP_CA};
use coco_part_api::{ErrorKind, Grant, Grants, GuestLevel, GuestMemory, Origin, Rights, Validate};
use machine::tdx::Op;
use machine::tdx::host::Policy;
use x86_64::PhysAddr;

use super::{TURNS, as_l1, case, of_l1, stop};
use crate::suite::probe::{Probe, refused, rescind, validate};
use crate::suite::{Bench, Case, Check, Kind, ensure, same};
use crate::tdx::{Tdx, Window};
use crate::world::layout::{DATA, FREE, PAGE, STATE, range};

/// Pages that are asked for.
const PAGES: u64 = 16;
/// The bit that makes an address a shared one, at a width of 48 bits.
const SHARED: u64 = 1 << 47;

/// The cases of this file.
pub(super) fn cases() -> Vec<Case<Tdx>> {
    vec![
        case!(
            "H2-map-gpa-liars",
            "H2",
            ["TD-05", "TD-06"],
            HostileHost,
            "a cursor of the host that is not ahead, inside and aligned ends the verb; an honest one is followed to the end",
            liars
        ),
        case!(
            "M2-pretended-share",
            "M2",
            ["TD-02", "TD-05"],
            HostileHost,
            "a page that the host only pretends to share is not taken back as a fresh one: accepted already is an error",
            pretended_share
        ),
        case!(
            "M1-shared-bit",
            "M1",
            ["TD-06"],
            HostileGuest,
            "addresses with the shared bit name no memory in a request",
            shared_bit_in_requests
        ),
        case!(
            "H1-shared-bit-in-a-level",
            "H1",
            ["TD-06"],
            HostileGuest,
            "a level that touches its page with the shared bit reads nothing, and nobody is asked in its name",
            shared_bit_in_a_level
        ),
    ]
}

/// How a range operation ends: well, or after so many frames for this reason.
type Verdict = Result<(), (u64, ErrorKind)>;

/// How validating [`PAGES`] pages ends under each liar.
fn verdicts() -> Vec<(Policy, Verdict)> {
    let misbehaved = Err((0, ErrorKind::HostMisbehaved));
    let refused = Err((0, ErrorKind::HostRefused));
    vec![
        (Policy::MapGpaChunks(1), Ok(())),
        (Policy::MapGpaChunks(7), Ok(())),
        (Policy::MapGpaStuck, misbehaved),
        (Policy::MapGpaBackwards, misbehaved),
        (Policy::MapGpaOutside, misbehaved),
        (Policy::MapGpaAtEnd, misbehaved),
        (Policy::MapGpaUnaligned, misbehaved),
        (Policy::MapGpaOtherBit, misbehaved),
        (Policy::MapGpaRefuse(0x8000_0000_0000_0000), refused),
        (Policy::MapGpaRefuse(0x8000_0000_0000_0001), refused),
        (Policy::MapGpaRefuse(0x8000_0000_0000_0002), refused),
        (Policy::MapGpaRefuse(0x8000_0000_0000_0003), refused),
        (Policy::MapGpaRefuse(0x1234), misbehaved),
        (Policy::VmcallStatus(1), misbehaved),
        (Policy::VmcallStatus(0x7fff), misbehaved),
    ]
}

fn liars(bench: &mut Bench<Tdx>) -> Check {
    for (policy, want) in verdicts() {
        let what = format!("{policy:x?}");
        let world = as_l1(bench, policy, move |mut l1| {
            let pages = range(FREE, PAGES * PAGE);
            same(&format!("{what}: validate"), stop(l1.backend.validate(pages)), want)?;
            if want.is_err() {
                return Ok(());
            }
            same(&format!("{what}: share"), stop(l1.backend.share(pages)), Ok(()))?;
            same(&format!("{what}: unshare"), stop(l1.backend.unshare(pages)), Ok(()))
        })?;
        // One call per page at the most, for each of the three verbs, and one to idle at the end.
        let calls = of_l1(&world).tdvmcall;
        ensure(calls <= 3 * PAGES + 1, || format!("{calls} calls of the host"))?;
        let accepted = of_l1(&world).accept;
        same("pages accepted", accepted, if want.is_ok() { 2 * PAGES } else { 0 })?;
    }
    Ok(())
}

fn pretended_share(bench: &mut Bench<Tdx>) -> Check {
    let world = as_l1(bench, Policy::After { exits: 2, inner: Box::new(Policy::MapGpaPretend) }, |mut l1| {
        let page = range(FREE, PAGE);
        same("validate", stop(l1.backend.validate(page)), Ok(()))?;
        let memory = Window::private(l1.cpu, None);
        memory.write(page.start(), b"L1's secret").map_err(|error| error.to_string())?;
        same("share", stop(l1.backend.share(page)), Ok(()))?;
        same("unshare", stop(l1.backend.unshare(page)), Err((0, ErrorKind::AlreadyInState)))?;
        let grants = Grants::one(GuestLevel::TWO, Rights::RAM);
        let granted = l1.backend.validate_for(page, &grants, Origin::Request);
        same("for a level", stop(granted), Err((0, ErrorKind::AlreadyInState)))
    })?;
    for level in [None, Some(1), Some(2), Some(3)] {
        let seen = world.peek(FREE, 11, level);
        ensure(seen.is_none(), || format!("level {level:?} reads {seen:x?}"))?;
    }
    Ok(())
}

fn shared_bit_in_requests(bench: &mut Bench<Tdx>) -> Check {
    let bad = CallResult::INVALID_ADDRESS;
    let mut probes = Vec::new();
    for at in [DATA | SHARED, FREE | SHARED] {
        probes.extend([
            Probe::list(&format!("validate {at:#x}"), &[validate(at)], bad),
            Probe::list(&format!("rescind {at:#x}"), &[rescind(at)], bad),
            Probe::core(&format!("list at {at:#x}"), PVALIDATE, at, bad),
            Probe::core(&format!("call area at {at:#x}"), REMAP_CA, at, bad),
            Probe::core(&format!("state frame at {at:#x}"), CREATE_VCPU, at, bad),
        ]);
    }
    probes.push(Probe::core("state frame", CREATE_VCPU, STATE | SHARED, bad));
    refused(bench, probes)
}

fn shared_bit_in_a_level(bench: &mut Bench<Tdx>) -> Check {
    let options = bench.options();
    let mut world = bench.world(options);
    world.on_guest(0, |l2| {
        let private = Window::private(l2.cpu, None);
        private.write(PhysAddr::new(DATA), b"the guest's").map_err(|error| error.to_string())?;
        let _ = l2.cpu.execute(Op::Read { gpa: DATA | SHARED, len: 8, private: true });
        Err("it read shared memory".into())
    });
    world.run_for(TURNS, |_| false);
    ensure(world.complaints().is_empty(), || world.complaints().join("; "))?;
    let level = world.runner.machine.at_level(2);
    same("calls of the host by the level", level.tdvmcall, 0)?;
    ensure(level.td_exits > 0, || "the touch did not reach the host".into())?;
    same("the private page", world.peek(DATA, 11, Some(2)).as_deref(), Some(&b"the guest's"[..]))?;
    same("the host's view", world.peek(DATA, 11, None), None)
}
