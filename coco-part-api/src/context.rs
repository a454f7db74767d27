//! The registers that a vCPU starts with.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// A segment register: selector, attributes, limit and base.
///
/// Attributes: bits 3:0 type, 4 S, 6:5 DPL, 7 present, 8 AVL, 9 L, 10 D/B, 11 G; the rest is zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Segment {
    /// Selector.
    pub selector: u16,
    /// Attributes, see above.
    pub attributes: u16,
    /// Limit in bytes, expanded.
    pub limit: u32,
    /// Base address.
    pub base: u64,
}

/// The architectural state a vCPU starts with. Neutral: the x86-64 registers, no vendor's layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Context {
    /// RAX RCX RDX RBX RSP RBP RSI RDI R8 to R15, in encoding order.
    pub gpr: [u64; 16],
    /// RIP.
    pub rip: u64,
    /// RFLAGS; bit 1 is always set.
    pub rflags: u64,
    /// CR0.
    pub cr0: u64,
    /// CR3.
    pub cr3: u64,
    /// CR4.
    pub cr4: u64,
    /// EFER without the bits a vendor keeps for itself.
    pub efer: u64,
    /// IA32_PAT.
    pub pat: u64,
    /// Code segment.
    pub cs: Segment,
    /// Stack segment.
    pub ss: Segment,
    /// DS.
    pub ds: Segment,
    /// ES.
    pub es: Segment,
    /// FS.
    pub fs: Segment,
    /// GS.
    pub gs: Segment,
    /// Local descriptor table.
    pub ldtr: Segment,
    /// Task register.
    pub tr: Segment,
    /// Global descriptor table; base and limit.
    pub gdtr: Segment,
    /// Interrupt descriptor table; base and limit.
    pub idtr: Segment,
}

/// Index of RDX in [`Context::gpr`].
const RDX: usize = 2;
/// Index of RSP in [`Context::gpr`].
pub const RSP: usize = 4;
/// Index of RDI in [`Context::gpr`].
pub const RDI: usize = 7;

impl Context {
    /// 64-bit mode at CPL 0 with flat segments: what a kernel's own entry point wants.
    ///
    /// `rip`, `rsp` are linear addresses, `cr3` the guest-physical root with whatever bits the vendor wants in it.
    pub const fn long_mode(rip: u64, rsp: u64, cr3: u64) -> Self {
        const DATA: Segment = flat(0x10, 0xc93);
        let mut gpr = [0; 16];
        gpr[RSP] = rsp;
        Self {
            gpr,
            rip,
            rflags: 0x2,
            cr0: 0x8001_0031, // PG WP NE ET PE
            cr3,
            cr4: 0x20,   // PAE
            efer: 0xd01, // NXE LMA LME SCE
            pat: PAT,
            cs: flat(0x08, 0xa9b),
            ss: DATA,
            ds: DATA,
            es: DATA,
            fs: DATA,
            gs: DATA,
            ldtr: LDT,
            tr: real(0, 0x8b, 0),
            gdtr: TABLE,
            idtr: TABLE,
        }
    }

    /// A processor after power-on or INIT, before its first instruction at the reset vector, 0xffff_fff0 in real mode.
    ///
    /// `signature` is what CPUID leaf 1 gives in EAX: a processor has it in RDX then.
    pub const fn reset(signature: u32) -> Self {
        let mut gpr = [0; 16];
        gpr[RDX] = signature as u64;
        Self::real_mode(gpr, real(0xf000, 0x9b, 0xffff_0000), 0xfff0)
    }

    /// A processor after INIT and a startup IPI with `vector`, the number of the 4 KiB page below 1 MiB at whose first byte
    /// it begins in real mode.
    pub const fn startup(vector: u8) -> Self {
        let page = vector as u16;
        Self::real_mode([0; 16], real(page << 8, 0x9a, (page as u64) << 12), 0)
    }

    const fn real_mode(gpr: [u64; 16], cs: Segment, rip: u64) -> Self {
        const DATA: Segment = real(0, 0x92, 0);
        Self {
            gpr,
            rip,
            rflags: 0x2,
            cr0: 0x6000_0010, // CD NW ET
            cr3: 0,
            cr4: 0,
            efer: 0,
            pat: PAT,
            cs,
            ss: DATA,
            ds: DATA,
            es: DATA,
            fs: DATA,
            gs: DATA,
            ldtr: LDT,
            tr: real(0, 0x83, 0),
            gdtr: TABLE,
            idtr: TABLE,
        }
    }
}

/// PAT at power-on.
const PAT: u64 = 0x0007_0406_0007_0406;
const LDT: Segment = real(0, 0x82, 0);
const TABLE: Segment = real(0, 0, 0);

/// A segment over all addresses.
const fn flat(selector: u16, attributes: u16) -> Segment {
    Segment { selector, attributes, limit: 0xffff_ffff, base: 0 }
}

/// A segment of 64 KiB.
const fn real(selector: u16, attributes: u16, base: u64) -> Segment {
    Segment { selector, attributes, limit: 0xffff, base }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_mode_is_64_bit_code_at_cpl_0() {
        let context = Context::long_mode(0x1234, 0x8000, 0x5000);
        assert_eq!(context.cs.attributes & 0x200, 0x200);
        assert_eq!(context.cs.attributes & 0x460, 0);
        assert_eq!((context.rip, context.gpr[RSP], context.cr3), (0x1234, 0x8000, 0x5000));
    }

    /// CR0.PE and CR0.PG are clear, and the code segment's base is its selector times 16, or that of the reset vector.
    #[test]
    fn reset_and_startup_are_real_mode() {
        let (reset, startup) = (Context::reset(0xa2_0f11), Context::startup(0xff));
        for context in [reset, startup] {
            assert_eq!(context.cr0 & 0x8000_0001, 0);
        }
        assert_eq!(reset.cs.base + reset.rip, 0xffff_fff0);
        assert_eq!(startup.cs.base, u64::from(startup.cs.selector) << 4);
        assert_eq!((startup.cs.base, startup.rip), (0xff000, 0));
        assert_eq!((reset.gpr[RDX], startup.gpr[RDX]), (0xa2_0f11, 0));
    }
}
