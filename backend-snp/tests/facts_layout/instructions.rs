//! Operands and return codes of the instructions.

use backend_snp::abi::exit_codes::ExitCode;
use backend_snp::abi::invlpgb::{InvlpgbEcx, InvlpgbEdx, InvlpgbFlags, InvlpgbRax};
use backend_snp::abi::page::PageSize;
use backend_snp::abi::rmp::{PvalidateCode, PvalidateOp, RmpAttributes, RmpCode, VmplPermissions};
use backend_snp::abi::sev_features::Msr;
use backend_snp::abi::vmpl::Vmpl;

use crate::compare::{Bits, Codes};
use crate::table::{Informative, expect, parse, walk};

#[test]
fn instructions() {
    const INFORMATIVE: Informative = &[
        ("PVALIDATE/encoding", "compared with the machine code next to the native port"),
        ("RMPADJUST/encoding", "compared with the machine code next to the native port"),
        ("RMPQUERY/encoding", "compared with the machine code next to the native port"),
        ("VMGEXIT/encoding", "compared with the machine code next to the native port"),
        ("INVLPGB/encoding", "compared with the machine code next to the native port"),
        ("TLBSYNC/encoding", "compared with the machine code next to the native port"),
        ("PVALIDATE/input/RAX", "an address, aligned by the type Page"),
        ("RMPADJUST/input/RAX", "an address, aligned by the type Page"),
        ("RMPQUERY/input/RAX", "an address"),
        ("PVALIDATE/output", "result registers, which only the machine fills"),
        ("RMPADJUST/output", "result registers, which only the machine fills"),
        ("VMGEXIT/output", "result registers, which only the machine fills"),
        ("VMGEXIT/input/RAX and CPL", "shown to the host by the machine"),
        ("PVALIDATE/privilege", "behaviour of the machine"),
        ("RMPADJUST/privilege", "behaviour of the machine"),
        ("VMGEXIT/privilege", "behaviour of the machine"),
        ("PVALIDATE/order", "behaviour of the machine"),
        ("RMPADJUST/order", "behaviour of the machine"),
        ("PVALIDATE/fault", "behaviour of the machine"),
        ("RMPADJUST/fault/#VMEXIT", "behaviour of the machine"),
        ("RMPADJUST/fault/#PF", "behaviour of the machine"),
        ("PVALIDATE/side_effect", "behaviour of the machine"),
        ("RMPADJUST/side_effect", "behaviour of the machine"),
        ("RMPADJUST/quirk", "behaviour of the machine"),
        ("VMGEXIT/quirk", "behaviour of the machine"),
        ("RMPQUERY/feature", "found out by the integrator"),
        ("RMPUPDATE/", "for hosts"),
        ("PSMASH/", "for hosts"),
        ("RMPREAD/", "for hosts"),
    ];
    let sizes = format!("{}=4K {}=2M", PageSize::Size4KiB.number(), PageSize::Size2MiB.number());
    let mut pvalidate = Codes::of(PvalidateCode::KNOWN, |code| code.0.into());
    let mut rmp = Codes::of(RmpCode::KNOWN, |code| code.0.into());
    let mut flush_flags = Bits::of_flags::<InvlpgbFlags>();
    let mut attributes = Bits::of::<RmpAttributes>();
    walk("instructions", INFORMATIVE, |row| {
        let (at, value) = (row.get("bits"), row.get("value"));
        let fault = |code: ExitCode| value.is_empty() && at == format!("error {:#x}", code.0);
        match (row.get("insn"), row.get("kind"), row.get("item")) {
            ("PVALIDATE", "return_code", _) => code_and_name(value, |name, code| pvalidate.check(name, code)),
            ("RMPADJUST", "return_code", _) => code_and_name(value, |name, code| rmp.check(name, code)),
            ("PVALIDATE", "input", "ECX") | ("RMPADJUST", "input", "RCX") | ("RMPQUERY", "output", "RCX") => {
                expect(at == "0" && value == sizes, "other sizes")
            }
            ("PVALIDATE", "input", "EDX") => {
                let numbers = (PvalidateOp::Rescind as u32, PvalidateOp::Validate as u32);
                let listed = format!("{}=rescind {}=validate", numbers.0, numbers.1);
                expect(at == "0" && value == listed, "other operations")
            }
            ("RMPADJUST", "input", "RDX") => match value {
                "target VMPL" => attributes.check("target_number", at),
                "permission mask" => attributes.check("permission_bits", at),
                "VMSA attribute" => attributes.check("vmsa_bit", at),
                "0" => attributes.check_reserved(at),
                other => Err(format!("unknown {other}")),
            },
            ("RMPQUERY", "input", "RDX") => attributes.check("target_number", at),
            ("RMPQUERY", "output", "RDX") => {
                let (permissions, vmsa) = at.split_once(" and ").ok_or("not two parts")?;
                attributes.check("permission_bits", permissions)?;
                attributes.check("vmsa_bit", vmsa)
            }
            ("RMPQUERY", "output", "EAX") => {
                let numbers = (RmpCode::SUCCESS.0, RmpCode::FAIL_PERMISSION.0);
                expect(value == format!("{} or {}", numbers.0, numbers.1), "other codes")
            }
            ("RMPADJUST" | "RMPQUERY", "fault", "#VC") => expect(fault(ExitCode::PAGE_NOT_VALIDATED), "another code"),
            ("RMPADJUST", "vmpl0_probe", item) => {
                let probe = RmpAttributes::new(Vmpl::VMPL1, VmplPermissions::empty());
                expect(item == format!("RDX={}", probe.bits()), "another probe")
            }
            ("VMGEXIT", "input", item) => expect(item == format!("GHCB MSR 0x{:X}", Msr::GHCB.0), "another register"),
            ("VMGEXIT", "exit", _) => expect(parse(value) == Some(ExitCode::VMGEXIT.0), "another exit code"),
            ("INVLPGB", "input", "RAX") => {
                let mut rax = Bits::of::<InvlpgbRax>();
                let (page, flags) = at.split_once(" and ").ok_or("not two parts")?;
                rax.check("virtual_page", page)?;
                rax.check("flag_bits", flags)?;
                row.get("meaning").trim_start_matches("bit").split(", ").try_for_each(|part| {
                    let (bit, name) = part.split_once(' ').ok_or("no bit")?;
                    let name = if name == "final translation only" { "final only" } else { name };
                    flush_flags.check(name, bit)
                })
            }
            ("INVLPGB", "input", "ECX") => {
                let mut ecx = Bits::of::<InvlpgbEcx>();
                let (extra, stride) = at.split_once(" and ").ok_or("not two parts")?;
                ecx.check("extra_pages", extra)?;
                ecx.check("stride", stride)
            }
            ("INVLPGB", "input", "EDX") => {
                let mut edx = Bits::of::<InvlpgbEdx>();
                let (asid, pcid) = at.split_once(" and ").ok_or("not two parts")?;
                edx.check("asid", asid)?;
                edx.check("pcid", pcid)
            }
            (insn, kind, item) => Err(format!("unknown {insn} {kind} {item}")),
        }
    });
    pvalidate.finish();
    rmp.finish();
    flush_flags.finish();
    attributes.finish();
}

/// Splits `6 FAIL_SIZEMISMATCH`.
fn code_and_name(text: &str, mut check: impl FnMut(&str, u64) -> Result<(), String>) -> Result<(), String> {
    let (code, name) = text.split_once(' ').ok_or("no code and name")?;
    check(name, parse(code).ok_or("no code")?)
}
