//! What is kept per vCPU and per L2 program.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use super::exit::{L2Exit, TdExit};
use super::guest_state::{GuestState, gpr};
use super::tlb::Tlb;
use super::vmcs::Vmcs;
use super::{Answer, CallRegs, Entry, Fault, Regs, Resume, RunKey, Unswitched};

/// The instruction that exits stands so far behind the begin of a program.
const BODY: u64 = 0x10;

/// #VE information (ve_info.csv).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct VeInfo {
    pub(crate) reason: u32,
    pub(crate) qualification: u64,
    pub(crate) gla: u64,
    pub(crate) gpa: u64,
    pub(crate) length: u32,
}

/// Who has a vCPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Now {
    /// The host. `None` before the first run.
    Host(Option<TdExit>),
    /// A program, as soon as it is told.
    Switching(Entry),
    /// A program.
    Running(RunKey),
}

/// A VP.ENTER that has not returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Inside {
    pub(crate) vm: u8,
    /// Register page.
    pub(crate) page: u64,
}

/// A TDVMCALL under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HostCall {
    pub(crate) level: u8,
    /// All registers of the caller.
    pub(crate) regs: Regs,
}

/// A vCPU, which is a processor too.
#[derive(Clone, Debug)]
pub(crate) struct VcpuState {
    pub(crate) now: Now,
    pub(crate) unswitched: Box<Unswitched>,
    pub(crate) ve: Option<VeInfo>,
    /// How L1 goes on when it is entered.
    pub(crate) l1: Resume,
    pub(crate) inside: Option<Inside>,
    /// An exit to L1 that could not store its registers yet.
    pub(crate) unstored: Option<L2Exit>,
    pub(crate) call: Option<HostCall>,
    /// An interrupt waits for L1.
    pub(crate) posted: bool,
    /// L1 serves a VMCALL of an L2.
    pub(crate) serving: bool,
    pub(crate) guests: [Guest; 3],
    /// TDVPS fields by class and code that are plain values: L2_CTLS, TSC_DEADLINE, CPUID controls.
    pub(crate) fields: BTreeMap<(u8, u32), u64>,
}

impl Default for VcpuState {
    fn default() -> Self {
        Self {
            now: Now::Host(None),
            unswitched: Box::default(),
            ve: None,
            l1: Resume::Retry,
            inside: None,
            unstored: None,
            call: None,
            posted: false,
            serving: false,
            guests: Default::default(),
            fields: BTreeMap::new(),
        }
    }
}

/// What a vCPU keeps for one L2 VM.
#[derive(Clone, Debug)]
pub(crate) struct Guest {
    pub(crate) vmcs: Vmcs,
    /// The virtual-APIC address was written.
    pub(crate) has_vapic: bool,
    /// Words of the MSR bitmaps that are not all ones.
    pub(crate) msr_bitmap: BTreeMap<u16, u64>,
    pub(crate) tlb: Tlb,
    /// Registers of the register page, while it runs.
    pub(crate) state: GuestState,
    pub(crate) program: Option<Program>,
    pub(crate) generations: u64,
    /// How it goes on after a TD exit.
    pub(crate) resume: Resume,
    /// An injected exception that its next operation raises.
    pub(crate) inject: Option<Fault>,
    pub(crate) delivered: Vec<u32>,
}

impl Default for Guest {
    fn default() -> Self {
        Self {
            vmcs: Vmcs::default(),
            has_vapic: false,
            msr_bitmap: BTreeMap::new(),
            tlb: Tlb::default(),
            state: GuestState::default(),
            program: None,
            generations: 0,
            resume: Resume::Retry,
            inject: None,
            delivered: Vec::new(),
        }
    }
}

/// A program of an L2.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Program {
    /// RIP of the instruction that exits.
    pub(crate) rip: u64,
    pub(crate) ended: bool,
    /// RIP that executes it again; `None` when it has retired.
    pub(crate) retry: Option<u64>,
    /// RIP behind it, if it can be completed by L1.
    pub(crate) done: Option<u64>,
    pub(crate) finish: Finish,
}

impl Program {
    pub(crate) fn at(rip: u64) -> Self {
        Self { rip: rip.wrapping_add(BODY), ended: false, retry: None, done: None, finish: Finish::Nothing }
    }
}

/// How an operation that exited to L1 completes when RIP stands behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Finish {
    Nothing,
    Call,
    Cpuid,
    /// EDX:EAX.
    Msr,
    /// So many bytes of RAX, as a value.
    Port(u8),
    /// So many bytes of RAX, as bytes.
    Load(usize),
    /// RAX.
    Value,
    Regs,
}

impl Finish {
    pub(crate) fn answer(self, state: &GuestState) -> Answer {
        let [rax, rcx, rdx, rbx, ..] = state.gpr;
        match self {
            Self::Nothing => Answer::None,
            Self::Call => {
                let (r8, r9) = (state.gpr[gpr::R8], state.gpr[gpr::R9]);
                Answer::Call(CallRegs { rax, rcx, rdx, r8, r9 })
            }
            Self::Cpuid => Answer::Cpuid([rax as u32, rbx as u32, rcx as u32, rdx as u32]),
            Self::Msr => Answer::Value(rdx << 32 | rax & 0xffff_ffff),
            Self::Port(size) => Answer::Value(rax & (u64::MAX >> (64 - 8 * u32::from(size.clamp(1, 4))))),
            Self::Load(len) => {
                let mut bytes = alloc::vec![0; len];
                bytes.iter_mut().zip(rax.to_le_bytes()).for_each(|(slot, byte)| *slot = byte);
                Answer::Bytes(bytes)
            }
            Self::Value => Answer::Value(rax),
            Self::Regs => Answer::Regs(state.regs()),
        }
    }
}
