//! What a guest finds in its registers when it begins.

/// The arguments of the guest's first instruction, as the monitor sets them.
///
/// The guest begins at [`entry`](crate::GuestImage::entry) in 64-bit mode at CPL 0, with interrupts off and no stack. Its page
/// tables map RAM up to 1 GiB at its own addresses, privately, with every right; they lie in private memory of the guest behind
/// its image, so that it can leave them. Descriptor tables are empty, segments are flat.
///
/// The registers are those of a function's arguments in the System V convention, in the order of the fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuestStart {
    /// RDI: the guest's copy of the secrets page, which says where its call area is.
    pub secrets: u64,
    /// RSI: the guest's copy of the CPUID page.
    pub cpuid: u64,
    /// RDX: first byte of private memory that nobody uses and that reads as zeros; page aligned.
    pub free: u64,
    /// RCX: first byte behind it. RAM from here on is not validated; page aligned.
    pub free_end: u64,
    /// R8: first byte behind the guest's RAM; page aligned.
    pub ram_end: u64,
    /// R9: number of vCPUs. Their APIC ids count from 0.
    pub vcpus: u64,
}

impl GuestStart {
    /// Numbers of the registers, in encoding order of the processor (RAX is 0), with their values.
    #[must_use]
    pub const fn registers(&self) -> [(usize, u64); 6] {
        [(7, self.secrets), (6, self.cpuid), (2, self.free), (1, self.free_end), (8, self.ram_end), (9, self.vcpus)]
    }
}
