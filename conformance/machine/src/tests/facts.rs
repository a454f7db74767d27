//! Numbers of the processor, compared row by row with the fact tables.

use super::*;
use crate::exec::rmp_ops::RDX_VMSA;
use crate::facts::{Row, bits_of, finish, number, take};
use crate::vmsa::{self, features};
use crate::{exit_code, msr, rmp};

/// The rows of a table whose first column says this.
macro_rules! rows {
    ($table:literal, $column:literal, $kind:literal) => {
        crate::facts::table!("backend-snp", $table).into_iter().filter(|row: &Row| row.get($column) == $kind)
    };
}

#[test]
fn rights_and_operands_of_rmpadjust_are_those_of_the_table() {
    let mut known = rmp::perm::LISTED.to_vec();
    for row in rows!("vmpl_perms", "field", "perm_mask").filter(|row| row.get("name") != "reserved") {
        let name = match row.get("name") {
            "Read" => "READ",
            "Write" => "WRITE",
            "ExecuteUser" => "EXECUTE_USER",
            "ExecuteSupervisor" => "EXECUTE_SUPERVISOR",
            "SupervisorShadowStack" => "SHADOW_STACK",
            other => panic!("unknown {other}"),
        };
        let value = take(&mut known, name).expect("listed");
        assert_eq!(value, row.number("value"), "{name}");
        // In RDX the mask begins at bit 8.
        assert_eq!(bits_of(value << 8, row.get("bits")), 1, "{name}");
    }
    finish(&known);
    let all = rmp::perm::LISTED.iter().fold(0, |all, (_, right)| all | right);
    assert_eq!(all, rmp::perm::ALL);
    for row in rows!("vmpl_perms", "field", "vmsa") {
        assert_eq!(bits_of(RDX_VMSA, row.get("bits")), row.number("value") >> 16);
    }
}

#[test]
fn return_codes_are_those_of_the_table() {
    let mut known = rmp::code::LISTED.to_vec();
    for row in rows!("instructions", "kind", "return_code") {
        let (value, meaning) = (row.get("value"), row.get("meaning"));
        if let Some((code, name)) = value.split_once(' ') {
            let expected = rmp::code::LISTED.iter().find(|(known, _)| *known == name).expect("listed");
            assert_eq!(number(code), Some(expected.1.into()), "{name}");
            known.retain(|(other, _)| *other != name);
            continue;
        }
        // Codes of the host's instructions stand in the text: "3 FAIL_INUSE (entry busy ...".
        for (code, rest) in meaning.split(", ").filter_map(|part| part.split_once(' ')) {
            let name = rest.split(' ').next().unwrap_or_default();
            if let Some(at) = known.iter().position(|(other, _)| *other == name) {
                assert_eq!(number(code), Some(known.remove(at).1.into()), "{name}");
            }
        }
    }
    finish(&known);
}

#[test]
fn bits_of_nested_faults_are_those_of_the_table() {
    let mut known = rmp::npf::LISTED.to_vec();
    for row in rows!("rmp_semantics", "topic", "npf") {
        let rule = row.get("rule");
        if let Some((bit, name)) = rule.strip_prefix("EXITINFO1 bit ").and_then(|rest| rest.split_once(' ')) {
            let name = name.split(':').next().unwrap_or_default();
            if let Some(value) = take(&mut known, name) {
                assert_eq!(Some(u64::from(value.trailing_zeros())), number(bit), "{name}");
            }
        }
    }
    // RMP-045 has the others: "bits 32/33: fault on final guest address", "bits 0..4,6: present, write, user, reserved, fetch".
    let rule = rows!("rmp_semantics", "id", "RMP-045").next().expect("a row");
    assert!(rule.get("rule").starts_with("EXITINFO1 bits 32/33: fault on final guest address"));
    assert!(rule.get("rule").contains("bits 0..4,6: present, write, user, reserved, fetch, shadow stack"));
    for (name, bit) in
        [("FINAL", 32), ("PRESENT", 0), ("WRITE", 1), ("USER", 2), ("RESERVED", 3), ("FETCH", 4), ("SHADOW_STACK", 6)]
    {
        assert_eq!(take(&mut known, name), Some(1 << bit), "{name}");
    }
    finish(&known);
}

#[test]
fn exit_codes_and_msrs_are_those_of_the_tables() {
    let mut codes = exit_code::LISTED.to_vec();
    for row in crate::facts::table!("backend-snp", "vc_exit_codes") {
        let name = row.get("name").trim_start_matches('#');
        if let Some(value) = take(&mut codes, name) {
            assert_eq!(number(row.get("code")), Some(value), "{name}");
        }
        if name == "software reserved" {
            assert_eq!(number(row.get("code")), Some(exit_code::END));
        }
    }
    finish(&codes);
    let mut msrs = msr::LISTED.to_vec();
    for row in crate::facts::table!("backend-snp", "sev_features") {
        let register = row.get("register");
        let (name, number_of) = match register.split_once(" MSR ") {
            Some((name, number)) => (name, number),
            None => (row.get("name"), register.strip_prefix("MSR ").unwrap_or_default()),
        };
        if let Some(value) = take(&mut msrs, name) {
            assert_eq!(number(number_of), Some(value), "{name}");
        }
    }
    // The others are older than SNP; `msrs` has their numbers again.
    for (name, value) in msrs {
        assert!(super::msrs::OLDER.contains(&value), "{name}");
    }
}

#[test]
fn the_save_area_has_the_offsets_of_the_table() {
    let mut known = vmsa::LISTED.to_vec();
    for row in rows!("vmsa", "kind", "field") {
        let name = row.get("field").to_uppercase();
        let at = known.iter().position(|(other, _)| *other == name);
        if let Some((_, offset)) = at.map(|at| known.remove(at)) {
            assert_eq!(offset as u64, row.number("offset"), "{name}");
        }
        if name == "GUEST_INTERCEPT_VECTORS" {
            assert_eq!(row.number("offset"), vmsa::END_OF_STATE as u64);
        }
    }
    let left: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
    assert!(left.is_empty(), "{left:?}");
    let bit = |field: &str| {
        let row = rows!("vmsa", "kind", "bits").find(|row| row.get("field") == field).expect("a row");
        1 << row.number("bits")
    };
    assert_eq!(vmsa::VINTR_CTRL_BUSY, bit("vintr_ctrl.busy"));
    let efer = rows!("vmsa", "kind", "field").find(|row| row.get("field") == "efer").expect("a row");
    assert!(efer.get("meaning").contains("bit 12 (SVME)") && vmsa::EFER_SVME == 1 << 12);
}

#[test]
fn sev_features_are_those_of_the_table() {
    let mut known = features::LISTED.to_vec();
    let mut reserved = 0;
    for row in rows!("sev_features", "register", "VMSA.SEV_FEATURES") {
        let mask =
            |range: &str| (0..64).filter(|bit| bits_of(1 << bit, range) != 0).fold(0, |all, bit| all | 1u64 << bit);
        let name = match row.get("name") {
            "SNPActive" => "SNP_ACTIVE",
            "vTOM" => "VTOM",
            "ReflectVC" => "REFLECT_VC",
            "RestrictedInjection" => "RESTRICTED_INJECTION",
            "AlternateInjection" => "ALTERNATE_INJECTION",
            "SecureAVIC" => "SECURE_AVIC",
            "VmplSSS" => "VMPL_SSS",
            "reserved" => {
                reserved |= mask(row.get("bit"));
                continue;
            }
            _ => continue,
        };
        assert_eq!(take(&mut known, name), Some(mask(row.get("bit"))), "{name}");
    }
    finish(&known);
    assert_eq!(features::RESERVED, reserved);
}
