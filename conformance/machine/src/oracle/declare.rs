//! What harnesses declare, and the complete check.

use alloc::vec::Vec;

use super::ProgressLimit;
use crate::nested::page_of;
use crate::{Machine, PAGE_SIZE};

/// Declarations of the harness.
impl Machine {
    /// The bytes `start..start + len` of guest memory belong to the monitor (O1, O2).
    pub fn declare_monitor_pages(&mut self, start: u64, len: u64) {
        let (first, end) = (page_of(start), page_of(start.saturating_add(len).saturating_add(PAGE_SIZE - 1)));
        self.oracles.monitor.insert(first, end);
        for gpa_page in first..end {
            if let Some((spa, _)) = self.nested.get(gpa_page) {
                self.oracle_rights_changed(spa, 1);
            }
        }
    }

    /// The bytes `start..start + len` do not belong to the monitor any more.
    pub fn undeclare_monitor_pages(&mut self, start: u64, len: u64) {
        let end = page_of(start.saturating_add(len).saturating_add(PAGE_SIZE - 1));
        self.oracles.monitor.remove(page_of(start), end);
    }

    /// The pages that back `start..start + len` now hold secrets (O1).
    pub fn tag_secret(&mut self, start: u64, len: u64) {
        for gpa_page in page_of(start)..page_of(start.saturating_add(len).saturating_add(PAGE_SIZE - 1)) {
            if let Some((spa, _)) = self.nested.get(gpa_page) {
                self.oracles.labels.insert(spa);
                self.check_secrecy(spa, 1);
            }
        }
    }

    /// These bytes are secret wherever they stand (O1). Fewer than 8 bytes would match by chance and are ignored.
    pub fn tag_secret_bytes(&mut self, bytes: &[u8]) {
        self.oracles.secrets.add(bytes);
    }

    /// The most privileged VMPL that the guest may run at (O3).
    pub fn declare_guest_level(&mut self, vmpl: u8) {
        self.oracles.guest_level = Some(vmpl);
    }

    /// This VMSA page is meant to run at exactly this VMPL and need not be in the registry (O3): the monitor's own.
    pub fn declare_vmsa(&mut self, gpa: u64, vmpl: u8) {
        self.oracles.declared_vmsas.insert(gpa, vmpl);
        self.check_vmsa_at(gpa);
    }

    /// The monitor has a VMSA page in its registry now. The first call makes the registry count (O3).
    pub fn registry_add(&mut self, gpa: u64) {
        self.oracles.registry.get_or_insert_default().insert(gpa);
    }

    /// The monitor has removed a VMSA page from its registry.
    pub fn registry_remove(&mut self, gpa: u64) {
        self.oracles.registry.get_or_insert_default().remove(&gpa);
        self.check_vmsa_at(gpa);
    }

    /// How many steps VMPL0 may take for a call (O8).
    pub fn set_progress_limit(&mut self, limit: ProgressLimit) {
        self.oracles.progress = limit;
    }

    /// Whether the program of VMPL0 may end (O9): the test is over.
    pub fn allow_monitor_end(&mut self, allowed: bool) {
        self.oracles.monitor_may_end = allowed;
    }

    /// Checks all of the state. Costs in proportion to the memory that was ever touched.
    pub fn check_all(&mut self) {
        let entries: Vec<(u64, u64)> = self.rmp.assigned().map(|(page, count, _)| (page, count)).collect();
        for (page, count) in entries {
            self.oracle_rights_changed(page, count);
        }
        self.check_all_secrets();
        self.check_double_validation();
        self.check_registry();
        self.check_shadow();
        self.check_nonce();
    }
}
