//! Bare-metal images: ELF files as they lie in guest memory.

use core::fmt;
use core::ops::Range;
use std::collections::BTreeSet;

use image_layout::PAGE;
use object::Endianness;
use object::elf::{EM_X86_64, ET_EXEC, FileHeader64, PF_X, PT_LOAD};
use object::read::elf::{FileHeader, ProgramHeader};

/// An image from its first page to its last one, with everything between.
#[derive(Clone, PartialEq, Eq)]
pub struct Image {
    /// Guest-physical address of the first byte, page aligned.
    pub first: u64,
    /// What lies there: whole pages. What the file does not fill is zero.
    pub bytes: Vec<u8>,
    /// Addresses of the pages that only segments without a byte in the file reach.
    pub blank: BTreeSet<u64>,
    /// Address of the first instruction.
    pub entry: u64,
}

/// Why a file is not the image that was asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror_no_std::Error)]
pub enum ElfError {
    /// Not an ELF file, or one that is cut off or contradicts itself.
    #[error("not an ELF file: {0}")]
    Malformed(object::read::Error),
    /// An ELF file for something else.
    #[error("an ELF file, but not a 64-bit x86 program linked to a fixed address")]
    OtherKind,
    /// Nothing is loaded.
    #[error("an ELF file that loads nothing")]
    Empty,
    /// A segment is cut off, or has more bytes in the file than in memory.
    #[error("the segment at {virt:#x} is longer than the file, or than the memory for it")]
    Truncated {
        /// Its virtual address.
        virt: u64,
    },
    /// Physical and virtual address of a segment differ.
    #[error("the segment at {virt:#x} has physical address {phys:#x}, and images are loaded where they are linked")]
    Moved {
        /// Its virtual address.
        virt: u64,
        /// Its physical address.
        phys: u64,
    },
    /// A segment lies where this image must not be.
    #[error("the segment {found:#x?} lies outside of {wanted:#x?}")]
    Outside {
        /// Where it lies.
        found: Range<u64>,
        /// Where it has to lie.
        wanted: Range<u64>,
    },
    /// Two segments lie over each other.
    #[error("two segments hold address {at:#x}")]
    Overlap {
        /// The first byte of both.
        at: u64,
    },
    /// The first instruction is in no segment that can be executed.
    #[error("the entry point {entry:#x} lies in no code of the file")]
    Entry {
        /// Its address.
        entry: u64,
    },
}

impl core::error::Error for ElfError {}

impl From<object::read::Error> for ElfError {
    fn from(error: object::read::Error) -> Self {
        Self::Malformed(error)
    }
}

impl Image {
    /// Reads an ELF file whose segments have to lie in `place`, which is page aligned.
    ///
    /// # Errors
    /// [`ElfError`].
    pub fn try_new(file: &[u8], place: Range<u64>) -> Result<Self, ElfError> {
        let header = FileHeader64::<Endianness>::parse(file)?;
        let endian = header.endian()?;
        if (endian, header.e_machine(endian), header.e_type(endian)) != (Endianness::Little, EM_X86_64, ET_EXEC) {
            return Err(ElfError::OtherKind);
        }
        let mut segments = Vec::new();
        for segment in header.program_headers(endian, file)? {
            let (virt, phys, bytes) = (segment.p_vaddr(endian), segment.p_paddr(endian), segment.p_memsz(endian));
            if segment.p_type(endian) != PT_LOAD || bytes == 0 {
                continue;
            }
            let found = virt..virt.saturating_add(bytes);
            let data = segment.data(endian, file).map_err(|()| ElfError::Truncated { virt })?;
            if data.len() as u64 > bytes {
                return Err(ElfError::Truncated { virt });
            }
            if virt != phys {
                return Err(ElfError::Moved { virt, phys });
            }
            if found.start < place.start || found.end > place.end {
                return Err(ElfError::Outside { found, wanted: place });
            }
            segments.push((found, data, segment.p_flags(endian) & PF_X != 0));
        }
        segments.sort_by_key(|(range, ..)| range.start);
        if let Some(pair) = segments.windows(2).find(|pair| pair[1].0.start < pair[0].0.end) {
            return Err(ElfError::Overlap { at: pair[1].0.start });
        }
        let entry = header.e_entry(endian);
        if !segments.iter().any(|(range, _, is_code)| *is_code && range.contains(&entry)) {
            return Err(if segments.is_empty() { ElfError::Empty } else { ElfError::Entry { entry } });
        }
        let first = segments.first().map_or(place.start, |(range, ..)| range.start) / PAGE * PAGE;
        let end = segments.last().map_or(first, |(range, ..)| range.end).next_multiple_of(PAGE);
        let mut bytes = vec![0; (end - first) as usize];
        let (mut blank, mut filled) = (BTreeSet::new(), BTreeSet::new());
        for (range, data, _) in segments {
            let pages = (range.start / PAGE * PAGE..range.end).step_by(PAGE as usize);
            if data.is_empty() {
                blank.extend(pages)
            } else {
                filled.extend(pages)
            }
            bytes[(range.start - first) as usize..][..data.len()].copy_from_slice(data);
        }
        blank.retain(|page| !filled.contains(page));
        Ok(Self { first, bytes, blank, entry })
    }

    /// First byte behind the image, page aligned.
    pub fn end(&self) -> u64 {
        self.first + self.bytes.len() as u64
    }

    /// The pages with their addresses, in order.
    pub fn pages(&self) -> impl Iterator<Item = (u64, &[u8])> {
        (self.first..).step_by(PAGE as usize).zip(self.bytes.chunks(PAGE as usize))
    }
}

impl fmt::Debug for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Image at {:#x}..{:#x}, entry {:#x}", self.first, self.end(), self.entry)
    }
}
