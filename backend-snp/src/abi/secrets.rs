//! The secrets page, filled by the firmware at launch.
//!
//! Source: 56860 and 58019, `facts/secrets_page.csv`.

use core::fmt;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};
use zeroize::Zeroize;

use super::vmpl::Vmpl;

/// The key of one level for messages to the firmware: AES-256. All zero means disabled.
///
/// Neither `Copy` nor `Debug`, and wiped when dropped.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(transparent)]
pub struct Vmpck(
    /// The key.
    pub [u8; 32],
);

impl Zeroize for Vmpck {
    fn zeroize(&mut self) {
        self.0.zeroize();
    }
}

impl Drop for Vmpck {
    fn drop(&mut self) {
        self.zeroize();
    }
}

/// The secrets page, 4096 bytes. `Debug` prints no key and no counter.
///
/// The SVSM fields are zero until an SVSM fills them in the copy for its guest.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct SecretsPage {
    /// Version of the layout: 2, 3 or 4.
    pub version: u32,
    /// Bit 0: an initial migration image is present.
    pub imi_en: u32,
    /// Family, model and stepping in the format of CPUID 1 EAX.
    pub fms: u32,
    _reserved_0x00c: u32,
    /// Workarounds visible to the guest, as the host supplied them.
    pub gosvw: [u8; 16],
    /// Key of VMPL0.
    pub vmpck0: Vmpck,
    /// Key of VMPL1.
    pub vmpck1: Vmpck,
    /// Key of VMPL2.
    pub vmpck2: Vmpck,
    /// Key of VMPL3.
    pub vmpck3: Vmpck,
    /// Low half of the message number last used with the key of VMPL0. Owned by the guest, as all `os_` fields.
    pub os_msg_seqno_0_lo: u32,
    /// The same for VMPL1.
    pub os_msg_seqno_1_lo: u32,
    /// The same for VMPL2.
    pub os_msg_seqno_2_lo: u32,
    /// The same for VMPL3.
    pub os_msg_seqno_3_lo: u32,
    /// Guest-physical address of the jump table of secondary vCPUs.
    pub os_ap_jump_table_pa: u64,
    /// High half of the message number for VMPL0.
    pub os_msg_seqno_0_hi: u32,
    /// The same for VMPL1.
    pub os_msg_seqno_1_hi: u32,
    /// The same for VMPL2.
    pub os_msg_seqno_2_hi: u32,
    /// The same for VMPL3.
    pub os_msg_seqno_3_hi: u32,
    _reserved_0x0c8: [u8; 22],
    /// Version of the `os_` fields.
    pub os_area_version: u16,
    /// Free for the guest.
    pub os_guest_usage: [u8; 32],
    /// Bit per 8-byte word of the VMSA that is masked with the nonce.
    pub vmsa_tweak_bitmap: [u8; 64],
    /// Guest-physical start of the SVSM's memory, a multiple of 4 KiB.
    pub svsm_base: u64,
    /// Size of the SVSM's memory in bytes; 0 means that there is no SVSM.
    pub svsm_size: u64,
    /// Guest-physical address of the boot vCPU's calling area.
    pub svsm_caa: u64,
    /// Highest version of the core protocol.
    pub svsm_max_version: u32,
    /// Number of the VMPL at which the guest runs.
    pub svsm_guest_vmpl: u8,
    _reserved_0x15d: [u8; 3],
    /// Deviation of the reported TSC frequency in units of 1/100000.
    pub tsc_factor: u32,
    _reserved_0x164: u32,
    /// Mitigations at launch.
    pub launch_mit_vector: u64,
    _reserved_0x170: [u8; 3728],
}

layout! { SecretsPage: 0x1000 {
    version @ 0x000,
    imi_en @ 0x004,
    fms @ 0x008,
    _reserved_0x00c @ 0x00c,
    gosvw @ 0x010,
    vmpck0 @ 0x020,
    vmpck1 @ 0x040,
    vmpck2 @ 0x060,
    vmpck3 @ 0x080,
    os_msg_seqno_0_lo @ 0x0a0,
    os_msg_seqno_1_lo @ 0x0a4,
    os_msg_seqno_2_lo @ 0x0a8,
    os_msg_seqno_3_lo @ 0x0ac,
    os_ap_jump_table_pa @ 0x0b0,
    os_msg_seqno_0_hi @ 0x0b8,
    os_msg_seqno_1_hi @ 0x0bc,
    os_msg_seqno_2_hi @ 0x0c0,
    os_msg_seqno_3_hi @ 0x0c4,
    _reserved_0x0c8 @ 0x0c8,
    os_area_version @ 0x0de,
    os_guest_usage @ 0x0e0,
    vmsa_tweak_bitmap @ 0x100,
    svsm_base @ 0x140,
    svsm_size @ 0x148,
    svsm_caa @ 0x150,
    svsm_max_version @ 0x158,
    svsm_guest_vmpl @ 0x15c,
    _reserved_0x15d @ 0x15d,
    tsc_factor @ 0x160,
    _reserved_0x164 @ 0x164,
    launch_mit_vector @ 0x168,
    _reserved_0x170 @ 0x170,
} }

impl SecretsPage {
    /// Versions of the layout that are known.
    pub const VERSIONS: core::ops::RangeInclusive<u32> = 2..=4;

    /// Returns the key of `level`.
    pub const fn vmpck(&self, level: Vmpl) -> &Vmpck {
        match level.number() {
            0 => &self.vmpck0,
            1 => &self.vmpck1,
            2 => &self.vmpck2,
            _ => &self.vmpck3,
        }
    }

    /// Returns the key of `level` for changing or wiping it.
    pub const fn vmpck_mut(&mut self, level: Vmpl) -> &mut Vmpck {
        match level.number() {
            0 => &mut self.vmpck0,
            1 => &mut self.vmpck1,
            2 => &mut self.vmpck2,
            _ => &mut self.vmpck3,
        }
    }
}

impl fmt::Debug for SecretsPage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SecretsPage")
            .field("version", &self.version)
            .field("svsm_base", &format_args!("{:#x}", self.svsm_base))
            .field("svsm_size", &format_args!("{:#x}", self.svsm_size))
            .field("svsm_guest_vmpl", &self.svsm_guest_vmpl)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use core::fmt::Write;

    use super::*;

    struct Found(bool);

    impl Write for Found {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            self.0 |= text.contains("aa") || text.contains("170");
            Ok(())
        }
    }

    #[test]
    fn each_level_has_its_own_key() {
        let mut page = SecretsPage::read_from_bytes(&[0; 0x1000]).unwrap();
        for level in Vmpl::ALL {
            page.vmpck_mut(level).0 = [0x10 + level.number(); 32];
        }
        for (offset, byte) in [(0x20, 0x10), (0x40, 0x11), (0x60, 0x12), (0x80, 0x13)] {
            assert_eq!(page.as_bytes()[offset..offset + 32], [byte; 32]);
        }
        assert_eq!(page.vmpck(Vmpl::VMPL3).0, [0x13; 32]);
    }

    #[test]
    fn debug_prints_no_key() {
        let mut page = SecretsPage::read_from_bytes(&[0; 0x1000]).unwrap();
        page.vmpck0.0 = [0xaa; 32];
        let mut found = Found(false);
        write!(found, "{page:?} {page:x?}").unwrap();
        assert!(!found.0);
    }
}
