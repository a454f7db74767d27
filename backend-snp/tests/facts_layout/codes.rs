//! Every code of `abi`.

use backend_snp::abi::ap::{ApCreation, ApCreationInfo, ApRequest};
use backend_snp::abi::certificates::CertGuid;
use backend_snp::abi::exit_codes::ExitCode;
use backend_snp::abi::firmware_status::{FirmwareStatus, VmmError};
use backend_snp::abi::guest_messages::{GuestFieldSelect, KeySelect, RootKeySelect};
use backend_snp::abi::guest_request::{AeadAlgorithm, MessageType};
use backend_snp::abi::layout::BitLayout;
use backend_snp::abi::nae::{HvFeatures, IoioInfo, NaeCode, NaeError, NaeStatus};
use backend_snp::abi::page::PageSize;
use backend_snp::abi::psc::{PscError, PscOperation};
use backend_snp::abi::report::{SignatureAlgorithm, SigningKey};
use backend_snp::abi::rmp::{RmpAttributes, VmplPermissions};
use backend_snp::abi::sev_features::{Msr, SevFeatures, SevStatus};
use backend_snp::abi::vmpl::Vmpl;
use x86_64::PhysAddr;
use x86_64::structures::paging::PhysFrame;

use crate::compare::{Bits, Codes};
use crate::table::{Informative, bits, expect, parse, table, walk};

const RULE: (&str, &str) = ("rule", "what the code above has to do");

#[test]
fn ghcb_events() {
    const INFORMATIVE: Informative =
        &[RULE, ("doorbell/", "the doorbell page is not used: events reach a level through its VMSA")];
    let mut events = Codes::of(NaeCode::KNOWN, |code| code.0);
    let mut ioio = Bits::of::<IoioInfo>();
    let mut status = Codes::of(NaeStatus::KNOWN, |code| code.0.into());
    let mut errors = Codes::of(NaeError::KNOWN, |code| code.0);
    let mut features = Bits::of_flags::<HvFeatures>();
    walk("ghcb_nae", INFORMATIVE, |row| {
        let meaning = row.get("exitinfo1_or_meaning");
        match row.get("kind") {
            "event" => events.check(row.get("name"), row.number("code")),
            "ioio" => {
                expect(row.number("code") == NaeCode::IOIO.0, "another event")?;
                let name = match meaning.split(" (").next().unwrap_or_default() {
                    "1 = IN, 0 = OUT" => "is_in",
                    "string instruction" => "is_string",
                    "REP prefix" => "is_rep",
                    "8-bit operand" => "size_8",
                    "16-bit operand" => "size_16",
                    "32-bit operand" => "size_32",
                    "16-bit address" => "address_16",
                    "32-bit address" => "address_32",
                    "64-bit address" => "address_64",
                    "port" => "port",
                    other if other.starts_with("segment:") => "segment",
                    other => return Err(format!("unknown {other}")),
                };
                let at = row.get("name").strip_prefix("SW_EXITINFO1 bit ").ok_or("no bits")?;
                ioio.check(name, at)
            }
            "status" => {
                let name = match meaning {
                    "success" => "SUCCESS",
                    "guest must raise an exception" => "EXCEPTION",
                    "malformed request" => "MALFORMED",
                    other => return Err(format!("unknown {other}")),
                };
                status.check(name, row.number("code"))
            }
            "error" => errors.check(meaning, row.number("code")),
            "hv_feature" => features.check(row.get("name"), row.get("code")),
            kind => Err(format!("unknown kind {kind}")),
        }
    });
    events.finish();
    ioio.finish();
    status.finish();
    errors.finish();
    features.finish();
}

#[test]
fn psc_codes() {
    let mut errors = Codes::of(PscError::KNOWN, |code| code.0);
    let mut operations = Codes::of(PscOperation::KNOWN, |code| code.0.into());
    for row in table("psc") {
        match (row.get("kind"), row.get("field")) {
            ("error", _) => {
                errors.check(row.get("meaning"), row.number("bits_or_value")).expect("an error");
            }
            ("entry_bits", "operation") => {
                let text = row.get("meaning").replace(" (psmash)", "").replace(" (unsmash)", "");
                check_list(&mut operations, &text);
            }
            ("entry_bits", "pagesize") => assert_eq!(row.get("meaning"), "0 = 4K, 1 = 2M"),
            _ => {}
        }
    }
    errors.finish();
    operations.finish();
    assert_eq!((PageSize::Size4KiB.number(), PageSize::Size2MiB.number()), (0, 1));
}

#[test]
fn ap_creation() {
    const INFORMATIVE: Informative =
        &[RULE, ("response/", "status and error numbers of every event, compared in ghcb_events")];
    let features = SevFeatures::from_bits_retain(u64::MAX);
    let all = |request| ApCreation { request, vmpl: Vmpl::VMPL3, apic_id: u32::MAX, vmsa: highest_frame() };
    let mut info = Bits::of::<ApCreationInfo>();
    walk("ap_creation", INFORMATIVE, |row| match (row.get("register"), row.get("bits"), row.get("value")) {
        ("SW_EXITCODE", "63:0", value) => expect(parse(value) == Some(NaeCode::AP_CREATION.0), "another event"),
        ("SW_EXITINFO1", at @ "15:0", value) => {
            let request = match value {
                "0" => ApRequest::CreateOnInit { features },
                "1" => ApRequest::Create { features },
                "2" => ApRequest::Destroy,
                other => return Err(format!("unknown request {other}")),
            };
            let (start, number) = (row.get("meaning"), all(request).exit_info_1().request());
            let named = match request {
                ApRequest::CreateOnInit { .. } => start.starts_with("create on next INIT"),
                ApRequest::Create { .. } => start.starts_with("create and run now"),
                ApRequest::Destroy => start.starts_with("destroy"),
            };
            expect(named && parse(value) == Some(number), "another request")?;
            info.check("request", at)
        }
        ("SW_EXITINFO1", at, "VMPL") => info.check("vmpl", at),
        ("SW_EXITINFO1", at, "0") => info.check_reserved(at),
        ("SW_EXITINFO1", at, "APIC ID") => info.check("apic_id", at),
        ("SW_EXITINFO2", "63:0", "VMSA GPA") => {
            expect(all(ApRequest::Destroy).exit_info_2() == highest_frame().start_address().as_u64(), "another address")
        }
        ("RAX", "63:0", "SEV_FEATURES") => {
            let rax = |request| all(request).rax();
            expect(rax(ApRequest::Create { features }) == Some(u64::MAX), "other features")?;
            expect(rax(ApRequest::CreateOnInit { features }) == Some(u64::MAX), "other features")?;
            expect(rax(ApRequest::Destroy).is_none(), "features without need")
        }
        (register, at, _) => Err(format!("unknown {register} {at}")),
    });
    info.finish();
}

#[test]
fn vmpl_permissions() {
    const INFORMATIVE: Informative = &[
        ("rmp_initial/", "what the machine does when the host assigns a page"),
        ("launch/", "for whoever measures a launch"),
    ];
    let mut permissions = Bits::of_flags::<VmplPermissions>();
    let mut attributes = Bits::of::<RmpAttributes>();
    let (mask_high, mask_low) = RmpAttributes::FIELDS
        .iter()
        .find(|field| field.name == "permission_bits")
        .map(|field| (field.high, field.low))
        .expect("permission_bits");
    walk("vmpl_perms", INFORMATIVE, |row| match row.get("field") {
        "perm_mask" if row.get("name") == "reserved" => {
            let (high, low) = bits(row.get("bits")).ok_or("no bits")?;
            expect((mask_low..=mask_high).contains(&low) && high == mask_high, "not in the mask")?;
            permissions.check_reserved(&format!("{}:{}", high - mask_low, low - mask_low))
        }
        "perm_mask" => {
            let bit = row.number("bits") - u64::from(mask_low);
            expect(row.number("value") == 1 << bit, "value and bit differ in the table")?;
            permissions.check(row.get("name"), &bit.to_string())
        }
        "target_vmpl" => attributes.check("target_number", row.get("bits")),
        "vmsa" => {
            let with = RmpAttributes::default().with_vmsa().bits();
            expect(with == row.number("value"), "another bit")?;
            attributes.check("vmsa_bit", row.get("bits"))
        }
        "reserved" => {
            expect(row.get("value") == "0", "not zero")?;
            attributes.check_reserved(row.get("bits"))
        }
        "preset" => {
            let name = row.get("name");
            let made = match name {
                "none" => RmpAttributes::default(),
                "VMPL0 probe" => RmpAttributes::new(Vmpl::VMPL1, VmplPermissions::empty()),
                other => return Err(format!("unknown preset {other}")),
            };
            expect(made.bits() == row.number("value"), "another value")
        }
        "count" => expect(row.get("value").starts_with(&Vmpl::ALL.len().to_string()), "another number of levels"),
        field => Err(format!("unknown field {field}")),
    });
    permissions.finish();
    attributes.check("permission_bits", "15:8").expect("the mask");
    attributes.finish();
}

#[test]
fn sev_features() {
    const INFORMATIVE: Informative = &[
        RULE,
        ("VMSA.SEV_FEATURES/63/", "enables a mask in the host's own structure; never set by a guest"),
        ("MSR 0xC0010132/", "for hosts"),
        ("MSR 0xC0010133/", "for hosts"),
        ("MSR 0xC0010136/", "for hosts"),
        ("MSR 0xC001011E/", "for hosts"),
        ("MSR 0xC001F001/", "for nested hosts"),
        ("MSR 0xC001F002/", "for nested hosts"),
        ("MSR 0xC0010010/", "for hosts"),
    ];
    let mut features = Bits::of_flags::<SevFeatures>();
    let mut status = Bits::of_flags::<SevStatus>();
    let mut registers = Codes::of(Msr::KNOWN, |number| number.0.into());
    registers.check("SEV_STATUS", 0xc001_0131).expect("SEV_STATUS");
    walk("sev_features", INFORMATIVE, |row| {
        let name = row.get("name");
        match (row.get("register"), name) {
            ("VMSA.SEV_FEATURES", "reserved") => features.check_reserved(row.get("bit")),
            ("VMSA.SEV_FEATURES", _) => features.check(name, row.get("bit")),
            ("SEV_STATUS MSR 0xC0010131", "reserved") => status.check_reserved(row.get("bit")),
            ("SEV_STATUS MSR 0xC0010131", _) => {
                status.check(name.strip_suffix("_Active").unwrap_or(name), row.get("bit"))
            }
            (register, _) => {
                let hex = register.strip_prefix("MSR 0x").ok_or("no register")?;
                registers.check(name, u64::from_str_radix(hex, 16).map_err(|error| error.to_string())?)
            }
        }
    });
    features.finish();
    status.finish();
    registers.finish();
    let on = SevFeatures::SNP_ACTIVE | SevFeatures::VMPL_SSS;
    assert_eq!(SevStatus::from_bits_retain(on.bits() << 2 | 3).features(), on);
}

#[test]
fn exit_codes() {
    let mut codes = Codes::of(ExitCode::KNOWN, |code| code.0);
    walk("vc_exit_codes", &[], |row| {
        let (name, code) = (row.get("name"), row.get("code").to_ascii_lowercase());
        let (first, last) = code.split_once("..").unwrap_or((&code, &code));
        let (first, last) = (parse(first).ok_or("no code")?, parse(last).ok_or("no code")?);
        match name {
            "CRn read" => codes.check("CR_READ", first),
            "CRn write" => codes.check("CR_WRITE", first),
            "DRn read/write" => {
                codes.check("DR_READ", first)?;
                codes.check("DR_WRITE", first + 0x10)?;
                expect(last == first + 0x1f, "another range")
            }
            "CRn write trap" => codes.check("CR_WRITE_TRAP", first),
            _ => codes.check(name, first),
        }
    });
    codes.finish();
}

#[test]
fn message_types_and_statuses() {
    let mut types = Codes::of(MessageType::KNOWN, |code| code.0.into());
    let mut firmware = Codes::of(FirmwareStatus::KNOWN, |code| code.0.into());
    let mut host = Codes::of(VmmError::KNOWN, |code| code.0.into());
    host.check("SUCCESS", 0).expect("zero is no error of the host");
    for row in table("guest_request") {
        let check = |codes: &mut Codes| codes.check(row.get("field"), row.number("offset_or_value")).expect("a code");
        match row.get("kind") {
            "type" => check(&mut types),
            "fw_status" => check(&mut firmware),
            "vmm_error" => check(&mut host),
            _ => {}
        }
    }
    types.finish();
    firmware.finish();
    host.finish();
    for (request, answer) in MessageType::KNOWN.iter().zip(&MessageType::KNOWN[1..]).step_by(2) {
        assert_eq!(request.1.0 + 1, answer.1.0, "{} {}", request.0, answer.0);
    }
}

/// Compares a cell such as `0 VCEK, 1 VLEK, 7 none`.
fn check_list(codes: &mut Codes, text: &str) {
    for part in text.split(", ") {
        let (value, name) = part.split_once(' ').expect("value and name");
        codes.check(name, value.parse().expect("number")).expect("a code");
    }
}

#[test]
fn choices_of_keys_and_algorithms() {
    let cell = |name: &str, kind: &str, field: &str| {
        let row = table(name).into_iter().find(|row| row.get("kind") == kind && row.get("field") == field);
        row.expect("a row").get("meaning").to_owned()
    };
    let mut signing = Codes::of(SigningKey::KNOWN, |key| key.0.into());
    check_list(&mut signing, &cell("attestation_report", "bits", "key_info.signing_key"));
    signing.finish();
    let mut select = Codes::of(KeySelect::KNOWN, |key| key.0.into());
    let text = cell("guest_request", "report_req", "key_sel");
    let text = text.strip_prefix("bits 1:0: ").expect("two bits").replace("VLEK if loaded else VCEK", "any");
    check_list(&mut select, &text);
    select.finish();
    let mut root = Bits::of::<RootKeySelect>();
    assert_eq!(
        cell("guest_request", "key_req", "root_key_select"),
        "bit 0: 0 VCEK/VLEK root, 1 VMRK; bits 2:1 key selection as above"
    );
    root.check("root_key", "0").expect("root key");
    root.check("key_sel", "2:1").expect("selection");
    root.finish();
    let mut mixed = Bits::of_flags::<GuestFieldSelect>();
    for part in cell("guest_request", "key_req", "guest_field_select").trim_start_matches("bit ").split(", ") {
        let (bit, name) = part.split_once(' ').expect("bit and name");
        mixed.check(name, bit).expect("a value to mix in");
    }
    mixed.finish();
    assert_eq!(cell("attestation_report", "field", "signature_algo"), "1 = ECDSA P-384 with SHA-384");
    assert_eq!(SignatureAlgorithm::ECDSA_P384_SHA384.0, 1);
    assert_eq!(cell("guest_request", "header", "algo"), "1 = AES-256-GCM");
    assert_eq!(AeadAlgorithm::AES_256_GCM.0, 1);
}

#[test]
fn certificate_kinds() {
    let mut found = 0;
    for row in table("attestation_report").iter().filter(|row| row.get("kind") == "cert_guid") {
        let known = CertGuid::KNOWN.iter().find(|(name, _)| *name == row.get("field")).expect("a kind");
        let text: String = known.1.0.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(row.get("meaning").replace('-', ""), text);
        found += 1;
    }
    assert_eq!(found, CertGuid::KNOWN.len());
}

fn highest_frame() -> PhysFrame {
    PhysFrame::containing_address(PhysAddr::new(0xf_ffff_ffff_f000))
}
