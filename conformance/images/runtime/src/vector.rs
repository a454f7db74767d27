//! Vector registers. The code of an image uses none: they are there to be looked at.
//!
//! Each processor with SNP has AVX, whatever a CPUID page says of it.

use core::arch::asm;

/// CR4: OSFXSR, OSXMMEXCPT and OSXSAVE.
const CR4: u64 = 1 << 9 | 1 << 10 | 1 << 18;
/// XCR0: x87, SSE and AVX.
pub const XCR0: u64 = 0b111;

/// MXCSR, and YMM0 to YMM15.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Registers {
    /// 256 bits each.
    pub ymm: [[u64; 4]; 16],
    /// Modes and flags of SSE.
    pub mxcsr: u32,
}

/// Turns them on.
pub fn enable() {
    // SAFETY: the bits of CR4 allow instructions that nobody else uses, and XCR0 gets a value that is legal then.
    unsafe {
        asm!(
            "mov rax, cr4",
            "or rax, {cr4}",
            "mov cr4, rax",
            "xor ecx, ecx",
            "xor edx, edx",
            "mov eax, {xcr0}",
            "xsetbv",
            cr4 = const CR4,
            xcr0 = const XCR0,
            out("rax") _, out("rcx") _, out("rdx") _,
            options(nostack),
        );
    }
}

/// What XCR0 holds. After [`enable`].
pub fn xcr0() -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: reads a register; OSXSAVE is on.
    unsafe { asm!("xgetbv", in("ecx") 0, out("eax") low, out("edx") high, options(nomem, nostack, preserves_flags)) }
    u64::from(high) << 32 | u64::from(low)
}

/// Loads all of them. After [`enable`].
pub fn load(registers: &Registers) {
    // SAFETY: reads the value, and changes registers that no code of an image uses. MXCSR has exceptions masked or not, but
    // nobody calculates.
    unsafe {
        asm!(
            "vmovdqu ymm0, [{0}]",
            "vmovdqu ymm1, [{0} + 0x20]",
            "vmovdqu ymm2, [{0} + 0x40]",
            "vmovdqu ymm3, [{0} + 0x60]",
            "vmovdqu ymm4, [{0} + 0x80]",
            "vmovdqu ymm5, [{0} + 0xa0]",
            "vmovdqu ymm6, [{0} + 0xc0]",
            "vmovdqu ymm7, [{0} + 0xe0]",
            "vmovdqu ymm8, [{0} + 0x100]",
            "vmovdqu ymm9, [{0} + 0x120]",
            "vmovdqu ymm10, [{0} + 0x140]",
            "vmovdqu ymm11, [{0} + 0x160]",
            "vmovdqu ymm12, [{0} + 0x180]",
            "vmovdqu ymm13, [{0} + 0x1a0]",
            "vmovdqu ymm14, [{0} + 0x1c0]",
            "vmovdqu ymm15, [{0} + 0x1e0]",
            "vldmxcsr [{0} + 0x200]",
            in(reg) registers,
            options(nostack, preserves_flags, readonly),
        );
    }
}

/// Stores all of them. After [`enable`].
pub fn store() -> Registers {
    let mut registers = Registers { ymm: [[0; 4]; 16], mxcsr: 0 };
    // SAFETY: writes the value and nothing else.
    unsafe {
        asm!(
            "vmovdqu [{0}], ymm0",
            "vmovdqu [{0} + 0x20], ymm1",
            "vmovdqu [{0} + 0x40], ymm2",
            "vmovdqu [{0} + 0x60], ymm3",
            "vmovdqu [{0} + 0x80], ymm4",
            "vmovdqu [{0} + 0xa0], ymm5",
            "vmovdqu [{0} + 0xc0], ymm6",
            "vmovdqu [{0} + 0xe0], ymm7",
            "vmovdqu [{0} + 0x100], ymm8",
            "vmovdqu [{0} + 0x120], ymm9",
            "vmovdqu [{0} + 0x140], ymm10",
            "vmovdqu [{0} + 0x160], ymm11",
            "vmovdqu [{0} + 0x180], ymm12",
            "vmovdqu [{0} + 0x1a0], ymm13",
            "vmovdqu [{0} + 0x1c0], ymm14",
            "vmovdqu [{0} + 0x1e0], ymm15",
            "vstmxcsr [{0} + 0x200]",
            in(reg) &raw mut registers,
            options(nostack, preserves_flags),
        );
    }
    registers
}
