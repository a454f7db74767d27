//! Parameter areas of a file, from their declaration to their insertion.

use super::{Contents, IgvmError};

/// Most parameter areas in one file.
pub const MAX_AREAS: usize = 32;

/// A parameter area that is declared.
#[derive(Clone, Copy, Debug)]
pub(super) struct Area<'a> {
    pub(super) index: u32,
    pub(super) bytes: u64,
    pub(super) contents: Contents<'a>,
    is_inserted: bool,
}

/// The areas declared so far.
#[derive(Clone, Debug)]
pub(super) struct Areas<'a>([Option<Area<'a>>; MAX_AREAS]);

impl<'a> Areas<'a> {
    pub(super) const fn new() -> Self {
        Self([None; MAX_AREAS])
    }

    /// Declares an area.
    pub(super) fn declare(
        &mut self,
        at: usize,
        index: u32,
        bytes: u64,
        contents: Contents<'a>,
    ) -> Result<(), IgvmError> {
        if self.0.iter().flatten().any(|area| area.index == index) {
            return Err(IgvmError::AreaTwice { at, index });
        }
        let free = self.0.iter_mut().find(|slot| slot.is_none()).ok_or(IgvmError::TooManyAreas { at })?;
        *free = Some(Area { index, bytes, contents, is_inserted: false });
        Ok(())
    }

    /// An area that is declared and not inserted.
    pub(super) fn find(&mut self, at: usize, index: u32) -> Result<&mut Area<'a>, IgvmError> {
        let area = self.0.iter_mut().flatten().find(|area| area.index == index);
        let area = area.ok_or(IgvmError::NoArea { at, index })?;
        if area.is_inserted { Err(IgvmError::AreaInserted { at, index }) } else { Ok(area) }
    }
}

impl Area<'_> {
    /// Marks the area as inserted: it cannot be used any more.
    pub(super) const fn insert(&mut self) {
        self.is_inserted = true;
    }
}
