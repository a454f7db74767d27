//! Protocol 2, vTPM: the frame around a command of a TPM and its response (fact table `svsm_protocol`, protocol 2).
//!
//! What is in the frame is the business of the TPM. The buffer lies in memory that the caller's other vCPUs may change: a
//! command is copied once, and the copy is what counts.

use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::error::ErrorKind;
use crate::range::SMALL;

/// Version of the protocol that is spoken here.
pub const VERSION: u32 = 1;

/// Call: which platform commands there are (RCX out, a bit each) and which features (RDX out, zero).
pub const VTPM_QUERY: u32 = 0;
/// Call: a platform command. RCX in: address of its buffer of one page, any alignment. The response overwrites it.
pub const VTPM_CMD: u32 = 1;

/// Platform command: have the TPM execute a command.
pub const SEND_COMMAND: u32 = 8;
/// Bytes of a buffer.
pub const BUFFER: u64 = SMALL;
/// Most bytes of a TPM command.
pub const MOST_COMMAND: usize = BUFFER as usize - size_of::<CommandHeader>();
/// Most bytes of a TPM response.
pub const MOST_RESPONSE: usize = BUFFER as usize - size_of::<ResponseHeader>();

/// Head of a [`SEND_COMMAND`] buffer; the TPM command follows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct CommandHeader {
    /// [`SEND_COMMAND`].
    pub platform_command: U32,
    /// Zero.
    pub locality: u8,
    /// Bytes of the TPM command.
    pub in_size: U32,
}

const _: () = assert!(core::mem::offset_of!(CommandHeader, locality) == 4);
const _: () = assert!(core::mem::offset_of!(CommandHeader, in_size) == 5);
const _: () = assert!(size_of::<CommandHeader>() == 9);
const _: () = assert!(MOST_COMMAND == 4087);

/// Head of a response; the TPM response follows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct ResponseHeader {
    /// Bytes of the TPM response.
    pub out_size: U32,
}

const _: () = assert!(size_of::<ResponseHeader>() == 4);
const _: () = assert!(MOST_RESPONSE == 4092);

impl CommandHeader {
    /// The head of a TPM command of `len` bytes at locality 0.
    ///
    /// # Errors
    /// `InvalidArgument` for none, or more than [`MOST_COMMAND`].
    pub fn send(len: usize) -> Result<Self, ErrorKind> {
        let in_size = u32::try_from(len).map_err(|_| ErrorKind::InvalidArgument)?;
        let header = Self { platform_command: SEND_COMMAND.into(), locality: 0, in_size: in_size.into() };
        header.check().map(|_| header)
    }

    /// Length of the TPM command behind a copy of a header.
    ///
    /// # Errors
    /// `InvalidArgument` for another platform command, another locality than 0, no bytes, or more than [`MOST_COMMAND`].
    pub fn check(&self) -> Result<usize, ErrorKind> {
        let len = usize::try_from(self.in_size.get()).map_err(|_| ErrorKind::InvalidArgument)?;
        let fits =
            self.platform_command.get() == SEND_COMMAND && self.locality == 0 && (1..=MOST_COMMAND).contains(&len);
        if fits { Ok(len) } else { Err(ErrorKind::InvalidArgument) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_other_commands_localities_and_sizes() {
        let good = CommandHeader::send(10).unwrap();
        assert_eq!(good.as_bytes(), [8, 0, 0, 0, 0, 10, 0, 0, 0]);
        assert_eq!(good.check(), Ok(10));
        for size in [1, 4087] {
            assert_eq!(CommandHeader { in_size: size.into(), ..good }.check(), Ok(size as usize));
        }
        for bad in [
            CommandHeader { platform_command: 7.into(), ..good },
            CommandHeader { platform_command: (1 << 8 | 8).into(), ..good },
            CommandHeader { locality: 1, ..good },
            CommandHeader { locality: 0xff, ..good },
            CommandHeader { in_size: 0.into(), ..good },
            CommandHeader { in_size: 4088.into(), ..good },
            CommandHeader { in_size: u32::MAX.into(), ..good },
        ] {
            assert_eq!(bad.check(), Err(ErrorKind::InvalidArgument), "{bad:?}");
        }
        assert_eq!(CommandHeader::send(4088), Err(ErrorKind::InvalidArgument));
        assert_eq!(CommandHeader::send(usize::MAX), Err(ErrorKind::InvalidArgument));
    }
}
