//! The reader on files made by hand, good and bad.

use std::vec;
use std::vec::Vec;

use coco_part_api::FrameRange;
use igvm_defs::IgvmVariableHeaderType as Type;
use zerocopy::{FromZeros, IntoBytes};

use super::*;
use crate::abi::launch::PageType;
use crate::testing::{frame, range};

mod bad;

/// A variable header: type and contents.
type Raw = (u32, Vec<u8>);

/// Where the data section begins.
struct Data(u32);

impl Data {
    /// Offset of a page of the data section.
    fn page(&self, index: u32) -> u32 {
        self.0 + index * 0x1000
    }
}

/// Bytes of the fixed header of version 1.
const FIXED: usize = 24;
/// Pages of the data section: page n is full of n + 1.
const DATA_PAGES: u8 = 4;

const SNP: u32 = 1;
const OTHER: u32 = 2;

fn header(kind: Type, body: &impl IntoBytesOf) -> Raw {
    (kind.0, body.bytes())
}

/// What a header can be made of: a structure of the format.
trait IntoBytesOf {
    fn bytes(&self) -> Vec<u8>;
}

impl<T: IntoBytes + zerocopy::Immutable> IntoBytesOf for T {
    fn bytes(&self) -> Vec<u8> {
        self.as_bytes().to_vec()
    }
}

fn platform(mask: u32, platform_type: u8) -> Raw {
    let platform = igvm_defs::IGVM_VHS_SUPPORTED_PLATFORM {
        compatibility_mask: mask,
        highest_vtl: 2,
        platform_type: igvm_defs::IgvmPlatformType(platform_type),
        platform_version: 1,
        shared_gpa_boundary: 0,
    };
    header(Type::IGVM_VHT_SUPPORTED_PLATFORM, &platform)
}

fn policy(compatibility_mask: u32) -> Raw {
    header(
        Type::IGVM_VHT_GUEST_POLICY,
        &igvm_defs::IGVM_VHS_GUEST_POLICY { policy: 0x3_0000, compatibility_mask, reserved: 0 },
    )
}

fn page_data(gpa: u64, file_offset: u32, flags: u32, data_type: u16) -> Raw {
    let page = igvm_defs::IGVM_VHS_PAGE_DATA {
        gpa,
        compatibility_mask: SNP,
        file_offset,
        flags: flags.into(),
        data_type: igvm_defs::IgvmPageDataType(data_type),
        reserved: 0,
    };
    header(Type::IGVM_VHT_PAGE_DATA, &page)
}

fn area(index: u32, number_of_bytes: u64, file_offset: u32) -> Raw {
    let area = igvm_defs::IGVM_VHS_PARAMETER_AREA { number_of_bytes, parameter_area_index: index, file_offset };
    header(Type::IGVM_VHT_PARAMETER_AREA, &area)
}

fn parameter(kind: Type, area: u32, byte_offset: u32) -> Raw {
    header(kind, &igvm_defs::IGVM_VHS_PARAMETER { parameter_area_index: area, byte_offset })
}

fn insert(area: u32, gpa: u64) -> Raw {
    let insert = igvm_defs::IGVM_VHS_PARAMETER_INSERT { gpa, compatibility_mask: SNP, parameter_area_index: area };
    header(Type::IGVM_VHT_PARAMETER_INSERT, &insert)
}

fn vp_context(gpa: u64, file_offset: u32) -> Raw {
    let context = igvm_defs::IGVM_VHS_VP_CONTEXT {
        gpa: gpa.into(),
        compatibility_mask: SNP,
        file_offset,
        vp_index: 3,
        reserved: 0,
    };
    header(Type::IGVM_VHT_VP_CONTEXT, &context)
}

fn required(gpa: u64, number_of_bytes: u32) -> Raw {
    let memory = igvm_defs::IGVM_VHS_REQUIRED_MEMORY {
        gpa,
        compatibility_mask: SNP,
        number_of_bytes,
        flags: 0.into(),
        reserved: 0,
    };
    header(Type::IGVM_VHT_REQUIRED_MEMORY, &memory)
}

fn error_range(gpa: u64, size_bytes: u32) -> Raw {
    let range = igvm_defs::IGVM_VHS_ERROR_RANGE { gpa, compatibility_mask: SNP, size_bytes };
    header(Type::IGVM_VHT_ERROR_RANGE, &range)
}

fn id_block() -> Raw {
    let mut block = IGVM_VHS_SNP_ID_BLOCK::new_zeroed();
    block.compatibility_mask = SNP;
    block.ld = [0x11; 48];
    block.family_id = [0x22; 16];
    block.image_id = [0x33; 16];
    block.version = 1;
    block.guest_svn = 44;
    header(Type::IGVM_VHT_SNP_ID_BLOCK, &block)
}

/// One header of every kind that SNP needs, and one platform beside it.
fn all(data: &Data) -> Vec<Raw> {
    vec![
        platform(SNP, 2),
        platform(OTHER, 3),
        policy(SNP),
        page_data(0x1000, data.page(0), 0, 0),
        page_data(0x2000, 0, 0, 1),
        page_data(0x3000, data.page(1), 0, 2),
        page_data(0x4000, data.page(1), 2, 0),
        page_data(0x5000, data.page(0), 4, 0),
        area(7, 0x2000, 0),
        parameter(Type::IGVM_VHT_MEMORY_MAP, 7, 0x10),
        parameter(Type::IGVM_VHT_VP_COUNT_PARAMETER, 7, 0),
        insert(7, 0x1_0000),
        vp_context(0xffff_ffff_f000, data.page(2)),
        required(0, 0x10_0000),
        error_range(0x2_0000, 0x1000),
        id_block(),
    ]
}

/// The section of variable headers.
fn section(headers: &[Raw]) -> Vec<u8> {
    let mut section = Vec::new();
    for (kind, body) in headers {
        section.extend_from_slice(&kind.to_le_bytes());
        section.extend_from_slice(&(body.len() as u32).to_le_bytes());
        section.extend_from_slice(body);
        section.resize(section.len().next_multiple_of(8), 0);
    }
    section
}

/// A file of version 1 with the right sizes and checksum.
fn file_of(section: &[u8]) -> Vec<u8> {
    let mut file = vec![0; FIXED];
    file.extend_from_slice(section);
    for page in 0..DATA_PAGES {
        file.resize(file.len() + 0x1000, page + 1);
    }
    let total = file.len() as u32;
    let words = [igvm_defs::IGVM_MAGIC_VALUE, 1, FIXED as u32, section.len() as u32, total, 0];
    file[..FIXED].copy_from_slice(words.as_bytes());
    seal(&mut file);
    file
}

/// Puts the right checksum into a file of version 1, or one whose headers begin behind the fixed ones of version 2.
fn seal(file: &mut [u8]) {
    let word = |at: usize| u32::from_le_bytes(*file[at..].first_chunk().unwrap()) as usize;
    let (start, len) = (word(8), word(12));
    let fixed = if word(4) == 2 { 32 } else { FIXED };
    file[20..24].fill(0);
    let mut covered = file[..fixed].to_vec();
    covered.extend_from_slice(&file[start..start + len]);
    // Bit by bit, as a division of polynomials.
    let crc = covered.iter().flat_map(|byte| (0..8).map(move |bit| byte >> bit & 1)).fold(!0_u32, |crc, bit| {
        let out = (crc ^ u32::from(bit)) & 1;
        crc >> 1 ^ if out == 1 { 0xedb8_8320 } else { 0 }
    });
    file[20..24].copy_from_slice(&(!crc).to_le_bytes());
}

/// A file with these headers.
fn file(headers: impl Fn(&Data) -> Vec<Raw>) -> Vec<u8> {
    let data = Data((FIXED + section(&headers(&Data(0))).len()) as u32);
    file_of(&section(&headers(&data)))
}

/// Where header `index` begins.
fn at(headers: &[Raw], index: usize) -> usize {
    FIXED + section(&headers[..index]).len()
}

#[test]
fn steps_come_in_the_order_of_the_file() {
    let file = file(all);
    let igvm = Igvm::try_new(&file).unwrap();
    let page = |first: u8| Contents::of(&file[file.len() - 0x1000 * usize::from(DATA_PAGES - first)..][..0x1000]);
    let pages = |page_type, gpa, contents| Step::Pages { page_type, range: range(gpa, 0x1000), contents };
    let want = [
        pages(PageType::Normal, 0x1000, page(0)),
        pages(PageType::Secrets, 0x2000, Contents::ZEROS),
        pages(PageType::Cpuid, 0x3000, page(1)),
        pages(PageType::Unmeasured, 0x4000, page(1)),
        Step::Shared { range: range(0x5000, 0x1000), contents: page(0) },
        Step::Area { index: 7, bytes: 0x2000, contents: Contents::ZEROS },
        Step::Parameter { parameter: Parameter::MemoryMap, area: 7, offset: 0x10 },
        Step::Parameter { parameter: Parameter::VpCount, area: 7, offset: 0 },
        Step::Insert { area: 7, range: range(0x1_0000, 0x2000), contents: Contents::ZEROS },
        Step::Vmsa { vp_index: 3, frame: frame(0xffff_ffff_f000), contents: &[3; 4096] },
        Step::Required { range: range(0, 0x10_0000) },
        Step::ErrorRange { range: range(0x2_0000, 0x1000) },
    ];
    assert!(igvm.steps().eq(want), "{:x?}", igvm.steps().collect::<Vec<_>>());
    assert_eq!(igvm.policy().bits(), 0x3_0000);
    assert_eq!(igvm.platform(), Platform { compatibility_mask: SNP, highest_vtl: 2, shared_gpa_boundary: 0 });
    let block = igvm.id_block().unwrap();
    assert_eq!((block.launch_digest, block.family_id, block.image_id), ([0x11; 48], [0x22; 16], [0x33; 16]));
    assert_eq!((block.version, block.guest_svn, block.policy.bits()), (1, 44, 0x3_0000));
}

#[test]
fn updates_are_one_for_each_page_and_only_what_is_added() {
    let file = file(all);
    let updates: Vec<_> = Igvm::try_new(&file).unwrap().updates().collect();
    let want = [
        (PageType::Normal, 0x1000, 1),
        (PageType::Secrets, 0x2000, 0),
        (PageType::Cpuid, 0x3000, 2),
        (PageType::Unmeasured, 0x4000, 2),
        (PageType::Unmeasured, 0x1_0000, 0),
        (PageType::Unmeasured, 0x1_1000, 0),
        (PageType::Vmsa, 0xffff_ffff_f000, 3),
    ];
    let want = want.map(|(page_type, gpa, byte)| (page_type, frame(gpa), [byte; 4096]));
    let found: Vec<_> = updates.iter().map(|update| (update.page_type, update.frame, *update.contents)).collect();
    assert!(found == want, "{updates:x?}");
}

#[test]
fn a_large_page_is_512_pages() {
    let large = |_: &Data| vec![platform(SNP, 2), policy(SNP), page_data(0x20_0000, 0, 1, 0)];
    let small = |_: &Data| {
        let pages = (0..512).map(|index| page_data(0x20_0000 + index * 0x1000, 0, 0, 0));
        [platform(SNP, 2), policy(SNP)].into_iter().chain(pages).collect()
    };
    let [large, small] = [file(large), file(small)].map(|file| Igvm::try_new(&file).unwrap().digest());
    assert_eq!(large, small);
}

#[test]
fn headers_of_other_platforms_and_unknown_optional_ones_are_left_out() {
    const OPTIONAL: u32 = 1 << 31;
    let file = file(|data| {
        let mut foreign = page_data(0x1000, data.page(0), 0, 0);
        foreign.1[8..12].copy_from_slice(&OTHER.to_le_bytes());
        let mut region = igvm_defs::IGVM_VHS_RELOCATABLE_REGION::new_zeroed();
        region.compatibility_mask = OTHER;
        vec![
            platform(OTHER, 3),
            platform(SNP, 2),
            (0x42 | OPTIONAL, vec![1; 5]),
            policy(OTHER),
            policy(SNP),
            header(Type::IGVM_VHT_RELOCATABLE_REGION, &region),
            header(Type::IGVM_VHT_CCA_POLICY, &[OTHER, 0, 0, 0, 0, 0, 0, 0]),
            (Type::IGVM_VHT_VERSION_STRING.0, b"1.2.3".to_vec()),
            header(Type::IGVM_VHT_CORIM_DOCUMENT, &[SNP, data.page(0), 99, 0]),
            (0x142 | OPTIONAL, vec![]),
            foreign,
            page_data(0x1000, data.page(1), 0, 0),
            (0x3ff | OPTIONAL, vec![1; 5]),
            // Of no section at all.
            (0x7777 | OPTIONAL, vec![1; 5]),
        ]
    });
    let igvm = Igvm::try_new(&file).unwrap();
    let updates: Vec<_> = igvm.updates().collect();
    assert!(updates == [Update::new(PageType::Normal, frame(0x1000), &[2; 4096])], "{updates:x?}");
}

#[test]
fn version_2_says_architecture_and_page_size() {
    let version_2 = |architecture: u32, page_size: u32| {
        let data = Data(32 + section(&all(&Data(0))).len() as u32);
        let first = file_of(&section(&all(&data)));
        let mut file = first[..FIXED].to_vec();
        file.extend_from_slice(&[architecture, page_size].map(u32::to_le_bytes).concat());
        file.extend_from_slice(&first[FIXED..]);
        let total = file.len() as u32;
        for (at, word) in [(4, 2), (8, 32), (16, total)] {
            file[at..at + 4].copy_from_slice(&word.to_le_bytes());
        }
        seal(&mut file);
        file
    };
    let second = version_2(0, 0x1000);
    let [one, two] = [&file(all), &second].map(|file| Igvm::try_new(file).unwrap().digest());
    assert_eq!(one, two);
    assert_eq!(Igvm::try_new(&version_2(1, 0x1000)).err(), Some(IgvmError::Architecture { found: 1 }));
    assert_eq!(Igvm::try_new(&version_2(0, 0x4000)).err(), Some(IgvmError::PageSize { found: 0x4000 }));
    assert_eq!(Igvm::try_new(&second[..31]).err(), Some(IgvmError::NoFixedHeader { len: 31 }));
}

#[test]
fn contents_behind_the_end_are_zeros() {
    let bytes = [7; 0x1800];
    let contents = Contents::of(&bytes);
    assert_eq!(contents.page(0), &[7; 4096]);
    for index in [1, 2, u64::MAX] {
        assert_eq!(contents.page(index), &[0; 4096]);
    }
}

#[test]
fn pages_of_a_range_at_the_end_of_the_address_space_are_counted_once() {
    let step = Step::Pages {
        page_type: PageType::Normal,
        range: range(0xf_ffff_ffff_e000, 0x2000),
        contents: Contents::ZEROS,
    };
    let frames: Vec<_> = step.updates().map(|update| FrameRange::of(update.frame)).collect();
    assert_eq!(frames, [range(0xf_ffff_ffff_e000, 0x1000), range(0xf_ffff_ffff_f000, 0x1000)]);
}
