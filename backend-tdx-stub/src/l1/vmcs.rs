//! A neutral [`Context`] in the VMCS and the register page of an L2, and back.

use coco_part_api::{Context, GuestLevel, GuestMemory, Segment};
use x86_64::PhysAddr;

use super::{L1, LevelPages};
use crate::abi::fields::{FieldId, L2_CTLS_MASK, SegmentRegister, UNUSABLE, VmcsField, fixed, mask};
use crate::abi::guest_state::EnterGuestState;
use crate::abi::leaves::Leaf;
use crate::abi::regs::Regs;
use crate::error::Error;
use crate::port::Port;

const ALL: u64 = u64::MAX;
const EFER_LMA: u64 = 1 << 10;
const PRESENT: u16 = 1 << 7;

/// A field, a value, and the bits of it to write.
type Write = (VmcsField, u64, u64);

/// What a level starts from, whatever ran there before. Not part of a [`Context`].
///
/// - The guest owns the bits of CR0 and CR4 that L1 may write: changing them is no exit (TDX-57).
/// - Supervisor and user execute rights differ only with mode-based execute control (TDX-58); without it a right to
///   execute in one mode would be one in both (rule M5).
fn controls(pages: LevelPages) -> [Write; 11] {
    [
        (VmcsField::VIRTUAL_APIC_ADDRESS, pages.vapic.start_address().as_u64(), mask::VIRTUAL_APIC),
        (VmcsField::SECONDARY_CONTROLS, mask::MODE_BASED_EXECUTE, mask::MODE_BASED_EXECUTE),
        (VmcsField::CR0_MASK, !mask::CR0, ALL),
        (VmcsField::CR4_MASK, !mask::CR4, ALL),
        (VmcsField::ENTRY_INTERRUPTION, 0, ALL),
        (VmcsField::INTERRUPTIBILITY, 0, ALL),
        (VmcsField::PENDING_DEBUG, 0, ALL),
        (VmcsField::DR7, 0x400, ALL),
        (VmcsField::SYSENTER_CS, 0, ALL),
        (VmcsField::SYSENTER_ESP, 0, ALL),
        (VmcsField::SYSENTER_EIP, 0, ALL),
    ]
}

/// The VMCS part of a context, always in the same order.
pub(super) fn fields(context: &Context) -> impl Iterator<Item = Write> + use<> {
    let ia32e = if context.efer & EFER_LMA != 0 { mask::IA32E_MODE } else { 0 };
    let registers = [
        (VmcsField::CR0_SHADOW, context.cr0, ALL),
        (VmcsField::CR0, context.cr0 & mask::CR0, mask::CR0),
        (VmcsField::CR3, context.cr3, ALL),
        // The module keeps MCE set; a guest that saw it clear would set it, and that would be an exit.
        (VmcsField::CR4_SHADOW, context.cr4 | fixed::CR4, ALL),
        (VmcsField::CR4, context.cr4 & mask::CR4, mask::CR4),
        (VmcsField::EFER, context.efer & mask::EFER, mask::EFER),
        (VmcsField::ENTRY_CONTROLS, ia32e, mask::IA32E_MODE),
        (VmcsField::PAT, context.pat, ALL),
    ];
    let tables = [
        (VmcsField::GDTR_LIMIT, context.gdtr.limit.into(), ALL),
        (VmcsField::GDTR_BASE, context.gdtr.base, ALL),
        (VmcsField::IDTR_LIMIT, context.idtr.limit.into(), ALL),
        (VmcsField::IDTR_BASE, context.idtr.base, ALL),
    ];
    let segments = segments(context).into_iter().flat_map(|(register, segment)| {
        [
            (register.selector(), segment.selector.into(), ALL),
            (register.limit(), segment.limit.into(), ALL),
            (register.access_rights(), access_rights(segment.attributes).into(), ALL),
            (register.base(), segment.base, ALL),
        ]
    });
    registers.into_iter().chain(segments).chain(tables)
}

fn segments(context: &Context) -> [(SegmentRegister, Segment); 8] {
    [
        (SegmentRegister::Es, context.es),
        (SegmentRegister::Cs, context.cs),
        (SegmentRegister::Ss, context.ss),
        (SegmentRegister::Ds, context.ds),
        (SegmentRegister::Fs, context.fs),
        (SegmentRegister::Gs, context.gs),
        (SegmentRegister::Ldtr, context.ldtr),
        (SegmentRegister::Tr, context.tr),
    ]
}

/// Neutral attributes as VMX access rights: AVL, L, D/B and G four bits higher, and a bit for "not present".
fn access_rights(attributes: u16) -> u32 {
    let rights = u32::from(attributes & 0xff) | u32::from(attributes & 0xf00) << 4;
    if attributes & PRESENT == 0 { rights | UNUSABLE } else { rights }
}

/// The inverse. What cannot be used reads as not present.
fn attributes(rights: u32) -> u16 {
    let attributes = (rights & 0xff | rights >> 4 & 0xf00) as u16;
    if rights & UNUSABLE == 0 { attributes } else { attributes & !PRESENT }
}

impl<P: Port, M: GuestMemory> L1<'_, P, M> {
    /// Sets up what a level runs with, independent of its registers.
    ///
    /// L2_CTLS is all zero: no memory shared with the host, and a TDCALL of the level comes here, not to the host.
    pub(super) fn write_controls(&mut self, level: GuestLevel, pages: LevelPages) -> Result<(), Error<M::Fault>> {
        let operands = Regs { rdx: FieldId::l2_ctls(level).0, r8: 0, r9: L2_CTLS_MASK, ..Regs::default() };
        self.call(Leaf::VP_WR, operands)?;
        controls(pages).into_iter().try_for_each(|(field, value, mask)| self.vmcs_write(level, field, value, mask))
    }

    /// Writes the VMCS part of a context; of fields that hold `now` already, none.
    pub(super) fn write_fields(
        &mut self,
        level: GuestLevel,
        context: &Context,
        now: Option<&Context>,
    ) -> Result<(), Error<M::Fault>> {
        let mut now = now.map(fields);
        for (field, value, mask) in fields(context) {
            // Same order on both sides, so this is the same field.
            if now.as_mut().and_then(Iterator::next) != Some((field, value, mask)) {
                self.vmcs_write(level, field, value, mask)?;
            }
        }
        Ok(())
    }

    /// Reads a context back, as the level itself would see its registers.
    pub(super) fn read_context(&mut self, level: GuestLevel, pages: LevelPages) -> Result<Context, Error<M::Fault>> {
        let state = self.registers(pages.registers)?;
        let owned = |real: u64, shadow: u64, mask: u64| real & mask | shadow & !mask;
        let cr0 = self.vmcs_read(level, VmcsField::CR0)?;
        let cr0 = owned(cr0, self.vmcs_read(level, VmcsField::CR0_SHADOW)?, mask::CR0);
        let cr4 = self.vmcs_read(level, VmcsField::CR4)?;
        let cr4 = owned(cr4, self.vmcs_read(level, VmcsField::CR4_SHADOW)?, mask::CR4);
        Ok(Context {
            gpr: state.gpr,
            rip: state.rip,
            rflags: state.rflags,
            cr0,
            cr3: self.vmcs_read(level, VmcsField::CR3)?,
            cr4,
            efer: self.vmcs_read(level, VmcsField::EFER)?,
            pat: self.vmcs_read(level, VmcsField::PAT)?,
            cs: self.read_segment(level, SegmentRegister::Cs)?,
            ss: self.read_segment(level, SegmentRegister::Ss)?,
            ds: self.read_segment(level, SegmentRegister::Ds)?,
            es: self.read_segment(level, SegmentRegister::Es)?,
            fs: self.read_segment(level, SegmentRegister::Fs)?,
            gs: self.read_segment(level, SegmentRegister::Gs)?,
            ldtr: self.read_segment(level, SegmentRegister::Ldtr)?,
            tr: self.read_segment(level, SegmentRegister::Tr)?,
            gdtr: self.read_table(level, VmcsField::GDTR_BASE, VmcsField::GDTR_LIMIT)?,
            idtr: self.read_table(level, VmcsField::IDTR_BASE, VmcsField::IDTR_LIMIT)?,
        })
    }

    fn read_segment(&mut self, level: GuestLevel, register: SegmentRegister) -> Result<Segment, Error<M::Fault>> {
        Ok(Segment {
            selector: self.vmcs_read(level, register.selector())? as u16,
            attributes: attributes(self.vmcs_read(level, register.access_rights())? as u32),
            limit: self.vmcs_read(level, register.limit())? as u32,
            base: self.vmcs_read(level, register.base())?,
        })
    }

    fn read_table(&mut self, level: GuestLevel, base: VmcsField, limit: VmcsField) -> Result<Segment, Error<M::Fault>> {
        let base = self.vmcs_read(level, base)?;
        Ok(Segment { base, limit: self.vmcs_read(level, limit)? as u32, ..Segment::default() })
    }

    /// One copy of a register page.
    pub(super) fn registers(&self, at: PhysAddr) -> Result<EnterGuestState, Error<M::Fault>> {
        self.memory.read_value(at).map_err(|fault| Error::Memory { at, fault })
    }

    /// Writes a register page.
    pub(super) fn set_registers(&self, at: PhysAddr, state: &EnterGuestState) -> Result<(), Error<M::Fault>> {
        self.memory.write_value(at, state).map_err(|fault| Error::Memory { at, fault })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_survive_the_way_through_access_rights() {
        for attributes_ in 0..0x1000 {
            assert_eq!(attributes(access_rights(attributes_)), attributes_);
        }
        assert_eq!(access_rights(0xa9b), 0xa09b);
        assert_eq!(access_rights(0xc93), 0xc093);
        assert_eq!(access_rights(0x002), 0x1_0002);
        assert_eq!(attributes(0x1_0082), 0x002);
    }

    #[test]
    fn a_context_has_the_same_fields_in_the_same_order_whatever_it_holds() {
        let one = Context::long_mode(1, 2, 3);
        let two = Context { efer: 0, cr0: 0, ..Context::long_mode(4, 5, 6) };
        assert!(fields(&one).map(|write| write.0).eq(fields(&two).map(|write| write.0)));
        assert_eq!(fields(&one).count(), 8 + 8 * 4 + 4);
    }
}
