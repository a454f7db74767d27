//! Windows onto guest-physical memory, and a port over one.
//!
//! ```text
//! 0                     the image, where it is linked, and memory that it keeps objects in
//! 512 GiB               guest-physical memory from 0 on, private
//! 1 TiB                 the same, shared with the host
//! 2 TiB                 what code at CPL 3 has
//! ```
//!
//! Both windows have 2 MiB pages, so that pages of either size can be validated through the private one.

use backend_snp::instr::{DirectMap, DirectMapError, NativePort, NativeWindow};
use coco_part_api::PageSize;
use coco_part_api::range::LARGE;
use x86_64::{PhysAddr, VirtAddr};

use crate::paging::{Builder, MapError, Mapping, Rights, View, large_tables};

/// First address of the private window.
pub const PRIVATE: VirtAddr = VirtAddr::new(1 << 39);
/// First address of the shared window.
pub const SHARED: VirtAddr = VirtAddr::new(2 << 39);
/// First address of what code at CPL 3 has.
pub const USER: VirtAddr = VirtAddr::new(4 << 39);
/// Most bytes of a window.
pub const MOST_BYTES: u64 = 1 << 39;

/// Maps both windows over guest-physical memory up to `end`, rounded up to whole large pages.
///
/// # Errors
/// [`MapError`].
pub fn map(builder: &mut Builder<'_>, end: PhysAddr) -> Result<(), MapError> {
    let len_bytes = whole(end);
    for (at, view) in [(PRIVATE, View::Private), (SHARED, View::Shared)] {
        let to = PhysAddr::zero();
        builder.map(&Mapping { at, to, len_bytes, size: PageSize::Large, rights: Rights::Data, view })?;
    }
    Ok(())
}

/// Tables that [`map`] takes, without the root.
#[must_use]
pub const fn tables(end: PhysAddr) -> u64 {
    2 * large_tables(whole(end))
}

const fn whole(end: PhysAddr) -> u64 {
    end.as_u64().next_multiple_of(LARGE)
}

/// Windows and ports of one vCPU's page tables.
#[derive(Clone, Copy, Debug)]
pub struct Space {
    private: DirectMap,
    shared: DirectMap,
}

impl Space {
    /// Memory up to `end`.
    ///
    /// # Errors
    /// [`DirectMapError`] for more than [`MOST_BYTES`].
    ///
    /// # Safety
    /// The page tables in use, on every vCPU that uses this value, map both windows as [`map`] does with the same `end`. An
    /// exception that an access raises is handled by code that does not come back.
    pub unsafe fn new(end: PhysAddr) -> Result<Self, DirectMapError> {
        let len_bytes = whole(end);
        if len_bytes > MOST_BYTES {
            return Err(DirectMapError::DoesNotFit { base: PRIVATE, len_bytes });
        }
        Ok(Self { private: DirectMap::try_new(PRIVATE, len_bytes)?, shared: DirectMap::try_new(SHARED, len_bytes)? })
    }

    /// Memory as private.
    #[must_use]
    pub fn private(&self) -> NativeWindow {
        // SAFETY: `new` was promised that the window is mapped and that faults do not come back. That nothing in use is
        // accessed is the duty of the code above.
        unsafe { NativeWindow::new(self.private) }
    }

    /// Memory as shared with the host.
    #[must_use]
    pub fn shared(&self) -> NativeWindow {
        // SAFETY: as for `private`.
        unsafe { NativeWindow::new(self.shared) }
    }

    /// The instructions of this vCPU, on private memory.
    ///
    /// # Safety
    /// As [`NativePort::new`], but for the map.
    #[must_use]
    pub unsafe fn port(&self) -> NativePort {
        // SAFETY: `new` was promised that the window is mapped privately, by large pages; the caller vouches for the rest.
        unsafe { NativePort::new(self.private) }
    }
}
