//! The parts of an IGVM file for SNP, as the crate `igvm` names them. All are for the one platform of the file.

use igvm::snp_defs::SevVmsa;
use igvm::{Error, IgvmDirectiveHeader, IgvmFile, IgvmInitializationHeader, IgvmPlatformHeader, IgvmRevision};
use igvm_defs::{
    IGVM_SEV_SNP_PLATFORM_VERSION, IGVM_VHS_PARAMETER, IGVM_VHS_PARAMETER_INSERT, IGVM_VHS_SUPPORTED_PLATFORM,
    IgvmPageDataFlags, IgvmPageDataType, IgvmPlatformType,
};
use machine::psp::DEFAULT_POLICY;
use zerocopy::FromBytes;

use crate::world::layout::PAGE;

/// The bit of the one platform.
pub(crate) const MASK: u32 = 1;
/// Index of the one parameter area.
const AREA: u32 = 0;

/// The file that gives these directives under [`DEFAULT_POLICY`].
///
/// # Errors
/// What the crate `igvm` says.
pub(crate) fn file(directives: Vec<IgvmDirectiveHeader>) -> Result<Vec<u8>, Error> {
    let platform = IgvmPlatformHeader::SupportedPlatform(IGVM_VHS_SUPPORTED_PLATFORM {
        compatibility_mask: MASK,
        highest_vtl: 0,
        platform_type: IgvmPlatformType::SEV_SNP,
        platform_version: IGVM_SEV_SNP_PLATFORM_VERSION,
        shared_gpa_boundary: 0,
    });
    let policy = IgvmInitializationHeader::GuestPolicy { policy: DEFAULT_POLICY, compatibility_mask: MASK };
    let mut file = Vec::new();
    IgvmFile::new(IgvmRevision::V1, vec![platform], vec![policy], directives)?.serialize(&mut file)?;
    Ok(file)
}

/// The page at `gpa`; without data it is zeros or the firmware's to fill.
pub(crate) fn page(gpa: u64, data_type: IgvmPageDataType, data: Vec<u8>) -> IgvmDirectiveHeader {
    page_with(gpa, data_type, IgvmPageDataFlags::new(), data)
}

/// The same with flags.
pub(crate) fn page_with(
    gpa: u64,
    data_type: IgvmPageDataType,
    flags: IgvmPageDataFlags,
    data: Vec<u8>,
) -> IgvmDirectiveHeader {
    IgvmDirectiveHeader::PageData { gpa, compatibility_mask: MASK, flags, data_type, data }
}

/// The VMSA of vCPU 0 at `gpa`.
pub(crate) fn first_vmsa(gpa: u64, vmsa: &[u8; 4096]) -> IgvmDirectiveHeader {
    IgvmDirectiveHeader::SnpVpContext {
        gpa,
        compatibility_mask: MASK,
        vp_index: 0,
        vmsa: Box::new(SevVmsa::read_from_bytes(vmsa).expect("a VMSA is a page")),
    }
}

/// One page of parameters at `gpa`: the number of vCPUs and the memory map at these offsets.
pub(crate) fn parameters(gpa: u64, vcpu_count: u32, memory_map: u32) -> [IgvmDirectiveHeader; 4] {
    let parameter = |byte_offset| IGVM_VHS_PARAMETER { parameter_area_index: AREA, byte_offset };
    [
        IgvmDirectiveHeader::ParameterArea {
            number_of_bytes: PAGE,
            parameter_area_index: AREA,
            initial_data: Vec::new(),
        },
        IgvmDirectiveHeader::VpCount(parameter(vcpu_count)),
        IgvmDirectiveHeader::MemoryMap(parameter(memory_map)),
        IgvmDirectiveHeader::ParameterInsert(IGVM_VHS_PARAMETER_INSERT {
            gpa,
            compatibility_mask: MASK,
            parameter_area_index: AREA,
        }),
    ]
}
