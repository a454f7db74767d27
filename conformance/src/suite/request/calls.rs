//! Pages that are valid already, and calls that nobody knows.

use coco_part_api::svsm::list::Action;
use coco_part_api::svsm::{APIC, CONFIGURE_VTOM, CORE, CallId, CallResult, PVALIDATE, QUERY_PROTOCOL, VTPM, own};
use coco_part_api::{CallRegs, GuestMemory, GuestPort, HasMemory, PageSize};
use x86_64::PhysAddr;

use crate::platform::Platform;
use crate::suite::bench::{Stop, same};
use crate::suite::probe::{
    Probe, as_guest, call, cursor, entry, list_words, put, refused, refused_in, rescind, validate,
};
use crate::suite::{Bench, Check};
use crate::world::layout::{CALL_AREA, DATA, FREE, LARGE, MONITOR_DATA, PAGE, range};

const BAD_ADDRESS: CallResult = CallResult::INVALID_ADDRESS;

pub(super) fn validate_twice<P: Platform>(bench: &mut Bench<P>) -> Check {
    let ignore = entry(DATA, PageSize::Small, Action::Validate, true);
    let other = entry(MONITOR_DATA, PageSize::Small, Action::Validate, true);
    let area = entry(CALL_AREA, PageSize::Small, Action::Validate, true);
    let options = bench.options();
    let mut world = bench.world(options);
    refused_in(
        &mut world,
        vec![
            Probe::list("own valid page", &[validate(DATA)], CallResult::NO_CHANGE),
            Probe::list("page of L1 with ignore_cf", &[other], BAD_ADDRESS),
            Probe::list("call area with ignore_cf", &[area], BAD_ADDRESS),
            Probe::list("page that is not valid, to rescind", &[rescind(FREE)], CallResult::NO_CHANGE),
        ],
        |l2| put(l2, &[(DATA, 0x7072_6563_696f_7573)]),
    )?;

    let options = bench.options();
    as_guest(bench, options, move |mut l2| {
        put(&l2, &[(DATA, 0x7072_6563_696f_7573)])?;
        put(&l2, &list_words(CALL_AREA + 8, &[ignore]))?;
        let regs = CallRegs::call(CallId::new(CORE, PVALIDATE), CALL_AREA + 8, 0, 0);
        same("ignore_cf", call(&mut l2, regs)?.result(), CallResult::SUCCESS)?;
        same("cursor", cursor(&l2, CALL_AREA + 8)?, 1)?;
        let kept: u64 =
            l2.port.memory().read_value(PhysAddr::new(DATA)).map_err(|error| Stop::Wrong(error.to_string()))?;
        same("contents", kept, 0x7072_6563_696f_7573)
    })
    .map(|_| ())
}

pub(super) fn mixed_large_page<P: Platform>(bench: &mut Bench<P>) -> Check {
    let options = bench.options();
    let mut world = bench.world(options);
    let one = FREE + 7 * PAGE;
    let large = |ignore| entry(FREE, PageSize::Large, Action::Validate, ignore);
    refused_in(
        &mut world,
        vec![
            Probe::list("2 MiB", &[large(false)], CallResult::NO_CHANGE),
            Probe::list("2 MiB with ignore_cf", &[large(true)], CallResult::NO_CHANGE),
            Probe::list("to rescind", &[entry(FREE, PageSize::Large, Action::Rescind, false)], CallResult::NO_CHANGE),
        ],
        move |l2| {
            l2.port
                .agree(range(FREE, LARGE), coco_part_api::HostState::Private)
                .map_err(|stop| stop.cause.to_string())?;
            put(l2, &list_words(CALL_AREA + 8, &[validate(one)]))?;
            let regs = CallRegs::call(CallId::new(CORE, PVALIDATE), CALL_AREA + 8, 0, 0);
            let result = call(l2, regs)?.result();
            // A machine that holds the 2 MiB as one entry splits it first.
            same("the page in the middle", result, CallResult::SUCCESS)?;
            put(l2, &[(one, 0x6d69_6e65)])
        },
    )
}

pub(super) fn unknown_calls<P: Platform>(bench: &mut Bench<P>) -> Check {
    let strange = |what: &str, protocol, number, want| Probe {
        what: what.to_owned(),
        words: Vec::new(),
        regs: CallRegs {
            rax: CallId::new(protocol, number).to_rax(),
            rcx: 0x1111,
            rdx: 0x2222,
            r8: 0x3333,
            r9: 0x4444,
        },
        want,
    };
    refused(
        bench,
        vec![
            strange("protocol 77", 77, 0, CallResult::UNSUPPORTED_PROTOCOL),
            strange("protocol 2^32-1", u32::MAX, u32::MAX, CallResult::UNSUPPORTED_PROTOCOL),
            strange("core call 8", CORE, 8, CallResult::UNSUPPORTED_CALL),
            strange("core call 2^32-1", CORE, u32::MAX, CallResult::UNSUPPORTED_CALL),
            strange("vTPM without a device", VTPM, 0, CallResult::UNSUPPORTED_PROTOCOL),
            strange("APIC", APIC, 0, CallResult::UNSUPPORTED_PROTOCOL),
            strange("own protocol, unknown call", own::PROTOCOL, 99, CallResult::UNSUPPORTED_CALL),
            Probe::core("configure vTOM", CONFIGURE_VTOM, 2, CallResult::INVALID_REQUEST),
        ],
    )?;
    let options = bench.options();
    as_guest(bench, options, |mut l2| {
        let query = |protocol: u64, version: u64| {
            CallRegs::call(CallId::new(CORE, QUERY_PROTOCOL), protocol << 32 | version, 7, 8)
        };
        let core = query(0, 1);
        same("core", call(&mut l2, core)?, CallRegs { rcx: 1 << 32 | 1, ..core.with_result(CallResult::SUCCESS) })?;
        for protocol in [77, u64::from(VTPM), u64::from(APIC)] {
            let unknown = query(protocol, 1);
            same("unknown", call(&mut l2, unknown)?, CallRegs { rcx: 0, ..unknown.with_result(CallResult::SUCCESS) })?;
        }
        let vtom = CallRegs { r9: 9, ..CallRegs::call(CallId::new(CORE, CONFIGURE_VTOM), 1, 7, 8) };
        let nothing = CallRegs { rcx: 0, rdx: 0, r8: 0, ..vtom.with_result(CallResult::SUCCESS) };
        same("vTOM query", call(&mut l2, vtom)?, nothing)?;
        let own = query(u64::from(own::PROTOCOL), 1);
        same("own", call(&mut l2, own)?, CallRegs { rcx: 1 << 32 | 1, ..own.with_result(CallResult::SUCCESS) })
    })
    .map(|_| ())
}
