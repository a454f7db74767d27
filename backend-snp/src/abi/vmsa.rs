//! The VMSA: the page that holds the registers of a vCPU at one VMPL while it does not run.

use core::fmt;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::exit_codes::ExitCode;
use super::segment::Segment;
use super::sev_features::SevFeatures;
use super::vmsa_control::{EventInj, VintrCtrl};

/// The VMSA page, 4096 bytes.
///
/// `Debug` prints what identifies a VMSA and no guest register.
///
/// Source: 24593 (save area of SEV-ES and SEV-SNP guests), `facts/vmsa.csv`.
#[derive(Clone, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Vmsa {
    /// ES.
    pub es: Segment,
    /// CS.
    pub cs: Segment,
    /// SS.
    pub ss: Segment,
    /// DS.
    pub ds: Segment,
    /// FS.
    pub fs: Segment,
    /// GS.
    pub gs: Segment,
    /// Global descriptor table; limit and base count.
    pub gdtr: Segment,
    /// Local descriptor table.
    pub ldtr: Segment,
    /// Interrupt descriptor table; limit and base count.
    pub idtr: Segment,
    /// Task register.
    pub tr: Segment,
    /// Shadow stack pointer of CPL 0.
    pub pl0_ssp: u64,
    /// Shadow stack pointer of CPL 1.
    pub pl1_ssp: u64,
    /// Shadow stack pointer of CPL 2.
    pub pl2_ssp: u64,
    /// Shadow stack pointer of CPL 3.
    pub pl3_ssp: u64,
    /// Control of shadow stacks at CPL 3.
    pub u_cet: u64,
    _reserved_0x0c8: [u8; 2],
    /// Number of the VMPL at which this VMSA runs.
    pub vmpl: u8,
    /// Current privilege level.
    pub cpl: u8,
    _reserved_0x0cc: [u8; 4],
    /// EFER. Bit [`Vmsa::EFER_SVME`] has to be set for the VMSA to run.
    pub efer: u64,
    _reserved_0x0d8: [u8; 104],
    /// IA32_XSS.
    pub xss: u64,
    /// CR4.
    pub cr4: u64,
    /// CR3.
    pub cr3: u64,
    /// CR0.
    pub cr0: u64,
    /// DR7.
    pub dr7: u64,
    /// DR6.
    pub dr6: u64,
    /// RFLAGS.
    pub rflags: u64,
    /// RIP.
    pub rip: u64,
    /// DR0; switched with `DEBUG_VIRTUALIZATION` only.
    pub dr0: u64,
    /// DR1; as `dr0`.
    pub dr1: u64,
    /// DR2; as `dr0`.
    pub dr2: u64,
    /// DR3; as `dr0`.
    pub dr3: u64,
    /// Address mask of DR0; as `dr0`.
    pub dr0_addr_mask: u64,
    /// Address mask of DR1; as `dr0`.
    pub dr1_addr_mask: u64,
    /// Address mask of DR2; as `dr0`.
    pub dr2_addr_mask: u64,
    /// Address mask of DR3; as `dr0`.
    pub dr3_addr_mask: u64,
    _reserved_0x1c0: [u8; 24],
    /// RSP.
    pub rsp: u64,
    /// Control of shadow stacks at CPL 0 to 2.
    pub s_cet: u64,
    /// Shadow stack pointer.
    pub ssp: u64,
    /// Address of the interrupt shadow stack table.
    pub isst_addr: u64,
    /// RAX. Carries call and result of an SVSM call.
    pub rax: u64,
    /// STAR.
    pub star: u64,
    /// LSTAR.
    pub lstar: u64,
    /// CSTAR.
    pub cstar: u64,
    /// SFMASK.
    pub sfmask: u64,
    /// KERNEL_GS_BASE.
    pub kernel_gs_base: u64,
    /// SYSENTER_CS.
    pub sysenter_cs: u64,
    /// SYSENTER_ESP.
    pub sysenter_esp: u64,
    /// SYSENTER_EIP.
    pub sysenter_eip: u64,
    /// CR2.
    pub cr2: u64,
    _reserved_0x248: [u8; 32],
    /// Page attribute table.
    pub g_pat: u64,
    /// DEBUGCTL.
    pub dbgctl: u64,
    /// Source of the last branch.
    pub br_from: u64,
    /// Target of the last branch.
    pub br_to: u64,
    /// Source of the last exception.
    pub last_excp_from: u64,
    /// Target of the last exception.
    pub last_excp_to: u64,
    _reserved_0x298: [u8; 72],
    /// SPEC_CTRL.
    pub spec_ctrl: u64,
    /// PKRU.
    pub pkru: u32,
    /// TSC_AUX.
    pub tsc_aux: u32,
    /// Scale of the secure TSC, fixed point 8.32.
    pub guest_tsc_scale: u64,
    /// Offset of the secure TSC.
    pub guest_tsc_offset: u64,
    /// Nonce that masks registers with `VMSA_REG_PROT`.
    pub reg_prot_nonce: u64,
    /// RCX.
    pub rcx: u64,
    /// RDX.
    pub rdx: u64,
    /// RBX.
    pub rbx: u64,
    /// Secure interrupt controller: bit 0 enable, bit 1 allow NMI, bits 51:12 backing page.
    pub secure_avic_ctl: u64,
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
    /// First detail of the last automatic exit.
    pub guest_exitinfo1: u64,
    /// Second detail of the last automatic exit.
    pub guest_exitinfo2: u64,
    /// Event that was being delivered at the exit.
    pub guest_exitintinfo: u64,
    /// RIP of the instruction after the one that exited.
    pub guest_nrip: u64,
    /// Features that are on for this VMSA.
    pub sev_features: SevFeatures,
    /// Virtual interrupts, with `ALTERNATE_INJECTION`.
    pub vintr_ctrl: VintrCtrl,
    /// Code of the last automatic exit.
    pub guest_exit_code: ExitCode,
    /// First shared address with `VTOM`, a multiple of 2 MiB.
    pub virtual_tom: u64,
    /// TLB bookkeeping of the hardware.
    pub tlb_id: u64,
    /// Bookkeeping of the hardware; 0 forces a TLB flush at the next run.
    pub pcpu_id: u64,
    /// Event to deliver, with `ALTERNATE_INJECTION`.
    pub event_inj: EventInj,
    /// XCR0.
    pub xcr0: u64,
    /// Which parts of the extended state count.
    pub xsave_valid_bitmap: [u8; 16],
    /// x87 data pointer.
    pub x87_dp: u64,
    /// MXCSR.
    pub mxcsr: u32,
    /// x87 tag word.
    pub x87_ftw: u16,
    /// x87 status word.
    pub x87_fsw: u16,
    /// x87 control word.
    pub x87_fcw: u16,
    /// x87 opcode.
    pub x87_fop: u16,
    /// x87 data selector.
    pub x87_ds: u16,
    /// x87 code selector.
    pub x87_cs: u16,
    /// x87 instruction pointer.
    pub x87_rip: u64,
    /// Eight x87 registers of 10 bytes.
    pub fpreg_x87: [u8; 80],
    /// XMM0 to XMM15.
    pub fpreg_xmm: [u8; 256],
    /// Upper halves of YMM0 to YMM15.
    pub fpreg_ymm: [u8; 256],
    /// Branch records.
    pub lbr_stack: [u8; 256],
    /// Filter of the branch records.
    pub lbr_select: u64,
    /// Instruction sampling: fetch control.
    pub ibs_fetch_ctl: u64,
    /// Instruction sampling: fetch address.
    pub ibs_fetch_linaddr: u64,
    /// Instruction sampling: operation control.
    pub ibs_op_ctl: u64,
    /// Instruction sampling: operation address.
    pub ibs_op_rip: u64,
    /// Instruction sampling: operation data.
    pub ibs_op_data: u64,
    /// Instruction sampling: operation data.
    pub ibs_op_data2: u64,
    /// Instruction sampling: operation data.
    pub ibs_op_data3: u64,
    /// Instruction sampling: data address.
    pub ibs_dc_linaddr: u64,
    /// Instruction sampling: branch target.
    pub bp_ibstgt_rip: u64,
    /// Instruction sampling: extended fetch control.
    pub ic_ibs_extd_ctl: u64,
    _reserved_0x7c8: [u8; 312],
    /// Eight intercept words of 32 bits, with `GUEST_INTERCEPT_CTL`.
    pub guest_intercept_vectors: [u32; 8],
    /// Four register intercept words of 64 bits, with `GUEST_INTERCEPT_CTL`.
    pub guest_msr_intercepts: [u64; 4],
    _reserved_0x940: [u8; 1728],
}

layout! { Vmsa: 0x1000 {
    es @ 0x000,
    cs @ 0x010,
    ss @ 0x020,
    ds @ 0x030,
    fs @ 0x040,
    gs @ 0x050,
    gdtr @ 0x060,
    ldtr @ 0x070,
    idtr @ 0x080,
    tr @ 0x090,
    pl0_ssp @ 0x0a0,
    pl1_ssp @ 0x0a8,
    pl2_ssp @ 0x0b0,
    pl3_ssp @ 0x0b8,
    u_cet @ 0x0c0,
    _reserved_0x0c8 @ 0x0c8,
    vmpl @ 0x0ca,
    cpl @ 0x0cb,
    _reserved_0x0cc @ 0x0cc,
    efer @ 0x0d0,
    _reserved_0x0d8 @ 0x0d8,
    xss @ 0x140,
    cr4 @ 0x148,
    cr3 @ 0x150,
    cr0 @ 0x158,
    dr7 @ 0x160,
    dr6 @ 0x168,
    rflags @ 0x170,
    rip @ 0x178,
    dr0 @ 0x180,
    dr1 @ 0x188,
    dr2 @ 0x190,
    dr3 @ 0x198,
    dr0_addr_mask @ 0x1a0,
    dr1_addr_mask @ 0x1a8,
    dr2_addr_mask @ 0x1b0,
    dr3_addr_mask @ 0x1b8,
    _reserved_0x1c0 @ 0x1c0,
    rsp @ 0x1d8,
    s_cet @ 0x1e0,
    ssp @ 0x1e8,
    isst_addr @ 0x1f0,
    rax @ 0x1f8,
    star @ 0x200,
    lstar @ 0x208,
    cstar @ 0x210,
    sfmask @ 0x218,
    kernel_gs_base @ 0x220,
    sysenter_cs @ 0x228,
    sysenter_esp @ 0x230,
    sysenter_eip @ 0x238,
    cr2 @ 0x240,
    _reserved_0x248 @ 0x248,
    g_pat @ 0x268,
    dbgctl @ 0x270,
    br_from @ 0x278,
    br_to @ 0x280,
    last_excp_from @ 0x288,
    last_excp_to @ 0x290,
    _reserved_0x298 @ 0x298,
    spec_ctrl @ 0x2e0,
    pkru @ 0x2e8,
    tsc_aux @ 0x2ec,
    guest_tsc_scale @ 0x2f0,
    guest_tsc_offset @ 0x2f8,
    reg_prot_nonce @ 0x300,
    rcx @ 0x308,
    rdx @ 0x310,
    rbx @ 0x318,
    secure_avic_ctl @ 0x320,
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
    guest_exitinfo1 @ 0x390,
    guest_exitinfo2 @ 0x398,
    guest_exitintinfo @ 0x3a0,
    guest_nrip @ 0x3a8,
    sev_features @ 0x3b0,
    vintr_ctrl @ 0x3b8,
    guest_exit_code @ 0x3c0,
    virtual_tom @ 0x3c8,
    tlb_id @ 0x3d0,
    pcpu_id @ 0x3d8,
    event_inj @ 0x3e0,
    xcr0 @ 0x3e8,
    xsave_valid_bitmap @ 0x3f0,
    x87_dp @ 0x400,
    mxcsr @ 0x408,
    x87_ftw @ 0x40c,
    x87_fsw @ 0x40e,
    x87_fcw @ 0x410,
    x87_fop @ 0x412,
    x87_ds @ 0x414,
    x87_cs @ 0x416,
    x87_rip @ 0x418,
    fpreg_x87 @ 0x420,
    fpreg_xmm @ 0x470,
    fpreg_ymm @ 0x570,
    lbr_stack @ 0x670,
    lbr_select @ 0x770,
    ibs_fetch_ctl @ 0x778,
    ibs_fetch_linaddr @ 0x780,
    ibs_op_ctl @ 0x788,
    ibs_op_rip @ 0x790,
    ibs_op_data @ 0x798,
    ibs_op_data2 @ 0x7a0,
    ibs_op_data3 @ 0x7a8,
    ibs_dc_linaddr @ 0x7b0,
    bp_ibstgt_rip @ 0x7b8,
    ic_ibs_extd_ctl @ 0x7c0,
    _reserved_0x7c8 @ 0x7c8,
    guest_intercept_vectors @ 0x900,
    guest_msr_intercepts @ 0x920,
    _reserved_0x940 @ 0x940,
} }

impl Vmsa {
    /// The bit of EFER without which a VMSA does not run.
    pub const EFER_SVME: u64 = 1 << 12;
}

impl fmt::Debug for Vmsa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vmsa")
            .field("vmpl", &self.vmpl)
            .field("runs", &(self.efer & Self::EFER_SVME != 0))
            .field("sev_features", &self.sev_features)
            .field("guest_exit_code", &self.guest_exit_code)
            .finish_non_exhaustive()
    }
}
