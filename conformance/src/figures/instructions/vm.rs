//! The real monitor on a null port: one vCPU of L1 and one of the guest, in the usual layout.

use std::sync::atomic::AtomicU64;

use coco_part_api::svsm::CallResult;
use coco_part_api::{
    AdmitVcpu, BootPage, CallRegs, Context, FrameRange, GuestLevel, GuestMemory, MemoryMap, Monitor as Backend,
};
use l1_monitor::{GuestLaunch, Ledger, Limits, Monitor, Shared, State, Step, Storage};
use x86_64::PhysAddr;

use super::null::{NullMemory, NullProcessor, Outside};
use crate::world::layout::{
    self, BOOT_STATE, CALL_AREA, FEATURES, FREE, GUEST, LARGE, MONITOR, MONITOR_BYTES, PAGE, SECRETS, frame, range,
};

/// Room for vCPUs, as in the worlds of the suite.
pub(super) const VCPUS: usize = crate::world::VCPUS;
/// Level of the guest.
pub(super) const LEVEL: GuestLevel = GuestLevel::TWO;
/// Bytes of guest RAM.
const GUEST_BYTES: u64 = 8 * LARGE;

/// A backend whose machine does nothing.
pub(super) trait NullVendor {
    /// What crosses vCPUs when one is created.
    type Seed: Send + 'static;
    /// L1's side on vCPU 0.
    type Backend: Backend + AdmitVcpu<Seed = Self::Seed>;
    /// Why it does not start.
    type Error: std::fmt::Display;

    /// Starts L1's side.
    fn backend(memory: NullMemory) -> Result<Self::Backend, Self::Error>;

    /// Puts the guest's vCPU into a call with these registers.
    fn call(memory: NullMemory, regs: CallRegs) -> Result<(), Outside>;

    /// What a guest writes to a state frame.
    fn image(context: &Context) -> Vec<u8>;
}

/// RAM of L1 and of the guest.
pub(super) fn ram() -> MemoryMap<'static> {
    map(&[(MONITOR, MONITOR_BYTES), (GUEST, GUEST_BYTES)])
}

fn map(parts: &[(u64, u64)]) -> MemoryMap<'static> {
    let ranges: Vec<FrameRange> = parts.iter().map(|(start, bytes)| range(*start, *bytes)).collect();
    MemoryMap::new(ranges.leak()).expect("the layout's parts do not overlap")
}

/// A VM with a guest that is about to call. Everything lives as long as the process, which does one piece of work.
pub(super) struct Vm<V: NullVendor> {
    /// Its memory.
    pub(super) memory: NullMemory,
    monitor: Monitor<'static, V::Backend, NullProcessor, VCPUS>,
}

impl<V: NullVendor> Vm<V> {
    /// Sets the monitor up as an integrator would. The loader has validated and handed over what the guest has at its start.
    pub(super) fn new() -> Result<Self, String> {
        let text = |error: &dyn std::fmt::Display| error.to_string();
        let memory = NullMemory::new((GUEST + GUEST_BYTES) as usize);
        let span = range(MONITOR, GUEST + GUEST_BYTES - MONITOR);
        let words: Vec<AtomicU64> = (0..Ledger::words_for(span.frames())).map(|_| AtomicU64::new(0)).collect();
        let ledger = Ledger::new(words.leak(), span).map_err(|refusal| text(&refusal))?;
        let shared = Shared {
            ledger,
            storage: Box::leak(Box::new(Storage::new())),
            memory: map(&[(GUEST, GUEST_BYTES)]),
            level: LEVEL,
            limits: Limits { vcpus: VCPUS as u32, ..Limits::default() },
            vtpm: None,
        };
        let backend = V::backend(memory).map_err(|error| text(&error))?;
        let mut monitor = Monitor::new(backend, NullProcessor, shared);
        for (start, end, state) in [
            (MONITOR, MONITOR + MONITOR_BYTES, State::Monitor),
            (GUEST, CALL_AREA + PAGE, State::Monitor),
            (CALL_AREA + PAGE, FREE, State::Guest(LEVEL)),
        ] {
            ledger.adopt(range(start, end - start), State::NotPrivate, state).map_err(|refusal| text(&refusal))?;
        }
        let launch = GuestLaunch {
            state: frame(BOOT_STATE),
            call_area: frame(CALL_AREA),
            context: &Context::long_mode(layout::ENTRY_GUEST, 0, 0),
            pages: &[(BootPage::Secrets, frame(SECRETS)), (BootPage::Features, frame(FEATURES))],
            monitor: range(MONITOR, MONITOR_BYTES),
        };
        monitor.start_guest(&launch).map_err(|error| text(&error))?;
        Ok(Self { memory, monitor })
    }

    /// L1's side.
    pub(super) fn backend(&mut self) -> &mut V::Backend {
        self.monitor.backend()
    }

    /// Whether the ledger has a page as the guest's ordinary memory.
    pub(super) fn is_guests(&self, at: u64) -> bool {
        self.monitor.shared().ledger.state(frame(at)) == Some(State::Guest(LEVEL))
    }

    /// Writes to guest memory.
    pub(super) fn put(&self, at: u64, bytes: &[u8]) -> Result<(), String> {
        self.memory.write(PhysAddr::new(at), bytes).map_err(|fault| fault.to_string())
    }

    /// Has the guest make a call. [`step`](Self::step) finds it.
    pub(super) fn call(&self, regs: CallRegs) -> Result<(), String> {
        V::call(self.memory, regs).map_err(|fault| fault.to_string())
    }

    /// One step of the monitor's loop, which has to serve a call with this result.
    #[inline]
    pub(super) fn step(&mut self, wanted: CallResult) -> Result<(), String> {
        match self.monitor.step() {
            Step::Served(result) if result == wanted => Ok(()),
            other => Err(format!("the monitor came to {other:?}, not to {wanted}")),
        }
    }
}
