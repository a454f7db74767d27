//! The VMSA of a vCPU in reset, as it is measured when a host makes it itself (`facts/launch_measurement.csv`, launch_vmsa).

use coco_part_api::{Context, Segment};

use crate::abi::sev_features::SevFeatures;
use crate::abi::vmpl::Vmpl;
use crate::abi::vmsa::Vmsa;
use crate::vmsa_image::{CR4_MCE, image};

/// Where the boot vCPU begins: the last 16 bytes below 4 GiB.
pub const RESET_VECTOR: u32 = 0xffff_fff0;

const CR0_ET: u64 = 0x10;
const FCW_RESET: u16 = 0x37f;
const FTW_RESET: u16 = 0;

/// A vCPU in reset that begins at `entry`: [`RESET_VECTOR`], or for other vCPUs the address in the firmware's reset block.
///
/// `signature` is what CPUID 1 says in EAX for the model of vCPU that the host offers. A verifier has to know it.
pub fn reset(entry: u32, signature: u32, features: SevFeatures) -> Vmsa {
    let after_init = Context::reset(signature);
    let data = Segment { attributes: 0x93, ..after_init.ds };
    let context = Context {
        rip: (entry & 0xffff).into(),
        cr0: CR0_ET,
        cr4: CR4_MCE,
        cs: Segment { base: (entry & !0xffff).into(), ..after_init.cs },
        ds: data,
        es: data,
        fs: data,
        gs: data,
        ss: data,
        tr: Segment { attributes: 0x8b, ..after_init.tr },
        ..after_init
    };
    let mut vmsa = image(&context, Vmpl::VMPL0, features);
    vmsa.x87_fcw = FCW_RESET;
    vmsa.x87_ftw = FTW_RESET;
    vmsa
}
