//! What a host does while it loads a file.

use core::fmt;

use coco_part_api::FrameRange;
use coco_part_api::range::SMALL;
use x86_64::structures::paging::{PhysFrame, Size4KiB};

use crate::abi::launch::PageType;
use crate::launch::digest::Update;

/// A page of zeros, for what the file has no bytes for.
const ZEROS: &[u8; 4096] = &[0; 4096];

/// The contents of pages: bytes of the file, or zeros.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Contents<'a>(Option<&'a [u8]>);

impl<'a> Contents<'a> {
    /// Zeros.
    pub const ZEROS: Self = Self(None);

    pub(super) const fn of(bytes: &'a [u8]) -> Self {
        Self(Some(bytes))
    }

    /// The contents of page `index`, counted from 0. Behind the end there are zeros.
    pub fn page(self, index: u64) -> &'a [u8; 4096] {
        let page = || {
            let start = usize::try_from(index.checked_mul(SMALL)?).ok()?;
            self.0?.get(start..)?.first_chunk()
        };
        page().unwrap_or(ZEROS)
    }
}

impl fmt::Debug for Contents<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(bytes) => write!(f, "{:#x} bytes", bytes.len()),
            None => f.write_str("zeros"),
        }
    }
}

/// A parameter that a loader writes into an area: facts about this VM as the host claims them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Parameter {
    /// Number of vCPUs.
    VpCount,
    /// ACPI table SRAT.
    Srat,
    /// ACPI table MADT.
    Madt,
    /// ACPI table SLIT.
    Slit,
    /// ACPI table PPTT.
    Pptt,
    /// Two ranges of MMIO.
    MmioRanges,
    /// The memory map, see [`memory_map`](crate::launch::parameters::memory_map).
    MemoryMap,
    /// A command line.
    CommandLine,
    /// A flattened device tree.
    DeviceTree,
    /// Environment of the VM.
    EnvironmentInfo,
}

impl Parameter {
    /// Fewest bytes that a loader writes for it.
    pub const fn least_bytes(self) -> u64 {
        match self {
            Self::VpCount | Self::EnvironmentInfo => 4,
            Self::MmioRanges => 32,
            // One entry that ends the list.
            Self::MemoryMap => 24,
            // The header of an ACPI table.
            Self::Srat | Self::Madt | Self::Slit | Self::Pptt => 36,
            // The header of a tree.
            Self::DeviceTree => 40,
            // The end of a text.
            Self::CommandLine => 1,
        }
    }
}

/// One thing that a host does for an SNP guest, in the order of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step<'a> {
    /// Adds private pages, from the lowest address on.
    Pages {
        /// Their type: [`Normal`](PageType::Normal), [`Unmeasured`](PageType::Unmeasured), [`Secrets`](PageType::Secrets) or
        /// [`Cpuid`](PageType::Cpuid).
        page_type: PageType,
        /// Where they go.
        range: FrameRange,
        /// What they hold.
        contents: Contents<'a>,
    },
    /// Fills pages that stay shared with the host. They are no part of the digest.
    Shared {
        /// Where they are.
        range: FrameRange,
        /// What they hold.
        contents: Contents<'a>,
    },
    /// Adds a VMSA.
    Vmsa {
        /// Number of the vCPU.
        vp_index: u16,
        /// Where it goes.
        frame: PhysFrame<Size4KiB>,
        /// The page. The firmware and the first entry check it.
        contents: &'a [u8; 4096],
    },
    /// Makes a parameter area of its own, which is no guest memory yet.
    Area {
        /// Index by which the file names it.
        index: u32,
        /// Bytes of it, a multiple of 4 KiB.
        bytes: u64,
        /// What it holds before parameters are written.
        contents: Contents<'a>,
    },
    /// Writes a parameter into an area.
    Parameter {
        /// Which one.
        parameter: Parameter,
        /// Index of the area.
        area: u32,
        /// Offset in the area in bytes.
        offset: u32,
    },
    /// Adds the pages of an area as unmeasured ones, from the lowest address on.
    Insert {
        /// Index of the area.
        area: u32,
        /// Where they go.
        range: FrameRange,
        /// What the area held before parameters were written.
        contents: Contents<'a>,
    },
    /// Makes sure that there is memory, or gives up. A guest cannot rely on it.
    Required {
        /// The memory.
        range: FrameRange,
    },
    /// Keeps pages shared with the host, for reports of errors.
    ErrorRange {
        /// The pages.
        range: FrameRange,
    },
}

impl<'a> Step<'a> {
    /// The pages that this step adds at launch. Those of an area hold what they had before the host wrote parameters.
    pub fn updates(self) -> impl Iterator<Item = Update<'a>> {
        let (page_type, range, contents) = match self {
            Self::Pages { page_type, range, contents } => (page_type, Some(range), contents),
            Self::Insert { range, contents, .. } => (PageType::Unmeasured, Some(range), contents),
            Self::Vmsa { frame, contents, .. } => (PageType::Vmsa, Some(FrameRange::of(frame)), Contents::of(contents)),
            _ => (PageType::Zero, None, Contents::ZEROS),
        };
        let frames = range.into_iter().flat_map(FrameRange::small_blocks).map(|block| block.range().first());
        frames.zip(0..).map(move |(frame, index)| Update::new(page_type, frame, contents.page(index)))
    }
}
