//! Loads, stores and string moves that reach a device.

use super::context::VcContext;
use super::error::VcError;
use super::events::Events;
use super::fetch::PAGE;
use super::ports::Cursor;
use super::space::{AddressSpace, Mapping};
use super::stop::{Run, Step};
use crate::host::SharedAddr;
use crate::insn::{Access, Gpr, LinearAddr, MemoryOperand, Register, SegmentName, Source, StringForm, Width};

/// Reads a device, zero-extended.
pub(super) fn load<A: AddressSpace, E: Events>(
    context: &VcContext,
    from: &MemoryOperand,
    width: Width,
    next_rip: u64,
    space: &mut A,
    events: &mut E,
) -> Run<u64> {
    let offset = from.offset(&context.registers, next_rip);
    let at = context.linear(from.segment, offset, width.bytes(), Access::Read)?;
    let device = Place::of(context, at, width, Access::Read, space)?.device()?;
    Ok(read_device(device, width, events)?.0)
}

/// Writes a device.
pub(super) fn store<A: AddressSpace, E: Events>(
    context: &VcContext,
    to: &MemoryOperand,
    width: Width,
    from: Source,
    next_rip: u64,
    space: &mut A,
    events: &mut E,
) -> Run<()> {
    let offset = to.offset(&context.registers, next_rip);
    let at = context.linear(to.segment, offset, width.bytes(), Access::Write)?;
    let device = Place::of(context, at, width, Access::Write, space)?.device()?;
    let value = match from {
        Source::Register(register) => context.registers.read(register),
        Source::Immediate(value) => value,
    };
    write_device(device, width, Value(value), events)
}

/// One element of MOVS, between a device and memory or two devices.
pub(super) fn move_string<A: AddressSpace, E: Events>(
    context: &mut VcContext,
    width: Width,
    form: StringForm,
    space: &mut A,
    events: &mut E,
) -> Run<Step> {
    let source = Cursor { index: Gpr::RSI, width, form };
    let target = Cursor { index: Gpr::RDI, width, form };
    if source.count(&context.registers) == 0 {
        return Ok(Step::Finished);
    }
    let at = source.linear(context, form.segment, 0, Access::Read)?;
    let from = Place::of(context, at, width, Access::Read, space)?;
    let at = target.linear(context, SegmentName::Es, 0, Access::Write)?;
    let to = Place::of(context, at, width, Access::Write, space)?;
    if from.device.is_none() {
        to.device()?;
    }
    let value = match from.device {
        Some(device) => read_device(device, width, events)?,
        None => from.read(context, width, space)?,
    };
    match to.device {
        Some(device) => write_device(device, width, value, events)?,
        None => to.write(context, width, value, space)?,
    }
    // Both see the same count.
    let before = *context;
    let step = source.advance(context, 1);
    let mut other = before;
    target.advance(&mut other, 1);
    context.registers.set_gpr(Gpr::RDI, other.registers.gpr(Gpr::RDI));
    Ok(step)
}

/// One element of STOS to a device.
pub(super) fn store_string<A: AddressSpace, E: Events>(
    context: &mut VcContext,
    width: Width,
    form: StringForm,
    space: &mut A,
    events: &mut E,
) -> Run<Step> {
    let target = Cursor { index: Gpr::RDI, width, form };
    if target.count(&context.registers) == 0 {
        return Ok(Step::Finished);
    }
    let at = target.linear(context, SegmentName::Es, 0, Access::Write)?;
    let device = Place::of(context, at, width, Access::Write, space)?.device()?;
    let value = Value(context.registers.read(Register::Low(Gpr::RAX, width)));
    write_device(device, width, value, events)?;
    Ok(target.advance(context, 1))
}

/// An operand in memory, translated.
#[derive(Clone, Copy)]
struct Place {
    at: LinearAddr,
    device: Option<SharedAddr>,
}

impl Place {
    fn of<A: AddressSpace>(
        context: &VcContext,
        at: LinearAddr,
        width: Width,
        access: Access,
        space: &mut A,
    ) -> Run<Self> {
        if at.as_u64() % PAGE + width.bytes() as u64 > PAGE {
            return Err(VcError::CrossesPage { at }.into());
        }
        let device = match space.translate(at, access, context.privilege())? {
            Mapping::Shared(device) => Some(device),
            Mapping::Private(_) => None,
        };
        Ok(Self { at, device })
    }

    fn device(&self) -> Run<SharedAddr> {
        self.device.ok_or(VcError::PrivateDevice { at: self.at }.into())
    }

    fn read<A: AddressSpace>(&self, context: &VcContext, width: Width, space: &mut A) -> Run<Value> {
        let mut value = [0; 8];
        space.read(self.at, value.get_mut(..width.bytes()).unwrap_or_default(), context.privilege())?;
        Ok(Value(u64::from_le_bytes(value)))
    }

    fn write<A: AddressSpace>(&self, context: &VcContext, width: Width, value: Value, space: &mut A) -> Run<()> {
        let value = value.0.to_le_bytes();
        Ok(space.write(self.at, value.get(..width.bytes()).unwrap_or_default(), context.privilege())?)
    }
}

/// A value on its way, in the low bits.
struct Value(u64);

fn read_device<E: Events>(at: SharedAddr, width: Width, events: &mut E) -> Run<Value> {
    let mut value = [0; 8];
    events.mmio_read(at, value.get_mut(..width.bytes()).unwrap_or_default())?;
    Ok(Value(u64::from_le_bytes(value)))
}

fn write_device<E: Events>(at: SharedAddr, width: Width, value: Value, events: &mut E) -> Run<()> {
    let value = value.0.to_le_bytes();
    Ok(events.mmio_write(at, value.get(..width.bytes()).unwrap_or_default())?)
}
