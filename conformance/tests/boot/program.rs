//! ELF files, byte by byte.

const PAGE: usize = 0x1000;
pub(crate) const CODE: u32 = 5;
pub(crate) const DATA: u32 = 6;

/// A segment: address, bytes in the file, bytes in memory, flags.
#[derive(Clone, Copy)]
pub(crate) struct Segment<'a>(pub(crate) u64, pub(crate) &'a [u8], pub(crate) u64, pub(crate) u32);

/// A 64-bit x86 program linked to a fixed address.
pub(crate) fn elf(entry: u64, segments: &[Segment<'_>]) -> Vec<u8> {
    let mut file = b"\x7fELF\x02\x01\x01".to_vec();
    file.resize(16, 0);
    let half = |file: &mut Vec<u8>, value: u16| file.extend_from_slice(&value.to_le_bytes());
    let word = |file: &mut Vec<u8>, value: u32| file.extend_from_slice(&value.to_le_bytes());
    let quad = |file: &mut Vec<u8>, value: u64| file.extend_from_slice(&value.to_le_bytes());
    half(&mut file, 2);
    half(&mut file, 62);
    word(&mut file, 1);
    for value in [entry, 64, 0] {
        quad(&mut file, value);
    }
    word(&mut file, 0);
    for value in [64, 56, segments.len() as u16, 64, 0, 0] {
        half(&mut file, value);
    }
    let mut offset = (64 + 56 * segments.len()) as u64;
    for Segment(address, data, bytes, flags) in segments {
        word(&mut file, 1);
        word(&mut file, *flags);
        for value in [offset, *address, *address, data.len() as u64, *bytes, PAGE as u64] {
            quad(&mut file, value);
        }
        offset += data.len() as u64;
    }
    segments.iter().for_each(|segment| file.extend_from_slice(segment.1));
    file
}

/// A program of one page of code at `address`, whose first byte is the entry point.
pub(crate) fn small(address: u64) -> Vec<u8> {
    elf(address, &[Segment(address, &[0xf4; 16], PAGE as u64, CODE)])
}
