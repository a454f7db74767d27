//! Port I/O, single and by string.

use super::context::VcContext;
use super::events::Events;
use super::fetch::PAGE;
use super::space::AddressSpace;
use super::stop::{Run, Step};
use crate::abi::nae::MAX_DATA_BYTES;
use crate::host::{AddressSize, PortAccess, PortSize};
use crate::insn::{Access, Gpr, LinearAddr, Mode, PortNumber, Register, Registers, SegmentName, StringForm, Width};

pub(super) fn read<E: Events>(context: &mut VcContext, port: PortNumber, width: Width, events: &mut E) -> Run<()> {
    let value = events.port_in(access(context, port, width, code_size(context)))?;
    context.registers.write(Register::Low(Gpr::RAX, width), value.into());
    Ok(())
}

pub(super) fn write<E: Events>(context: &VcContext, port: PortNumber, width: Width, events: &mut E) -> Run<()> {
    let value = context.registers.read(Register::Low(Gpr::RAX, width)) as u32;
    Ok(events.port_out(access(context, port, width, code_size(context)), value)?)
}

/// One piece of INS. All of its memory is looked at before the host is asked, because what a device gave cannot be given
/// back. Memory that goes away meanwhile loses what was meant for it.
pub(super) fn read_string<A: AddressSpace, E: Events>(
    context: &mut VcContext,
    width: Width,
    form: StringForm,
    space: &mut A,
    events: &mut E,
) -> Run<Step> {
    let cursor = Cursor { index: Gpr::RDI, width, form };
    let by = context.privilege();
    let room = cursor.elements(context, usize::MAX, |context, element| {
        let at = cursor.linear(context, SegmentName::Es, element, Access::Write)?;
        space.translate(at, Access::Write, by)?;
        if let Some(next) = next_page(at, width) {
            space.translate(next, Access::Write, by)?;
        }
        Ok(())
    })?;
    let mut buffer = [0; MAX_DATA_BYTES];
    let bytes = buffer.get_mut(..room * width.bytes()).unwrap_or_default();
    if bytes.is_empty() {
        return Ok(Step::Finished);
    }
    events.port_in_string(access(context, PortNumber::Dx, width, form.address), bytes)?;
    let mut values = bytes.chunks_exact(width.bytes());
    let stored = cursor.elements(context, room, |context, element| {
        let at = cursor.linear(context, SegmentName::Es, element, Access::Write)?;
        space.write(at, values.next().unwrap_or_default(), by)?;
        Ok(())
    })?;
    Ok(cursor.advance(context, stored))
}

/// One piece of OUTS.
pub(super) fn write_string<A: AddressSpace, E: Events>(
    context: &mut VcContext,
    width: Width,
    form: StringForm,
    space: &mut A,
    events: &mut E,
) -> Run<Step> {
    let cursor = Cursor { index: Gpr::RSI, width, form };
    let by = context.privilege();
    let mut buffer = [0; MAX_DATA_BYTES];
    let mut values = buffer.chunks_exact_mut(width.bytes());
    let loaded = cursor.elements(context, usize::MAX, |context, element| {
        let at = cursor.linear(context, form.segment, element, Access::Read)?;
        space.read(at, values.next().unwrap_or_default(), by)?;
        Ok(())
    })?;
    let bytes = buffer.get(..loaded * width.bytes()).unwrap_or_default();
    if bytes.is_empty() {
        return Ok(Step::Finished);
    }
    let access = access(context, PortNumber::Dx, width, form.address);
    events.port_out_string(access, form.segment, bytes)?;
    Ok(cursor.advance(context, loaded))
}

/// Where a string instruction is in memory.
#[derive(Clone, Copy)]
pub(super) struct Cursor {
    /// RSI or RDI.
    pub(super) index: Gpr,
    pub(super) width: Width,
    pub(super) form: StringForm,
}

impl Cursor {
    /// Elements that are left.
    pub(super) const fn count(&self, registers: &Registers) -> u64 {
        if self.form.repeat { registers.read(Register::Low(Gpr::RCX, self.form.address)) } else { 1 }
    }

    /// Address of an element, counted from the one at the index register.
    pub(super) fn linear(
        &self,
        context: &VcContext,
        segment: SegmentName,
        element: usize,
        access: Access,
    ) -> Run<LinearAddr> {
        context.linear(segment, self.offset(&context.registers, element), self.width.bytes(), access)
    }

    /// Does `each` for as many elements as are left, up to `most` and to what one request carries. The first that cannot be
    /// done ends it, and is an error only if it is the first of all. Gives how many were done.
    fn elements(
        &self,
        context: &VcContext,
        most: usize,
        mut each: impl FnMut(&VcContext, usize) -> Run<()>,
    ) -> Run<usize> {
        let most = most.min(MAX_DATA_BYTES / self.width.bytes());
        let left = usize::try_from(self.count(&context.registers)).unwrap_or(usize::MAX);
        for element in 0..left.min(most) {
            match each(context, element) {
                Err(stop) if element == 0 => return Err(stop),
                Err(_) => return Ok(element),
                Ok(()) => {}
            }
        }
        Ok(left.min(most))
    }

    /// Moves the registers on by so many elements.
    pub(super) const fn advance(&self, context: &mut VcContext, elements: usize) -> Step {
        let offset = self.offset(&context.registers, elements);
        let left = self.count(&context.registers).saturating_sub(elements as u64);
        context.registers.write(Register::Low(self.index, self.form.address), offset);
        if self.form.repeat {
            context.registers.write(Register::Low(Gpr::RCX, self.form.address), left);
        }
        if left == 0 { Step::Finished } else { Step::Piece }
    }

    const fn offset(&self, registers: &Registers, element: usize) -> u64 {
        let start = registers.gpr(self.index);
        let way = (element as u64).wrapping_mul(self.width.bytes() as u64);
        let down = registers.rflags & Registers::DIRECTION != 0;
        let offset = if down { start.wrapping_sub(way) } else { start.wrapping_add(way) };
        offset & self.form.address.mask()
    }
}

fn access(context: &VcContext, port: PortNumber, width: Width, address: Width) -> PortAccess {
    let port = match port {
        PortNumber::Immediate(port) => port.into(),
        PortNumber::Dx => context.registers.gpr(Gpr::RDX) as u16,
    };
    let size = match width {
        Width::Byte => PortSize::Byte,
        Width::Word => PortSize::Word,
        Width::Dword | Width::Qword => PortSize::Dword,
    };
    let address = match address {
        Width::Byte | Width::Word => AddressSize::Bits16,
        Width::Dword => AddressSize::Bits32,
        Width::Qword => AddressSize::Bits64,
    };
    PortAccess { port, size, address }
}

/// The page that an element begun in the one before reaches into.
fn next_page(at: LinearAddr, width: Width) -> Option<LinearAddr> {
    let left = PAGE - at.as_u64() % PAGE;
    let crosses = (width.bytes() as u64) > left;
    crosses.then(|| at.checked_add(usize::try_from(left).ok()?)).flatten()
}

/// Size of addresses of instructions that have none.
const fn code_size(context: &VcContext) -> Width {
    match context.mode() {
        Mode::Bits64 => Width::Qword,
        Mode::Bits32 => Width::Dword,
        Mode::Bits16 => Width::Word,
    }
}
