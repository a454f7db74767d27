//! The attestation report, versions 2 to 5 in one layout.
//!
//! Source: 56860, `facts/attestation_report.csv`. Fields that came with a later version are zero in older reports.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, transmute};

/// An attestation report, 1184 bytes. The signature covers everything before it.
#[derive(Clone, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct AttestationReport {
    /// Version of the layout.
    pub version: u32,
    /// Security version of the guest, from the ID block.
    pub guest_svn: u32,
    /// Launch policy.
    pub policy: GuestPolicy,
    /// Family id, from the ID block.
    pub family_id: [u8; 16],
    /// Image id, from the ID block.
    pub image_id: [u8; 16],
    /// Number of the VMPL that the request stated.
    pub vmpl: u32,
    /// Algorithm of the signature.
    pub signature_algo: SignatureAlgorithm,
    /// Platform version now running.
    pub current_tcb: TcbVersion,
    /// Platform flags.
    pub platform_info: PlatformInfo,
    /// What is said about keys.
    pub key_info: KeyInfo,
    _reserved_0x04c: u32,
    /// Data of the request.
    pub report_data: [u8; 64],
    /// Launch digest.
    pub measurement: [u8; 48],
    /// Data of the host, given at launch.
    pub host_data: [u8; 32],
    /// SHA-384 of the ID key.
    pub id_key_digest: [u8; 48],
    /// SHA-384 of the author key, zero without one.
    pub author_key_digest: [u8; 48],
    /// Id of this guest.
    pub report_id: [u8; 32],
    /// Id of the migration agent, all ones without one.
    pub report_id_ma: [u8; 32],
    /// Platform version that the signing key belongs to.
    pub reported_tcb: TcbVersion,
    /// Processor family, combined. Version 3.
    pub cpuid_fam_id: u8,
    /// Processor model, combined. Version 3.
    pub cpuid_mod_id: u8,
    /// Processor stepping. Version 3.
    pub cpuid_step: u8,
    _reserved_0x18b: [u8; 21],
    /// Id of the chip, zero when masked.
    pub chip_id: [u8; 64],
    /// Platform version that cannot be undercut any more.
    pub committed_tcb: TcbVersion,
    /// Build of the firmware interface now running.
    pub current_build: u8,
    /// Minor version of the same.
    pub current_minor: u8,
    /// Major version of the same.
    pub current_major: u8,
    _reserved_0x1eb: u8,
    /// Build of the committed firmware interface.
    pub committed_build: u8,
    /// Minor version of the same.
    pub committed_minor: u8,
    /// Major version of the same.
    pub committed_major: u8,
    _reserved_0x1ef: u8,
    /// Platform version at launch or import.
    pub launch_tcb: TcbVersion,
    /// Mitigations at launch. Version 5.
    pub launch_mit_vector: u64,
    /// Mitigations now. Version 5.
    pub current_mit_vector: u64,
    _reserved_0x208: [u8; 152],
    /// Signature.
    pub signature: Signature,
}

layout! { AttestationReport: 0x4a0 {
    version @ 0x000,
    guest_svn @ 0x004,
    policy @ 0x008,
    family_id @ 0x010,
    image_id @ 0x020,
    vmpl @ 0x030,
    signature_algo @ 0x034,
    current_tcb @ 0x038,
    platform_info @ 0x040,
    key_info @ 0x048,
    _reserved_0x04c @ 0x04c,
    report_data @ 0x050,
    measurement @ 0x090,
    host_data @ 0x0c0,
    id_key_digest @ 0x0e0,
    author_key_digest @ 0x110,
    report_id @ 0x140,
    report_id_ma @ 0x160,
    reported_tcb @ 0x180,
    cpuid_fam_id @ 0x188,
    cpuid_mod_id @ 0x189,
    cpuid_step @ 0x18a,
    _reserved_0x18b @ 0x18b,
    chip_id @ 0x1a0,
    committed_tcb @ 0x1e0,
    current_build @ 0x1e8,
    current_minor @ 0x1e9,
    current_major @ 0x1ea,
    _reserved_0x1eb @ 0x1eb,
    committed_build @ 0x1ec,
    committed_minor @ 0x1ed,
    committed_major @ 0x1ee,
    _reserved_0x1ef @ 0x1ef,
    launch_tcb @ 0x1f0,
    launch_mit_vector @ 0x1f8,
    current_mit_vector @ 0x200,
    _reserved_0x208 @ 0x208,
    signature @ 0x2a0,
} }

bit_struct! {
    /// Launch policy.
    pub struct GuestPolicy(u64) {
        /// Lowest minor version of the firmware interface.
        abi_minor / with_abi_minor @ 7:0,
        /// Lowest major version of the firmware interface.
        abi_major / with_abi_major @ 15:8,
        /// 1 if sibling threads are allowed.
        smt / with_smt @ 16:16,
        /// Has to be 1.
        reserved_1 / with_reserved_1 @ 17:17,
        /// 1 if a migration agent is allowed.
        migrate_ma / with_migrate_ma @ 18:18,
        /// 1 if debugging is allowed.
        debug / with_debug @ 19:19,
        /// 1 for one socket only.
        single_socket / with_single_socket @ 20:20,
        /// 1 if CXL memory is allowed.
        cxl_allow / with_cxl_allow @ 21:21,
        /// 1 if memory has to be encrypted with AES-256-XTS.
        mem_aes_256_xts / with_mem_aes_256_xts @ 22:22,
        /// 1 if power reporting has to be off.
        rapl_dis / with_rapl_dis @ 23:23,
        /// 1 if ciphertext has to be hidden from the host.
        ciphertext_hiding / with_ciphertext_hiding @ 24:24,
        /// 1 if page swapping has to be off.
        page_swap_disable / with_page_swap_disable @ 25:25,
    }
}

flags! {
    /// Platform flags.
    pub struct PlatformInfo(u64) {
        /// Sibling threads are on.
        SMT_EN = 1 << 0;
        /// Transparent encryption is on.
        TSME_EN = 1 << 1;
        /// Memory has error correction.
        ECC_EN = 1 << 2;
        /// Power reporting is off.
        RAPL_DIS = 1 << 3;
        /// Ciphertext is hidden from the host.
        CIPHERTEXT_HIDING_EN = 1 << 4;
        /// Memory was checked for aliases. Version 3.
        ALIAS_CHECK_COMPLETE = 1 << 5;
        /// Trusted devices are on. Version 5.
        TIO_EN = 1 << 7;
    }
}

bit_struct! {
    /// What a report says about keys.
    pub struct KeyInfo(u32) {
        /// 1 if there is an author key.
        author_key_en / with_author_key_en @ 0:0,
        /// 1 if the chip key is masked; the signature is zero then.
        mask_chip_key / with_mask_chip_key @ 1:1,
        /// See [`SigningKey`].
        signing_key / with_signing_key @ 4:2,
    }
}

codes! {
    /// Which key signed.
    pub struct SigningKey(u32) {
        /// The key of the chip.
        VCEK = 0;
        /// The key of the host's operator.
        VLEK = 1;
        /// None.
        NONE = 7;
    }
}

codes! {
    /// Algorithm of a signature.
    pub struct SignatureAlgorithm(u32) {
        /// ECDSA on P-384 with SHA-384.
        ECDSA_P384_SHA384 = 1;
    }
}

/// Platform version; which byte means what depends on the product.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(transparent)]
pub struct TcbVersion(
    /// The bytes as they stand in the report.
    pub [u8; 8],
);

impl TcbVersion {
    /// Reads the bytes as Milan and Genoa write them.
    pub const fn as_milan(self) -> TcbMilan {
        transmute!(self)
    }

    /// Reads the bytes as Turin writes them.
    pub const fn as_turin(self) -> TcbTurin {
        transmute!(self)
    }
}

// `current_tcb` and its like are 64-bit words in the specification and start at multiples of 8.
const _: () = assert!(core::mem::offset_of!(AttestationReport, current_tcb) % 8 == 0);

/// Platform version of Milan and Genoa: security version of each part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct TcbMilan {
    /// Boot loader.
    pub boot_loader: u8,
    /// Operating system of the secure processor.
    pub tee: u8,
    _reserved_0x2: [u8; 4],
    /// SNP firmware.
    pub snp: u8,
    /// Microcode.
    pub microcode: u8,
}

layout! { TcbMilan: 0x8 {
    boot_loader @ 0x0,
    tee @ 0x1,
    _reserved_0x2 @ 0x2,
    snp @ 0x6,
    microcode @ 0x7,
} }

/// Platform version from Turin on: security version of each part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct TcbTurin {
    /// Firmware of the memory controller.
    pub fmc: u8,
    /// Boot loader.
    pub boot_loader: u8,
    /// Operating system of the secure processor.
    pub tee: u8,
    /// SNP firmware.
    pub snp: u8,
    _reserved_0x4: [u8; 3],
    /// Microcode.
    pub microcode: u8,
}

layout! { TcbTurin: 0x8 {
    fmc @ 0x0,
    boot_loader @ 0x1,
    tee @ 0x2,
    snp @ 0x3,
    _reserved_0x4 @ 0x4,
    microcode @ 0x7,
} }

/// An ECDSA signature; both numbers are little-endian and extended with zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Signature {
    /// R, 48 bytes count.
    pub r: [u8; 72],
    /// S, 48 bytes count.
    pub s: [u8; 72],
    _reserved_0x090: [u8; 368],
}

layout! { Signature: 0x200 {
    r @ 0x000,
    s @ 0x048,
    _reserved_0x090 @ 0x090,
} }

impl Signature {
    /// Says whether the bytes behind both numbers are zero.
    pub fn has_zero_reserved(&self) -> bool {
        self._reserved_0x090.iter().all(|&byte| byte == 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_platform_version_reads_differently_by_product() {
        let tcb = TcbVersion([1, 2, 3, 4, 0, 0, 7, 8]);
        let (milan, turin) = (tcb.as_milan(), tcb.as_turin());
        assert_eq!((milan.boot_loader, milan.tee, milan.snp, milan.microcode), (1, 2, 7, 8));
        assert_eq!((turin.fmc, turin.boot_loader, turin.tee, turin.snp, turin.microcode), (1, 2, 3, 4, 8));
    }
}
