//! Every kind of guest message over the real firmware of the machine, with the hosts that meddle with certificates.

use backend_snp::SnpError;
use backend_snp::abi::certificates::CertGuid;
use backend_snp::abi::guest_messages::{GuestFieldSelect, KeyRequest, RootKeySelect};
use backend_snp::abi::vmpl::Vmpl;
use backend_snp::certificates::{TableError, entries};
use backend_snp::message::{Certificates, DerivedKey, TscInfo};
use coco_part_api::{GuestPort, HostState};
use machine::host::Policy;
use machine::psp::certs::{ARK_DER, ASK_DER, VCEK_DER};
use machine::psp::platform::{TSC_FACTOR, TSC_OFFSET, TSC_SCALE};

use super::{case, under};
use crate::snp::platform::Snp;
use crate::suite::probe::as_guest;
use crate::suite::{Bench, Case, Check, Kind, same};
use crate::world::L2;
use crate::world::layout::{FREE, PAGE, range};

/// The cases of this file.
pub(super) fn cases() -> Vec<Case<Snp>> {
    vec![case!(
        "A2-every-message",
        "A2",
        ["GR-04", "GR-13", "GR-16", "AT-02"],
        HostileHost,
        "reports with certificates, derived keys and TSC values come under the own key, and no host that lies about \
         certificates makes a number meet two messages",
        every_message
    )]
}

/// Data of every report here.
const DATA: [u8; 64] = [5; 64];
/// Pages for certificates.
const PAGES: u64 = 4;

/// Asks for a report with certificates in so many shared pages.
fn extended(l2: &mut L2<'_, Snp>, pages: u64, table: &mut [u8]) -> Result<Certificates, SnpError> {
    let vmpl = own(l2);
    let answer = l2.port.with_channel(|channel, port, host| {
        channel.extended_report(port, host, &DATA, vmpl, range(FREE, pages * PAGE), table)
    });
    answer.map(|answer| answer.certificates)
}

fn own(l2: &L2<'_, Snp>) -> Vmpl {
    Vmpl::try_from(l2.start.level).unwrap_or(Vmpl::VMPL3)
}

fn key(l2: &mut L2<'_, Snp>, vmpl: Vmpl, mix: GuestFieldSelect) -> Result<[u8; 32], SnpError> {
    let mut request = KeyRequest::new(RootKeySelect::default(), vmpl);
    request.guest_field_select = mix;
    let mut key = DerivedKey::empty();
    l2.port.with_channel(|channel, port, host| channel.derived_key(port, host, &request, &mut key))?;
    Ok(*key.bytes())
}

fn share(l2: &mut L2<'_, Snp>) -> Check {
    let shared = l2.port.agree(range(FREE, PAGES * PAGE), HostState::Shared);
    Ok(shared.map_err(|stopped| stopped.cause.to_string())?)
}

fn every_message(bench: &mut Bench<Snp>) -> Check {
    as_guest(bench, bench.options(), |mut l2| {
        share(&mut l2)?;
        let mut table = vec![0xee; (PAGES * PAGE) as usize];
        same("certificates", extended(&mut l2, PAGES, &mut table), Ok(Certificates::Table))?;
        let found: Vec<_> = entries(&table).map_err(|error| error.to_string())?.collect();
        let kinds: Vec<CertGuid> = found.iter().map(|entry| entry.guid).collect();
        same("kinds", kinds, vec![CertGuid::ARK, CertGuid::ASK, CertGuid::VCEK])?;
        let bytes: Vec<&[u8]> = found.iter().map(|entry| entry.bytes).collect();
        same("certificates", bytes == [ARK_DER, ASK_DER, VCEK_DER], true)?;
        // They take two pages.
        same("one page", extended(&mut l2, 1, &mut table), Ok(Certificates::TooLong { pages: 2 }))?;
        same("again", extended(&mut l2, 2, &mut table), Ok(Certificates::Table))?;

        let tsc = l2.port.with_channel(|channel, port, host| channel.tsc_info(port, host));
        same("TSC", tsc, Ok(TscInfo { scale: TSC_SCALE, offset: TSC_OFFSET, factor: TSC_FACTOR }))?;

        let own = own(&l2);
        let plain = key(&mut l2, own, GuestFieldSelect::empty());
        same("key", plain.is_ok(), true)?;
        same("the same key", key(&mut l2, own, GuestFieldSelect::empty()), plain)?;
        for mix in [GuestFieldSelect::MEASUREMENT, GuestFieldSelect::LAUNCH_MITIGATION_VECTOR] {
            let other = key(&mut l2, own, mix);
            same("another key", other.is_ok() && other != plain, true)?;
        }
        // A key of a more privileged level is not to be had, and asking does no harm.
        same("VMPL0", key(&mut l2, Vmpl::VMPL0, GuestFieldSelect::empty()), Err(SnpError::Firmware { status: 0x16 }))?;
        same("VMPL3", key(&mut l2, Vmpl::VMPL3, GuestFieldSelect::empty()).is_ok(), true)
    })?;
    let refused = |needed| Err(SnpError::PagesNeeded { given: PAGES, needed });
    let rows = [
        (Policy::DemandPages(5), Ok(Certificates::TooLong { pages: 5 })),
        (Policy::DemandPages(17), refused(17)),
        (Policy::DemandPages(u64::MAX), refused(u64::MAX)),
        (Policy::ReportBusy(3), Ok(Certificates::Table)),
        (Policy::JunkCertificates, Ok(Certificates::Table)),
    ];
    for (policy, want) in rows {
        let what = format!("{policy:?}");
        let is_junk = policy == Policy::JunkCertificates;
        as_guest(bench, under(bench, policy), move |mut l2| {
            share(&mut l2)?;
            let mut table = vec![0; (PAGES * PAGE) as usize];
            same(&what, extended(&mut l2, PAGES, &mut table), want)?;
            if is_junk {
                same(&what, entries(&table).err(), Some(TableError::Unterminated))?;
            }
            // In step, or closed for good.
            let tsc = l2.port.with_channel(|channel, port, host| channel.tsc_info(port, host));
            let after = if want.is_ok() { Ok(()) } else { Err(SnpError::ChannelClosed) };
            same(&what, tsc.map(|_| ()), after)
        })?;
    }
    Ok(())
}
