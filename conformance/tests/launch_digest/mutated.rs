//! Files of which some bytes were changed: whatever the reader accepts, the crate `igvm` reads in the same way, wherever the
//! rules of both coincide.

use backend_snp::launch::Igvm;
use igvm::{IgvmFile, IsolationType};
use igvm_defs::{IGVM_FIXED_HEADER, IgvmVariableHeaderType as Type};
use zerocopy::FromBytes;

use crate::files::{file, files};
use crate::told::{ours, theirs};

/// Bytes of the fixed header of version 1.
const FIXED: usize = 24;
/// Flag of a page data header: 2 MiB.
const IS_2MB: u8 = 1;
/// Where the flags are in a page data header, behind type and length.
const FLAGS: usize = 8 + 16;

/// The variable headers of a file that was accepted: type and place.
fn headers(file: &[u8]) -> Vec<(u32, usize)> {
    let word = |at: usize| u32::from_le_bytes(*file[at..].first_chunk().expect("inside the file"));
    let end = (word(8) + word(12)) as usize;
    let mut at = word(8) as usize;
    let mut all = Vec::new();
    while at < end {
        all.push((word(at), at));
        at += 8 + (word(at + 4) as usize).next_multiple_of(8);
    }
    all
}

/// Puts the right checksum into a file whose headers begin right behind the fixed ones.
pub(crate) fn seal(file: &mut [u8]) {
    let (fixed, _) = IGVM_FIXED_HEADER::read_from_prefix(file).expect("a fixed header");
    file[20..24].fill(0);
    let covered = &file[..FIXED + fixed.variable_header_size as usize];
    let mut crc = !0_u32;
    for byte in covered {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = crc >> 1 ^ if crc & 1 == 1 { 0xedb8_8320 } else { 0 };
        }
    }
    file[20..24].copy_from_slice(&(!crc).to_le_bytes());
}

/// Compares both readings of a file that ours accepts; false if there is nothing to compare.
fn compare(file: &[u8]) -> bool {
    if Igvm::try_new(file).is_err() || headers(file).iter().any(|(kind, at)| rules_differ(file, *kind, *at)) {
        return false;
    }
    let read = IgvmFile::new_from_binary(file, Some(IsolationType::Snp)).expect("igvm reads what ours accepts");
    assert!(ours(file) == theirs(&read), "other steps");
    true
}

#[test]
fn what_is_accepted_of_a_changed_file_is_read_alike() {
    let (mut compared, mut refused) = (0, 0);
    // The longest one says nothing new.
    for (what, directives) in files().into_iter().filter(|(_, directives)| directives.len() < 100) {
        let good = file(directives);
        let (fixed, _) = IGVM_FIXED_HEADER::read_from_prefix(&good).expect("a fixed header");
        for at in FIXED..FIXED + fixed.variable_header_size as usize {
            for byte in [0, 1, 2, 0x10, 0xff].into_iter().filter(|byte| *byte != good[at]) {
                let mut changed = good.clone();
                changed[at] = byte;
                seal(&mut changed);
                if compare(&changed) {
                    compared += 1;
                } else {
                    refused += 1;
                }
            }
        }
        assert!(compare(&good), "{what}");
    }
    assert!(compared > 500 && refused > 500, "{compared} compared, {refused} refused");
}

/// Where this project's reader decides otherwise: it passes over what may be ignored and over the version of a file, and
/// takes pages of 2 MiB.
fn rules_differ(file: &[u8], kind: u32, at: usize) -> bool {
    let kind_differs = kind >> 31 == 1 || kind == Type::IGVM_VHT_VERSION_STRING.0;
    kind_differs || kind == Type::IGVM_VHT_PAGE_DATA.0 && file[at + FLAGS] & IS_2MB != 0
}
