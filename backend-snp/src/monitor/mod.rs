//! The monitor side: the `coco-part-api` traits at VMPL0, over any [`Port`].
//!
//! [`L1`] is one vCPU of L1. It owns what belongs to that vCPU (port, GHCB page, the current VMSA of each guest level) and
//! borrows from [`Shared`] what the vCPUs of L1 have in common (which pages are VMSAs, the message channel to the firmware).
//! [`Setup`] says where things are. There are no globals and no allocation.
//!
//! | file | what |
//! |---|---|
//! | `setup` | [`L1::start`]: own level, features, host, shared pages |
//! | `blocks`, `validate`, `grant` | pages: PVALIDATE, RMPADJUST, page states, exact stops |
//! | `frames` | state frames: who may touch which VMSA |
//! | `gate` | making a VMSA stand still |
//! | `admit`, `own_vcpu` | making VMSAs and taking them back |
//! | `switch`, `exit`, `state`, `trap` | running a level, what it left behind, and completing what it tried |
//! | `attest`, `boot` | evidence, boot pages |
//! | `verbs` | the traits, by L1's own functions of the same names |
//!
//! A VMSA is a page, and it is copied before it is checked: give a vCPU of L1 at least 32 KiB of stack.
//!
//! # Example
//! The first vCPU, with a guest at VMPL 1 that L1 starts and serves:
//!
//! ```
//! use backend_snp::SnpError;
//! use backend_snp::instr::Port;
//! use backend_snp::monitor::{Cut, L1, Setup, Shared};
//! use coco_part_api::{CallRegs, Context, Exit, GuestLevel, GuestMemory, Identify, Source, Terms};
//! use x86_64::structures::paging::PhysFrame;
//!
//! fn boot<P: Port, M: GuestMemory>(
//!     port: P,
//!     setup: Setup<'_, M>,
//!     shared: &Shared<8>,
//!     start: &Context,
//!     [state, call_area]: [PhysFrame; 2],
//! ) -> Result<(), SnpError> {
//!     let mut l1 = L1::start(port, setup, shared)?;
//!     let terms = Terms { level: GuestLevel::ONE, target: l1.vcpu(), call_area };
//!     // The frame was never granted, so there is nothing to flush.
//!     let Ok(proof) = l1.redeem(Cut::default()) else { return Ok(()) };
//!     let seed = l1.admit(state, Source::Context(start), &terms, &proof)?;
//!     l1.install(seed).map_err(|(_, error)| error)?;
//!     loop {
//!         match l1.run(GuestLevel::ONE)? {
//!             Exit::Call(call) => {
//!                 let answer = CallRegs { rax: 0x8000_0001, ..call.regs() };
//!                 l1.answer(call, answer)?;
//!             }
//!             Exit::Shutdown => return Ok(()),
//!             _ => {}
//!         }
//!     }
//! }
//! ```
//!
//! # What the backend does not know
//! Which page belongs to whom is the monitor's ledger (rules M2, M7, V1). The backend refuses what the machine refuses, and
//! what leaves the memory map; it does not protect L1's own pages from the monitor that asks for them.

mod admit;
mod attest;
mod blocks;
mod boot;
mod exit;
mod frames;
mod gate;
mod grant;
mod own_vcpu;
mod setup;
mod shared;
mod state;
mod switch;
#[cfg(test)]
mod tests;
mod trap;
mod validate;
mod verbs;

use core::fmt;
use core::marker::PhantomData;

use coco_part_api::{
    Binding, Capabilities, ErrorType, FlushReach, FrameRange, GuestLevel, GuestMemory, HasMemory, Hierarchy, HostReach,
    Identify, Level, MemoryMap, Rights, Support, VcpuId,
};
use x86_64::structures::paging::PhysFrame;

use crate::abi::sev_features::SevFeatures;
use crate::abi::terminate::TerminateReason;
use crate::error::SnpError;
use crate::host::{Host, HostChannel};
use crate::instr::{Port, Vmpl, VmplPermissions};
use frames::Frames;
use gate::Gate;
use shared::ChannelLock;
use switch::Current;
use trap::Trapped;

pub use admit::Seed;
pub use frames::FRAMES_PER_LEVEL;
pub use grant::{Cut, Flushed};
pub use setup::{Setup, SwitchBy};
pub use shared::Shared;

/// One vCPU of L1. Made by [`L1::start`]; stays on its vCPU.
///
/// ```compile_fail,E0277
/// use backend_snp::instr::Port;
/// use backend_snp::monitor::L1;
/// use coco_part_api::GuestMemory;
///
/// fn crosses<T: Send>() {}
/// fn check<P: Port + Send, M: GuestMemory + Send>() {
///     crosses::<L1<'static, P, M>>();
/// }
/// ```
pub struct L1<'a, P: Port, M: GuestMemory> {
    port: P,
    host: Host<M>,
    switch_by: SwitchBy,
    vcpu: VcpuId,
    map: MemoryMap<'a>,
    /// Private memory (C=1).
    memory: M,
    /// Memory shared with the host (C=0).
    shared_memory: M,
    request: PhysFrame,
    response: PhysFrame,
    levels: &'a [GuestLevel],
    reflect: &'a [GuestLevel],
    secrets: PhysFrame,
    cpuid: PhysFrame,
    /// The masks of the RMP have a bit for supervisor shadow stacks.
    has_shadow_stack_right: bool,
    /// Features of the own level, which are the reference for all VMSAs.
    features: SevFeatures,
    frames: Frames<'a>,
    channel: &'a ChannelLock,
    current: [Option<Current<'a>>; 3],
    /// The instruction of the exit that each level is still at, until it is completed.
    trapped: [Option<Trapped>; 3],
    not_send: PhantomData<*mut ()>,
}

impl<P: Port, M: GuestMemory> L1<'_, P, M> {
    /// The port, for what the integrator does besides: halting and waiting.
    pub fn port(&mut self) -> &mut P {
        &mut self.port
    }

    /// The way to the host, together with the port it needs. To end the VM there is [`terminate`](Self::terminate).
    pub fn host(&mut self) -> (&mut Host<M>, &mut P) {
        (&mut self.host, &mut self.port)
    }

    /// Wipes the key of the message channel and ends the whole VM. Does not come back, whatever the host does.
    pub fn terminate(&mut self, reason: TerminateReason) -> ! {
        attest::close_channel(self);
        self.host.terminate(&mut self.port, reason)
    }

    fn gate(&mut self, frame: PhysFrame) -> Gate<'_, P, M> {
        Gate::new(&mut self.port, &self.memory, frame)
    }

    /// Checks a frame against the memory map (M1).
    fn check_frame(&self, frame: PhysFrame) -> Result<(), SnpError> {
        Ok(self.map.check(FrameRange::of(frame))?)
    }

    /// SEV_FEATURES that a VMSA of a guest level must have.
    fn features_of(&self, level: GuestLevel) -> SevFeatures {
        if self.reflect.contains(&level) { self.features | SevFeatures::REFLECT_VC } else { self.features }
    }
}

impl<P: Port, M: GuestMemory> ErrorType for L1<'_, P, M> {
    type Error = SnpError;
}

impl<P: Port, M: GuestMemory> Identify for L1<'_, P, M> {
    /// Always the monitor's: [`L1::start`] has proved it.
    fn level(&self) -> Level {
        Level::Monitor
    }

    fn vcpu(&self) -> VcpuId {
        self.vcpu
    }

    fn capabilities(&self) -> Capabilities {
        let in_use = |level: &&GuestLevel| self.levels.contains(level);
        Capabilities {
            hierarchy: Hierarchy::Ordered,
            // At most three.
            guest_levels: GuestLevel::ALL.iter().filter(in_use).count() as u8,
            host_reach: HostReach::Direct,
            rescind_unassigned: Support::Yes,
            flush: FlushReach::AllVcpus,
            binding: Binding::Hardware,
            inject: Support::No,
        }
    }
}

impl<P: Port, M: GuestMemory> HasMemory for L1<'_, P, M> {
    type Memory = M;

    fn memory(&self) -> M {
        self.memory.clone()
    }
}

impl<P: Port, M: GuestMemory> fmt::Debug for L1<'_, P, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("L1")
            .field("vcpu", &self.vcpu)
            .field("features", &self.features)
            .field("levels", &self.levels)
            .field("current", &self.current)
            .finish_non_exhaustive()
    }
}

/// The VMPL of a guest level.
const fn vmpl(level: GuestLevel) -> Vmpl {
    match level.number() {
        1 => Vmpl::VMPL1,
        2 => Vmpl::VMPL2,
        _ => Vmpl::VMPL3,
    }
}

/// Rights as a mask of the RMP, bit by bit.
#[inline]
const fn permissions(rights: Rights) -> VmplPermissions {
    VmplPermissions::from_bits_retain(rights.bits())
}

const _: () = assert!(permissions(Rights::READ).bits() == VmplPermissions::READ.bits());
const _: () = assert!(permissions(Rights::WRITE).bits() == VmplPermissions::WRITE.bits());
const _: () = assert!(permissions(Rights::EXECUTE_USER).bits() == VmplPermissions::EXECUTE_USER.bits());
const _: () = assert!(permissions(Rights::EXECUTE_SUPERVISOR).bits() == VmplPermissions::EXECUTE_SUPERVISOR.bits());
const _: () = assert!(permissions(Rights::SHADOW_STACK).bits() == VmplPermissions::SUPERVISOR_SHADOW_STACK.bits());
