//! A VM that is launched from an IGVM file: what its reports say, and what the host may leave in its parameters.

use backend_snp::launch::Igvm;
use backend_snp::launch::parameters::{ParameterError, guest_ram, vp_count};
use coco_part_api::{Attest, FrameRange, GuestMemory, HasMemory};
use igvm_defs::{IGVM_VHS_MEMORY_MAP_ENTRY, MemoryMapEntryType};
use machine::vmsa::features;
use machine::{LaunchError, psp};
use x86_64::PhysAddr;

use super::{case, run_as_l1};
use crate::snp::features::page as cpuid_page;
use crate::snp::igvm::{Claims, LoadError, MEMORY_MAP, PARAMETERS, image};
use crate::snp::model::SnpModel;
use crate::snp::platform::{Snp, first_vmsa, launch_from};
use crate::suite::{Bench, Case, Check, Kind, Stop, ensure, same};
use crate::world::layout::{MONITOR, MONITOR_BYTES, PAGE, range};
use crate::world::{Options, World};

/// Bytes of a report (attestation_report).
const REPORT: usize = 0x4a0;
/// Offset of the security version of the guest in it.
const GUEST_SVN: usize = 0x04;
/// Offset of the launch digest in it.
const MEASUREMENT: usize = 0x90;

/// The cases of this file.
pub(super) fn cases() -> Vec<Case<Snp>> {
    vec![
        case!(
            "A1-launch-digest",
            "A1",
            ["AT-01"],
            Contract,
            "reports of a VM that was launched from a file name the digest that is computed from the file",
            launch_digest
        ),
        case!(
            "H2-memory-map-parameter",
            "H2",
            ["PG-23"],
            HostileHost,
            "of a memory map from the host L1 takes no page of its own for guest RAM, and none of a map that overlaps or wraps",
            memory_map
        ),
    ]
}

/// The monitor's file, with an ID block that expects this digest.
fn file(expected: Option<[u8; 48]>) -> Result<Vec<u8>, Stop> {
    let made = image(&first_vmsa(features::SNP_ACTIVE), &cpuid_page(), expected);
    made.map_err(|error| error.to_string().into())
}

/// Entry of a memory map: first page, pages, type.
fn entry(starting_gpa_page_number: u64, number_of_pages: u64, entry_type: u16) -> IGVM_VHS_MEMORY_MAP_ENTRY {
    let entry_type = MemoryMapEntryType(entry_type);
    IGVM_VHS_MEMORY_MAP_ENTRY { starting_gpa_page_number, number_of_pages, entry_type, flags: 0, reserved: 0 }
}

fn of_range(range: FrameRange) -> IGVM_VHS_MEMORY_MAP_ENTRY {
    entry(range.first_number(), range.frames(), 0)
}

/// The end of a memory map.
fn end() -> IGVM_VHS_MEMORY_MAP_ENTRY {
    entry(0, 0, 0)
}

/// A world whose machine was launched from a file.
fn world_of(bench: &mut Bench<Snp>, file: &[u8], memory: Vec<IGVM_VHS_MEMORY_MAP_ENTRY>) -> Result<World<Snp>, Stop> {
    let options: Options<Snp> = bench.options();
    let claims = Claims { vcpus: options.vcpus.into(), memory };
    let machine = launch_from(&options, file, &claims).map_err(|error| error.to_string())?;
    let mut world = bench.world(options);
    world.runner.machine = SnpModel(machine);
    Ok(world)
}

fn launch_digest(bench: &mut Bench<Snp>) -> Check {
    let computed = |file: &[u8]| -> Result<[u8; 48], Stop> {
        let igvm = Igvm::try_new(file).map_err(|error| error.to_string())?;
        Ok(*igvm.digest().bytes())
    };
    let plain = file(None)?;
    let digest = computed(&plain)?;
    let signed = file(Some(digest))?;
    same("an ID block changes the digest", computed(&signed)?, digest)?;

    for (file, svn) in [(&plain, 0), (&signed, 7)] {
        let mut world = world_of(bench, file, vec![end()])?;
        same("what the machine measured", world.runner.machine.0.psp().digest(), digest)?;
        let report = run_as_l1(&mut world, |mut l1| {
            let mut out = [0; REPORT];
            l1.backend.attest(&[0x33; 64], &mut out).map(|_| out).map_err(|error| error.to_string())
        });
        let report = report.ok_or("L1 does not come to its end")??;
        same("MEASUREMENT", &report[MEASUREMENT..][..48], &digest[..])?;
        same("GUEST_SVN", &report[GUEST_SVN..][..4], &[svn, 0, 0, 0][..])?;
    }

    // What the host puts into parameters is not measured; one byte of a measured page is.
    let claimed = world_of(bench, &plain, vec![of_range(range(MONITOR, MONITOR_BYTES)), end()])?;
    same("digest with other parameters", claimed.runner.machine.0.psp().digest(), digest)?;
    let mut vmsa = first_vmsa(features::SNP_ACTIVE);
    vmsa[0x3ff] ^= 1;
    let other = image(&vmsa, &cpuid_page(), Some(digest)).map_err(|error| error.to_string())?;
    ensure(computed(&other)? != digest, || "another VMSA has the same digest".into())?;
    let claims = Claims { vcpus: 1, memory: vec![end()] };
    let refused = launch_from(&bench.options(), &other, &claims).err();
    let status = psp::status::BAD_MEASUREMENT;
    ensure(matches!(refused, Some(LoadError::Finish(LaunchError::Firmware(found))) if found == status), || {
        format!("another image than the ID block expects: {refused:?}")
    })
}

fn memory_map(bench: &mut Bench<Snp>) -> Check {
    let monitor = range(MONITOR, MONITOR_BYTES);
    let ram = bench.world(bench.options()).guest_ram();
    let (first, pages) = (ram.first_number(), ram.frames());
    let half = pages / 2;
    let wraps = |index, first, pages| ParameterError::Wraps { index, first, pages };
    type Row = (&'static str, Vec<IGVM_VHS_MEMORY_MAP_ENTRY>, Result<Vec<FrameRange>, ParameterError>);
    let rows: [Row; 11] = [
        ("honest", vec![of_range(monitor), of_range(ram), end()], Ok(vec![ram])),
        ("no word of L1", vec![of_range(ram), end()], Ok(vec![ram])),
        ("L1 inside RAM", vec![entry(0, first + pages, 0), end()], {
            let below = range(0, MONITOR);
            let above = range(MONITOR + MONITOR_BYTES, ram.start().as_u64() + ram.bytes() - MONITOR - MONITOR_BYTES);
            Ok(vec![below, above])
        }),
        ("L1 alone", vec![of_range(monitor), end()], Ok(vec![])),
        ("reserved", vec![entry(first, half, 1), entry(first + half, half, 0), end()], {
            Ok(vec![range((first + half) * PAGE, half * PAGE)])
        }),
        ("twice", vec![of_range(ram), of_range(ram), end()], Err(ParameterError::Order { index: 1 })),
        ("not in order", vec![of_range(ram), of_range(monitor), end()], Err(ParameterError::Order { index: 1 })),
        ("wraps", vec![entry(first, u64::MAX, 0), end()], Err(wraps(0, first, u64::MAX))),
        ("beyond", vec![of_range(ram), entry(1 << 40, 1, 0), end()], Err(wraps(1, 1 << 40, 1))),
        ("unknown type", vec![entry(first, pages, 9), end()], Err(ParameterError::MemoryType { index: 0, found: 9 })),
        ("no end", (0..168).map(|index| entry(2 * index, 1, 0)).collect(), Err(ParameterError::Truncated)),
    ];
    let file = file(None)?;
    for (what, memory, want) in rows {
        let mut world = world_of(bench, &file, memory)?;
        let own = monitor;
        let found = run_as_l1(&mut world, move |l1| -> Result<_, String> {
            let mut area = [0; PAGE as usize];
            let memory = l1.backend.memory();
            memory.read(PhysAddr::new(PARAMETERS), &mut area).map_err(|error| error.to_string())?;
            same_count(&area, l1.start.vcpu.into())?;
            let mut room = [own; 256];
            Ok(guest_ram(&area[MEMORY_MAP as usize..], &[own], &mut room).map(<[FrameRange]>::to_vec))
        });
        let found = found.ok_or("L1 does not come to its end")??;
        same(what, found, want)?;
    }
    Ok(())
}

/// The host of these worlds tells the truth about vCPUs.
fn same_count(area: &[u8], own: u32) -> Result<(), String> {
    let count = vp_count(area, 8).map_err(|error| error.to_string())?;
    if own < count { Ok(()) } else { Err(format!("{count} vCPUs, and this is number {own}")) }
}
