//! Page attributes and PAGE.ACCEPT.

use super::*;
use crate::tdx::attr;
use crate::tdx::status::{self, OPERAND_BUSY, OPERAND_INVALID, PAGE_ATTR_INVALID, operand};

/// Bit number of an attribute row.
fn bit(item: &str) -> Option<u32> {
    item.strip_prefix("bit ")?.split(' ').next()?.parse().ok()
}

/// The attributes that remain when VM 1 is given these, or the status.
fn given(attributes: u64) -> Result<u64, u64> {
    let mut m = machine();
    assert_eq!(accept(&mut m, PAGE, 0), 0);
    let regs = attr_wr(&mut m, PAGE, 0, part(1, attributes), part(1, 0x7fff));
    let read = call(&mut m, leaf::MEM_PAGE_ATTR_RD, Regs { rcx: PAGE, ..NONE });
    if regs.rax == 0 { Ok(read.rdx >> 16) } else { Err(regs.rax) }
}

#[test]
fn attribute_bits_are_those_of_the_table() {
    let (read, valid) = (attr::READ, attr::VALID);
    for row in table!("page_attr").iter().filter(|row| row.get("group") == "attr_bit") {
        let name = row.get("bits_or_value");
        let Some(number) = bit(row.get("item")) else {
            assert_eq!((row.get("item"), name), ("bits 14:8", "reserved"));
            assert!((8..15).all(|bit| given(u64::from(valid | read) | 1 << bit) == Err(PAGE_ATTR_INVALID)));
            continue;
        };
        let mask = 1u16 << number;
        let named = match name {
            "R" => attr::READ,
            "W" => attr::WRITE,
            "Xs" => attr::EXECUTE_SUPERVISOR,
            "Xu" => attr::EXECUTE_USER,
            "PWA" => attr::PAGING_WRITE,
            "VALID" => attr::VALID,
            // Kept without a name.
            "VGP" | "SSS" => attr::MANAGED & mask,
            "SVE" => {
                assert_eq!(attr::MANAGED & mask, 0);
                assert_eq!(given(u64::from(valid | read | mask)), Err(PAGE_ATTR_INVALID));
                continue;
            }
            other => panic!("unknown {other}"),
        };
        assert_eq!(named, mask, "{name}");
        let whole = u64::from(valid | read | mask);
        assert_eq!(given(whole), Ok(whole), "{name}");
    }
}

#[test]
fn masks_are_those_of_the_table() {
    let full = attr::RIGHTS | attr::VALID;
    for row in table!("page_attr").iter().filter(|row| row.get("group") == "mask") {
        let value = numbers_in(row.get("bits_or_value"))[0];
        let expected = match row.get("item") {
            "GUEST_L2_GPA_ATTR_MASK" => {
                let field = numbers_in(row.get("meaning"))[0];
                assert_eq!(call(&mut machine(), leaf::SYS_RD, Regs { rdx: field, ..NONE }).r8, value);
                u64::from(attr::MANAGED | attr::VALID)
            }
            "R8 change mask for VM1 R|W|Xs|Xu" => part(1, attr::RIGHTS.into()),
            "R8 bit 15 of a VM part" => part(1, attr::VALID.into()),
            "VM1 R|W|Xs|Xu|VALID" => part(1, full.into()),
            "VM2 R|W|Xs|Xu|VALID" => part(2, full.into()),
            "VM3 R|W|Xs|Xu|VALID" => part(3, full.into()),
            other => panic!("unknown {other}"),
        };
        assert_eq!(value, expected, "{}", row.get("item"));
    }
}

#[test]
fn levels_are_those_of_the_table() {
    for row in table!("page_attr").iter().filter(|row| row.get("group") == "level") {
        let level = row.get("item").strip_prefix("level ").and_then(number).expect("a level");
        let meaning = row.get("meaning");
        let size = meaning.split(' ').next().and_then(number).expect("a size");
        let mut m = machine_with(|config| config.ram = alloc::vec![(0, 4 << 30)]);
        let at = 1 << 30;
        // The size decides which addresses are aligned.
        for op in [leaf::MEM_PAGE_ATTR_WR, leaf::MEM_PAGE_ACCEPT].into_iter().filter(|_| size > 0x1000) {
            let refused = call(&mut m, op, Regs { rcx: (at + size / 2) | level, ..NONE }).rax;
            assert_eq!(refused, OPERAND_INVALID | operand::RCX, "level {level}");
        }
        let accepted = accept(&mut m, at, level) == 0;
        assert_eq!(accepted, meaning.ends_with("accepted by PAGE.ACCEPT: yes"), "level {level}");
        assert!(meaning.contains("allowed in ATTR.WR"));
        let written = attr_wr(&mut m, at, level, part(1, RWX), part(1, 0xf));
        assert_eq!((written.rax == 0, written.rax >> 32), (accepted, if accepted { 0 } else { 0xc000_0b0b }));
    }
}

#[test]
fn accept_has_the_status_of_the_table() {
    for row in table!("page_accept").iter().filter(|row| row.get("group") == "status") {
        let item = row.get("item");
        let value = numbers_in(row.get("value"))[0];
        match item.split_once('|') {
            None => {
                let known = status::LISTED.iter().find(|(name, _)| *name == item);
                assert_eq!(known.map(|(_, known)| *known), Some(value), "{item}");
            }
            Some(("OPERAND_INVALID", id)) => assert_eq!(Some(value ^ OPERAND_INVALID), number(id)),
            Some(("OPERAND_BUSY", id)) => assert_eq!(Some(value ^ OPERAND_BUSY), number(id)),
            Some(other) => panic!("unknown {other:?}"),
        }
    }
    for row in table!("page_accept").iter().filter(|row| row.get("group") == "input") {
        match (row.get("item"), row.get("value")) {
            ("RAX", leaf) => assert_eq!(number(leaf), Some(leaf::MEM_PAGE_ACCEPT.into())),
            ("RCX level", "[2:0]: 0=4K, 1=2M") => assert_eq!(accept(&mut machine(), BLOCK, 2), OPERAND_INVALID | 1),
            ("RCX GPA", "[51:12]") => {
                let refused = |bit: u64| accept(&mut machine(), PAGE | 1 << bit, 0) == OPERAND_INVALID | 1;
                assert!((3..12).chain(47..64).all(refused));
            }
            other => panic!("unknown {other:?}"),
        }
    }
}
