//! Where things lie in the memory of a guest that boots the monitor image.
//!
//! ```text
//! 0x0010_0000  the monitor: code and data of its image, then memory that it validates itself
//! 0x003f_0000  pages that the firmware and the host fill at launch
//! 0x0040_0000  the guest: its image, then RAM
//! 0x0800_0000  the end of RAM in the emulator
//! ```
//!
//! The file measures every page of the monitor that a byte of its program reaches. The others it has to zero itself.
//!
//! All addresses are guest-physical and without the C-bit. The images, the command that makes an IGVM file of them and the
//! emulator that runs it take them from here.

#![no_std]
#![forbid(unsafe_code)]

/// Bytes of a page.
pub const PAGE: u64 = 0x1000;

/// First byte of the monitor's memory, where its image is linked.
pub const MONITOR: u64 = 0x10_0000;
/// First byte behind the monitor's memory.
pub const MONITOR_END: u64 = 0x40_0000;

/// The secrets page.
pub const SECRETS: u64 = 0x3f_0000;
/// The CPUID page.
pub const CPUID: u64 = 0x3f_1000;
/// One page of IGVM parameters: the number of vCPUs at [`VCPU_COUNT`], the memory map at [`MEMORY_MAP`]. Not measured.
pub const PARAMETERS: u64 = 0x3f_2000;
/// Offset of the number of vCPUs (u32) in [`PARAMETERS`].
pub const VCPU_COUNT: u32 = 0;
/// Offset of the memory map in [`PARAMETERS`].
pub const MEMORY_MAP: u32 = 0x40;
/// One measured page with a [`GuestImage`] at its beginning, then zeros.
pub const GUEST_IMAGE: u64 = 0x3f_3000;

/// Pages of the programs beside the guest, where there are any (`image_companions`). Up to [`MONITOR_END`].
pub const COMPANIONS: u64 = 0x3f_4000;

/// First byte of the guest's memory, where its image is linked.
pub const GUEST: u64 = 0x40_0000;

/// First byte behind the RAM of the emulator's machine.
pub const RAM_END: u64 = 0x800_0000;

/// Guest address of the launch VMSA, where KVM puts it.
pub const LAUNCH_VMSA: u64 = 0xffff_ffff_f000;

/// Port of the console: a byte is a character.
pub const CONSOLE_PORT: u16 = 0x3f8;
/// Port that ends the guest: the byte is the result, 0 for success.
pub const RESULT_PORT: u16 = 0xf4;
/// Port of marks: at each byte, its number, the counters so far are printed.
pub const MARK_PORT: u16 = 0xf5;
/// Port without a device, for requests of which nothing comes.
pub const NO_PORT: u16 = 0x80;

mod guest_start;

pub use guest_start::GuestStart;

/// What the monitor is told about the guest that the file brings along. Little endian, at the start of [`GUEST_IMAGE`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GuestImage {
    /// First byte of the guest's image, page aligned; [`GUEST`] or above.
    pub first: u64,
    /// First byte behind it, page aligned; equal to `first` if there is no guest.
    pub end: u64,
    /// First instruction, 64-bit code. [`GuestStart`] says what it finds.
    pub entry: u64,
}

impl GuestImage {
    /// "cocoL2" and the version of this layout.
    pub const MAGIC: u64 = 0x0001_324c_6f63_6f63;
    /// Bytes of the encoding.
    pub const BYTES: usize = 32;

    /// The bytes as they lie in memory.
    #[must_use]
    pub fn encode(&self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        for (word, value) in bytes.chunks_exact_mut(8).zip([Self::MAGIC, self.first, self.end, self.entry]) {
            word.copy_from_slice(&value.to_le_bytes());
        }
        bytes
    }

    /// Reads the bytes back; `None` if they do not begin with the magic or name no whole pages of the guest.
    #[must_use]
    pub fn decode(bytes: &[u8; Self::BYTES]) -> Option<Self> {
        let mut words = [0; 4];
        for (word, bytes) in words.iter_mut().zip(bytes.chunks_exact(8)) {
            *word = u64::from_le_bytes(bytes.try_into().ok()?);
        }
        let [magic, first, end, entry] = words;
        let pages = first.is_multiple_of(PAGE) && end.is_multiple_of(PAGE) && GUEST <= first && first <= end;
        let inside = first == end || (first..end).contains(&entry);
        (magic == Self::MAGIC && pages && inside).then_some(Self { first, end, entry })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_survives_the_way_through_memory() {
        let image = GuestImage { first: GUEST, end: GUEST + 3 * PAGE, entry: GUEST + 0x10 };
        assert_eq!(GuestImage::decode(&image.encode()), Some(image));
        let none = GuestImage { first: GUEST, end: GUEST, entry: 0 };
        assert_eq!(GuestImage::decode(&none.encode()), Some(none));
    }

    #[test]
    fn refuses_ranges_that_are_no_pages_of_the_guest() {
        let good = GuestImage { first: GUEST, end: GUEST + PAGE, entry: GUEST };
        for bad in [
            GuestImage { first: GUEST + 1, ..good },
            GuestImage { end: GUEST + 1, ..good },
            GuestImage { first: MONITOR, ..good },
            GuestImage { end: GUEST - PAGE, ..good },
            GuestImage { entry: GUEST + PAGE, ..good },
        ] {
            assert_eq!(GuestImage::decode(&bad.encode()), None, "{bad:?}");
        }
        assert_eq!(GuestImage::decode(&[0; GuestImage::BYTES]), None);
    }
}
