//! Every event of the GHCB page, end to end: `backend-snp` asks, the host of the machine answers.
//!
//! | file | what |
//! |---|---|
//! | here | under an honest host, at VMPL0 and at VMPL2 |
//! | `all` | the events, each with the answer that it must get |
//! | `answers` | hosts that answer wrong |
//! | `limits` | counts, lengths and addresses |

mod all;
mod answers;
mod limits;

use backend_snp::SnpError;
use backend_snp::abi::certificates::CertGuid;
use backend_snp::abi::exit_codes::ExitCode;
use backend_snp::abi::nae::HvFeatures;
use backend_snp::host::{GhcbPage, HostChannel, MsrProtocol, hv_features, preferred_ghcb};
use backend_snp::instr::Port;
use machine::host::Policy;
use x86_64::structures::paging::PhysFrame;

use super::{as_l1, case, under};
use crate::runner::Cpu;
use crate::snp::model::SnpModel;
use crate::snp::platform::Snp;
use crate::snp::port::ModelPort;
use crate::snp::window::Window;
use crate::suite::probe::as_guest;
use crate::suite::{Bench, Case, Check, Kind, ensure, same};
use crate::world::Options;
use crate::world::layout::{CHANNEL, MONITOR_CHANNEL, PAGE, frame, page, range};
use all::EVENTS;

/// The GHCB page of a program.
type Page<'y> = GhcbPage<Window<'y>>;

/// Exits until L1 has a GHCB page of its own.
const START: u64 = 6;

/// The cases of this folder.
pub(super) fn cases() -> Vec<Case<Snp>> {
    let mut cases = vec![
        case!(
            "H1-events-at-vmpl0",
            "H1",
            ["GH-08", "GH-16"],
            Contract,
            "every event that L1 may send gets the answer of its device, instruction or register",
            events_at_l1
        ),
        case!(
            "H1-events-at-vmpl2",
            "H1",
            ["GH-08", "GH-16"],
            Contract,
            "every event that a guest may send gets the same answers at VMPL2",
            events_at_guest
        ),
        case!(
            "H1-msr-protocol",
            "H1",
            ["GH-13", "SW-12"],
            Contract,
            "CPUID and reset hold by register say what they say by page, and the GHCB MSR is as before",
            msr_protocol
        ),
        case!(
            "H1-preferred-ghcb",
            "H1",
            ["GH-05"],
            HostileHost,
            "the host's wish for a GHCB page counts among pages set aside for it, and nowhere else",
            preferred
        ),
        case!(
            "H1-unregister-ghcb",
            "H1",
            ["GH-05", "GH-07"],
            Contract,
            "a registration is taken back with the feature only; the page then serves no more",
            unregister
        ),
        case!(
            "H2-unsupported-event",
            "H2",
            ["TM-01"],
            Contract,
            "an exit that nobody can handle is told to the host, which ends the guest",
            unsupported_event
        ),
        case!(
            "H2-hold-without-reason",
            "H2",
            ["SW-13"],
            HostileHost,
            "a reset hold that ends without a startup interrupt says so",
            hold_without_reason
        ),
    ];
    cases.extend(answers::cases());
    cases.extend(limits::cases());
    cases
}

/// A port and a registered GHCB page for the program of `cpu`.
fn open(cpu: Cpu<'_, SnpModel>, at: PhysFrame) -> Result<(ModelPort<'_>, Page<'_>), SnpError> {
    let mut port = ModelPort::new(cpu, None);
    let page = GhcbPage::register(&mut port, Window::shared(cpu), at)?;
    Ok((port, page))
}

/// The same for L1's boot vCPU: on the page that it has for this.
fn open_at_l1(cpu: Cpu<'_, SnpModel>) -> Result<(ModelPort<'_>, Page<'_>), SnpError> {
    open(cpu, frame(MONITOR_CHANNEL))
}

/// What every event said: its name with whether the values are right.
type Said = Vec<(&'static str, Result<bool, SnpError>)>;

fn send_all<'y>(port: &mut ModelPort<'y>, ghcb: &mut Page<'y>) -> Said {
    EVENTS.iter().map(|event| (event.name, (event.send)(ghcb, port))).collect()
}

/// Every event at L1, under a host.
fn said_to_l1(bench: &mut Bench<Snp>, host: Policy) -> Result<Said, String> {
    let what = format!("{host:x?}");
    let (world, said) = as_l1(bench, under(bench, host), |l1| {
        let (mut port, mut ghcb) = open_at_l1(l1.cpu)?;
        Ok::<_, SnpError>(send_all(&mut port, &mut ghcb))
    });
    let said = said.ok_or_else(|| format!("{what}: no result, {:?}", world.runner.stops()))?;
    said.map_err(|error| format!("{what}: {error}"))
}

fn events_at_l1(bench: &mut Bench<Snp>) -> Check {
    let said = said_to_l1(bench, Policy::Honest)?;
    ensure(said.len() == EVENTS.len() && said.len() >= 20, || format!("{} events", said.len()))?;
    said.into_iter().try_for_each(|(name, result)| same(name, result, Ok(true)))
}

fn events_at_guest(bench: &mut Bench<Snp>) -> Check {
    let options = bench.options();
    let world = as_guest(bench, options, |l2| {
        same("VMPL", l2.start.level, 2)?;
        let (mut port, mut ghcb) = open(l2.cpu, frame(CHANNEL)).map_err(|error| error.to_string())?;
        let said = send_all(&mut port, &mut ghcb);
        said.into_iter().try_for_each(|(name, result)| same(name, result, Ok(true)))
    })?;
    let machine = &world.runner.machine.0;
    ensure(!machine.host_state().port_writes().is_empty(), || "no port was written to".to_owned())?;
    let mut guid = [0; 16];
    machine.host_read(all::CERTIFICATES, &mut guid);
    ensure(CertGuid::KNOWN.iter().any(|(_, known)| known.0 == guid), || format!("no certificate table: {guid:x?}"))
}

fn msr_protocol(bench: &mut Bench<Snp>) -> Check {
    let options = bench.options();
    let (_, result) = as_l1(bench, options, |l1| -> Result<_, SnpError> {
        let (mut port, mut ghcb) = open_at_l1(l1.cpu)?;
        let mut differing = Vec::new();
        for leaf in [0, 1, 7, 0xb, 0x4000_0000, 0x8000_0000, 0x8000_001e, 0x8000_001f] {
            let by_page = ghcb.cpuid(&mut port, all::leaf(leaf, 0))?;
            if MsrProtocol.cpuid(&mut port, leaf)? != by_page {
                differing.push(leaf);
            }
        }
        let before = port.read_ghcb_msr();
        ghcb.send_ipi(&mut port, all::STARTUP_SELF)?;
        let started = MsrProtocol.ap_reset_hold(&mut port)?;
        let features = ghcb.hv_features(&mut port, HvFeatures::MULTIPLE_VMPLS)?;
        let by_register = hv_features(&mut port, HvFeatures::MULTIPLE_VMPLS)?;
        let after = port.read_ghcb_msr();
        Ok((differing, started, features == by_register, before == after))
    });
    same("by register", result, Some(Ok((Vec::new(), true, true, true))))
}

fn preferred(bench: &mut Bench<Snp>) -> Check {
    // The first three pages of L1's channel are shared; two of them are set aside here.
    let at = |index| page(MONITOR_CHANNEL, index);
    let number = |address: u64| address >> 12;
    let rows = [
        (Policy::Honest, at(0)),
        (Policy::PreferGhcb(number(at(0))), at(0)),
        (Policy::PreferGhcb(number(at(1))), at(1)),
        (Policy::PreferGhcb(number(at(2))), at(0)),
        (Policy::PreferGhcb(number(at(3))), at(0)),
        (Policy::PreferGhcb(0), at(0)),
    ];
    for (host, want) in rows {
        let what = format!("{host:x?}");
        let (world, used) = as_l1(bench, under(bench, host), move |l1| {
            let mut port = ModelPort::new(l1.cpu, None);
            let pages = range(MONITOR_CHANNEL, 2 * PAGE);
            let mut ghcb = GhcbPage::register_preferred(&mut port, Window::shared(l1.cpu), pages)?;
            ghcb.wbinvd(&mut port)?;
            Ok::<_, SnpError>(ghcb.frame())
        });
        same(&what, used, Some(Ok(frame(want))))?;
        same(&what, world.runner.machine.0.host_state().ghcb(machine::Vcpu(0), 0), Some(want))?;
    }
    // A frame beyond the address space is no wish.
    let host = Policy::PreferGhcb(1 << 40);
    let (_, asked) = as_l1(bench, under(bench, host), |l1| preferred_ghcb(&mut ModelPort::new(l1.cpu, None)));
    let got = 1 << 52 | 0x011;
    same("beyond the address space", asked, Some(Err(SnpError::UnexpectedResponse { sent: 0x010, got })))
}

fn unregister(bench: &mut Bench<Snp>) -> Check {
    let options = under(bench, Policy::LieFeatures(0x133));
    let (_, result) = as_l1(bench, options, |l1| -> Result<_, SnpError> {
        let (mut port, ghcb) = open_at_l1(l1.cpu)?;
        let features = hv_features(&mut port, HvFeatures::GHCB_UNREGISTER)?;
        let Err((ghcb, refused)) = ghcb.unregister(&mut port, HvFeatures::SEV_SNP) else { return Ok(None) };
        let Ok(gone) = ghcb.unregister(&mut port, features) else { return Ok(None) };
        // Another page of L1's serves instead; the old one, selected by hand, does not.
        let (_, mut other) = open(l1.cpu, frame(page(MONITOR_CHANNEL, 1)))?;
        other.wbinvd(&mut port)?;
        let (_, mut again) = open(l1.cpu, gone)?;
        again.wbinvd(&mut port)?;
        Ok(Some((refused, gone, other.wbinvd(&mut port))))
    });
    let missing = SnpError::MissingFeatures { missing: 0x100 };
    let refused = Err(SnpError::MalformedRequest { code: 1 });
    same("unregister", result, Some(Ok(Some((missing, frame(MONITOR_CHANNEL), refused)))))
}

fn unsupported_event(bench: &mut Bench<Snp>) -> Check {
    let options = bench.options();
    let (world, result) = as_l1(bench, options, |l1| {
        let (mut port, mut ghcb) = open_at_l1(l1.cpu)?;
        ghcb.unsupported_event(&mut port, ExitCode::PAGE_NOT_VALIDATED)
    });
    same("it went on", result, None)?;
    let stops = world.runner.stops();
    ensure(stops.iter().any(|stop| format!("{stop:?}").contains("Refused")), || format!("{stops:?}"))
}

fn hold_without_reason(bench: &mut Bench<Snp>) -> Check {
    let (_, result) = as_l1(bench, under(bench, Policy::KickForever), |l1| -> Result<_, SnpError> {
        let (mut port, mut ghcb) = open_at_l1(l1.cpu)?;
        Ok([ghcb.ap_reset_hold(&mut port)?, MsrProtocol.ap_reset_hold(&mut port)?])
    });
    same("started", result, Some(Ok([false, false])))?;
    // An honest host that has nothing to wake it with does not return.
    let options: Options<Snp> = bench.options();
    let (world, result) = as_l1(bench, options, |l1| {
        let (mut port, mut ghcb) = open_at_l1(l1.cpu)?;
        ghcb.ap_reset_hold(&mut port)
    });
    same("held", result, None)?;
    same("complaints", world.complaints(), Vec::new())
}
