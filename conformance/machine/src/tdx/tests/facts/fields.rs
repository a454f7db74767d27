//! Metadata fields: ids, classes, masks, first values.

use super::*;
use crate::tdx::module::fields::{NO_FIELD, Place, SYS, VM, VP, find, find_vp};
use crate::tdx::status::{METADATA_FIELD_ID_INCORRECT, METADATA_FIELD_NOT_READABLE};
use crate::tdx::vmcs::{Vmcs, field};
use crate::tdx::{DEBUG, FLEXIBLE_PENDING_VE, NO_RBP_MOD, SEPT_VE_DISABLE};

fn rows_of(group: &'static str) -> impl Iterator<Item = Row> {
    table!("metadata_fields").into_iter().filter(move |row| row.get("group") == group)
}

/// Ids of a row, with its elements and masks.
fn masks(row: &Row) -> (Vec<u64>, u64, u64, u64) {
    let ids = numbers_in(row.get("field_id_hex"));
    (ids, row.number("count"), row.number("l1_read_mask"), row.number("l1_write_mask"))
}

#[test]
fn td_platform_and_vcpu_fields_have_the_ids_and_masks_of_the_table() {
    let mut listed = 0;
    for group in ["TDVPS", "TDCS", "GLOBAL"] {
        for row in rows_of(group) {
            let name = row.get("name");
            if row.get("scope") == "TD (host only)" || name == "TOPOLOGY_ENUM_CONFIGURED" {
                assert!(find(VM, row.number("field_id_hex")).is_err(), "{name}");
                continue;
            }
            let (ids, count, read, write) = masks(&row);
            for element in 0..count {
                let id = ids[0] + element;
                let found = match group {
                    "TDVPS" => find_vp(id, 3),
                    "TDCS" => find(VM, id),
                    _ => find(SYS, id),
                };
                let found = found.unwrap_or_else(|status| panic!("{name} {element}: {status:#x}"));
                assert_eq!((found.read, found.write), (read, write), "{name} {element}");
                assert_eq!(id & 0xff_ffff, row.number("field_code_hex") + element, "{name} {element}");
                let bitmap = matches!(found.place, Place::MsrBitmap { .. });
                listed += u64::from(!bitmap);
            }
        }
    }
    let ours: u64 = [VP, VM, SYS].iter().flat_map(|table| table.iter()).map(|row| u64::from(row.count)).sum();
    assert_eq!(listed, ours, "fields that the table does not have");
}

#[test]
fn vmcs_fields_have_the_ids_and_masks_of_the_table() {
    let mut listed = 0;
    for row in rows_of("L2_VMCS") {
        let name = row.get("name");
        let (ids, count, read, write) = masks(&row);
        assert_eq!(ids.len(), 3, "{name}");
        for (vm, first) in (1..).zip(ids) {
            for element in 0..count {
                let encoding = row.number("field_code_hex") + 2 * element;
                let found = find_vp(first + 2 * element, 3).unwrap_or_else(|status| panic!("{name}: {status:#x}"));
                assert_eq!(found.place, Place::Vmcs { vm, encoding: encoding as u32 }, "{name}");
                assert_eq!((found.read, found.write), (read, write), "{name}");
                // High halves.
                assert_eq!(find_vp(first + 2 * element + 1, 3), Err(METADATA_FIELD_ID_INCORRECT), "{name}");
                listed += u64::from(vm == 1);
            }
        }
    }
    let ours = (0..0x8000).filter(|encoding| find_vp(vmcs(1, *encoding), 3).is_ok()).count();
    assert_eq!(listed, ours as u64, "fields that the table does not have");
}

#[test]
fn ids_that_an_enumeration_gives_are_those_of_the_table() {
    let table: Vec<u64> = ["TDVPS", "L2_VMCS"]
        .iter()
        .flat_map(|group| rows_of(group))
        .flat_map(|row| numbers_in(row.get("field_id_hex")))
        .collect();
    let mut id = table[0];
    let mut met = 0;
    while id != NO_FIELD {
        met += usize::from(table.contains(&id));
        id = find_vp(id, 3).expect("a field").next;
    }
    let readable = |row: &Row| row.number("l1_read_mask") != 0;
    let expected: usize = rows_of("L2_VMCS").filter(readable).count() * 3 + rows_of("TDVPS").count();
    assert_eq!(met, expected);
}

#[test]
fn id_bits_and_classes_are_those_of_the_table() {
    let id = vmcs(1, 0x681e);
    for row in rows_of("id_layout") {
        let (range, name) = (row.get("field_id_hex"), row.get("name"));
        if !range.starts_with(|c: char| c.is_ascii_digit()) || range.starts_with("0x") {
            continue;
        }
        let (high, low) = range.split_once(':').unwrap_or((range, range));
        let (low, high): (u32, u32) = (low.parse().expect("a bit"), high.parse().expect("a bit"));
        let every = |status: Option<u64>| (low..=high).all(|bit| find_vp(id | 1 << bit, 3).err() == status);
        match name {
            "FIELD_CODE" => assert_eq!((low, high), (0, 23)),
            "CLASS_CODE" => assert_eq!((low, high), (56, 61)),
            "reserved" | "LAST_ELEMENT_IN_FIELD" | "LAST_FIELD_IN_SEQUENCE" => {
                assert!(every(Some(METADATA_FIELD_ID_INCORRECT)), "{range}");
            }
            "ELEMENT_SIZE_CODE" | "INC_SIZE" | "WRITE_MASK_VALID" | "CONTEXT_CODE" | "NON_ARCH" => {
                assert!(every(None), "{range}");
            }
            other => panic!("unknown {other}"),
        }
    }
    for row in rows_of("class") {
        let class = row.get("field_id_hex").split(' ').next().and_then(number).expect("a class");
        let first = class << 56;
        let name = row.get("name");
        let open = match name {
            _ if name.starts_with("L2 VMCS") => find_vp(first | 0x681e, 3).map(drop),
            "MANAGEMENT" => find_vp(first | 2, 3).map(drop),
            _ => find_vp(first, 3).map(drop),
        };
        let of_l2 = name.starts_with("L2 ") && !name.contains("shadow");
        let closed = !of_l2 && !matches!(name, "MANAGEMENT" | "CPUID_CONTROL");
        assert_eq!(open, if closed { Err(METADATA_FIELD_NOT_READABLE) } else { Ok(()) }, "{name}");
    }
}

#[test]
fn feature_and_flag_bits_are_those_of_the_table() {
    let features = call(&mut machine(), leaf::SYS_RD, Regs { rdx: 0x0a00_0003_0000_0008, ..NONE }).r8;
    let mut named = 0;
    for row in rows_of("feature_bit") {
        let bit = row.get("field_id_hex").rsplit(' ').next().and_then(number).expect("a bit");
        let on = matches!(row.get("name"), "VP RD/WR" | "TD PARTITIONING" | "local attestation");
        assert_eq!(features >> bit & 1 == 1, on, "{}", row.get("name"));
        named |= 1 << bit;
    }
    assert_eq!(features & !named, 0);
    let number_before = |text: &str, name: &str| {
        let words: Vec<&str> = text.split([' ', ',']).collect();
        let at = words.iter().position(|word| *word == name).expect("named");
        words[at - 1].parse::<u32>().expect("a bit")
    };
    for row in rows_of("TDCS") {
        let meaning = row.get("meaning");
        let flags: &[(&str, u64)] = match row.get("name") {
            "ATTRIBUTES" => &[("DEBUG", DEBUG), ("SEPT_VE_DISABLE", SEPT_VE_DISABLE), ("PKS", 1 << 30)],
            "CONFIG_FLAGS" => &[("GPAW", 1), ("FLEXIBLE_PENDING_VE", FLEXIBLE_PENDING_VE), ("NO_RBP_MOD", NO_RBP_MOD)],
            "TD_CTLS" => &[("PENDING_VE_DISABLE", 1)],
            _ => &[],
        };
        for (name, flag) in flags {
            assert_eq!(*flag, 1 << number_before(meaning, name), "{name}");
        }
    }
    let controls = rows_of("TDVPS").find(|row| row.get("name") == "L2_CTLS").expect("there");
    assert!(controls.get("meaning").contains("bit0 ENABLE_SHARED_EPTP, bit1 ENABLE_TDVMCALL"));
    assert_eq!((crate::tdx::module::fields::ENABLE_SHARED_EPTP, crate::tdx::module::fields::ENABLE_TDVMCALL), (1, 2));
}

/// What an `L2_init` row says that a field starts with.
fn first_value(row: &Row) -> Vec<u64> {
    let text = row.get("meaning").strip_prefix("initial value at TDH.VP.INIT: ").expect("a value");
    match text {
        "all ones" | "all ones (disabled)" => alloc::vec![u64::MAX],
        "PE|NE" => alloc::vec![1 << 0 | 1 << 5],
        "MCE|VMXE" => alloc::vec![1 << 6 | 1 << 13],
        text => numbers_in(text),
    }
}

#[test]
fn an_l2_starts_with_the_values_of_the_table() {
    let start = Vmcs::default();
    let mut m = machine();
    for row in rows_of("L2_init") {
        let (name, values) = (row.get("name"), first_value(&row));
        let found = match name {
            // CS and the data segments, by encoding from the first on.
            "CS/DS/ES/SS/FS/GS access rights" => {
                let data: Vec<u64> =
                    [0x4814, 0x4818, 0x481a, 0x481c, 0x481e].map(|encoding| start.get(encoding)).to_vec();
                assert!(data.iter().all(|value| *value == values[1]), "{data:x?}");
                alloc::vec![start.get(field::CS_RIGHTS), data[0]]
            }
            "MSR bitmaps" | "TSC_DEADLINE" => {
                let id = if name == "TSC_DEADLINE" { 0xa020_0003_0000_0059 } else { 0x2520_0003_0000_0000 };
                alloc::vec![call(&mut m, leaf::VP_RD, Regs { rdx: id, ..NONE }).r8]
            }
            _ => numbers_in(row.get("field_code_hex")).iter().map(|encoding| start.get(*encoding as u32)).collect(),
        };
        assert_eq!(found, values[..found.len()], "{name}");
    }
}

#[test]
fn encodings_that_the_machine_uses_are_those_of_the_table() {
    let mut known = field::LISTED.to_vec();
    for row in rows_of("L2_VMCS") {
        let name = match row.get("name") {
            "Guest Interrupt Status" => "INTERRUPT_STATUS",
            "Virtual-APIC address" => "VIRTUAL_APIC",
            "EOI-exit bitmap n" => "EOI_EXIT_BITMAP",
            "Guest-physical Address" => "GUEST_PHYSICAL_ADDRESS",
            "IA32_PAT" => "PAT",
            "IA32_EFER" => "EFER",
            "Pin-Based VM-execution Controls" => "PIN_CONTROLS",
            "Primary Processor-Based VM-execution Controls" => "PRIMARY_CONTROLS",
            "Secondary Processor-Based VM-execution Controls" => "SECONDARY_CONTROLS",
            "Tertiary Processor-Based VM-execution Controls" => "TERTIARY_CONTROLS",
            "Exception Bitmap" => "EXCEPTION_BITMAP",
            "Page-fault error-code mask" => "PAGE_FAULT_MASK",
            "Page-fault error-code match" => "PAGE_FAULT_MATCH",
            "VM-Exit Controls" => "EXIT_CONTROLS",
            "VM-Entry Controls" => "ENTRY_CONTROLS",
            "VM-entry interruption information" => "ENTRY_EVENT",
            "TPR threshold" => "TPR_THRESHOLD",
            "Exit reason" => "EXIT_REASON",
            "VM-exit interruption information" => "EXIT_INTERRUPTION",
            "VM-exit interruption error code" => "EXIT_INTERRUPTION_ERROR",
            "VM-exit instruction length" => "EXIT_LENGTH",
            "VM-exit instruction information" => "EXIT_INSTRUCTION_INFO",
            "Interruptibility State" => "INTERRUPTIBILITY",
            "CR0 Guest/Host Mask" => "CR0_MASK",
            "CR4 Guest/Host Mask" => "CR4_MASK",
            "CR0 Read Shadow" => "CR0_SHADOW",
            "CR4 Read Shadow" => "CR4_SHADOW",
            "Exit qualification" => "EXIT_QUALIFICATION",
            "Guest-Linear Address" => "GUEST_LINEAR_ADDRESS",
            "GUEST_SSP" => "SSP",
            name => {
                &name.strip_prefix("Guest ").unwrap_or(name).to_uppercase().replace(' ', "_").replace("ACCESS_", "")
            }
        };
        if let Some(encoding) = take(&mut known, name) {
            assert_eq!(encoding, row.number("field_code_hex"), "{name}");
        }
    }
    finish(&known);
}
