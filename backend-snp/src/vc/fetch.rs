//! The bytes at RIP: copied once, and as few pages touched as the instruction needs.

use super::check::is_handled;
use super::context::VcContext;
use super::error::VcError;
use super::space::AddressSpace;
use super::stop::{Exception, Run};
use crate::abi::exit_codes::ExitCode;
use crate::insn::{Access, DecodeError, Instruction, MAX_LEN, SegmentName, decode};

/// Bytes of a page.
pub(super) const PAGE: u64 = 0x1000;

/// Copies and decodes the instruction at RIP. Bytes that are no listed instruction fit no error code.
pub(super) fn instruction<A: AddressSpace>(context: &VcContext, code: ExitCode, space: &mut A) -> Run<Instruction> {
    if !is_handled(code) {
        return Err(VcError::Unsupported { code }.into());
    }
    let rip = context.registers.rip;
    // As many as the segment has.
    let linear = |len| context.linear(SegmentName::Cs, rip, len, Access::Fetch).ok().map(|at| (at, len));
    let (at, len) = (1..=MAX_LEN).rev().find_map(linear).ok_or(Exception::GENERAL_PROTECTION)?;
    let left = usize::try_from(PAGE - at.as_u64() % PAGE).unwrap_or(MAX_LEN);
    let mut bytes = [0; MAX_LEN];
    let mut copied = 0;
    for end in [left.min(len), len] {
        let (Some(into), Some(from)) = (bytes.get_mut(copied..end), at.checked_add(copied)) else { break };
        if !into.is_empty() {
            space.fetch(from, into, context.privilege())?;
            copied = end;
        }
        match decode(bytes.get(..copied).unwrap_or_default(), context.mode()) {
            Ok(instruction) => return Ok(instruction),
            Err(DecodeError::Truncated) => {}
            Err(_) => return Err(VcError::FalseExit { rip }.into()),
        }
    }
    // It leaves the segment.
    Err(Exception::GENERAL_PROTECTION.into())
}
