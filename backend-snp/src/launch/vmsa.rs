//! The VMSA of a vCPU in reset, as it is measured when a host makes it itself (`facts/launch_measurement.csv`, launch_vmsa).

use zerocopy::FromZeros;

use crate::abi::segment::{Segment, SegmentAttributes};
use crate::abi::sev_features::SevFeatures;
use crate::abi::vmsa::Vmsa;

/// Where the boot vCPU begins: the last 16 bytes below 4 GiB.
pub const RESET_VECTOR: u32 = 0xffff_fff0;

const LIMIT: u32 = 0xffff;
const CR0_ET: u64 = 0x10;
const CR4_MCE: u64 = 0x40;
const DR6_RESET: u64 = 0xffff_0ff0;
const DR7_RESET: u64 = 0x400;
const RFLAGS_RESET: u64 = 2;
const PAT_RESET: u64 = 0x0007_0406_0007_0406;
const XCR0_RESET: u64 = 1;
const MXCSR_RESET: u32 = 0x1f80;
const FCW_RESET: u16 = 0x37f;

/// A vCPU in reset that begins at `entry`: [`RESET_VECTOR`], or for other vCPUs the address in the firmware's reset block.
///
/// `signature` is what CPUID 1 says in EAX for the model of vCPU that the host offers. A verifier has to know it.
pub fn reset(entry: u32, signature: u32, features: SevFeatures) -> Vmsa {
    let segment = |selector, attributes, base| Segment {
        selector,
        attributes: SegmentAttributes::from_bits_retain(attributes),
        limit: LIMIT,
        base,
    };
    let data = segment(0, 0x93, 0);
    let table = segment(0, 0, 0);
    let mut vmsa = Vmsa::new_zeroed();
    vmsa.cs = segment(0xf000, 0x9b, (entry & !0xffff).into());
    [vmsa.ds, vmsa.es, vmsa.fs, vmsa.gs, vmsa.ss] = [data; 5];
    vmsa.ldtr = segment(0, 0x82, 0);
    vmsa.tr = segment(0, 0x8b, 0);
    [vmsa.gdtr, vmsa.idtr] = [table; 2];
    vmsa.cr0 = CR0_ET;
    vmsa.cr4 = CR4_MCE;
    vmsa.dr6 = DR6_RESET;
    vmsa.dr7 = DR7_RESET;
    vmsa.rflags = RFLAGS_RESET;
    vmsa.rip = (entry & 0xffff).into();
    vmsa.g_pat = PAT_RESET;
    vmsa.efer = Vmsa::EFER_SVME;
    vmsa.xcr0 = XCR0_RESET;
    vmsa.mxcsr = MXCSR_RESET;
    vmsa.x87_fcw = FCW_RESET;
    vmsa.rdx = signature.into();
    vmsa.sev_features = features;
    vmsa
}
