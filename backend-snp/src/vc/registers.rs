//! Instructions that work on registers only.

use super::context::{Facts, VcContext};
use super::error::VcError;
use super::events::Events;
use super::stop::{Exception, Run};
use crate::abi::cpuid_leaves::CpuidLeaf;
use crate::abi::sev_features::{Msr, SevStatus};
use crate::cpuid::{self, SVSM_PRESENT};
use crate::host::MonitorOperands;
use crate::insn::{Gpr, Mode, Register, Width};

/// Leaves of the hypervisor: the only ones that it may answer.
const HYPERVISOR_LEAVES: core::ops::RangeInclusive<u32> = 0x4000_0000..=0x4fff_ffff;

/// MSR of the time stamp counter.
const TSC: u32 = 0x10;

/// Bits of DR7 that are not reserved.
const DR7_DEFINED: u64 = 0xffff_23ff;
/// The bit of DR7 that always is one.
const DR7_ONE: u64 = 1 << 10;

/// Low half of a register.
const fn low(gpr: Gpr) -> Register {
    Register::Low(gpr, Width::Dword)
}

fn read_32(context: &VcContext, gpr: Gpr) -> u32 {
    context.registers.gpr(gpr) as u32
}

/// Writes EDX:EAX.
fn write_pair(context: &mut VcContext, value: u64) {
    context.registers.write(low(Gpr::RAX), value);
    context.registers.write(low(Gpr::RDX), value >> 32);
}

pub(super) fn cpuid<E: Events>(context: &mut VcContext, facts: &Facts<'_>, events: &mut E) -> Run<()> {
    let (leaf, sub_leaf) = (read_32(context, Gpr::RAX), read_32(context, Gpr::RCX));
    let [mut eax, ebx, ecx, edx] = match cpuid::answer(&facts.cpuid, leaf, sub_leaf, &context.level_state(facts)) {
        Some(found) => found,
        None if HYPERVISOR_LEAVES.contains(&leaf) => events.hypervisor_cpuid(leaf, sub_leaf)?,
        None => [0; 4],
    };
    if leaf == CpuidLeaf::ENCRYPTION.0 && facts.call_area.is_none() {
        eax &= !SVSM_PRESENT;
    }
    for (gpr, value) in [(Gpr::RAX, eax), (Gpr::RBX, ebx), (Gpr::RCX, ecx), (Gpr::RDX, edx)] {
        context.registers.write(low(gpr), value.into());
    }
    Ok(())
}

/// The MSR in ECX, if it is one to ask the host for.
fn host_msr(context: &VcContext, facts: &Facts<'_>) -> Run<u32> {
    let msr = read_32(context, Gpr::RCX);
    // A secure TSC is the processor's; RDTSC reads it.
    let is_secure_clock =
        facts.sev_status.contains(SevStatus::SECURE_TSC) && [TSC, Msr::GUEST_TSC_FREQ.0].contains(&msr);
    if msr == Msr::SVSM_CAA.0 {
        // Nobody but the SVSM is the one to ask, and there it is memory.
        Err(Exception::GENERAL_PROTECTION.into())
    } else if is_secure_clock || [Msr::GHCB.0, Msr::SEV_STATUS.0].contains(&msr) {
        Err(VcError::ProtectedMsr { msr }.into())
    } else {
        Ok(msr)
    }
}

pub(super) fn rdmsr<E: Events>(context: &mut VcContext, facts: &Facts<'_>, events: &mut E) -> Run<()> {
    let value = match facts.call_area {
        Some(area) if read_32(context, Gpr::RCX) == Msr::SVSM_CAA.0 => area.as_u64(),
        _ => events.read_msr(host_msr(context, facts)?)?,
    };
    write_pair(context, value);
    Ok(())
}

pub(super) fn wrmsr<E: Events>(context: &VcContext, facts: &Facts<'_>, events: &mut E) -> Run<()> {
    let value = u64::from(read_32(context, Gpr::RDX)) << 32 | u64::from(read_32(context, Gpr::RAX));
    Ok(events.write_msr(host_msr(context, facts)?, value)?)
}

pub(super) fn rdtsc<E: Events>(context: &mut VcContext, events: &mut E) -> Run<()> {
    let value = events.rdtsc()?;
    write_pair(context, value);
    Ok(())
}

pub(super) fn rdtscp<E: Events>(context: &mut VcContext, events: &mut E) -> Run<()> {
    let value = events.rdtscp()?;
    write_pair(context, value.tsc);
    context.registers.write(low(Gpr::RCX), value.aux.into());
    Ok(())
}

pub(super) fn rdpmc<E: Events>(context: &mut VcContext, events: &mut E) -> Run<()> {
    let value = events.rdpmc(read_32(context, Gpr::RCX))?;
    write_pair(context, value);
    Ok(())
}

/// The host's copy is not asked for: it could say anything.
pub(super) const fn read_dr7(context: &mut VcContext, into: Gpr) {
    context.registers.set_gpr(into, context.dr7);
}

pub(super) fn write_dr7<E: Events>(context: &mut VcContext, from: Gpr, events: &mut E) -> Run<()> {
    let given = context.registers.gpr(from);
    if context.mode() == Mode::Bits64 && given >> 32 != 0 {
        return Err(Exception::GENERAL_PROTECTION.into());
    }
    let value = given & DR7_DEFINED | DR7_ONE;
    events.write_dr7(value)?;
    context.dr7 = value;
    Ok(())
}

pub(super) fn monitor<E: Events>(context: &VcContext, events: &mut E) -> Run<()> {
    let (ecx, edx) = (read_32(context, Gpr::RCX), read_32(context, Gpr::RDX));
    Ok(events.monitor(MonitorOperands { at: None, rax: context.registers.gpr(Gpr::RAX), ecx, edx })?)
}

pub(super) fn mwait<E: Events>(context: &VcContext, events: &mut E) -> Run<()> {
    Ok(events.mwait(read_32(context, Gpr::RAX), read_32(context, Gpr::RCX))?)
}

pub(super) fn vmmcall<E: Events>(context: &mut VcContext, events: &mut E) -> Run<()> {
    let value = events.vmmcall(context.registers.gpr(Gpr::RAX), context.cpl)?;
    context.registers.set_gpr(Gpr::RAX, value);
    Ok(())
}
