//! A handler for #VC, for any level: the instruction that the processor could not finish is done with the host's help.
//!
//! For callers: fill a [`VcContext`] from the exception frame, call [`handle`] with the error code, and do what the
//! [`Outcome`] says. The caller gives memory as its own page tables show it ([`AddressSpace`]) and the host as [`Events`];
//! [`PageEvents`] is the latter over a GHCB page, which nobody else may use meanwhile (GH-14). A [`VcError`] has no way on:
//! the caller ends the guest, or the task alone where the variant and CPL 3 allow it; nothing of the context was changed then.
//! The error code is the host's choice, and so nothing is done that the instruction at RIP does not ask for (EV-03):
//!
//! - The bytes at RIP are copied once, decoded from the copy and compared with the code. What does not fit is
//!   [`VcError::FalseExit`], and the host is not asked for anything.
//! - Privileges are checked as the instruction has them. Port I/O needs IOPL: I/O permission bitmaps are not looked at, and
//!   what only they would permit raises #GP (GH-09).
//! - Devices are reached by pages that the guest's own tables show as shared, from CPL 0 only (PG-28, GH-11).
//! - CPUID comes from the page that the firmware checked (CP-01); the host speaks for its own range only.
//! - Of the exceptions that the host may want as an answer, #GP and #UD are raised (GH-03). By its error code it can have
//!   #DB, but for virtual debug registers, and #AC where alignment is checked: their handlers must not rely on a cause.
//! - A page that is not validated is an attack, and is not validated here (PG-01).
//!
//! Not done: a pending single step (RFLAGS.TF) raises no #DB behind the instruction. INVD, HLT, PAUSE, control registers and
//! debug registers other than DR7 are [`VcError::Unsupported`]; none of them raises #VC under a host that follows the
//! recommended intercepts, but for INVD, which would throw the guest's own data away.
//!
//! String instructions are done in pieces, one per exception. A piece changes registers as so many single steps would,
//! and the instruction raises #VC again.
//!
//! Source: 24593, 56421; `facts/vc_exit_codes.csv`, `facts/ghcb_nae.csv`, `facts/cpuid_page.csv`.

mod check;
mod context;
mod device;
mod error;
mod events;
mod fetch;
mod ports;
mod registers;
mod space;
mod stop;
#[cfg(test)]
mod tests;

pub use context::{Facts, VcContext};
pub use error::VcError;
pub use events::{Events, PageEvents};
pub use space::{AddressSpace, Mapping, PageFault, Privilege};
pub use stop::Exception;

use crate::abi::exit_codes::ExitCode;
use crate::insn::{Instruction, Operation, is_canonical};
use stop::{Run, Step, Stop};

/// What became of the instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is done: registers are changed, and RIP is behind it.
    Done,
    /// A piece of it is done: registers are changed, RIP is not. It has to be executed again.
    Again,
    /// It raises this exception. Nothing is changed.
    Raise(Exception),
}

/// Handles a #VC with error code `code`. Only [`Outcome::Done`] and [`Outcome::Again`] change `context`.
///
/// The host is asked once at most, but for a move from one device to another. Steps are bounded by the bytes that one
/// request can carry.
///
/// # Errors
/// [`VcError`]. The interrupted code cannot go on then.
#[doc(alias = "#VC")]
pub fn handle<A: AddressSpace, E: Events>(
    context: &mut VcContext,
    code: ExitCode,
    facts: &Facts<'_>,
    space: &mut A,
    events: &mut E,
) -> Result<Outcome, VcError> {
    let mut after = *context;
    let step = check::without_instruction(context, code, facts)
        .and_then(|()| fetch::instruction(context, code, space))
        .and_then(|instruction| run(&mut after, code, instruction, facts, space, events));
    match step {
        Ok(step) => {
            *context = after;
            Ok(if step == Step::Finished { Outcome::Done } else { Outcome::Again })
        }
        Err(Stop::Raise(exception)) => Ok(Outcome::Raise(exception)),
        Err(Stop::Fatal(error)) => Err(error),
    }
}

fn run<A: AddressSpace, E: Events>(
    context: &mut VcContext,
    code: ExitCode,
    instruction: Instruction,
    facts: &Facts<'_>,
    space: &mut A,
    events: &mut E,
) -> Run<Step> {
    let Instruction { operation, len } = instruction;
    check::exit_code(context, code, &operation, facts)?;
    check::privilege(context, &operation)?;
    let next_rip = context.registers.next_rip(len, context.mode());
    // An address that no return can go to.
    if !is_canonical(next_rip, context.address_bits()) {
        return Err(Stop::Raise(Exception::GENERAL_PROTECTION));
    }
    let step = execute(context, operation, next_rip, facts, space, events)?;
    if step == Step::Finished {
        context.registers.rip = next_rip;
    }
    Ok(step)
}

fn execute<A: AddressSpace, E: Events>(
    context: &mut VcContext,
    operation: Operation,
    next_rip: u64,
    facts: &Facts<'_>,
    space: &mut A,
    events: &mut E,
) -> Run<Step> {
    match operation {
        Operation::Cpuid => registers::cpuid(context, facts, events)?,
        Operation::Rdmsr => registers::rdmsr(context, facts, events)?,
        Operation::Wrmsr => registers::wrmsr(context, facts, events)?,
        Operation::Rdtsc => registers::rdtsc(context, events)?,
        Operation::Rdtscp => registers::rdtscp(context, events)?,
        Operation::Rdpmc => registers::rdpmc(context, events)?,
        Operation::ReadDebug { into, .. } => registers::read_dr7(context, into),
        Operation::WriteDebug { from, .. } => registers::write_dr7(context, from, events)?,
        Operation::Wbinvd | Operation::Wbnoinvd => events.wbinvd()?,
        Operation::Monitor | Operation::Monitorx => registers::monitor(context, events)?,
        Operation::Mwait | Operation::Mwaitx => registers::mwait(context, events)?,
        Operation::Vmmcall => registers::vmmcall(context, events)?,
        Operation::In { port, width } => ports::read(context, port, width, events)?,
        Operation::Out { port, width } => ports::write(context, port, width, events)?,
        Operation::Ins { width, form } => return ports::read_string(context, width, form, space, events),
        Operation::Outs { width, form } => return ports::write_string(context, width, form, space, events),
        Operation::Load { from, width, extension, into } => {
            let value = device::load(context, &from, width, next_rip, space, events)?;
            context.registers.write(into, extension.apply(width, value));
        }
        Operation::Store { to, width, from } => device::store(context, &to, width, from, next_rip, space, events)?,
        Operation::Movs { width, form } => return device::move_string(context, width, form, space, events),
        Operation::Stos { width, form } => return device::store_string(context, width, form, space, events),
        // No exit code of theirs came here.
        Operation::Invd | Operation::Hlt | Operation::ReadControl { .. } | Operation::WriteControl { .. } => {
            return Err(VcError::FalseExit { rip: context.registers.rip }.into());
        }
    }
    Ok(Step::Finished)
}
