//! Deliberate defects, each a feature of this crate that no image for use is built with: cases have to notice them.
//!
//! `zeroing-dropped`: pages that a running guest has validated keep what they held. `level-not-checked`: every VMSA looks as if it were for level 2.
//! `own-page-granted`: the guest may read the first page of the monitor's image.

use core::sync::atomic::{AtomicBool, Ordering};

use backend_snp::instr::NativeWindow;
use coco_part_api::{FrameRange, GuestMemory};
use x86_64::PhysAddr;

/// Offset of the VMPL in a VMSA, and bytes of a VMSA (vmsa.csv).
const VMSA_VMPL: usize = 0xca;
const VMSA_BYTES: usize = 0x1000;
/// The level that every VMSA seems to have.
const LEVEL: u8 = 2;

/// The guest has been started: what it had from the start was zeroed all the same, or it would not get as far as its cases.
pub(crate) static GUEST_RUNS: AtomicBool = AtomicBool::new(false);

/// Memory with a defect.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Memory(pub(crate) NativeWindow);

impl GuestMemory for Memory {
    type Fault = <NativeWindow as GuestMemory>::Fault;

    fn read(&self, at: PhysAddr, into: &mut [u8]) -> Result<(), Self::Fault> {
        GuestMemory::read(&self.0, at, into)?;
        let is_level = into.len() == 1 && at.as_u64() % VMSA_BYTES as u64 == VMSA_VMPL as u64;
        let place = if is_level { Some(0) } else { (into.len() == VMSA_BYTES).then_some(VMSA_VMPL) };
        if cfg!(feature = "level-not-checked")
            && let Some(level) = place.and_then(|place| into.get_mut(place))
        {
            *level = LEVEL;
        }
        Ok(())
    }

    fn write(&self, at: PhysAddr, from: &[u8]) -> Result<(), Self::Fault> {
        GuestMemory::write(&self.0, at, from)
    }

    fn zero(&self, range: FrameRange) -> Result<(), Self::Fault> {
        let drops = cfg!(feature = "zeroing-dropped") && GUEST_RUNS.load(Ordering::Relaxed);
        if drops { Ok(()) } else { GuestMemory::zero(&self.0, range) }
    }

    fn swap_u8(&self, at: PhysAddr, value: u8) -> Result<u8, Self::Fault> {
        GuestMemory::swap_u8(&self.0, at, value)
    }

    fn compare_exchange_u64(&self, at: PhysAddr, expected: u64, new: u64) -> Result<u64, Self::Fault> {
        GuestMemory::compare_exchange_u64(&self.0, at, expected, new)
    }
}

/// Lets the guest's level read the first page of the image.
#[cfg(feature = "own-page-granted")]
pub(crate) fn grant_own_page(port: &mut backend_snp::instr::NativePort) {
    use backend_snp::abi::page::PageSize;
    use backend_snp::abi::rmp::{RmpAttributes, VmplPermissions};
    use backend_snp::abi::vmpl::Vmpl;
    use backend_snp::instr::{Page, Port};
    let page = Page::try_new(PhysAddr::new_truncate(image_layout::MONITOR), PageSize::Size4KiB);
    // Whether it has succeeded is for the cases to find out.
    let _ = page.map(|page| port.rmpadjust(page, RmpAttributes::new(Vmpl::VMPL2, VmplPermissions::READ)));
}
