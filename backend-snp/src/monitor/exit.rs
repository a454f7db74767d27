//! Exits of a level whose #VC exceptions come to L1 (ReflectVC).
//!
//! Source: `facts/vc_exit_codes.csv`, `facts/ghcb_nae.csv` for the format of port accesses.

use coco_part_api::{Access, Direction, Exit, FaultCause, MemoryFault, MsrAccess, PortAccess};
use x86_64::PhysAddr;

use crate::abi::exit_codes::ExitCode;
use crate::abi::nae::IoioInfo;
use crate::abi::vmsa::Vmsa;

/// EXITINFO1 of a nested page fault: a reserved bit was set, by which the host marks memory-mapped I/O.
const RESERVED_BIT: u64 = 1 << 3;

/// Whether an exit on record, with its EXITINFO1, is that of a #VC, and not one of the host's own exits. A nested page fault
/// is a #VC only with the reserved bit; any other is the host's to resolve (RMP-047).
pub(super) fn is_reflected(code: ExitCode, info_1: u64) -> bool {
    if code == ExitCode::NPF {
        return info_1 & RESERVED_BIT != 0;
    }
    !matches!(
        code,
        ExitCode::VMGEXIT
            | ExitCode::INTR
            | ExitCode::NMI
            | ExitCode::SMI
            | ExitCode::INIT
            | ExitCode::VINTR
            | ExitCode::BUSY
            | ExitCode::INVALID
            | ExitCode::IDLE_REQUIRED
            | ExitCode::INVALID_PMC
    )
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

    #[test]
    fn an_unknown_code_keeps_its_number() {
        assert!(matches!(decode(&vmsa(ExitCode(0x1234), 0)), Exit::Other { code: 0x1234 }));
        assert!(matches!(decode(&vmsa(ExitCode::SHUTDOWN, 0)), Exit::Shutdown));
    }
}
