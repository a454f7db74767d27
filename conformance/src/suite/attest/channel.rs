//! The channel to the firmware: no message number serves twice, and after a doubt nothing is sent any more (A2).

use std::cell::RefCell;
use std::rc::Rc;

use coco_part_api::svsm::CallResult;
use coco_part_api::{
    Attest, AttestFor, Context, CreateVcpu, ErrorKind, GuestLevel, GuestMemory, HasMemory, Level, MemoryMap, NewVcpu,
    REPORT_DATA, Validate, VcpuId, report_data,
};
use l2_guest_shim::{Limits, Shim};

use super::{NONCE, OUT, REQUEST, as_l1, ask, case, contains, evidence_at, kind, sound};
use crate::platform::{Liar, Platform};
use crate::suite::probe::as_guest;
use crate::suite::{Bench, Case, Check, Kind, ensure, same};
use crate::world::layout::{CALL_AREA, ENTRY_FURTHER, FREE, PAGE, STATE, frame, page, range};
use crate::world::{Gate, Options};

/// The cases of this file.
pub(super) fn cases<P: Platform>() -> Vec<Case<P>> {
    vec![
        case!(
            "A2-replayed-answer",
            "A2",
            ["GR-01"],
            HostileHost,
            "an old answer is refused, nothing of it is shown, and the channel is closed for good",
            |bench| closed_after(bench, Liar::ReplaysMessage, 1, ErrorKind::HostMisbehaved)
        ),
        case!(
            "A2-changed-answer",
            "A2",
            ["GR-02"],
            HostileHost,
            "a changed answer is refused, nothing of it is shown, and the channel is closed for good",
            |bench| closed_after(bench, Liar::CorruptsMessage, 0, ErrorKind::HostMisbehaved)
        ),
        case!(
            "A2-lost-request",
            "A2",
            ["GR-03", "GR-05"],
            HostileHost,
            "after a request that may or may not have arrived no other one is sent",
            |bench| closed_after(bench, Liar::LosesRequest, 0, ErrorKind::HostRefused)
        ),
        case!(
            "A2-lost-answer",
            "A2",
            ["GR-03", "GR-05"],
            HostileHost,
            "after a request that arrived and was not answered no other one is sent",
            |bench| closed_after(bench, Liar::LosesAnswer, 0, ErrorKind::HostRefused)
        ),
        case!(
            "A2-busy-firmware",
            "A2",
            ["GR-03", "GH-20"],
            HostileHost,
            "a busy firmware gets the same request again, not for ever, and then none",
            busy_firmware
        ),
        case!(
            "A2-two-vcpus",
            "A2",
            ["GR-11"],
            Concurrency,
            "two vCPUs of L1 that attest at once share one count of messages, and both get their evidence",
            two_vcpus
        ),
        case!(
            "A2-closed-for-guests",
            "A2",
            ["GR-03", "TM-05"],
            HostileHost,
            "a guest whose evidence the host prevents is told so, and L1 goes on serving it",
            closed_for_guests
        ),
    ]
}

/// After so many good answers the liar's own is refused as `first`, and no request is sent any more.
fn closed_after<P: Platform>(bench: &mut Bench<P>, liar: Liar, good: u8, first: ErrorKind) -> Check {
    let options = bench.under(liar)?;
    as_l1(bench, options, move |mut l1| {
        let l1 = &mut l1.backend;
        for round in 0..good {
            let mut out = vec![0; PAGE as usize];
            let evidence = l1.attest(&[round; REPORT_DATA], &mut out).map_err(|error| error.to_string())?;
            sound(evidence, &out, Level::Monitor, &[round; REPORT_DATA])?;
        }
        let mut out = vec![0xee; PAGE as usize];
        same("under the lie", kind(l1.attest(&[0x77; REPORT_DATA], &mut out)), Err(first))?;
        for _ in 0..3 {
            same("own, later", kind(l1.attest(&NONCE, &mut out)), Err(ErrorKind::ChannelClosed))?;
            let other = kind(l1.attest_for(GuestLevel::TWO, &NONCE, &[], &mut out));
            same("for a level, later", other, Err(ErrorKind::ChannelClosed))?;
        }
        ensure(out.iter().all(|byte| *byte == 0xee), || "something of a refused answer was shown".into())
    })
    .map(|_| ())
}

fn busy_firmware<P: Platform>(bench: &mut Bench<P>) -> Check {
    let options = bench.under(Liar::SaysBusy { times: 5 })?;
    as_l1(bench, options, |mut l1| {
        for round in 0..3 {
            let (nonce, mut out) = ([round; REPORT_DATA], vec![0; PAGE as usize]);
            let evidence = l1.backend.attest(&nonce, &mut out).map_err(|error| error.to_string())?;
            sound(evidence, &out, Level::Monitor, &nonce)?;
        }
        Ok(())
    })?;
    closed_after(bench, Liar::SaysBusy { times: u64::MAX }, 0, ErrorKind::HostRefused)
}

fn two_vcpus<P: Platform>(bench: &mut Bench<P>) -> Check {
    const ROUNDS: u8 = 2;
    for more in 0..6 {
        let options = bench.options();
        let level = Level::Guest(options.guest_level());
        let mut world = bench.world(Options { vcpus: 2, seed: options.seed + more, ..options });
        // Both begin at the same moment.
        let ready = Gate::new();
        let evidence = Rc::new(RefCell::new(Vec::new()));
        for vcpu in 0..2u8 {
            let (ready, log) = (ready.clone(), Rc::clone(&evidence));
            world.on_guest(vcpu, move |l2| {
                let cpu = l2.cpu;
                let map = MemoryMap::new(&l2.home.guest_ram).map_err(|error| error.to_string())?;
                let mut shim = Shim::negotiate(l2.port, map, Limits::default()).map_err(|error| error.to_string())?;
                if vcpu == 0 {
                    let new = NewVcpu {
                        id: VcpuId(1),
                        context: &Context::long_mode(ENTRY_FURTHER, 0, 0),
                        state: frame(page(STATE, 1)),
                        call_area: frame(page(CALL_AREA, 1)),
                    };
                    shim.create_vcpu(new).map_err(|error| error.to_string())?;
                    ready.wait(|| P::pause(cpu));
                } else {
                    ready.open();
                }
                let port = shim.port_mut();
                for round in 0..ROUNDS {
                    let nonce = [0x10 * (vcpu + 1) + round; REPORT_DATA];
                    let (request, out) = (page(REQUEST, vcpu.into()), page(OUT, vcpu.into()));
                    let answer = ask(port, request, out, &nonce)?;
                    same(&format!("vCPU {vcpu}, round {round}"), answer.result(), CallResult::SUCCESS)?;
                    let bytes = evidence_at(port, out, answer.rcx)?;
                    let digest = report_data(level, &nonce, &[]);
                    ensure(contains(&bytes, &digest), || format!("vCPU {vcpu} got the evidence of another"))?;
                    log.borrow_mut().push(bytes);
                }
                Ok(())
            });
        }
        world.finish()?;
        same("pieces of evidence", evidence.borrow().len(), 2 * usize::from(ROUNDS))?;
    }
    Ok(())
}

fn closed_for_guests<P: Platform>(bench: &mut Bench<P>) -> Check {
    for liar in [Liar::CorruptsMessage, Liar::LosesRequest, Liar::LosesAnswer] {
        let options = bench.under(liar)?;
        let world = as_guest(bench, options, |mut l2| {
            l2.port.memory().zero(range(OUT, PAGE)).map_err(|error| error.to_string())?;
            for _ in 0..3 {
                let answer = ask(&mut l2.port, REQUEST, OUT, &NONCE)?;
                same("evidence", answer.result(), CallResult::INVALID_REQUEST)?;
            }
            let map = MemoryMap::new(&l2.home.guest_ram).map_err(|error| error.to_string())?;
            let mut shim = Shim::negotiate(l2.port, map, Limits::default()).map_err(|error| error.to_string())?;
            shim.validate(range(FREE, PAGE)).map_err(|stopped| stopped.cause.to_string().into())
        })?;
        same("the evidence page", world.peek(OUT, 8, Some(2)), Some(vec![0; 8]))?;
        same("the page asked for afterwards", world.peek(FREE, 8, Some(2)), Some(vec![0; 8]))?;
    }
    Ok(())
}
