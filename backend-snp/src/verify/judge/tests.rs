//! Checks on reports without their signatures: what a test chain of one product cannot show.

use super::*;
use crate::abi::vmpl::Vmpl;
use crate::verify::Root;

const LEN: usize = 0x4a0;

/// An unsigned report by the offsets of fact table `attestation_report`.
fn bytes(parts: &[(usize, &[u8])]) -> [u8; LEN] {
    let mut bytes = [0; LEN];
    let base: [(usize, &[u8]); 4] = [(0x00, &[3]), (0x0a, &[2]), (0x34, &[1]), (0x188, &[0x1a, 0x02, 0x01])];
    for (at, part) in base.iter().chain(parts) {
        bytes[*at..*at + part.len()].copy_from_slice(part);
    }
    bytes
}

const TURIN_TCB: [u8; 8] = [1, 2, 3, 4, 0, 0, 0, 5];
const TURIN: Tcb = Tcb { fmc: Some(1), boot_loader: 2, tee: 3, snp: 4, microcode: 5 };
const OLDER: Tcb = Tcb { fmc: Some(1), boot_loader: 2, tee: 3, snp: 3, microcode: 5 };

/// A chip whose id has the 8 bytes of a Turin.
fn chip() -> [u8; 64] {
    let mut id = [0; 64];
    id[..8].copy_from_slice(&[9, 8, 7, 6, 5, 4, 3, 2]);
    id
}

fn vek(product: Product, tcb: Tcb, key_of: KeyOf) -> Vek {
    Vek { key: Err(Fault::WrongAlgorithm), product: Ok(product), key_of: Ok(key_of), tcb: Ok(tcb) }
}

fn turin() -> Vek {
    vek(Product::Turin, TURIN, KeyOf::Chip(chip()))
}

fn expectations(minimum: &[(Product, Tcb)]) -> Expectations<'_> {
    Expectations {
        root: Root::Vendor,
        time_s: 0,
        minimum,
        vmpl: Vmpl::VMPL0,
        policy: GuestPolicy::from_bits_retain(0x3_0000),
        report_data: [0; 64],
        measurement: Wanted::Is([0; 48]),
        host_data: Wanted::Is([0; 32]),
        id_key_digest: Wanted::Is([0; 48]),
        platform: PlatformInfo::empty(),
    }
}

/// The faults but that of the missing signature.
fn faults(bytes: &[u8], vek: &Vek, expectations: &Expectations<'_>) -> Vec<(Check, Fault)> {
    let mut lines = Vec::new();
    report(bytes, Some(vek), expectations, &mut lines);
    let verdict = crate::verify::Verdict::new(lines);
    verdict.faults().filter(|(check, _)| *check != Check::Signature).collect()
}

fn turin_bytes() -> [u8; LEN] {
    let id = chip();
    let tcbs = [0x38, 0x180, 0x1e0, 0x1f0].map(|at| (at, &TURIN_TCB[..]));
    let mut parts = tcbs.to_vec();
    parts.push((0x1a0, &id));
    bytes(&parts)
}

#[test]
fn a_turin_report_is_bound_to_chip_and_platform_version_of_its_key() {
    let minimum = [(Product::Turin, TURIN)];
    let bytes = turin_bytes();
    assert_eq!(faults(&bytes, &turin(), &expectations(&minimum)), []);
    // Version 2 names no processor: the product is that of the chain.
    let mut second = bytes;
    second[0] = 2;
    second[0x188..0x18b].fill(0);
    assert_eq!(faults(&second, &turin(), &expectations(&minimum)), []);
    for at in [0x1a0, 0x1a7, 0x1a8, 0x1df] {
        let mut other = bytes;
        other[at] ^= 1;
        assert_eq!(faults(&other, &turin(), &expectations(&minimum)), [(Check::KeyChip, Fault::OtherChip)], "{at:#x}");
    }
    let older = [(Product::Turin, OLDER)];
    let other = vek(Product::Turin, OLDER, KeyOf::Chip(chip()));
    let fault = Fault::OtherTcb { certificate: OLDER, report: TURIN };
    assert_eq!(faults(&bytes, &other, &expectations(&older)), [(Check::KeyTcb, fault)]);
}

#[test]
fn each_platform_version_is_held_against_the_minimum_of_its_product() {
    let minimum = [(Product::Turin, TURIN)];
    for (at, check) in [(0x38, Check::CurrentTcb), (0x1e0, Check::CommittedTcb), (0x1f0, Check::LaunchTcb)] {
        let mut bytes = turin_bytes();
        bytes[at + 3] = 3;
        let too_old = (check, Fault::TooOld { part: "snp", is: OLDER });
        assert_eq!(faults(&bytes, &turin(), &expectations(&minimum)), [too_old]);
        bytes[at + 4] = 1;
        assert_eq!(faults(&bytes, &turin(), &expectations(&minimum)), [(check, Fault::ReservedTcb)]);
    }
    let mut bytes = turin_bytes();
    bytes[0x183] = 3;
    let key = vek(Product::Turin, OLDER, KeyOf::Chip(chip()));
    let too_old = Fault::TooOld { part: "snp", is: OLDER };
    assert_eq!(faults(&bytes, &key, &expectations(&minimum)), [(Check::ReportedTcb, too_old)]);
    let other = [(Product::Milan, Tcb { fmc: None, ..OLDER })];
    let refused = faults(&turin_bytes(), &turin(), &expectations(&other));
    let all = [Check::ReportedTcb, Check::CurrentTcb, Check::CommittedTcb, Check::LaunchTcb];
    assert_eq!(refused, all.map(|check| (check, Fault::ProductNotAllowed(Product::Turin))));
    let both = [(Product::Turin, OLDER), (Product::Turin, Tcb { microcode: 6, ..OLDER })];
    let refused = faults(&turin_bytes(), &turin(), &expectations(&both));
    assert_eq!(refused, all.map(|check| (check, Fault::TooOld { part: "microcode", is: TURIN })));
}

#[test]
fn root_certificate_and_report_are_of_one_product() {
    let genoa = Tcb { fmc: None, boot_loader: 1, tee: 2, snp: 0, microcode: 5 };
    let minimum =
        [(Product::Turin, TURIN), (Product::Genoa, Tcb { fmc: None, boot_loader: 0, tee: 0, snp: 0, microcode: 0 })];
    let key = vek(Product::Genoa, genoa, KeyOf::Chip(chip()));
    let refused = faults(&turin_bytes(), &key, &expectations(&minimum));
    assert_eq!(refused.first(), Some(&(Check::Product, Fault::Products(Product::Turin, Product::Genoa))));
    assert!(refused.iter().skip(1).all(|(_, fault)| *fault == Fault::Follows(Check::Product)));
    let mut unknown = turin_bytes();
    unknown[0x188] = 0x17;
    let refused = faults(&unknown, &turin(), &expectations(&minimum));
    assert_eq!(refused.first(), Some(&(Check::Product, Fault::UnknownProduct)));
}

#[test]
fn a_report_names_the_kind_of_key_that_signed_it() {
    let minimum = [(Product::Turin, TURIN)];
    let operator = vek(Product::Turin, TURIN, KeyOf::Operator);
    let with = |key_info: u8| {
        let mut bytes = turin_bytes();
        bytes[0x48] = key_info;
        bytes
    };
    let faults_of = |key_info, vek| faults(&with(key_info), vek, &expectations(&minimum));
    assert_eq!(faults_of(1 << 2, &operator), []);
    let chip = turin();
    assert_eq!(faults_of(1 << 2, &chip), [(Check::SigningKey, Fault::OtherKey { signing_key: 1 })]);
    assert_eq!(faults_of(0, &operator), [(Check::SigningKey, Fault::OtherKey { signing_key: 0 })]);
    assert_eq!(faults_of(7 << 2, &chip), [(Check::SigningKey, Fault::OtherKey { signing_key: 7 })]);
    assert_eq!(faults_of(1 << 1, &chip), [(Check::SigningKey, Fault::Masked)]);
    let mut lines = Vec::new();
    report(&with(1 << 2), Some(&operator), &expectations(&minimum), &mut lines);
    let line = lines.iter().find(|line| line.check == Check::KeyChip).unwrap();
    assert_eq!(line.outcome, Outcome::Skipped("a VLEK names no chip"));
}

#[test]
fn a_policy_may_be_stricter_than_the_one_given_and_no_laxer() {
    let bits = GuestPolicy::from_bits_retain;
    let demands = 1 << 20 | 1 << 22 | 1 << 23 | 1 << 24 | 1 << 25;
    let most = bits(0x3_0137 | 1 << 18 | 1 << 21);
    for stricter in [most, bits(0x2_0137), bits(0x2_0138), bits(0x2_0200), bits(0x2_0137 | demands)] {
        assert_eq!(policy(stricter, most), Ok(()), "{stricter:?}");
    }
    let strict = bits(0x2_0137 | demands);
    let rows = [
        (strict.with_abi_minor(0x36), "abi"),
        (strict.with_abi_major(0), "abi"),
        (strict.with_smt(1), "smt"),
        (strict.with_migrate_ma(1), "migrate_ma"),
        (strict.with_cxl_allow(1), "cxl_allow"),
        (strict.with_single_socket(0), "single_socket"),
        (strict.with_mem_aes_256_xts(0), "mem_aes_256_xts"),
        (strict.with_rapl_dis(0), "rapl_dis"),
        (strict.with_ciphertext_hiding(0), "ciphertext_hiding"),
        (strict.with_page_swap_disable(0), "page_swap_disable"),
        (bits(strict.bits() | 1 << 26), "reserved"),
        (bits(strict.bits() | 1 << 63), "reserved"),
    ];
    for (laxer, field) in rows {
        assert_eq!(policy(laxer, strict), Err(Fault::Policy { field }), "{field}");
    }
}

#[test]
fn debugging_is_refused_even_where_the_given_policy_allows_it() {
    let minimum = [(Product::Turin, TURIN)];
    let mut bytes = turin_bytes();
    bytes[0x0a] |= 1 << 3;
    let lax = Expectations { policy: GuestPolicy::from_bits_retain(0xb_0000), ..expectations(&minimum) };
    assert_eq!(faults(&bytes, &turin(), &lax), [(Check::Debug, Fault::Debuggable)]);
}

#[test]
fn platform_flags_have_to_be_set_and_known_to_the_version() {
    let minimum = [(Product::Turin, TURIN)];
    let flags = PlatformInfo::ECC_EN | PlatformInfo::ALIAS_CHECK_COMPLETE;
    let wanted = Expectations { platform: flags, ..expectations(&minimum) };
    let mut bytes = turin_bytes();
    bytes[0x40] = 0x24;
    assert_eq!(faults(&bytes, &turin(), &wanted), []);
    let missing = |missing| [(Check::Platform, Fault::FlagsMissing { missing })];
    bytes[0x40] = 0x04;
    assert_eq!(faults(&bytes, &turin(), &wanted), missing(0x20));
    bytes[0x40] = 0x24;
    bytes[0] = 2;
    assert_eq!(faults(&bytes, &turin(), &wanted), missing(0x20));
    let unknown = Expectations { platform: PlatformInfo::from_bits_retain(1 << 6), ..expectations(&minimum) };
    bytes[0x40] = 0xff;
    assert_eq!(faults(&bytes, &turin(), &unknown), missing(1 << 6));
}
