//! The register file of TDCALL (fact table `tdcall_leaves`, register rule).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The general registers that a TDCALL may take or give, in and out.
///
/// RSP and RBP are missing: no leaf used here takes them, and a port saves RBP (TDX-19).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Regs {
    /// In: leaf and version. Out: completion status.
    pub rax: u64,
    /// RCX.
    pub rcx: u64,
    /// RDX.
    pub rdx: u64,
    /// RBX.
    pub rbx: u64,
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
}

layout! {
    Regs: 0x70 {
        rax @ 0x00,
        rcx @ 0x08,
        rdx @ 0x10,
        rbx @ 0x18,
        rsi @ 0x20,
        rdi @ 0x28,
        r8 @ 0x30,
        r9 @ 0x38,
        r10 @ 0x40,
        r11 @ 0x48,
        r12 @ 0x50,
        r13 @ 0x58,
        r14 @ 0x60,
        r15 @ 0x68,
    }
}
