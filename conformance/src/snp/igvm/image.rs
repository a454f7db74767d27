//! The monitor of a test VM as an IGVM file, made with the crate `igvm`.

use igvm::{Error, IgvmDirectiveHeader};
use igvm_defs::{
    IGVM_VHS_SNP_ID_BLOCK_PUBLIC_KEY, IGVM_VHS_SNP_ID_BLOCK_SIGNATURE, IgvmPageDataFlags, IgvmPageDataType,
};
use zerocopy::FromZeros;

use super::parts::{self, MASK};
use crate::world::layout::{
    MONITOR, MONITOR_BYTES, MONITOR_FEATURES, MONITOR_SECRETS, MONITOR_STATE, PAGE, page, pattern,
};

/// Page of L1 in which the host leaves its parameters: the number of vCPUs, then the memory map.
pub const PARAMETERS: u64 = MONITOR + 0x7_0000;
/// Where the memory map begins in it.
pub const MEMORY_MAP: u32 = 0x40;

/// The monitor's image: first VMSA, secrets, CPUID page, parameters, and its other pages, in the order of their addresses.
/// With `expected`, an ID block of the owner that expects this launch digest.
///
/// # Errors
/// What the crate `igvm` says.
pub fn image(vmsa: &[u8; 4096], cpuid: &[u8; 4096], expected: Option<[u8; 48]>) -> Result<Vec<u8>, Error> {
    let mut directives: Vec<_> =
        (0..MONITOR_BYTES / PAGE).flat_map(|index| directives(page(MONITOR, index), vmsa, cpuid)).collect();
    directives.extend(expected.map(id_block));
    parts::file(directives)
}

/// What puts the page of L1 at `gpa` there.
fn directives(gpa: u64, vmsa: &[u8; 4096], cpuid: &[u8; 4096]) -> Vec<IgvmDirectiveHeader> {
    match gpa {
        MONITOR_STATE => vec![parts::first_vmsa(gpa, vmsa)],
        MONITOR_SECRETS => vec![parts::page(gpa, IgvmPageDataType::SECRETS, Vec::new())],
        MONITOR_FEATURES => vec![parts::page(gpa, IgvmPageDataType::CPUID_DATA, cpuid.to_vec())],
        PARAMETERS => parts::parameters(gpa, 0, MEMORY_MAP).into(),
        // As in a launch without a file, see `launch_with`.
        MONITOR => vec![parts::page(gpa, IgvmPageDataType::NORMAL, pattern(gpa).to_vec())],
        _ => {
            let flags = IgvmPageDataFlags::new().with_unmeasured(true);
            vec![parts::page_with(gpa, IgvmPageDataType::NORMAL, flags, pattern(gpa).to_vec())]
        }
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
