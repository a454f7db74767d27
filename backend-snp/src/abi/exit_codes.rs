//! Exit codes: error code of #VC, GUEST_EXITCODE of the VMSA, result of a run.
//!
//! Source: 24593, `facts/vc_exit_codes.csv`.

codes! {
    /// Why a guest left, or why it got #VC.
    ///
    /// Families such as control register accesses have the code of register 0 here; the register number is added.
    pub struct ExitCode(u64) {
        /// Read of CR0; up to 0x0f for CR15.
        CR_READ = 0x00;
        /// Write of CR0; up to 0x1f for CR15.
        CR_WRITE = 0x10;
        /// Read of DR0; up to 0x2f for DR15.
        DR_READ = 0x20;
        /// Read of DR7.
        DR7_READ = 0x27;
        /// Write of DR0; up to 0x3f for DR15.
        DR_WRITE = 0x30;
        /// Write of DR7.
        DR7_WRITE = 0x37;
        /// Debug exception.
        DB = 0x41;
        /// Alignment check.
        AC = 0x51;
        /// Machine check.
        MC = 0x52;
        /// Hypervisor injection exception.
        HV = 0x5c;
        /// #VC turned into an exit, with `REFLECT_VC` only.
        VC = 0x5d;
        /// Physical interrupt.
        INTR = 0x60;
        /// Physical NMI.
        NMI = 0x61;
        /// System management interrupt.
        SMI = 0x62;
        /// Physical INIT.
        INIT = 0x63;
        /// Virtual interrupt.
        VINTR = 0x64;
        /// Write of CR0 that changes other bits than TS and MP.
        CR0_SELECTIVE_WRITE = 0x65;
        /// SIDT.
        IDTR_READ = 0x66;
        /// SGDT.
        GDTR_READ = 0x67;
        /// SLDT.
        LDTR_READ = 0x68;
        /// STR.
        TR_READ = 0x69;
        /// LIDT.
        IDTR_WRITE = 0x6a;
        /// LGDT.
        GDTR_WRITE = 0x6b;
        /// LLDT.
        LDTR_WRITE = 0x6c;
        /// LTR.
        TR_WRITE = 0x6d;
        /// RDTSC.
        RDTSC = 0x6e;
        /// RDPMC.
        RDPMC = 0x6f;
        /// PUSHF.
        PUSHF = 0x70;
        /// POPF.
        POPF = 0x71;
        /// CPUID. Always raised for SNP guests.
        CPUID = 0x72;
        /// RSM.
        RSM = 0x73;
        /// IRET.
        IRET = 0x74;
        /// INT n.
        INTN = 0x75;
        /// INVD.
        INVD = 0x76;
        /// PAUSE.
        PAUSE = 0x77;
        /// HLT.
        HLT = 0x78;
        /// INVLPG.
        INVLPG = 0x79;
        /// INVLPGA.
        INVLPGA = 0x7a;
        /// Port I/O. Always raised for SNP guests.
        IOIO = 0x7b;
        /// RDMSR or WRMSR.
        MSR = 0x7c;
        /// Task switch.
        TASK_SWITCH = 0x7d;
        /// Frozen processor because of a legacy FPU error.
        FERR_FREEZE = 0x7e;
        /// Triple fault.
        SHUTDOWN = 0x7f;
        /// VMRUN.
        VMRUN = 0x80;
        /// VMMCALL.
        VMMCALL = 0x81;
        /// VMLOAD.
        VMLOAD = 0x82;
        /// VMSAVE.
        VMSAVE = 0x83;
        /// STGI.
        STGI = 0x84;
        /// CLGI.
        CLGI = 0x85;
        /// SKINIT.
        SKINIT = 0x86;
        /// RDTSCP.
        RDTSCP = 0x87;
        /// INT1.
        ICEBP = 0x88;
        /// WBINVD.
        WBINVD = 0x89;
        /// MONITOR or MONITORX.
        MONITOR = 0x8a;
        /// MWAIT or MWAITX.
        MWAIT = 0x8b;
        /// MWAIT while the monitor is armed.
        MWAIT_CONDITIONAL = 0x8c;
        /// XSETBV.
        XSETBV = 0x8d;
        /// RDPRU.
        RDPRU = 0x8e;
        /// After a write of EFER.
        EFER_WRITE_TRAP = 0x8f;
        /// After a write of CR0; up to 0x9f for CR15.
        CR_WRITE_TRAP = 0x90;
        /// INVLPGB.
        INVLPGB = 0xa0;
        /// INVLPGB with operands a guest may not use.
        ILLEGAL_INVLPGB = 0xa1;
        /// INVPCID.
        INVPCID = 0xa2;
        /// Bus lock threshold.
        BUSLOCK = 0xa5;
        /// HLT without a pending interrupt.
        IDLE_HLT = 0xa6;
        /// Nested page fault; in #VC it means MMIO.
        NPF = 0x400;
        /// Interrupt that the virtual controller could not deliver.
        AVIC_INCOMPLETE_IPI = 0x401;
        /// Access that the virtual controller could not do.
        AVIC_NO_ACCELERATION = 0x402;
        /// VMGEXIT.
        VMGEXIT = 0x403;
        /// Access to a private page that is not validated. CR2 holds the address.
        PAGE_NOT_VALIDATED = 0x404;
        /// Access that cannot be repeated: backing page of the interrupt controller not validated.
        NOT_RESTARTABLE = 0x406;
        /// First of a range for the hypervisor's own use.
        SOFTWARE_RESERVED = 0xf000_0000;
        /// The run failed: bad guest state.
        INVALID = u64::MAX;
        /// The run failed: busy bit set in the VMSA.
        BUSY = u64::MAX - 1;
        /// The run failed: sibling thread not idle.
        IDLE_REQUIRED = u64::MAX - 2;
        /// The run failed: bad counter state.
        INVALID_PMC = u64::MAX - 3;
    }
}
