//! What an exit of an L2 means (fact tables `l2_vp_enter`, `vmx_exit_reasons`).

use coco_part_api::{Access, CallRegs, Direction, Exit, FaultCause, MemoryFault, MsrAccess, PortAccess};
use x86_64::PhysAddr;

use crate::abi::exit_reason::{EptQualification, ExitReason, IoQualification};
use crate::abi::guest_state::{EnterGuestState, gpr};
use crate::abi::status::Status;
use crate::abi::vp_enter::ExitInfo;

/// How TDG.VP.ENTER ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The level ran and left by itself.
    Left,
    /// The level ran, and the host resumed L1.
    HostResumed,
    /// The level ran until L1 had an interrupt to take.
    Interrupted,
    /// The level did not run: L1 has an interrupt to take first.
    NotEntered,
    /// The level did not run: its state is none that a processor takes.
    CannotEnter,
    /// The module refused, or said what VP.ENTER does not say. Nothing else in the registers counts.
    Refused(Status),
}

impl Outcome {
    /// Reads the status; the set that is accepted is exact.
    pub(super) fn of(info: &ExitInfo) -> Self {
        let status = info.status();
        match status.name() {
            Status::PENDING_INTERRUPT => Self::NotEntered,
            Status::L2_VM_ENTRY_FAILED => Self::CannotEnter,
            Status::SUCCESS if info.entry_failed() => Self::CannotEnter,
            Status::SUCCESS => Self::Left,
            Status::L2_EXIT_HOST_ROUTED_ASYNC if !info.entry_failed() => Self::HostResumed,
            Status::L2_EXIT_HOST_ROUTED_TDVMCALL if info.reason() == ExitReason::TDCALL => Self::HostResumed,
            Status::L2_EXIT_PENDING_INTERRUPT => Self::Interrupted,
            _ => Self::Refused(status),
        }
    }

    /// The level was really entered, so what was asked to be invalidated is gone (TDX-35).
    pub(super) const fn entered(self) -> bool {
        matches!(self, Self::Left | Self::HostResumed | Self::Interrupted)
    }
}

/// What L1 makes of an exit of the level itself.
#[derive(Debug)]
pub(super) enum Decoded {
    /// To be reported as it is.
    Report(Exit),
    /// VMCALL at CPL 0: a call to L1.
    Call,
    /// TDCALL at CPL 0.
    HostCall,
    /// HLT.
    Halt,
    /// VMCALL or TDCALL at CPL 3: user code has no business with L1.
    UserCall,
}

/// Decodes an exit that the level made, from registers that the module filled and the level's own registers.
pub(super) fn decode(info: &ExitInfo, state: &EnterGuestState) -> Decoded {
    let [rax, rcx, rdx, ..] = state.gpr;
    let report = match info.reason() {
        ExitReason::VMCALL if info.cpl() == 0 => return Decoded::Call,
        ExitReason::TDCALL if info.cpl() == 0 => return Decoded::HostCall,
        ExitReason::VMCALL | ExitReason::TDCALL => return Decoded::UserCall,
        ExitReason::HLT => return Decoded::Halt,
        ExitReason::CPUID => Exit::Cpuid { leaf: rax as u32, subleaf: rcx as u32 },
        ExitReason::RDMSR => Exit::Msr(MsrAccess::Read { msr: rcx as u32 }),
        ExitReason::WRMSR => Exit::Msr(MsrAccess::Write { msr: rcx as u32, value: rdx << 32 | rax & 0xffff_ffff }),
        ExitReason::IO_INSTRUCTION => port_access(info, rax).map_or(other(info), Exit::Port),
        ExitReason::EPT_VIOLATION => {
            let cause = match info.extended_type() {
                ExitInfo::PENDING_EPT_VIOLATION => FaultCause::NotValidated,
                _ => FaultCause::NoRight,
            };
            memory_fault(info, cause).map_or(other(info), Exit::Memory)
        }
        ExitReason::TRIPLE_FAULT => Exit::Shutdown,
        _ => other(info),
    };
    Decoded::Report(report)
}

/// What a return means that the host brought about. The host chooses the moment; the exit is still the module's word.
pub(super) fn decode_host_resumed(info: &ExitInfo) -> Exit {
    // A touch of memory that the host has not mapped, or of a shared address, goes to the host first (TDX-28).
    let fault = match info.reason() {
        ExitReason::EPT_VIOLATION => memory_fault(info, FaultCause::NotMapped),
        _ => None,
    };
    fault.map_or(Exit::Spurious, Exit::Memory)
}

fn other(info: &ExitInfo) -> Exit {
    Exit::Other { code: info.reason().0.into() }
}

fn port_access(info: &ExitInfo, rax: u64) -> Option<PortAccess> {
    let io = IoQualification(info.qualification());
    let size = io.size().filter(|_| !io.is_string())?;
    let (direction, value) = match (io.is_in(), size) {
        (true, _) => (Direction::In, 0),
        (false, 1) => (Direction::Out, rax as u32 & 0xff),
        (false, 2) => (Direction::Out, rax as u32 & 0xffff),
        (false, _) => (Direction::Out, rax as u32),
    };
    Some(PortAccess { port: io.port(), size, direction, value })
}

fn memory_fault(info: &ExitInfo, cause: FaultCause) -> Option<MemoryFault> {
    let at = PhysAddr::try_new(info.gpa()).ok()?;
    let how = EptQualification(info.qualification());
    let access = match (how.is_fetch(), how.is_write()) {
        (true, _) => Access::Execute,
        (false, true) => Access::Write,
        (false, false) => Access::Read,
    };
    Some(MemoryFault { at, access, cause })
}

/// The registers of a call.
pub(super) const fn call_regs(state: &EnterGuestState) -> CallRegs {
    let gpr = &state.gpr;
    CallRegs { rax: gpr[gpr::RAX], rcx: gpr[gpr::RCX], rdx: gpr[gpr::RDX], r8: gpr[gpr::R8], r9: gpr[gpr::R9] }
}

/// Puts the registers of an answer in their places and no other (S2).
pub(super) const fn set_call_regs(state: &mut EnterGuestState, regs: CallRegs) {
    state.gpr[gpr::RAX] = regs.rax;
    state.gpr[gpr::RCX] = regs.rcx;
    state.gpr[gpr::RDX] = regs.rdx;
    state.gpr[gpr::R8] = regs.r8;
    state.gpr[gpr::R9] = regs.r9;
}
