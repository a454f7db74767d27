//! Segment registers as the VMSA holds them.
//!
//! Source: 24593, `facts/vmsa.csv`.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

bit_struct! {
    /// Attributes of a segment: the descriptor's type and flag bits, packed.
    pub struct SegmentAttributes(u16) {
        /// Descriptor type.
        descriptor_type / with_descriptor_type @ 3:0,
        /// 1 for code and data, 0 for system descriptors.
        s / with_s @ 4:4,
        /// Privilege level, 0 to 3.
        dpl / with_dpl @ 6:5,
        /// 1 if present.
        present / with_present @ 7:7,
        /// Free for software.
        avl / with_avl @ 8:8,
        /// 1 for 64-bit code.
        l / with_l @ 9:9,
        /// Default operand size: 1 for 32 bits.
        d_b / with_d_b @ 10:10,
        /// 1 if the limit counts pages.
        g / with_g @ 11:11,
    }
}

/// One segment or descriptor table register, 16 bytes.
///
/// Of GDTR and IDTR only limit and base count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Segment {
    /// Selector.
    pub selector: u16,
    /// Attributes.
    pub attributes: SegmentAttributes,
    /// Limit in bytes, expanded.
    pub limit: u32,
    /// Linear address of the first byte.
    pub base: u64,
}

layout! { Segment: 0x10 {
    selector @ 0x0,
    attributes @ 0x2,
    limit @ 0x4,
    base @ 0x8,
} }
