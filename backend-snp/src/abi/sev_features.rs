//! Features of an SNP guest: SEV_FEATURES in the VMSA, the SEV_STATUS register, and registers that belong to them.
//!
//! Source: 24593, `facts/sev_features.csv`.

flags! {
    /// SEV_FEATURES: what is switched on for one VMSA. All VMSAs of one level have the same.
    pub struct SevFeatures(u64) {
        /// Memory integrity by the RMP.
        SNP_ACTIVE = 1 << 0;
        /// Private and shared memory told apart by address.
        VTOM = 1 << 1;
        /// #VC becomes an automatic exit that a more privileged VMPL handles.
        REFLECT_VC = 1 << 2;
        /// The host may inject #HV only.
        RESTRICTED_INJECTION = 1 << 3;
        /// Events come from the VMSA, which a more privileged VMPL writes.
        ALTERNATE_INJECTION = 1 << 4;
        /// Debug registers are switched by hardware.
        DEBUG_VIRTUALIZATION = 1 << 5;
        /// The host may not sample the guest.
        PREVENT_HOST_IBS = 1 << 6;
        /// Branch targets are isolated.
        SNP_BTB_ISOLATION = 1 << 7;
        /// Supervisor shadow stacks need the right in the VMPL mask.
        VMPL_SSS = 1 << 8;
        /// The TSC is scaled by values of the VMSA.
        SECURE_TSC = 1 << 9;
        /// RAX and CPL are shown to the host at VMGEXIT.
        VMGEXIT_PARAMETER = 1 << 10;
        /// Performance counters are virtualised.
        PMC_VIRTUALIZATION = 1 << 11;
        /// Instruction sampling is virtualised.
        IBS_VIRTUALIZATION = 1 << 12;
        /// A more privileged VMPL may intercept events of a less privileged one.
        GUEST_INTERCEPT_CTL = 1 << 13;
        /// Registers in the VMSA are masked with a nonce.
        VMSA_REG_PROT = 1 << 14;
        /// The sibling thread has to be idle.
        SMT_PROTECTION = 1 << 15;
        /// The interrupt controller page belongs to the guest.
        SECURE_AVIC = 1 << 16;
        /// Branch predictor barrier at every entry.
        IBPB_ON_ENTRY = 1 << 21;
    }
}

flags! {
    /// SEV_STATUS: what is on for the level that reads it. Cannot be intercepted, so the host has no say in it.
    pub struct SevStatus(u64) {
        /// Memory encryption.
        SEV = 1 << 0;
        /// Register encryption.
        SEV_ES = 1 << 1;
        /// Copy of [`SevFeatures::SNP_ACTIVE`].
        SNP_ACTIVE = SevFeatures::SNP_ACTIVE.bits() << 2;
        /// Copy of [`SevFeatures::VTOM`].
        VTOM = SevFeatures::VTOM.bits() << 2;
        /// Copy of [`SevFeatures::REFLECT_VC`].
        REFLECT_VC = SevFeatures::REFLECT_VC.bits() << 2;
        /// Copy of [`SevFeatures::RESTRICTED_INJECTION`].
        RESTRICTED_INJECTION = SevFeatures::RESTRICTED_INJECTION.bits() << 2;
        /// Copy of [`SevFeatures::ALTERNATE_INJECTION`].
        ALTERNATE_INJECTION = SevFeatures::ALTERNATE_INJECTION.bits() << 2;
        /// Copy of [`SevFeatures::DEBUG_VIRTUALIZATION`].
        DEBUG_VIRTUALIZATION = SevFeatures::DEBUG_VIRTUALIZATION.bits() << 2;
        /// Copy of [`SevFeatures::PREVENT_HOST_IBS`].
        PREVENT_HOST_IBS = SevFeatures::PREVENT_HOST_IBS.bits() << 2;
        /// Copy of [`SevFeatures::SNP_BTB_ISOLATION`].
        SNP_BTB_ISOLATION = SevFeatures::SNP_BTB_ISOLATION.bits() << 2;
        /// Copy of [`SevFeatures::VMPL_SSS`].
        VMPL_SSS = SevFeatures::VMPL_SSS.bits() << 2;
        /// Copy of [`SevFeatures::SECURE_TSC`].
        SECURE_TSC = SevFeatures::SECURE_TSC.bits() << 2;
        /// Copy of [`SevFeatures::VMGEXIT_PARAMETER`].
        VMGEXIT_PARAMETER = SevFeatures::VMGEXIT_PARAMETER.bits() << 2;
        /// Copy of [`SevFeatures::PMC_VIRTUALIZATION`].
        PMC_VIRTUALIZATION = SevFeatures::PMC_VIRTUALIZATION.bits() << 2;
        /// Copy of [`SevFeatures::IBS_VIRTUALIZATION`].
        IBS_VIRTUALIZATION = SevFeatures::IBS_VIRTUALIZATION.bits() << 2;
        /// Copy of [`SevFeatures::GUEST_INTERCEPT_CTL`].
        GUEST_INTERCEPT_CTL = SevFeatures::GUEST_INTERCEPT_CTL.bits() << 2;
        /// Copy of [`SevFeatures::VMSA_REG_PROT`].
        VMSA_REG_PROT = SevFeatures::VMSA_REG_PROT.bits() << 2;
        /// Copy of [`SevFeatures::SMT_PROTECTION`].
        SMT_PROTECTION = SevFeatures::SMT_PROTECTION.bits() << 2;
        /// Copy of [`SevFeatures::SECURE_AVIC`].
        SECURE_AVIC = SevFeatures::SECURE_AVIC.bits() << 2;
        /// Copy of [`SevFeatures::IBPB_ON_ENTRY`].
        IBPB_ON_ENTRY = SevFeatures::IBPB_ON_ENTRY.bits() << 2;
    }
}

impl SevStatus {
    /// Returns the features of the level that read the register. Unknown bits are kept.
    pub const fn features(self) -> SevFeatures {
        SevFeatures::from_bits_retain(self.bits() >> 2)
    }
}

codes! {
    /// Numbers of model specific registers.
    pub struct Msr(u32) {
        /// GHCB page address or MSR protocol value.
        GHCB = 0xc001_0130;
        /// [`SevStatus`].
        SEV_STATUS = 0xc001_0131;
        /// Frequency of the secure TSC in MHz.
        GUEST_TSC_FREQ = 0xc001_0134;
        /// First shared address with [`SevFeatures::VTOM`].
        VIRTUAL_TOM = 0xc001_0135;
        /// Control of [`SevFeatures::SECURE_AVIC`].
        SAVIC_CONTROL = 0xc001_0138;
        /// Address of the calling area; answered by software, not by hardware.
        SVSM_CAA = 0xc001_f000;
        /// Extended states that supervisor code switched on.
        IA32_XSS = 0x0da0;
    }
}
