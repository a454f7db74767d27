//! The first talk with the host, features of the machine, the CPUID page, and how a guest ends.

use std::cell::Cell;
use std::rc::Rc;

use backend_snp::SnpError;
use backend_snp::abi::sev_features::SevStatus;
use backend_snp::host::{HostChannel, REASON_SET, reason};
use coco_part_api::{GuestLevel, GuestMemory, Identify, Level};
use machine::host::Policy;
use machine::vmsa::features;
use x86_64::PhysAddr;

use super::{TURNS, case, is_clean, run_as_l1, under};
use crate::runner::End;
use crate::snp::features::page as cpuid_page;
use crate::snp::model::SnpModel;
use crate::snp::platform::{Snp, launch_with};
use crate::snp::window::Window;
use crate::suite::hostile::busy::{self, Step};
use crate::suite::hostile::guest_by_hand;
use crate::suite::{Bench, Case, Check, Kind, ensure, same};
use crate::world::layout::{FEATURES, MONITOR_CHANNEL, MONITOR_FEATURES, PAGE, SECRETS};
use crate::world::{Options, World};

/// Frame number of L1's GHCB page.
const GHCB_FRAME: u64 = MONITOR_CHANNEL / PAGE;
/// A frame number of ones: none.
const NO_FRAME: u64 = u64::MAX >> 12;

/// The cases of this file.
pub(super) fn cases() -> Vec<Case<Snp>> {
    vec![
        case!(
            "H1-first-answers",
            "H1",
            ["GH-05", "GH-06", "GH-07", "SW-09", "PG-17"],
            HostileHost,
            "a host that answers L1's first questions wrongly is told apart by a named error",
            first_answers
        ),
        case!(
            "H2-claimed-features",
            "H2",
            ["GH-07", "GH-06"],
            HostileHost,
            "a host may offer more than L1 needs: more features, a newer protocol",
            claimed_features
        ),
        case!(
            "H3-features-page",
            "H3",
            ["CP-01", "CP-04", "GH-12"],
            HostileHost,
            "the features page of a guest is the firmware's, whatever the host answers to CPUID and MSR reads",
            features_page
        ),
        case!(
            "H3-cpuid-count",
            "H3",
            ["CP-02"],
            HostileHost,
            "a CPUID page that counts more entries than it holds starts neither L1 nor a guest",
            cpuid_count
        ),
        case!(
            "H3-boot-page-fields",
            "H3",
            ["CP-06", "CP-07"],
            HostileHost,
            "a guest whose secrets page names no L1, no level or no usable call area says so and asks nobody",
            boot_page_fields
        ),
        case!(
            "H3-unknown-features",
            "H3",
            ["CP-05", "EV-13"],
            Contract,
            "L1 does not start with a feature on that it does not know how to live with",
            unknown_features
        ),
        case!(
            "H2-terminate-ignored",
            "H2",
            ["TM-01", "GH-22"],
            HostileHost,
            "who asked to be terminated asks again for ever and does nothing else",
            terminate_ignored
        ),
        case!(
            "H2-terminate-heard",
            "H2",
            ["TM-01"],
            Contract,
            "a guest that asks to be terminated ends with this project's reason set",
            terminate_heard
        ),
    ]
}

/// Demands that L1 does not start, and says this.
fn refuses_to_start(world: &mut World<Snp>, what: &str, want: SnpError) -> Check {
    let started = run_as_l1(world, |_| ());
    same(&format!("{what}: L1 started"), started, None)?;
    let text = format!("L1 does not start: {want}");
    ensure(world.complaints().iter().any(|said| said.contains(&text)), || {
        format!("{what}: {:?}, want {text:?}", world.complaints())
    })
}

fn first_answers(bench: &mut Bench<Snp>) -> Check {
    let version = |min, max| (Policy::LieVersion { min, max }, SnpError::VersionRange { min, max });
    let lacks = |missing: u64| (Policy::LieFeatures(0x33 & !missing), SnpError::MissingFeatures { missing });
    let rows = [
        version(1, 1),
        version(0, 0),
        version(3, 9),
        version(3, 1),
        version(u16::MAX, u16::MAX),
        lacks(1 << 0),
        lacks(1 << 1),
        lacks(1 << 5),
        lacks(0x23),
        (Policy::LieFeatures(0), SnpError::MissingFeatures { missing: 0x23 }),
        (Policy::WrongGhcbRegistration(1), SnpError::GhcbRefused { asked: GHCB_FRAME, got: 1 }),
        (Policy::WrongGhcbRegistration(u64::MAX), SnpError::GhcbRefused { asked: GHCB_FRAME, got: NO_FRAME }),
        // Versions 2 to 2 and a C-bit, under the code of a page state change.
        (Policy::WrongMsrResponseCode(0x015), SnpError::UnexpectedResponse { sent: 0x002, got: 0x0002_0002_3300_0015 }),
        (Policy::PscErrorOnlyInInfo2, SnpError::PageState { code: 1 << 31 }),
    ];
    for (policy, want) in rows {
        let what = format!("{policy:?}");
        let mut world = bench.world(under(bench, policy));
        refuses_to_start(&mut world, &what, want)?;
    }
    Ok(())
}

fn claimed_features(bench: &mut Bench<Snp>) -> Check {
    for policy in [Policy::LieFeatures(u64::MAX), Policy::LieVersion { min: 1, max: 9 }] {
        let what = format!("{policy:?}");
        let mut world = bench.world(under(bench, policy));
        let (end, told) = busy::run(&mut world, 1, TURNS);
        busy::check(&world, &end, &told)?;
        same(&what, told.failed, Vec::new())?;
        same(&what, end, End::Reached)?;
    }
    Ok(())
}

fn features_page(bench: &mut Bench<Snp>) -> Check {
    for policy in [Policy::Honest, Policy::LieCpuid, Policy::LieCBit(47), Policy::LieCBit(0), Policy::LieMsr] {
        let what = format!("{policy:?}");
        let mut world = bench.world(under(bench, policy));
        let (end, told) = busy::run(&mut world, 1, TURNS);
        busy::check(&world, &end, &told)?;
        same(&format!("{what}: failed"), told.failed, Vec::new())?;
        ensure(told.done.contains(&(0, Step::Attest)), || format!("{what}: {:?}", told.done))?;
        let level = world.guest_level().number();
        let seen = world.peek(FEATURES, PAGE as usize, Some(level)).unwrap_or_default();
        ensure(seen == cpuid_page(), || format!("{what}: the guest's features page is not the firmware's"))?;
        let own = world.peek(MONITOR_FEATURES, PAGE as usize, Some(0)).unwrap_or_default();
        ensure(own == cpuid_page(), || format!("{what}: L1's features page changed"))?;
    }
    Ok(())
}

fn cpuid_count(bench: &mut Bench<Snp>) -> Check {
    for count in [65, u32::MAX] {
        let mut page = cpuid_page();
        page[..4].copy_from_slice(&count.to_le_bytes());
        // The host made the page, so it is not the honest one.
        let options = under(bench, Policy::LieMsr);
        let mut world = bench.world(options.clone());
        world.runner.machine = SnpModel(launch_with(&options, features::SNP_ACTIVE, &page));
        let (end, told) = busy::run(&mut world, 1, TURNS);
        is_clean(&end)?;
        same("done", told.done, Vec::new())?;
        // L1 looks for what it needs in the page before anything else, and finds none.
        let complaints = world.complaints();
        let refused =
            complaints.iter().any(|text| text.contains("L1 does not start: ") && text.contains("not available"));
        ensure(refused, || format!("{count} entries: {complaints:?}"))?;
    }
    Ok(())
}

fn boot_page_fields(bench: &mut Bench<Snp>) -> Check {
    let bad = |field| SnpError::BadSecrets { field };
    let mismatch = |told, probed| SnpError::LevelMismatch { told, probed };
    // Offset in the page, new bytes (secrets_page), and what the guest says.
    let rows: [(u64, Vec<u8>, SnpError); 12] = [
        (0x148, vec![0; 8], SnpError::NoSvsm),
        (0x148, vec![0xff; 8], bad("svsm_base")),
        (0x140, vec![0x10], bad("svsm_base")),
        (0x140, vec![0xff; 8], bad("svsm_base")),
        (0x150, vec![8], bad("svsm_caa")),
        (0x150, vec![0xff; 8], bad("svsm_caa")),
        (0x158, vec![0; 4], bad("svsm_max_version")),
        (0x15c, vec![0], bad("svsm_guest_vmpl")),
        (0x15c, vec![4], bad("svsm_guest_vmpl")),
        (0x15c, vec![0xff], bad("svsm_guest_vmpl")),
        // Told 1, it should reach VMPL2; told 3, it should not reach VMPL3.
        (0x15c, vec![1], mismatch(1, 2)),
        (0x15c, vec![3], mismatch(3, 3)),
    ];
    for (offset, bytes, want) in rows {
        let what = format!("{bytes:x?} at {offset:#x}");
        let mut world = bench.world(bench.options());
        let called = Rc::new(Cell::new(false));
        let flag = Rc::clone(&called);
        world.on_guest(0, |_| Err("the guest started".into()));
        world.on_l1(move |mut l1| {
            let alter = |memory: &Window<'_>| {
                let at = PhysAddr::new(SECRETS + offset);
                memory.write(at, &bytes).map_err(|error| error.to_string().into())
            };
            guest_by_hand::<Snp>(&mut l1.backend, GuestLevel::TWO, alter, &flag)
        });
        is_clean(&world.run_for(TURNS, |_| false))?;
        let text = format!("the guest does not start: {want}");
        let complaints = world.complaints();
        ensure(complaints.iter().any(|said| said.contains(&text)), || format!("{what}: {complaints:?}, want {text}"))?;
        same(&format!("{what}: asked L1"), called.get(), false)?;
    }
    Ok(())
}

fn unknown_features(bench: &mut Bench<Snp>) -> Check {
    // SEV_STATUS shows bits 21:0. What the backend names as supported, by bit (sev_features): restricted injection, debug,
    // IBS, BTB, shadow stacks, IBS, SMT, IBPB.
    let supported = [3, 5, 6, 7, 8, 12, 15, 21];
    for bit in (1..22).filter(|bit| features::RESERVED >> bit & 1 == 0) {
        let features = features::SNP_ACTIVE | 1 << bit;
        let options = bench.options();
        let mut world = bench.world(options.clone());
        world.runner.machine = SnpModel(launch_with(&options, features, &cpuid_page()));
        if supported.contains(&bit) {
            let level = run_as_l1(&mut world, |l1| l1.backend.level());
            same(&format!("feature {bit}"), level, Some(Level::Monitor))?;
        } else {
            let (missing, refused) = (SevStatus::empty(), SevStatus::from_bits_retain(4 << bit));
            refuses_to_start(&mut world, &format!("feature {bit}"), SnpError::SevStatus { missing, refused })?;
        }
    }
    Ok(())
}

fn terminate_ignored(bench: &mut Bench<Snp>) -> Check {
    for is_guest in [true, false] {
        let options = under(bench, Policy::IgnoreTerminate);
        let level = if is_guest { options.guest_level().number() } else { 0 };
        let mut world = bench.world(options);
        if is_guest {
            world.on_guest(0, |mut l2| l2.port.terminate(reason(7)));
        } else {
            world.on_l1(|mut l1| {
                let (host, port) = l1.backend.host();
                host.terminate(port, reason(7))
            });
        }
        let counters = |world: &World<Snp>| world.runner.machine.0.counters_of_vmpl(level);
        same("first", world.run_for(TURNS, |_| false), End::Budget)?;
        let before = counters(&world);
        same("later", world.run_for(TURNS, |_| false), End::Budget)?;
        let after = counters(&world);
        ensure(after.vmgexit > before.vmgexit + 1000, || "it does not ask again".into())?;
        same("reads and writes", (after.reads, after.writes), (before.reads, before.writes))?;
        let others = |c: machine::Counters| [c.pvalidate, c.rmpadjust, c.zeroed_pages, c.invlpgb, c.cpuid];
        same("other instructions", others(after), others(before))?;
    }
    Ok(())
}

fn terminate_heard(bench: &mut Bench<Snp>) -> Check {
    let mut world = bench.world(Options { vcpus: 2, ..bench.options() });
    world.on_guest(0, |mut l2| l2.port.terminate(reason(7)));
    is_clean(&world.run_for(TURNS, |_| false))?;
    let want = format!("Terminated {{ set: {REASON_SET:x}, code: 7 }}");
    let stops = world.runner.stops();
    ensure(stops.len() == 2 && stops.iter().all(|(_, why)| *why == want), || format!("{stops:?}, want {want}"))
}
