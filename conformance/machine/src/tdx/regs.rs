//! Registers that programs hand over.

/// The register file of TDCALL. RSP takes part in nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Regs {
    /// In: leaf in 15:0, version in 23:16. Out: completion status.
    pub rax: u64,
    /// RCX.
    pub rcx: u64,
    /// RDX.
    pub rdx: u64,
    /// RBX.
    pub rbx: u64,
    /// RBP: after VP.ENTER it is the L2's (TDX-19).
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
}

/// The registers of a call from an L2 to L1 (the SVSM calling convention).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CallRegs {
    /// RAX: call in, result out.
    pub rax: u64,
    /// RCX.
    pub rcx: u64,
    /// RDX.
    pub rdx: u64,
    /// R8.
    pub r8: u64,
    /// R9.
    pub r9: u64,
}

/// The state of a vCPU that the module does not switch between L1 and an L2 (TDX-20): one set, whoever runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unswitched {
    /// x87, SSE and AVX registers, in place of an XSAVE area.
    pub vector: [u8; 64],
    /// XCR0.
    pub xcr0: u64,
    /// CR2.
    pub cr2: u64,
    /// DR0 to DR3.
    pub dr: [u64; 4],
    /// DR6.
    pub dr6: u64,
    /// STAR.
    pub star: u64,
    /// LSTAR.
    pub lstar: u64,
    /// FMASK.
    pub fmask: u64,
    /// KERNEL_GS_BASE.
    pub kernel_gs_base: u64,
    /// TSC_AUX.
    pub tsc_aux: u64,
    /// XSS.
    pub xss: u64,
}

impl Default for Unswitched {
    /// The values after reset.
    fn default() -> Self {
        Self {
            vector: [0; 64],
            xcr0: 1,
            cr2: 0,
            dr: [0; 4],
            dr6: 0xffff_0ff0,
            star: 0,
            lstar: 0,
            fmask: 0,
            kernel_gs_base: 0,
            tsc_aux: 0,
            xss: 0,
        }
    }
}
