//! The certificate table that a host hands out with a report.
//!
//! The host made it: [`entries`] checks that every entry lies within the table and gives bytes. What they are worth a
//! verifier finds out. Source: 56421, fact table `attestation_report`, kinds `cert_table` and `cert_guid`.

use core::fmt;

use zerocopy::{FromBytes, IntoBytes};

use crate::abi::certificates::{CertGuid, CertTableEntry};

/// Bytes of an entry.
const ENTRY: usize = size_of::<CertTableEntry>();

/// One certificate of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// What the host says it is.
    pub guid: CertGuid,
    /// The certificate, DER.
    pub bytes: &'a [u8],
}

/// What is wrong with a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TableError {
    /// The entries are not ended by one of zeros.
    Unterminated,
    /// An entry names bytes outside of the table, or in the entries.
    OutOfRange {
        /// Number of the entry, from 0.
        entry: usize,
    },
    /// An entry has no bytes.
    Empty {
        /// Number of the entry, from 0.
        entry: usize,
    },
    /// A kind of certificate occurs twice.
    Repeated {
        /// Number of the second entry, from 0.
        entry: usize,
    },
}

impl fmt::Display for TableError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unterminated => f.write_str("certificate table has no end"),
            Self::OutOfRange { entry } => write!(f, "certificate {entry:#x} lies outside of the table"),
            Self::Empty { entry } => write!(f, "certificate {entry:#x} is empty"),
            Self::Repeated { entry } => write!(f, "certificate {entry:#x} is of a kind that is there already"),
        }
    }
}

impl core::error::Error for TableError {}

/// Gives the certificates of a table, one by one. The whole table is checked before the first is given.
///
/// # Errors
/// [`TableError`].
pub fn entries(table: &[u8]) -> Result<impl Iterator<Item = Entry<'_>>, TableError> {
    let zero = [0; ENTRY];
    let heads = table.chunks_exact(ENTRY);
    let count = heads.clone().position(|head| head == zero).ok_or(TableError::Unterminated)?;
    let head_of = |head: &[u8]| CertTableEntry::read_from_bytes(head).ok();
    let used = count.saturating_add(1).saturating_mul(ENTRY);
    for (entry, head) in heads.clone().take(count).filter_map(head_of).enumerate() {
        let data = body(table, &head).filter(|_| usize::try_from(head.offset).is_ok_and(|offset| offset >= used));
        match data {
            None => return Err(TableError::OutOfRange { entry }),
            Some([]) => return Err(TableError::Empty { entry }),
            Some(_) => {}
        }
        if heads.clone().take(entry).any(|other| other.starts_with(head.guid.as_bytes())) {
            return Err(TableError::Repeated { entry });
        }
    }
    let all = heads.take(count).filter_map(head_of);
    Ok(all.filter_map(|head| Some(Entry { guid: head.guid, bytes: body(table, &head)? })))
}

fn body<'a>(table: &'a [u8], head: &CertTableEntry) -> Option<&'a [u8]> {
    let start = usize::try_from(head.offset).ok()?;
    table.get(start..start.checked_add(usize::try_from(head.length).ok()?)?)
}

#[cfg(test)]
mod tests {
    use std::string::ToString;
    use std::vec::Vec;

    use super::*;

    const VCEK: CertGuid = CertGuid::VCEK;
    const ASK: CertGuid = CertGuid::ASK;

    /// A table of heads, then 16 bytes of contents that count up.
    fn table(heads: &[(CertGuid, u32, u32)]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (guid, offset, length) in heads {
            bytes.extend(guid.0);
            bytes.extend(offset.to_le_bytes());
            bytes.extend(length.to_le_bytes());
        }
        bytes.extend([0; ENTRY]);
        bytes.extend(0..16);
        bytes
    }

    #[test]
    fn a_certificate_table_gives_its_entries_by_guid_offset_and_length() {
        let table = table(&[(VCEK, 72, 4), (ASK, 76, 12)]);
        let found: Vec<_> = entries(&table).unwrap().map(|entry| (entry.guid, entry.bytes.to_vec())).collect();
        assert_eq!(found, [(VCEK, (0..4).collect::<Vec<u8>>()), (ASK, (4..16).collect())]);
        assert_eq!(entries(&[0; ENTRY]).unwrap().count(), 0);
    }

    #[test]
    fn a_bad_certificate_table_is_a_named_error() {
        let end = 72 + 16;
        let rows = [
            (Vec::new(), TableError::Unterminated),
            ([0; ENTRY - 1].to_vec(), TableError::Unterminated),
            ([0xff; 4096].to_vec(), TableError::Unterminated),
            (table(&[(VCEK, 72, 4), (ASK, 76, 12)])[..48].to_vec(), TableError::Unterminated),
            (table(&[(VCEK, 72, 4), (ASK, end, 1)]), TableError::OutOfRange { entry: 1 }),
            (table(&[(VCEK, 72, 17), (ASK, 76, 4)]), TableError::OutOfRange { entry: 0 }),
            (table(&[(VCEK, u32::MAX, u32::MAX), (ASK, 76, 4)]), TableError::OutOfRange { entry: 0 }),
            (table(&[(VCEK, 0, 4), (ASK, 76, 4)]), TableError::OutOfRange { entry: 0 }),
            (table(&[(VCEK, 71, 4), (ASK, 76, 4)]), TableError::OutOfRange { entry: 0 }),
            (table(&[(VCEK, 72, 0), (ASK, 76, 4)]), TableError::Empty { entry: 0 }),
            (table(&[(VCEK, 72, 4), (VCEK, 76, 4)]), TableError::Repeated { entry: 1 }),
        ];
        for (table, expected) in rows {
            let error = entries(&table).map(|_| ()).unwrap_err();
            assert_eq!(error, expected, "{table:x?}");
            assert!(!error.to_string().ends_with('.'));
        }
    }
}
