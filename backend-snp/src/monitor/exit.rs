//! Exits of a level whose #VC exceptions come to L1 (ReflectVC).
//!
//! The host sees `VMEXIT_VC` (0x5d). The VMSA holds what #VC would have told the level: the intercept's own code (0x72 for
//! CPUID) with its EXITINFO1 and 2, and in GUEST_NRIP where the next instruction begins, but not for a nested page fault.
//! HLT is no #VC: it exits by itself, with RIP behind it.
//!
//! Source: `facts/vc_exit_codes.csv`, `facts/vmsa.csv`, `facts/ghcb_nae.csv` for the format of port accesses; for the exit
//! fields what OpenVMM's paravisor (openhcl/virt_mshv_vtl/src/processor/snp/mod.rs) and the mushroom supervisor
//! (tee/supervisor-snp/src/ap.rs), both of which run guests with ReflectVC, read from them.

use coco_part_api::{Access, Direction, Exit, FaultCause, MemoryFault, MsrAccess, PortAccess};
use x86_64::PhysAddr;

use crate::abi::exit_codes::ExitCode;
use crate::abi::nae::IoioInfo;
use crate::abi::vmsa::Vmsa;

/// EXITINFO1 of a nested page fault: a reserved bit was set, by which the host marks memory-mapped I/O.
const RESERVED_BIT: u64 = 1 << 3;

/// Write traps of the sixteen control registers.
const CR_WRITE_TRAPS: core::ops::RangeInclusive<u64> = ExitCode::CR_WRITE_TRAP.0..=ExitCode::CR_WRITE_TRAP.0 + 0xf;

/// Whether an exit on record, with its EXITINFO1, concerns L1: that of a #VC, the end of the vCPU, or HLT. A nested page fault
/// is a #VC only with the reserved bit; any other is the host's to resolve (RMP-047), and so are the automatic exits that the
/// host has by its own choice of intercepts.
pub(super) fn is_reflected(code: ExitCode, info_1: u64) -> bool {
    match code {
        ExitCode::NPF => info_1 & RESERVED_BIT != 0,
        ExitCode::VMGEXIT
        | ExitCode::VC
        | ExitCode::MC
        | ExitCode::INTR
        | ExitCode::NMI
        | ExitCode::SMI
        | ExitCode::INIT
        | ExitCode::VINTR
        | ExitCode::PAUSE
        | ExitCode::BUSLOCK
        | ExitCode::EFER_WRITE_TRAP
        | ExitCode::BUSY
        | ExitCode::INVALID
        | ExitCode::IDLE_REQUIRED
        | ExitCode::INVALID_PMC => false,
        ExitCode(trap) => !CR_WRITE_TRAPS.contains(&trap),
    }
}

/// The exit that a VMSA which stands still has on record.
pub(super) fn decode(vmsa: &Vmsa) -> Exit {
    let code = vmsa.guest_exit_code;
    let other = Exit::Other { code: code.0 };
    match code {
        // EAX and ECX.
        ExitCode::CPUID => Exit::Cpuid { leaf: vmsa.rax as u32, subleaf: vmsa.rcx as u32 },
        ExitCode::MSR => Exit::Msr(msr(vmsa)),
        ExitCode::IOIO => port(vmsa).map_or(other, Exit::Port),
        ExitCode::HLT | ExitCode::IDLE_HLT => Exit::Halt,
        ExitCode::SHUTDOWN => Exit::Shutdown,
        ExitCode::NPF => memory(vmsa, FaultCause::NotMapped).map_or(other, Exit::Memory),
        ExitCode::PAGE_NOT_VALIDATED => memory(vmsa, FaultCause::NotValidated).map_or(other, Exit::Memory),
        _ => other,
    }
}

/// EXITINFO1 is 0 for a read; ECX names the register.
const fn msr(vmsa: &Vmsa) -> MsrAccess {
    let msr = vmsa.rcx as u32;
    if vmsa.guest_exitinfo1 & 1 == 0 {
        MsrAccess::Read { msr }
    } else {
        MsrAccess::Write { msr, value: (vmsa.rdx & 0xffff_ffff) << 32 | vmsa.rax & 0xffff_ffff }
    }
}

/// A port access; `None` for a string instruction, or a size that does not exist.
fn port(vmsa: &Vmsa) -> Option<PortAccess> {
    let info = IoioInfo::from_bits_retain(vmsa.guest_exitinfo1);
    let (size, mask) = match (info.size_8(), info.size_16(), info.size_32()) {
        (1, 0, 0) => (1, 0xff),
        (0, 1, 0) => (2, 0xffff),
        (0, 0, 1) => (4, u32::MAX),
        _ => return None,
    };
    let direction = if info.is_in() == 1 { Direction::In } else { Direction::Out };
    let value = if direction == Direction::Out { vmsa.rax as u32 & mask } else { 0 };
    // 16 bits.
    let port = info.port() as u16;
    (info.is_string() == 0).then_some(PortAccess { port, size, direction, value })
}

/// A memory access; `None` when the address is no guest-physical one. EXITINFO1: bit 1 write, bit 4 fetch.
fn memory(vmsa: &Vmsa, cause: FaultCause) -> Option<MemoryFault> {
    let at = PhysAddr::try_new(vmsa.guest_exitinfo2).ok()?;
    let access = match (vmsa.guest_exitinfo1 >> 4 & 1, vmsa.guest_exitinfo1 >> 1 & 1) {
        (1, _) => Access::Execute,
        (_, 1) => Access::Write,
        _ => Access::Read,
    };
    Some(MemoryFault { at, access, cause })
}

#[cfg(test)]
mod tests {
    use zerocopy::FromZeros;

    use super::*;

    fn vmsa(code: ExitCode, info_1: u64) -> Vmsa {
        let mut vmsa = Vmsa::new_zeroed();
        vmsa.guest_exit_code = code;
        vmsa.guest_exitinfo1 = info_1;
        vmsa.rax = 0xaaaa_aaaa_1234_5678;
        vmsa.rcx = 0xcccc_cccc_c000_0080;
        vmsa.rdx = 0xdddd_dddd_0000_0009;
        vmsa
    }

    #[test]
    fn registers_are_taken_as_wide_as_the_instruction_does() {
        assert!(matches!(decode(&vmsa(ExitCode::CPUID, 0)), Exit::Cpuid { leaf: 0x1234_5678, subleaf: 0xc000_0080 }));
        assert!(matches!(decode(&vmsa(ExitCode::MSR, 0)), Exit::Msr(MsrAccess::Read { msr: 0xc000_0080 })));
        assert!(matches!(
            decode(&vmsa(ExitCode::MSR, 1)),
            Exit::Msr(MsrAccess::Write { msr: 0xc000_0080, value: 0x9_1234_5678 })
        ));
    }

    #[test]
    fn a_port_access_has_its_size_and_no_more_of_eax() {
        let out = PortAccess { port: 0x3f8, size: 1, direction: Direction::Out, value: 0x78 };
        assert!(matches!(decode(&vmsa(ExitCode::IOIO, 0x03f8_0010)), Exit::Port(access) if access == out));
        let input = PortAccess { port: 0xcf8, size: 4, direction: Direction::In, value: 0 };
        assert!(matches!(decode(&vmsa(ExitCode::IOIO, 0x0cf8_0041)), Exit::Port(access) if access == input));
        for bad in [0x03f8_0014, 0x03f8_0000, 0x03f8_0030] {
            assert!(matches!(decode(&vmsa(ExitCode::IOIO, bad)), Exit::Other { code: 0x7b }));
        }
    }

    /// `vc_exit_codes`: of the automatic exits those that end the vCPU or let it rest concern L1, with ReflectVC all of #VC do.
    #[test]
    fn what_is_reflected_is_what_the_table_says() {
        let mut rows = 0;
        for row in include_str!("../../facts/vc_exit_codes.csv").lines().skip(1) {
            let cells: std::vec::Vec<&str> = row.split(',').collect();
            let (codes, name, class) = (cells[0], cells[1], cells[2]);
            let number = |text: &str| match text.strip_prefix("0x") {
                Some(hex) => u64::from_str_radix(hex, 16).unwrap(),
                None => text.parse::<i64>().unwrap() as u64,
            };
            let (first, last) = codes.split_once("..").unwrap_or((codes, codes));
            let is_expected = match class {
                "NAE" | "#VC error code" => true,
                "AE" => matches!(name, "HLT" | "IDLE_HLT" | "SHUTDOWN"),
                "AE; NAE with Secure AVIC" => true,
                "NAE or AE" => continue,
                "VMRUN result" => false,
                _ => continue,
            };
            for code in [number(first), number(last)] {
                assert_eq!(is_reflected(ExitCode(code), 0), is_expected, "{codes} {name}");
            }
            rows += 1;
        }
        assert_eq!(rows, 72);
        assert!(is_reflected(ExitCode::NPF, RESERVED_BIT) && !is_reflected(ExitCode::NPF, !RESERVED_BIT));
    }

    #[test]
    fn an_unknown_code_keeps_its_number() {
        assert!(matches!(decode(&vmsa(ExitCode(0x1234), 0)), Exit::Other { code: 0x1234 }));
        assert!(matches!(decode(&vmsa(ExitCode::SHUTDOWN, 0)), Exit::Shutdown));
    }
}
