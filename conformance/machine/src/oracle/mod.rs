//! What must never happen, whatever the programs and the host do.
//!
//! The oracles watch every step and every host action at a cost that follows what changed; [`Machine::check_all`] goes
//! through the whole state. A finding becomes a [`Violation`]; nothing stops. Harnesses declare what the machine cannot know.
//!
//! - **O1 secrecy.** A *labelled* system page, or a page that contains tagged secret bytes, is never readable by the host (it is
//!   not assigned) or by a VMPL above 0 (validated with read right, or a cached translation with read right), and is never read by
//!   one. A page gets its label by [`tag_secret`](Machine::tag_secret), or when VMPL0 writes anything but zeros through a
//!   private mapping to a page of the monitor. It loses it when it is zeroed or overwritten as a whole, or
//!   when it changes hands and its contents are gone. Moving it to another guest address keeps the label.
//! - **O2 ownership.** No entry whose guest address is a page of the monitor
//!   ([`declare_monitor_pages`](Machine::declare_monitor_pages)) has any right for a VMPL above 0. And VMPL0 does not
//!   validate a guest page while another system page is validated for the same address.
//! - **O3 VMSA.** Every page with the VMSA flag holds a VMPL at or above the guest level
//!   ([`declare_guest_level`](Machine::declare_guest_level), 1 unless declared), or exactly the declared one
//!   ([`declare_vmsa`](Machine::declare_vmsa); launch VMSAs declare themselves); no VMPL above 0 can write it, by
//!   right or by a cached translation. If the monitor's registry is mirrored
//!   ([`registry_add`](Machine::registry_add)), every undeclared VMSA is in it, at every moment; and at a complete check every page of
//!   the registry has the flag.
//! - **O4 integrity.** A private read by VMPL0 returns for every byte the last value that VMPL0 wrote there through a
//!   private mapping. Bytes are forgotten when a VMPL that has the write right in the RMP at that moment writes them, when
//!   VMPL0 rescinds the page, and when the processor writes a VMSA.
//! - **O5 nonce.** The security processor saw no two messages under one key and number.
//! - **O6 dead means dead.** After a terminate request (VMGEXIT with such a GHCB MSR value) the VMSA that asked retires
//!   nothing but VMGEXIT, HLT, PAUSE, the GHCB MSR accesses of a loop around them and the end of its program; and if the host is
//!   honest nobody else retires anything.
//! - **O7 registers.** VMPL0 writes to the VMSA of another level, once that has been entered, change only RAX, RCX, RDX,
//!   R8, R9, EFER.SVME and the fields that are no register (exit information, interrupt control, event injection, vTOM,
//!   TLB bookkeeping); RBX and RIP too if the last exit was a reflected #VC.
//! - **O8 progress.** From the VMGEXIT of a level above 0, once VMPL0 runs on that vCPU, until VMPL0 asks the host to run
//!   another level or such a level is entered, VMPL0 takes at most as many steps as its [`ProgressLimit`] says; unless the
//!   caller's VMSA was retired meanwhile. A host that is not honest may prolong it: the count then begins anew with each
//!   exit of VMPL0, and PAUSE does not count.
//! - **O9 no crash.** With the honest host no program of VMPL0 ends or asks to be terminated. A nested fault of VMPL0 that the
//!   host does not repair is a stall, not a crash.

mod declare;
mod integrity;
mod liveness;
mod ownership;
mod registers;
mod secrecy;
mod secrets;

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::String;
use alloc::vec::Vec;

use crate::exec::Actor;
use crate::nested::page_of;
use crate::ranges::RangeSet;
use crate::rmp::perm;
use crate::{ExitInfo, Machine, Op, Outcome, PAGE_SIZE, RunKey, Vcpu, host};

pub use liveness::ProgressLimit;

/// One finding of an oracle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// `"O1"` to `"O9"`.
    pub oracle: &'static str,
    /// Steps the machine had executed.
    pub step: u64,
    /// What was found, without page contents.
    pub text: String,
}

impl core::fmt::Display for Violation {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{} at step {}: {}", self.oracle, self.step, self.text)
    }
}

/// Findings beyond this many are dropped.
const MAX_VIOLATIONS: usize = 64;

/// State of all oracles.
#[derive(Clone, Debug, Default)]
pub(crate) struct Oracles {
    pub(crate) violations: Vec<Violation>,
    /// Guest pages of the monitor.
    monitor: RangeSet,
    /// System pages that hold secrets.
    labels: BTreeSet<u64>,
    /// Byte strings that are secret.
    secrets: secrets::Secrets,
    guest_level: Option<u8>,
    /// VMSA pages with a declared level.
    declared_vmsas: BTreeMap<u64, u8>,
    registry: Option<BTreeSet<u64>>,
    shadow: integrity::Shadow,
    dead: Option<liveness::Dead>,
    /// By vCPU.
    calls: BTreeMap<u8, liveness::Call>,
    progress: ProgressLimit,
    monitor_may_end: bool,
}

impl Oracles {
    fn report(&mut self, step: u64, oracle: &'static str, text: String) {
        let known = self.violations.iter().any(|v| v.oracle == oracle && v.text == text);
        if !known && self.violations.len() < MAX_VIOLATIONS {
            self.violations.push(Violation { oracle, step, text });
        }
    }

    /// The contents of system pages are undefined from now on.
    pub(crate) fn contents_gone(&mut self, spa_page: u64, count: u64) {
        self.drop_labels(spa_page, count);
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

    /// Entries of system pages changed.
    pub(crate) fn oracle_rights_changed(&mut self, spa_page: u64, count: u64) {
        self.check_secrecy(spa_page, count);
        self.check_ownership(spa_page, count);
    }

    pub(crate) fn oracle_pvalidated(&mut self, _: Actor, gpa: u64, large: bool, validate: bool, changed: bool) {
        let count = if large { self.pages_per_large() } else { 1 };
        let first = page_of(gpa);
        if !validate && changed {
            self.oracles.shadow.forget_pages(first, count);
        }
        if validate {
            self.check_displaced(first, count);
        }
    }

    pub(crate) fn oracle_read(&mut self, actor: Actor, gpa: u64, spa_page: u64, private: bool, bytes: &[u8]) {
        if !private {
            return;
        }
        if actor.vmpl == 0 {
            self.check_read(gpa, bytes);
        } else {
            self.check_secret_read(actor, gpa, spa_page);
        }
    }

    /// Before a store.
    pub(crate) fn oracle_write(&mut self, actor: Actor, gpa: u64, spa_page: u64, private: bool, bytes: &[u8]) {
        if private && actor.vmpl == 0 {
            self.check_registers(gpa, spa_page, bytes);
        }
    }

    /// After a store.
    pub(crate) fn oracle_written(&mut self, actor: Actor, gpa: u64, spa_page: u64, private: bool, bytes: &[u8]) {
        self.shadow_written(actor, gpa, spa_page, private, bytes);
        self.label_written(actor, gpa, spa_page, private, bytes);
        if private && self.rmp.get(spa_page).vmsa {
            self.check_ownership(spa_page, 1);
        }
    }

    /// Before whole pages are zeroed.
    pub(crate) fn oracle_zero(&mut self, actor: Actor, gpa: u64, spa_page: u64, count: u64, private: bool) {
        for index in 0..count {
            if private && actor.vmpl == 0 && self.rmp.get(spa_page + index).vmsa {
                self.check_registers(gpa + index * PAGE_SIZE, spa_page + index, &[0; PAGE_SIZE as usize]);
            }
        }
        self.shadow_zeroed(actor, gpa, spa_page, count, private);
        self.oracles.drop_labels(spa_page, count);
    }

    /// The processor wrote to a VMSA page.
    pub(crate) fn oracle_hardware_wrote(&mut self, vmsa_gpa: u64) {
        self.oracles.shadow.forget_pages(page_of(vmsa_gpa), 1);
    }

    pub(crate) fn oracle_entered(&mut self, vcpu: Vcpu, key: RunKey, vmpl: u8) {
        self.check_vmsa_at(key.vmsa);
        self.check_nonce();
        self.call_entered(vcpu, vmpl);
    }

    pub(crate) fn oracle_left(&mut self, vcpu: Vcpu, exit: &ExitInfo) {
        self.death_noticed(vcpu, exit);
        self.call_left(vcpu, exit);
    }

    pub(crate) fn oracle_stepped(&mut self, actor: Actor, op: &Op, outcome: &Outcome) {
        self.check_dead(actor, op, outcome);
        self.call_stepped(actor, op, outcome);
        self.check_nonce();
    }

    fn check_nonce(&mut self) {
        if let Some(text) = self.psp.nonce_reuse() {
            self.violation("O5", text);
        }
    }

    /// The lowest VMPL number above 0 that can use a right on a system page: by the RMP, or by a cached translation.
    fn lower_level_with(&self, spa_page: u64, right: u8) -> Option<(u8, &'static str)> {
        let entry = self.rmp.get(spa_page);
        let usable = |vmpl: &u8| {
            let rights = entry.rights(*vmpl);
            // Nobody writes with a mask that lacks read.
            rights & right == right && (right != perm::WRITE || rights & perm::READ != 0)
        };
        if entry.assigned
            && entry.validated
            && let Some(vmpl) = (1..4).find(usable)
        {
            return Some((vmpl, "by right"));
        }
        let mut cached = self.vcpus.iter().flat_map(|state| state.tlb.lower_with(spa_page, right));
        cached.next().map(|(vmpl, _)| (vmpl, "by a cached translation"))
    }
}
