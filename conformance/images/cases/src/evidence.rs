//! Evidence: it names the level, and keys stay where they are (A1 to A3).

use core::mem::offset_of;

use backend_snp::abi::secrets::SecretsPage;
use coco_part_api::svsm::own::{ATTEST, AttestRequest, PROTOCOL};
use coco_part_api::svsm::{CallId, CallResult};
use coco_part_api::{
    Attest, CallRegs, DataForm, ErrorKind, Evidence, GuestMemory, GuestPort, Identify, REPORT_DATA, report_data,
};

use crate::bed::Bed;
use crate::check::{Check, Failed, Value, ensure, same};
use crate::guest::{BAD_ADDRESS, BAD_PARAMETER, Guest, OK, address, outcome, page, start, wrong};
use crate::{Case, case};

/// Most bytes of evidence that is looked at.
const ROOM: usize = 4096;
/// Pages of requests, and of evidence that L1 writes.
const REQUEST: u64 = 5;
const OUT: u64 = 6;
const NONCE: [u8; REPORT_DATA] = [0x6e; REPORT_DATA];

/// The cases of this file.
pub(crate) fn cases<P: GuestPort, B: Bed>() -> [Case<P, B>; 8] {
    [
        case!(
            "A1-own-level",
            "A1",
            "evidence that the guest gets by itself names its level and is over its nonce",
            own_level
        ),
        case!("A1-each-nonce", "A1", "evidence over another nonce is other evidence", each_nonce),
        case!(
            "A1-through-l1",
            "A1",
            "evidence that L1 gives is over L1's digest of level and nonce, never over the guest's bytes",
            through_l1
        ),
        case!(
            "A1-small-buffer",
            "A1",
            "a buffer that is too small is refused before a message is sent, and the next request succeeds",
            small_buffer
        ),
        case!(
            "A1-bad-requests",
            "A1",
            "requests for evidence that are not the guest's own memory are refused",
            bad_requests
        ),
        case!("A1-bad-pages", "A1", "pages for evidence that are not the guest's own memory are refused", bad_pages),
        case!("A2-many-messages", "A2", "many messages in a row are answered, each over its own nonce", many),
        case!(
            "A3-keys-in-the-page",
            "A3",
            "the guest's secrets page has no key of a more privileged level, nor its own after it was taken",
            keys
        ),
    ]
}

/// Whether bytes are somewhere in these.
fn contains(bytes: &[u8], wanted: &[u8]) -> bool {
    bytes.windows(wanted.len()).any(|window| window == wanted)
}

/// Evidence over a nonce, and that it says what it has to.
pub(crate) fn attest<P: GuestPort, B: Bed>(
    guest: &mut Guest<'_, '_, P, B>,
    nonce: &[u8; REPORT_DATA],
    out: &mut [u8; ROOM],
) -> Result<Evidence, Failed> {
    let evidence = guest.shim.attest(nonce, out);
    let evidence = evidence.map_err(|error| wrong("attest", coco_part_api::Error::kind(&error)))?;
    let level = guest.shim.level();
    same("the level that it names", evidence.names, level)?;
    let bytes = out.get(..evidence.len).unwrap_or_default();
    let data = match evidence.data {
        DataForm::Verbatim => *nonce,
        DataForm::Digest => report_data(level, nonce, &[]),
    };
    ensure("it is over the nonce", contains(bytes, &data))?;
    Ok(evidence)
}

fn own_level<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>) -> Check {
    let mut out = [0; ROOM];
    guest.mark();
    let evidence = attest(guest, &NONCE, &mut out)?;
    guest.mark();
    ensure("who vouches for it", evidence.bound_by == guest.shim.capabilities().binding)
}

fn each_nonce<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>) -> Check {
    let (mut first, mut second) = ([0; ROOM], [0; ROOM]);
    let other = [0x6f; REPORT_DATA];
    attest(guest, &NONCE, &mut first)?;
    attest(guest, &other, &mut second)?;
    ensure("it is other evidence", first != second)?;
    ensure("the first nonce is not in the second", !contains(&second, &NONCE))
}

/// Asks L1 for evidence by the call, with the request at an address.
fn ask<P: GuestPort, B: Bed>(
    guest: &mut Guest<'_, '_, P, B>,
    at: u64,
    out: u64,
    nonce: &[u8; REPORT_DATA],
) -> Result<CallRegs, Failed> {
    let memory = guest.shim.port().memory();
    let request = AttestRequest { out, nonce: *nonce };
    memory.write_value(address(at)?, &request).map_err(|_| wrong("a store", ErrorKind::Inaccessible))?;
    guest.call_patiently(request_at(at))
}

fn request_at(at: u64) -> CallRegs {
    CallRegs { rdx: 0x2222, r8: 0x3333, r9: 0x9999, ..CallRegs::call(CallId::new(PROTOCOL, ATTEST), at, 0, 0) }
}

fn through_l1<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>) -> Check {
    let level = guest.shim.level();
    let out = guest.own(OUT);
    for (at, nonce) in [(guest.area_list(), NONCE), (guest.own(REQUEST), [0x5a; REPORT_DATA])] {
        guest.mark();
        let answer = ask(guest, at, out, &nonce)?;
        guest.mark();
        same("result", answer.result(), OK)?;
        let asked = request_at(at);
        let want = CallRegs { rcx: answer.rcx, rdx: answer.rdx, ..asked.with_result(OK) };
        same("registers", answer, want)?;
        same("the hardware vouches for the level", answer.rdx, 1_u64)?;
        let mut bytes = [0; ROOM];
        let len = usize::try_from(answer.rcx).unwrap_or(0).min(ROOM);
        let into = bytes.get_mut(..len).unwrap_or_default();
        let memory = guest.shim.port().memory();
        memory.read(address(out)?, into).map_err(|_| wrong("a load", ErrorKind::Inaccessible))?;
        ensure("it is over L1's digest", contains(into, &report_data(level, &nonce, &[])))?;
        ensure("L1 did not sign the guest's bytes", !contains(into, &nonce))?;
    }
    Ok(())
}

fn small_buffer<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>) -> Check {
    let mut small = [0xee; REPORT_DATA];
    guest.mark();
    let refused = outcome(guest.shim.attest(&NONCE, &mut small));
    guest.mark();
    same("64 bytes", refused, ErrorKind::InvalidArgument)?;
    ensure("nothing was written", small == [0xee; REPORT_DATA])?;
    attest(guest, &NONCE, &mut [0; ROOM]).map(|_| ())
}

fn bad_requests<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>) -> Check {
    let (request, monitor) = (guest.own(REQUEST), guest.places.monitor);
    let fresh = start(guest.fresh_pages(1)?);
    let rows = [
        ("at a multiple of 4", request + 4, BAD_PARAMETER),
        ("across a page end", page(request, 1) - 64, BAD_PARAMETER),
        ("in L1", monitor.data, BAD_ADDRESS),
        ("in the secrets page of L1", monitor.secrets, BAD_ADDRESS),
        ("in memory that is not valid", fresh, BAD_ADDRESS),
        ("in a hole", guest.places.hole, BAD_ADDRESS),
        ("on the mark of the call area", guest.first_area(), BAD_ADDRESS),
        ("with the private bit", request | 1 << 51, BAD_ADDRESS),
        ("beyond all addresses", 1 << 52, BAD_ADDRESS),
        ("at the last word", !7, BAD_ADDRESS),
    ];
    for (what, at, want) in rows {
        same(what, guest.call_patiently(request_at(at))?, request_at(at).with_result(want))?;
    }
    Ok(())
}

fn bad_pages<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>) -> Check {
    let (request, monitor) = (guest.own(REQUEST), guest.places.monitor);
    let fresh = start(guest.fresh_pages(1)?);
    let rows: [(&str, u64, CallResult); 10] = [
        ("no page", guest.own(OUT) + 8, BAD_PARAMETER),
        ("of L1", monitor.data, BAD_ADDRESS),
        ("the secrets page of L1", monitor.secrets, BAD_ADDRESS),
        ("the first page of L1", monitor.first, BAD_ADDRESS),
        ("the call area", guest.first_area(), BAD_ADDRESS),
        ("memory that is not valid", fresh, BAD_ADDRESS),
        ("a hole", guest.places.hole, BAD_ADDRESS),
        ("with the private bit", guest.own(OUT) | 1 << 51, BAD_ADDRESS),
        ("beyond all addresses", 1 << 52, BAD_ADDRESS),
        ("the page of the request", request, BAD_PARAMETER),
    ];
    for (what, out, want) in rows {
        same(what, ask(guest, request, out, &NONCE)?, request_at(request).with_result(want))?;
    }
    let answer = ask(guest, request, guest.own(OUT), &NONCE)?;
    same("a good one afterwards", answer.result(), OK)
}

fn many<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>) -> Check {
    let mut out = [0; ROOM];
    guest.mark();
    for round in 0..16 {
        attest(guest, &[round; REPORT_DATA], &mut out)?;
    }
    guest.mark();
    Ok(())
}

fn keys<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>) -> Check {
    let keys = [
        offset_of!(SecretsPage, vmpck0),
        offset_of!(SecretsPage, vmpck1),
        offset_of!(SecretsPage, vmpck2),
        offset_of!(SecretsPage, vmpck3),
    ];
    // The guest's own key is no more in the page either: it was taken out for the channel.
    let kept = usize::from(guest.shim.level().number()) + 1;
    let memory = guest.shim.port().memory();
    for (number, offset) in keys.into_iter().enumerate() {
        let mut key = [0; 32];
        let at = address(guest.places.secrets + offset as u64)?;
        memory.read(at, &mut key).map_err(|_| wrong("a load", ErrorKind::Inaccessible))?;
        same("there is a key of this level", Value::Holds(key != [0; 32]), number >= kept)?;
    }
    Ok(())
}
