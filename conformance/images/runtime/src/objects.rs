//! Rust objects in memory that was taken for them.

use core::sync::atomic::AtomicU64;

use coco_part_api::FrameRange;
use coco_part_api::range::SMALL;

use crate::paging::Table;

/// Frames that a value takes.
#[must_use]
pub const fn frames_of<T>() -> u64 {
    const { assert!(align_of::<T>() <= SMALL as usize) }
    let frames = (size_of::<T>() as u64).div_ceil(SMALL);
    if frames == 0 { 1 } else { frames }
}

/// Frames that so many words take, at least 1.
#[must_use]
pub const fn frames_of_words(count: usize) -> u64 {
    let frames = (count as u64 * 8).div_ceil(SMALL);
    if frames == 0 { 1 } else { frames }
}

/// Puts a value at the beginning of `at`. `None` if it does not fit.
///
/// # Safety
/// `at` is private memory that nobody else uses and that is mapped at its own addresses, now and for ever, on all vCPUs.
pub unsafe fn place<T>(at: FrameRange, value: T) -> Option<&'static mut T> {
    if at.frames() < frames_of::<T>() {
        return None;
    }
    let place = pointer::<T>(at);
    // SAFETY: large enough and page aligned, which is enough for every type that `frames_of` takes; the rest the caller
    // vouches for.
    unsafe { place.write(value) };
    // SAFETY: as above, and it holds a value now.
    Some(unsafe { &mut *place })
}

/// `count` words that are zero. `None` if they do not fit.
///
/// # Safety
/// As [`place`], and the memory reads as zeros.
pub unsafe fn words(at: FrameRange, count: usize) -> Option<&'static [AtomicU64]> {
    if at.frames() < frames_of_words(count) {
        return None;
    }
    // SAFETY: large enough and aligned; zeros are words; the rest the caller vouches for.
    Some(unsafe { core::slice::from_raw_parts(pointer(at), count) })
}

/// Empty page tables, one per frame.
///
/// # Safety
/// As [`words`].
pub unsafe fn tables(at: FrameRange) -> &'static mut [Table] {
    // SAFETY: a table is a frame, and zeros are an empty one; the rest the caller vouches for.
    unsafe { core::slice::from_raw_parts_mut(pointer(at), at.frames() as usize) }
}

fn pointer<T>(at: FrameRange) -> *mut T {
    core::ptr::with_exposed_provenance_mut(at.start().as_u64() as usize)
}
