//! What must never happen, whatever the programs and the host do.
//!
//! The oracles watch every step and every host action at a cost that follows what changed; [`Machine::check_all`] goes
//! through the whole state. A finding becomes a [`Violation`]; nothing stops. Harnesses declare what the machine
//! cannot know.
//!
//! - **O1 secrecy.** A *labelled* private page, or a page that contains tagged secret bytes, is never readable by an
//!   L2 (its alias has R and L1 has accepted it, or a cached translation has R) and is never read by one; tagged bytes
//!   never stand in shared memory or in registers that a TDVMCALL shows. A page gets its label by
//!   [`tag_secret`](Machine::tag_secret), or when L1 writes anything but zeros to a private page of the monitor. It
//!   loses it when it is zeroed or overwritten as a whole, accepted, or removed. And no L2 runs while the state that
//!   is not switched holds a value that [`tag_unswitched`](Machine::tag_unswitched) named.
//! - **O2 ownership.** No page of the monitor ([`declare_monitor_pages`](Machine::declare_monitor_pages)) has an
//!   alias, pending or not, and no system page backs two guest pages.
//! - **O3 state frames.** No L2 can write the register page or the virtual-APIC page that a VP.ENTER uses.
//! - **O4 integrity.** A private read by L1 returns for every byte the last value that L1 wrote there, or zero after
//!   it accepted the page. Bytes are forgotten when an L2 whose alias has W at that moment writes them, when the
//!   module writes them, and when the host removes the page (L1 then faults until it accepts again). And once an L2
//!   has run, L1 does nothing but restoring while the state that is not switched lacks a tagged value.
//! - **O6 dead means dead.** After ReportFatalError the vCPU that called retires nothing but TDVMCALL, HLT, PAUSE and
//!   the end of its program; and if the host is honest nobody else retires anything.
//! - **O7 registers.** Between an exit of an L2 and the next entry of the same program its register page changes only
//!   where the exit says: RAX, RCX, RDX, R8, R9 after VMCALL, RAX to RDX after CPUID, RAX and RDX after RDMSR, RAX
//!   after IN, the general registers but RSP after TDCALL, RAX after an EPT violation that L1 emulates; besides RIP,
//!   RVI and SVI.
//! - **O8 progress.** From a VMCALL of an L2 until the next VP.ENTER on that vCPU L1 takes at most as many steps as the
//!   [`ProgressLimit`] says. Leaves that find their operand busy do not count. A host that is not honest may prolong
//!   it: the count then begins anew with each TD exit, and PAUSE does not count.
//! - **O9 no crash.** With the honest host no program of L1 ends, reports a fatal error or has a triple fault.
//!
//! O5 has no counterpart here: the module has no message channel.

mod declare;
mod frames;
mod integrity;
mod liveness;
mod secrecy;
mod unswitched;

#[cfg(test)]
pub(crate) use unswitched::words as unswitched_fields;

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use super::exec::Actor;
use super::exit::L2Exit;
use super::guest_state::GuestState;
use super::{Machine, Op, Outcome, Regs, TdExit, Unswitched, host};
use crate::nested::page_of;
use crate::oracle::ProgressLimit;
use crate::ranges::RangeSet;
use crate::{PAGE_SIZE, Vcpu, Violation};

/// How many steps L1 may take for a call unless [`Machine::set_progress_limit`] says otherwise. Filling a VMCS field
/// by field takes more steps than anything in the SNP machine.
pub const PROGRESS: ProgressLimit = ProgressLimit { base: 512, per_entry: 64, per_page: 8 };

/// Findings beyond this many are dropped.
const MAX_VIOLATIONS: usize = 64;

/// State of all oracles.
#[derive(Clone, Debug)]
pub(crate) struct Oracles {
    pub(crate) violations: Vec<Violation>,
    /// Guest pages of the monitor.
    monitor: RangeSet,
    /// Guest pages that hold secrets.
    labels: BTreeSet<u64>,
    /// Byte strings that are secret.
    secrets: Vec<Vec<u8>>,
    /// L1's values of what is not switched, by vCPU.
    tags: BTreeMap<u8, alloc::boxed::Box<Unswitched>>,
    /// vCPUs on which an L2 has run.
    mixed: BTreeSet<u8>,
    shadow: integrity::Shadow,
    dead: Option<liveness::Dead>,
    /// By vCPU.
    calls: BTreeMap<u8, liveness::Call>,
    /// By vCPU and VM.
    left: BTreeMap<(u8, u8), frames::Left>,
    progress: ProgressLimit,
    monitor_may_end: bool,
}

impl Default for Oracles {
    fn default() -> Self {
        Self {
            violations: Vec::new(),
            monitor: RangeSet::default(),
            labels: BTreeSet::new(),
            secrets: Vec::new(),
            tags: BTreeMap::new(),
            mixed: BTreeSet::new(),
            shadow: integrity::Shadow::default(),
            dead: None,
            calls: BTreeMap::new(),
            left: BTreeMap::new(),
            progress: PROGRESS,
            monitor_may_end: false,
        }
    }
}

impl Oracles {
    fn report(&mut self, step: u64, oracle: &'static str, text: String) {
        let known = self.violations.iter().any(|v| v.oracle == oracle && v.text == text);
        if !known && self.violations.len() < MAX_VIOLATIONS {
            self.violations.push(Violation { oracle, step, text });
        }
    }

    /// Guest pages have lost what L1 wrote there, and L1 faults before it sees anything else.
    pub(crate) fn contents_gone(&mut self, page: u64, count: u64) {
        self.drop_labels(page, count);
        self.shadow.forget_pages(page, count);
    }
}

/// Events from the machine.
impl Machine {
    fn violation(&mut self, oracle: &'static str, text: String) {
        let step = self.steps;
        self.oracles.report(step, oracle, text);
    }

    fn host_is_honest(&self) -> bool {
        self.config.honest_host && self.config.policy == host::Policy::default()
    }

    /// PAGE.ACCEPT zeroed pages, and their aliases count now.
    pub(crate) fn oracle_accepted(&mut self, page: u64, count: u64) {
        self.oracles.drop_labels(page, count);
        self.oracles.shadow.zero_pages(page, count);
        self.oracle_aliases_changed(page, count);
    }

    /// Aliases of pages changed.
    pub(crate) fn oracle_aliases_changed(&mut self, page: u64, count: u64) {
        self.check_secrecy(page, count);
        self.check_ownership(page, count);
    }

    /// The host added a page; `used` says that its memory backs another one.
    pub(crate) fn oracle_added(&mut self, page: u64, used: bool) {
        if used {
            self.violation("O2", format!("the memory of {:#x} backs another page too", page * PAGE_SIZE));
        }
    }

    /// The module wrote to private memory of L1.
    pub(crate) fn oracle_module_wrote(&mut self, gpa: u64, len: usize) {
        self.oracles.shadow.forget(gpa, len);
    }

    /// Private memory was read.
    pub(crate) fn oracle_read(&mut self, actor: Actor, gpa: u64, bytes: &[u8]) {
        if actor.level == 0 {
            self.check_read(gpa, bytes);
        } else if self.oracles.labels.contains(&page_of(gpa)) {
            self.violation("O1", format!("VM{} reads a secret page at {gpa:#x}", actor.level));
        }
    }

    /// Private memory was written.
    pub(crate) fn oracle_written(&mut self, actor: Actor, gpa: u64, bytes: &[u8]) {
        self.shadow_written(actor, gpa, bytes);
        self.label_written(actor, gpa, bytes);
    }

    /// Whole private pages were zeroed.
    pub(crate) fn oracle_zeroed(&mut self, actor: Actor, gpa: u64, count: u64) {
        self.shadow_zeroed(actor, gpa, count);
        self.oracles.drop_labels(page_of(gpa), count);
    }

    /// A program is about to execute.
    pub(crate) fn oracle_stepping(&mut self, actor: Actor, op: &Op) {
        if actor.level == 0 {
            self.check_restored(actor.vcpu, op);
        }
    }

    /// A program executed.
    pub(crate) fn oracle_stepped(&mut self, actor: Actor, op: &Op, outcome: &Outcome, retired: bool) {
        if retired {
            self.check_dead(actor, op);
            self.call_stepped(actor, op, outcome);
        }
    }

    pub(crate) fn oracle_td_exit(&mut self, vcpu: Vcpu, exit: &TdExit) {
        self.end_noticed(vcpu, exit);
    }

    /// A TDVMCALL shows registers to the host.
    pub(crate) fn oracle_host_call(&mut self, actor: Actor, shown: &Regs) {
        self.death_noticed(actor, shown);
        self.check_shown(actor, shown);
    }

    pub(crate) fn oracle_entered(&mut self, vcpu: Vcpu, level: u8) {
        if level > 0 {
            self.oracles.mixed.insert(vcpu.0);
            self.check_unswitched(vcpu, level);
        }
    }

    /// VP.ENTER loads a register page.
    pub(crate) fn oracle_entering(&mut self, vcpu: Vcpu, vm: u8, page: u64, vapic: u64, state: &GuestState) {
        self.check_frame(vm, page, "register page");
        self.check_frame(vm, vapic, "virtual-APIC page");
        self.check_registers(vcpu, vm, state);
    }

    pub(crate) fn oracle_l2_left(&mut self, vcpu: Vcpu, vm: u8, exit: &L2Exit) {
        self.remember_registers(vcpu, vm, exit);
        self.call_left(vcpu, vm, exit);
    }

    /// O2: pages of the monitor with an alias. A large entry is looked at once.
    fn check_ownership(&mut self, page: u64, count: u64) {
        let end = page.saturating_add(count);
        let mut at = page;
        while let Some(first) = self.oracles.monitor.first_within(at, end) {
            let found = self.sept.get(first);
            let vm = found.and_then(|found| (1..=3).find(|vm| found.leaf.alias(*vm) != 0));
            if let Some(vm) = vm {
                self.violation("O2", format!("VM{vm} has an alias of the monitor's page {:#x}", first * PAGE_SIZE));
            }
            at = found.map_or(first + 1, |found| found.first + found.pages());
        }
    }

    /// O2: every system page backs one guest page.
    fn check_double_mapping(&mut self) {
        let mut backed: BTreeMap<u64, u64> = BTreeMap::new();
        let mut doubled = Vec::new();
        let mut ranges: Vec<(u64, u64, u64)> =
            self.sept.leaves().map(|found| (found.leaf.spa, found.pages(), found.first)).collect();
        ranges.sort_unstable();
        for (spa, pages, first) in ranges {
            if let Some((_, end)) = backed.last_key_value()
                && spa < *end
            {
                doubled.push(first);
            }
            backed.insert(spa, spa + pages);
        }
        for page in doubled {
            self.oracle_added(page, true);
        }
    }
}
