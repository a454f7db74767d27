//! What the firmware measures at launch, and what the owner of a guest states about it.
//!
//! Source: 56860 (SNP_LAUNCH_UPDATE, ID block), `facts/launch_measurement.csv`.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::report::GuestPolicy;

/// PAGE_INFO, 112 bytes: one step of the launch digest, which becomes the SHA-384 of it.
#[derive(Clone, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct PageInfo {
    /// The digest before this page.
    pub digest_cur: [u8; 48],
    /// SHA-384 of the page for the types whose contents are measured, zeros for all others.
    pub contents: [u8; 48],
    /// Bytes of this structure.
    pub length: u16,
    /// A [`PageType`] by its number.
    pub page_type: u8,
    /// Bit 0: the page belongs to an initial migration image.
    pub imi_page: u8,
    /// Rights of the lower levels. Sources differ on the order of these bytes, see [`LowerPermissions`].
    pub vmpl_perms: [u8; 4],
    /// Guest-physical address of the page.
    pub gpa: u64,
}

layout! { PageInfo: 0x70 {
    digest_cur @ 0x00,
    contents @ 0x30,
    length @ 0x60,
    page_type @ 0x62,
    imi_page @ 0x63,
    vmpl_perms @ 0x64,
    gpa @ 0x68,
} }

/// Types of launch pages. The number stands in PAGE_INFO and in the command of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum PageType {
    /// Contents measured.
    Normal = 1,
    /// Contents measured; the page becomes a VMSA.
    Vmsa = 2,
    /// The firmware zeroes the page.
    Zero = 3,
    /// Encrypted with its contents, but these are not measured: whoever loads it chooses them.
    Unmeasured = 4,
    /// The firmware fills it with the secrets page.
    Secrets = 5,
    /// The firmware checks it as a CPUID page and may correct it.
    Cpuid = 6,
}

impl PageType {
    /// All types in the order of their numbers.
    pub const ALL: [Self; 6] = [Self::Normal, Self::Vmsa, Self::Zero, Self::Unmeasured, Self::Secrets, Self::Cpuid];

    /// Returns the number of the type.
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// Says whether the contents of such a page are part of the digest.
    pub const fn is_measured(self) -> bool {
        matches!(self, Self::Normal | Self::Vmsa)
    }
}

/// Rights of VMPL1 to 3 on a launch page, as they stand in PAGE_INFO.
///
/// The sources give two orders of the bytes, so who states rights says which one is meant. Loaders in use state none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LowerPermissions([u8; 4]);

impl LowerPermissions {
    /// No rights below VMPL0, the same in either order.
    pub const NONE: Self = Self([0; 4]);

    /// Order A of the table: a reserved byte, then VMPL1, VMPL2, VMPL3.
    pub const fn vmpl1_first([vmpl1, vmpl2, vmpl3]: [u8; 3]) -> Self {
        Self([0, vmpl1, vmpl2, vmpl3])
    }

    /// Order B of the table: VMPL3, VMPL2, VMPL1, then a reserved byte. The rights are given from VMPL1 on.
    pub const fn vmpl3_first([vmpl1, vmpl2, vmpl3]: [u8; 3]) -> Self {
        Self([vmpl3, vmpl2, vmpl1, 0])
    }

    /// Returns the bytes as they stand in PAGE_INFO.
    pub const fn bytes(self) -> [u8; 4] {
        self.0
    }
}

/// The ID block, 96 bytes: what a signed statement of the guest's owner is about.
#[derive(Clone, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct IdBlock {
    /// The launch digest that is expected; the launch fails with another one.
    pub launch_digest: [u8; 48],
    /// Family id, for the report.
    pub family_id: [u8; 16],
    /// Image id, for the report.
    pub image_id: [u8; 16],
    /// Version of this layout, [`IdBlock::VERSION`].
    pub version: u32,
    /// Security version of the guest, for the report.
    pub guest_svn: u32,
    /// The policy that is expected.
    pub policy: GuestPolicy,
}

layout! { IdBlock: 0x60 {
    launch_digest @ 0x00,
    family_id @ 0x30,
    image_id @ 0x40,
    version @ 0x50,
    guest_svn @ 0x54,
    policy @ 0x58,
} }

impl IdBlock {
    /// The only version of the layout.
    pub const VERSION: u32 = 1;
}
