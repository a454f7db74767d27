//! L1's side: the traits of the monitor over a [`Port`].
//!
//! One object per vCPU; they share one [`Shared`]. What differs by verb is in one file each: `memory` (validate and
//! grant), `host` (the host's part of it), `admit` with `admission` and `vmcs` (vCPUs), `run` with `exit` (the switch),
//! `state` (registers of a stopped level), `attest`.

mod admission;
mod admit;
mod attest;
mod call;
mod exit;
mod host;
mod memory;
mod run;
mod state;
mod vmcs;

#[cfg(test)]
mod tests;

use core::marker::PhantomData;

use coco_part_api::level::GUEST_LEVELS;
use coco_part_api::{
    Binding, BootGuest, BootInfo, BootPage, Capabilities, ErrorType, FlushReach, FrameRange, GuestLevel, GuestMemory,
    HasMemory, Hierarchy, HostReach, Identify, Level, MemoryMap, Support, Trap, VcpuId,
};
use x86_64::PhysAddr;
use x86_64::structures::paging::{PhysFrame, Size4KiB};

pub use admit::Seed;
pub use memory::{Cut, Flushed};

use crate::abi::fields::{ATTRIBUTE_SEPT_VE_DISABLE, FEATURE_TD_PARTITIONING, FieldId};
use crate::abi::guest_state::REGISTER_PAGE;
use crate::abi::leaves::Leaf;
use crate::abi::regs::Regs;
use crate::error::Error;
use crate::port::Port;
use crate::shared::{Shared, Slot};

/// Private memory of L1 through which it runs one level on one vCPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LevelPages {
    /// Where VP.ENTER finds and leaves the level's general registers: 256 bytes, 256-byte aligned.
    pub registers: PhysAddr,
    /// The virtual-APIC page of the level.
    pub vapic: PhysFrame<Size4KiB>,
}

/// Private memory of L1 that one vCPU of it needs, handed in by the integrator. No lower level has rights on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pages {
    /// For each level the pages to run it with; `None` for a level that never runs here.
    pub levels: [Option<LevelPages>; GUEST_LEVELS],
    /// Where reports are made.
    pub scratch: PhysFrame<Size4KiB>,
}

/// What the module says about this TD and this vCPU.
#[derive(Clone, Copy, Debug)]
struct Td {
    vcpu: VcpuId,
    vcpus: u32,
    /// L2 VMs, 1 to 3.
    levels: u8,
    /// The bit that makes an address a shared one.
    shared_bit: u64,
}

/// What this vCPU knows about one of its levels.
#[derive(Clone, Copy, Debug, Default)]
struct LevelState {
    /// The epoch for which its old translations are gone here.
    flushed: u64,
    /// A call waits for its answer: bytes of the calling instruction.
    awaiting: Option<u8>,
    /// The instruction by which it left last waits to be completed: which, and its bytes if the module said how many.
    trapped: Option<(Trap, Option<u8>)>,
}

/// L1 on one vCPU. See the crate's page for what it can and cannot do.
#[derive(Debug)]
pub struct L1<'a, P, M> {
    port: P,
    memory: M,
    map: MemoryMap<'a>,
    shared: &'a Shared,
    slot: &'a Slot,
    pages: Pages,
    td: Td,
    levels: [LevelState; GUEST_LEVELS],
    not_send: PhantomData<*mut ()>,
}

impl<'a, P: Port, M: GuestMemory> L1<'a, P, M> {
    /// L1 on the vCPU that executes this.
    ///
    /// `map` is all RAM of the TD; `shared` is the same for all vCPUs; `pages` are this vCPU's own.
    ///
    /// # Errors
    /// - `Unsupported`: the module has no TD partitioning, the host gave the TD no L2 VM, or an access to a pending page
    ///   would raise #VE (SEPT_VE_DISABLE is clear).
    /// - `NotFound`: `shared` has no room for this vCPU.
    /// - `InvalidArgument`, `OutOfRange`: a page or a range of the map is not usable.
    /// - `Refused`: the module did not answer, or answered what it cannot.
    pub fn new(
        mut port: P,
        memory: M,
        map: MemoryMap<'a>,
        shared: &'a Shared,
        pages: Pages,
    ) -> Result<Self, Error<M::Fault>> {
        let td = Td::discover(&mut port)?;
        let room = u32::try_from(shared.room()).unwrap_or(u32::MAX);
        let td = Td { vcpus: td.vcpus.min(room), ..td };
        let slot = shared.slot(td.vcpu).ok_or(Error::UnknownVcpu { id: td.vcpu })?;
        check_map(&map, td.shared_bit).map_err(Error::Range)?;
        check_pages(&pages, &map)?;
        Ok(Self {
            port,
            memory,
            map,
            shared,
            slot,
            pages,
            td,
            levels: [LevelState::default(); GUEST_LEVELS],
            not_send: PhantomData,
        })
    }

    /// The pages of a level that can run here.
    fn level_pages(&self, level: GuestLevel) -> Result<LevelPages, Error<M::Fault>> {
        let pages = self.pages.levels[level.index()].filter(|_| level.number() <= self.td.levels);
        pages.ok_or(Error::NoSuchLevel { level })
    }

    /// The levels that this TD has.
    fn present(&self) -> impl Iterator<Item = GuestLevel> + use<P, M> {
        let levels = self.td.levels;
        GuestLevel::ALL.into_iter().filter(move |level| level.number() <= levels)
    }
}

impl Td {
    fn discover<F>(port: &mut impl Port) -> Result<Self, Error<F>> {
        let leaf = Leaf::VP_INFO;
        let info = call::done(port, leaf, Regs::default())?;
        let width = info.rcx & 0x3f;
        if !matches!(width, 48 | 52) {
            return Err(Error::BadAnswer { leaf, value: info.rcx });
        }
        if info.rdx & ATTRIBUTE_SEPT_VE_DISABLE == 0 {
            return Err(Error::Unsupported {
                reason: "the host may raise #VE on private memory (SEPT_VE_DISABLE is clear)",
            });
        }
        let partitions = info.r10 & 1 != 0 && {
            let operands = Regs { rdx: FieldId::TDX_FEATURES0.0, ..Regs::default() };
            call::done(port, Leaf::SYS_RD, operands)?.r8 & FEATURE_TD_PARTITIONING != 0
        };
        if !partitions {
            return Err(Error::Unsupported { reason: "the TDX module has no TD partitioning" });
        }
        let operands = Regs { rdx: FieldId::NUM_L2_VMS.0, ..Regs::default() };
        let levels = match call::done(port, Leaf::VM_RD, operands)?.r8 {
            0 => return Err(Error::Unsupported { reason: "the host gave this TD no L2 VM" }),
            count @ 1..=3 => count as u8,
            value => return Err(Error::BadAnswer { leaf: Leaf::VM_RD, value }),
        };
        // R9 31:0 is this vCPU's index, R8 31:0 how many there are.
        Ok(Self { vcpu: VcpuId(info.r9 as u32), vcpus: info.r8 as u32, levels, shared_bit: 1 << (width - 1) })
    }
}

fn check_map(map: &MemoryMap<'_>, shared_bit: u64) -> Result<(), coco_part_api::RangeError> {
    for range in map.ranges() {
        // Both are below 2^52: no overflow.
        if range.start().as_u64() + range.bytes() > shared_bit {
            return Err(coco_part_api::RangeError::OutsideMap { at: range.start() });
        }
    }
    Ok(())
}

/// Every page lies in the map, is aligned, and shares no byte with another one.
fn check_pages<F>(pages: &Pages, map: &MemoryMap<'_>) -> Result<(), Error<F>> {
    let whole = |frame: PhysFrame<Size4KiB>| (frame.start_address(), 4096);
    let levels = || pages.levels.iter().flatten();
    let all = || {
        let registers = levels().map(|level| (level.registers, REGISTER_PAGE));
        let frames = levels().map(|level| whole(level.vapic));
        registers.chain(frames).chain([whole(pages.scratch)])
    };
    for (index, (at, len)) in all().enumerate() {
        let inside = map.check(FrameRange::of(PhysFrame::containing_address(at))).is_ok();
        // In the map, so far below 2^64.
        let overlaps = |(other, bytes): (PhysAddr, u64)| {
            inside && at.as_u64() < other.as_u64() + bytes && other.as_u64() < at.as_u64() + len
        };
        if !inside || !at.is_aligned(len) || all().skip(index + 1).any(overlaps) {
            return Err(Error::BadPage { at });
        }
    }
    Ok(())
}

impl<P, M: GuestMemory> ErrorType for L1<'_, P, M> {
    type Error = Error<M::Fault>;
}

impl<P, M: GuestMemory> Identify for L1<'_, P, M> {
    fn level(&self) -> Level {
        // TDG.VP.INFO answered in `new`; in an L2 it would have been an exit to L1 (rule H3).
        Level::Monitor
    }

    fn vcpu(&self) -> VcpuId {
        self.td.vcpu
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            hierarchy: Hierarchy::Siblings,
            guest_levels: self.td.levels,
            host_reach: HostReach::ThroughMonitor,
            rescind_unassigned: Support::No,
            flush: FlushReach::OwnVcpu,
            binding: Binding::Monitor,
            inject: Support::Yes,
        }
    }
}

impl<P, M: GuestMemory> HasMemory for L1<'_, P, M> {
    type Memory = M;

    fn memory(&self) -> M {
        self.memory.clone()
    }
}

impl<P, M: GuestMemory> BootGuest for L1<'_, P, M> {
    const PAGES: &'static [BootPage] = &[];

    fn fill(&mut self, _page: BootPage, _at: PhysFrame<Size4KiB>, _info: &BootInfo) -> Result<(), Self::Error> {
        Err(Error::NoBootPage)
    }
}
