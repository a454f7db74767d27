//! The call protocol between a guest and L1: the codec of `coco_part_api::svsm` against the table `svsm_protocol`.

use std::collections::BTreeMap;
use std::mem::offset_of;

use backend_snp::abi::sev_features::Msr;
use coco_part_api::svsm::attest::{self, ManifestEntry, ManifestHeader, ServicesRequest, SingleRequest};
use coco_part_api::svsm::list::{
    Action, Entry, ListHeader, ListPlace, MOST, NEXT, WORD, WithdrawnHeader, decode_page, encode_page,
};
use coco_part_api::svsm::vtpm::{self, CommandHeader, MOST_COMMAND, MOST_RESPONSE, ResponseHeader};
use coco_part_api::svsm::{self, CallId, CallResult};
use coco_part_api::{Block, CallRegs, ErrorKind, PageSize};
use x86_64::PhysAddr;

use crate::compare::Codes;
use crate::table::{Informative, Row, bits, expect, mask, parse, walk_by};

/// Rows about what monitor, guest or host do, and rows of what is not spoken. Who shows the former is told by name.
const ELSEWHERE: Informative = &[
    ("protocol/4/", "UEFI variables are no service of this monitor"),
    ("protocol/0x80000000..0x8000FFFF/", "set aside for others; the own protocol lies outside"),
    ("convention///transfer/", "the exits of a backend: S1 cases of the suite"),
    ("convention///step 1/", "what a guest does: backend-snp guest tests"),
    ("convention///step 2/", "what L1 does: S1-mark-before-first-run, S1-malformed-mark"),
    ("convention///step 3/", "what L1 does: S1-served-once"),
    ("convention///step 4/", "what a guest does: S1-faked-completion"),
    ("discovery///secrets page/", "compared in `layouts`"),
    ("discovery///CPUID/", "a guest's own #VC handler"),
    ("discovery///image footer/", "for whoever builds the firmware"),
    ("result///reserved/", "no result of anybody"),
    ("result///protocol success codes/", "no protocol that is spoken here defines one"),
    ("calling_area///no_eoi_required/", "APIC emulation is not spoken"),
    ("call_rule/", "what L1 does: cases of the suite"),
    ("call/3/", "APIC emulation is not spoken"),
    ("call_reg/3/", "APIC emulation is not spoken"),
    ("call/4/", "UEFI variables are no service of this monitor"),
    ("call_reg/4/", "UEFI variables are no service of this monitor"),
    ("guid/1//service/UEFI MM", "UEFI variables are no service of this monitor"),
];

/// Where a field begins and how long it is.
type Places = BTreeMap<&'static str, (u64, u64)>;

fn size_of_field<T, F>(_: impl Fn(&T) -> &F) -> u64 {
    size_of::<F>() as u64
}

/// The places of all fields of a type: a field that is not listed does not compile.
macro_rules! places {
    ($type:ident { $($field:ident),* }) => {{
        let _ = |value: $type| { let $type { $($field: _),* } = value; };
        let mut places = Places::new();
        $(places.insert(stringify!($field), (
            offset_of!($type, $field) as u64,
            size_of_field(|value: &$type| &value.$field),
        ));)*
        places
    }};
}

/// The structures of the table, by its name for them, with the fields that no row has named yet.
fn structures() -> BTreeMap<&'static str, Places> {
    let list = || {
        let mut places = places!(ListHeader { entries, next, reserved });
        places.insert("entry[0]", (size_of::<ListHeader>() as u64, WORD));
        places
    };
    let mut withdrawn = places!(WithdrawnHeader { entries, unused });
    withdrawn.insert("entry[0]", (size_of::<WithdrawnHeader>() as u64, WORD));
    let mut command = places!(CommandHeader { platform_command, locality, in_size });
    command.insert("in_data", (size_of::<CommandHeader>() as u64, MOST_COMMAND as u64));
    let mut response = places!(ResponseHeader { out_size });
    response.insert("out_data", (size_of::<ResponseHeader>() as u64, MOST_RESPONSE as u64));
    let mut single = places!(SingleRequest { common, service_guid, manifest_version, reserved_0x54 });
    assert_eq!(single.remove("common"), Some((0, size_of::<ServicesRequest>() as u64)));
    let request = places!(ServicesRequest {
        report_gpa,
        report_size,
        reserved_0x0c,
        nonce_gpa,
        nonce_size,
        reserved_0x1a,
        manifest_gpa,
        manifest_size,
        reserved_0x2c,
        certificates_gpa,
        certificates_size,
        reserved_0x3c
    });
    BTreeMap::from([
        ("PVALIDATE list", list()),
        ("DEPOSIT_MEM list", list()),
        ("WITHDRAW_MEM list", withdrawn),
        ("attest request", request),
        ("attest request (single)", single),
        ("send-command request", command),
        ("send-command response", response),
        ("services manifest", places!(ManifestHeader { guid, length, count })),
        ("services manifest entry[n]", places!(ManifestEntry { guid, offset, length })),
    ])
}

/// Compares one field and strikes it off. Reserved ones are found by their offset, if their name says it.
fn check_field(left: &mut BTreeMap<&str, Places>, of: &str, field: &str, place: (u64, u64)) -> Result<(), String> {
    let places = left.get_mut(of).ok_or_else(|| format!("unknown {of}"))?;
    let by_offset = format!("reserved_{:#04x}", place.0);
    let name = if places.contains_key(by_offset.as_str()) { &by_offset } else { field };
    let found = places.remove(name).ok_or_else(|| format!("{of} has no {field}"))?;
    expect(found == place, &format!("{found:x?}, the table says {place:x?}"))
}

/// Number of a call by its protocol and name.
const CALLS: &[(&str, CallId)] = &[
    ("REMAP_CA", CallId::new(svsm::CORE, svsm::REMAP_CA)),
    ("PVALIDATE", CallId::new(svsm::CORE, svsm::PVALIDATE)),
    ("CREATE_VCPU", CallId::new(svsm::CORE, svsm::CREATE_VCPU)),
    ("DELETE_VCPU", CallId::new(svsm::CORE, svsm::DELETE_VCPU)),
    ("DEPOSIT_MEM", CallId::new(svsm::CORE, svsm::DEPOSIT_MEM)),
    ("WITHDRAW_MEM", CallId::new(svsm::CORE, svsm::WITHDRAW_MEM)),
    ("QUERY_PROTOCOL", CallId::new(svsm::CORE, svsm::QUERY_PROTOCOL)),
    ("CONFIGURE_VTOM", CallId::new(svsm::CORE, svsm::CONFIGURE_VTOM)),
    ("ATTEST_SERVICES", CallId::new(svsm::ATTESTATION, attest::ATTEST_SERVICES)),
    ("ATTEST_SINGLE_SERVICE", CallId::new(svsm::ATTESTATION, attest::ATTEST_SINGLE_SERVICE)),
    ("VTPM_QUERY", CallId::new(svsm::VTPM, vtpm::VTPM_QUERY)),
    ("VTPM_CMD", CallId::new(svsm::VTPM, vtpm::VTPM_CMD)),
];

/// Results by the table's names.
const RESULTS: &[(&str, CallResult)] = &[
    ("SUCCESS", CallResult::SUCCESS),
    ("INCOMPLETE", CallResult::INCOMPLETE),
    ("UNSUPPORTED_PROTOCOL", CallResult::UNSUPPORTED_PROTOCOL),
    ("UNSUPPORTED_CALL", CallResult::UNSUPPORTED_CALL),
    ("INVALID_ADDRESS", CallResult::INVALID_ADDRESS),
    ("INVALID_FORMAT", CallResult::INVALID_FORMAT),
    ("INVALID_PARAMETER", CallResult::INVALID_PARAMETER),
    ("INVALID_REQUEST", CallResult::INVALID_REQUEST),
    ("BUSY", CallResult::BUSY),
    ("FAIL_INPUT", CallResult::FAIL_INPUT),
    ("FAIL_PERMISSION", CallResult::FAIL_PERMISSION),
    ("FAIL_INUSE", CallResult::FAIL_INUSE),
    ("FAIL_SIZEMISMATCH", CallResult::FAIL_SIZE_MISMATCH),
    ("no change", CallResult::NO_CHANGE),
    ("cannot register", CallResult::CANNOT_REGISTER),
    ("unexpected code", CallResult::UNEXPECTED),
];

#[test]
fn svsm_protocol() {
    let mut results = Codes::of(RESULTS, |result| result.0.into());
    let mut calls = Codes::of(CALLS, CallId::to_rax);
    let mut left = structures();
    let mut inputs: BTreeMap<String, usize> = BTreeMap::new();
    walk_by(5, "svsm_protocol", ELSEWHERE, |row| {
        let (name, item) = (row.get("name"), row.get("item"));
        let number = |column| parse(row.get(column)).ok_or_else(|| format!("no number in {column}"));
        let place = || Ok::<_, String>((number("location")?, number("size")?));
        match row.get("kind") {
            "protocol" => check_protocol(row),
            "convention" => check_convention(row),
            "discovery" => {
                let register = Msr::KNOWN.iter().find(|(name, _)| *name == "SVSM_CAA").ok_or("no register")?;
                expect(u64::from(register.1.0) == number("item")?, "another register")
            }
            "result" if name == "memory wanted" => check_memory_wanted(row),
            "result" if name == "protocol error" => check_protocol_error(row),
            "result" => results.check(name, number("location")?),
            "calling_area" => {
                let buffer = svsm::CALL_BUFFER;
                let found = match name {
                    "call_pending" => (svsm::CALL_PENDING, 1),
                    "mem_available" => (svsm::MEM_AVAILABLE, 1),
                    "reserved" => (3, buffer - 3),
                    "buffer" => (buffer, 0x1000 - buffer),
                    other => return Err(format!("unknown {other}")),
                };
                expect(found == place()?, "another place")
            }
            "call" => calls.check(name, CallId::new(number("protocol")? as u32, number("call")? as u32).to_rax()),
            "call_reg" => check_register(row, &mut inputs),
            "struct" => {
                check_field(&mut left, name, item, place()?)?;
                if (name, item) == ("DEPOSIT_MEM list", "entry[0]") {
                    check_deposited(row.get("meaning"))
                } else {
                    Ok(())
                }
            }
            "bits" => check_entry(item, row.get("location")),
            "limit" => check_limit(row),
            "manifest" => check_manifest(row, &mut left),
            "guid" => {
                expect(item == "vTPM", "another service")?;
                expect(row.get("meaning").contains(&format!("manifest version {}", attest::VTPM_MANIFEST)), "version")?;
                expect(attest::VTPM_SERVICE == guid(row.get("location"))?, "another GUID")
            }
            other => Err(format!("unknown kind {other}")),
        }
    });
    results.finish();
    calls.finish();
    left.retain(|_, places| !places.is_empty());
    assert!(left.is_empty(), "no row for {left:x?}");
    assert_eq!(offset_of!(ListHeader, next) as u64, NEXT);
}

fn check_protocol(row: &Row) -> Result<(), String> {
    let (number, version) = match row.get("name") {
        "core" => (svsm::CORE, Some(svsm::CORE_VERSION)),
        "attestation" => (svsm::ATTESTATION, Some(attest::VERSION)),
        "vTPM" => (svsm::VTPM, Some(vtpm::VERSION)),
        "APIC emulation" => (svsm::APIC, None),
        other => return Err(format!("unknown {other}")),
    };
    expect(u64::from(number) == row.number("protocol"), "another number")?;
    version.map_or(Ok(()), |version| expect(row.get("meaning").contains(&format!("version {version}")), "version"))
}

fn check_convention(row: &Row) -> Result<(), String> {
    match row.get("name") {
        "call id" => {
            expect(row.get("location") == "63:32 / 31:0", "other halves")?;
            let id = CallId::new(0x8765_4321, 0x0fed_cba9);
            expect(id.to_rax() == 0x8765_4321_0fed_cba9 && CallId::from_rax(id.to_rax()) == id, "another split")
        }
        "arguments" => expect(row.get("item") == "RCX, RDX, R8, R9", "other registers"),
        "result" => expect(CallResult::from_rax(u64::MAX << 32) == CallResult::SUCCESS, "the upper half counts"),
        "retry" => {
            let again = [CallResult::INCOMPLETE, CallResult::BUSY];
            let said = again.map(|result| row.get("meaning").contains(&format!("{:#x}", result.0)));
            expect(said == [true; 2] && again.iter().all(|result| result.is_again()), "other results")
        }
        "alignment" => {
            let misaligned = CallResult::from(ErrorKind::Misaligned).0;
            let faults = CallResult::from(ErrorKind::Inaccessible).0;
            let text = format!("misaligned address: {misaligned:#x}; address that faults: {faults:#x}");
            expect(row.get("meaning") == text, "other results")
        }
        other => Err(format!("unknown {other}")),
    }
}

fn check_memory_wanted(row: &Row) -> Result<(), String> {
    let (first, last) = row.get("location").split_once("..").ok_or("no range")?;
    let number = |text| parse(text).and_then(|number| u32::try_from(number).ok()).ok_or("no number");
    let (first, last) = (number(first)?, number(last)?);
    expect(CallResult::MEMORY_WANTED.0 == first, "another start")?;
    let wanted = |value| CallResult(value).pages_wanted();
    expect(wanted(first) == Some(0) && wanted(last) == Some(mask((29, 0)) as u32), "other bits")?;
    expect(wanted(first - 1).is_none() && wanted(last + 1).is_none(), "a wider range")
}

/// Core: the machine's own codes, of which those that the table names have names here.
fn check_protocol_error(row: &Row) -> Result<(), String> {
    let base = row.get("location").strip_suffix(" + n").and_then(parse).ok_or("no base")?;
    let of = |code: u64| CallResult((base + code) as u32);
    let named = [
        (1, CallResult::FAIL_INPUT),
        (2, CallResult::FAIL_PERMISSION),
        (3, CallResult::FAIL_INUSE),
        (6, CallResult::FAIL_SIZE_MISMATCH),
    ];
    expect(named.iter().all(|(code, result)| of(*code) == *result), "another base")
}

/// A register's place: the nth input of a call is the nth argument of the codec.
fn check_register(row: &Row, inputs: &mut BTreeMap<String, usize>) -> Result<(), String> {
    let (register, direction) = row.get("item").split_once(' ').ok_or("no direction")?;
    let regs = CallRegs::call(CallId::new(1, 2), 10, 20, 30);
    let place = match register {
        "RCX" => regs.rcx / 10,
        "RDX" => regs.rdx / 10,
        "R8" => regs.r8 / 10,
        other => return Err(format!("unknown {other}")),
    };
    if direction == "in" {
        let seen = inputs.entry(row.get("name").to_owned()).or_default();
        *seen += 1;
        expect(*seen as u64 == place, "another argument")?;
    }
    match (row.get("name"), row.get("item")) {
        ("QUERY_PROTOCOL", "RCX in") => {
            expect(row.get("meaning").starts_with("63:32 protocol, 31:0"), "other halves")?;
            expect(CallId::new(5, 1).to_rax() == 5 << 32 | 1, "another split")
        }
        ("CONFIGURE_VTOM", "RCX in") => {
            expect(row.get("meaning").starts_with("bit 0: 1 query") && svsm::VTOM_QUERY == 1, "another bit")
        }
        ("VTPM_QUERY", "RCX out") => {
            expect(row.get("meaning").ends_with(&format!("bit {} = send command", vtpm::SEND_COMMAND)), "another bit")
        }
        ("VTPM_CMD", "RCX in") => {
            expect(row.get("meaning").contains("one page") && vtpm::BUFFER == 0x1000, "another size")
        }
        ("ATTEST_SERVICES", "RCX in") => check_size::<ServicesRequest>(row),
        ("ATTEST_SINGLE_SERVICE", "RCX in") => check_size::<SingleRequest>(row),
        _ => Ok(()),
    }
}

fn check_size<T>(row: &Row) -> Result<(), String> {
    expect(row.get("meaning").ends_with(&format!("({:#x} bytes)", size_of::<T>())), "another size")
}

fn check_entry(item: &str, at: &str) -> Result<(), String> {
    let (high, low) = bits(at).ok_or("no bits")?;
    let entry = |size, action, ignore_cf| {
        let block = Block::new(PhysAddr::new(0x20_0000), size).expect("aligned");
        Entry { block, action, ignore_cf }.encode()
    };
    let plain = entry(PageSize::Small, Action::Rescind, false);
    let changed = match item {
        "page_size" => entry(PageSize::Large, Action::Rescind, false),
        "action" => entry(PageSize::Small, Action::Validate, false),
        "ignore_cf" => entry(PageSize::Small, Action::Rescind, true),
        "reserved" => {
            let refused = |bit: u32| Entry::decode(plain | 1 << bit) == Err(ErrorKind::InvalidArgument);
            return expect((low..=high).all(refused), "a bit is not refused");
        }
        "pfn" => return expect(plain & mask((high, low)) == 0x20_0000 && plain & !mask((high, low)) == 0, "elsewhere"),
        other => return Err(format!("unknown {other}")),
    };
    expect(changed ^ plain == 1 << low && mask((high, low)) >> low <= 3, "another bit")
}

fn check_deposited(meaning: &str) -> Result<(), String> {
    expect(meaning == "bits 1:0 size (0 4K, 1 2M), 11:2 reserved, 63:12 frame", "other bits")?;
    let block = |size| Block::new(PhysAddr::new(0x20_0000), size).expect("aligned");
    expect(encode_page(block(PageSize::Small)) == 0x20_0000, "4 KiB")?;
    expect(encode_page(block(PageSize::Large)) == 0x20_0001, "2 MiB")?;
    expect((2..12).all(|bit| decode_page(0x20_0000 | 1 << bit) == Err(ErrorKind::InvalidArgument)), "reserved")
}

fn check_limit(row: &Row) -> Result<(), String> {
    let at = match row.get("meaning").split(" (").next().unwrap_or_default() {
        "when placed in the calling-area buffer" => svsm::CALL_BUFFER,
        "when placed at the start of its own page" => {
            expect(MOST as u64 == row.number("size"), "another limit")?;
            0
        }
        other => return Err(format!("unknown {other}")),
    };
    let room = ListPlace::new(0x1000 + at).map(ListPlace::room);
    expect(room == Ok(row.number("size")), "another limit")
}

fn check_manifest(row: &Row, left: &mut BTreeMap<&str, Places>) -> Result<(), String> {
    let (item, location) = (row.get("item"), row.get("location"));
    match item.strip_prefix("entry[n].") {
        Some(field) => {
            let each = format!("+{}n", size_of::<ManifestEntry>());
            let first = location.strip_suffix(&each).and_then(parse).ok_or("another stride")?;
            let offset = first.checked_sub(size_of::<ManifestHeader>() as u64).ok_or("inside the head")?;
            check_field(left, "services manifest entry[n]", field, (offset, row.number("size")))
        }
        None => {
            if item == "guid" {
                let text = row.get("meaning").split(' ').next().unwrap_or_default();
                expect(attest::MANIFEST == guid(text)?, "another GUID")?;
            }
            check_field(left, row.get("name"), item, (row.number("location"), row.number("size")))
        }
    }
}

/// The GUID that a text such as `63849ebb-3d92-4670-a1ff-58f9c94b87bb` means.
fn guid(text: &str) -> Result<attest::Guid, String> {
    let number = |text: &str| u64::from_str_radix(text, 16).map_err(|error| error.to_string());
    let parts = text.split('-').map(number).collect::<Result<Vec<_>, _>>()?;
    let [a, b, c, d, e] = parts[..] else { return Err(format!("no GUID: {text}")) };
    Ok(attest::Guid::new(a as u32, b as u16, c as u16, (d << 48 | e).to_be_bytes()))
}
