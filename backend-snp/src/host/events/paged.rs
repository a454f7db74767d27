//! Answers that go into pages of the guest, or say how many pages that takes.

use crate::error::SnpError;

/// Pages that a host may demand at most for a certificate table or a list of vCPUs: 64 KiB.
pub const MAX_PAGES_NEEDED: u64 = 16;

/// What an event that fills pages gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Paged<T> {
    /// The pages hold it.
    Done(T),
    /// Nothing was done, so the host says: it takes this many pages, more than were given and at most
    /// [`MAX_PAGES_NEEDED`].
    PagesNeeded(u64),
}

impl<T> Paged<T> {
    /// The demand for more pages, if it is a possible one.
    ///
    /// # Errors
    /// [`SnpError::PagesNeeded`].
    pub(super) const fn demanded(given: u64, needed: u64) -> Result<Self, SnpError> {
        if given < needed && needed <= MAX_PAGES_NEEDED {
            Ok(Self::PagesNeeded(needed))
        } else {
            Err(SnpError::PagesNeeded { given, needed })
        }
    }
}
