//! What a report says against what is expected.

use alloc::vec::Vec;

use p384::ecdsa::signature::Verifier as _;

use super::chain::{KeyOf, Vek};
use super::verdict::{Check, Fault, Line, Outcome};
use super::{Expectations, Wanted};
use crate::abi::report::{GuestPolicy, PlatformInfo, SigningKey, TcbVersion};
use crate::evidence::{Product, Report, Tcb};

/// Significant bytes of each number of a signature.
const SCALAR: usize = 48;

/// Adds the lines about a report.
pub(super) fn report(bytes: &[u8], vek: Option<&Vek>, expectations: &Expectations<'_>, lines: &mut Vec<Line>) {
    let mut say = |check, outcome: Outcome| lines.push(Line { check, outcome });
    let vek = vek.ok_or(Fault::Follows(Check::Certificates));
    let parsed = Report::parse(bytes);
    say(Check::Report, parsed.as_ref().map(|_| ()).map_err(|error| Fault::Report(*error)).into());
    let report = parsed.as_ref().map_err(|_| Fault::Follows(Check::Report));
    // Both, or why not.
    let both = report.and_then(|report| vek.map(|vek| (report, vek)));
    let product = both.and_then(|(report, vek)| product(report, vek));
    say(Check::Product, product.map(|_| ()).into());
    let product = product.map_err(|_| Fault::Follows(Check::Product));
    say(Check::SigningKey, both.and_then(|(report, vek)| signing_key(report, vek)).into());
    say(Check::Signature, both.and_then(|(report, vek)| signature(report, vek)).into());
    say(Check::KeyTcb, both.and_then(|(report, vek)| key_tcb(report, vek, product?)).into());
    say(Check::KeyChip, both.map_or_else(Outcome::Refused, |(report, vek)| key_chip(report, vek)));
    let mut at_least = |check, tcb: fn(&Report) -> TcbVersion| {
        say(check, report.and_then(|report| new_enough(tcb(report), product?, expectations.minimum)).into());
    };
    at_least(Check::ReportedTcb, Report::reported_tcb);
    at_least(Check::CurrentTcb, Report::current_tcb);
    at_least(Check::CommittedTcb, Report::committed_tcb);
    at_least(Check::LaunchTcb, Report::launch_tcb);
    let mut about = |check, judge: &dyn Fn(&Report) -> Result<(), Fault>| say(check, report.and_then(judge).into());
    about(Check::Vmpl, &|report| {
        let is = report.vmpl();
        if is == expectations.vmpl { Ok(()) } else { Err(Fault::OtherVmpl { is: is.number() }) }
    });
    about(Check::Debug, &|report| if report.policy().debug() == 0 { Ok(()) } else { Err(Fault::Debuggable) });
    about(Check::Policy, &|report| policy(report.policy(), expectations.policy));
    about(Check::ReportData, &|report| same(report.report_data(), &expectations.report_data));
    about(Check::Platform, &|report| platform(report, expectations.platform));
    say(Check::Measurement, wanted(report.map(Report::measurement), expectations.measurement));
    say(Check::HostData, wanted(report.map(Report::host_data), expectations.host_data));
    say(Check::IdKey, wanted(report.map(Report::id_key_digest), expectations.id_key_digest));
}

fn same<T: PartialEq>(is: &T, expected: &T) -> Result<(), Fault> {
    if is == expected { Ok(()) } else { Err(Fault::Differs) }
}

fn wanted<T: PartialEq>(is: Result<&T, Fault>, wanted: Wanted<T>) -> Outcome {
    match wanted {
        Wanted::Any => Outcome::Skipped("any value was asked for"),
        Wanted::Is(expected) => is.and_then(|is| same(is, &expected)).into(),
    }
}

/// The one product of root, certificate and report. A report of version 2 names none.
fn product(report: &Report, vek: &Vek) -> Result<Product, Fault> {
    let certified = vek.product?;
    match (report.processor(), report.product()) {
        (None, _) => Ok(certified),
        (Some(_), None) => Err(Fault::UnknownProduct),
        (Some(_), Some(own)) if own == certified => Ok(own),
        (Some(_), Some(own)) => Err(Fault::Products(own, certified)),
    }
}

fn signing_key(report: &Report, vek: &Vek) -> Result<(), Fault> {
    let expected = match vek.key_of? {
        KeyOf::Chip(_) => SigningKey::VCEK,
        KeyOf::Operator => SigningKey::VLEK,
    };
    if report.key_info().mask_chip_key() == 1 && expected == SigningKey::VCEK {
        return Err(Fault::Masked);
    }
    let signing_key = report.signing_key();
    if signing_key == expected { Ok(()) } else { Err(Fault::OtherKey { signing_key: signing_key.0 }) }
}

fn signature(report: &Report, vek: &Vek) -> Result<(), Fault> {
    let signature = report.signature();
    let number = |bytes: &[u8; 72]| {
        let (mut number, rest) = ([0; SCALAR], bytes.get(SCALAR..)?);
        number.copy_from_slice(bytes.get(..SCALAR)?);
        number.reverse();
        rest.iter().all(|&byte| byte == 0).then_some(number)
    };
    let malformed = Fault::MalformedSignature;
    if !signature.has_zero_reserved() {
        return Err(malformed);
    }
    let (r, s) = (number(&signature.r).ok_or(malformed)?, number(&signature.s).ok_or(malformed)?);
    let signature = p384::ecdsa::Signature::from_scalars(r, s).map_err(|_| malformed)?;
    vek.key.as_ref().map_err(|fault| *fault)?.verify(report.signed_bytes(), &signature).map_err(|_| Fault::BadSignature)
}

fn key_tcb(report: &Report, vek: &Vek, product: Product) -> Result<(), Fault> {
    let certificate = vek.tcb?;
    let report = Tcb::read(report.reported_tcb(), product).ok_or(Fault::ReservedTcb)?;
    if report == certificate { Ok(()) } else { Err(Fault::OtherTcb { certificate, report }) }
}

fn key_chip(report: &Report, vek: &Vek) -> Outcome {
    match vek.key_of {
        Ok(KeyOf::Operator) => Outcome::Skipped("a VLEK names no chip"),
        Ok(KeyOf::Chip(id)) if id == *report.chip_id() => Outcome::Passed,
        Ok(KeyOf::Chip(_)) => Outcome::Refused(Fault::OtherChip),
        Err(fault) => Outcome::Refused(fault),
    }
}

fn new_enough(raw: TcbVersion, product: Product, minimum: &[(Product, Tcb)]) -> Result<(), Fault> {
    let is = Tcb::read(raw, product).ok_or(Fault::ReservedTcb)?;
    // Of two minimums both count.
    let mut given = minimum.iter().filter(|(of, _)| *of == product).peekable();
    if given.peek().is_none() {
        return Err(Fault::ProductNotAllowed(product));
    }
    match given.find_map(|(_, minimum)| is.older_part(*minimum)) {
        Some(part) => Err(Fault::TooOld { part, is }),
        None => Ok(()),
    }
}

/// Whether `is` allows nothing that `most` does not, and demands what it demands.
fn policy(is: GuestPolicy, most: GuestPolicy) -> Result<(), Fault> {
    let version = |policy: GuestPolicy| (policy.abi_major(), policy.abi_minor());
    let checks = [
        (version(is) >= version(most), "abi"),
        (is.smt() <= most.smt(), "smt"),
        (is.migrate_ma() <= most.migrate_ma(), "migrate_ma"),
        (is.cxl_allow() <= most.cxl_allow(), "cxl_allow"),
        (is.single_socket() >= most.single_socket(), "single_socket"),
        (is.mem_aes_256_xts() >= most.mem_aes_256_xts(), "mem_aes_256_xts"),
        (is.rapl_dis() >= most.rapl_dis(), "rapl_dis"),
        (is.ciphertext_hiding() >= most.ciphertext_hiding(), "ciphertext_hiding"),
        (is.page_swap_disable() >= most.page_swap_disable(), "page_swap_disable"),
        // Nobody knows what they allow.
        (!is.has_reserved_bits(), "reserved"),
    ];
    let lax = checks.into_iter().find(|(sound, _)| !sound);
    lax.map_or(Ok(()), |(_, field)| Err(Fault::Policy { field }))
}

fn platform(report: &Report, flags: PlatformInfo) -> Result<(), Fault> {
    let is_missing = |flag: &PlatformInfo| report.platform_flag(*flag) != Some(true);
    let known = flags.iter().filter(is_missing).fold(0, |bits, flag| bits | flag.bits());
    let missing = known | flags.difference(PlatformInfo::all()).bits();
    if missing == 0 { Ok(()) } else { Err(Fault::FlagsMissing { missing }) }
}

#[cfg(test)]
mod tests;
