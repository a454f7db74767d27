//! The window over ordinary memory of the test process.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::vec::Vec;

use x86_64::VirtAddr;

use super::*;

extern crate std;

const LEN: usize = 0x3000;

/// Memory that only a window touches.
struct Memory {
    start: *mut u8,
}

impl Memory {
    const LAYOUT: Layout = match Layout::from_size_align(LEN, 0x20_0000) {
        Ok(layout) => layout,
        Err(_) => panic!("a possible layout"),
    };

    fn new() -> Self {
        // SAFETY: the layout has a size.
        let start = unsafe { alloc_zeroed(Self::LAYOUT) };
        assert!(!start.is_null());
        Self { start }
    }

    fn window(&self) -> NativeWindow {
        let base = VirtAddr::new(self.start.expose_provenance() as u64);
        let map = DirectMap::try_new(base, LEN as u64).expect("a possible map");
        // SAFETY: the memory is allocated as long as `self` lives, is as long as the map, and holds no object; the
        // tests drop the window before it.
        unsafe { NativeWindow::new(map) }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this layout, and freed once.
        unsafe { dealloc(self.start, Self::LAYOUT) }
    }
}

fn at(address: usize) -> PhysAddr {
    PhysAddr::new(address as u64)
}

fn all(window: &NativeWindow) -> Vec<u8> {
    let mut bytes = std::vec![0; LEN];
    window.read(at(0), &mut bytes).expect("the whole window");
    bytes
}

#[test]
fn copies_and_zeroes_exactly_the_bytes_at_every_alignment() {
    let memory = Memory::new();
    let window = memory.window();
    for start in 0..17 {
        for len in 0..40 {
            let mut expected = std::vec![0x55; LEN];
            window.write(at(0), &expected).expect("the whole window");
            let data: Vec<u8> = (1..=len as u8).collect();
            window.write(at(start), &data).expect("inside");
            expected[start..start + len].copy_from_slice(&data);
            assert_eq!(all(&window), expected, "write {start} {len}");
            let mut back = std::vec![0; len];
            window.read(at(start), &mut back).expect("inside");
            assert_eq!(back, data, "read {start} {len}");
            window.zero(at(start), len).expect("inside");
            expected[start..start + len].fill(0);
            assert_eq!(all(&window), expected, "zero {start} {len}");
        }
    }
}

#[test]
fn refuses_whatever_leaves_the_window_and_touches_nothing() {
    let memory = Memory::new();
    let window = memory.window();
    let mut into = [0x77; 16];
    for start in [LEN - 15, LEN, LEN + 1, 0xf_ffff_ffff_ffff] {
        let error = WindowError::OutOfRange { at: at(start), len_bytes: 16 };
        assert_eq!(window.read(at(start), &mut into), Err(error));
        assert_eq!(window.write(at(start), &[1; 16]), Err(error));
        assert_eq!(window.zero(at(start), 16), Err(error));
    }
    assert_eq!(into, [0x77; 16]);
    assert!(window.zero(at(0), usize::MAX).is_err());
    assert!(window.swap_u8(at(LEN), 1).is_err());
    assert!(window.compare_exchange_u64(at(LEN), 0, 1).is_err());
    assert!(all(&window).iter().all(|byte| *byte == 0));
}

#[test]
fn a_window_is_guest_memory_and_says_what_kind_of_error_it_is() {
    use coco_part_api::{Error, GuestMemory};

    fn kinds<M: GuestMemory>(memory: &M) -> [Option<ErrorKind>; 5] {
        let out = at(LEN);
        let pages = FrameRange::new(out, 0x1000).expect("a page");
        [
            memory.read(out, &mut [0]).err().map(|error| error.kind()),
            memory.write(out, &[0]).err().map(|error| error.kind()),
            memory.zero(pages).err().map(|error| error.kind()),
            memory.swap_u8(out, 0).err().map(|error| error.kind()),
            memory.compare_exchange_u64(at(1), 0, 0).err().map(|error| error.kind()),
        ]
    }

    let memory = Memory::new();
    let window = memory.window();
    let out = Some(ErrorKind::OutOfRange);
    assert_eq!(kinds(&window), [out, out, out, out, Some(ErrorKind::Misaligned)]);
    window.write(at(0x1000), &[0x55; 0x1000]).expect("inside");
    GuestMemory::zero(&window, FrameRange::new(at(0x1000), 0x1000).expect("a page")).expect("inside");
    assert!(all(&window).iter().all(|byte| *byte == 0));
}

#[test]
fn swap_returns_the_old_byte() {
    let memory = Memory::new();
    let window = memory.window();
    assert_eq!(window.swap_u8(at(LEN - 1), 7), Ok(0));
    assert_eq!(window.swap_u8(at(LEN - 1), 9), Ok(7));
    assert_eq!(all(&window)[LEN - 1], 9);
}

#[test]
fn compare_exchange_stores_only_over_the_expected_word() {
    let memory = Memory::new();
    let window = memory.window();
    assert_eq!(window.compare_exchange_u64(at(8), 0, 0x0123_4567_89ab_cdef), Ok(0));
    assert_eq!(window.compare_exchange_u64(at(8), 0, 1), Ok(0x0123_4567_89ab_cdef));
    assert_eq!(all(&window)[8..16], 0x0123_4567_89ab_cdef_u64.to_le_bytes());
    for offset in 1..8 {
        let error = WindowError::Misaligned { at: at(offset) };
        assert_eq!(window.compare_exchange_u64(at(offset), 0, 1), Err(error));
    }
}
