//! What an error code is for, and who may execute what.

use super::context::{Facts, VcContext};
use super::error::VcError;
use super::stop::{Exception, Run};
use crate::abi::exit_codes::ExitCode;
use crate::abi::sev_features::SevStatus;
use crate::insn::{LinearAddr, Operation};

/// Deals with error codes that no instruction has to be looked at for.
pub(super) fn without_instruction(context: &VcContext, code: ExitCode, facts: &Facts<'_>) -> Run<()> {
    match code {
        ExitCode::PAGE_NOT_VALIDATED => Err(VcError::PageNotValidated { at: LinearAddr::new(context.cr2) }.into()),
        ExitCode::NOT_RESTARTABLE => Err(VcError::NotRestartable.into()),
        // The processor switches the debug registers and delivers #DB itself.
        ExitCode::DB if facts.sev_status.contains(SevStatus::DEBUG_VIRTUALIZATION) => {
            Err(VcError::FalseExit { rip: context.registers.rip }.into())
        }
        ExitCode::DB => Err(Exception::DEBUG.into()),
        ExitCode::AC if context.checks_alignment() => Err(Exception::ALIGNMENT_CHECK.into()),
        ExitCode::AC => Err(VcError::FalseExit { rip: context.registers.rip }.into()),
        _ => Ok(()),
    }
}

/// Whether some instruction is handled under an error code.
pub(super) const fn is_handled(code: ExitCode) -> bool {
    matches!(
        code,
        ExitCode::DR7_READ
            | ExitCode::DR7_WRITE
            | ExitCode::RDTSC
            | ExitCode::RDPMC
            | ExitCode::CPUID
            | ExitCode::IOIO
            | ExitCode::MSR
            | ExitCode::VMMCALL
            | ExitCode::RDTSCP
            | ExitCode::WBINVD
            | ExitCode::MONITOR
            | ExitCode::MWAIT
            | ExitCode::MWAIT_CONDITIONAL
            | ExitCode::NPF
    )
}

/// Compares the error code with the instruction, and both with what the host cannot intercept.
pub(super) fn exit_code(context: &VcContext, code: ExitCode, operation: &Operation, facts: &Facts<'_>) -> Run<()> {
    let fits = match operation {
        Operation::ReadDebug { number: 7, .. } => code == ExitCode::DR7_READ,
        Operation::WriteDebug { number: 7, .. } => code == ExitCode::DR7_WRITE,
        Operation::Rdtsc => code == ExitCode::RDTSC,
        Operation::Rdtscp => code == ExitCode::RDTSCP,
        Operation::Rdpmc => code == ExitCode::RDPMC,
        Operation::Cpuid => code == ExitCode::CPUID,
        Operation::In { .. } | Operation::Out { .. } | Operation::Ins { .. } | Operation::Outs { .. } => {
            code == ExitCode::IOIO
        }
        Operation::Rdmsr | Operation::Wrmsr => code == ExitCode::MSR,
        Operation::Vmmcall => code == ExitCode::VMMCALL,
        Operation::Wbinvd | Operation::Wbnoinvd => code == ExitCode::WBINVD,
        Operation::Monitor | Operation::Monitorx => code == ExitCode::MONITOR,
        Operation::Mwait | Operation::Mwaitx => matches!(code, ExitCode::MWAIT | ExitCode::MWAIT_CONDITIONAL),
        Operation::Load { .. } | Operation::Store { .. } | Operation::Movs { .. } | Operation::Stos { .. } => {
            code == ExitCode::NPF
        }
        _ => false,
    };
    let protected = match operation {
        Operation::ReadDebug { .. } | Operation::WriteDebug { .. } => SevStatus::DEBUG_VIRTUALIZATION,
        Operation::Rdtsc | Operation::Rdtscp => SevStatus::SECURE_TSC,
        _ => SevStatus::empty(),
    };
    if !fits || facts.sev_status.intersects(protected) {
        return Err(VcError::FalseExit { rip: context.registers.rip }.into());
    }
    Ok(())
}

/// Checks the privilege that an instruction needs.
pub(super) fn privilege(context: &VcContext, operation: &Operation) -> Run<()> {
    let allowed = match operation {
        Operation::Rdmsr
        | Operation::Wrmsr
        | Operation::Wbinvd
        | Operation::Wbnoinvd
        | Operation::ReadDebug { .. }
        | Operation::WriteDebug { .. } => context.cpl == 0,
        Operation::Monitor | Operation::Mwait if context.cpl != 0 => return Err(Exception::INVALID_OPCODE.into()),
        Operation::Rdtsc | Operation::Rdtscp => context.has_tsc(),
        Operation::Rdpmc => context.has_counters(),
        Operation::In { .. } | Operation::Out { .. } | Operation::Ins { .. } | Operation::Outs { .. } => {
            context.has_ports()
        }
        Operation::Load { .. } | Operation::Store { .. } | Operation::Movs { .. } | Operation::Stos { .. } => {
            return match context.cpl {
                0 => Ok(()),
                _ => Err(VcError::UserDevice { rip: context.registers.rip }.into()),
            };
        }
        _ => true,
    };
    if allowed { Ok(()) } else { Err(Exception::GENERAL_PROTECTION.into()) }
}
