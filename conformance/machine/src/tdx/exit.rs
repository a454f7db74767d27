//! Exits: to the host as the host sees them, and of an L2 to L1.

use alloc::boxed::Box;

use super::Regs;
use super::guest_state::{GuestState, gpr};
use super::status;
use super::vcpu::{Finish, Guest};
use super::vmcs::field;

/// Why the vCPU left the TD, as the host sees it. `level` is 0 for L1, else the VM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TdExit {
    /// TDG.VP.VMCALL with the registers that the mask in RCX shows; the others are 0.
    Vmcall {
        /// Who called.
        level: u8,
        /// What it shows.
        regs: Box<Regs>,
    },
    /// An access or a leaf found no usable secure EPT entry, or one of the wrong size.
    EptViolation {
        /// Who ran.
        level: u8,
        /// Address with the shared bit.
        gpa: u64,
        /// What for.
        cause: EptCause,
    },
    /// An interrupt, or another event that is the host's: nothing has happened in the guest.
    Interrupt {
        /// Who ran.
        level: u8,
    },
    /// L1 had an exception that it cannot take.
    TripleFault,
    /// The program of L1 ended.
    Ended,
}

/// What an EPT violation was about (extended exit qualification).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EptCause {
    /// A read.
    Read,
    /// A write.
    Write,
    /// An instruction fetch.
    Fetch,
    /// PAGE.ACCEPT of a page of this level.
    Accept {
        /// 0 for 4 KiB, 1 for 2 MiB.
        level: u8,
    },
    /// PAGE.ATTR.RD.
    AttrRead,
    /// PAGE.ATTR.WR of a page of this level.
    AttrWrite {
        /// 0 for 4 KiB, 1 for 2 MiB, 2 for 1 GiB.
        level: u8,
    },
    /// PAGE.ATTR.WR needs a table page of a VM.
    Table {
        /// VM.
        vm: u8,
        /// Level of the missing table.
        level: u8,
    },
    /// Memory that a leaf takes as an operand.
    Operand,
}

/// An exit of an L2 on its way to L1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct L2Exit {
    /// Upper half of RAX.
    pub(crate) status: u64,
    pub(crate) reason: u32,
    pub(crate) qualification: u64,
    pub(crate) gla: u64,
    pub(crate) gpa: u64,
    /// R9: interruption information and error code.
    pub(crate) event: u64,
    /// R11: instruction information.
    pub(crate) info: u32,
    /// R11: instruction length as L1 is told.
    pub(crate) length: u32,
    pub(crate) cpl: u8,
    /// R13: type of the extended qualification.
    pub(crate) extended: u8,
    pub(crate) finish: Finish,
    /// Bytes to the next instruction, if L1 can complete this one.
    pub(crate) advance: Option<u64>,
    /// The instruction has retired.
    pub(crate) retired: bool,
}

impl L2Exit {
    /// An exit that L1 cannot complete.
    pub(crate) const fn of(reason: u32) -> Self {
        Self {
            status: status::SUCCESS,
            reason,
            qualification: 0,
            gla: 0,
            gpa: 0,
            event: 0,
            info: 0,
            length: 0,
            cpl: 0,
            extended: 0,
            finish: Finish::Nothing,
            advance: None,
            retired: false,
        }
    }

    /// An exit of an instruction of so many bytes that L1 is to emulate.
    pub(crate) const fn instruction(reason: u32, length: u32, finish: Finish) -> Self {
        Self { length, finish, advance: Some(length as u64), ..Self::of(reason) }
    }
}

/// Bytes that RIP moves over when L1 emulates a memory access. It has no instruction to decode.
pub(crate) const MEMORY_LENGTH: u64 = 3;
/// Exit qualification of an EPT violation: the linear address is valid, and the access was to the final page.
pub(crate) const GLA_VALID: u64 = 1 << 7 | 1 << 8;

pub(crate) fn access_bits(cause: EptCause) -> u64 {
    match cause {
        EptCause::Write => 1 << 1,
        EptCause::Fetch => 1 << 2,
        _ => 1 << 0,
    }
}

/// The exit in the exit information of the VMCS, and the registers of the page in its guest state.
pub(crate) fn record_exit(guest: &mut Guest, exit: &L2Exit) {
    let GuestState { gpr: general, rflags, rip, ssp, rvi, svi } = guest.state;
    let values = [
        (field::EXIT_REASON, u64::from(exit.reason)),
        (field::EXIT_QUALIFICATION, exit.qualification),
        (field::GUEST_LINEAR_ADDRESS, exit.gla),
        (field::GUEST_PHYSICAL_ADDRESS, exit.gpa),
        (field::EXIT_INTERRUPTION, exit.event & 0xffff_ffff),
        (field::EXIT_INTERRUPTION_ERROR, exit.event >> 32),
        (field::EXIT_LENGTH, u64::from(exit.length)),
        (field::EXIT_INSTRUCTION_INFO, u64::from(exit.info)),
        (field::RSP, general[gpr::RSP]),
        (field::RIP, rip),
        (field::RFLAGS, rflags),
        (field::SSP, ssp),
        (field::INTERRUPT_STATUS, u64::from(u16::from_le_bytes([rvi, svi]))),
    ];
    values.into_iter().for_each(|(encoding, value)| guest.vmcs.set(encoding, value));
}

/// What L1 finds in its registers (l2_vp_enter.csv, `exit_output`).
pub(crate) fn exit_regs(guest: &Guest, exit: &L2Exit) -> Regs {
    let vmcs = |encoding| guest.vmcs.get(encoding);
    Regs {
        rax: exit.status | u64::from(exit.reason),
        rbx: 0,
        rcx: exit.qualification,
        rdx: exit.gla,
        // The module leaves the L2's value (TDX-19).
        rbp: guest.state.gpr[gpr::RBP],
        rsi: vmcs(field::CS_SELECTOR) | (vmcs(field::CS_RIGHTS) & 0xffff) << 16 | vmcs(field::CS_LIMIT) << 32,
        rdi: vmcs(field::CS_BASE),
        r8: exit.gpa,
        r9: exit.event,
        r10: 0,
        r11: u64::from(exit.info) | u64::from(exit.length) << 32,
        r12: u64::from(exit.cpl & 3),
        r13: u64::from(exit.extended),
        r14: 0,
        r15: 0,
    }
}
