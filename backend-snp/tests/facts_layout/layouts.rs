//! Every structure of `abi`, field by field.

use backend_snp::abi::certificates::CertTableEntry;
use backend_snp::abi::cpuid::{self, CpuidEntry, CpuidPage};
use backend_snp::abi::ghcb::{Ghcb, ValidBit};
use backend_snp::abi::guest_messages::{
    KeyRequest, KeyResponse, ReportRequest, ReportResponse, TscInfoRequest, TscInfoResponse,
};
use backend_snp::abi::guest_request::{GuestMessage, MessageHeader};
use backend_snp::abi::layout::Layout;
use backend_snp::abi::psc::{self, PscDescriptor, PscEntry, PscHeader};
use backend_snp::abi::report::{AttestationReport, GuestPolicy, KeyInfo, PlatformInfo, Signature, TcbMilan, TcbTurin};
use backend_snp::abi::secrets::SecretsPage;
use backend_snp::abi::segment::{Segment, SegmentAttributes};
use backend_snp::abi::vmsa::Vmsa;
use backend_snp::abi::vmsa_control::{EventInj, EventType, VintrCtrl};

use crate::compare::{Bits, Codes, Fields};
use crate::table::{Informative, expect, plain, table, walk};

#[test]
fn vmsa() {
    let mut vmsa = Fields::of::<Vmsa>();
    let mut attributes = Bits::of::<SegmentAttributes>();
    let mut vintr = Bits::of::<VintrCtrl>();
    let mut inject = Bits::of::<EventInj>();
    let mut types = Codes::of(EventType::KNOWN, |code| code.0.into());
    walk("vmsa", &[], |row| match (row.get("kind"), row.get("field")) {
        ("field", field) => vmsa.check(field, row.number("offset"), row.number("size")),
        ("bits", "segment.attributes") => row.get("meaning").split(", ").try_for_each(|part| {
            let (at, name) = part.split_once(' ').expect("bits and name");
            attributes.check(if name == "type" { "descriptor_type" } else { name }, at)
        }),
        ("bits", "event_inj.type") => {
            inject.check("event_type", row.get("bits"))?;
            row.get("meaning").split(", ").try_for_each(|part| {
                let (value, name) = part.split_once(' ').expect("value and name");
                types.check(name, value.parse().expect("number"))
            })
        }
        ("bits", field) => match field.split_once('.') {
            Some(("vintr_ctrl", name)) => vintr.check(name, row.get("bits")),
            Some(("event_inj", name)) => inject.check(name, row.get("bits")),
            _ => Err("bits of no type".to_owned()),
        },
        (kind, _) => Err(format!("unknown kind {kind}")),
    });
    vmsa.finish();
    attributes.finish();
    vintr.finish();
    inject.finish();
    types.finish();
}

#[test]
fn vmsa_segments_have_the_listed_parts() {
    let row = table("vmsa").into_iter().find(|row| row.get("field") == "es").expect("es");
    assert_eq!(row.get("meaning"), "segment: selector u16, attributes u16, limit u32, base u64");
    let parts: Vec<_> = Segment::FIELDS.iter().map(|field| (field.name, field.size)).collect();
    assert_eq!(parts, [("selector", 2), ("attributes", 2), ("limit", 4), ("base", 8)]);
}

#[test]
fn vmsa_control_bits_hold_their_values() {
    let event = EventInj::default().with_vector(0x1c).with_event_type(EventType::EXCEPTION.0.into()).with_valid(1);
    assert_eq!(event.bits(), 0x8000_031c);
    assert_eq!(VintrCtrl::default().with_busy(1).with_v_intr_vector(0x1ff).bits(), 0x8000_00ff_0000_0000);
    assert_eq!(VintrCtrl::RESERVED.count_ones() + 8 + 1 + 1 + 1 + 1 + 1 + 4 + 1 + 1 + 8 + 1, 64);
    // 0x1000 in the column of start values is the bit without which nothing runs.
    let row = table("vmsa").into_iter().find(|row| row.get("field") == "efer").expect("efer");
    assert_eq!(row.number("snp_ap_init_value"), Vmsa::EFER_SVME);
    assert!(row.get("meaning").contains("bit 12 (SVME)"));
}

#[test]
fn ghcb_page() {
    let mut ghcb = Fields::of::<Ghcb>();
    let mut valid = Codes::of(ValidBit::KNOWN, |bit| bit.0.into());
    walk("ghcb_page", &[], |row| {
        ghcb.check(row.get("field"), row.number("offset"), row.number("size"))?;
        if row.get("valid_bit").is_empty() {
            return Ok(());
        }
        let bit = row.number("valid_bit");
        expect(bit == row.number("offset") / 8, "the valid bit is not the offset in words")?;
        valid.check(row.get("field"), bit)
    });
    ghcb.finish();
    valid.finish();
}

#[test]
fn psc() {
    const INFORMATIVE: Informative = &[
        ("rule/", "what the code above has to do"),
        ("limit/MSR form", "a property of the MSR protocol, whose encoder takes one frame"),
        ("error/", "codes, compared in codes"),
    ];
    let mut header = Fields::of::<PscHeader>();
    let mut entry = Bits::of::<PscEntry>();
    walk("psc", INFORMATIVE, |row| match (row.get("kind"), row.get("field")) {
        ("header", field) => {
            let bits = format!("{}:0", 8 * row.number("size") - 1);
            expect(row.get("bits_or_value") == bits, "bits and size differ in the table")?;
            header.check(field, row.number("offset"), row.number("size"))
        }
        ("entry", "entry[n]") => {
            let [_, entries] = PscDescriptor::FIELDS else { return Err("not two fields".to_owned()) };
            expect(row.get("offset") == "0x8+8*n" && entries.offset == 8, "entries do not start at 8")?;
            expect(row.number("size") == 8 && entries.size == 8 * psc::MAX_ENTRIES, "entries are not 8 bytes")
        }
        ("entry_bits", "reserved") => entry.check_reserved(row.get("bits_or_value")),
        ("entry_bits", "operation") => entry.check("operation_bits", row.get("bits_or_value")),
        ("entry_bits", "pagesize") => entry.check("page_size_bit", row.get("bits_or_value")),
        ("entry_bits", field) => entry.check(field, row.get("bits_or_value")),
        ("limit", "max entries") => {
            expect(row.number("bits_or_value") == psc::MAX_ENTRIES as u64, "another number of entries")
        }
        (kind, field) => Err(format!("unknown {kind} {field}")),
    });
    header.finish();
    entry.finish();
    let buffer = Ghcb::FIELDS.iter().find(|field| field.name == "shared_buffer").expect("shared_buffer");
    assert_eq!(buffer.size, size_of::<PscDescriptor>());
}

#[test]
fn secrets_page() {
    let mut page = Fields::of::<SecretsPage>();
    walk("secrets_page", &[("rule/", "what the code above has to do")], |row| {
        page.check(row.get("field"), row.number("offset"), row.number("size"))
    });
    page.finish();
}

#[test]
fn cpuid_page() {
    let mut page = Fields::of::<CpuidPage>();
    let mut entry = Fields::of::<CpuidEntry>();
    walk("cpuid_page", &[("rule/", "behaviour of look-ups, tested in the module")], |row| {
        match (row.get("kind"), row.get("field")) {
            ("header", "entry[0]") => {
                let all = row.number("size") * cpuid::MAX_ENTRIES as u64;
                expect(row.get("meaning").starts_with("64 entries of 48 bytes"), "another number of entries")?;
                page.check("entries", row.number("offset"), all)
            }
            ("header", field) => page.check(field, row.number("offset"), row.number("size")),
            ("entry", field) => entry.check(field, row.number("offset"), row.number("size")),
            (kind, _) => Err(format!("unknown kind {kind}")),
        }
    });
    page.finish();
    entry.finish();
}

#[test]
fn guest_messages() {
    const INFORMATIVE: Informative = &[
        ("rule/", "what the code above has to do"),
        ("type/", "codes, compared in codes"),
        ("vmm_error/", "codes, compared in codes"),
        ("fw_status/", "codes, compared in codes"),
    ];
    let mut header = Fields::of::<MessageHeader>();
    let mut message = Fields::of::<GuestMessage>();
    let mut payloads = [
        ("report_req", Fields::of::<ReportRequest>()),
        ("report_rsp", Fields::of::<ReportResponse>()),
        ("key_req", Fields::of::<KeyRequest>()),
        ("key_rsp", Fields::of::<KeyResponse>()),
        ("tsc_info_req", Fields::of::<TscInfoRequest>()),
        ("tsc_info_rsp", Fields::of::<TscInfoResponse>()),
    ];
    walk("guest_request", INFORMATIVE, |row| match (row.get("kind"), row.get("field")) {
        ("header", "payload") => {
            message.check("header", 0, MessageHeader::SIZE.into())?;
            message.check("payload", row.number("offset_or_value"), row.number("size"))
        }
        ("header", field) => {
            let number = |text: &str| row.get("meaning") == text;
            match field {
                "hdr_size" => expect(number("0x60") && MessageHeader::SIZE == 0x60, "another head size")?,
                "hdr_version" => expect(number("1") && MessageHeader::VERSION == 1, "another head version")?,
                _ => {}
            }
            header.check(field, row.number("offset_or_value"), row.number("size"))
        }
        ("aead", "algorithm") => {
            let row_says = row.get("meaning") == "AES-256-GCM with 16 byte tag, key = VMPCK (32 bytes)";
            expect(row_says && MessageHeader::TAG_LEN == 16, "another algorithm")
        }
        ("aead", "iv") => expect(row.number("size") == zeroed_header().iv().len() as u64, "another length of the IV"),
        ("aead", "aad") => {
            expect(row.number("size") == zeroed_header().additional_data().len() as u64, "another size")?;
            let range = format!("{:#x}..{:#x}", 0x60 - zeroed_header().additional_data().len(), 0x5f);
            expect(row.get("offset_or_value") == range, "other additional data")
        }
        ("aead", "not covered") => {
            expect(row.get("offset_or_value") == "0x00..0x2f" && row.number("size") == 0x30, "another start")
        }
        (kind, field) => match payloads.iter_mut().find(|(name, _)| *name == kind) {
            Some((_, fields)) => fields.check(field, row.number("offset_or_value"), row.number("size")),
            None => Err(format!("unknown kind {kind}")),
        },
    });
    header.finish();
    message.finish();
    for (_, fields) in payloads {
        fields.finish();
    }
}

#[test]
fn attestation_report() {
    const INFORMATIVE: Informative = &[
        ("product/", "which processor is which product, for verifiers"),
        ("rule/", "advice for verifiers"),
        ("cert_guid/", "codes, compared in codes"),
    ];
    let mut report = Fields::of::<AttestationReport>();
    let mut signature = Fields::of::<Signature>();
    let mut milan = Fields::of::<TcbMilan>();
    let mut turin = Fields::of::<TcbTurin>();
    let mut policy = Bits::of::<GuestPolicy>();
    let mut platform = Bits::of_flags::<PlatformInfo>();
    let mut keys = Bits::of::<KeyInfo>();
    let signature_at = AttestationReport::FIELDS.last().expect("signature").offset as u64;
    walk("attestation_report", INFORMATIVE, |row| {
        let at = row.get("offset_or_bits");
        match (row.get("kind"), row.get("field").split_once('.')) {
            ("field", None) => report.check(row.get("field"), row.number("offset_or_bits"), row.number("size")),
            ("bits", Some(("policy", name))) => policy.check(name, at),
            ("bits", Some(("platform_info", name))) => platform.check(name, at),
            ("bits", Some(("key_info", name))) => keys.check(name, at),
            ("sub", Some(("signature", name))) => {
                signature.check(name, row.number("offset_or_bits") - signature_at, row.number("size"))
            }
            ("tcb_byte", Some((product, name))) => {
                // A range of bytes is one reserved field; the size of the row is that of one byte.
                expect(row.number("size") == 1, "no byte")?;
                let (first, last) = at.split_once("..").unwrap_or((at, at));
                let (first, last): (u64, u64) = (first.parse().expect("byte"), last.parse().expect("byte"));
                let fields = if plain(product) == "TCB" && product.contains("Milan") { &mut milan } else { &mut turin };
                fields.check(name, first, last - first + 1)
            }
            ("cert_table", None) => {
                let parts: Vec<_> = CertTableEntry::FIELDS.iter().map(|field| (field.name, field.size)).collect();
                expect(parts == [("guid", 16), ("offset", 4), ("length", 4)], "other fields")?;
                expect(row.get("meaning").starts_with("GUID 16 bytes, offset u32 LE, length u32 LE;"), "other text")?;
                expect(row.number("size") == size_of::<CertTableEntry>() as u64, "another size")
            }
            (kind, _) => Err(format!("unknown kind {kind}")),
        }
    });
    report.finish();
    signature.finish();
    milan.finish();
    turin.finish();
    policy.finish();
    platform.finish();
    keys.finish();
}

fn zeroed_header() -> MessageHeader {
    zerocopy::FromZeros::new_zeroed()
}
