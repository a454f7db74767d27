//! Files that are built with the crate `igvm`: a few by hand, and any number by chance.

use igvm::snp_defs::SevVmsa;
use igvm::{IgvmDirectiveHeader as Directive, IgvmFile, IgvmInitializationHeader, IgvmPlatformHeader, IgvmRevision};
use igvm_defs::{
    IGVM_VHS_PARAMETER, IGVM_VHS_PARAMETER_INSERT, IGVM_VHS_SUPPORTED_PLATFORM, IgvmPageDataFlags as Flags,
    IgvmPageDataType as DataType, IgvmPlatformType,
};
use proptest::prelude::*;
use zerocopy::FromBytes;

/// The bit of platform SNP.
pub(crate) const MASK: u32 = 1;
const POLICY: u64 = 0x3_0000;

/// A file of these directives.
pub(crate) fn file(directives: Vec<Directive>) -> Vec<u8> {
    let platform = IgvmPlatformHeader::SupportedPlatform(IGVM_VHS_SUPPORTED_PLATFORM {
        compatibility_mask: MASK,
        highest_vtl: 2,
        platform_type: IgvmPlatformType::SEV_SNP,
        platform_version: 1,
        shared_gpa_boundary: 0,
    });
    let policy = IgvmInitializationHeader::GuestPolicy { policy: POLICY, compatibility_mask: MASK };
    let mut file = Vec::new();
    IgvmFile::new(IgvmRevision::V1, vec![platform], vec![policy], directives)
        .and_then(|built| built.serialize(&mut file))
        .expect("the directives are a file");
    file
}

pub(crate) fn page(gpa: u64, data_type: DataType, flags: Flags, data: Vec<u8>) -> Directive {
    Directive::PageData { gpa, compatibility_mask: MASK, flags, data_type, data }
}

pub(crate) fn normal(gpa: u64, byte: u8) -> Directive {
    page(gpa, DataType::NORMAL, Flags::new(), vec![byte; 0x1000])
}

fn vmsa(gpa: u64, vp_index: u16, vmpl: u8) -> Directive {
    let mut bytes = [0; 4096];
    // VMPL (vmsa).
    bytes[0xca] = vmpl;
    let vmsa = Box::new(SevVmsa::read_from_bytes(&bytes).expect("a page"));
    Directive::SnpVpContext { gpa, compatibility_mask: MASK, vp_index, vmsa }
}

fn area(index: u32, pages: u64, initial_data: Vec<u8>) -> Directive {
    Directive::ParameterArea { number_of_bytes: pages * 0x1000, parameter_area_index: index, initial_data }
}

const fn parameter(area: u32, byte_offset: u32) -> IGVM_VHS_PARAMETER {
    IGVM_VHS_PARAMETER { parameter_area_index: area, byte_offset }
}

fn insert(area: u32, gpa: u64) -> Directive {
    let insert = IGVM_VHS_PARAMETER_INSERT { gpa, compatibility_mask: MASK, parameter_area_index: area };
    Directive::ParameterInsert(insert)
}

/// Files by what is special about them.
pub(crate) fn files() -> Vec<(&'static str, Vec<Directive>)> {
    let secrets = |gpa| page(gpa, DataType::SECRETS, Flags::new(), Vec::new());
    let cpuid = |gpa| page(gpa, DataType::CPUID_DATA, Flags::new(), vec![6; 0x1000]);
    let unmeasured = |gpa| page(gpa, DataType::NORMAL, Flags::new().with_unmeasured(true), vec![9; 0x1000]);
    let shared = |gpa| page(gpa, DataType::NORMAL, Flags::new().with_shared(true), vec![8; 0x1000]);
    let zeros = |gpa| page(gpa, DataType::NORMAL, Flags::new(), Vec::new());
    vec![
        ("one page", vec![normal(0x1000, 1)]),
        (
            "VMSAs of two vCPUs and two levels",
            vec![
                normal(0x1000, 1),
                vmsa(0xffff_ffff_f000, 0, 0),
                vmsa(0x5000, 1, 0),
                vmsa(0x6000, 0, 2),
                vmsa(0x7000, 1, 2),
            ],
        ),
        ("pages of zeros", vec![zeros(0x1000), normal(0x2000, 0), zeros(0x3000), normal(0x4000, 5)]),
        ("holes and addresses that go down", vec![normal(0x90_0000, 1), normal(0x10_0000, 2), normal(0, 3)]),
        ("all page types", vec![secrets(0x1000), cpuid(0x2000), unmeasured(0x3000), normal(0x4000, 1), shared(0x5000)]),
        (
            "the same in another order",
            vec![normal(0x4000, 1), shared(0x5000), unmeasured(0x3000), cpuid(0x2000), secrets(0x1000)],
        ),
        ("2 MiB in small pages", (0..512).map(|index| normal(0x20_0000 + index * 0x1000, index as u8)).collect()),
        (
            "parameter areas",
            vec![
                area(3, 2, vec![1, 2, 3]),
                Directive::VpCount(parameter(3, 0)),
                area(0, 1, Vec::new()),
                Directive::MemoryMap(parameter(3, 0x1000)),
                insert(3, 0x10_0000),
                normal(0x1000, 1),
                Directive::CommandLine(parameter(0, 8)),
                insert(0, 0x8000),
            ],
        ),
        (
            "hints that add nothing",
            vec![
                Directive::RequiredMemory {
                    gpa: 0,
                    compatibility_mask: MASK,
                    number_of_bytes: 0x10_0000,
                    vtl2_protectable: true,
                },
                Directive::ErrorRange { gpa: 0x8000, compatibility_mask: MASK, size_bytes: 0x1000 },
                normal(0x1000, 1),
            ],
        ),
    ]
}

/// A parameter directive for an area.
fn any_parameter(kind: u8, at: IGVM_VHS_PARAMETER) -> Directive {
    match kind {
        0 => Directive::VpCount(at),
        1 => Directive::EnvironmentInfo(at),
        2 => Directive::Srat(at),
        3 => Directive::Madt(at),
        4 => Directive::Slit(at),
        5 => Directive::Pptt(at),
        6 => Directive::MmioRanges(at),
        7 => Directive::MemoryMap(at),
        8 => Directive::CommandLine(at),
        _ => Directive::DeviceTree(at),
    }
}

/// Directives that use each slot of four pages once, in any order, and areas after their declaration.
pub(crate) fn directives() -> impl Strategy<Value = Vec<Directive>> {
    let one = (0..9_u8, any::<u8>(), 0..10_u8, 1..4_u64, 0..0x1fd_u32);
    let slots = Just((0..64_u64).collect::<Vec<_>>()).prop_shuffle();
    (prop::collection::vec(one, 1..24), slots).prop_map(|(parts, slots)| {
        let parts = parts.into_iter().zip(slots).enumerate();
        // One page of data, so that the file has a data section.
        let mut all = vec![normal(0x100_0000, 0xaa)];
        all.extend(parts.flat_map(|(index, ((kind, byte, parameter_kind, pages, offset), slot))| {
            let (gpa, index) = (slot * 0x4000, index as u32);
            let contents = vec![byte; usize::from(byte) * 16];
            match kind {
                0 => vec![page(gpa, DataType::NORMAL, Flags::new(), contents)],
                1 => vec![page(gpa, DataType::NORMAL, Flags::new().with_unmeasured(true), contents)],
                2 => vec![page(gpa, DataType::SECRETS, Flags::new(), Vec::new())],
                3 => vec![page(gpa, DataType::CPUID_XF, Flags::new(), contents)],
                4 => vec![page(gpa, DataType::NORMAL, Flags::new().with_shared(true), contents)],
                5 => vec![vmsa(gpa, byte.into(), byte % 4)],
                6 => vec![Directive::ErrorRange { gpa, compatibility_mask: MASK, size_bytes: pages as u32 * 0x1000 }],
                7 => vec![Directive::RequiredMemory {
                    gpa,
                    compatibility_mask: MASK,
                    number_of_bytes: pages as u32 * 0x1000,
                    vtl2_protectable: byte > 99,
                }],
                _ => vec![
                    area(index, pages, contents),
                    any_parameter(parameter_kind, parameter(index, offset)),
                    insert(index, gpa),
                ],
            }
        }));
        all
    })
}
