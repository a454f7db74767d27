//! The GHCB MSR protocol: codes, and every encoder and decoder against the bits the table names.

use backend_snp::abi::ghcb_msr::{self, CpuidRegister, MsrCode, MsrError, MsrPageState, SevInfo};
use backend_snp::abi::sev_features::Msr;
use backend_snp::abi::terminate::{KernelReason, TerminateReason};
use backend_snp::abi::vmpl::Vmpl;
use x86_64::PhysAddr;
use x86_64::structures::paging::PhysFrame;

use crate::compare::{Bits, Codes};
use crate::table::{Informative, Row, bits, expect, mask, plain, table, walk};

/// The highest frame of 40 bits and the lowest one.
fn frames() -> (PhysFrame, PhysFrame) {
    let frame = |at| PhysFrame::containing_address(PhysAddr::new(at));
    (frame(0xf_ffff_ffff_f000), frame(0))
}

#[test]
fn ghcb_msr_codes() {
    const INFORMATIVE: Informative = &[
        ("rule/", "number of the register, compared with the others in sev_features"),
        ("terminate/", "compared in terminate_reasons"),
        ("0x003/", "reserved since version 2"),
    ];
    let mut codes = Codes::of(MsrCode::KNOWN, |code| code.0.into());
    walk("ghcb_msr", INFORMATIVE, |row| {
        let name = match row.get("direction") {
            "guest" => row.get("name").to_owned(),
            direction => format!("{} {direction}", row.get("name")),
        };
        codes.check(&name, row.number("code"))
    });
    codes.finish();
}

#[test]
fn ghcb_msr_fields() {
    const INFORMATIVE: Informative = &[
        ("rule/", "number of the register, compared with the others in sev_features"),
        ("terminate/", "compared in terminate_reasons"),
        ("0x003/", "reserved since version 2"),
    ];
    walk("ghcb_msr", INFORMATIVE, |row| {
        let at = row.get("bits");
        let code = row.number("code");
        match row.get("direction") {
            "request" | "guest" => request_field(code, at, row),
            _ => response_field(code, at),
        }
    });
    assert!(facts_row("ghcb_msr", "rule").get("value") == format!("0x{:X}", Msr::GHCB.0));
}

/// Compares the bits that an encoder changes from the lowest to the highest value of a field with the row.
fn request_field(code: u64, at: &str, row: &Row) -> Result<(), String> {
    let (high, low) = frames();
    // The encoders take 52-bit addresses, as the processor does; the rows count up to bit 63.
    let address = "51:12";
    let reason = |set, code| TerminateReason::try_new(set, code).expect("a set");
    let (changed, bits_named) = match (code, at) {
        (0x000, "63:12") => (ghcb_msr::ghcb_gpa(high) ^ ghcb_msr::ghcb_gpa(low), address),
        (0x004, "63:32") => {
            let request = |leaf| ghcb_msr::cpuid_request(leaf, CpuidRegister::Eax);
            (request(u32::MAX) ^ request(0), at)
        }
        (0x004, "31:30") => {
            let request = |register| ghcb_msr::cpuid_request(0, register) >> 30;
            let all = [CpuidRegister::Eax, CpuidRegister::Ebx, CpuidRegister::Ecx, CpuidRegister::Edx];
            let numbers: Vec<_> = all.iter().map(|register| request(*register) & 3).collect();
            expect(row.get("meaning") == "0 EAX, 1 EBX, 2 ECX, 3 EDX" && numbers == [0, 1, 2, 3], "other numbers")?;
            let edx = ghcb_msr::cpuid_request(0, CpuidRegister::Edx);
            (edx ^ ghcb_msr::cpuid_request(0, CpuidRegister::Eax), at)
        }
        (0x012, "63:12") => (ghcb_msr::register_ghcb_request(high) ^ ghcb_msr::register_ghcb_request(low), address),
        (0x018, "63:12") => (ghcb_msr::unregister_ghcb_request(high) ^ ghcb_msr::unregister_ghcb_request(low), address),
        (0x014, "55:52") => {
            let request = |to| (ghcb_msr::page_state_request(low, to) & mask((55, 52))) >> 52;
            expect(row.get("value").starts_with("operation"), "another field")?;
            expect(row.get("meaning").starts_with("1 private, 2 shared"), "other numbers")?;
            let numbers = (request(MsrPageState::Private), request(MsrPageState::Shared));
            return expect(numbers == (1, 2), "other numbers in Rust");
        }
        (0x014, "51:12") => {
            let request = |frame| ghcb_msr::page_state_request(frame, MsrPageState::Private);
            (request(high) ^ request(low), at)
        }
        (0x016, "39:32") => {
            let request = ghcb_msr::run_vmpl_request;
            // Four levels fill two of the eight bits.
            (request(Vmpl::VMPL3) ^ request(Vmpl::VMPL0), "33:32")
        }
        (0x100, "15:12") => {
            let request = |set| ghcb_msr::terminate_request(reason(set, 0));
            (request(15) ^ request(0), at)
        }
        (0x100, "23:16") => {
            let request = |code| ghcb_msr::terminate_request(reason(0, code));
            (request(0xff) ^ request(0), at)
        }
        (0x002 | 0x006 | 0x010 | 0x080, "63:12") | (0x004, "29:12") | (0x014, "63:56") | (0x016, "63:40 and 31:12") => {
            expect(row.get("value") == "0", "no reserved field")?;
            return reserved_of_request(code, at);
        }
        _ => return Err("no encoder is compared".to_owned()),
    };
    let expected = mask(bits(bits_named).expect("bits"));
    expect(changed == expected, &format!("changes {changed:#x}, the table says {expected:#x}"))
}

/// Checks that the widest request leaves reserved bits zero.
fn reserved_of_request(code: u64, at: &str) -> Result<(), String> {
    let (high, _) = frames();
    let widest = match code {
        0x002 => ghcb_msr::sev_info_request(),
        0x004 => ghcb_msr::cpuid_request(u32::MAX, CpuidRegister::Edx),
        0x006 => ghcb_msr::ap_reset_hold_request(),
        0x010 => ghcb_msr::preferred_ghcb_request(),
        0x014 => ghcb_msr::page_state_request(high, MsrPageState::Private),
        0x016 => ghcb_msr::run_vmpl_request(Vmpl::VMPL3),
        0x080 => ghcb_msr::hv_features_request(),
        _ => return Err("no encoder".to_owned()),
    };
    let reserved = at.split(" and ").map(|part| mask(bits(part).expect("bits"))).fold(0, |all, one| all | one);
    expect(widest & 0xfff == code, "another code")?;
    expect(widest & reserved == 0, "reserved bits are set")
}

/// Compares what a decoder makes of a response in which only one field is set.
fn response_field(code: u64, at: &str) -> Result<(), String> {
    let field = mask(bits(at).ok_or("no bits")?);
    let raw = field | code;
    let (high, _) = frames();
    let refused = Err(MsrError::Refused { raw });
    let matches = match (code, at) {
        (0x001, "63:48") => {
            ghcb_msr::sev_info_response(raw) == Ok(SevInfo { max_version: 0xffff, min_version: 0, c_bit: 0 })
        }
        (0x001, "47:32") => {
            // A lowest version alone is above the highest; with both set it is taken.
            let both = raw | mask((63, 48));
            let info = SevInfo { max_version: 0xffff, min_version: 0xffff, c_bit: 0 };
            ghcb_msr::sev_info_response(raw) == Err(MsrError::Mismatch { raw })
                && ghcb_msr::sev_info_response(both) == Ok(info)
        }
        (0x001, "31:24") => {
            ghcb_msr::sev_info_response(raw) == Ok(SevInfo { max_version: 0, min_version: 0, c_bit: 0xff })
        }
        (0x005, "63:32") => ghcb_msr::cpuid_response(raw, CpuidRegister::Eax) == Ok(u32::MAX),
        (0x005, "31:30") => ghcb_msr::cpuid_response(raw, CpuidRegister::Edx) == Ok(0),
        (0x007, "63:12") => {
            ghcb_msr::ap_reset_hold_response(raw) == Ok(true) && ghcb_msr::ap_reset_hold_response(code) == Ok(false)
        }
        (0x011, "63:12") => {
            let frame = high.start_address().as_u64() | code;
            ghcb_msr::preferred_ghcb_response(raw) == Ok(None)
                && ghcb_msr::preferred_ghcb_response(frame) == Ok(Some(high))
        }
        (0x013, "63:12") => {
            let same = high.start_address().as_u64() | code;
            ghcb_msr::register_ghcb_response(raw, high) == refused
                && ghcb_msr::register_ghcb_response(same, high) == Ok(())
        }
        (0x019, "63:12") => {
            let same = high.start_address().as_u64() | code;
            ghcb_msr::unregister_ghcb_response(raw, high) == refused
                && ghcb_msr::unregister_ghcb_response(same, high) == Ok(())
        }
        (0x015, "63:32") => {
            ghcb_msr::page_state_response(raw) == refused && ghcb_msr::page_state_response(code) == Ok(())
        }
        (0x015, "31:12") => ghcb_msr::page_state_response(raw) == Err(MsrError::ReservedBits { raw }),
        (0x017, "63:32") => ghcb_msr::run_vmpl_response(raw) == refused && ghcb_msr::run_vmpl_response(code) == Ok(()),
        (0x081, "63:12") => ghcb_msr::hv_features_response(raw).map(|features| features.bits()) == Ok(field >> 12),
        _ => return Err("no decoder is compared".to_owned()),
    };
    expect(matches, "the decoder makes something else of it")
}

#[test]
fn terminate_reasons() {
    let mut kernel = Codes::of(KernelReason::KNOWN, |reason| reason.0.into());
    let mut general = vec![
        ("GENERAL", TerminateReason::GENERAL),
        ("PROTOCOL_UNSUPPORTED", TerminateReason::PROTOCOL_UNSUPPORTED),
        ("SNP_FEATURES_UNSUPPORTED", TerminateReason::SNP_FEATURES_UNSUPPORTED),
    ];
    for row in table("ghcb_msr").iter().filter(|row| row.get("code") == "terminate") {
        let (name, code) = (row.get("name"), row.number("value"));
        assert_eq!(row.get("bits"), "23:16", "{name}");
        match row.get("direction") {
            "set 0" => {
                let at = general.iter().position(|(known, _)| plain(known) == plain(name)).expect(name);
                let expected = TerminateReason::try_new(0, code as u8).expect("a set");
                assert_eq!(general.remove(at).1, expected, "{name}");
            }
            "set 1" => kernel.check(name, code).expect("a reason"),
            other => panic!("unknown {other}"),
        }
    }
    assert!(general.is_empty(), "no row for {general:?}");
    kernel.finish();
    // The event has both parts too, described in one cell.
    let event = facts_row("ghcb_nae", "event/0x8000fffe");
    assert_eq!(event.get("exitinfo1_or_meaning"), "3:0 reason set, 11:4 reason code");
    let mut parts = Bits::of::<TerminateReason>();
    parts.check("set", "3:0").expect("set");
    parts.check("code", "11:4").expect("code");
    parts.finish();
}

/// The first row whose first cells start with `label`.
fn facts_row(name: &str, label: &str) -> Row {
    let (first, second) = label.split_once('/').unwrap_or((label, ""));
    let found = table(name).into_iter().find(|row| {
        let key = if name == "ghcb_msr" { "code" } else { "kind" };
        row.get(key) == first && (second.is_empty() || row.get("code") == second)
    });
    found.unwrap_or_else(|| panic!("no {label} in {name}"))
}
