//! The GHCB: the shared page through which a level asks the host.
//!
//! Source: 56421 version 2, `facts/ghcb_page.csv`.

use core::fmt;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::nae::NaeCode;

/// The GHCB page, 4096 bytes.
///
/// The host can change the page at any time: this type is for copies and for the offsets. `Debug` prints the request
/// and no guest register.
#[derive(Clone, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Ghcb {
    _reserved_0x000: [u8; 203],
    /// Current privilege level, for VMMCALL.
    pub cpl: u8,
    _reserved_0x0cc: [u8; 116],
    /// IA32_XSS, for CPUID 0xd.
    pub xss: u64,
    _reserved_0x148: [u8; 24],
    /// DR7.
    pub dr7: u64,
    _reserved_0x168: [u8; 16],
    /// RIP.
    pub rip: u64,
    _reserved_0x180: [u8; 88],
    /// RSP.
    pub rsp: u64,
    _reserved_0x1e0: [u8; 24],
    /// RAX.
    pub rax: u64,
    _reserved_0x200: [u8; 264],
    /// RCX.
    pub rcx: u64,
    /// RDX.
    pub rdx: u64,
    /// RBX.
    pub rbx: u64,
    _reserved_0x320: [u8; 8],
    /// RBP.
    pub rbp: u64,
    /// RSI.
    pub rsi: u64,
    /// RDI.
    pub rdi: u64,
    /// R8.
    pub r8: u64,
    /// R9.
    pub r9: u64,
    /// R10.
    pub r10: u64,
    /// R11.
    pub r11: u64,
    /// R12.
    pub r12: u64,
    /// R13.
    pub r13: u64,
    /// R14.
    pub r14: u64,
    /// R15.
    pub r15: u64,
    _reserved_0x380: [u8; 16],
    /// SW_EXITCODE: what is asked for.
    pub sw_exit_code: NaeCode,
    /// SW_EXITINFO1: parameter in, status out.
    pub sw_exit_info_1: u64,
    /// SW_EXITINFO2: parameter in, detail out.
    pub sw_exit_info_2: u64,
    /// SW_SCRATCH: guest-physical address of the data, inside [`Ghcb::shared_buffer`].
    pub sw_scratch: u64,
    _reserved_0x3b0: [u8; 56],
    /// XCR0, for CPUID 0xd.
    pub xcr0: u64,
    /// Which of the 8-byte words above count.
    pub valid_bitmap: ValidBitmap,
    /// Guest-physical address of saved x87 state.
    pub x87_state_gpa: u64,
    _reserved_0x408: [u8; 1016],
    /// Data of a request.
    pub shared_buffer: [u8; 2032],
    _reserved_0xff0: [u8; 10],
    /// Protocol version in use.
    pub version: u16,
    /// Layout of the page.
    pub usage: GhcbUsage,
}

layout! { Ghcb: 0x1000 {
    _reserved_0x000 @ 0x000,
    cpl @ 0x0cb,
    _reserved_0x0cc @ 0x0cc,
    xss @ 0x140,
    _reserved_0x148 @ 0x148,
    dr7 @ 0x160,
    _reserved_0x168 @ 0x168,
    rip @ 0x178,
    _reserved_0x180 @ 0x180,
    rsp @ 0x1d8,
    _reserved_0x1e0 @ 0x1e0,
    rax @ 0x1f8,
    _reserved_0x200 @ 0x200,
    rcx @ 0x308,
    rdx @ 0x310,
    rbx @ 0x318,
    _reserved_0x320 @ 0x320,
    rbp @ 0x328,
    rsi @ 0x330,
    rdi @ 0x338,
    r8 @ 0x340,
    r9 @ 0x348,
    r10 @ 0x350,
    r11 @ 0x358,
    r12 @ 0x360,
    r13 @ 0x368,
    r14 @ 0x370,
    r15 @ 0x378,
    _reserved_0x380 @ 0x380,
    sw_exit_code @ 0x390,
    sw_exit_info_1 @ 0x398,
    sw_exit_info_2 @ 0x3a0,
    sw_scratch @ 0x3a8,
    _reserved_0x3b0 @ 0x3b0,
    xcr0 @ 0x3e8,
    valid_bitmap @ 0x3f0,
    x87_state_gpa @ 0x400,
    _reserved_0x408 @ 0x408,
    shared_buffer @ 0x800,
    _reserved_0xff0 @ 0xff0,
    version @ 0xffa,
    usage @ 0xffc,
} }

impl Ghcb {
    /// The protocol version that SNP needs.
    pub const VERSION_2: u16 = 2;
}

impl fmt::Debug for Ghcb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ghcb")
            .field("sw_exit_code", &self.sw_exit_code)
            .field("sw_exit_info_1", &format_args!("{:#x}", self.sw_exit_info_1))
            .field("sw_exit_info_2", &format_args!("{:#x}", self.sw_exit_info_2))
            .field("valid_bitmap", &self.valid_bitmap)
            .field("version", &self.version)
            .field("usage", &self.usage)
            .finish_non_exhaustive()
    }
}

codes! {
    /// Bit of a field in [`ValidBitmap`]: its offset in 8-byte words.
    pub struct ValidBit(u8) {
        /// CPL.
        CPL = 25;
        /// XSS.
        XSS = 40;
        /// DR7.
        DR7 = 44;
        /// RIP.
        RIP = 47;
        /// RSP.
        RSP = 59;
        /// RAX.
        RAX = 63;
        /// RCX.
        RCX = 97;
        /// RDX.
        RDX = 98;
        /// RBX.
        RBX = 99;
        /// RBP.
        RBP = 101;
        /// RSI.
        RSI = 102;
        /// RDI.
        RDI = 103;
        /// R8.
        R8 = 104;
        /// R9.
        R9 = 105;
        /// R10.
        R10 = 106;
        /// R11.
        R11 = 107;
        /// R12.
        R12 = 108;
        /// R13.
        R13 = 109;
        /// R14.
        R14 = 110;
        /// R15.
        R15 = 111;
        /// SW_EXITCODE.
        SW_EXIT_CODE = 114;
        /// SW_EXITINFO1.
        SW_EXIT_INFO_1 = 115;
        /// SW_EXITINFO2.
        SW_EXIT_INFO_2 = 116;
        /// SW_SCRATCH.
        SW_SCRATCH = 117;
        /// XCR0.
        XCR0 = 125;
    }
}

impl ValidBit {
    /// Offset in the page of the 8-byte word that the bit is for.
    pub const fn offset(self) -> usize {
        self.0 as usize * 8
    }
}

/// Bit n says that the 8-byte word at offset 8n of the page counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(transparent)]
pub struct ValidBitmap(pub [u8; 16]);

impl ValidBitmap {
    /// Says whether the field counts.
    pub fn is_set(&self, field: ValidBit) -> bool {
        self.0.get(usize::from(field.0 / 8)).is_some_and(|byte| byte & (1 << (field.0 % 8)) != 0)
    }

    /// Marks the field as counting. A bit beyond 127 does not exist and is ignored.
    pub fn set(&mut self, field: ValidBit) {
        if let Some(byte) = self.0.get_mut(usize::from(field.0 / 8)) {
            *byte |= 1 << (field.0 % 8);
        }
    }
}

codes! {
    /// Layout of a GHCB page.
    pub struct GhcbUsage(u32) {
        /// The layout of [`Ghcb`].
        STANDARD = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_valid_bit_is_one_bit_in_the_bytes_of_the_bitmap() {
        let mut bitmap = ValidBitmap::default();
        bitmap.set(ValidBit::RAX);
        bitmap.set(ValidBit(200));
        let mut expected = [0; 16];
        expected[7] = 0x80;
        assert_eq!(bitmap.0, expected);
        assert!(bitmap.is_set(ValidBit::RAX));
        assert!(!bitmap.is_set(ValidBit::RCX));
        assert!(!bitmap.is_set(ValidBit(200)));
    }
}
