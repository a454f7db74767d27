//! Bad files: what is wrong, and the error that names it.

use super::*;

/// A change of one header, and the error for it. Indexes are those of [`all`].
type Row = (usize, usize, &'static [u8], fn(usize) -> IgvmError);

fn place(at: usize, gpa: u64, bytes: u64, fault: PlaceFault) -> IgvmError {
    IgvmError::Place { at, gpa, bytes, fault }
}

fn reserved(kind: Type) -> impl Fn(usize) -> IgvmError {
    move |at| IgvmError::Reserved { at, kind: kind.0 }
}

/// Bytes put at an offset of the contents of a header.
#[rustfmt::skip]
const ROWS: &[Row] = &[
    // Platform: mask, highest VTL, type, version.
    (0, 0, &[0, 0, 0, 0], |at| IgvmError::CompatibilityMask { at, mask: 0 }),
    (0, 0, &[5, 0, 0, 0], |at| IgvmError::CompatibilityMask { at, mask: 5 }),
    (1, 0, &[1, 0, 0, 0], |at| IgvmError::CompatibilityMask { at, mask: 1 }),
    (0, 4, &[1], |_| IgvmError::HighestVtl { found: 1 }),
    (0, 4, &[0xff], |_| IgvmError::HighestVtl { found: 0xff }),
    (0, 6, &[2, 0], |_| IgvmError::PlatformVersion { found: 2 }),
    (0, 6, &[0, 0], |_| IgvmError::PlatformVersion { found: 0 }),
    (1, 5, &[2], |at| IgvmError::PlatformTwice { at }),
    // Policy: mask, reserved.
    (2, 8, &[0, 0, 0, 0], |at| IgvmError::CompatibilityMask { at, mask: 0 }),
    (2, 8, &[4, 0, 0, 0], |at| IgvmError::CompatibilityMask { at, mask: 4 }),
    (2, 12, &[0, 0, 0, 1], |at| reserved(Type::IGVM_VHT_GUEST_POLICY)(at)),
    // Page data: address, mask, offset, flags, type, reserved.
    (3, 0, &[1], |at| place(at, 0x1001, 0x1000, PlaceFault::Unaligned)),
    (3, 0, &[0, 0x18], |at| place(at, 0x1800, 0x1000, PlaceFault::Unaligned)),
    (3, 0, &[0, 0, 0, 0, 0, 0, 0x10, 0], |at| place(at, 1 << 52, 0x1000, PlaceFault::OutsideAddressSpace)),
    (3, 0, &[0, 0xf0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
        |at| place(at, 0xffff_ffff_ffff_f000, 0x1000, PlaceFault::OutsideAddressSpace)),
    (3, 8, &[1, 0, 0, 0x80], |at| IgvmError::CompatibilityMask { at, mask: 0x8000_0001 }),
    (3, 12, &[1, 0, 0, 0], |at| IgvmError::Contents { at, offset: 1, bytes: 0x1000 }),
    (3, 12, &[24, 0, 0, 0], |at| IgvmError::Contents { at, offset: 24, bytes: 0x1000 }),
    (3, 12, &[0xff, 0xff, 0xff, 0xff], |at| IgvmError::Contents { at, offset: u32::MAX, bytes: 0x1000 }),
    (3, 16, &[1], |at| place(at, 0x1000, 0x20_0000, PlaceFault::Unaligned)),
    (3, 16, &[8], |at| reserved(Type::IGVM_VHT_PAGE_DATA)(at)),
    (3, 19, &[0x80], |at| reserved(Type::IGVM_VHT_PAGE_DATA)(at)),
    (3, 20, &[4, 0], |at| IgvmError::PageDataType { at, found: 4 }),
    (3, 20, &[0xff, 0xff], |at| IgvmError::PageDataType { at, found: 0xffff }),
    (3, 22, &[1], |at| reserved(Type::IGVM_VHT_PAGE_DATA)(at)),
    (4, 16, &[1], |at| IgvmError::PageFlags { at, flags: 1 }),
    (5, 16, &[4], |at| IgvmError::PageFlags { at, flags: 4 }),
    (4, 0, &[0, 0x10], |at| place(at, 0x1000, 0x1000, PlaceFault::Overlap)),
    (7, 0, &[0, 0x10], |at| place(at, 0x1000, 0x1000, PlaceFault::Overlap)),
    // Parameter area: bytes, index, offset.
    (8, 0, &[0, 0, 0, 0, 0, 0, 0, 0], |at| IgvmError::AreaSize { at, bytes: 0 }),
    (8, 0, &[1], |at| IgvmError::AreaSize { at, bytes: 0x2001 }),
    (8, 0, &[0xff; 8], |at| IgvmError::AreaSize { at, bytes: u64::MAX }),
    (8, 8, &[8], |_| IgvmError::NoArea { at: at(&all(&Data(0)), 9), index: 7 }),
    (8, 12, &[1, 0, 0, 0], |at| IgvmError::Contents { at, offset: 1, bytes: 0x2000 }),
    // Parameters: area, offset.
    (9, 0, &[6], |at| IgvmError::NoArea { at, index: 6 }),
    (9, 4, &[0xe9, 0x1f, 0, 0], |at| IgvmError::ParameterOffset { at, offset: 0x1fe9 }),
    (9, 4, &[0xff, 0xff, 0xff, 0xff], |at| IgvmError::ParameterOffset { at, offset: u32::MAX }),
    (10, 4, &[0xfd, 0x1f, 0, 0], |at| IgvmError::ParameterOffset { at, offset: 0x1ffd }),
    // Insertion: address, mask, area.
    (11, 0, &[1], |at| place(at, 0x1_0001, 0x2000, PlaceFault::Unaligned)),
    (11, 0, &[0, 0, 0], |at| place(at, 0, 0x2000, PlaceFault::Overlap)),
    (11, 0, &[0, 0xf0, 0xff, 0xff, 0xff, 0xff, 0x0f],
        |at| place(at, 0xf_ffff_ffff_f000, 0x2000, PlaceFault::OutsideAddressSpace)),
    (11, 8, &[0], |at| IgvmError::CompatibilityMask { at, mask: 0 }),
    (11, 12, &[0xff], |at| IgvmError::NoArea { at, index: 0xff }),
    // VMSA: address, mask, offset, reserved.
    (12, 0, &[1], |at| place(at, 0xffff_ffff_f001, 0x1000, PlaceFault::Unaligned)),
    (12, 0, &[0, 0x10, 0, 0, 0, 0], |at| place(at, 0x1000, 0x1000, PlaceFault::Overlap)),
    (12, 8, &[4], |at| IgvmError::CompatibilityMask { at, mask: 4 }),
    (12, 12, &[0, 0, 0, 0], |at| IgvmError::Contents { at, offset: 0, bytes: 0x1000 }),
    (12, 12, &[0, 0, 0, 0x7f], |at| IgvmError::Contents { at, offset: 0x7f00_0000, bytes: 0x1000 }),
    (12, 18, &[1], |at| reserved(Type::IGVM_VHT_VP_CONTEXT)(at)),
    // Required memory: address, mask, bytes, flags, reserved.
    (13, 0, &[1], |at| place(at, 1, 0x10_0000, PlaceFault::Unaligned)),
    (13, 8, &[8], |at| IgvmError::CompatibilityMask { at, mask: 8 }),
    (13, 12, &[1], |at| place(at, 0, 0x10_0001, PlaceFault::Unaligned)),
    (13, 12, &[0, 0, 0, 0], |at| place(at, 0, 0, PlaceFault::Empty)),
    (13, 16, &[2], |at| reserved(Type::IGVM_VHT_REQUIRED_MEMORY)(at)),
    (13, 20, &[1], |at| reserved(Type::IGVM_VHT_REQUIRED_MEMORY)(at)),
    // Error range: address, mask, bytes.
    (14, 0, &[0xff], |at| place(at, 0x2_00ff, 0x1000, PlaceFault::Unaligned)),
    (14, 0, &[0, 0x50, 0], |at| place(at, 0x5000, 0x1000, PlaceFault::Overlap)),
    (14, 8, &[0], |at| IgvmError::CompatibilityMask { at, mask: 0 }),
    (14, 12, &[1], |at| place(at, 0x2_0000, 0x1001, PlaceFault::Unaligned)),
    // ID block: mask, author key, reserved, version.
    (15, 0, &[0], |at| IgvmError::CompatibilityMask { at, mask: 0 }),
    (15, 4, &[2], |at| reserved(Type::IGVM_VHT_SNP_ID_BLOCK)(at)),
    (15, 7, &[1], |at| reserved(Type::IGVM_VHT_SNP_ID_BLOCK)(at)),
    (15, 88, &[0], |_| IgvmError::IdBlockVersion { found: 0 }),
    (15, 88, &[2], |_| IgvmError::IdBlockVersion { found: 2 }),
];

#[test]
fn every_bad_field_of_every_header_is_a_named_error() {
    for (index, offset, bytes, want) in ROWS {
        let file = file(|data| {
            let mut headers = all(data);
            headers[*index].1[*offset..*offset + bytes.len()].copy_from_slice(bytes);
            headers
        });
        let want = want(at(&all(&Data(0)), *index));
        assert_eq!(Igvm::try_new(&file).err(), Some(want), "header {index}, {bytes:x?} at {offset}");
    }
}

#[test]
fn every_header_has_the_length_of_its_type() {
    for index in 0..all(&Data(0)).len() {
        for change in [-1, 1, 8] {
            let file = file(|data| {
                let mut headers = all(data);
                let body = &mut headers[index].1;
                body.resize(body.len().saturating_add_signed(change), 0);
                headers
            });
            let (kind, body) = &all(&Data(0))[index];
            let length = body.len().saturating_add_signed(change);
            let want = IgvmError::HeaderLength { at: at(&all(&Data(0)), index), kind: *kind, length };
            assert_eq!(Igvm::try_new(&file).err(), Some(want), "header {index}, {change}");
        }
    }
}

#[test]
fn a_section_that_ends_inside_a_header_is_refused() {
    let whole = section(&all(&Data(0)));
    let ends: Vec<usize> = (0..=all(&Data(0)).len()).map(|index| at(&all(&Data(0)), index) - FIXED).collect();
    for len in 0..whole.len() {
        let data = Data((FIXED + len) as u32);
        let mut cut = section(&all(&data));
        cut.truncate(len);
        let file = file_of(&cut);
        let error = Igvm::try_new(&file).err();
        if ends.contains(&len) {
            // What is left is a file: of nothing at first, then without a policy, then shorter than it was.
            let want = [Some(IgvmError::NotForSnp), Some(IgvmError::NoPolicy), Some(IgvmError::NoPolicy), None];
            let complete = ends.iter().position(|end| *end == len).unwrap();
            assert_eq!(error, want[complete.min(3)], "{len:#x}");
        } else {
            let begun = ends.iter().rfind(|end| **end < len).unwrap();
            assert_eq!(error, Some(IgvmError::HeaderTruncated { at: FIXED + begun }), "{len:#x}");
        }
    }
}

#[test]
fn every_shorter_file_is_refused() {
    let file = file(all);
    for len in 0..file.len() {
        let want = if len < FIXED {
            IgvmError::NoFixedHeader { len }
        } else {
            IgvmError::FileSize { stated: file.len() as u32, len }
        };
        assert_eq!(Igvm::try_new(&file[..len]).err(), Some(want));
    }
    let longer = [&file[..], &[0]].concat();
    let want = IgvmError::FileSize { stated: file.len() as u32, len: longer.len() };
    assert_eq!(Igvm::try_new(&longer).err(), Some(want));
}

#[test]
fn every_bad_field_of_the_fixed_header_is_a_named_error() {
    let good = file(all);
    let size = section(&all(&Data(0))).len() as u32;
    let place = |offset, size, fault| IgvmError::HeaderSection { offset, size, fault };
    let rows = [
        (0, 0x4d56_4748, IgvmError::Magic { found: 0x4d56_4748 }),
        (0, 0, IgvmError::Magic { found: 0 }),
        (4, 0, IgvmError::FormatVersion { found: 0 }),
        (4, 3, IgvmError::FormatVersion { found: 3 }),
        (4, u32::MAX, IgvmError::FormatVersion { found: u32::MAX }),
        (8, 0, place(0, size, FileFault::InFixedHeader)),
        (8, 16, place(16, size, FileFault::InFixedHeader)),
        (8, 28, place(28, size, FileFault::Unaligned)),
        (8, u32::MAX - 7, place(u32::MAX - 7, size, FileFault::OutsideFile)),
        (12, u32::MAX, place(24, u32::MAX, FileFault::OutsideFile)),
        (12, good.len() as u32, place(24, good.len() as u32, FileFault::OutsideFile)),
        (16, 0, IgvmError::FileSize { stated: 0, len: good.len() }),
    ];
    for (at, word, want) in rows {
        let mut file = good.clone();
        file[at..at + 4].copy_from_slice(&word.to_le_bytes());
        assert_eq!(Igvm::try_new(&file).err(), Some(want), "{word:#x} at {at}");
    }
}

/// Whatever bit changes in what the checksum covers, it is noticed, if not by a field before.
#[test]
fn every_flipped_bit_under_the_checksum_is_refused() {
    let good = file(all);
    let covered = at(&all(&Data(0)), all(&Data(0)).len());
    for bit in 0..covered * 8 {
        let mut file = good.clone();
        file[bit / 8] ^= 1 << (bit % 8);
        let error = Igvm::try_new(&file).err();
        if bit / 8 >= FIXED || (20..24).contains(&(bit / 8)) {
            assert!(matches!(error, Some(IgvmError::Checksum { .. })), "{bit}: {error:?}");
        }
        assert!(error.is_some(), "{bit}");
    }
}

#[test]
fn padding_that_is_not_zero_is_refused() {
    let mut bytes = file(all);
    let vmsa = at(&all(&Data(0)), 12);
    // 20 bytes of contents behind 8 of type and length.
    for offset in 28..32 {
        let mut file = bytes.clone();
        file[vmsa + offset] = 1;
        seal(&mut file);
        assert_eq!(Igvm::try_new(&file).err(), Some(IgvmError::Padding { at: vmsa }));
    }
    seal(&mut bytes);
    assert!(Igvm::try_new(&bytes).is_ok());
}

/// Headers put behind those of [`all`], or in place of them, and the error for the last one.
#[test]
fn headers_that_do_not_fit_those_before_them_are_refused() {
    type Case = (fn(&Data) -> Vec<Raw>, fn(usize) -> IgvmError);
    #[rustfmt::skip]
    let cases: &[Case] = &[
        (|_| vec![platform(SNP, 2), policy(SNP), policy(SNP)], |at| IgvmError::PolicyTwice { at }),
        (|_| vec![platform(SNP, 2), policy(SNP), platform(OTHER, 3)],
            |at| IgvmError::SectionOrder { at, kind: Type::IGVM_VHT_SUPPORTED_PLATFORM.0 }),
        (|_| vec![platform(SNP, 2), policy(SNP), required(0, 0x1000), policy(SNP)],
            |at| IgvmError::SectionOrder { at, kind: Type::IGVM_VHT_GUEST_POLICY.0 }),
        (|_| vec![platform(SNP, 2), (2, vec![])], |at| IgvmError::UnknownHeader { at, kind: 2 }),
        (|_| vec![platform(SNP, 2), (0, vec![])], |at| IgvmError::UnknownHeader { at, kind: 0 }),
        (|_| vec![platform(SNP, 2), (0x108, vec![])], |at| IgvmError::UnknownHeader { at, kind: 0x108 }),
        (|_| vec![platform(SNP, 2), (0x250, vec![])], |at| IgvmError::UnknownHeader { at, kind: 0x250 }),
        (|_| vec![platform(SNP, 2), policy(SNP), (0x306, vec![0; 8])],
            |at| IgvmError::UnknownHeader { at, kind: 0x306 }),
        (|_| vec![platform(SNP, 2), policy(SNP), (0x314, vec![0; 8])],
            |at| IgvmError::UnknownHeader { at, kind: 0x314 }),
        (|_| vec![platform(SNP, 2), header(Type::IGVM_VHT_CCA_POLICY, &[SNP, 0, 0, 0, 0, 0, 0, 0])],
            |at| IgvmError::UnsupportedHeader { at, kind: 0x106 }),
        (|_| vec![platform(SNP, 2), header(Type::IGVM_VHT_RELOCATABLE_REGION, &[SNP, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])],
            |at| IgvmError::UnsupportedHeader { at, kind: 0x102 }),
        (|_| vec![platform(SNP, 2), header(Type::IGVM_VHT_PAGE_TABLE_RELOCATION_REGION, &[SNP, 0, 0, 0, 0, 0, 0, 0])],
            |at| IgvmError::UnsupportedHeader { at, kind: 0x103 }),
        (|_| vec![platform(SNP, 2), header(Type::IGVM_VHT_VBS_MEASUREMENT, &[[SNP; 16]; 54])],
            |at| IgvmError::HeaderLength { at, kind: 0x311, length: 3456 }),
        (|_| vec![platform(SNP, 2), header(Type::IGVM_VHT_VBS_MEASUREMENT, &[[SNP; 8]; 27])],
            |at| IgvmError::UnsupportedHeader { at, kind: 0x311 }),
        (|_| vec![platform(SNP, 2), header(Type::IGVM_VHT_CORIM_DOCUMENT, &[SNP, 1, 1, 0])],
            |at| IgvmError::Contents { at, offset: 1, bytes: 1 }),
        (|_| vec![platform(SNP, 2), header(Type::IGVM_VHT_CORIM_SIGNATURE, &[SNP, 0, 0, 1])],
            |at| IgvmError::Reserved { at, kind: 0x105 }),
        (|_| vec![platform(SNP, 2), policy(SNP), area(1, 0x1000, 0), area(1, 0x1000, 0)],
            |at| IgvmError::AreaTwice { at, index: 1 }),
        (|_| vec![platform(SNP, 2), policy(SNP), area(1, 0x1000, 0), insert(1, 0), insert(1, 0x1000)],
            |at| IgvmError::AreaInserted { at, index: 1 }),
        (|_| vec![platform(SNP, 2), policy(SNP), area(1, 0x1000, 0), insert(1, 0),
            parameter(Type::IGVM_VHT_SRAT, 1, 0)], |at| IgvmError::AreaInserted { at, index: 1 }),
        (|_| vec![platform(SNP, 2), policy(SNP), area(1, 0x1000, 0), parameter(Type::IGVM_VHT_COMMAND_LINE, 1, 0x1000)],
            |at| IgvmError::ParameterOffset { at, offset: 0x1000 }),
        (|_| [vec![platform(SNP, 2), policy(SNP)], (0..33).map(|index| area(index, 0x1000, 0)).collect()].concat(),
            |at| IgvmError::TooManyAreas { at }),
        (|_| [vec![platform(SNP, 2), policy(SNP)], (0..129).map(|n| page_data(n * 0x2000, 0, 0, 0)).collect()].concat(),
            |at| IgvmError::TooManyRanges { at }),
        (|_| vec![platform(SNP, 2), policy(SNP), area(1, 1 << 33, 0), insert(1, 0)],
            |at| IgvmError::TooManyPages { at }),
        (|_| vec![platform(SNP, 2), policy(SNP), id_block(), id_block()], |at| IgvmError::IdBlockTwice { at }),
        (|_| vec![platform(OTHER, 3), policy(OTHER)], |_| IgvmError::NotForSnp),
        (|_| vec![platform(SNP, 2), platform(OTHER, 3), policy(OTHER)], |_| IgvmError::NoPolicy),
    ];
    for (index, (headers, want)) in cases.iter().enumerate() {
        let last = headers(&Data(0)).len() - 1;
        let want = want(at(&headers(&Data(0)), last));
        assert_eq!(Igvm::try_new(&file(headers)).err(), Some(want), "case {index}");
    }
}

#[test]
fn the_last_bytes_of_an_area_hold_the_smallest_parameter() {
    let kinds = [
        (Type::IGVM_VHT_VP_COUNT_PARAMETER, 4),
        (Type::IGVM_VHT_ENVIRONMENT_INFO_PARAMETER, 4),
        (Type::IGVM_VHT_MMIO_RANGES, 32),
        (Type::IGVM_VHT_MEMORY_MAP, 24),
        (Type::IGVM_VHT_COMMAND_LINE, 1),
        (Type::IGVM_VHT_SRAT, 36),
        (Type::IGVM_VHT_MADT, 36),
        (Type::IGVM_VHT_SLIT, 36),
        (Type::IGVM_VHT_PPTT, 36),
        (Type::IGVM_VHT_DEVICE_TREE, 40),
    ];
    for (kind, bytes) in kinds {
        let with = |offset| {
            let file = file(|_| vec![platform(SNP, 2), policy(SNP), area(1, 0x1000, 0), parameter(kind, 1, offset)]);
            Igvm::try_new(&file).err()
        };
        assert_eq!(with(0x1000 - bytes), None, "{kind:?}");
        let offset = 0x1001 - bytes;
        assert!(matches!(with(offset), Some(IgvmError::ParameterOffset { .. })), "{kind:?}");
    }
}
