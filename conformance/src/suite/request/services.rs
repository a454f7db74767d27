//! Services beside the core protocol: the vTPM, and evidence over what L1 serves.

use coco_part_api::svsm::attest::{
    ATTEST_SERVICES, ATTEST_SINGLE_SERVICE, ReportData, ServicesRequest, SingleRequest, VTPM_SERVICE, write_manifest,
};
use coco_part_api::svsm::vtpm::{CommandHeader, SEND_COMMAND, VTPM_CMD, VTPM_QUERY};
use coco_part_api::svsm::{ATTESTATION, CORE, CallId, CallResult, QUERY_PROTOCOL, VTPM, own};
use coco_part_api::{
    Binding, CallRegs, Capabilities, GuestMemory, HasMemory, MemoryMap, REPORT_DATA, attest::DOMAIN_TAG,
};
use l2_guest_shim::{Limits, Shim};
use x86_64::PhysAddr;
use zerocopy::IntoBytes;

use crate::platform::{Platform, Property};
use crate::suite::bench::{Stop, ensure, same};
use crate::suite::probe::{Probe, as_guest, call, refused_in};
use crate::suite::{Bench, Check};
use crate::world::layout::{BOOT_STATE, CALL_AREA, DATA, FREE, HOLE, MONITOR_DATA, PAGE, frame};
use crate::world::tpm::KEY;
use crate::world::{L2, Options};

const BAD_ADDRESS: CallResult = CallResult::INVALID_ADDRESS;
const BAD_PARAMETER: CallResult = CallResult::INVALID_PARAMETER;
/// The buffer of vTPM commands.
const BUFFER: u64 = DATA + 0x1_0000;
/// Request for evidence, nonce, and where report and manifest go.
const REQUEST: u64 = CALL_AREA + 8;
const NONCE: u64 = DATA + 0x2_0000;
const REPORT: u64 = DATA + 0x2_1000;
const MANIFEST: u64 = DATA + 0x2_2000;

fn with_vtpm<P: Platform>(bench: &Bench<P>) -> Options<P> {
    Options { vtpm: true, ..bench.options() }
}

fn write<P: Platform>(l2: &L2<'_, P>, at: u64, bytes: &[u8]) -> Check {
    l2.port.memory().write(PhysAddr::new(at), bytes).map_err(|error| Stop::Wrong(error.to_string()))
}

fn read<P: Platform>(l2: &L2<'_, P>, at: u64, len: usize) -> Result<Vec<u8>, Stop> {
    let mut bytes = vec![0; len];
    l2.port.memory().read(PhysAddr::new(at), &mut bytes).map_err(|error| Stop::Wrong(error.to_string()))?;
    Ok(bytes)
}

fn versions<P: Platform>(l2: &mut L2<'_, P>, protocol: u32) -> Result<u64, Stop> {
    let wanted = CallId::new(protocol, 1).to_rax();
    Ok(call(l2, CallRegs::call(CallId::new(CORE, QUERY_PROTOCOL), wanted, 0, 0))?.rcx)
}

pub(super) fn vtpm<P: Platform>(bench: &mut Bench<P>) -> Check {
    let options = with_vtpm(bench);
    as_guest(bench, options, |mut l2| {
        same("versions", versions(&mut l2, VTPM)?, 1 << 32 | 1)?;
        let query = CallRegs::call(CallId::new(VTPM, VTPM_QUERY), 6, 7, 8);
        let commands = CallRegs { rcx: 1 << SEND_COMMAND, rdx: 0, ..query.with_result(CallResult::SUCCESS) };
        same("query", call(&mut l2, query)?, commands)?;

        // Aligned, and across two pages.
        for at in [BUFFER, BUFFER + 0xffd] {
            let head = CommandHeader::send(10).map_err(|kind| format!("{kind:?}"))?;
            write(&l2, at, &[head.as_bytes(), b"0123456789"].concat())?;
            let regs = CallRegs { r9: 9, ..CallRegs::call(CallId::new(VTPM, VTPM_CMD), at, 7, 8) };
            same("command", call(&mut l2, regs)?, regs.with_result(CallResult::SUCCESS))?;
            same("response", read(&l2, at, 14)?, b"\x0a\0\0\x009876543210".to_vec())?;
        }

        let map = MemoryMap::new(&l2.home.guest_ram).map_err(|error| error.to_string())?;
        let mut shim = Shim::negotiate(l2.port, map, Limits::default()).map_err(|error| error.to_string())?;
        same("the shim finds it", shim.has_vtpm().map_err(|error| error.to_string())?, true)?;
        let mut response = [0; 4092];
        let command: Vec<u8> = (0..4087_u32).map(|index| index as u8).collect();
        let len = shim.vtpm_command(frame(BUFFER), &command, &mut response).map_err(|error| error.to_string())?;
        let backwards: Vec<u8> = command.iter().rev().copied().collect();
        same("longest command", response.get(..len), Some(&backwards[..]))
    })
    .map(|_| ())
}

pub(super) fn vtpm_refusals<P: Platform>(bench: &mut Bench<P>) -> Check {
    let regs = |at| CallRegs::call(CallId::new(VTPM, VTPM_CMD), at, 7, 8);
    let with = |what: &str, platform_command: u64, locality: u64, in_size: u64| Probe {
        what: what.to_owned(),
        // The words before the TPM command: 4 bytes, 1 byte, 4 bytes.
        words: vec![
            (BUFFER, platform_command | locality << 32 | in_size << 40),
            (BUFFER + 8, in_size >> 24 & 0xff | 0x6161_6161_6161_6100),
        ],
        regs: regs(BUFFER),
        want: BAD_PARAMETER,
    };
    let at = |what: &str, at| Probe { what: what.to_owned(), words: Vec::new(), regs: regs(at), want: BAD_ADDRESS };
    let options = with_vtpm(bench);
    let mut world = bench.world(options);
    refused_in(
        &mut world,
        vec![
            with("platform command 0", 0, 0, 10),
            with("platform command 9", 9, 0, 10),
            with("platform command 8 in the wrong byte", 8 << 8, 0, 10),
            with("locality 1", 8, 1, 10),
            with("locality 4", 8, 4, 10),
            with("locality 255", 8, 255, 10),
            with("no bytes", 8, 0, 0),
            with("4088 bytes", 8, 0, 4088),
            with("2^32 - 1 bytes", 8, 0, 0xffff_ffff),
            at("buffer in L1", MONITOR_DATA),
            at("buffer in a state frame", BOOT_STATE),
            at("buffer in the call area", CALL_AREA + 8),
            at("buffer that ends in memory that is not valid", FREE - 8),
            at("buffer in a hole", HOLE),
            at("buffer with the private bit", BUFFER | 1 << 51),
            at("buffer that ends beyond 2^52", (1 << 52) - 8),
            at("buffer near 2^64", u64::MAX),
            Probe {
                what: "unknown call".to_owned(),
                words: Vec::new(),
                regs: CallRegs::call(CallId::new(VTPM, 2), BUFFER, 7, 8),
                want: CallResult::UNSUPPORTED_CALL,
            },
        ],
        |_| Ok(()),
    )
}

/// A request for evidence over a nonce of 64 bytes.
fn request() -> ServicesRequest {
    ServicesRequest {
        report_gpa: REPORT,
        report_size: PAGE as u32,
        nonce_gpa: NONCE,
        nonce_size: 64,
        manifest_gpa: MANIFEST,
        manifest_size: PAGE as u32,
        ..ServicesRequest::default()
    }
}

/// Asks for evidence until L1 is not busy.
fn ask<P: Platform>(l2: &mut L2<'_, P>, number: u32, request: &[u8]) -> Result<CallRegs, Stop> {
    loop {
        write(l2, REQUEST, request)?;
        let answer = call(l2, CallRegs::call(CallId::new(ATTESTATION, number), REQUEST, 7, 8))?;
        if answer.result() != CallResult::BUSY {
            return Ok(answer);
        }
    }
}

/// Demands a report over nonce and manifest, and this manifest.
fn sound<P: Platform>(l2: &L2<'_, P>, answer: CallRegs, nonce: &[u8], manifest: &[u8]) -> Check {
    same("result", answer.result(), CallResult::SUCCESS)?;
    same("lengths", (answer.rcx, answer.rdx), (manifest.len() as u64, 0))?;
    same("manifest", read(l2, MANIFEST, manifest.len())?, manifest.to_vec())?;
    ensure((1..=PAGE).contains(&answer.r8), || format!("a report of {} bytes", answer.r8))?;
    let report = read(l2, REPORT, answer.r8 as usize)?;
    let mut data = ReportData::new();
    data.update(nonce);
    data.update(manifest);
    let data = data.finish().map_err(|kind| format!("{kind:?}"))?;
    ensure(report.windows(REPORT_DATA).any(|bytes| bytes == data), || {
        "the report is not over nonce and manifest".into()
    })
}

pub(super) fn evidence<P: Platform>(bench: &mut Bench<P>) -> Check {
    let options = with_vtpm(bench);
    as_guest(bench, options, |mut l2| {
        let single =
            SingleRequest { common: request(), service_guid: VTPM_SERVICE, manifest_version: 0, reserved_0x54: 0 };
        let identity = call(&mut l2, CallRegs::call(CallId::new(own::PROTOCOL, own::IDENTIFY), 0, 0, 0))?;
        let capabilities = Capabilities::from_bits(identity.r8).ok_or("no capabilities")?;
        let by_hardware = capabilities.binding == Binding::Hardware;
        same("versions", versions(&mut l2, ATTESTATION)?, if by_hardware { 1 << 32 | 1 } else { 0 })?;
        if !by_hardware {
            // Nothing but report data could tell this evidence from that of a level: it is not to be had.
            for number in [ATTEST_SERVICES, ATTEST_SINGLE_SERVICE] {
                let answer = ask(&mut l2, number, single.as_bytes())?;
                let asked = CallRegs::call(CallId::new(ATTESTATION, number), REQUEST, 7, 8);
                same("answer", answer, asked.with_result(CallResult::UNSUPPORTED_PROTOCOL))?;
            }
            return Ok(());
        }
        let nonce: Vec<u8> = (0..64).collect();
        write(&l2, NONCE, &nonce)?;
        let mut manifest = vec![0; 256];
        let len = write_manifest(&[(VTPM_SERVICE, KEY)], &mut manifest).map_err(|kind| format!("{kind:?}"))?;
        manifest.truncate(len);
        let answer = ask(&mut l2, ATTEST_SERVICES, request().as_bytes())?;
        sound(&l2, answer, &nonce, &manifest)?;
        let answer = ask(&mut l2, ATTEST_SINGLE_SERVICE, single.as_bytes())?;
        sound(&l2, answer, &nonce, KEY)?;

        // Too small: told what is needed, and nothing written.
        write(&l2, MANIFEST, &[0xee; 8])?;
        let small = ServicesRequest { manifest_size: 8, ..request() };
        let told = ask(&mut l2, ATTEST_SERVICES, small.as_bytes())?;
        let needed = (BAD_PARAMETER, manifest.len() as u64, answer.r8);
        same("too small", (told.result(), told.rcx, told.r8), needed)?;
        same("nothing was written", read(&l2, MANIFEST, 8)?, vec![0xee; 8])?;
        let unknown = SingleRequest { service_guid: coco_part_api::svsm::attest::MANIFEST, ..single };
        let answer = ask(&mut l2, ATTEST_SINGLE_SERVICE, unknown.as_bytes())?;
        same("unknown service", answer.result(), CallResult::UNSUPPORTED_PROTOCOL)?;
        let version = SingleRequest { manifest_version: 1, ..single };
        let answer = ask(&mut l2, ATTEST_SINGLE_SERVICE, version.as_bytes())?;
        same("unknown version", answer.result(), BAD_PARAMETER)?;
        write(&l2, NONCE, DOMAIN_TAG)?;
        let answer = ask(&mut l2, ATTEST_SERVICES, request().as_bytes())?;
        same("a nonce like L1's own data", answer.result(), BAD_PARAMETER)
    })
    .map(|_| ())
}

pub(super) fn evidence_refusals<P: Platform>(bench: &mut Bench<P>) -> Check {
    if !P::PROPERTIES.contains(&Property::LevelIsSigned) {
        return Err(Stop::NotApplicable);
    }
    let base = request();
    let cases = [
        ("report not aligned", ServicesRequest { report_gpa: REPORT + 8, ..base }, BAD_PARAMETER),
        ("manifest not aligned", ServicesRequest { manifest_gpa: MANIFEST + 8, ..base }, BAD_PARAMETER),
        ("reserved bytes", ServicesRequest { reserved_0x2c: 1, ..base }, BAD_PARAMETER),
        ("nonce across its page", ServicesRequest { nonce_gpa: NONCE + PAGE - 63, ..base }, BAD_PARAMETER),
        ("one page for two", ServicesRequest { manifest_gpa: REPORT, ..base }, BAD_PARAMETER),
        ("overlapping buffers", ServicesRequest { report_size: 2 * PAGE as u32, ..base }, BAD_PARAMETER),
        ("manifest over the nonce", ServicesRequest { manifest_gpa: NONCE, ..base }, BAD_PARAMETER),
        ("report over the request", ServicesRequest { report_gpa: CALL_AREA, ..base }, BAD_PARAMETER),
        ("report in L1", ServicesRequest { report_gpa: MONITOR_DATA, ..base }, BAD_ADDRESS),
        ("manifest in a state frame", ServicesRequest { manifest_gpa: BOOT_STATE, ..base }, BAD_ADDRESS),
        ("manifest not valid", ServicesRequest { manifest_gpa: FREE, ..base }, BAD_ADDRESS),
        ("nonce in L1", ServicesRequest { nonce_gpa: MONITOR_DATA, ..base }, BAD_ADDRESS),
        ("report of 4 GiB", ServicesRequest { report_size: u32::MAX, manifest_gpa: NONCE, ..base }, BAD_ADDRESS),
        ("report near 2^64", ServicesRequest { report_gpa: !0xfff, ..base }, BAD_ADDRESS),
    ];
    let words = |request: &ServicesRequest| {
        let word = |bytes: &[u8]| bytes.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte));
        let words = request.as_bytes().chunks(8).map(word);
        (0..).map(|index| REQUEST + 8 * index).zip(words).collect::<Vec<_>>()
    };
    let options = bench.options();
    let mut world = bench.world(options);
    let probes = cases.map(|(what, request, want)| Probe {
        what: what.to_owned(),
        words: words(&request),
        regs: CallRegs::call(CallId::new(ATTESTATION, ATTEST_SERVICES), REQUEST, 7, 8),
        want,
    });
    refused_in(&mut world, probes.to_vec(), |_| Ok(()))
}
