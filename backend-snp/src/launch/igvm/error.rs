//! Why a file is no IGVM file that an SNP guest can be launched from.

use super::{FileFault, PlaceFault};

/// What is wrong with a file. Offsets are bytes from its start; `at` is that of the variable header in question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror_no_std::Error)]
pub enum IgvmError {
    /// The file ends inside its fixed header.
    #[error("file of {len:#x} bytes ends inside its fixed header")]
    NoFixedHeader {
        /// Bytes of the file.
        len: usize,
    },
    /// The file does not begin with the letters of the format.
    #[error("not an IGVM file: it begins with {found:#010x}")]
    Magic {
        /// Its first four bytes.
        found: u32,
    },
    /// Versions 1 and 2 are known.
    #[error("format version {found} is not known")]
    FormatVersion {
        /// Version of the file.
        found: u32,
    },
    /// The file is for another architecture than x86-64.
    #[error("architecture {found:#x} is not x86-64")]
    Architecture {
        /// Number of the architecture.
        found: u32,
    },
    /// Pages have 4 KiB.
    #[error("page size {found:#x} instead of 0x1000")]
    PageSize {
        /// Page size of the file.
        found: u32,
    },
    /// The file is shorter or longer than it says.
    #[error("file says that it has {stated:#x} bytes and has {len:#x}")]
    FileSize {
        /// What it says.
        stated: u32,
        /// Bytes of the file.
        len: usize,
    },
    /// The variable header section is not aligned to 8 bytes or not inside the file, behind the fixed header.
    #[error("variable headers at {offset:#x}, {size:#x} bytes: {fault}")]
    HeaderSection {
        /// Where it begins.
        offset: u32,
        /// Its bytes.
        size: u32,
        /// What is wrong.
        fault: FileFault,
    },
    /// The CRC-32 over fixed and variable headers is another one than the file says.
    #[error("checksum {computed:#010x} instead of {stated:#010x}")]
    Checksum {
        /// What the file says.
        stated: u32,
        /// What it is.
        computed: u32,
    },
    /// The section ends inside a variable header.
    #[error("variable header at {at:#x} is cut off")]
    HeaderTruncated {
        /// Where it begins.
        at: usize,
    },
    /// A variable header is longer or shorter than its type.
    #[error("variable header at {at:#x} of type {kind:#x} has {length:#x} bytes")]
    HeaderLength {
        /// Where it begins.
        at: usize,
        /// Its type.
        kind: u32,
        /// Bytes of its contents.
        length: usize,
    },
    /// Bytes between two variable headers are not zero.
    #[error("padding behind the variable header at {at:#x} is not zero")]
    Padding {
        /// Where it begins.
        at: usize,
    },
    /// A type that is not known and may not be ignored.
    #[error("variable header at {at:#x} of unknown type {kind:#x}")]
    UnknownHeader {
        /// Where it begins.
        at: usize,
        /// Its type.
        kind: u32,
    },
    /// A type that is known, for SNP, and not served: relocation and what belongs to other platforms.
    #[error("variable header at {at:#x} of type {kind:#x} is not supported on SNP")]
    UnsupportedHeader {
        /// Where it begins.
        at: usize,
        /// Its type.
        kind: u32,
    },
    /// Platforms come first, then initialization, then directives.
    #[error("variable header at {at:#x} of type {kind:#x} comes after a later section has begun")]
    SectionOrder {
        /// Where it begins.
        at: usize,
        /// Its type.
        kind: u32,
    },
    /// A reserved field or bit is set.
    #[error("variable header at {at:#x} of type {kind:#x} has reserved bits set")]
    Reserved {
        /// Where it begins.
        at: usize,
        /// Its type.
        kind: u32,
    },
    /// A platform has one bit, each another one; every other header names platforms that were declared.
    #[error("variable header at {at:#x} has compatibility mask {mask:#x}")]
    CompatibilityMask {
        /// Where it begins.
        at: usize,
        /// The mask.
        mask: u32,
    },
    /// No platform of the file is SNP.
    #[error("the file is not for SNP")]
    NotForSnp,
    /// SNP is declared twice.
    #[error("variable header at {at:#x} declares SNP again")]
    PlatformTwice {
        /// Where it begins.
        at: usize,
    },
    /// The version of the platform is 1.
    #[error("version {found} of platform SNP is not known")]
    PlatformVersion {
        /// Version in the file.
        found: u16,
    },
    /// The highest VTL is 0 or 2.
    #[error("highest VTL {found}")]
    HighestVtl {
        /// VTL in the file.
        found: u8,
    },
    /// There is no guest policy for SNP.
    #[error("no guest policy for SNP")]
    NoPolicy,
    /// There are two guest policies for SNP.
    #[error("variable header at {at:#x} gives a second guest policy")]
    PolicyTwice {
        /// Where it begins.
        at: usize,
    },
    /// Contents lie outside the data section.
    #[error("variable header at {at:#x}: contents at {offset:#x}, {bytes:#x} bytes, are not in the data section")]
    Contents {
        /// Where it begins.
        at: usize,
        /// Where the contents begin.
        offset: u32,
        /// How many bytes they have.
        bytes: u64,
    },
    /// A page data type that is not known.
    #[error("variable header at {at:#x} has page data type {found}")]
    PageDataType {
        /// Where it begins.
        at: usize,
        /// The type.
        found: u16,
    },
    /// Flags that exclude each other: only plain pages may be large or shared with the host.
    #[error("variable header at {at:#x} has page flags {flags:#x} that do not fit its data type")]
    PageFlags {
        /// Where it begins.
        at: usize,
        /// The flags.
        flags: u32,
    },
    /// A guest-physical range cannot be what it is meant to be.
    #[error("variable header at {at:#x}: {bytes:#x} bytes at guest address {gpa:#x}: {fault}")]
    Place {
        /// Where it begins.
        at: usize,
        /// Guest-physical start.
        gpa: u64,
        /// Bytes.
        bytes: u64,
        /// What is wrong.
        fault: PlaceFault,
    },
    /// More pages than a file may add, [`MAX_PAGES`](super::MAX_PAGES).
    #[error("variable header at {at:#x}: too many pages")]
    TooManyPages {
        /// Where it begins.
        at: usize,
    },
    /// More separate ranges of pages than can be told apart, [`MAX_RANGES`](super::MAX_RANGES).
    #[error("variable header at {at:#x}: too many separate ranges of pages")]
    TooManyRanges {
        /// Where it begins.
        at: usize,
    },
    /// The size of a parameter area is zero or no multiple of 4 KiB.
    #[error("variable header at {at:#x}: parameter area of {bytes:#x} bytes")]
    AreaSize {
        /// Where it begins.
        at: usize,
        /// Its bytes.
        bytes: u64,
    },
    /// The index of a parameter area is used already.
    #[error("variable header at {at:#x}: parameter area {index} exists already")]
    AreaTwice {
        /// Where it begins.
        at: usize,
        /// Index of the area.
        index: u32,
    },
    /// There is no such parameter area.
    #[error("variable header at {at:#x}: there is no parameter area {index}")]
    NoArea {
        /// Where it begins.
        at: usize,
        /// Index of the area.
        index: u32,
    },
    /// The parameter area is inserted already and cannot be used any more.
    #[error("variable header at {at:#x}: parameter area {index} is inserted already")]
    AreaInserted {
        /// Where it begins.
        at: usize,
        /// Index of the area.
        index: u32,
    },
    /// More parameter areas than can be kept, [`MAX_AREAS`](super::MAX_AREAS).
    #[error("variable header at {at:#x}: too many parameter areas")]
    TooManyAreas {
        /// Where it begins.
        at: usize,
    },
    /// A parameter does not fit its area.
    #[error("variable header at {at:#x}: a parameter at offset {offset:#x} does not fit its area")]
    ParameterOffset {
        /// Where it begins.
        at: usize,
        /// Offset in the area.
        offset: u32,
    },
    /// There are two ID blocks for SNP.
    #[error("variable header at {at:#x} is a second ID block")]
    IdBlockTwice {
        /// Where it begins.
        at: usize,
    },
    /// The version of the ID block is 1.
    #[error("version {found} of the ID block is not known")]
    IdBlockVersion {
        /// Version in the file.
        found: u32,
    },
}

impl core::error::Error for IgvmError {}
