//! Operands of INVLPGB, the broadcast TLB flush.
//!
//! Source: 24593, `facts/instructions.csv`. Needs CPUID 0x8000_0008 EBX bit 3.

use x86_64::VirtAddr;

use super::page::PageSize;

flags! {
    /// Low bits of RAX: which of the operands count and what is flushed besides.
    pub struct InvlpgbFlags(u8) {
        /// The virtual address counts; without it all addresses are flushed.
        VA_VALID = 0x01;
        /// The PCID counts; without it all PCIDs are flushed.
        PCID_VALID = 0x02;
        /// The ASID counts. In a guest the hardware uses the guest's own.
        ASID_VALID = 0x04;
        /// Global translations too.
        INCLUDE_GLOBAL = 0x08;
        /// Only final translations, no cached upper levels.
        FINAL_ONLY = 0x10;
        /// Nested translations too.
        INCLUDE_NESTED = 0x20;
    }
}

bit_struct! {
    /// RAX of INVLPGB.
    pub struct InvlpgbRax(u64) {
        /// See [`InvlpgbFlags`].
        flag_bits / with_flag_bits @ 5:0,
        /// Number of the first virtual page (bits 63:12 of its address).
        virtual_page / with_virtual_page @ 63:12,
    }
}

bit_struct! {
    /// ECX of INVLPGB.
    pub struct InvlpgbEcx(u32) {
        /// Pages beyond the first one.
        extra_pages / with_extra_pages @ 15:0,
        /// Distance of the pages: 0 for 4 KiB, 1 for 2 MiB.
        stride / with_stride @ 31:31,
    }
}

bit_struct! {
    /// EDX of INVLPGB.
    pub struct InvlpgbEdx(u32) {
        /// Address space number; zero in a guest.
        asid / with_asid @ 15:0,
        /// Process context number.
        pcid / with_pcid @ 27:16,
    }
}

/// One broadcast flush, as the three registers take it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Invlpgb {
    rax: InvlpgbRax,
    ecx: InvlpgbEcx,
    edx: InvlpgbEdx,
}

impl Invlpgb {
    /// Flushes all translations of this guest, global ones included, on every processor.
    pub const fn everything() -> Self {
        Self {
            rax: InvlpgbRax::from_bits_retain(InvlpgbFlags::INCLUDE_GLOBAL.bits() as u64),
            ecx: InvlpgbEcx::from_bits_retain(0),
            edx: InvlpgbEdx::from_bits_retain(0),
        }
    }

    /// Flushes the page at `first` and the `extra_pages` after it, `stride` apart, in every PCID, global ones included.
    ///
    /// `extra_pages` must not be above CPUID 0x8000_0008 EDX\[15:0\].
    pub const fn pages(first: VirtAddr, extra_pages: u16, stride: PageSize) -> Self {
        let flags = InvlpgbFlags::VA_VALID.union(InvlpgbFlags::INCLUDE_GLOBAL);
        Self {
            rax: InvlpgbRax::from_bits_retain(0)
                .with_flag_bits(flags.bits() as u64)
                .with_virtual_page(first.as_u64() >> 12),
            ecx: InvlpgbEcx::from_bits_retain(0)
                .with_extra_pages(extra_pages as u32)
                .with_stride(stride.number() as u32),
            edx: InvlpgbEdx::from_bits_retain(0),
        }
    }

    /// Returns RAX.
    pub const fn rax(self) -> InvlpgbRax {
        self.rax
    }

    /// Returns ECX.
    pub const fn ecx(self) -> InvlpgbEcx {
        self.ecx
    }

    /// Returns EDX.
    pub const fn edx(self) -> InvlpgbEdx {
        self.edx
    }

    /// Returns the flags in RAX.
    pub const fn flags(self) -> InvlpgbFlags {
        InvlpgbFlags::from_bits_retain(self.rax.flag_bits() as u8)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_names_no_address() {
        let flush = Invlpgb::everything();
        assert_eq!((flush.rax().bits(), flush.ecx().bits(), flush.edx().bits()), (0x8, 0, 0));
    }

    #[test]
    fn pages_drop_the_offset_inside_the_page() {
        let flush = Invlpgb::pages(VirtAddr::new(0xffff_8000_0020_0fff), 7, PageSize::Size2MiB);
        assert_eq!(flush.rax().bits(), 0xffff_8000_0020_0009);
        assert_eq!(flush.ecx().bits(), 0x8000_0007);
    }
}
