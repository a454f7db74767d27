//! The made-up processor under the security processor: one Milan chip with fixed security versions.
//!
//! Everything here is a constant of the platform, not of a guest, so the test VCEK certificate can certify it once.
//! The tool that makes the certificates includes this very file: it must stay free of dependencies.
//!
//! Sources: fact tables `attestation_report` (product, TCB bytes) and `secrets_page` (fms, tsc_factor).

/// Combined CPUID family: Milan is family 0x19, models 0x00 to 0x0f.
pub const CPUID_FAMILY: u8 = 0x19;

/// Combined CPUID model.
pub const CPUID_MODEL: u8 = 0x01;

/// CPUID stepping.
pub const CPUID_STEPPING: u8 = 0x01;

/// Family, model and stepping in the format of CPUID leaf 1 EAX, as the secrets page has it.
pub const FMS: u32 = 0x00a0_0f11;

/// Product name in the VCEK certificate.
pub const PRODUCT_NAME: &str = "Milan-B1";

/// The chip id: no chip has it.
pub const CHIP_ID: [u8; 64] = *b"coco-part model chip; this identity belongs to no real processor";

/// Firmware ABI version now running, as major, minor, build.
pub const CURRENT_VERSION: [u8; 3] = [1, 55, 41];

/// Firmware ABI version the platform cannot go back behind, as major, minor, build.
pub const COMMITTED_VERSION: [u8; 3] = [1, 55, 29];

/// TCB that runs now.
pub const CURRENT_TCB: Tcb = Tcb { boot_loader: 4, tee: 1, snp: 0x18, microcode: 0xdb };

/// TCB the platform cannot go back behind.
pub const COMMITTED_TCB: Tcb = Tcb { boot_loader: 4, tee: 1, snp: 0x17, microcode: 0xda };

/// TCB that ran when the guest was launched.
pub const LAUNCH_TCB: Tcb = Tcb { boot_loader: 4, tee: 1, snp: 0x18, microcode: 0xd9 };

/// TCB that the VCEK is derived from; the VCEK certificate states it.
pub const REPORTED_TCB: Tcb = Tcb { boot_loader: 3, tee: 0, snp: 0x16, microcode: 0xd5 };

/// PLATFORM_INFO: SMT on (bit 0), ECC memory (bit 2), memory alias check done (bit 5).
pub const PLATFORM_INFO: u64 = 0x25;

/// Mitigation vector when the guest was launched (report version 5).
pub const LAUNCH_MIT_VECTOR: u64 = 0x3;

/// Mitigation vector now (report version 5).
pub const CURRENT_MIT_VECTOR: u64 = 0x7;

/// TSC_FACTOR: the frequency the guest sees is f * (1 - factor / 100000).
pub const TSC_FACTOR: u32 = 200;

/// GUEST_TSC_SCALE: 1.0 as an 8.32 fixed point number.
pub const TSC_SCALE: u64 = 1 << 32;

/// GUEST_TSC_OFFSET.
pub const TSC_OFFSET: u64 = 0;

/// Security versions of the platform's parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tcb {
    /// Boot loader of the security processor.
    pub boot_loader: u8,
    /// Operating system of the security processor.
    pub tee: u8,
    /// SNP firmware.
    pub snp: u8,
    /// Microcode patch level.
    pub microcode: u8,
}

impl Tcb {
    /// The 8 bytes of a TCB_VERSION in the layout of Milan and Genoa.
    pub const fn to_bytes(self) -> [u8; 8] {
        [self.boot_loader, self.tee, 0, 0, 0, 0, self.snp, self.microcode]
    }

    /// Reads a TCB_VERSION; `None` if a reserved byte is set.
    pub const fn from_bytes(bytes: [u8; 8]) -> Option<Self> {
        match bytes {
            [boot_loader, tee, 0, 0, 0, 0, snp, microcode] => Some(Self { boot_loader, tee, snp, microcode }),
            _ => None,
        }
    }

    /// True if no part of `self` is newer than the same part of `limit`.
    pub const fn is_at_most(self, limit: Self) -> bool {
        self.boot_loader <= limit.boot_loader
            && self.tee <= limit.tee
            && self.snp <= limit.snp
            && self.microcode <= limit.microcode
    }
}
