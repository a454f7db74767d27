//! Certificates from the bytes of files.

use alloc::vec;
use alloc::vec::Vec;
use core::fmt;

use x509_cert::der::pem;

const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
const END: &str = "-----END CERTIFICATE-----";
/// First byte of a DER certificate.
const SEQUENCE: u8 = 0x30;

/// Why a file gives no certificates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileError {
    /// Neither DER nor PEM.
    Unknown,
    /// A PEM certificate that cannot be read.
    Pem {
        /// Its number in the file, from 0.
        number: usize,
    },
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => f.write_str("neither a DER certificate nor PEM certificates"),
            Self::Pem { number } => write!(f, "PEM certificate {} cannot be read", number + 1),
        }
    }
}

impl core::error::Error for FileError {}

/// The certificates of a file, DER: the file itself, or each PEM block of kind `CERTIFICATE` in it.
///
/// # Errors
/// [`FileError`].
pub fn certificates(file: &[u8]) -> Result<Vec<Vec<u8>>, FileError> {
    if file.first() == Some(&SEQUENCE) {
        return Ok(vec![file.to_vec()]);
    }
    let text = core::str::from_utf8(file).map_err(|_| FileError::Unknown)?;
    let mut found = Vec::new();
    let mut rest = text;
    while let Some((_, after)) = rest.split_once(BEGIN) {
        let unreadable = FileError::Pem { number: found.len() };
        let (body, after) = after.split_once(END).ok_or(unreadable)?;
        let block = [BEGIN, body, END, "\n"].concat();
        let (_, der) = pem::decode_vec(block.as_bytes()).map_err(|_| unreadable)?;
        found.push(der);
        rest = after;
    }
    if found.is_empty() { Err(FileError::Unknown) } else { Ok(found) }
}

#[cfg(test)]
mod tests {
    use std::format;

    use super::*;

    #[test]
    fn a_file_is_one_der_certificate_or_pem_blocks() {
        assert_eq!(certificates(&[0x30, 1, 2]).unwrap(), [[0x30, 1, 2]]);
        let pem = format!("note\r\n{BEGIN}\r\nAQID\r\n{END}\r\n\r\n{BEGIN}\nBAUG\n{END}");
        assert_eq!(certificates(pem.as_bytes()).unwrap(), [[1, 2, 3], [4, 5, 6]]);
    }

    #[test]
    fn a_bad_certificate_file_is_a_named_error() {
        let unended = format!("{BEGIN}\nAQID\n{END}\n{BEGIN}\nAQID\n");
        let garbled = format!("{BEGIN}\nA?ID\n{END}\n");
        let rows = [
            (&b""[..], FileError::Unknown),
            (b"text", FileError::Unknown),
            (&[0xff, 0xfe], FileError::Unknown),
            (unended.as_bytes(), FileError::Pem { number: 1 }),
            (garbled.as_bytes(), FileError::Pem { number: 0 }),
        ];
        for (file, expected) in rows {
            assert_eq!(certificates(file), Err(expected));
        }
    }
}
