//! What an owner's file, a host's parameters and a level's code hold.

use backend_snp::insn::{DecodeError, MAX_LEN, Mode, decode};
use backend_snp::launch::Igvm;
use backend_snp::launch::igvm::MAX_PAGES;
use backend_snp::launch::parameters::{command_line, guest_ram, memory_is_shared, memory_map, mmio_ranges, vp_count};
use coco_part_api::FrameRange;
use igvm::{IgvmDirectiveHeader, IgvmFile, IgvmInitializationHeader, IgvmPlatformHeader, IgvmRevision};
use igvm_defs::{
    IGVM_SEV_SNP_PLATFORM_VERSION, IGVM_VHS_PARAMETER, IGVM_VHS_PARAMETER_INSERT, IGVM_VHS_SUPPORTED_PLATFORM,
    IgvmPageDataFlags, IgvmPageDataType, IgvmPlatformType,
};

use super::bytes::Bytes;
use crate::world::layout::range;

/// Where the fixed header has the offset and the size of the variable headers, and their checksum.
const HEADERS_AT: usize = 8;
const HEADERS_SIZE: usize = 12;
const CHECKSUM: usize = 20;
/// Pages of a file whose digest a target still computes.
const MEASURED: usize = 16;

/// A file, with the checksum that it would have: else few get behind it.
pub(super) fn igvm(data: &[u8]) -> bool {
    let mut file = data.to_vec();
    repair(&mut file);
    let Ok(image) = Igvm::try_new(&file) else { return false };
    let updates = image.updates().take(MAX_PAGES as usize + 1).count();
    assert!(updates <= MAX_PAGES as usize, "more pages than the bound says");
    assert!(image.steps().count() <= file.len(), "more steps than bytes");
    if updates <= MEASURED {
        let _ = image.digest();
    }
    let _ = (image.id_block(), image.platform(), image.policy());
    true
}

/// Puts the right checksum into a file of version 1, if there is a header to put it in.
fn repair(file: &mut [u8]) {
    let word = |file: &[u8], at: usize| Some(u32::from_le_bytes(*file.get(at..)?.first_chunk()?) as usize);
    let (Some(at), Some(size)) = (word(file, HEADERS_AT), word(file, HEADERS_SIZE)) else { return };
    let Some(field) = file.get_mut(CHECKSUM..CHECKSUM + 4) else { return };
    field.fill(0);
    let Some(covered) = at.checked_add(size).and_then(|end| file.get(..end)) else { return };
    let crc = covered.iter().fold(!0_u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| crc >> 1 ^ 0xedb8_8320 & (crc & 1).wrapping_neg())
    });
    if let Some(field) = file.get_mut(CHECKSUM..CHECKSUM + 4) {
        field.copy_from_slice(&(!crc).to_le_bytes());
    }
}

/// A file of a page without data, a page of code, and one for parameters.
pub(super) fn igvm_examples() -> Vec<Vec<u8>> {
    const MASK: u32 = 1;
    let platform = IgvmPlatformHeader::SupportedPlatform(IGVM_VHS_SUPPORTED_PLATFORM {
        compatibility_mask: MASK,
        highest_vtl: 0,
        platform_type: IgvmPlatformType::SEV_SNP,
        platform_version: IGVM_SEV_SNP_PLATFORM_VERSION,
        shared_gpa_boundary: 0,
    });
    let policy = IgvmInitializationHeader::GuestPolicy { policy: 0x3_0000, compatibility_mask: MASK };
    let page = |gpa, data_type, data| IgvmDirectiveHeader::PageData {
        gpa,
        compatibility_mask: MASK,
        flags: IgvmPageDataFlags::new(),
        data_type,
        data,
    };
    let parameter = |byte_offset| IGVM_VHS_PARAMETER { parameter_area_index: 0, byte_offset };
    let directives = vec![
        page(0x1000, IgvmPageDataType::SECRETS, Vec::new()),
        page(0x2000, IgvmPageDataType::NORMAL, vec![0x90; 0x10]),
        IgvmDirectiveHeader::ParameterArea {
            number_of_bytes: 0x1000,
            parameter_area_index: 0,
            initial_data: Vec::new(),
        },
        IgvmDirectiveHeader::VpCount(parameter(0)),
        IgvmDirectiveHeader::MemoryMap(parameter(0x40)),
        IgvmDirectiveHeader::ParameterInsert(IGVM_VHS_PARAMETER_INSERT {
            gpa: 0x3000,
            compatibility_mask: MASK,
            parameter_area_index: 0,
        }),
    ];
    let mut file = Vec::new();
    let made = IgvmFile::new(IgvmRevision::V1, vec![platform], vec![policy], directives)
        .and_then(|image| image.serialize(&mut file));
    made.expect("the example is a file");
    vec![file]
}

/// Areas that the host filled. Taken is a memory map with an end.
pub(super) fn parameters(data: &[u8]) -> bool {
    let mut bytes = Bytes::new(data);
    let own = [range(u64::from(bytes.u16()) << 12, 0x10_0000), range(u64::from(bytes.u16()) << 12, 0x1000)];
    let area = data.get(4..).unwrap_or_default();
    let entries = memory_map(area).take_while(Result::is_ok).count();
    assert!(entries <= area.len(), "more entries than bytes");
    let mut room = [range(0, 0x1000); 16];
    if let Ok(ram) = guest_ram(area, &own, &mut room) {
        let mut end = 0;
        for part in ram {
            assert!(part.first_number() >= end, "ranges out of order");
            assert!(!own.iter().any(|own: &FrameRange| own.overlaps(*part)), "{part:?} is the monitor's");
            end = part.first_number() + part.frames();
        }
    }
    assert!(vp_count(area, 8).is_ok_and(|count| (1..=8).contains(&count)) || vp_count(area, 8).is_err());
    let _ = (mmio_ranges(area), memory_is_shared(area), command_line(area).map(str::len));
    memory_map(area).all(|entry| entry.is_ok())
}

/// A map of two ranges of RAM and its end.
pub(super) fn parameter_examples() -> Vec<Vec<u8>> {
    let mut map = vec![0x00, 0x01, 0x80, 0x00];
    for (first, pages) in [(0_u64, 0x400_u64), (0x1000, 0x2000), (0, 0)] {
        map.extend(first.to_le_bytes());
        map.extend(pages.to_le_bytes());
        map.extend([0; 8]);
    }
    vec![map]
}

/// Instruction bytes in each mode. What is decoded does not depend on the bytes behind it, and less of it is cut off.
pub(super) fn instruction(data: &[u8]) -> bool {
    let mut taken = false;
    for mode in [Mode::Bits64, Mode::Bits32, Mode::Bits16] {
        let Ok(found) = decode(data, mode) else { continue };
        let len = usize::from(found.len);
        assert!((1..=MAX_LEN).contains(&len) && len <= data.len(), "{len} bytes of {}", data.len());
        assert_eq!(decode(&data[..len], mode), Ok(found));
        for cut in 0..len {
            assert_eq!(decode(&data[..cut], mode), Err(DecodeError::Truncated), "{cut} bytes of {found:?}");
        }
        taken = true;
    }
    taken
}

/// CPUID, OUT DX, AL, REP INSB, MOV to and from memory, MOVZX.
pub(super) fn instruction_examples() -> Vec<Vec<u8>> {
    let examples: [&[u8]; 6] = [
        &[0x0f, 0xa2],
        &[0xee],
        &[0xf3, 0x6c],
        &[0x48, 0x89, 0x44, 0x8d, 0x10],
        &[0x66, 0xc7, 0x05, 0, 0, 0, 0, 0x34, 0x12],
        &[0x0f, 0xb6, 0x04, 0x25, 0, 0, 0xe0, 0xfe],
    ];
    examples.iter().map(|bytes| bytes.to_vec()).collect()
}
