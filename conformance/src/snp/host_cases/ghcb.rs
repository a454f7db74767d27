//! The GHCB page: answers of the host, and what L1 shows the host there.

use std::cell::RefCell;
use std::rc::Rc;

use backend_snp::SnpError;
use backend_snp::abi::ghcb::ValidBit;
use coco_part_api::{Error, ErrorKind};
use machine::host::Policy;
use machine::{Vcpu, exit_code};

use super::{TURNS, as_l1, case, free, stop, under};
use crate::snp::model::SnpModel;
use crate::snp::platform::Snp;
use crate::suite::hostile::busy::{self, Step};
use crate::suite::{Bench, Case, Check, Kind, ensure, same};
use crate::world::Options;
use crate::world::layout::{FREE, MONITOR_CHANNEL, PAGE, page};

const PAGES: u64 = 4;
/// Exits until L1 has a GHCB page.
const START: u64 = 6;

/// The cases of this file.
pub(super) fn cases() -> Vec<Case<Snp>> {
    vec![
        case!(
            "H1-ghcb-flips",
            "H1",
            ["GH-01", "GH-17"],
            HostileHost,
            "an answer that changes at every look is taken as it was at one look",
            flips
        ),
        case!(
            "H1-ghcb-answers",
            "H1",
            ["GH-02", "GH-03", "GH-04"],
            HostileHost,
            "an answer without its fields, with another status or with an exception is a named error; only #GP and #UD may \
             be asked for",
            answers
        ),
        case!(
            "H1-ghcb-shows-no-more",
            "H1",
            ["GH-16", "GR-08"],
            HostileHost,
            "the GHCB page holds the fields of its event and zeros",
            shows_no_more
        ),
    ]
}

fn flips(bench: &mut Bench<Snp>) -> Check {
    let header = |error: &SnpError| matches!(error, SnpError::PageStateHeader { .. });
    let exception = |error: &SnpError| *error == SnpError::ForbiddenException { info: 0 };
    let detail = |error: &SnpError| matches!(error, SnpError::PageState { code: u64::MAX });
    let field = |error: &SnpError| matches!(error, SnpError::MissingField { .. });
    let status = |error: &SnpError| matches!(error, SnpError::UnknownStatus { .. });
    let never = |_: &SnpError| false;
    /// Offset, bits, and what the changed answer may lead to; the unchanged one leads to success.
    type Row = (u16, u64, fn(&SnpError) -> bool);
    let rows: [Row; 10] = [
        (0x398, 1, exception),
        (0x398, 0xffff_0000, status),
        (0x3a0, u64::MAX, detail),
        (0x3f8, u64::MAX, field),
        (0x3f0, u64::MAX, never),
        (0x1f8, u64::MAX, never),
        (0x800, 1, header),
        (0x800, 1 << 16, header),
        (0x800, 1 << 63, header),
        (0x808, u64::MAX, never),
    ];
    for (offset, mask, may_be) in rows {
        let what = format!("{mask:#x} at {offset:#x}");
        let late = Policy::After { exits: START, inner: Box::new(Policy::FlipGhcb { offset, mask }) };
        let (world, result) = as_l1(bench, under(bench, late), |mut l1| stop(l1.backend.validate(free(PAGES))));
        let done = match result {
            Some(Ok(())) => PAGES,
            Some(Err((done, error))) => {
                ensure(may_be(&error), || format!("{what}: {error:?}"))?;
                done
            }
            None => return Err(format!("{what}: no result, {:?}", world.runner.stops()).into()),
        };
        for index in 0..PAGES {
            let is_own = world.peek(page(FREE, index), 8, Some(0)) == Some(vec![0; 8]);
            same(&format!("{what}: page {index} is L1's"), is_own, index < done)?;
        }
    }
    Ok(())
}

fn answers(bench: &mut Bench<Snp>) -> Check {
    use Policy::{BogusException, ClearValidBits, WrongStatus};
    let forbidden = |info| (BogusException(info), SnpError::ForbiddenException { info }, ErrorKind::HostMisbehaved);
    let exception = |info| (BogusException(info), SnpError::Exception { info }, ErrorKind::HostRefused);
    let missing = SnpError::MissingField { field: ValidBit::SW_EXIT_INFO_1 };
    let mut rows = vec![
        (ClearValidBits, missing, ErrorKind::HostMisbehaved),
        (WrongStatus(2), SnpError::MalformedRequest { code: 0 }, ErrorKind::HostRefused),
        // #GP and #UD, valid, as exceptions.
        exception(0x8000_0b0d),
        exception(0x8000_0306),
    ];
    for status in [3, 0xffff, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff] {
        rows.push((WrongStatus(status), SnpError::UnknownStatus { status }, ErrorKind::HostMisbehaved));
    }
    // Every other vector; and #GP as an interrupt, an NMI, a software interrupt, and without the valid bit.
    for vector in (0..=255).filter(|vector| !matches!(vector, 6 | 13)) {
        if vector < 32 || vector % 16 == 0 {
            rows.push(forbidden(0x8000_0300 | vector));
        }
    }
    rows.extend([0x8000_000d, 0x8000_020d, 0x8000_040d, 0x0000_030d, 0].map(forbidden));
    for (policy, want, kind) in rows {
        let what = format!("{policy:?}");
        let late = Policy::After { exits: START, inner: Box::new(policy) };
        let (world, result) = as_l1(bench, under(bench, late), |mut l1| stop(l1.backend.validate(free(PAGES))));
        same(&what, result, Some(Err((0, want))))?;
        same(&what, want.kind(), kind)?;
        same(&what, world.peek(FREE, 8, Some(0)), None)?;
    }
    Ok(())
}

/// Events of the GHCB page that L1 uses, and the fields they have besides code, information and bitmap.
const PAGE_STATE_CHANGE: u64 = 0x8000_0010;
const GUEST_REQUEST: u64 = 0x8000_0011;
const AP_CREATION: u64 = 0x8000_0013;
const RUN_VMPL: u64 = 0x8000_0018;
const RAX: usize = 0x1f8;
const EXIT_CODE: usize = 0x390;
const SCRATCH: usize = 0x3a8;
const BITMAP: usize = 0x3f0;
const BUFFER: usize = 0x800;
const VERSION: usize = 0xff8;

fn shows_no_more(bench: &mut Bench<Snp>) -> Check {
    // L1 switches by page with an odd seed.
    let odd = bench.options().seed | 1;
    let mut world = bench.world(Options { vcpus: 2, seed: odd, ..bench.options() });
    let shown = Rc::new(RefCell::new(Vec::new()));
    let seen = Rc::clone(&shown);
    let own = [MONITOR_CHANNEL, page(MONITOR_CHANNEL, 4)];
    let mut last = [0; 2];
    // Whoever made the exit has left, and the host has not answered yet.
    let look = move |model: &SnpModel| {
        let machine = &model.0;
        for vcpu in 0..2u8 {
            let Some(exit) = machine.exit_info(Vcpu(vcpu)) else { continue };
            let exits = machine.counters(Vcpu(vcpu), 0).vmgexit;
            let is_new = std::mem::replace(&mut last[usize::from(vcpu)], exits) != exits;
            if is_new && exit.vmpl == 0 && exit.code == exit_code::VMGEXIT && own.contains(&exit.ghcb_msr) {
                let mut bytes = vec![0; PAGE as usize];
                machine.host_read(exit.ghcb_msr, &mut bytes);
                seen.borrow_mut().push((exit.ghcb_msr, bytes));
            }
        }
    };
    let (end, told) = busy::run_watched(&mut world, 2, TURNS, &[Step::Attest], look);
    busy::check(&world, &end, &told)?;
    same("failed", told.failed, Vec::new())?;
    let shown = shown.borrow();
    let mut events = Vec::new();
    for (at, bytes) in shown.iter() {
        let word =
            |offset: usize| bytes.get(offset..offset + 8).and_then(|w| w.try_into().ok()).map_or(0, u64::from_le_bytes);
        let event = word(EXIT_CODE);
        events.push(event);
        let list = 8 * (2 + (word(BUFFER) >> 16 & 0xffff) as usize);
        let (fields, buffer): (&[usize], usize) = match event {
            PAGE_STATE_CHANGE => (&[EXIT_CODE, 0x398, 0x3a0, SCRATCH], list),
            AP_CREATION => (&[RAX, EXIT_CODE, 0x398, 0x3a0], 0),
            GUEST_REQUEST | RUN_VMPL => (&[EXIT_CODE, 0x398, 0x3a0], 0),
            other => return Err(format!("L1 asks for event {other:#x}").into()),
        };
        for offset in (0..PAGE as usize).step_by(8) {
            let allowed = fields.contains(&offset)
                || (BITMAP..BITMAP + 16).contains(&offset)
                || (BUFFER..BUFFER + buffer).contains(&offset)
                || offset == VERSION;
            let shown = word(offset);
            ensure(allowed || shown == 0, || format!("event {event:#x} of {at:#x} shows {shown:#x} at {offset:#x}"))?;
        }
        for quad in 0..128 {
            let is_valid = bytes.get(BITMAP + quad / 8).is_some_and(|byte| byte >> (quad % 8) & 1 == 1);
            same(&format!("event {event:#x}, bit {quad}"), is_valid, fields.contains(&(8 * quad)))?;
        }
        same("version and usage", word(VERSION), 2 << 16)?;
    }
    for event in [PAGE_STATE_CHANGE, GUEST_REQUEST, AP_CREATION, RUN_VMPL] {
        ensure(events.contains(&event), || format!("event {event:#x} was never seen"))?;
    }
    Ok(())
}
