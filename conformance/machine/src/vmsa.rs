//! Layout of the register save area (vmsa.csv), as far as the machine uses it, and a page-sized view of it.

use crate::Regs;
use crate::memory::PageBytes;

numbers! {
    pub usize:
    /// Segment FS.
    FS = 0x040;
    /// Segment GS.
    GS = 0x050;
    /// VMPL at which the VMSA runs, one byte.
    VMPL = 0x0ca;
    /// EFER.
    EFER = 0x0d0;
    /// Extended state of the supervisor.
    XSS = 0x140;
    /// CR0.
    CR0 = 0x158;
    /// RFLAGS.
    RFLAGS = 0x170;
    /// RIP.
    RIP = 0x178;
    /// RSP.
    RSP = 0x1d8;
    /// RAX.
    RAX = 0x1f8;
    /// STAR.
    STAR = 0x200;
    /// LSTAR.
    LSTAR = 0x208;
    /// CSTAR.
    CSTAR = 0x210;
    /// SFMASK.
    SFMASK = 0x218;
    /// KERNEL_GS_BASE.
    KERNEL_GS_BASE = 0x220;
    /// SYSENTER_CS.
    SYSENTER_CS = 0x228;
    /// SYSENTER_ESP.
    SYSENTER_ESP = 0x230;
    /// SYSENTER_EIP.
    SYSENTER_EIP = 0x238;
    /// Page attribute table.
    G_PAT = 0x268;
    /// DebugCtl.
    DBGCTL = 0x270;
    /// SPEC_CTRL.
    SPEC_CTRL = 0x2e0;
    /// TSC_AUX, four bytes.
    TSC_AUX = 0x2ec;
    /// RCX.
    RCX = 0x308;
    /// RDX.
    RDX = 0x310;
    /// RBX.
    RBX = 0x318;
    /// R8.
    R8 = 0x340;
    /// R9.
    R9 = 0x348;
    /// EXITINFO1 of the last automatic exit.
    GUEST_EXITINFO1 = 0x390;
    /// EXITINFO2 of the last automatic exit.
    GUEST_EXITINFO2 = 0x398;
    /// Event that was being delivered at the exit.
    GUEST_EXITINTINFO = 0x3a0;
    /// Next RIP at the exit.
    GUEST_NRIP = 0x3a8;
    /// SEV_FEATURES.
    SEV_FEATURES = 0x3b0;
    /// Virtual interrupt control.
    VINTR_CTRL = 0x3b8;
    /// Exit code of the last automatic exit.
    GUEST_EXIT_CODE = 0x3c0;
    /// Virtual top of memory.
    VIRTUAL_TOM = 0x3c8;
    /// TLB bookkeeping.
    TLB_ID = 0x3d0;
    /// 0 forces a TLB flush at the next VMRUN.
    PCPU_ID = 0x3d8;
    /// Event injection.
    EVENT_INJ = 0x3e0;
    /// XCR0.
    XCR0 = 0x3e8;
}

/// Offset of the base in a segment.
pub const SEGMENT_BASE: usize = 8;

/// First byte behind the saved state; from here on reserved or intercept words.
pub const END_OF_STATE: usize = 0x900;

/// EFER.SVME: the VMSA may run.
pub const EFER_SVME: u64 = 1 << 12;
/// VINTR_CTRL.busy: the VMSA must not run.
pub const VINTR_CTRL_BUSY: u64 = 1 << 63;

/// Bits of SEV_FEATURES (sev_features.csv).
pub mod features {
    numbers! {
        pub u64:
        /// SNP active.
        SNP_ACTIVE = 1 << 0;
        /// vTOM.
        VTOM = 1 << 1;
        /// #VC events become exits.
        REFLECT_VC = 1 << 2;
        /// Only #HV may be injected.
        RESTRICTED_INJECTION = 1 << 3;
        /// Events come from the VMSA.
        ALTERNATE_INJECTION = 1 << 4;
        /// The VMPL mask has a say over supervisor shadow stacks.
        VMPL_SSS = 1 << 8;
        /// Secure AVIC.
        SECURE_AVIC = 1 << 16;
    }
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
