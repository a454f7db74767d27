#![doc = include_str!("../README.md")]
//! ```
#![doc = include_str!("../docs/monitor.rs")]
//! ```
#![no_std]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate std;

pub mod attest;
pub mod context;
pub mod contract;
pub mod error;
pub mod identify;
pub mod level;
pub mod memory;
pub mod platform;
pub mod port;
pub mod range;
pub mod rights;
pub mod svsm;
pub mod switch;
pub mod trap;
pub mod validate;
pub mod vcpu;

pub use attest::{Attest, AttestFor, DataForm, Evidence, REPORT_DATA, report_data};
pub use context::{Context, Segment};
pub use error::{Blame, Error, ErrorKind, ErrorType, Stopped};
pub use identify::{Binding, Capabilities, FlushReach, Hierarchy, HostReach, Identify, Support};
pub use level::{GuestLevel, Level, NoSuchLevel, VcpuId};
pub use memory::{GuestMemory, HasMemory};
pub use platform::{BootGuest, BootInfo, BootPage, Processor};
pub use port::{GuestPort, HostState};
pub use range::{Block, FrameRange, MemoryMap, PageSize, RangeError};
pub use rights::{Grants, Rights};
pub use switch::{
    Access, CallMonitor, CallRegs, Direction, Exit, FaultCause, MemoryFault, MsrAccess, PendingCall, PortAccess,
    RunLevel,
};
pub use trap::{Completion, Emulate, Trap};
pub use validate::{After, Grant, NotYet, Origin, Validate};
pub use vcpu::{AdmitVcpu, CreateVcpu, Event, GuestState, NewVcpu, Source, Terms};

/// Everything L1 has of a backend: the own-level verbs, those for the levels below, and memory.
pub trait Monitor: Identify + Attest + AdmitVcpu + RunLevel + GuestState + AttestFor + BootGuest + HasMemory {}

impl<T: Identify + Attest + AdmitVcpu + RunLevel + GuestState + AttestFor + BootGuest + HasMemory> Monitor for T {}

/// What a part can do for its own level on both sides of every vendor. Code over it runs at L1 and below.
pub trait OwnLevel: Identify + Validate + Attest {}

impl<T: Identify + Validate + Attest> OwnLevel for T {}

/// Everything a guest has. L1 has it too where it makes its own vCPUs; elsewhere the host starts them with the VM.
pub trait Guest: OwnLevel + CreateVcpu {}

impl<T: OwnLevel + CreateVcpu> Guest for T {}
