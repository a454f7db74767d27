//! Layout of the register save area (vmsa.csv), as far as the machine uses it, and a page-sized view of it.

use crate::Regs;
use crate::memory::PageBytes;

/// VMPL at which the VMSA runs, one byte.
pub const VMPL: usize = 0x0ca;
/// EFER.
pub const EFER: usize = 0x0d0;
/// RFLAGS.
pub const RFLAGS: usize = 0x170;
/// RIP.
pub const RIP: usize = 0x178;
/// RSP.
pub const RSP: usize = 0x1d8;
/// RAX.
pub const RAX: usize = 0x1f8;
/// RCX.
pub const RCX: usize = 0x308;
/// RDX.
pub const RDX: usize = 0x310;
/// RBX.
pub const RBX: usize = 0x318;
/// R8.
pub const R8: usize = 0x340;
/// R9.
pub const R9: usize = 0x348;
/// EXITINFO1 of the last automatic exit.
pub const GUEST_EXITINFO1: usize = 0x390;
/// EXITINFO2 of the last automatic exit.
pub const GUEST_EXITINFO2: usize = 0x398;
/// Event that was being delivered at the exit.
pub const GUEST_EXITINTINFO: usize = 0x3a0;
/// Next RIP at the exit.
pub const GUEST_NRIP: usize = 0x3a8;
/// SEV_FEATURES.
pub const SEV_FEATURES: usize = 0x3b0;
/// Virtual interrupt control.
pub const VINTR_CTRL: usize = 0x3b8;
/// Exit code of the last automatic exit.
pub const GUEST_EXIT_CODE: usize = 0x3c0;
/// Virtual top of memory.
pub const VIRTUAL_TOM: usize = 0x3c8;
/// TLB bookkeeping.
pub const TLB_ID: usize = 0x3d0;
/// 0 forces a TLB flush at the next VMRUN.
pub const PCPU_ID: usize = 0x3d8;
/// Event injection.
pub const EVENT_INJ: usize = 0x3e0;
/// XCR0.
pub const XCR0: usize = 0x3e8;
/// First byte behind the saved state; from here on reserved or intercept words.
pub const END_OF_STATE: usize = 0x900;

/// EFER.SVME: the VMSA may run.
pub const EFER_SVME: u64 = 1 << 12;
/// VINTR_CTRL.busy: the VMSA must not run.
pub const VINTR_CTRL_BUSY: u64 = 1 << 63;

/// Bits of SEV_FEATURES (sev_features.csv).
pub mod features {
    /// SNP active.
    pub const SNP_ACTIVE: u64 = 1 << 0;
    /// vTOM.
    pub const VTOM: u64 = 1 << 1;
    /// #VC events become exits.
    pub const REFLECT_VC: u64 = 1 << 2;
    /// Only #HV may be injected.
    pub const RESTRICTED_INJECTION: u64 = 1 << 3;
    /// Events come from the VMSA.
    pub const ALTERNATE_INJECTION: u64 = 1 << 4;
    /// Secure AVIC.
    pub const SECURE_AVIC: u64 = 1 << 16;
    /// Bits 20:17 and 62:22 are reserved.
    pub const RESERVED: u64 = (0xf << 17) | (((1 << 63) - 1) & !((1 << 22) - 1));
}

/// A quadword at an offset of [this module](self); 0 outside the page.
pub fn read_u64(page: &[u8], offset: usize) -> u64 {
    let mut bytes = [0; 8];
    if let Some(source) = page.get(offset..offset.saturating_add(8)) {
        bytes.copy_from_slice(source);
    }
    u64::from_le_bytes(bytes)
}

/// Stores a quadword at an offset of [this module](self); nothing outside the page.
pub fn write_u64(page: &mut [u8], offset: usize, value: u64) {
    if let Some(target) = page.get_mut(offset..offset.saturating_add(8)) {
        target.copy_from_slice(&value.to_le_bytes());
    }
}

/// The registers that travel over a VMGEXIT.
pub(crate) fn regs(page: &PageBytes) -> Regs {
    Regs {
        rax: read_u64(page, RAX),
        rcx: read_u64(page, RCX),
        rdx: read_u64(page, RDX),
        r8: read_u64(page, R8),
        r9: read_u64(page, R9),
    }
}

pub(crate) fn set_regs(page: &mut PageBytes, regs: &Regs) {
    for (offset, value) in [(RAX, regs.rax), (RCX, regs.rcx), (RDX, regs.rdx), (R8, regs.r8), (R9, regs.r9)] {
        write_u64(page, offset, value);
    }
}

/// Copies what the processor saves at an exit from its registers to the page: everything but VMPL, features, interrupt
/// control, exit information and bookkeeping.
pub(crate) fn save_state(page: &mut PageBytes, registers: &PageBytes) {
    for range in [0..VMPL, VMPL + 1..GUEST_EXITINFO1, XCR0..END_OF_STATE] {
        page[range.clone()].copy_from_slice(&registers[range]);
    }
}

/// The registers of another level that VMPL0 may not change once the VMSA has run (O7): every saved register except those
/// that calls define. RBX and RIP count as defined by a call only when the exit was a reflected #VC.
pub(crate) fn is_protected_register(offset: usize, reflected: bool) -> bool {
    let quad = offset & !7;
    match quad {
        RAX | RCX | RDX | R8 | R9 => false,
        RBX | RIP if reflected => false,
        // VMPL and CPL share a quadword with reserved bytes; all of it is protected.
        SEV_FEATURES => true,
        _ if (GUEST_EXITINFO1..XCR0).contains(&quad) => false,
        _ => quad < END_OF_STATE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_save_leaves_what_the_processor_does_not_save() {
        let mut page = [1; 4096];
        save_state(&mut page, &[2; 4096]);
        for kept in [VMPL, SEV_FEATURES, VINTR_CTRL, PCPU_ID, GUEST_EXIT_CODE, END_OF_STATE] {
            assert_eq!(page[kept], 1, "{kept:#x}");
        }
        for saved in [EFER, RAX, RIP, R9, XCR0, END_OF_STATE - 1] {
            assert_eq!(page[saved], 2, "{saved:#x}");
        }
    }

    #[test]
    fn calls_define_five_registers_and_reflection_two_more() {
        for free in [RAX, RCX, RDX, R8, R9, PCPU_ID, EVENT_INJ, VINTR_CTRL, GUEST_EXIT_CODE] {
            assert!(!is_protected_register(free, false), "{free:#x}");
        }
        for kept in [RIP, RSP, RBX, EFER, VMPL, SEV_FEATURES, XCR0] {
            assert!(is_protected_register(kept, false), "{kept:#x}");
        }
        assert!(!is_protected_register(RIP, true) && !is_protected_register(RBX + 3, true));
    }

    #[test]
    fn reserved_features_leave_room_for_the_named_ones() {
        assert_eq!(features::RESERVED & ((1 << 17) - 1), 0);
        assert_eq!(features::RESERVED & (1 << 21), 0);
        assert_eq!(features::RESERVED & (1 << 17), 1 << 17);
        assert_eq!(features::RESERVED & (1 << 22), 1 << 22);
    }
}
