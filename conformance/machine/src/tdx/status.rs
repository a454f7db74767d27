//! Completion status of TDCALL (completion_status.csv), exit reasons of an L2 (vmx_exit_reasons.csv).

numbers! {
    pub u64:
    /// Done.
    SUCCESS = 0;
    /// An operand is bad; details: its [`operand`].
    OPERAND_INVALID = 0xc000_0100_0000_0000;
    /// Somebody holds what an operand names; details: its [`operand`].
    OPERAND_BUSY = 0x8000_0200_0000_0000;
    /// No #VE information is there.
    NO_VALID_VE_INFO = 0xc000_0704_0000_0000;
    /// The page was accepted before; details: level.
    PAGE_ALREADY_ACCEPTED = 0x0000_0b0a_0000_0000;
    /// The page is mapped smaller; details: level.
    PAGE_SIZE_MISMATCH = 0xc000_0b0b_0000_0000;
    /// A table page of an L2 is missing; details: VM index in 31:16, level in 15:0.
    L2_SEPT_WALK_FAILED = 0xc000_0b0f_0000_0000;
    /// Attributes that are no legal set.
    PAGE_ATTR_INVALID = 0xc000_0b11_0000_0000;
    /// No such field.
    METADATA_FIELD_ID_INCORRECT = 0xc000_0c00_0000_0000;
    /// The field is not L1's to write, or the mask selects nothing of it that is.
    METADATA_FIELD_NOT_WRITABLE = 0xc000_0c01_0000_0000;
    /// The field is not L1's to read.
    METADATA_FIELD_NOT_READABLE = 0xc000_0c02_0000_0000;
    /// Bits that L1 may not change, or a value that the field does not take.
    METADATA_FIELD_VALUE_NOT_VALID = 0xc000_0c03_0000_0000;
    /// The id of no field was given: RDX has the first one.
    METADATA_FIRST_FIELD_ID_IN_CONTEXT = 0x0000_0c0b_0000_0000;
    /// The report was made under another CPUSVN.
    INVALID_CPUSVN = 0xc000_1000_0000_0000;
    /// The MAC is wrong, or the structure is no report.
    INVALID_REPORTMACSTRUCT = 0xc000_1001_0000_0000;
    /// The host resumed L1 after an asynchronous exit of an L2; details: exit reason.
    L2_EXIT_HOST_ROUTED_ASYNC = 0x0000_1100_0000_0000;
    /// The host resumed L1 after a TDVMCALL of an L2; details: 77.
    L2_EXIT_HOST_ROUTED_TDVMCALL = 0x0000_1101_0000_0000;
    /// The L2 left because L1 has an interrupt to take; details: 1.
    L2_EXIT_PENDING_INTERRUPT = 0x0000_1102_0000_0000;
    /// L1 has an interrupt to take: the L2 was not entered.
    PENDING_INTERRUPT = 0x0000_1120_0000_0000;
    /// An address that is not canonical.
    GLA_NOT_CANONICAL = 0xc000_1160_0000_0000;
}

/// Operand ids in the details of [`OPERAND_INVALID`] and [`OPERAND_BUSY`].
pub mod operand {
    numbers! {
        pub u64:
        /// RAX.
        RAX = 0;
        /// RCX.
        RCX = 1;
        /// RDX.
        RDX = 2;
        /// R8.
        R8 = 8;
        /// An RTMR.
        RTMR = 168;
        /// The virtual-APIC page address of an L2.
        L2_VAPIC_GPA = 170;
        /// A metadata field.
        METADATA_FIELD = 176;
    }
}

/// Basic exit reasons.
pub mod reason {
    numbers! {
        pub u32:
        /// An exception that the bitmap selects.
        EXCEPTION = 0;
        /// External interrupt.
        EXTERNAL_INTERRUPT = 1;
        /// Triple fault.
        TRIPLE_FAULT = 2;
        /// The L2 can take an interrupt.
        INTERRUPT_WINDOW = 7;
        /// The L2 can take an NMI.
        NMI_WINDOW = 8;
        /// CPUID.
        CPUID = 10;
        /// HLT.
        HLT = 12;
        /// VMCALL.
        VMCALL = 18;
        /// IN, OUT.
        IO = 30;
        /// RDMSR.
        RDMSR = 31;
        /// WRMSR.
        WRMSR = 32;
        /// The VM entry failed for the state of the guest.
        ENTRY_FAIL_GUEST_STATE = 33;
        /// MWAIT.
        MWAIT = 36;
        /// MONITOR.
        MONITOR = 39;
        /// PAUSE.
        PAUSE = 40;
        /// EPT violation.
        EPT_VIOLATION = 48;
        /// The deadline of the L2 has passed.
        PREEMPTION_TIMER = 52;
        /// WBINVD.
        WBINVD = 54;
        /// XSETBV.
        XSETBV = 55;
        /// PCONFIG.
        PCONFIG = 65;
        /// TDCALL.
        TDCALL = 77;
    }

    /// Bit of RAX 31:0 after VP.ENTER: the VM entry failed.
    pub const ENTRY_FAILED: u32 = 1 << 31;
}

/// Leaves (tdcall_leaves.csv).
pub mod leaf {
    numbers! {
        pub u16:
        /// TDG.VP.VMCALL.
        VP_VMCALL = 0;
        /// TDG.VP.INFO.
        VP_INFO = 1;
        /// TDG.MR.RTMR.EXTEND.
        MR_RTMR_EXTEND = 2;
        /// TDG.VP.VEINFO.GET.
        VP_VEINFO_GET = 3;
        /// TDG.MR.REPORT.
        MR_REPORT = 4;
        /// TDG.VP.CPUIDVE.SET.
        VP_CPUIDVE_SET = 5;
        /// TDG.MEM.PAGE.ACCEPT.
        MEM_PAGE_ACCEPT = 6;
        /// TDG.VM.RD.
        VM_RD = 7;
        /// TDG.VM.WR.
        VM_WR = 8;
        /// TDG.VP.RD.
        VP_RD = 9;
        /// TDG.VP.WR.
        VP_WR = 10;
        /// TDG.SYS.RD.
        SYS_RD = 11;
        /// TDG.MR.VERIFYREPORT.
        MR_VERIFYREPORT = 22;
        /// TDG.MEM.PAGE.ATTR.RD.
        MEM_PAGE_ATTR_RD = 23;
        /// TDG.MEM.PAGE.ATTR.WR.
        MEM_PAGE_ATTR_WR = 24;
        /// TDG.VP.ENTER.
        VP_ENTER = 25;
        /// TDG.VP.INVEPT.
        VP_INVEPT = 26;
        /// TDG.VP.INVVPID.
        VP_INVVPID = 27;
    }
}

/// Sub-functions of TDG.VP.VMCALL (vmcall.csv).
pub mod vmcall {
    numbers! {
        pub u64:
        /// Instruction.CPUID.
        CPUID = 0xa;
        /// Instruction.HLT.
        HLT = 0xc;
        /// Instruction.IO.
        IO = 0x1e;
        /// Instruction.RDMSR.
        RDMSR = 0x1f;
        /// Instruction.WRMSR.
        WRMSR = 0x20;
        /// #VE.RequestMMIO.
        MMIO = 0x30;
        /// Instruction.WBINVD.
        WBINVD = 0x36;
        /// GetTdVmCallInfo.
        INFO = 0x1_0000;
        /// MapGPA.
        MAP_GPA = 0x1_0001;
        /// GetQuote.
        GET_QUOTE = 0x1_0002;
        /// ReportFatalError.
        FATAL_ERROR = 0x1_0003;

        /// R10: done in part, R11 has the address to go on at.
        RETRY = 1;
        /// R10: a bad operand.
        INVALID_OPERAND = 0x8000_0000_0000_0000;
        /// R10: something is not aligned.
        ALIGN_ERROR = 0x8000_0000_0000_0002;
        /// R10: no such sub-function.
        SUBFUNC_UNSUPPORTED = 0x8000_0000_0000_0003;
    }
}
