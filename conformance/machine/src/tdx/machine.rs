//! The machine itself: its state and what tests may ask of it.

use alloc::collections::BTreeSet;
use alloc::vec::Vec;

use super::counters::CounterTable;
use super::oracle::Oracles;
use super::sept::{Sept, SeptEntry};
use super::trace::Trace;
use super::vcpu::{Guest, VcpuState};
use super::{Config, Counters, Event, EventKind, HostEvent, RULES, Unswitched, host};
use crate::memory::Memory;
use crate::nested::page_of;
use crate::page_map::PageMap;
use crate::ranges::RangeSet;
use crate::{Vcpu, Violation};

/// What belongs to the TD as a whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Td {
    pub(crate) td_ctls: u64,
    pub(crate) notify_enables: u64,
    /// SHA-384 of the launch, once it is finished.
    pub(crate) mrtd: Measurement,
    pub(crate) rtmr: [Measurement; 4],
}

/// A SHA-384 value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Measurement(pub(crate) [u8; 48]);

impl Default for Measurement {
    fn default() -> Self {
        Self([0; 48])
    }
}

/// A TDX machine with one TD and its host.
#[derive(Clone, Debug)]
pub struct Machine {
    pub(crate) config: Config,
    pub(crate) td: Td,
    /// Private contents by system page.
    pub(crate) private: Memory,
    /// Shared contents by guest page.
    pub(crate) shared: Memory,
    /// Guest pages that are the TD's memory.
    pub(crate) ram: RangeSet,
    pub(crate) sept: Sept,
    /// Table pages of L2 VMs: VM and 2 MiB number.
    pub(crate) tables: BTreeSet<(u8, u64)>,
    /// System pages that back a guest page.
    pub(crate) in_use: PageMap<bool>,
    pub(crate) vcpus: Vec<VcpuState>,
    pub(crate) oracles: Oracles,
    pub(crate) counters: CounterTable,
    pub(crate) trace: Trace,
    pub(crate) steps: u64,
    pub(crate) launch: super::launch::Launch,
    pub(crate) host: host::HostState,
}

impl Machine {
    /// A machine before launch: no private page is mapped.
    ///
    /// # Panics
    /// If [`Config::broken_rules`] names a rule that is not in [`RULES`]: a mutant without effect proves nothing. If
    /// the address width is neither 48 nor 52.
    pub fn new(config: Config) -> Self {
        for id in &config.broken_rules {
            assert!(RULES.iter().any(|(known, _)| known == id), "no rule has the id {id}");
        }
        assert!(matches!(config.gpaw, 48 | 52), "no TD has an address width of {}", config.gpaw);
        let mut config = config;
        config.vcpus = config.vcpus.clamp(1, 8);
        config.l2_vms = if config.partitioning { config.l2_vms.min(3) } else { 0 };
        let mut ram = RangeSet::default();
        for (start, len) in &config.ram {
            ram.insert(page_of(*start), page_of(start.saturating_add(*len)));
        }
        let mut machine = Self {
            td: Td { td_ctls: u64::from(config.attributes & super::SEPT_VE_DISABLE != 0), ..Td::default() },
            private: Memory::new(config.seed),
            shared: Memory::new(config.seed ^ 0x5368_6172_6564),
            ram,
            sept: Sept::default(),
            tables: BTreeSet::new(),
            in_use: PageMap::new(false),
            vcpus: (0..config.vcpus).map(|_| VcpuState::default()).collect(),
            oracles: Oracles::default(),
            counters: CounterTable::new(usize::from(config.vcpus)),
            trace: Trace { on: config.trace, events: Vec::new() },
            steps: 0,
            launch: super::launch::Launch::default(),
            host: host::HostState::new(config.vcpus, config.policy.clone()),
            config,
        };
        for (start, len) in machine.config.shared.clone() {
            machine.host.share(page_of(start), page_of(start.saturating_add(len)));
            machine.shared.scramble(page_of(start), len / crate::PAGE_SIZE);
        }
        machine
    }

    /// What this machine was made of.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The bit of an address that makes it a shared one.
    pub fn shared_bit(&self) -> u64 {
        1 << (self.config.gpaw - 1)
    }

    /// Steps executed so far, over all vCPUs.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// The virtual TSC: it counts the steps of all vCPUs.
    pub(crate) fn virtual_tsc(&self) -> u64 {
        self.steps
    }

    /// What one vCPU executed at one level.
    pub fn counters(&self, vcpu: Vcpu, level: u8) -> Counters {
        self.counters.of(vcpu, level)
    }

    /// What all vCPUs executed at all levels.
    pub fn total_counters(&self) -> Counters {
        self.counters.total()
    }

    /// What all vCPUs executed at one level.
    pub fn counters_of_level(&self, level: u8) -> Counters {
        self.counters.of_level(level)
    }

    /// The events so far; empty unless [`Config::trace`] is set.
    pub fn trace(&self) -> &[Event] {
        &self.trace.events
    }

    /// What the oracles found so far.
    pub fn violations(&self) -> &[Violation] {
        &self.oracles.violations
    }

    /// The host's state.
    pub fn host_state(&self) -> &host::HostState {
        &self.host
    }

    /// The host's state, to change its policy during a test.
    pub fn host_state_mut(&mut self) -> &mut host::HostState {
        &mut self.host
    }

    /// The secure EPT entry of a guest page; `None` where nothing is mapped.
    pub fn sept_entry(&self, gpa: u64) -> Option<SeptEntry> {
        let found = self.sept.get(page_of(gpa))?;
        let super::sept::Leaf { accepted, blocked, aliases, .. } = found.leaf;
        Some(SeptEntry { large: found.large, accepted, blocked, aliases })
    }

    /// MRTD, once the launch is finished.
    pub fn mrtd(&self) -> [u8; 48] {
        self.td.mrtd.0
    }

    /// An RTMR, 0 to 3.
    pub fn rtmr(&self, index: usize) -> Option<[u8; 48]> {
        self.td.rtmr.get(index).map(|rtmr| rtmr.0)
    }

    /// What a vCPU has now of the state that is not switched.
    pub fn unswitched(&self, vcpu: Vcpu) -> Option<&Unswitched> {
        Some(&self.vcpu(vcpu)?.unswitched)
    }

    /// A field of the VMCS of a VM on a vCPU, by its encoding, masks aside.
    pub fn vmcs_field(&self, vcpu: Vcpu, vm: u8, encoding: u32) -> Option<u64> {
        Some(self.guest(vcpu, vm)?.vmcs.get(encoding))
    }

    /// Events that L1 injected into a VM of a vCPU and that were delivered: VM-entry interruption information.
    pub fn delivered_events(&self, vcpu: Vcpu, vm: u8) -> &[u32] {
        self.guest(vcpu, vm).map_or(&[], |guest| &guest.delivered)
    }

    /// Records what the host did.
    pub(crate) fn note(&mut self, vcpu: Vcpu, event: HostEvent) {
        self.trace.push(self.steps, vcpu, None, EventKind::Host(event));
    }

    /// Whether a rule is enforced.
    pub(crate) fn rule(&self, id: &str) -> bool {
        if cfg!(test) {
            assert!(RULES.iter().any(|(known, _)| *known == id), "no rule has the id {id}");
        }
        self.config.broken_rules.is_empty() || !self.config.broken_rules.contains(id)
    }

    pub(crate) fn vcpu(&self, vcpu: Vcpu) -> Option<&VcpuState> {
        self.vcpus.get(usize::from(vcpu.0))
    }

    pub(crate) fn vcpu_mut(&mut self, vcpu: Vcpu) -> Option<&mut VcpuState> {
        self.vcpus.get_mut(usize::from(vcpu.0))
    }

    /// What a vCPU keeps for a VM, 1 to 3.
    pub(crate) fn guest(&self, vcpu: Vcpu, vm: u8) -> Option<&Guest> {
        self.vcpu(vcpu)?.guests.get(usize::from(vm).checked_sub(1)?)
    }

    pub(crate) fn guest_mut(&mut self, vcpu: Vcpu, vm: u8) -> Option<&mut Guest> {
        self.vcpu_mut(vcpu)?.guests.get_mut(usize::from(vm).checked_sub(1)?)
    }

    /// Whether an address is private and inside of the address width.
    pub(crate) fn is_private(&self, gpa: u64) -> bool {
        gpa < self.shared_bit()
    }

    /// The VMs that this TD has.
    pub(crate) fn vms(&self) -> core::ops::RangeInclusive<u8> {
        1..=self.config.l2_vms
    }

    /// Drops the translations of guest pages everywhere, as the tracking of the module does for the host (TDX-33).
    pub(crate) fn flush_pages(&mut self, page: u64, count: u64) {
        if !self.rule("TDX-33") {
            return;
        }
        for guest in self.vcpus.iter_mut().flat_map(|vcpu| &mut vcpu.guests) {
            guest.tlb.flush(page, count);
        }
    }
}
