//! What L1 demands of a TD before it starts, and what its evidence says.

use backend_tdx_stub::abi::report::TdReport;
use coco_part_api::svsm::own::{ATTEST, AttestRequest, PROTOCOL};
use coco_part_api::svsm::{CallId, CallResult};
use coco_part_api::{
    Attest, AttestFor, CallRegs, GuestLevel, GuestMemory, HasMemory, Identify, Level, REPORT_DATA, report_data,
};
use machine::tdx::{Config, DEBUG, Op, SEPT_VE_DISABLE};
use x86_64::PhysAddr;
use zerocopy::FromBytes;

use super::{TURNS, case, of_l1};
use crate::suite::probe::call;
use crate::suite::{Bench, Case, Check, Kind, Stop, ensure, same};
use crate::tdx::platform::launch_with;
use crate::tdx::{Tdx, TdxModel};
use crate::world::World;
use crate::world::layout::{DATA, PAGE};

/// Bytes of a report.
const REPORT: usize = 1024;
/// Those behind the 239 bytes of TEE_TCB_INFO (`tdreport`).
const RESERVED: std::ops::Range<usize> = 495..512;
const NONCE: [u8; REPORT_DATA] = [0x6e; REPORT_DATA];

/// The cases of this file.
pub(super) fn cases() -> Vec<Case<Tdx>> {
    vec![
        case!(
            "H3-refuses-to-start",
            "H3",
            ["TD-18"],
            HostileHost,
            "L1 does not start where the host may raise #VE on its memory, gave it no level, or has no partitioning",
            refuses_to_start
        ),
        case!(
            "A1-attributes-in-evidence",
            "A1",
            ["TD-12"],
            HostileHost,
            "evidence of a TD that can be debugged or migrated says so under its MAC, and no byte of it can be changed",
            attributes_in_evidence
        ),
        case!(
            "A1-level-makes-no-report",
            "A1",
            ["TD-13", "AT-01"],
            HostileGuest,
            "a level has no report of its own: what it asks for is L1's, over L1's digest with the level in it",
            level_makes_no_report
        ),
    ]
}

/// A world whose machine is launched with a changed configuration.
fn world_with(bench: &mut Bench<Tdx>, change: impl FnOnce(&mut Config)) -> World<Tdx> {
    let options = bench.options();
    let machine = launch_with(&options, change);
    let mut world = bench.world(options);
    world.runner.machine = TdxModel(machine);
    world
}

fn refuses_to_start(bench: &mut Bench<Tdx>) -> Check {
    type Change = fn(&mut Config);
    let changes: [(&str, Change); 3] = [
        ("SEPT_VE_DISABLE is clear", |config| config.attributes &= !SEPT_VE_DISABLE),
        ("the host gave this TD no L2 VM", |config| config.l2_vms = 0),
        ("the TDX module has no TD partitioning", |config| config.partitioning = false),
    ];
    for (reason, change) in changes {
        let mut world = world_with(bench, |config| {
            config.honest_host = false;
            change(config);
        });
        world.run_for(TURNS, |_| false);
        let complaints = world.complaints();
        let told = complaints.iter().any(|text| text.contains("L1 does not start") && text.contains(reason));
        ensure(told, || format!("want `{reason}`, got {complaints:?}"))?;
        same("pages accepted", of_l1(&world).accept, 0)?;
    }
    // The same without a change starts.
    let mut world = world_with(bench, |_| ());
    world.on_guest(0, |_| Ok(()));
    world.finish()
}

/// A report as its structure.
fn parsed(bytes: &[u8]) -> Result<TdReport, Stop> {
    TdReport::read_from_bytes(bytes).map_err(|_| Stop::Wrong(format!("a report of {} bytes", bytes.len())))
}

/// Whether the module finds the MAC of a report right.
fn is_genuine(world: &World<Tdx>, bytes: &[u8]) -> bool {
    bytes.first_chunk().is_some_and(|report| world.runner.machine.0.report_is_genuine(report))
}

fn attributes_in_evidence(bench: &mut Bench<Tdx>) -> Check {
    /// ATTRIBUTES bit 29.
    const MIGRATABLE: u64 = 1 << 29;
    for extra in [0, DEBUG, MIGRATABLE] {
        let attributes = SEPT_VE_DISABLE | extra;
        let mut world = world_with(bench, move |config| config.attributes = attributes);
        let log = std::rc::Rc::new(std::cell::RefCell::new(Vec::new()));
        let out = std::rc::Rc::clone(&log);
        world.on_l1(move |mut l1| {
            let mut bytes = vec![0; REPORT];
            let evidence = l1.backend.attest(&NONCE, &mut bytes).map_err(|error| error.to_string())?;
            same("names", evidence.names, Level::Monitor)?;
            *out.borrow_mut() = bytes;
            Ok(())
        });
        world.finish()?;
        let bytes = log.borrow().clone();
        let report = parsed(&bytes)?;
        same("attributes", u64::from_le_bytes(report.td.attributes), attributes)?;
        ensure(is_genuine(&world, &bytes), || "the MAC is wrong".into())?;
        for at in (0..REPORT).step_by(7) {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            // Reserved bytes behind the TCB information are under no hash; all else is.
            let is_covered = !RESERVED.contains(&at);
            same(&format!("genuine with byte {at:#x} changed"), is_genuine(&world, &changed), !is_covered)?;
        }
    }
    Ok(())
}

fn level_makes_no_report(bench: &mut Bench<Tdx>) -> Check {
    const REQUEST: u64 = DATA + 0x1_0000;
    const OUT: u64 = DATA + 0x1_4000;
    let options = bench.options();
    let level = options.guest_level();
    let mut world = bench.world(options);
    world.on_guest(0, move |mut l2| {
        let memory = l2.port.memory();
        let request = AttestRequest { out: OUT, nonce: NONCE };
        memory.write_value(PhysAddr::new(REQUEST), &request).map_err(|error| error.to_string())?;
        let answer = call(&mut l2, CallRegs::call(CallId::new(PROTOCOL, ATTEST), REQUEST, 0, 0))?;
        same("result", answer.result(), CallResult::SUCCESS)?;
        let mut bytes = vec![0; REPORT];
        memory.read(PhysAddr::new(OUT), &mut bytes).map_err(|error| error.to_string())?;
        let report = parsed(&bytes)?;
        same("report data", report.mac.reportdata, report_data(level.into(), &NONCE, &[]))?;
        // Its own leaf comes to L1, which has no service for it: the vCPU stops.
        let own = machine::tdx::Regs { rax: 4, rcx: OUT + PAGE, rdx: REQUEST & !63, ..Default::default() };
        let _ = l2.cpu.execute(Op::Tdcall(own));
        Err("a leaf of the level came back".into())
    });
    world.run_for(TURNS, |_| false);
    ensure(world.complaints().is_empty(), || world.complaints().join("; "))?;
    same("reports made by levels", world.runner.machine.at_level(2).report, 1)?;
    same("reports made by L1", of_l1(&world).report, 1)?;
    same("where the level wanted it", world.peek(OUT + PAGE, 8, Some(level.number())), Some(vec![0; 8]))?;

    // One nonce, other report data for each level and for L1 itself.
    let options = bench.options();
    let mut world = bench.world(crate::world::Options { levels: GuestLevel::ALL.to_vec(), ..options });
    world.on_l1(|mut l1| {
        same("level", l1.backend.level(), Level::Monitor)?;
        let mut seen = Vec::new();
        let mut bytes = vec![0; REPORT];
        l1.backend.attest(&NONCE, &mut bytes).map_err(|error| error.to_string())?;
        seen.push(parsed(&bytes)?.mac.reportdata);
        for level in GuestLevel::ALL {
            l1.backend.attest_for(level, &NONCE, &[], &mut bytes).map_err(|error| error.to_string())?;
            seen.push(parsed(&bytes)?.mac.reportdata);
        }
        ensure(!seen.contains(&NONCE), || "a nonce stands in a report as it is".into())?;
        seen.sort_unstable();
        seen.dedup();
        same("different report data", seen.len(), 4)
    });
    world.finish()
}
