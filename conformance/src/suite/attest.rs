//! Evidence: it names its level, L1 signs nothing that a guest chose (A1), and keys stay above (A3).

mod channel;

use coco_part_api::svsm::own::{ATTEST, AttestRequest, PROTOCOL};
use coco_part_api::svsm::{CallId, CallResult};
use coco_part_api::{
    Attest, AttestFor, BootGuest, BootInfo, BootPage, CallRegs, DataForm, Error, ErrorKind, Evidence, Grant, Grants,
    GuestLevel, GuestMemory, GuestPort, Identify, Level, MemoryMap, REPORT_DATA, Rights, Validate, report_data,
};
use l2_guest_shim::{Limits, Shim};
use x86_64::PhysAddr;
use zerocopy::IntoBytes;

use super::bench::{Stop, ensure, same};
use super::probe::{Probe, as_guest, refused};
use super::{Bench, Case, Check, Kind};
use crate::platform::Platform;
use crate::world::layout::{
    BOOT_STATE, CALL_AREA, DATA, FREE, GUEST, HOLE, LARGE, MONITOR, MONITOR_BYTES, MONITOR_DATA, MONITOR_SECRETS, PAGE,
    SECRETS, frame, range,
};
use crate::world::{Gate, L1, Options, World};

const BAD_ADDRESS: CallResult = CallResult::INVALID_ADDRESS;
const BAD_PARAMETER: CallResult = CallResult::INVALID_PARAMETER;
/// Where guests put their requests.
const REQUEST: u64 = DATA + 0x1_0000;
/// Where they want their evidence.
const OUT: u64 = DATA + 0x1_4000;
const NONCE: [u8; REPORT_DATA] = [0x6e; REPORT_DATA];

macro_rules! case {
    ($id:literal, $rule:literal, [$($threat:literal),*], $kind:ident, $text:literal, $run:expr) => {
        Case { id: $id, rule: $rule, threats: &[$($threat),*], kind: Kind::$kind, text: $text, run: $run }
    };
}
use case;

/// The cases of this file.
pub(crate) fn cases<P: Platform>() -> Vec<Case<P>> {
    let mut all = vec![
        case!(
            "A1-own-level",
            "A1",
            [],
            Contract,
            "evidence that a guest gets for itself names its level and is over what it asked for",
            own_level
        ),
        case!(
            "A1-through-l1",
            "A1",
            ["AT-01"],
            Contract,
            "evidence that L1 gives to a guest is over L1's digest of level and nonce, never over the guest's bytes",
            through_l1
        ),
        case!(
            "A1-every-level",
            "A1",
            ["AT-01", "AT-02"],
            Contract,
            "L1's evidence names the level it is for; one nonce gives other report data for each level and manifest",
            every_level
        ),
        case!(
            "A1-bad-arguments",
            "A1",
            ["RQ-26", "RQ-27", "RQ-16"],
            HostileGuest,
            "requests and evidence pages that are not the caller's own are refused, and no message is sent",
            bad_arguments
        ),
        case!(
            "A1-small-buffer",
            "A1",
            ["RQ-26"],
            Contract,
            "a buffer that is too small is refused before a message is sent, and the next request succeeds",
            small_buffer
        ),
        case!(
            "A3-keys-of-others",
            "A3",
            ["GR-09"],
            Contract,
            "no key of a more privileged level stands anywhere that a guest or the host can read",
            keys_of_others
        ),
        case!(
            "A3-boot-page-per-level",
            "A3",
            ["GR-09"],
            Contract,
            "the boot page for each level lacks the keys of the levels above it",
            boot_page_per_level
        ),
    ];
    all.extend(channel::cases());
    all
}

/// Result of a request for evidence, with its error as a kind.
fn kind<E: Error>(result: Result<Evidence, E>) -> Result<Evidence, ErrorKind> {
    result.map_err(|error| error.kind())
}

fn contains(bytes: &[u8], wanted: &[u8]) -> bool {
    bytes.windows(wanted.len()).any(|window| window == wanted)
}

/// Demands that evidence is what it says: for this level, over this nonce.
fn sound(evidence: Evidence, bytes: &[u8], level: Level, nonce: &[u8; REPORT_DATA]) -> Check {
    same("names", evidence.names, level)?;
    let data = match evidence.data {
        DataForm::Verbatim => *nonce,
        DataForm::Digest => report_data(level, nonce, &[]),
    };
    let bytes = bytes.get(..evidence.len).unwrap_or_default();
    ensure(contains(bytes, &data), || "the evidence is not over the nonce".into())
}

/// Runs `body` as L1 on an otherwise empty VM.
fn as_l1<P: Platform>(
    bench: &mut Bench<P>,
    options: Options<P>,
    body: impl for<'y> FnOnce(L1<'y, P>) -> Check + 'static,
) -> Result<World<P>, Stop> {
    let mut world = bench.world(options);
    world.on_l1(body);
    world.finish()?;
    Ok(world)
}

/// Asks L1 for evidence until it is not busy.
fn ask<G: GuestPort>(port: &mut G, request: u64, out: u64, nonce: &[u8; REPORT_DATA]) -> Result<CallRegs, Stop> {
    let memory = port.memory();
    let wanted = AttestRequest { out, nonce: *nonce };
    memory.write_value(PhysAddr::new(request), &wanted).map_err(|error| error.to_string())?;
    loop {
        let regs = CallRegs::call(CallId::new(PROTOCOL, ATTEST), request, 0, 0);
        let answer = port.call(regs).map_err(|error| format!("not served: {error}"))?;
        if answer.result() != CallResult::BUSY {
            return Ok(answer);
        }
    }
}

/// Reads evidence that L1 wrote.
fn evidence_at<G: GuestPort>(port: &G, out: u64, len: u64) -> Result<Vec<u8>, Stop> {
    ensure((1..=PAGE).contains(&len), || format!("evidence of {len} bytes"))?;
    let mut bytes = vec![0; len as usize];
    port.memory().read(PhysAddr::new(out), &mut bytes).map_err(|error| error.to_string())?;
    Ok(bytes)
}

fn own_level<P: Platform>(bench: &mut Bench<P>) -> Check {
    for level in GuestLevel::ALL {
        let options = Options { levels: vec![level], ..bench.options() };
        as_guest(bench, options, move |l2| {
            let map = MemoryMap::new(&l2.home.guest_ram).map_err(|error| error.to_string())?;
            let mut shim = Shim::negotiate(l2.port, map, Limits::default()).map_err(|error| error.to_string())?;
            shim.set_evidence_page(frame(OUT)).map_err(|error| error.to_string())?;
            same("level", shim.level(), Level::Guest(level))?;
            for round in 0..3 {
                let (nonce, mut out) = ([round; REPORT_DATA], vec![0; PAGE as usize]);
                let evidence = shim.attest(&nonce, &mut out).map_err(|error| error.to_string())?;
                sound(evidence, &out, Level::Guest(level), &nonce)?;
                same("bound by", evidence.bound_by, shim.capabilities().binding)?;
            }
            Ok(())
        })?;
    }
    Ok(())
}

fn through_l1<P: Platform>(bench: &mut Bench<P>) -> Check {
    for level in GuestLevel::ALL {
        let options = Options { levels: vec![level], ..bench.options() };
        as_guest(bench, options, move |mut l2| {
            // In the buffer of the call area, and in a page of its own.
            for (request, nonce) in [(CALL_AREA + 8, NONCE), (REQUEST, [0; REPORT_DATA])] {
                let answer = ask(&mut l2.port, request, OUT, &nonce)?;
                same("result", answer.result(), CallResult::SUCCESS)?;
                let bytes = evidence_at(&l2.port, OUT, answer.rcx)?;
                let digest = report_data(Level::Guest(level), &nonce, &[]);
                ensure(contains(&bytes, &digest), || "the evidence is not over L1's digest".into())?;
                ensure(nonce == [0; REPORT_DATA] || !contains(&bytes, &nonce), || {
                    "L1 signed the guest's bytes".into()
                })?;
                same("bound by hardware", answer.rdx <= 1, true)?;
                let regs = CallRegs::call(CallId::new(PROTOCOL, ATTEST), request, 0, 0);
                let unchanged = CallRegs { rcx: answer.rcx, rdx: answer.rdx, ..regs.with_result(CallResult::SUCCESS) };
                same("registers", answer, unchanged)?;
            }
            Ok(())
        })?;
    }
    Ok(())
}

fn every_level<P: Platform>(bench: &mut Bench<P>) -> Check {
    let options = Options { levels: GuestLevel::ALL.to_vec(), ..bench.options() };
    as_l1(bench, options, |mut l1| {
        let l1 = &mut l1.backend;
        let mut seen: Vec<Vec<u8>> = Vec::new();
        let mut out = vec![0; PAGE as usize];
        let evidence = l1.attest(&NONCE, &mut out).map_err(|error| error.to_string())?;
        sound(evidence, &out, Level::Monitor, &NONCE)?;
        seen.push(out.get(..evidence.len).unwrap_or_default().to_vec());
        for level in GuestLevel::ALL {
            for manifest in [&b""[..], b"manifest"] {
                let mut out = vec![0; PAGE as usize];
                let evidence = l1.attest_for(level, &NONCE, manifest, &mut out).map_err(|error| error.to_string())?;
                same("names", evidence.names, Level::Guest(level))?;
                same("data", evidence.data, DataForm::Digest)?;
                let bytes = out.get(..evidence.len).unwrap_or_default().to_vec();
                let digest = report_data(Level::Guest(level), &NONCE, manifest);
                ensure(contains(&bytes, &digest), || format!("{level:?}: not over its digest"))?;
                ensure(!contains(&bytes, &NONCE), || format!("{level:?}: the nonce as it is"))?;
                ensure(!seen.contains(&bytes), || format!("{level:?}: the same evidence as another"))?;
                seen.push(bytes);
            }
        }
        Ok(())
    })?;
    // A level that is not in use gets none.
    let options = Options { levels: vec![GuestLevel::TWO], ..bench.options() };
    as_l1(bench, options, |mut l1| {
        let mut out = vec![0xee; PAGE as usize];
        let got = kind(l1.backend.attest_for(GuestLevel::ONE, &NONCE, &[], &mut out));
        same("level not in use", got, Err(ErrorKind::NotFound))?;
        same("buffer", out.iter().all(|byte| *byte == 0xee), true)
    })
    .map(|_| ())
}

/// Words of a request, for a probe.
fn request_words(at: u64, out: u64) -> Vec<(u64, u64)> {
    let request = AttestRequest { out, nonce: NONCE };
    let words = request.as_bytes().chunks_exact(8).map(|word| word.first_chunk().map_or(0, |w| u64::from_le_bytes(*w)));
    (at..).step_by(8).zip(words).collect()
}

fn bad_arguments<P: Platform>(bench: &mut Bench<P>) -> Check {
    let probe = |what: &str, at: u64, want| Probe {
        what: what.to_owned(),
        words: Vec::new(),
        regs: CallRegs { rdx: 0x2222, r8: 0x3333, ..CallRegs::call(CallId::new(PROTOCOL, ATTEST), at, 0, 0) },
        want,
    };
    let mut probes = vec![
        probe("request at a multiple of 4", REQUEST + 4, BAD_PARAMETER),
        probe("request across a page end", REQUEST + PAGE - 64, BAD_PARAMETER),
        probe("request in L1", MONITOR_DATA, BAD_ADDRESS),
        probe("request in the secrets page of L1", MONITOR_SECRETS, BAD_ADDRESS),
        probe("request in a state frame", BOOT_STATE, BAD_ADDRESS),
        probe("request in memory that is not valid", FREE, BAD_ADDRESS),
        probe("request in a hole", HOLE, BAD_ADDRESS),
        probe("request on the mark of the call area", CALL_AREA, BAD_ADDRESS),
        probe("request with the private bit", REQUEST | 1 << 51, BAD_ADDRESS),
        probe("request beyond all addresses", 1 << 52, BAD_ADDRESS),
        probe("request at the last word", !7, BAD_ADDRESS),
    ];
    let outs = [
        ("evidence to no page", OUT + 8, BAD_PARAMETER),
        ("evidence to L1", MONITOR_DATA, BAD_ADDRESS),
        ("evidence to the secrets page of L1", MONITOR_SECRETS, BAD_ADDRESS),
        ("evidence to the first page of L1", MONITOR, BAD_ADDRESS),
        ("evidence to the call area", CALL_AREA, BAD_ADDRESS),
        ("evidence to a state frame", BOOT_STATE, BAD_ADDRESS),
        ("evidence to memory that is not valid", FREE, BAD_ADDRESS),
        ("evidence to a hole", HOLE, BAD_ADDRESS),
        ("evidence to page 0", 0, BAD_ADDRESS),
        ("evidence with the private bit", OUT | 1 << 51, BAD_ADDRESS),
        ("evidence beyond all addresses", 1 << 52, BAD_ADDRESS),
        ("evidence to the page of the request", REQUEST, BAD_PARAMETER),
    ];
    for (what, out, want) in outs {
        probes.push(probe(what, REQUEST, want).with_words(request_words(REQUEST, out)));
    }
    let area = probe("evidence over its request in the call area", CALL_AREA + 8, BAD_PARAMETER);
    probes.push(area.with_words(request_words(CALL_AREA + 8, CALL_AREA)));
    // Equal snapshots include the firmware's count of messages.
    refused(bench, probes)
}

fn small_buffer<P: Platform>(bench: &mut Bench<P>) -> Check {
    let options = bench.options();
    as_l1(bench, options, |mut l1| {
        let l1 = &mut l1.backend;
        let mut out = vec![0; PAGE as usize];
        let needed = l1.attest(&NONCE, &mut out).map_err(|error| error.to_string())?.len;
        for len in [0, 1, needed - 1] {
            let mut small = vec![0xee; len];
            same("own", kind(l1.attest(&NONCE, &mut small)), Err(ErrorKind::InvalidArgument))?;
            let other = kind(l1.attest_for(GuestLevel::TWO, &NONCE, &[], &mut small));
            same("for a level", other, Err(ErrorKind::InvalidArgument))?;
            ensure(small.iter().all(|byte| *byte == 0xee), || "a small buffer was written to".into())?;
        }
        let mut exact = vec![0; needed];
        let evidence = l1.attest(&NONCE, &mut exact).map_err(|error| error.to_string())?;
        sound(evidence, &exact, Level::Monitor, &NONCE)
    })
    .map(|_| ())
}

/// Keys lie in L1's secrets page by level, the most privileged one's first.
fn keys<P: Platform>(world: &World<P>) -> Vec<Vec<u8>> {
    let page = world.peek(MONITOR_SECRETS, PAGE as usize, Some(0)).unwrap_or_default();
    let is_key = |chunk: &&[u8]| {
        let mut bytes = chunk.to_vec();
        bytes.sort_unstable();
        bytes.dedup();
        bytes.len() > 16
    };
    page.chunks_exact(32).filter(is_key).map(<[u8]>::to_vec).collect()
}

/// Demands that no page which the host or a guest level reads holds one of these.
fn nowhere<P: Platform>(world: &World<P>, secrets: &[Vec<u8>]) -> Check {
    let ram = world.guest_ram();
    let all = (MONITOR..MONITOR + MONITOR_BYTES).chain(GUEST..GUEST + ram.bytes()).step_by(PAGE as usize);
    for at in all {
        for level in [None, Some(1), Some(2), Some(3)] {
            let Some(seen) = world.peek(at, PAGE as usize, level) else { continue };
            let found = secrets.iter().position(|secret| contains(&seen, secret));
            ensure(found.is_none(), || format!("{level:?} reads the key of level {found:?} in page {at:#x}"))?;
        }
    }
    Ok(())
}

fn keys_of_others<P: Platform>(bench: &mut Bench<P>) -> Check {
    for level in GuestLevel::ALL {
        let options = Options { levels: vec![level], guest_bytes: 2 * LARGE, ..bench.options() };
        let mut world = bench.world(options);
        let keys = keys(&world);
        let busy = Gate::new();
        let gate = busy.clone();
        world.on_guest(0, move |mut l2| {
            // Messages of both sides have been on the way.
            let answer = ask(&mut l2.port, REQUEST, OUT, &NONCE)?;
            same("evidence", answer.result(), CallResult::SUCCESS)?;
            let mut out = vec![0; PAGE as usize];
            if let Some(own) = l2.port.attest(&NONCE, &mut out) {
                own.map_err(|error| error.to_string())?;
            }
            l2.wait(&gate);
            Ok(())
        });
        let end = world.run_to(&busy);
        world.expect(end)?;
        let above = usize::from(level.number()).min(keys.len());
        nowhere(&world, keys.get(..above).unwrap_or_default())?;
        busy.open();
        world.finish()?;
    }
    Ok(())
}

fn boot_page_per_level<P: Platform>(bench: &mut Bench<P>) -> Check {
    if !<P::Monitor<'static> as BootGuest>::PAGES.contains(&BootPage::Secrets) {
        return Err(Stop::NotApplicable);
    }
    for level in GuestLevel::ALL {
        let options = Options { levels: vec![level], guest_bytes: 2 * LARGE, ..bench.options() };
        let mut world = bench.world(options);
        // L1 takes its own key out of its page, and what it hands out as well.
        let keys = keys(&world);
        world.on_l1(move |mut l1| {
            let l1 = &mut l1.backend;
            let at = range(SECRETS, PAGE);
            l1.validate(at).map_err(|stopped| stopped.cause.to_string())?;
            let info = BootInfo { level, call_area: frame(CALL_AREA), monitor: range(MONITOR, MONITOR_BYTES) };
            l1.fill(BootPage::Secrets, at.first(), &info).map_err(|error| error.to_string())?;
            l1.publish(at, &Grants::one(level, Rights::READ)).map_err(|stopped| stopped.cause.to_string().into())
        });
        world.finish()?;
        ensure(keys.len() > usize::from(level.number()), || format!("{} keys in L1's page", keys.len()))?;
        let seen = world.peek(SECRETS, PAGE as usize, Some(level.number())).unwrap_or_default();
        for (number, key) in keys.iter().enumerate() {
            let is_there = contains(&seen, key);
            same(&format!("key {number} in the page of {level:?}"), is_there, number >= usize::from(level.number()))?;
        }
        nowhere(&world, keys.get(..usize::from(level.number())).unwrap_or_default())?;
    }
    Ok(())
}
