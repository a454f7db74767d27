//! Verb 4: attest.
//!
//! Evidence names the level it is for. L1 never signs bytes that a lower level chose: report data made at L1 is
//! [`report_data`], a digest under L1's own domain tag over level, nonce and manifest (rule A1).

use sha2::{Digest, Sha512};

use crate::error::ErrorType;
use crate::identify::Binding;
use crate::level::{GuestLevel, Level};

/// Bytes of a nonce or of report data.
pub const REPORT_DATA: usize = 64;

/// Domain tag of report data that L1 makes for a level.
pub const DOMAIN_TAG: &[u8; 32] = b"coco-part L1 evidence, version 1";

/// What a verb of attestation wrote into the caller's buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Evidence {
    /// Bytes written from the start of the buffer.
    pub len: usize,
    /// The level it is for.
    pub names: Level,
    /// Who vouches for that level.
    pub bound_by: Binding,
    /// What its 64 bytes of report data are.
    pub data: DataForm,
}

/// What the report data of evidence is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DataForm {
    /// The caller's 64 bytes as they are: the signer asked for its own level.
    Verbatim,
    /// [`report_data`] over level, nonce and manifest.
    Digest,
}

/// Evidence for the own level. Both sides.
pub trait Attest: ErrorType {
    /// Writes evidence over 64 bytes of the caller into `out`; [`Evidence::data`] says in which form they are in it.
    ///
    /// # Errors
    /// `InvalidArgument` for a buffer that is too small; `HostRefused`, `HostMisbehaved`; `ChannelClosed` for good after
    /// an answer that leaves a sequence number in doubt (A2).
    #[doc(alias = "TDG.MR.REPORT")]
    fn attest(&mut self, data: &[u8; REPORT_DATA], out: &mut [u8]) -> Result<Evidence, Self::Error>;
}

impl<T: Attest + ?Sized> Attest for &mut T {
    fn attest(&mut self, data: &[u8; REPORT_DATA], out: &mut [u8]) -> Result<Evidence, Self::Error> {
        (**self).attest(data, out)
    }
}

/// Evidence for a level below. L1 only.
pub trait AttestFor: ErrorType {
    /// Writes evidence for `level` into `out`, its report data being [`report_data`] of the arguments.
    ///
    /// # Errors
    /// As [`Attest::attest`].
    fn attest_for(
        &mut self,
        level: GuestLevel,
        nonce: &[u8; REPORT_DATA],
        manifest: &[u8],
        out: &mut [u8],
    ) -> Result<Evidence, Self::Error>;
}

/// Report data that L1 makes for a level: SHA-512 of [`DOMAIN_TAG`], the level's number (one byte), the nonce, the length
/// of the manifest (8 bytes, little endian) and the manifest.
///
/// A verifier computes the same from what it knows. The fixed-length parts come first, so no two inputs collide by
/// shifting bytes between fields.
pub fn report_data(level: Level, nonce: &[u8; REPORT_DATA], manifest: &[u8]) -> [u8; REPORT_DATA] {
    let mut digest = Sha512::new();
    digest.update(DOMAIN_TAG);
    digest.update([level.number()]);
    digest.update(nonce);
    digest.update((manifest.len() as u64).to_le_bytes());
    digest.update(manifest);
    digest.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_input_changes_the_report_data() {
        let base = report_data(Level::Guest(GuestLevel::TWO), &[1; 64], b"manifest");
        assert_ne!(base, [1; 64]);
        assert_ne!(base, report_data(Level::Guest(GuestLevel::ONE), &[1; 64], b"manifest"));
        assert_ne!(base, report_data(Level::Guest(GuestLevel::TWO), &[2; 64], b"manifest"));
        assert_ne!(base, report_data(Level::Guest(GuestLevel::TWO), &[1; 64], b"manifesT"));
    }
}
