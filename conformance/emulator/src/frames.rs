//! System memory of the machine: guest RAM as one block, whatever else it names page by page.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;

use machine::{Frames, PAGE_SIZE};
use spin::Mutex;

use crate::heap;

/// Bytes of guest RAM, from guest address 0 on.
pub(crate) const RAM_BYTES: u64 = image_layout::RAM_END;
/// Where it lies in our memory.
const RAM: u64 = 256 << 20;
/// First byte behind it.
pub(crate) const END: u64 = RAM + RAM_BYTES;

const _: () = assert!(heap::END <= RAM);

/// A page of our own memory.
#[derive(Clone, Debug)]
#[repr(C, align(4096))]
pub(crate) struct Page(pub(crate) [u8; PAGE_SIZE as usize]);

impl Page {
    /// A page of zeros that lives as long as the run. Gives its address; memory is identity mapped.
    pub(crate) fn leak() -> u64 {
        let page: &'static mut Self = Box::leak(Box::new(Self([0; PAGE_SIZE as usize])));
        core::ptr::from_mut(page) as u64
    }
}

/// The memory behind system page numbers. Page n of RAM is system page n.
#[derive(Debug)]
pub(crate) struct SystemMemory {
    /// Addresses of the pages that are no RAM: the launch VMSA's, and those that hosts keep to swap.
    others: Mutex<BTreeMap<u64, u64>>,
}

/// The one of this machine.
pub(crate) static MEMORY: SystemMemory = SystemMemory { others: Mutex::new(BTreeMap::new()) };

impl SystemMemory {
    /// The address of a system page in our memory.
    pub(crate) fn address(&self, page: u64) -> u64 {
        if page < RAM_BYTES / PAGE_SIZE {
            return RAM + page * PAGE_SIZE;
        }
        *self.others.lock().entry(page).or_insert_with(Page::leak)
    }
}

/// The part of a page that an access touches.
fn part(offset: usize, len: usize) -> Option<usize> {
    offset.checked_add(len).filter(|end| *end <= PAGE_SIZE as usize).map(|_| offset)
}

impl Frames for SystemMemory {
    fn read(&self, page: u64, offset: usize, out: &mut [u8]) {
        let Some(offset) = part(offset, out.len()) else { return out.fill(0) };
        let source = (self.address(page) as usize + offset) as *const u8;
        // SAFETY: the bytes lie in one page that `address` gave, which is mapped and no Rust object refers to. A guest may write them
        // at the same time; whatever is read then is untrusted like everything there.
        unsafe { core::ptr::copy_nonoverlapping(source, out.as_mut_ptr(), out.len()) };
    }

    fn write(&self, page: u64, offset: usize, bytes: &[u8]) {
        let Some(offset) = part(offset, bytes.len()) else { return };
        let target = (self.address(page) as usize + offset) as *mut u8;
        // SAFETY: as for `read`.
        unsafe { core::ptr::copy_nonoverlapping(bytes.as_ptr(), target, bytes.len()) };
    }
}
