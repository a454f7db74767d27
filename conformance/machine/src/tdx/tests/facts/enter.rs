//! TDG.VP.ENTER: operands, register page, exit registers, status, what is switched.

use super::*;
use crate::tdx::exit::{L2Exit, exit_regs};
use crate::tdx::guest_state::{self, GuestState};
use crate::tdx::oracle::unswitched_fields;
use crate::tdx::status::{self, OPERAND_INVALID, operand};
use crate::tdx::vcpu::Guest;
use crate::tdx::vmcs::field;
use crate::tdx::{EptCause, TdExit, Unswitched};

fn rows_of(group: &'static str) -> impl Iterator<Item = Row> {
    table!("l2_vp_enter").into_iter().filter(move |row| row.get("group") == group)
}

/// A bit of RCX or RDX that is set beside good operands.
fn refused(rcx: u64, rdx: u64) -> Option<u64> {
    let mut m = machine();
    prepare(&mut m, 1);
    let op =
        Op::Tdcall(Regs { rax: leaf::VP_ENTER.into(), rcx: 1 << 52 | rcx, rdx: registers_of(CPU0, 1) | rdx, ..NONE });
    match m.step(CPU0, op) {
        Outcome::Done(Answer::Regs(regs)) => Some(regs.rax),
        _ => None,
    }
}

#[test]
fn operands_are_where_the_table_has_them() {
    let set = |range: &str| {
        let (high, low) = range.split_once(':').expect("a range");
        let low: u32 = low.parse().expect("a bit");
        low..=high.parse().expect("a bit")
    };
    for row in rows_of("input") {
        let range = row.get("width_or_bits");
        match row.get("item") {
            "RAX" => assert!(row.get("meaning").starts_with("25 ") && leaf::VP_ENTER == 25),
            "INVD_TRANSLATIONS" | "INVD_TRANSLATIONS values 2 and 3" => {
                assert_eq!(set(range), 0..=1);
                assert!((0..4).all(|value| refused(value, 0).is_none()));
            }
            // The table says 51:2 and 63:54.
            "reserved" => {
                assert!(set(range).all(|bit| refused(1 << bit, 0) == Some(OPERAND_INVALID | operand::RCX)), "{range}");
            }
            "VM_INDEX" => {
                assert_eq!(set(range), 52..=53);
                assert_eq!(refused(3 << 52, 0), Some(OPERAND_INVALID | operand::L2_VAPIC_GPA), "VM 3 was not prepared");
            }
            "GUEST_STATE_GPA" => {
                assert!(row.get("meaning").starts_with("256-byte aligned private") && guest_state::ALIGN == 256);
                let bad = (0..8).chain(47..64).all(|bit| refused(0, 1 << bit) == Some(OPERAND_INVALID | operand::RDX));
                assert!(bad && refused(0, 0).is_none());
            }
            item => panic!("unknown {item}"),
        }
    }
}

#[test]
fn the_register_page_has_the_offsets_of_the_table() {
    let mut bytes = [0; guest_state::SIZE];
    (1..).zip(&mut bytes).for_each(|(value, byte)| *byte = value);
    let state = GuestState::from_bytes(&bytes);
    assert_eq!(state.to_bytes(), bytes);
    let GuestState { gpr, rflags, rip, ssp, rvi, svi } = state;
    let mut registers = gpr.iter();
    let mut gpr = |name: &str| (name.starts_with('R')).then(|| registers.next().copied()).flatten();
    for row in rows_of("guest_state") {
        let name = row.get("item");
        let value = match name {
            "RFLAGS" => rflags,
            "RIP" => rip,
            "SSP" => ssp,
            "RVI" => rvi.into(),
            "SVI" => svi.into(),
            "total size" => {
                assert!(row.get("width_or_bits") == "154 bytes" && guest_state::SIZE == 154);
                continue;
            }
            "note" => continue,
            // The rows of general registers come in encoding order.
            name => gpr(name).expect("one of 16"),
        };
        let offset = row.number("location") as usize;
        let len =
            row.get("width_or_bits").chars().next().and_then(|digit| digit.to_digit(10)).expect("a size") as usize;
        let expected = bytes[offset..offset + len].iter().rev().fold(0, |all, byte| all << 8 | u64::from(*byte));
        assert_eq!(value, expected, "{name}");
    }
    assert_eq!(registers.next(), None);
}

#[test]
fn exit_registers_have_the_places_of_the_table() {
    let mut guest = Guest::default();
    guest.state.gpr[guest_state::gpr::RBP] = 0xb0b;
    let fields = [(field::CS_SELECTOR, 0x1111), (field::CS_RIGHTS, 0xa09b), (field::CS_LIMIT, 0x2222_3333)];
    fields.into_iter().for_each(|(encoding, value)| guest.vmcs.set(encoding, value));
    guest.vmcs.set(field::CS_BASE, 0x4444);
    let exit = L2Exit {
        status: status::L2_EXIT_HOST_ROUTED_ASYNC,
        qualification: 0x5555,
        gla: 0x6666,
        gpa: 0x7777,
        event: 0x9999_8000_0b0d,
        info: 0xaaaa,
        length: 7,
        cpl: 3,
        extended: 6,
        ..L2Exit::of(0x8000_0021)
    };
    let regs = exit_regs(&guest, &exit);
    for row in rows_of("exit_output") {
        let (name, meaning) = (row.get("item"), row.get("meaning"));
        let value = match name {
            "RAX" => regs.rax,
            "RBX" => regs.rbx,
            "RCX" => regs.rcx,
            "RDX" => regs.rdx,
            "RSI" => regs.rsi,
            "RDI" => regs.rdi,
            "RBP" => regs.rbp,
            "R8" => regs.r8,
            "R9" => regs.r9,
            "R10" => regs.r10,
            "R11" => regs.r11,
            "R12" => regs.r12,
            "R13" => regs.r13,
            "R14" => regs.r14,
            "R15" => regs.r15,
            _ => {
                assert_eq!(row.get("location"), "VMCS", "{name}");
                continue;
            }
        };
        let expected = match meaning {
            "0" => 0,
            _ if meaning.starts_with("completion status") => 0x1100,
            _ if meaning.starts_with("VMX exit reason") => 0x8000_0021,
            _ if meaning.starts_with("VMX exit qualification") => 0x5555,
            _ if meaning.starts_with("guest linear address") => 0x6666,
            "L2 CS selector" => 0x1111,
            _ if meaning.starts_with("L2 CS access rights") => 0xa09b,
            "L2 CS limit" => 0x2222_3333,
            "L2 CS base" => 0x4444,
            _ if meaning.starts_with("guest physical address") => 0x7777,
            "VM-exit interruption information" => 0x8000_0b0d,
            "VM-exit interruption error code" => 0x9999,
            // No event is under delivery when this machine exits.
            _ if meaning.starts_with("IDT-vectoring") => 0,
            "VM-exit instruction information" => 0xaaaa,
            "VM-exit instruction length" => 7,
            "L2 CPL" => 3,
            _ if meaning.starts_with("extended exit qualification type") => 6,
            // Of module 2.0.
            _ if meaning.starts_with("extended info (2.0") => 0,
            _ if meaning.starts_with("module writes no L1 value here") => 0xb0b,
            _ => panic!("unknown {meaning}"),
        };
        assert_eq!(bits_of(value, row.get("width_or_bits")), expected, "{name} {meaning}");
    }
}

#[test]
fn checks_come_in_the_order_and_with_the_status_of_the_table() {
    let mut m = machine();
    m.host_post_interrupt(CPU0);
    // Everything is wrong; each check is repaired after it was met.
    let mut regs = Regs { rcx: 0, rdx: PAGE + 8, ..NONE };
    for row in rows_of("entry_check") {
        let meaning = row.get("meaning");
        match row.get("item") {
            "5" => continue, // Debug TDs are not modelled.
            "6" => {
                assert_eq!(m.step(CPU0, tdcall(leaf::VP_ENTER, regs)), Outcome::Exit);
                let violation = TdExit::EptViolation { level: 0, gpa: PAGE, cause: EptCause::Operand };
                assert!(m.td_exit_info(CPU0) == Some(&violation) && meaning.starts_with("EPT-violation TD exit"));
                continue;
            }
            _ => {}
        }
        let expected = match meaning.strip_prefix("OPERAND_INVALID|") {
            Some(id) => OPERAND_INVALID | id.split(' ').next().and_then(number).expect("an operand"),
            None => numbers_in(meaning)[0],
        };
        assert_eq!(call(&mut m, leaf::VP_ENTER, regs).rax, expected, "{meaning}");
        match row.get("item") {
            "1" => regs.rdx = PAGE,
            "2" => regs.rcx = 1 << 52,
            "3" => assert_eq!(vp_wr(&mut m, vmcs(1, 0x2012), VAPIC, !0xfff).rax, 0),
            // L1 takes the interrupt when it is told of it.
            "4" => {}
            item => panic!("unknown check {item}"),
        }
    }
}

#[test]
fn status_in_the_upper_half_is_that_of_the_table() {
    // What the host of a debug TD sees, and module 2.0.
    let not_given = ["TD_EXIT_BEFORE_L2_ENTRY", "TD_EXIT_ON_L2_VM_EXIT", "TD_EXIT_ON_L2_TO_L1", "L2_VM_ENTRY_FAILED"];
    let mut left = not_given.to_vec();
    for row in rows_of("status").filter(|row| row.get("item") != "rule of thumb") {
        let name = row.get("item");
        assert_eq!(row.get("location"), "RAX[63:32]");
        match status::LISTED.iter().find(|(known, _)| *known == name) {
            Some((_, value)) => assert_eq!(value >> 32, row.number("width_or_bits"), "{name}"),
            None => left.retain(|known| *known != name),
        }
    }
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn what_is_not_switched_is_what_the_table_says() {
    let mut names: Vec<&str> = unswitched_fields(&Unswitched::default()).map(|(name, _)| name).collect();
    names.dedup();
    for row in rows_of("state_switch").filter(|row| row.get("location") == "not switched") {
        for item in row.get("item").replace(" and other MSRs outside the VMCS", "").split(", ") {
            let expected = match item {
                "x87/SSE/AVX state" => &["vector registers"][..],
                "DR0-DR3" => &["DR0", "DR1", "DR2", "DR3"],
                item => &[item][..],
            };
            for name in expected {
                let at = names.iter().position(|known| known == name);
                names.remove(at.unwrap_or_else(|| panic!("{name} is not kept")));
            }
        }
    }
    assert!(names.is_empty(), "{names:?}");
}
