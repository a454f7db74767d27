//! The monitor of a test VM as an IGVM file, made with the crate `igvm`.

use igvm::snp_defs::SevVmsa;
use igvm::{Error, IgvmDirectiveHeader, IgvmFile, IgvmInitializationHeader, IgvmPlatformHeader, IgvmRevision};
use igvm_defs::{
    IGVM_SEV_SNP_PLATFORM_VERSION, IGVM_VHS_PARAMETER, IGVM_VHS_PARAMETER_INSERT, IGVM_VHS_SNP_ID_BLOCK_PUBLIC_KEY,
    IGVM_VHS_SNP_ID_BLOCK_SIGNATURE, IGVM_VHS_SUPPORTED_PLATFORM, IgvmPageDataFlags, IgvmPageDataType,
    IgvmPlatformType,
};
use machine::psp::DEFAULT_POLICY;
use zerocopy::{FromBytes, FromZeros};

use crate::world::layout::{
    MONITOR, MONITOR_BYTES, MONITOR_FEATURES, MONITOR_SECRETS, MONITOR_STATE, PAGE, page, pattern,
};

/// Page of L1 in which the host leaves its parameters: the number of vCPUs, then the memory map.
pub const PARAMETERS: u64 = MONITOR + 0x7_0000;
/// Where the memory map begins in it.
pub const MEMORY_MAP: u32 = 0x40;

/// The bit of the one platform.
const MASK: u32 = 1;
/// Index of the parameter area.
const AREA: u32 = 0;

/// The monitor's image: first VMSA, secrets, CPUID page, parameters, and its other pages, in the order of their addresses.
/// With `expected`, an ID block of the owner that expects this launch digest.
///
/// # Errors
/// What the crate `igvm` says.
pub fn image(vmsa: &[u8; 4096], cpuid: &[u8; 4096], expected: Option<[u8; 48]>) -> Result<Vec<u8>, Error> {
    let platform = IgvmPlatformHeader::SupportedPlatform(IGVM_VHS_SUPPORTED_PLATFORM {
        compatibility_mask: MASK,
        highest_vtl: 0,
        platform_type: IgvmPlatformType::SEV_SNP,
        platform_version: IGVM_SEV_SNP_PLATFORM_VERSION,
        shared_gpa_boundary: 0,
    });
    let policy = IgvmInitializationHeader::GuestPolicy { policy: DEFAULT_POLICY, compatibility_mask: MASK };
    let mut directives: Vec<_> =
        (0..MONITOR_BYTES / PAGE).flat_map(|index| directives(page(MONITOR, index), vmsa, cpuid)).collect();
    directives.extend(expected.map(id_block));
    let mut file = Vec::new();
    IgvmFile::new(IgvmRevision::V1, vec![platform], vec![policy], directives)?.serialize(&mut file)?;
    Ok(file)
}

/// What puts the page of L1 at `gpa` there.
fn directives(gpa: u64, vmsa: &[u8; 4096], cpuid: &[u8; 4096]) -> Vec<IgvmDirectiveHeader> {
    let with = |data_type, flags, data| {
        vec![IgvmDirectiveHeader::PageData { gpa, compatibility_mask: MASK, flags, data_type, data }]
    };
    let plain = IgvmPageDataFlags::new();
    match gpa {
        MONITOR_STATE => vec![IgvmDirectiveHeader::SnpVpContext {
            gpa,
            compatibility_mask: MASK,
            vp_index: 0,
            vmsa: Box::new(SevVmsa::read_from_bytes(vmsa).expect("a VMSA is a page")),
        }],
        MONITOR_SECRETS => with(IgvmPageDataType::SECRETS, plain, Vec::new()),
        MONITOR_FEATURES => with(IgvmPageDataType::CPUID_DATA, plain, cpuid.to_vec()),
        PARAMETERS => {
            let parameter = |byte_offset| IGVM_VHS_PARAMETER { parameter_area_index: AREA, byte_offset };
            vec![
                IgvmDirectiveHeader::ParameterArea {
                    number_of_bytes: PAGE,
                    parameter_area_index: AREA,
                    initial_data: Vec::new(),
                },
                IgvmDirectiveHeader::VpCount(parameter(0)),
                IgvmDirectiveHeader::MemoryMap(parameter(MEMORY_MAP)),
                IgvmDirectiveHeader::ParameterInsert(IGVM_VHS_PARAMETER_INSERT {
                    gpa,
                    compatibility_mask: MASK,
                    parameter_area_index: AREA,
                }),
            ]
        }
        // As in a launch without a file, see `launch_with`.
        MONITOR => with(IgvmPageDataType::NORMAL, plain, pattern(gpa).to_vec()),
        _ => with(IgvmPageDataType::NORMAL, plain.with_unmeasured(true), pattern(gpa).to_vec()),
    }
}

/// The statement of an owner whose keys are zeros: the machine takes it without checking signatures.
fn id_block(ld: [u8; 48]) -> IgvmDirectiveHeader {
    let signature = || Box::new(IGVM_VHS_SNP_ID_BLOCK_SIGNATURE::new_zeroed());
    let key = || Box::new(IGVM_VHS_SNP_ID_BLOCK_PUBLIC_KEY::new_zeroed());
    IgvmDirectiveHeader::SnpIdBlock {
        compatibility_mask: MASK,
        author_key_enabled: 0,
        reserved: [0; 3],
        ld,
        family_id: *b"coco-part family",
        image_id: *b"coco-part image.",
        version: 1,
        guest_svn: 7,
        id_key_algorithm: 1,
        author_key_algorithm: 0,
        id_key_signature: signature(),
        id_public_key: key(),
        author_key_signature: signature(),
        author_public_key: key(),
    }
}
