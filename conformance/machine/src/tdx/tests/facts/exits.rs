//! Exit reasons and their routes; #VE.

use super::*;
use crate::tdx::exec::routes::{Route, route};
use crate::tdx::status::{NO_VALID_VE_INFO, reason};
use crate::tdx::vmcs::bit;

/// Name of a reason in the machine, if it has one.
fn name_of(row: &Row) -> &str {
    match row.get("name") {
        "EXCEPTION_OR_NMI" => "EXCEPTION",
        "IO_INSTRUCTION" => "IO",
        name => name.split(' ').next().unwrap_or_default(),
    }
}

#[test]
fn reasons_go_where_the_table_says() {
    let mut known = reason::LISTED.to_vec();
    for row in table!("vmx_exit_reasons") {
        let (number, name) = (row.number("basic_reason"), name_of(&row));
        if number == 0xffff {
            assert!(row.get("condition").starts_with("2.0 only"));
            continue;
        }
        let own = take(&mut known, name);
        assert!(own.is_none_or(|value| value == number), "{name}");
        let control = |text: &str, kind: &str| {
            text.strip_prefix(kind).and_then(|rest| rest.strip_prefix(" control bit ")).and_then(number_of)
        };
        let condition = row.get("condition");
        let expected = match row.get("delivered_to_L1") {
            "no" if row.get("routed_to") == "host" => Some(Route::Host),
            // The end of the TD, or a debug TD: not modelled.
            "no" => None,
            _ if condition == "TPR threshold" => Some(Route::TprThreshold),
            _ if condition == "EOI bitmap" => Some(Route::EoiBitmap),
            _ if condition == "INVLPG-exiting and INVPCID" => Some(Route::Invpcid),
            _ if condition.starts_with("CR bit owned by L1") => Some(Route::ControlRegister),
            _ => match (control(condition, "primary"), control(condition, "secondary")) {
                (Some(bit), _) => Some(Route::Primary(bit)),
                (_, Some(bit)) => Some(Route::Secondary(bit)),
                _ => Some(Route::ToL1),
            },
        };
        let Some(own) = own.filter(|_| route(number as u32).is_none()) else {
            assert_eq!(route(number as u32), expected, "{name}");
            continue;
        };
        // What has an operation of its own, or comes about by itself.
        assert_ne!(row.get("delivered_to_L1"), "no", "{name}");
        let control = match own as u32 {
            reason::INTERRUPT_WINDOW => bit::INTERRUPT_WINDOW,
            reason::NMI_WINDOW => bit::NMI_WINDOW,
            reason::PAUSE => bit::PAUSE_EXITING,
            _ => continue,
        };
        assert_eq!(expected, Some(Route::Primary(control.trailing_zeros() as u8)), "{name}");
    }
    finish(&known);
}

fn number_of(text: &str) -> Option<u8> {
    text.parse().ok()
}

#[test]
fn ve_information_has_the_places_of_the_table() {
    let mut m = machine();
    assert!(matches!(l1(&mut m, Op::In { port: 0x60, size: 4 }), Outcome::Fault(Fault::Ve { .. })));
    let io = call(&mut m, leaf::VP_VEINFO_GET, NONE);
    let mmio = 1 << 40;
    l1(&mut m, Op::Read { gpa: mmio, len: 1, private: false });
    let violation = call(&mut m, leaf::VP_VEINFO_GET, NONE);
    for row in table!("ve_info") {
        let (location, meaning) = (row.get("location"), row.get("meaning"));
        let (register, range) = location.trim_end_matches(']').split_once('[').unwrap_or((location, "63:0"));
        let of = |regs: &Regs| {
            let value = match register {
                "RCX" => regs.rcx,
                "RDX" => regs.rdx,
                "R8" => regs.r8,
                "R9" => regs.r9,
                "R10" => regs.r10,
                "R11" => regs.r11,
                "R12" => regs.r12,
                other => panic!("unknown {other}"),
            };
            bits_of(value, range)
        };
        let expected = match (row.get("group"), row.get("item")) {
            ("output", "EXIT_REASON") => (30, 48),
            ("output", "EXIT_QUALIFICATION") => (0x60_000b, 0x181),
            ("output", "GLA" | "GPA") => (0, mmio | SHARED),
            ("output", "INSTRUCTION_LENGTH") => (1, 0),
            ("output", "INSTRUCTION_INFO") => (0, 0),
            // Of later versions: not touched, or 0.
            ("output", "VE_CATEGORY" | "R11" | "INTERRUPTIBILITY_STATE") => (0, 0),
            ("status", "NO_VALID_VE_INFO") => {
                assert_eq!(number(location), Some(NO_VALID_VE_INFO));
                continue;
            }
            ("rule", _) => continue,
            ("reason", item) => {
                item.split([' ', '/']).filter_map(|word| word.parse().ok()).for_each(raises_ve);
                continue;
            }
            (_, item) => panic!("unknown {item}"),
        };
        assert_eq!((of(&io), of(&violation)), expected, "{location} {meaning}");
    }
}

/// L1 gets #VE for this reason.
fn raises_ve(reason: u32) {
    let op = match reason {
        reason::CPUID => Op::Cpuid { leaf: 0x8000_0000, subleaf: 0 },
        reason::HLT => Op::Hlt,
        reason::IO => Op::Out { port: 1, size: 1, value: 0 },
        reason::RDMSR => Op::Rdmsr(0x1b),
        reason::WRMSR => Op::Wrmsr(0x1b, 0),
        reason::EPT_VIOLATION => Op::Read { gpa: 1 << 40, len: 1, private: false },
        reason => Op::Other { reason, qualification: 0, length: 2 },
    };
    let raised = l1(&mut machine(), op);
    assert!(matches!(raised, Outcome::Fault(Fault::Ve { reason: seen, .. }) if seen == reason), "{reason}: {raised:?}");
}
