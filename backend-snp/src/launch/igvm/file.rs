//! The frame of a file: fixed header, checksum, and the list of variable headers.

use igvm_defs::{
    IGVM_FIXED_HEADER, IGVM_FIXED_HEADER_V2, IGVM_FORMAT_VERSION_1, IGVM_FORMAT_VERSION_2, IGVM_MAGIC_VALUE,
    IGVM_VHS_VARIABLE_HEADER, IGVM_VHT_OPTIONAL_BIT, IgvmArchitecture, IgvmVariableHeaderType, PAGE_SIZE_4K,
};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::IgvmError;

/// What variable headers are aligned to.
const ALIGNMENT: usize = 8;

/// Why the section of variable headers cannot be where the file says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror_no_std::Error)]
pub enum FileFault {
    /// It does not begin at a multiple of 8 bytes.
    #[error("not aligned to 8 bytes")]
    Unaligned,
    /// It begins inside the fixed header.
    #[error("inside the fixed header")]
    InFixedHeader,
    /// It ends behind the file.
    #[error("not inside the file")]
    OutsideFile,
}

/// A file whose fixed header and checksum are right.
#[derive(Clone, Copy, Debug)]
pub(super) struct File<'a> {
    bytes: &'a [u8],
    /// Where the variable headers begin and end.
    headers: (usize, usize),
}

impl<'a> File<'a> {
    pub(super) fn try_new(bytes: &'a [u8]) -> Result<Self, IgvmError> {
        let none = IgvmError::NoFixedHeader { len: bytes.len() };
        let (mut fixed, _) = IGVM_FIXED_HEADER::read_from_prefix(bytes).map_err(|_| none)?;
        if fixed.magic != IGVM_MAGIC_VALUE {
            return Err(IgvmError::Magic { found: fixed.magic });
        }
        // Version 2 puts fields behind those of version 1.
        let (len, behind) = match fixed.format_version {
            IGVM_FORMAT_VERSION_1 => (size_of::<IGVM_FIXED_HEADER>(), &[][..]),
            IGVM_FORMAT_VERSION_2 => {
                let (second, _) = IGVM_FIXED_HEADER_V2::read_from_prefix(bytes).map_err(|_| none)?;
                if second.architecture != IgvmArchitecture::X64 {
                    return Err(IgvmError::Architecture { found: second.architecture.0 });
                }
                if u64::from(second.page_size) != PAGE_SIZE_4K {
                    return Err(IgvmError::PageSize { found: second.page_size });
                }
                let len = size_of::<IGVM_FIXED_HEADER_V2>();
                (len, bytes.get(size_of::<IGVM_FIXED_HEADER>()..len).unwrap_or_default())
            }
            found => return Err(IgvmError::FormatVersion { found }),
        };
        if u64::from(fixed.total_file_size) != bytes.len() as u64 {
            return Err(IgvmError::FileSize { stated: fixed.total_file_size, len: bytes.len() });
        }
        let (offset, size) = (fixed.variable_header_offset, fixed.variable_header_size);
        let wrong = |fault| IgvmError::HeaderSection { offset, size, fault };
        let start = offset as usize;
        if start < len {
            return Err(wrong(FileFault::InFixedHeader));
        }
        if !start.is_multiple_of(ALIGNMENT) {
            return Err(wrong(FileFault::Unaligned));
        }
        let end = start.checked_add(size as usize).ok_or(wrong(FileFault::OutsideFile))?;
        let section = bytes.get(start..end).ok_or(wrong(FileFault::OutsideFile))?;

        let stated = core::mem::take(&mut fixed.checksum);
        let computed = !crc32(crc32(crc32(!0, fixed.as_bytes()), behind), section);
        if stated != computed {
            return Err(IgvmError::Checksum { stated, computed });
        }
        Ok(Self { bytes, headers: (start, end) })
    }

    pub(super) const fn headers(&self) -> Headers<'a> {
        Headers { bytes: self.bytes, at: self.headers.0, end: self.headers.1 }
    }

    /// `bytes` bytes at `offset`, if they lie in the data section.
    pub(super) fn data(&self, offset: u32, bytes: u64) -> Option<&'a [u8]> {
        let start = offset as usize;
        let end = start.checked_add(usize::try_from(bytes).ok()?)?;
        if start < self.headers.1 {
            return None;
        }
        self.bytes.get(start..end)
    }
}

/// One variable header.
#[derive(Clone, Copy, Debug)]
pub(super) struct Header<'a> {
    /// Where it begins in the file.
    pub(super) at: usize,
    /// Its type without the bit that says that it may be ignored.
    pub(super) kind: IgvmVariableHeaderType,
    /// Whether who does not know the type may ignore it.
    pub(super) is_optional: bool,
    /// Its contents.
    pub(super) body: &'a [u8],
}

impl Header<'_> {
    /// The contents as the structure of the type.
    pub(super) fn read<T: FromBytes + KnownLayout + Immutable>(&self) -> Result<T, IgvmError> {
        let length = self.body.len();
        T::read_from_bytes(self.body).map_err(|_| IgvmError::HeaderLength { at: self.at, kind: self.kind.0, length })
    }

    pub(super) const fn reserved(&self) -> IgvmError {
        IgvmError::Reserved { at: self.at, kind: self.kind.0 }
    }
}

/// The variable headers in the order of the file.
#[derive(Clone, Debug)]
pub(super) struct Headers<'a> {
    bytes: &'a [u8],
    at: usize,
    end: usize,
}

impl<'a> Headers<'a> {
    fn take(&mut self, bytes: usize) -> Option<&'a [u8]> {
        let end = self.at.checked_add(bytes).filter(|end| *end <= self.end)?;
        let part = self.bytes.get(self.at..end)?;
        self.at = end;
        Some(part)
    }

    fn header(&mut self) -> Result<Header<'a>, IgvmError> {
        let at = self.at;
        let cut = IgvmError::HeaderTruncated { at };
        let head = self.take(size_of::<IGVM_VHS_VARIABLE_HEADER>()).ok_or(cut)?;
        let IGVM_VHS_VARIABLE_HEADER { typ, length } =
            IGVM_VHS_VARIABLE_HEADER::read_from_bytes(head).map_err(|_| cut)?;
        let length = length as usize;
        let body = self.take(length).ok_or(cut)?;
        let padding = length.wrapping_neg() % ALIGNMENT;
        if self.take(padding).ok_or(cut)?.iter().any(|byte| *byte != 0) {
            return Err(IgvmError::Padding { at });
        }
        let kind = IgvmVariableHeaderType(typ.0 & !IGVM_VHT_OPTIONAL_BIT);
        Ok(Header { at, kind, is_optional: typ.0 & IGVM_VHT_OPTIONAL_BIT != 0, body })
    }
}

impl<'a> Iterator for Headers<'a> {
    type Item = Result<Header<'a>, IgvmError>;

    fn next(&mut self) -> Option<Self::Item> {
        (self.at < self.end).then(|| {
            let header = self.header();
            if header.is_err() {
                self.at = self.end;
            }
            header
        })
    }
}

/// CRC-32 as in Ethernet, without the inversions before and after.
fn crc32(crc: u32, bytes: &[u8]) -> u32 {
    const POLYNOMIAL: u32 = 0xedb8_8320;
    bytes.iter().fold(crc, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (POLYNOMIAL & (crc & 1).wrapping_neg()))
    })
}

#[test]
fn checksum_has_the_known_value() {
    assert_eq!(!crc32(!0, b"123456789"), 0xcbf4_3926);
    assert_eq!(!crc32(crc32(!0, b"12345"), b"6789"), 0xcbf4_3926);
}
