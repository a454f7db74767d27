//! A port over an L1 in a few lines: it keeps page states, answers like the protocol says, and can be told to lie.

mod attest;
mod deposit;
mod l1;
mod negotiate;
mod pages;
mod vcpu;
mod vtpm;

use core::fmt;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::vec;
use std::vec::Vec;

use coco_part_api::vcpu::frame_at;
use coco_part_api::{
    Binding, CallMonitor, CallRegs, Capabilities, DataForm, Error, ErrorKind, ErrorType, Evidence, FlushReach,
    FrameRange, GuestLevel, GuestMemory, GuestPort, HasMemory, Hierarchy, HostReach, HostState, Level, MemoryMap,
    NewVcpu, REPORT_DATA, Stopped, Support, VcpuId,
};
use x86_64::PhysAddr;
use x86_64::structures::paging::{PhysFrame, Size4KiB};
use zerocopy::IntoBytes;

use crate::codec::CallResult;
use crate::{Limits, Shim, ShimError};

pub(super) const RAM: u64 = 16 << 20;
pub(super) const CALL_AREA: u64 = 0x3000;
pub(super) const CAPABILITIES: Capabilities = Capabilities {
    hierarchy: Hierarchy::Siblings,
    guest_levels: 2,
    host_reach: HostReach::Direct,
    rescind_unassigned: Support::Yes,
    flush: FlushReach::AllVcpus,
    binding: Binding::Monitor,
    inject: Support::No,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fault(pub(super) ErrorKind);

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "mock {:?}", self.0)
    }
}

impl core::error::Error for Fault {}

impl Error for Fault {
    fn kind(&self) -> ErrorKind {
        self.0
    }
}

/// RAM from address 0.
#[derive(Clone, Debug)]
pub(super) struct Memory(Rc<RefCell<Vec<u8>>>);

impl Memory {
    fn with<T>(&self, at: PhysAddr, len: usize, act: impl FnOnce(&mut [u8]) -> T) -> Result<T, Fault> {
        let start = usize::try_from(at.as_u64()).map_err(|_| Fault(ErrorKind::Inaccessible))?;
        let mut ram = self.0.borrow_mut();
        let part = start.checked_add(len).and_then(|end| ram.get_mut(start..end));
        part.map(act).ok_or(Fault(ErrorKind::Inaccessible))
    }
}

impl GuestMemory for Memory {
    type Fault = Fault;

    fn read(&self, at: PhysAddr, into: &mut [u8]) -> Result<(), Fault> {
        self.with(at, into.len(), |part| into.copy_from_slice(part))
    }

    fn write(&self, at: PhysAddr, from: &[u8]) -> Result<(), Fault> {
        self.with(at, from.len(), |part| part.copy_from_slice(from))
    }

    fn zero(&self, range: FrameRange) -> Result<(), Fault> {
        self.with(range.start(), range.bytes() as usize, |part| part.fill(0))
    }

    fn swap_u8(&self, at: PhysAddr, value: u8) -> Result<u8, Fault> {
        self.with(at, 1, |part| core::mem::replace(&mut part[0], value))
    }

    fn compare_exchange_u64(&self, at: PhysAddr, expected: u64, new: u64) -> Result<u64, Fault> {
        self.with(at, 8, |part| {
            let old = u64::from_le_bytes(part.try_into().unwrap());
            if old == expected {
                part.copy_from_slice(&new.to_le_bytes());
            }
            old
        })
    }
}

/// What L1 does with one call instead of serving it well.
#[derive(Clone, Copy, Debug)]
pub(super) enum Lie {
    /// Does not serve it.
    NotServed,
    /// Serves it, and the answer is lost.
    AnswerLost,
    /// Does nothing, with this result.
    Result(u32),
    /// Does nothing, with this result and this cursor.
    Cursor(u32, u16),
    /// Serves it, and answers these registers.
    Regs(u64, u64, u64),
    /// Serves it, then says this cursor.
    ThenCursor(u16),
    /// Says that it is done, and writes this word there.
    Overwrite(u64, u32),
}

pub(super) struct World {
    pub(super) lies: VecDeque<Lie>,
    /// Lies told for ever when the others are through.
    pub(super) habit: Option<Lie>,
    pub(super) calls: Vec<CallRegs>,
    pub(super) agreed: Vec<(FrameRange, HostState)>,
    /// Frames that the host agrees before it refuses.
    pub(super) agrees: u64,
    pub(super) private: BTreeSet<u64>,
    pub(super) valid: BTreeSet<u64>,
    /// 2 MiB pages that the machine holds in small ones, by their first frame.
    pub(super) small: BTreeSet<u64>,
    /// Entries that L1 does in one call.
    pub(super) budget: u16,
    pub(super) core: u64,
    pub(super) own: u64,
    pub(super) identity: [u64; 3],
    pub(super) port_level: Option<GuestLevel>,
    pub(super) port_capabilities: Option<Capabilities>,
    pub(super) port_evidence: bool,
    pub(super) vcpus: BTreeMap<u64, u64>,
    pub(super) running: BTreeSet<u32>,
    pub(super) start_fails: bool,
    pub(super) evidence: (u64, u64),
    /// Frames that L1 keeps, in the order in which it gives them back.
    pub(super) deposited: Vec<u64>,
    /// Versions of the vTPM's protocol.
    pub(super) vtpm: u64,
}

impl Default for World {
    fn default() -> Self {
        Self {
            lies: VecDeque::new(),
            habit: None,
            calls: Vec::new(),
            agreed: Vec::new(),
            agrees: u64::MAX,
            private: BTreeSet::new(),
            valid: BTreeSet::new(),
            small: BTreeSet::new(),
            budget: u16::MAX,
            core: 1 << 32 | 1,
            own: 1 << 32 | 1,
            identity: [2, 7, CAPABILITIES.to_bits()],
            port_level: Some(GuestLevel::TWO),
            port_capabilities: None,
            port_evidence: false,
            vcpus: BTreeMap::new(),
            running: BTreeSet::new(),
            start_fails: false,
            evidence: (100, 0),
            deposited: Vec::new(),
            vtpm: 1 << 32 | 1,
        }
    }
}

#[derive(Debug)]
pub(super) struct Port {
    pub(super) world: Handle,
    pub(super) memory: Memory,
    call_area: PhysFrame<Size4KiB>,
}

/// The world, shared by port and test.
#[derive(Clone)]
pub(super) struct Handle(Rc<RefCell<World>>);

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("World")
    }
}

impl Handle {
    pub(super) fn get(&self) -> core::cell::RefMut<'_, World> {
        self.0.borrow_mut()
    }
}

impl ErrorType for Port {
    type Error = Fault;
}

impl HasMemory for Port {
    type Memory = Memory;

    fn memory(&self) -> Memory {
        self.memory.clone()
    }
}

impl CallMonitor for Port {
    fn call(&mut self, regs: CallRegs) -> Result<CallRegs, Fault> {
        let mut world = self.world.get();
        world.calls.push(regs);
        let habit = world.habit;
        let cursor = |value: u16| self.memory.write(PhysAddr::new(regs.rcx + 2), &value.to_le_bytes()).unwrap();
        match world.lies.pop_front().or(habit) {
            None => Ok(world.serve(&self.memory, regs)),
            Some(Lie::NotServed) => Err(Fault(ErrorKind::HostMisbehaved)),
            Some(Lie::AnswerLost) => {
                world.serve(&self.memory, regs);
                Err(Fault(ErrorKind::HostRefused))
            }
            Some(Lie::Result(result)) => Ok(regs.with_result(CallResult(result))),
            Some(Lie::Cursor(result, value)) => {
                cursor(value);
                Ok(regs.with_result(CallResult(result)))
            }
            Some(Lie::Regs(rcx, rdx, r8)) => Ok(CallRegs { rcx, rdx, r8, ..world.serve(&self.memory, regs) }),
            Some(Lie::Overwrite(at, word)) => {
                self.memory.write(PhysAddr::new(at), &word.to_le_bytes()).unwrap();
                Ok(regs.with_result(CallResult::SUCCESS))
            }
            Some(Lie::ThenCursor(value)) => {
                let answer = world.serve(&self.memory, regs);
                cursor(value);
                Ok(answer)
            }
        }
    }
}

impl GuestPort for Port {
    fn level(&self) -> Option<GuestLevel> {
        self.world.get().port_level
    }

    fn vcpu(&self) -> VcpuId {
        VcpuId(7)
    }

    fn capabilities(&self) -> Option<Capabilities> {
        self.world.get().port_capabilities
    }

    fn call_area(&self) -> PhysFrame<Size4KiB> {
        self.call_area
    }

    fn set_call_area(&mut self, at: PhysFrame<Size4KiB>) {
        self.call_area = at;
    }

    fn agree(&mut self, range: FrameRange, state: HostState) -> Result<(), Stopped<Fault>> {
        let mut world = self.world.get();
        world.agreed.push((range, state));
        for done in 0..range.frames() {
            if world.agrees == 0 {
                return Err(Stopped { done, cause: Fault(ErrorKind::HostRefused) });
            }
            world.agrees -= 1;
            let frame = range.first_number() + done;
            match state {
                HostState::Private => drop(world.private.insert(frame)),
                HostState::Shared => {
                    assert!(!world.valid.contains(&frame), "shared before it was given up");
                    world.private.remove(&frame);
                }
            }
        }
        Ok(())
    }

    fn write_image(&mut self, new: &NewVcpu<'_>, _level: GuestLevel) -> Result<(), Fault> {
        self.memory.write(new.state.start_address(), new.context.as_bytes())
    }

    fn start(&mut self, id: VcpuId, _state: PhysFrame<Size4KiB>, _level: GuestLevel) -> Result<(), Fault> {
        let mut world = self.world.get();
        if world.start_fails {
            return Err(Fault(ErrorKind::HostRefused));
        }
        world.running.insert(id.0);
        Ok(())
    }

    fn stop(&mut self, id: VcpuId, _state: PhysFrame<Size4KiB>, _level: GuestLevel) -> Result<(), Fault> {
        self.world.get().running.remove(&id.0);
        Ok(())
    }

    fn attest(&mut self, data: &[u8; REPORT_DATA], out: &mut [u8]) -> Option<Result<Evidence, Fault>> {
        self.world.get().port_evidence.then(|| {
            out[..64].copy_from_slice(data);
            let names = Level::Guest(GuestLevel::TWO);
            Ok(Evidence { len: 64, names, bound_by: Binding::Hardware, data: DataForm::Verbatim })
        })
    }
}

pub(super) type Outcome = Result<Shim<'static, Port>, ShimError<Fault>>;

pub(super) const LIMITS: Limits = Limits { unserved_tries: 3, idle_rounds: 4 };

/// Negotiates over a world and hands both out.
pub(super) fn negotiated(world: World) -> (Outcome, Handle, Memory) {
    let handle = Handle(Rc::new(RefCell::new(world)));
    let memory = Memory(Rc::new(RefCell::new(vec![0; RAM as usize])));
    let port = Port { world: handle.clone(), memory: memory.clone(), call_area: frame(CALL_AREA) };
    let whole = std::boxed::Box::leak(std::boxed::Box::new([range(0, RAM)]));
    (Shim::negotiate(port, MemoryMap::new(whole).unwrap(), LIMITS), handle, memory)
}

/// A shim over a world that negotiates well. The log of calls is empty.
pub(super) fn shim() -> (Shim<'static, Port>, Handle, Memory) {
    let (shim, world, memory) = negotiated(World::default());
    world.get().calls.clear();
    (shim.unwrap(), world, memory)
}

pub(super) fn range(start: u64, len: u64) -> FrameRange {
    FrameRange::new(PhysAddr::new(start), len).unwrap()
}

pub(super) fn frame(at: u64) -> PhysFrame<Size4KiB> {
    frame_at(at).unwrap()
}
