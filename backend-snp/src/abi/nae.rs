//! Requests by GHCB page: event codes, their operands, and what the host answers.
//!
//! Source: 56421 version 2, `facts/ghcb_nae.csv`.

codes! {
    /// SW_EXITCODE: what is asked for. Small codes are the exit codes of intercepted instructions.
    pub struct NaeCode(u64) {
        /// Read of DR7.
        DR7_READ = 0x27;
        /// Write of DR7.
        DR7_WRITE = 0x37;
        /// RDTSC.
        RDTSC = 0x6e;
        /// RDPMC.
        RDPMC = 0x6f;
        /// CPUID.
        CPUID = 0x72;
        /// INVD.
        INVD = 0x76;
        /// PAUSE; an automatic exit, not normally sent.
        PAUSE = 0x77;
        /// Port I/O, see [`IoioInfo`].
        IOIO = 0x7b;
        /// RDMSR (SW_EXITINFO1 is 0) or WRMSR (1).
        MSR = 0x7c;
        /// VMMCALL.
        VMMCALL = 0x81;
        /// RDTSCP.
        RDTSCP = 0x87;
        /// WBINVD.
        WBINVD = 0x89;
        /// MONITOR.
        MONITOR = 0x8a;
        /// MWAIT.
        MWAIT = 0x8b;
        /// Read of device memory.
        MMIO_READ = 0x8000_0001;
        /// Write of device memory.
        MMIO_WRITE = 0x8000_0002;
        /// End of an NMI handler.
        NMI_COMPLETE = 0x8000_0003;
        /// Wait until the host starts this vCPU.
        AP_RESET_HOLD = 0x8000_0004;
        /// Jump table of secondary vCPUs.
        AP_JUMP_TABLE = 0x8000_0005;
        /// Page state change, see [`psc`](super::psc).
        PAGE_STATE_CHANGE = 0x8000_0010;
        /// Message to the firmware, see [`guest_request`](super::guest_request).
        GUEST_REQUEST = 0x8000_0011;
        /// The same, with certificates in the answer.
        EXTENDED_GUEST_REQUEST = 0x8000_0012;
        /// Creation of a vCPU, see [`ap`](super::ap).
        AP_CREATION = 0x8000_0013;
        /// Page through which the host announces events.
        HV_DOORBELL_PAGE = 0x8000_0014;
        /// Interrupt to another vCPU.
        HV_IPI = 0x8000_0015;
        /// Timer. The number is unconfirmed.
        HV_TIMER = 0x8000_0016;
        /// List of interrupt controller numbers.
        APIC_ID_LIST = 0x8000_0017;
        /// Runs another level on this vCPU; SW_EXITINFO1 is its number.
        RUN_VMPL = 0x8000_0018;
        /// Backing page of the secure interrupt controller.
        SECURE_AVIC = 0x8000_001a;
        /// Chooses the vector that announces events.
        CONFIGURE_INTERRUPT_INJECTION = 0x8000_001b;
        /// Gives up alternate injection for a level.
        DISABLE_ALTERNATE_INJECTION = 0x8000_001c;
        /// End of interrupt for a vector.
        SPECIFIC_EOI = 0x8000_001d;
        /// Features of the host; SW_EXITINFO2 returns [`HvFeatures`].
        HYPERVISOR_FEATURES = 0x8000_fffd;
        /// End of the guest; SW_EXITINFO1 is a [`TerminateReason`](super::terminate::TerminateReason).
        TERMINATE = 0x8000_fffe;
        /// An exit that the guest cannot handle.
        UNSUPPORTED_EVENT = 0x8000_ffff;
    }
}

bit_struct! {
    /// SW_EXITINFO1 of [`NaeCode::IOIO`].
    pub struct IoioInfo(u64) {
        /// 1 for IN, 0 for OUT.
        is_in / with_is_in @ 0:0,
        /// 1 for a string instruction.
        is_string / with_is_string @ 2:2,
        /// 1 with REP prefix.
        is_rep / with_is_rep @ 3:3,
        /// 1 for 8-bit operands.
        size_8 / with_size_8 @ 4:4,
        /// 1 for 16-bit operands.
        size_16 / with_size_16 @ 5:5,
        /// 1 for 32-bit operands.
        size_32 / with_size_32 @ 6:6,
        /// 1 for 16-bit addresses.
        address_16 / with_address_16 @ 7:7,
        /// 1 for 32-bit addresses.
        address_32 / with_address_32 @ 8:8,
        /// 1 for 64-bit addresses.
        address_64 / with_address_64 @ 9:9,
        /// Segment of the memory operand.
        segment / with_segment @ 12:10,
        /// Port number.
        port / with_port @ 31:16,
    }
}

codes! {
    /// SW_EXITINFO1\[31:0\] after VMGEXIT.
    pub struct NaeStatus(u32) {
        /// Done; what SW_EXITINFO2 means depends on the event.
        SUCCESS = 0;
        /// The guest has to raise the exception in SW_EXITINFO2, an [`EventInj`](super::vmsa_control::EventInj).
        EXCEPTION = 1;
        /// The request was malformed; SW_EXITINFO2 is a [`NaeError`].
        MALFORMED = 2;
    }
}

codes! {
    /// SW_EXITINFO2 when the status is [`NaeStatus::MALFORMED`].
    pub struct NaeError(u64) {
        /// The GHCB page is not the registered one.
        GHCB_NOT_REGISTERED = 1;
        /// Unknown layout of the page.
        INVALID_USAGE_VALUE = 2;
        /// Scratch area outside of the allowed place.
        INVALID_SCRATCH_AREA = 3;
        /// A field that the event needs is not marked valid.
        MISSING_INPUT = 4;
        /// A field has a value that the event does not allow.
        INVALID_INPUT_VALUE = 5;
        /// Unknown event.
        INVALID_EVENT = 6;
    }
}

flags! {
    /// Features of the host. Its word only: a feature that it denies can be withheld anyway.
    pub struct HvFeatures(u64) {
        /// SNP guests.
        SEV_SNP = 1 << 0;
        /// Creation of vCPUs; needs `SEV_SNP`.
        AP_CREATION = 1 << 1;
        /// Doorbell page; needs `AP_CREATION`.
        RESTRICTED_INJECTION = 1 << 2;
        /// Timer by doorbell; needs `RESTRICTED_INJECTION`.
        RESTRICTED_INJECTION_TIMER = 1 << 3;
        /// List of interrupt controller numbers.
        APIC_ID_LIST = 1 << 4;
        /// More than one level; needs `AP_CREATION`.
        MULTIPLE_VMPLS = 1 << 5;
        /// Page state changes for guests without SNP.
        PAGE_STATE_CHANGE_FOR_SEV_ES_GUESTS = 1 << 6;
        /// Trusted devices.
        TRUSTED_I_O = 1 << 7;
        /// Taking back the registration of a GHCB.
        GHCB_UNREGISTER = 1 << 8;
        /// Interrupt controller protocol with alternate injection.
        EXTENDED_INTERRUPTS = 1 << 9;
    }
}

impl HvFeatures {
    /// Features with the ones that they need.
    pub const NEEDS: [(Self, Self); 4] = [
        (Self::AP_CREATION, Self::SEV_SNP),
        (Self::RESTRICTED_INJECTION, Self::SEV_SNP.union(Self::AP_CREATION)),
        (Self::RESTRICTED_INJECTION_TIMER, Self::SEV_SNP.union(Self::AP_CREATION).union(Self::RESTRICTED_INJECTION)),
        (Self::MULTIPLE_VMPLS, Self::SEV_SNP.union(Self::AP_CREATION)),
    ];
}

/// Bytes that a device access carries at most: those of the shared buffer.
pub const MAX_DATA_BYTES: usize = 2032;
