//! Guest messages and reports: what only real messages under real keys can show.

use backend_snp::SnpError;
use coco_part_api::svsm::own::{ATTEST, AttestRequest, PROTOCOL};
use coco_part_api::svsm::{CallId, CallResult};
use coco_part_api::{Attest, AttestFor, CallRegs, GuestLevel, GuestMemory, GuestPort, HasMemory};
use machine::host::Policy;
use x86_64::PhysAddr;

use super::{as_l1, case, under};
use crate::platform::Platform;
use crate::snp::platform::Snp;
use crate::suite::probe::{as_guest, call};
use crate::suite::{Bench, Case, Check, Kind, ensure, same};
use crate::world::layout::{DATA, LARGE, PAGE, range};
use crate::world::{Gate, Options};

/// Bytes of a report (attestation_report).
const REPORT: usize = 0x4a0;
/// Offset of the VMPL in a report.
const REPORT_VMPL: usize = 0x30;
/// Exits until L1 has a GHCB page.
const START: u64 = 6;

/// The cases of this file.
pub(super) fn cases() -> Vec<Case<Snp>> {
    vec![
        case!(
            "A1-report-vmpl",
            "A1",
            ["AT-01", "AT-02"],
            Contract,
            "the VMPL in a report is that of the level it is for: 0 for L1 itself and nobody else",
            report_vmpl
        ),
        case!(
            "A2-response-altered",
            "A2",
            ["GR-01", "GR-02", "GR-14"],
            HostileHost,
            "every field of a response that the host changes is a named error, after which no message is sent",
            response_altered
        ),
        case!(
            "A2-response-flips",
            "A2",
            ["GR-07"],
            HostileHost,
            "a response is copied out once: what changes behind the copy has no effect",
            response_flips
        ),
        case!(
            "A2-buffer-too-short",
            "A2",
            ["GR-04", "GR-13"],
            HostileHost,
            "no certificates are asked for; a host that wants a longer buffer all the same closes the channel",
            buffer_too_short
        ),
        case!(
            "A2-closed-for-good",
            "A2",
            ["GR-03", "GR-05", "GH-02"],
            HostileHost,
            "after any error of the host no message is sent, even when the host is honest again",
            closed_for_good
        ),
        case!(
            "A2-response-of-another",
            "A2",
            ["GR-14", "GR-12"],
            HostileHost,
            "a response to a message of another level is refused by both",
            response_of_another
        ),
    ]
}

/// Evidence as the error of the backend.
fn error<T>(result: Result<T, SnpError>) -> Result<(), SnpError> {
    result.map(|_| ())
}

fn report_vmpl(bench: &mut Bench<Snp>) -> Check {
    let options = Options { levels: GuestLevel::ALL.to_vec(), ..bench.options() };
    let (_, vmpls) = as_l1(bench, options, |mut l1| -> Result<Vec<u32>, SnpError> {
        let l1 = &mut l1.backend;
        let mut vmpls = Vec::new();
        let mut out = [0; REPORT];
        let vmpl = |report: &[u8; REPORT]| {
            report.get(REPORT_VMPL..).and_then(|rest| rest.first_chunk()).map_or(u32::MAX, |b| u32::from_le_bytes(*b))
        };
        l1.attest(&[1; 64], &mut out)?;
        vmpls.push(vmpl(&out));
        for level in GuestLevel::ALL {
            l1.attest_for(level, &[1; 64], b"", &mut out)?;
            vmpls.push(vmpl(&out));
        }
        Ok(vmpls)
    });
    same("VMPLs", vmpls, Some(Ok(vec![0, 1, 2, 3])))?;
    for level in GuestLevel::ALL {
        let options = Options { levels: vec![level], ..bench.options() };
        let world = as_guest(bench, options, |mut l2| {
            let mut out = [0; PAGE as usize];
            let own = l2.port.attest(&[2; 64], &mut out).ok_or("the guest has no channel")?;
            own.map_err(|error| error.to_string())?;
            same("own report", u32::from(out[REPORT_VMPL]), u32::from(l2.start.level))?;
            ask_l1(&mut l2, CallResult::SUCCESS)
        })?;
        let at = OUT + REPORT_VMPL as u64;
        let vmpl = u32::from(level.number()).to_le_bytes().to_vec();
        same("report of L1", world.peek(at, 4, Some(level.number())), Some(vmpl))?;
    }
    Ok(())
}

const REQUEST: u64 = DATA + 0x1_0000;
const OUT: u64 = DATA + 0x1_1000;

/// Asks L1 for evidence.
fn ask_l1(l2: &mut crate::world::L2<'_, Snp>, want: CallResult) -> Check {
    let request = AttestRequest { out: OUT, nonce: [7; 64] };
    l2.port.memory().write_value(PhysAddr::new(REQUEST), &request).map_err(|error| error.to_string())?;
    let answer = call(l2, CallRegs::call(CallId::new(PROTOCOL, ATTEST), REQUEST, 0, 0))?;
    same("evidence from L1", answer.result(), want)
}

fn response_altered(bench: &mut Bench<Snp>) -> Check {
    let bad = |field| SnpError::BadResponse { field };
    let rows = [
        (Policy::CorruptMessage(0x00), SnpError::NotAuthentic),
        (Policy::CorruptMessage(0x0f), SnpError::NotAuthentic),
        (Policy::CorruptMessage(0x20), bad("msg_seqno")),
        (Policy::CorruptMessage(0x27), bad("msg_seqno")),
        (Policy::CorruptMessage(0x30), bad("algo")),
        (Policy::CorruptMessage(0x31), bad("hdr_version")),
        (Policy::CorruptMessage(0x32), bad("hdr_size")),
        (Policy::CorruptMessage(0x34), bad("msg_type")),
        (Policy::CorruptMessage(0x35), bad("msg_version")),
        (Policy::CorruptMessage(0x3c), bad("msg_vmpck")),
        (Policy::CorruptMessage(0x40), SnpError::NotAuthentic),
        (Policy::CorruptMessage(0x60), SnpError::NotAuthentic),
        (Policy::CorruptMessage(0x80), SnpError::NotAuthentic),
        (Policy::CorruptMessage(0x51f), SnpError::NotAuthentic),
        (Policy::TruncateMessage, SnpError::NotAuthentic),
        (Policy::OversizeMessage, bad("msg_size")),
        (Policy::EchoRequest, bad("msg_type")),
        // The response page was zeroed before the request.
        (Policy::DropMessage, bad("algo")),
    ];
    for (policy, want) in rows {
        let what = format!("{policy:?}");
        let (_, results) = as_l1(bench, under(bench, policy), |mut l1| {
            let mut out = [0xee; REPORT];
            let first = error(l1.backend.attest(&[1; 64], &mut out));
            let second = error(l1.backend.attest(&[2; 64], &mut out));
            (first, second, out == [0xee; REPORT])
        });
        same(&what, results, Some((Err(want), Err(SnpError::ChannelClosed), true)))?;
    }
    Ok(())
}

fn response_flips(bench: &mut Bench<Snp>) -> Check {
    // One look sees the changed page. With a look more the second would see the page as it was, and be authentic.
    let rows = [
        (0x80, 1, SnpError::NotAuthentic),
        (0x00, 1, SnpError::NotAuthentic),
        (0x20, 2, SnpError::BadResponse { field: "msg_seqno" }),
        (0x30, 1 << 32, SnpError::BadResponse { field: "msg_type" }),
    ];
    for (offset, mask, want) in rows {
        let policy = Policy::FlipResponse { offset, mask };
        let what = format!("{policy:?}");
        let (_, result) = as_l1(bench, under(bench, policy), |mut l1| {
            let mut out = [0; REPORT];
            (error(l1.backend.attest(&[1; 64], &mut out)), error(l1.backend.attest(&[1; 64], &mut out)))
        });
        same(&what, result, Some((Err(want), Err(SnpError::ChannelClosed))))?;
    }
    Ok(())
}

fn buffer_too_short(bench: &mut Bench<Snp>) -> Check {
    for policy in [Policy::DemandPages(u64::MAX), Policy::JunkCertificates] {
        let what = format!("{policy:?}");
        let (_, result) = as_l1(bench, under(bench, policy), |mut l1| {
            let mut out = [0; REPORT];
            [error(l1.backend.attest(&[1; 64], &mut out)), error(l1.backend.attest(&[2; 64], &mut out))]
        });
        same(&what, result, Some([Ok(()), Ok(())]))?;
    }
    let (_, result) = as_l1(bench, under(bench, Policy::DropMessageWithError(1 << 32)), |mut l1| {
        let mut out = [0; REPORT];
        [error(l1.backend.attest(&[1; 64], &mut out)), error(l1.backend.attest(&[1; 64], &mut out))]
    });
    let want = SnpError::GuestRequest { host: 1, firmware: 0 };
    same("buffer too short", result, Some([Err(want), Err(SnpError::ChannelClosed)]))
}

fn closed_for_good(bench: &mut Bench<Snp>) -> Check {
    let late = |policy| Policy::After { exits: START, inner: Box::new(policy) };
    let policies = [
        Policy::DropMessageWithError(0x16),
        Policy::DropMessageWithError(0xff << 32),
        Policy::DropResponseWithError(0x16),
        // Busy, though the firmware has answered: the same message again is an old one by then.
        Policy::DropResponseWithError(2 << 32),
        Policy::DropResponseWithError(u64::MAX),
        Policy::ReportBusy(u64::MAX),
        late(Policy::ClearValidBits),
        late(Policy::BogusException(0x8000_0b0d)),
        late(Policy::BogusException(0x8000_0b0e)),
        late(Policy::WrongStatus(2)),
        late(Policy::WrongStatus(77)),
    ];
    for policy in policies {
        let what = format!("{policy:?}");
        let mut world = bench.world(under(bench, policy));
        let (lied, done) = (Gate::new(), std::rc::Rc::new(std::cell::RefCell::new(Vec::new())));
        let (gate, log) = (lied.clone(), std::rc::Rc::clone(&done));
        world.on_l1(move |mut l1| {
            let cpu = l1.cpu;
            let mut out = [0xee; REPORT];
            log.borrow_mut().push(error(l1.backend.attest(&[1; 64], &mut out)));
            gate.wait(|| Snp::pause(cpu));
            for nonce in [1, 2, 3] {
                log.borrow_mut().push(error(l1.backend.attest(&[nonce; 64], &mut out)));
            }
            same("buffer", out == [0xee; REPORT], true)
        });
        let end = world.run_to(&lied);
        world.expect(end)?;
        ensure(done.borrow().first().is_some_and(Result::is_err), || format!("{what}: {:?}", done.borrow()))?;
        world.runner.machine.0.host_state_mut().set_policy(Policy::Honest);
        lied.open();
        world.finish()?;
        let after = done.borrow().get(1..).unwrap_or_default().to_vec();
        same(&what, after, vec![Err(SnpError::ChannelClosed); 3])?;
        // Nothing was encrypted after the first request.
        let numbers: Vec<u64> = world
            .runner
            .machine
            .0
            .psp()
            .records()
            .filter(|record| record.vmpck == 0)
            .map(|record| record.seqno)
            .collect();
        ensure(numbers.iter().all(|number| *number <= 2), || format!("{what}: messages {numbers:?}"))?;
    }
    Ok(())
}

fn response_of_another(bench: &mut Bench<Snp>) -> Check {
    let options = Options { guest_bytes: 4 * LARGE, ..under(bench, Policy::ReturnOtherResponse) };
    as_guest(bench, options, |mut l2| {
        l2.port.memory().zero(range(OUT, PAGE)).map_err(|error| error.to_string())?;
        let mut out = [0xee; REPORT];
        // The first of all messages has no other.
        let own = l2.port.attest(&[1; 64], &mut out).ok_or("the guest has no channel")?;
        own.map_err(|error| error.to_string())?;
        // L1 gets the guest's, the guest gets L1's.
        ask_l1(&mut l2, CallResult::INVALID_REQUEST)?;
        let mut out = [0xee; REPORT];
        for want in [SnpError::BadResponse { field: "msg_seqno" }, SnpError::ChannelClosed] {
            let own = l2.port.attest(&[2; 64], &mut out).ok_or("the guest has no channel")?;
            same("the guest", error(own), Err(want))?;
        }
        ask_l1(&mut l2, CallResult::INVALID_REQUEST)?;
        same("the guest's buffer", out == [0xee; REPORT], true)?;
        let mut word = [0; 8];
        l2.port.memory().read(PhysAddr::new(OUT), &mut word).map_err(|error| error.to_string())?;
        same("the evidence page", word, [0; 8])
    })
    .map(|_| ())
}
