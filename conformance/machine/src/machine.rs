//! The machine itself: its state and what tests may ask of it.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

use crate::counters::CounterTable;
use crate::memory::Memory;
use crate::nested::{NestedMap, page_of};
use crate::oracle::Oracles;
use crate::ranges::RangeSet;
use crate::rmp::{Rmp, RmpEntry};
use crate::run::{KeyState, VcpuState};
use crate::trace::Trace;
use crate::{
    Config, Counters, Event, EventKind, HostEvent, PAGE_SIZE, PAGES_PER_LARGE, RULES, RunKey, Vcpu, Violation, host,
    psp,
};

/// An SEV-SNP machine with one guest, its host and its security processor.
#[derive(Clone, Debug)]
pub struct Machine {
    pub(crate) config: Config,
    pub(crate) memory: Memory,
    pub(crate) rmp: Rmp,
    pub(crate) nested: NestedMap,
    /// System pages whose entry another processor holds at the next check (RMP-039).
    pub(crate) busy: BTreeSet<u64>,
    pub(crate) vcpus: Vec<VcpuState>,
    pub(crate) keys: BTreeMap<RunKey, KeyState>,
    /// How often a guest page became a VMSA.
    pub(crate) generations: BTreeMap<u64, u64>,
    pub(crate) oracles: Oracles,
    pub(crate) counters: CounterTable,
    pub(crate) trace: Trace,
    pub(crate) steps: u64,
    pub(crate) launched: bool,
    pub(crate) host: host::HostState,
    pub(crate) psp: psp::SecurityProcessor,
}

impl Machine {
    /// A machine before launch: all memory is the host's.
    ///
    /// # Panics
    /// If [`Config::broken_rules`] names a rule that is not in [`RULES`]: a mutant without effect proves nothing.
    pub fn new(config: Config) -> Self {
        let pages_per_large = config.pages_per_large.next_power_of_two().clamp(2, PAGES_PER_LARGE);
        let config = Config { pages_per_large, ..config };
        for id in &config.broken_rules {
            assert!(RULES.iter().any(|(known, _)| known == id), "no rule has the id {id}");
        }
        let mut covered = RangeSet::default();
        let mut nested = NestedMap::new(pages_per_large);
        for (start, len) in &config.ram {
            let (first, end) = (page_of(*start), page_of(start.saturating_add(*len)));
            covered.insert(first, end);
            nested.map_identity(first, end.saturating_sub(first));
        }
        for (start, len) in &config.spare {
            covered.insert(page_of(*start), page_of(start.saturating_add(*len)));
        }
        let vcpus = usize::from(config.vcpus.clamp(1, 8));
        Self {
            memory: Memory::new(config.seed),
            rmp: Rmp::new(covered, pages_per_large),
            nested,
            busy: BTreeSet::new(),
            vcpus: alloc::vec![VcpuState::new(pages_per_large); vcpus],
            keys: BTreeMap::new(),
            generations: BTreeMap::new(),
            oracles: Oracles::default(),
            counters: CounterTable::new(vcpus),
            trace: Trace { on: config.trace, events: Vec::new() },
            steps: 0,
            launched: false,
            host: host::HostState::new(config.vcpus.clamp(1, 8), config.policy.clone()),
            psp: psp::SecurityProcessor::new(config.seed),
            config,
        }
    }

    /// What this machine was made of.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Small pages in a large one.
    pub(crate) fn pages_per_large(&self) -> u64 {
        self.config.pages_per_large
    }

    /// Bytes of a large page ([`Config::pages_per_large`]).
    pub fn large_page_size(&self) -> u64 {
        self.config.pages_per_large * PAGE_SIZE
    }

    /// Steps executed so far, over all vCPUs.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// What one vCPU executed at one VMPL.
    pub fn counters(&self, vcpu: Vcpu, vmpl: u8) -> Counters {
        self.counters.of(vcpu, vmpl)
    }

    /// What all vCPUs executed at all VMPLs.
    pub fn total_counters(&self) -> Counters {
        self.counters.total()
    }

    /// What all vCPUs executed at one VMPL.
    pub fn counters_of_vmpl(&self, vmpl: u8) -> Counters {
        self.counters.of_vmpl(vmpl)
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

    /// The security processor.
    pub fn psp(&self) -> &psp::SecurityProcessor {
        &self.psp
    }

    /// The security processor, to set it up before launch.
    pub fn psp_mut(&mut self) -> &mut psp::SecurityProcessor {
        &mut self.psp
    }

    /// The RMP entry of the system page that backs a guest page; `None` where nothing is mapped.
    pub fn rmp_entry(&self, gpa: u64) -> Option<RmpEntry> {
        let (spa, _) = self.nested.get(page_of(gpa))?;
        Some(self.rmp.get(spa))
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

    /// System page of the VMSA that a vCPU runs, for all vCPUs that run one.
    pub(crate) fn running_vmsas(&self) -> impl Iterator<Item = (Vcpu, u64)> {
        (0u8..).map(Vcpu).zip(&self.vcpus).filter_map(|(vcpu, state)| Some((vcpu, state.running.as_ref()?.spa_page)))
    }

    pub(crate) fn is_running_vmsa(&self, spa_page: u64) -> bool {
        self.running_vmsas().any(|(_, page)| page == spa_page)
    }
}
