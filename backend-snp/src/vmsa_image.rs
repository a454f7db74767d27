//! Registers into a VMSA and out of it.
//!
//! The neutral [`Context`] and the VMSA of fact table `vmsa` name the same registers. Values that the context does not have
//! are those of a vCPU after INIT (column `snp_ap_init_value`).

use coco_part_api::{Context, Segment};
use zerocopy::FromZeros;

use crate::abi::segment::{Segment as VmsaSegment, SegmentAttributes};
use crate::abi::sev_features::SevFeatures;
use crate::abi::vmpl::Vmpl;
use crate::abi::vmsa::Vmsa;

const DR6_INIT: u64 = 0xffff_0ff0;
const DR7_INIT: u64 = 0x400;
const MXCSR_INIT: u32 = 0x1f80;
const X87_FTW_INIT: u16 = 0x5555;
const X87_FCW_INIT: u16 = 0x0040;
/// CR4.MCE.
pub(crate) const CR4_MCE: u64 = 1 << 6;
/// XCR0 with x87 state alone.
const XCR0_INIT: u64 = 1;

/// A VMSA that can run: the registers of `context`, `vmpl` and `features`, and the run bit in EFER.
///
/// The values of the secure TSC and the nonce of register protection are zero: an image for a level with those features
/// needs them filled in.
pub fn image(context: &Context, vmpl: Vmpl, features: SevFeatures) -> Vmsa {
    let mut vmsa = Vmsa::new_zeroed();
    set_context(&mut vmsa, context);
    vmsa.efer |= Vmsa::EFER_SVME;
    vmsa.vmpl = vmpl.number();
    vmsa.dr6 = DR6_INIT;
    vmsa.dr7 = DR7_INIT;
    vmsa.mxcsr = MXCSR_INIT;
    vmsa.x87_ftw = X87_FTW_INIT;
    vmsa.x87_fcw = X87_FCW_INIT;
    vmsa.xcr0 = XCR0_INIT;
    vmsa.sev_features = features;
    vmsa
}

/// A VMSA for a processor that begins after INIT and a startup IPI with `vector`, as a kernel makes one for each further
/// processor (column `snp_ap_init_value`).
///
/// `creator_cr4` is CR4 of the processor that makes it: machine checks stay on where they are on. A kernel whose entry is
/// not the first byte of the page puts the rest of its address into `rip`.
pub fn startup(vector: u8, creator_cr4: u64, vmpl: Vmpl, features: SevFeatures) -> Vmsa {
    let context = Context { cr4: creator_cr4 & CR4_MCE, ..Context::startup(vector) };
    image(&context, vmpl, features)
}

/// Replaces the registers that a [`Context`] has. The run bit stays as it is; CPL becomes the DPL of SS.
pub fn set_context(vmsa: &mut Vmsa, context: &Context) {
    [
        vmsa.rax, vmsa.rcx, vmsa.rdx, vmsa.rbx, vmsa.rsp, vmsa.rbp, vmsa.rsi, vmsa.rdi, vmsa.r8, vmsa.r9, vmsa.r10,
        vmsa.r11, vmsa.r12, vmsa.r13, vmsa.r14, vmsa.r15,
    ] = context.gpr;
    vmsa.rip = context.rip;
    vmsa.rflags = context.rflags;
    vmsa.cr0 = context.cr0;
    vmsa.cr3 = context.cr3;
    vmsa.cr4 = context.cr4;
    vmsa.efer = context.efer & !Vmsa::EFER_SVME | vmsa.efer & Vmsa::EFER_SVME;
    vmsa.g_pat = context.pat;
    vmsa.cs = segment(&context.cs);
    vmsa.ss = segment(&context.ss);
    vmsa.ds = segment(&context.ds);
    vmsa.es = segment(&context.es);
    vmsa.fs = segment(&context.fs);
    vmsa.gs = segment(&context.gs);
    vmsa.ldtr = segment(&context.ldtr);
    vmsa.tr = segment(&context.tr);
    vmsa.gdtr = segment(&context.gdtr);
    vmsa.idtr = segment(&context.idtr);
    // Two bits.
    vmsa.cpl = vmsa.ss.attributes.dpl() as u8;
}

/// The registers of a VMSA, EFER without the run bit.
pub fn context(vmsa: &Vmsa) -> Context {
    Context {
        gpr: [
            vmsa.rax, vmsa.rcx, vmsa.rdx, vmsa.rbx, vmsa.rsp, vmsa.rbp, vmsa.rsi, vmsa.rdi, vmsa.r8, vmsa.r9, vmsa.r10,
            vmsa.r11, vmsa.r12, vmsa.r13, vmsa.r14, vmsa.r15,
        ],
        rip: vmsa.rip,
        rflags: vmsa.rflags,
        cr0: vmsa.cr0,
        cr3: vmsa.cr3,
        cr4: vmsa.cr4,
        efer: vmsa.efer & !Vmsa::EFER_SVME,
        pat: vmsa.g_pat,
        cs: neutral(&vmsa.cs),
        ss: neutral(&vmsa.ss),
        ds: neutral(&vmsa.ds),
        es: neutral(&vmsa.es),
        fs: neutral(&vmsa.fs),
        gs: neutral(&vmsa.gs),
        ldtr: neutral(&vmsa.ldtr),
        tr: neutral(&vmsa.tr),
        gdtr: neutral(&vmsa.gdtr),
        idtr: neutral(&vmsa.idtr),
    }
}

const fn segment(from: &Segment) -> VmsaSegment {
    VmsaSegment {
        selector: from.selector,
        attributes: SegmentAttributes::from_bits_retain(from.attributes),
        limit: from.limit,
        base: from.base,
    }
}

const fn neutral(from: &VmsaSegment) -> Segment {
    Segment { selector: from.selector, attributes: from.attributes.bits(), limit: from.limit, base: from.base }
}

#[cfg(test)]
mod tests {
    use zerocopy::{FromBytes, IntoBytes};

    use super::*;

    /// A context in which every byte of every register differs.
    fn counted() -> Context {
        let bytes: [u8; size_of::<Context>()] = core::array::from_fn(|index| (index % 251) as u8);
        Context::read_from_bytes(&bytes).unwrap()
    }

    #[test]
    fn every_register_survives_the_round_trip() {
        let given = Context { efer: 0xd01, ..counted() };
        assert_eq!(context(&image(&given, Vmpl::VMPL2, SevFeatures::SNP_ACTIVE)), given);
    }

    #[test]
    fn registers_stand_where_the_table_says() {
        let mut given = Context::long_mode(0x1111, 0x2222, 0x3333);
        given.gpr = core::array::from_fn(|index| 0xa0 + index as u64);
        let vmsa = image(&given, Vmpl::VMPL3, SevFeatures::SNP_ACTIVE | SevFeatures::SMT_PROTECTION);
        let quadword = |at: usize| u64::from_le_bytes(*vmsa.as_bytes()[at..].first_chunk().unwrap());
        // vmsa.csv: RAX RCX RDX RBX RSP RBP RSI RDI R8..R15.
        let offsets = [
            0x1f8, 0x308, 0x310, 0x318, 0x1d8, 0x328, 0x330, 0x338, 0x340, 0x348, 0x350, 0x358, 0x360, 0x368, 0x370,
            0x378,
        ];
        for (index, at) in offsets.into_iter().enumerate() {
            assert_eq!(quadword(at), 0xa0 + index as u64, "{at:#x}");
        }
        assert_eq!((quadword(0x178), quadword(0x150)), (0x1111, 0x3333));
        assert_eq!(quadword(0x0d0), 0x1d01);
        assert_eq!((vmsa.as_bytes()[0xca], vmsa.as_bytes()[0xcb]), (3, 0));
        assert_eq!(quadword(0x3b0), 0x8001);
        assert_eq!((quadword(0x160), quadword(0x168)), (0x400, 0xffff_0ff0));
        assert_eq!((quadword(0x268), quadword(0x3e8)), (0x0007_0406_0007_0406, 1));
        assert_eq!(quadword(0x010), 0xffff_ffff_0a9b_0008);
    }

    #[test]
    fn a_context_can_neither_set_nor_clear_the_run_bit() {
        let mut vmsa = image(&counted(), Vmpl::VMPL1, SevFeatures::SNP_ACTIVE);
        let mut given = Context::long_mode(0, 0, 0);
        set_context(&mut vmsa, &given);
        assert_eq!(vmsa.efer, 0x1d01);
        vmsa.efer = 0;
        given.efer = 0x1d01;
        set_context(&mut vmsa, &given);
        assert_eq!(vmsa.efer, 0xd01);
    }

    #[test]
    fn cpl_is_that_of_the_stack_segment() {
        let mut given = Context::long_mode(0, 0, 0);
        given.ss.attributes |= 3 << 5;
        assert_eq!(image(&given, Vmpl::VMPL1, SevFeatures::SNP_ACTIVE).cpl, 3);
    }
}
