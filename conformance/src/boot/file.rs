//! The IGVM file of a monitor and its guest.

use std::collections::BTreeSet;

use backend_snp::abi::sev_features::SevFeatures;
use backend_snp::abi::vmpl::Vmpl;
use backend_snp::vmsa_image;
use coco_part_api::{Context, Segment};
use igvm::{Error, IgvmDirectiveHeader};
use igvm_defs::{IgvmPageDataFlags, IgvmPageDataType};
use image_layout::{
    CPUID, GUEST_IMAGE, GuestImage, LAUNCH_VMSA, MEMORY_MAP, MONITOR, MONITOR_END, PAGE, PARAMETERS, SECRETS,
    VCPU_COUNT,
};
use zerocopy::IntoBytes;

use super::elf::Image;
use crate::snp::features;
use crate::snp::igvm::parts::{self, MASK};

/// CR0: protection on, and the bit that always is.
const CR0_PE_ET: u64 = 0x11;
/// CR4.MCE, which KVM sets in every VMSA where the host has it.
const CR4_MCE: u64 = 1 << 6;
const FCW_RESET: u16 = 0x37f;

/// The file in which `monitor` boots at VMPL0 and is told of `guest`.
///
/// All pages of both images are measured, but for memory of the monitor that no byte of its program reaches: it zeroes that itself
/// before it uses it, and trusts nothing that is there. The VMSA comes last, as hosts add it that make it themselves.
///
/// # Errors
/// What the crate `igvm` says.
pub fn file(monitor: &Image, guest: &Image) -> Result<Vec<u8>, Error> {
    let mut brought = GuestImage { first: guest.first, end: guest.end(), entry: guest.entry }.encode().to_vec();
    brought.resize(PAGE as usize, 0);
    let mut directives = vec![required(MONITOR, MONITOR_END), required(guest.first, guest.end())];
    directives.extend(pages(monitor, &monitor.blank));
    directives.push(parts::page(SECRETS, IgvmPageDataType::SECRETS, Vec::new()));
    directives.push(parts::page(CPUID, IgvmPageDataType::CPUID_DATA, features::page().to_vec()));
    directives.extend(parts::parameters(PARAMETERS, VCPU_COUNT, MEMORY_MAP));
    directives.push(parts::page(GUEST_IMAGE, IgvmPageDataType::NORMAL, brought));
    directives.extend(pages(guest, &BTreeSet::new()));
    directives.push(parts::first_vmsa(LAUNCH_VMSA, &launch_vmsa(monitor.entry)));
    parts::file(directives)
}

fn required(first: u64, end: u64) -> IgvmDirectiveHeader {
    let number_of_bytes = u32::try_from(end - first).expect("both images lie below 128 MiB");
    IgvmDirectiveHeader::RequiredMemory {
        gpa: first,
        compatibility_mask: MASK,
        number_of_bytes,
        vtl2_protectable: false,
    }
}

/// The pages of an image, `unmeasured` ones marked so. Those of zeros take no room in the file.
fn pages(image: &Image, unmeasured: &BTreeSet<u64>) -> impl Iterator<Item = IgvmDirectiveHeader> {
    image.pages().map(|(gpa, bytes)| {
        let flags = IgvmPageDataFlags::new().with_unmeasured(unmeasured.contains(&gpa));
        let data = if bytes.iter().all(|byte| *byte == 0) { Vec::new() } else { bytes.to_vec() };
        parts::page_with(gpa, IgvmPageDataType::NORMAL, flags, data)
    })
}

/// The state in which vCPU 0 starts at `entry`: 32-bit protected mode without paging, flat segments, interrupts off.
///
/// Registers that QEMU does not take from a file have the values that KVM gives them.
fn launch_vmsa(entry: u64) -> [u8; PAGE as usize] {
    let reset = Context::reset(0);
    let flat = |selector, attributes| Segment { selector, attributes, limit: u32::MAX, base: 0 };
    let data = flat(0x10, 0xc93);
    let context = Context {
        gpr: [0; 16],
        rip: entry,
        cr0: CR0_PE_ET,
        cr4: CR4_MCE,
        cs: flat(0x08, 0xc9b),
        ds: data,
        es: data,
        fs: data,
        gs: data,
        ss: data,
        tr: Segment { attributes: 0x8b, ..reset.tr },
        ..reset
    };
    let mut vmsa = vmsa_image::image(&context, Vmpl::VMPL0, SevFeatures::SNP_ACTIVE);
    vmsa.x87_fcw = FCW_RESET;
    vmsa.x87_ftw = 0;
    let mut page = [0; PAGE as usize];
    page.copy_from_slice(vmsa.as_bytes());
    page
}
