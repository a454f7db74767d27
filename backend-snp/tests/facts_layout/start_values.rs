//! What a VMSA holds when its vCPU begins: column `snp_ap_init_value` of table `vmsa`.

use backend_snp::abi::sev_features::SevFeatures;
use backend_snp::abi::vmpl::Vmpl;
use backend_snp::abi::vmsa::Vmsa;
use backend_snp::vmsa_image;
use coco_part_api::Context;
use zerocopy::IntoBytes;

use crate::table::{Row, expect, parse, walk};

/// The page at which the tests' processors begin.
const VECTOR: u8 = 0x9a;
/// CR4.MCE.
const MCE: u64 = 1 << 6;
const FEATURES: SevFeatures = SevFeatures::SNP_ACTIVE.union(SevFeatures::DEBUG_VIRTUALIZATION);

/// The bytes of a row's field.
fn field<'a>(vmsa: &'a Vmsa, row: &Row) -> &'a [u8] {
    let (at, size) = (row.number("offset") as usize, row.number("size") as usize);
    &vmsa.as_bytes()[at..at + size]
}

fn number(vmsa: &Vmsa, row: &Row) -> u64 {
    let bytes = field(vmsa, row);
    let mut word = [0; 8];
    word[..bytes.len()].copy_from_slice(bytes);
    u64::from_le_bytes(word)
}

/// A segment from text such as `sel 0 attr 0x92 limit 0xffff base 0`; what is not named is zero.
fn segment(text: &str) -> Vec<u8> {
    let words: Vec<&str> = text.split([' ', ',']).filter(|word| !word.is_empty()).collect();
    let part = |name: &str| {
        let value = words.iter().zip(words.iter().skip(1)).find(|(word, _)| **word == name).map(|(_, value)| *value);
        match value {
            None => 0,
            Some("SIPI<<8") => u64::from(VECTOR) << 8,
            Some("SIPI<<12") => u64::from(VECTOR) << 12,
            Some(value) => parse(value).expect("a number"),
        }
    };
    let mut bytes = Vec::new();
    bytes.extend_from_slice(&(part("sel") as u16).to_le_bytes());
    bytes.extend_from_slice(&(part("attr") as u16).to_le_bytes());
    bytes.extend_from_slice(&(part("limit") as u32).to_le_bytes());
    bytes.extend_from_slice(&part("base").to_le_bytes());
    bytes
}

/// Every field of the table in a VMSA for a startup IPI, the reserved ones included.
#[test]
fn a_started_processor_has_the_listed_value_in_every_field() {
    let vmsa = vmsa_image::startup(VECTOR, u64::MAX, Vmpl::VMPL2, FEATURES);
    let without = vmsa_image::startup(VECTOR, !MCE, Vmpl::VMPL2, FEATURES);
    walk("vmsa", &[("bits/", "parts of fields, compared with the layout")], |row| {
        let text = row.get("snp_ap_init_value");
        let is_segment = row.get("meaning").starts_with("segment") || row.get("meaning").starts_with("descriptor");
        match row.get("field") {
            // What the text says in words.
            "cr4" => expect((number(&vmsa, row), number(&without, row)) == (MCE, 0), "another CR4"),
            "vmpl" => expect(number(&vmsa, row) == 2, "another level"),
            "sev_features" => expect(number(&vmsa, row) == FEATURES.bits(), "other features"),
            "guest_tsc_scale" | "guest_tsc_offset" => {
                expect(text == "from TSC info message" && number(&vmsa, row) == 0, "not left to the caller")
            }
            "rdx" => expect(text.starts_with("0 for INIT") && number(&vmsa, row) == 0, "not zero"),
            "rip" => expect(text.starts_with("SIPI entry: 0 ") && number(&vmsa, row) == 0, "not zero"),
            _ if is_segment => {
                let text = text.split(" (").next().unwrap_or_default();
                expect(field(&vmsa, row) == segment(text), "another segment")
            }
            _ if text == "0" => expect(field(&vmsa, row).iter().all(|byte| *byte == 0), "not zero"),
            _ => expect(Some(number(&vmsa, row)) == parse(text), "another value"),
        }
    });
}

#[test]
fn a_processor_at_reset_differs_in_code_segment_entry_and_signature_alone() {
    const SIGNATURE: u32 = 0x00a0_0f11;
    let reset = Context::reset(SIGNATURE);
    let vmsa = vmsa_image::image(&reset, Vmpl::VMPL0, FEATURES);
    let (mut names, mut code) = (Vec::new(), Vec::new());
    let other = vmsa_image::startup(VECTOR, 0, Vmpl::VMPL0, FEATURES);
    walk("vmsa", &[("bits/", "parts of fields, compared with the layout")], |row| {
        if field(&vmsa, row) != field(&other, row) {
            names.push(row.get("field").to_owned());
        }
        match row.get("field") {
            "cs" => {
                let text = row.get("snp_ap_init_value");
                let text = text.split("reset: ").nth(1).ok_or("no reset value")?.trim_end_matches(')');
                // The limit stands in the part before.
                code = segment(&format!("{text} limit 0xffff"));
                expect(field(&vmsa, row) == code, "another code segment")
            }
            "rip" => {
                let text = row.get("snp_ap_init_value").split("reset: ").nth(1).ok_or("no reset value")?;
                expect(Some(number(&vmsa, row)) == parse(text), "another entry")
            }
            "rdx" => expect(number(&vmsa, row) == u64::from(SIGNATURE), "no signature"),
            _ => Ok(()),
        }
    });
    assert_eq!(names, ["cs", "rip", "rdx"]);
}
