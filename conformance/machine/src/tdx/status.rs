//! Completion status of TDCALL (completion_status.csv), exit reasons of an L2 (vmx_exit_reasons.csv).

/// Done.
pub const SUCCESS: u64 = 0;
/// An operand is bad; details: its [`operand`].
pub const OPERAND_INVALID: u64 = 0xc000_0100_0000_0000;
/// Somebody holds what an operand names; details: its [`operand`].
pub const OPERAND_BUSY: u64 = 0x8000_0200_0000_0000;
/// No #VE information is there.
pub const NO_VALID_VE_INFO: u64 = 0xc000_0704_0000_0000;
/// The page was accepted before; details: level.
pub const PAGE_ALREADY_ACCEPTED: u64 = 0x0000_0b0a_0000_0000;
/// The page is mapped smaller; details: level.
pub const PAGE_SIZE_MISMATCH: u64 = 0xc000_0b0b_0000_0000;
/// A table page of an L2 is missing; details: VM index in 31:16, level in 15:0.
pub const L2_SEPT_WALK_FAILED: u64 = 0xc000_0b0f_0000_0000;
/// Attributes that are no legal set.
pub const PAGE_ATTR_INVALID: u64 = 0xc000_0b11_0000_0000;
/// No such field.
pub const METADATA_FIELD_ID_INCORRECT: u64 = 0xc000_0c00_0000_0000;
/// The field is not L1's to write, or the mask selects nothing of it that is.
pub const METADATA_FIELD_NOT_WRITABLE: u64 = 0xc000_0c01_0000_0000;
/// The field is not L1's to read.
pub const METADATA_FIELD_NOT_READABLE: u64 = 0xc000_0c02_0000_0000;
/// Bits that L1 may not change, or a value that the field does not take.
pub const METADATA_FIELD_VALUE_NOT_VALID: u64 = 0xc000_0c03_0000_0000;
/// The id of no field was given: RDX has the first one.
pub const METADATA_FIRST_FIELD_ID_IN_CONTEXT: u64 = 0x0000_0c0b_0000_0000;
/// The report was made under another CPUSVN.
pub const INVALID_CPUSVN: u64 = 0xc000_1000_0000_0000;
/// The MAC is wrong, or the structure is no report.
pub const INVALID_REPORTMACSTRUCT: u64 = 0xc000_1001_0000_0000;
/// The host resumed L1 after an asynchronous exit of an L2; details: exit reason.
pub const L2_EXIT_HOST_ROUTED_ASYNC: u64 = 0x0000_1100_0000_0000;
/// The host resumed L1 after a TDVMCALL of an L2; details: 77.
pub const L2_EXIT_HOST_ROUTED_TDVMCALL: u64 = 0x0000_1101_0000_0000;
/// The L2 left because L1 has an interrupt to take; details: 1.
pub const L2_EXIT_PENDING_INTERRUPT: u64 = 0x0000_1102_0000_0000;
/// L1 has an interrupt to take: the L2 was not entered.
pub const PENDING_INTERRUPT: u64 = 0x0000_1120_0000_0000;
/// An address that is not canonical.
pub const GLA_NOT_CANONICAL: u64 = 0xc000_1160_0000_0000;

/// Operand ids in the details of [`OPERAND_INVALID`] and [`OPERAND_BUSY`].
pub mod operand {
    /// RAX.
    pub const RAX: u64 = 0;
    /// RCX.
    pub const RCX: u64 = 1;
    /// RDX.
    pub const RDX: u64 = 2;
    /// R8.
    pub const R8: u64 = 8;
    /// An RTMR.
    pub const RTMR: u64 = 168;
    /// The virtual-APIC page address of an L2.
    pub const L2_VAPIC_GPA: u64 = 170;
    /// A metadata field.
    pub const METADATA_FIELD: u64 = 176;
}

/// Basic exit reasons.
pub mod reason {
    /// An exception that the bitmap selects.
    pub const EXCEPTION: u32 = 0;
    /// External interrupt.
    pub const EXTERNAL_INTERRUPT: u32 = 1;
    /// Triple fault.
    pub const TRIPLE_FAULT: u32 = 2;
    /// The L2 can take an interrupt.
    pub const INTERRUPT_WINDOW: u32 = 7;
    /// The L2 can take an NMI.
    pub const NMI_WINDOW: u32 = 8;
    /// CPUID.
    pub const CPUID: u32 = 10;
    /// HLT.
    pub const HLT: u32 = 12;
    /// VMCALL.
    pub const VMCALL: u32 = 18;
    /// IN, OUT.
    pub const IO: u32 = 30;
    /// RDMSR.
    pub const RDMSR: u32 = 31;
    /// WRMSR.
    pub const WRMSR: u32 = 32;
    /// The VM entry failed for the state of the guest.
    pub const ENTRY_FAIL_GUEST_STATE: u32 = 33;
    /// MWAIT.
    pub const MWAIT: u32 = 36;
    /// MONITOR.
    pub const MONITOR: u32 = 39;
    /// PAUSE.
    pub const PAUSE: u32 = 40;
    /// EPT violation.
    pub const EPT_VIOLATION: u32 = 48;
    /// The deadline of the L2 has passed.
    pub const PREEMPTION_TIMER: u32 = 52;
    /// WBINVD.
    pub const WBINVD: u32 = 54;
    /// XSETBV.
    pub const XSETBV: u32 = 55;
    /// PCONFIG.
    pub const PCONFIG: u32 = 65;
    /// TDCALL.
    pub const TDCALL: u32 = 77;
    /// Bit of RAX 31:0 after VP.ENTER: the VM entry failed.
    pub const ENTRY_FAILED: u32 = 1 << 31;
}

/// Leaves (tdcall_leaves.csv).
pub mod leaf {
    /// TDG.VP.VMCALL.
    pub const VP_VMCALL: u16 = 0;
    /// TDG.VP.INFO.
    pub const VP_INFO: u16 = 1;
    /// TDG.MR.RTMR.EXTEND.
    pub const MR_RTMR_EXTEND: u16 = 2;
    /// TDG.VP.VEINFO.GET.
    pub const VP_VEINFO_GET: u16 = 3;
    /// TDG.MR.REPORT.
    pub const MR_REPORT: u16 = 4;
    /// TDG.VP.CPUIDVE.SET.
    pub const VP_CPUIDVE_SET: u16 = 5;
    /// TDG.MEM.PAGE.ACCEPT.
    pub const MEM_PAGE_ACCEPT: u16 = 6;
    /// TDG.VM.RD.
    pub const VM_RD: u16 = 7;
    /// TDG.VM.WR.
    pub const VM_WR: u16 = 8;
    /// TDG.VP.RD.
    pub const VP_RD: u16 = 9;
    /// TDG.VP.WR.
    pub const VP_WR: u16 = 10;
    /// TDG.SYS.RD.
    pub const SYS_RD: u16 = 11;
    /// TDG.MR.VERIFYREPORT.
    pub const MR_VERIFYREPORT: u16 = 22;
    /// TDG.MEM.PAGE.ATTR.RD.
    pub const MEM_PAGE_ATTR_RD: u16 = 23;
    /// TDG.MEM.PAGE.ATTR.WR.
    pub const MEM_PAGE_ATTR_WR: u16 = 24;
    /// TDG.VP.ENTER.
    pub const VP_ENTER: u16 = 25;
    /// TDG.VP.INVEPT.
    pub const VP_INVEPT: u16 = 26;
    /// TDG.VP.INVVPID.
    pub const VP_INVVPID: u16 = 27;
}

/// Sub-functions of TDG.VP.VMCALL (vmcall.csv).
pub mod vmcall {
    /// Instruction.CPUID.
    pub const CPUID: u64 = 0xa;
    /// Instruction.HLT.
    pub const HLT: u64 = 0xc;
    /// Instruction.IO.
    pub const IO: u64 = 0x1e;
    /// Instruction.RDMSR.
    pub const RDMSR: u64 = 0x1f;
    /// Instruction.WRMSR.
    pub const WRMSR: u64 = 0x20;
    /// #VE.RequestMMIO.
    pub const MMIO: u64 = 0x30;
    /// Instruction.WBINVD.
    pub const WBINVD: u64 = 0x36;
    /// GetTdVmCallInfo.
    pub const INFO: u64 = 0x1_0000;
    /// MapGPA.
    pub const MAP_GPA: u64 = 0x1_0001;
    /// GetQuote.
    pub const GET_QUOTE: u64 = 0x1_0002;
    /// ReportFatalError.
    pub const FATAL_ERROR: u64 = 0x1_0003;

    /// R10: done in part, R11 has the address to go on at.
    pub const RETRY: u64 = 1;
    /// R10: a bad operand.
    pub const INVALID_OPERAND: u64 = 0x8000_0000_0000_0000;
    /// R10: something is not aligned.
    pub const ALIGN_ERROR: u64 = 0x8000_0000_0000_0002;
    /// R10: no such sub-function.
    pub const SUBFUNC_UNSUPPORTED: u64 = 0x8000_0000_0000_0003;
}
