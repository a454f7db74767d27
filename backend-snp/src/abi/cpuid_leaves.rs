//! CPUID leaves that speak of encrypted guests.
//!
//! What the processor can do is not what is on: features in effect stand in
//! [`SevStatus`](super::sev_features::SevStatus). The answers are those of the CPUID page, which the firmware checked; the
//! host's own answers are not used for any of them.
//!
//! Source: 24593, `facts/cpuid_leaves.csv`.

codes! {
    /// A leaf, as EAX selects it.
    pub struct CpuidLeaf(u32) {
        /// Family, features, APIC id.
        FEATURES = 0x0000_0001;
        /// Topology with the x2APIC id.
        TOPOLOGY = 0x0000_000b;
        /// Sizes and components of the extended state.
        EXTENDED_STATE = 0x0000_000d;
        /// Vendor of the hypervisor.
        HYPERVISOR = 0x4000_0000;
        /// Highest extended leaf.
        EXTENDED = 0x8000_0000;
        /// Sizes of addresses, [`FlushFeatures`].
        ADDRESS_SIZES = 0x8000_0008;
        /// APIC id, compute unit and node.
        NODE = 0x8000_001e;
        /// [`EncryptionFeatures`], [`EncryptionLimits`].
        ENCRYPTION = 0x8000_001f;
        /// Sizes of a segmented RMP.
        SEGMENTED_RMP = 0x8000_0025;
    }
}

flags! {
    /// EAX of [`CpuidLeaf::ENCRYPTION`].
    pub struct EncryptionFeatures(u32) {
        /// Host memory encryption.
        SME = 1 << 0;
        /// Encrypted guests.
        SEV = 1 << 1;
        /// The MSR that flushes one encrypted page.
        PAGE_FLUSH_MSR = 1 << 2;
        /// Encrypted register state.
        SEV_ES = 1 << 3;
        /// Memory integrity by the RMP.
        SEV_SNP = 1 << 4;
        /// Privilege levels.
        VMPL = 1 << 5;
        /// The instruction RMPQUERY. Without it the same bytes mean something else.
        RMPQUERY = 1 << 6;
        /// A right of its own for supervisor shadow stacks.
        VMPL_SSS = 1 << 7;
        /// A TSC that the host cannot change.
        SECURE_TSC = 1 << 8;
        /// TSC_AUX is switched with the guest.
        TSC_AUX_VIRTUALIZATION = 1 << 9;
        /// Caches are coherent between encryption domains.
        HW_ENF_CACHE_COH = 1 << 10;
        /// Guests are launched by a 64-bit host only.
        HOST_64BIT = 1 << 11;
        /// The host may inject #HV only.
        RESTRICTED_INJECTION = 1 << 12;
        /// Events come from the VMSA.
        ALTERNATE_INJECTION = 1 << 13;
        /// Debug registers are switched by hardware.
        DEBUG_VIRT = 1 << 14;
        /// The host may be kept from sampling.
        PREVENT_HOST_IBS = 1 << 15;
        /// Encryption without C-bits for plain encrypted guests.
        VTE = 1 << 16;
        /// RAX and CPL may be shown to the host at VMGEXIT.
        VMGEXIT_PARAMETER = 1 << 17;
        /// The MSR for the first shared address.
        VIRTUAL_TOM_MSR = 1 << 18;
        /// Instruction sampling may be virtualised.
        IBS_VIRT_GUEST_CTL = 1 << 19;
        /// Performance counters may be virtualised.
        PMC_VIRT_GUEST_CTL = 1 << 20;
        /// The host's instruction RMPREAD.
        RMPREAD = 1 << 21;
        /// A level may intercept events of those below.
        GUEST_INTERCEPT_CTL = 1 << 22;
        /// The RMP may be segmented.
        SEGMENTED_RMP = 1 << 23;
        /// Registers in the VMSA may be masked.
        VMSA_REG_PROT = 1 << 24;
        /// The sibling thread may be demanded idle.
        SMT_PROTECTION = 1 << 25;
        /// The interrupt controller page may belong to the guest.
        SECURE_AVIC = 1 << 26;
        /// The host may restrict features.
        ALLOWED_SEV_FEATURES = 1 << 27;
        /// Set by software for the kernel above it: there is an SVSM, and its call area can be read from an MSR.
        SVSM_COMM_PAGE_MSR = 1 << 28;
        /// Set by a hypervisor: nested guests.
        NESTED_VIRT_SNP_MSR = 1 << 29;
        /// The host may write to pages in use.
        HV_IN_USE_WR_ALLOWED = 1 << 30;
        /// Branch predictor barrier at every entry.
        IBPB_ON_ENTRY = 1 << 31;
    }
}

bit_struct! {
    /// EBX of [`CpuidLeaf::ENCRYPTION`].
    pub struct EncryptionLimits(u32) {
        /// Page table bit that marks private memory.
        c_bit_position / with_c_bit_position @ 5:0,
        /// Bits of physical addresses that encryption takes away.
        phys_addr_reduction / with_phys_addr_reduction @ 11:6,
        /// Number of VMPLs.
        num_vmpl / with_num_vmpl @ 15:12,
        /// 1: a page needs no eviction from the caches after it is validated.
        coherency_sfw_no / with_coherency_sfw_no @ 31:31,
    }
}

flags! {
    /// EBX of [`CpuidLeaf::ADDRESS_SIZES`], as far as it is about flushes.
    pub struct FlushFeatures(u32) {
        /// INVLPGB and TLBSYNC.
        INVLPGB = 1 << 3;
    }
}
