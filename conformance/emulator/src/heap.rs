//! Memory for our own structures.

use linked_list_allocator::LockedHeap;

/// First byte of the heap: above everything that the boot loader leaves in low memory.
const START: usize = 64 << 20;
/// Bytes of the heap; guest memory begins above it.
const BYTES: usize = 160 << 20;
/// First byte behind it.
pub(crate) const END: u64 = (START + BYTES) as u64;

#[global_allocator]
static HEAP: LockedHeap = LockedHeap::empty();

/// Makes the heap. Called once, before anything is allocated.
pub(crate) fn init() {
    // SAFETY: the command line of QEMU gives 1 GiB of RAM, identity mapped, and the image ends below 64 MiB; nobody else uses
    // these bytes, and this is called once.
    unsafe { HEAP.lock().init(START as *mut u8, BYTES) };
}
