//! What the registers of a new vCPU may be (rule V2).
//!
//! The module refuses most bad values when they are written, and the processor the rest when the L2 is entered, which
//! comes back as [`Exit::Shutdown`](coco_part_api::Exit). Checking here makes the common mistakes a plain refusal of the
//! frame, before anything was touched. No check here protects L1: an L2's registers cannot reach it.

use coco_part_api::svsm::state_frame::StateFrame;
use coco_part_api::{Context, GuestLevel, Segment};

use crate::abi::fields::{fixed, mask};
use crate::error::Error;

const CR0_PE: u64 = 1 << 0;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const CR4_LA57: u64 = 1 << 12;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
const RFLAGS_FIXED: u64 = 1 << 1;
const RFLAGS_VM: u64 = 1 << 17;
const RFLAGS_KNOWN: u64 = 0x3f_7fd7;

/// Segment attributes: type, S, present, L, D/B.
const TYPE: u16 = 0xf;
const CODE_OR_DATA: u16 = 1 << 4;
const PRESENT: u16 = 1 << 7;
const LONG: u16 = 1 << 9;
const BIG: u16 = 1 << 10;
const KNOWN: u16 = 0xfff;

/// Checks one copy of a frame that a guest filled.
pub(super) fn check_frame<F>(frame: &StateFrame, level: GuestLevel, shared_bit: u64) -> Result<(), Error<F>> {
    frame.check(level).map_err(|_| Error::BadFrame)?;
    check(&frame.context, shared_bit)
}

/// Checks the registers of a vCPU.
pub(super) fn check<F>(context: &Context, shared_bit: u64) -> Result<(), Error<F>> {
    let long = context.efer & EFER_LMA != 0;
    let code_64 = long && context.cs.attributes & LONG != 0;
    let canonical = |address: u64| is_canonical(address, context.cr4 & CR4_LA57 != 0);
    let checks = [
        ("CR0", context.cr0, context.cr0 & !(mask::CR0 | fixed::CR0) == 0),
        ("CR0", context.cr0, context.cr0 & CR0_PG == 0 || context.cr0 & CR0_PE != 0),
        ("CR4", context.cr4, context.cr4 & !(mask::CR4 | fixed::CR4) == 0),
        // PAE paging outside of long mode would take its page-directory pointers from where nothing has put them.
        ("CR4", context.cr4, context.cr0 & CR0_PG == 0 || long == (context.cr4 & CR4_PAE != 0)),
        ("EFER", context.efer, context.efer & !(mask::EFER | fixed::EFER) == 0),
        ("EFER", context.efer, long == (context.efer & EFER_LME != 0 && context.cr0 & CR0_PG != 0)),
        // Also: no page table in shared memory.
        ("CR3", context.cr3, context.cr3 < shared_bit),
        ("IA32_PAT", context.pat, context.pat.to_le_bytes().iter().all(|kind| matches!(kind, 0 | 1 | 4..=7))),
        ("RFLAGS", context.rflags, context.rflags & !RFLAGS_KNOWN == 0 && context.rflags & RFLAGS_FIXED != 0),
        ("RFLAGS", context.rflags, !long || context.rflags & RFLAGS_VM == 0),
        ("RIP", context.rip, if code_64 { canonical(context.rip) } else { context.rip >> 32 == 0 }),
        ("CS attributes", context.cs.attributes.into(), is_code(&context.cs)),
        ("TR attributes", context.tr.attributes.into(), is_task(&context.tr, long)),
        ("GDTR base", context.gdtr.base, canonical(context.gdtr.base) && context.gdtr.limit >> 16 == 0),
        ("IDTR base", context.idtr.base, canonical(context.idtr.base) && context.idtr.limit >> 16 == 0),
    ];
    let low = [("CS", &context.cs), ("SS", &context.ss), ("DS", &context.ds), ("ES", &context.es)];
    let low = low
        .into_iter()
        .map(|(name, segment)| (name, segment.base, segment.base >> 32 == 0 && segment.attributes & !KNOWN == 0));
    let wide = [("FS", &context.fs), ("GS", &context.gs), ("LDTR", &context.ldtr), ("TR", &context.tr)];
    let wide = wide
        .into_iter()
        .map(|(name, segment)| (name, segment.base, canonical(segment.base) && segment.attributes & !KNOWN == 0));
    match checks.into_iter().chain(low).chain(wide).find(|(_, _, sound)| !sound) {
        Some((register, value, _)) => Err(Error::BadRegister { register, value }),
        None => Ok(()),
    }
}

/// Bits above the linear-address width equal its top bit.
fn is_canonical(address: u64, five_levels: bool) -> bool {
    let unused = if five_levels { 64 - 57 } else { 64 - 48 };
    ((address << unused) as i64 >> unused) as u64 == address
}

/// A present, accessed code segment, or the data segment that CS is in real mode; not 64-bit and 32-bit at once.
fn is_code(segment: &Segment) -> bool {
    let present = segment.attributes & (PRESENT | CODE_OR_DATA) == PRESENT | CODE_OR_DATA;
    let sound = segment.attributes & (LONG | BIG) != LONG | BIG;
    present && sound && matches!(segment.attributes & TYPE, 3 | 9 | 11 | 13 | 15)
}

/// A present, busy task segment; in long mode of the 64-bit kind.
fn is_task(segment: &Segment, long: bool) -> bool {
    let kind = segment.attributes & TYPE;
    segment.attributes & (PRESENT | CODE_OR_DATA) == PRESENT && (kind == 11 || (kind == 3 && !long))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHARED: u64 = 1 << 47;

    fn refused(change: impl FnOnce(&mut Context)) -> &'static str {
        let mut context = Context::long_mode(0x10_0000, 0x20_0000, 0x5000);
        change(&mut context);
        match check::<()>(&context, SHARED) {
            Err(Error::BadRegister { register, .. }) => register,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn takes_a_kernel_in_long_mode_and_a_processor_after_reset() {
        assert_eq!(check::<()>(&Context::long_mode(0x10_0000, 0x20_0000, 0x5000), SHARED), Ok(()));
        let code = Segment { selector: 0xf000, attributes: 0x9b, limit: 0xffff, base: 0xffff_0000 };
        let data = Segment { selector: 0, attributes: 0x93, limit: 0xffff, base: 0 };
        let real =
            Context { cr0: 0x10, cr4: 0, efer: 0, cs: code, ss: data, rip: 0xfff0, ..Context::long_mode(0, 0, 0) };
        assert_eq!(check::<()>(&real, SHARED), Ok(()));
    }

    #[test]
    fn refuses_bits_that_belong_to_the_module() {
        assert_eq!(refused(|context| context.cr4 |= 1 << 13), "CR4");
        assert_eq!(refused(|context| context.cr4 |= 1 << 14), "CR4");
        assert_eq!(refused(|context| context.cr0 |= 1 << 30), "CR0");
        assert_eq!(refused(|context| context.efer |= 1 << 12), "EFER");
    }

    #[test]
    fn refuses_modes_that_contradict_themselves() {
        assert_eq!(refused(|context| context.cr0 &= !CR0_PG), "EFER");
        assert_eq!(refused(|context| context.efer &= !EFER_LME), "EFER");
        assert_eq!(refused(|context| (context.efer, context.cr4) = (context.efer & !EFER_LMA, 0)), "EFER");
        assert_eq!(refused(|context| context.cr4 &= !CR4_PAE), "CR4");
        assert_eq!(refused(|context| context.efer = 0), "CR4");
        assert_eq!(refused(|context| context.cr0 &= !CR0_PE), "CR0");
        assert_eq!(refused(|context| context.rflags |= RFLAGS_VM), "RFLAGS");
    }

    #[test]
    fn refuses_addresses_that_no_level_has() {
        assert_eq!(refused(|context| context.rip = 1 << 47), "RIP");
        assert_eq!(refused(|context| context.rip = 1 << 63), "RIP");
        assert_eq!(refused(|context| context.cr3 |= SHARED), "CR3");
        assert_eq!(refused(|context| context.gs.base = 1 << 50), "GS");
        assert_eq!(refused(|context| context.ss.base = 1 << 32), "SS");
        assert_eq!(refused(|context| context.gdtr.base = 1 << 60), "GDTR base");
        assert_eq!(refused(|context| context.idtr.limit = 0x1_0000), "IDTR base");
    }

    #[test]
    fn refuses_segments_and_flags_that_are_none() {
        assert_eq!(refused(|context| context.cs.attributes &= !PRESENT), "CS attributes");
        assert_eq!(refused(|context| context.cs.attributes = 0xc91), "CS attributes");
        assert_eq!(refused(|context| context.cs.attributes = 0xa9a), "CS attributes");
        assert_eq!(refused(|context| context.cs.attributes |= BIG), "CS attributes");
        assert_eq!(refused(|context| context.tr.attributes = 0x89), "TR attributes");
        assert_eq!(refused(|context| context.rflags = 0), "RFLAGS");
        assert_eq!(refused(|context| context.rflags |= 1 << 15), "RFLAGS");
        assert_eq!(refused(|context| context.pat = 0x0302), "IA32_PAT");
        assert_eq!(refused(|context| context.ds.attributes |= 0x1000), "DS");
    }

    #[test]
    fn five_level_paging_widens_what_is_canonical() {
        assert!(is_canonical(0xff00_0000_0000_0000, true));
        assert!(!is_canonical(0xff00_0000_0000_0000, false));
        assert!(!is_canonical(0xfe00_0000_0000_0000, true));
    }

    #[test]
    fn a_frame_for_another_level_is_refused() {
        let frame = StateFrame::new(GuestLevel::TWO, Context::long_mode(0, 0, 0));
        assert_eq!(check_frame::<()>(&frame, GuestLevel::ONE, SHARED), Err(Error::BadFrame));
        assert_eq!(check_frame::<()>(&frame, GuestLevel::TWO, SHARED), Ok(()));
    }
}
