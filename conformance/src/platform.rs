//! A backend on a machine: what the suite is generic over.
//!
//! # For backend authors
//! Implement [`Platform`] and run [`suite::run`](crate::suite::run()) on it; `examples/outside_backend.rs` does so in a few
//! lines. The machine must record every instruction, refuse what the architecture refuses, and have a host that can lie.

use coco_part_api::{
    AdmitVcpu, Error, ErrorType, FrameRange, GuestLevel, GuestPort, GuestState, Monitor, NewVcpu, VcpuId,
};

use crate::runner::{Cpu, Model};
use crate::suite::Case;
use crate::world::{BootMonitor, Options};

/// A backend, its machine, and how programs of both sides get their backend objects.
pub trait Platform: Sized + 'static {
    /// The machine.
    type Model: Model;
    /// How its host may behave.
    type Host: Clone + Default + Sync + 'static;
    /// Error of both sides of the backend.
    type Error: Error;
    /// What crosses vCPUs when one is created.
    type Seed: Send + 'static;
    /// What L1's vCPUs share in the backend.
    type Shared: 'static;
    /// L1's side on one vCPU.
    type Monitor<'y>: Monitor + GuestState + AdmitVcpu<Seed = Self::Seed> + ErrorType<Error = Self::Error>;
    /// A guest's side on one vCPU.
    type Guest<'y>: GuestPort + ErrorType<Error = Self::Error>;

    /// Column of the matrix.
    const NAME: &'static str;

    /// Variants of the machine between which the sources leave the choice; every case runs on each.
    const VARIANTS: &'static [&'static str];

    /// State that this vendor's switch leaves in the processor and that every level can write, so that the backend has to save
    /// it (rule S4); `None` where the machine switches everything.
    const UNSWITCHED: Option<Unswitched<Self::Model>> = None;

    /// What this vendor's machines have and others lack.
    const PROPERTIES: &'static [Property];

    /// A machine with the VM launched as [`layout`](crate::world::layout) says.
    fn launch(options: &Options<Self>) -> Self::Model;

    /// Storage that L1's vCPUs share.
    fn shared(options: &Options<Self>) -> Self::Shared;

    /// L1's side on the vCPU of `cpu`.
    ///
    /// # Errors
    /// The backend does not start on this machine or under this host.
    fn monitor<'y>(
        cpu: Cpu<'y, Self::Model>,
        shared: &'y Self::Shared,
        home: &'y Home<Self>,
    ) -> Result<Self::Monitor<'y>, Self::Error>;

    /// A guest's side on the vCPU of `cpu`.
    ///
    /// # Errors
    /// As [`monitor`](Self::monitor).
    fn guest<'y>(cpu: Cpu<'y, Self::Model>, home: &'y Home<Self>) -> Result<Self::Guest<'y>, Self::Error>;

    /// A guest's side that asks nothing of L1 yet, for monitors that serve a single call.
    ///
    /// # Errors
    /// As [`monitor`](Self::monitor).
    fn early_guest<'y>(cpu: Cpu<'y, Self::Model>, home: &'y Home<Self>) -> Result<Self::Guest<'y>, Self::Error> {
        Self::guest(cpu, home)
    }

    /// Has a vCPU of L1 started by the monitor, where L1 makes its own vCPUs. Where the host starts them with the VM there is
    /// nothing to do; they begin at [`ENTRY_SECONDARY`](crate::world::layout::ENTRY_SECONDARY) then.
    ///
    /// # Errors
    /// What the monitor says.
    fn start_secondary(monitor: &mut BootMonitor<'_, '_, Self>, new: NewVcpu<'_>) -> Result<(), String>;

    /// Whether a line of [`Model::diff`] is about what changes whenever a vCPU runs: its state, and pages that L1 runs it
    /// with. No part of "state as before".
    fn changes_by_running(line: &str) -> bool;

    /// Executes an instruction as a program does that knows nothing of the vendor.
    ///
    /// # Errors
    /// An exception other than #GP, or an answer of another instruction.
    fn plain(cpu: Cpu<'_, Self::Model>, instruction: Plain) -> Result<Found, String>;

    /// Makes L1 of another vCPU run soon: an interrupt, where the machine needs one.
    fn kick(cpu: Cpu<'_, Self::Model>, who: VcpuId);

    /// Lets other vCPUs step.
    fn pause(cpu: Cpu<'_, Self::Model>);

    /// Waits as long as the host likes.
    fn idle(cpu: Cpu<'_, Self::Model>);

    /// A host that breaks one rule every vendor's host can break; `None` where this vendor's cannot.
    fn liar(liar: Liar) -> Option<Self::Host>;

    /// Cases that only this vendor's machine can run.
    fn own_cases() -> Vec<Case<Self>>;

    /// Deliberate defects of backend or machine: name, what it is a defect of, and the options that have it.
    fn mutants() -> Vec<Mutant<Self>>;
}

/// An instruction that is the same on every processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plain {
    /// CPUID.
    Cpuid {
        /// EAX.
        leaf: u32,
        /// ECX.
        subleaf: u32,
    },
    /// RDMSR.
    ReadMsr(u32),
    /// WRMSR.
    WriteMsr(u32, u64),
    /// IN.
    In {
        /// Port.
        port: u16,
        /// Bytes.
        size: u8,
    },
    /// OUT.
    Out {
        /// Port.
        port: u16,
        /// Bytes.
        size: u8,
        /// EAX.
        value: u32,
    },
    /// HLT.
    Halt,
    /// A load of 8 bytes of private memory.
    Load {
        /// Where.
        at: u64,
    },
}

/// What an instruction left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// Nothing but that it is over.
    Nothing,
    /// EAX, EBX, ECX, EDX.
    Cpuid([u32; 4]),
    /// A value: of a register, of as many bytes as were read from a port, of memory.
    Value(u64),
    /// #GP.
    GeneralProtection,
}

impl Found {
    /// The word that a load found.
    pub fn word(bytes: &[u8]) -> Self {
        Self::Value(bytes.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes)))
    }
}

/// What some vendors' machines have and others lack. A case that needs one is not applicable without it, by the table of
/// exceptions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Property {
    /// That a call waits is told by a mark in memory which the guest's other vCPUs can change.
    MarkTellsCall,
    /// A guest has the host start and stop its vCPUs. Elsewhere a vCPU runs when L1 has it, until it halts.
    GuestStartsVcpus,
    /// A vCPU that runs a guest does so until that leaves by itself, whoever kicks it.
    RunsThroughKick,
    /// An instruction of L1 on memory that the host holds comes back with an error, and never ends in the host's hands.
    MissingIsTold,
    /// The hardware signs the level into the evidence, so that L1 speaks the published attestation protocol.
    LevelIsSigned,
}

/// How a program of any level reads and writes the state that a switch leaves in the processor.
#[derive(Debug)]
pub struct Unswitched<M: Model> {
    /// All of it, a word per register.
    pub read: fn(Cpu<'_, M>) -> Vec<u64>,
    /// Puts this word into every register.
    pub write: fn(Cpu<'_, M>, u64),
}

impl<M: Model> Clone for Unswitched<M> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<M: Model> Copy for Unswitched<M> {}

/// What programs know about the VM they run in.
#[derive(Clone, Debug)]
pub struct Home<P: Platform> {
    /// All RAM: L1's and the guest's.
    pub ram: Vec<FrameRange>,
    /// The guest's RAM alone.
    pub guest_ram: Vec<FrameRange>,
    /// Guest levels in use.
    pub levels: Vec<GuestLevel>,
    /// How the world was made.
    pub options: Options<P>,
}

/// Hosts that break one rule, by what the rule is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Liar {
    /// Never runs a lower level, but says that it did.
    NeverSwitches,
    /// Says to a caller that L1 has answered, without running L1.
    FakesCompletion,
    /// Comes back to L1 several times for one call.
    SwitchesAgain,
    /// Comes back to L1 without a call.
    ReturnsForNothing,
    /// Runs another level than the one asked for.
    WrongLevel,
    /// Says that a page state is agreed and does nothing.
    PageStateNothing,
    /// Does a page state change and then rewrites its list.
    PageStateEdits,
    /// Puts other memory under a private page.
    SwapsPage {
        /// The page.
        at: u64,
    },
    /// As [`SwapsPage`](Self::SwapsPage), once the guest has run for a while.
    SwapsPageLate {
        /// The page.
        at: u64,
        /// Steps of all programs before it happens.
        steps: u64,
    },
    /// Moves the memory of one private page under another address.
    MovesPage {
        /// Whose memory.
        from: u64,
        /// Where it shows up.
        to: u64,
    },
    /// Delivers an old answer of the firmware.
    ReplaysMessage,
    /// Changes an answer of the firmware.
    CorruptsMessage,
    /// Keeps a request to the firmware to itself and says that it failed.
    LosesRequest,
    /// Keeps an answer of the firmware to itself and says that the request failed.
    LosesAnswer,
    /// Says that the firmware is busy.
    SaysBusy {
        /// So many times.
        times: u64,
    },
    /// Lies about features.
    Features,
    /// Withholds every wake-up.
    WithholdsKick,
}

/// A deliberate defect.
pub struct Mutant<P: Platform> {
    /// Name.
    pub name: &'static str,
    /// What it is a defect of: `backend`, `monitor`, or a rule of the machine by its id.
    pub of: &'static str,
    /// Options of a world that has it.
    pub options: Options<P>,
}
