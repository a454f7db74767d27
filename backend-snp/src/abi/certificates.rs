//! The certificate table that comes with an extended guest request.
//!
//! Source: 56421, `facts/attestation_report.csv` (kinds `cert_table` and `cert_guid`). The host supplies the table; a
//! certificate proves itself by its signature.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// One entry. An entry of zeros ends the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct CertTableEntry {
    /// Kind of certificate.
    pub guid: CertGuid,
    /// Offset from the start of the table in bytes.
    pub offset: u32,
    /// Length in bytes.
    pub length: u32,
}

layout! { CertTableEntry: 0x18 {
    guid @ 0x00,
    offset @ 0x10,
    length @ 0x14,
} }

codes! {
    /// Kind of certificate: a GUID, bytes in the order of its text.
    pub struct CertGuid([u8; 16]) {
        /// Key of the chip.
        VCEK = 0x63da_758d_e664_4564_adc5_f4b9_3be8_accd_u128.to_be_bytes();
        /// Key of the host's operator.
        VLEK = 0xa807_4bc2_a25a_483e_aae6_39c0_45a0_b8a1_u128.to_be_bytes();
        /// Intermediate key of the vendor.
        ASK = 0x4ab7_b379_bbac_4fe4_a02f_05ae_f327_c782_u128.to_be_bytes();
        /// Root key of the vendor.
        ARK = 0xc0b4_06a4_a803_4952_9743_3fb6_014c_d0ae_u128.to_be_bytes();
        /// Revocation list.
        CRL = 0x92f8_1bc3_5811_4d3d_97ff_d19f_88dc_67ea_u128.to_be_bytes();
    }
}
