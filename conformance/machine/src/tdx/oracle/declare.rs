//! What harnesses declare, and the complete check.

use alloc::boxed::Box;
use alloc::vec::Vec;

use crate::nested::page_of;
use crate::oracle::ProgressLimit;
use crate::tdx::{Machine, Unswitched};
use crate::{PAGE_SIZE, Vcpu};

fn pages(start: u64, len: u64) -> core::ops::Range<u64> {
    page_of(start)..page_of(start.saturating_add(len).saturating_add(PAGE_SIZE - 1))
}

/// Declarations of the harness.
impl Machine {
    /// The bytes `start..start + len` of private memory belong to the monitor (O1, O2).
    pub fn declare_monitor_pages(&mut self, start: u64, len: u64) {
        let range = pages(start, len);
        self.oracles.monitor.insert(range.start, range.end);
        self.oracle_aliases_changed(range.start, range.end.saturating_sub(range.start));
    }

    /// The bytes `start..start + len` do not belong to the monitor any more.
    pub fn undeclare_monitor_pages(&mut self, start: u64, len: u64) {
        let range = pages(start, len);
        self.oracles.monitor.remove(range.start, range.end);
    }

    /// The private pages of `start..start + len` now hold secrets (O1).
    pub fn tag_secret(&mut self, start: u64, len: u64) {
        for page in pages(start, len) {
            if self.sept.get(page).is_some() {
                self.oracles.labels.insert(page);
                self.check_secrecy(page, 1);
            }
        }
    }

    /// These bytes are secret wherever they stand (O1). Fewer than 8 bytes would match by chance and are ignored.
    pub fn tag_secret_bytes(&mut self, bytes: &[u8]) {
        if bytes.len() >= 8 {
            self.oracles.secrets.push(bytes.to_vec());
        }
    }

    /// L1's values of what the module does not switch on a vCPU (O1, O4). Fields with the value after reset do not
    /// count.
    pub fn tag_unswitched(&mut self, vcpu: Vcpu, values: &Unswitched) {
        self.oracles.tags.insert(vcpu.0, Box::new(values.clone()));
    }

    /// How many steps L1 may take for a call (O8).
    pub fn set_progress_limit(&mut self, limit: ProgressLimit) {
        self.oracles.progress = limit;
    }

    /// Whether programs of L1 may end (O9): the test is over.
    pub fn allow_monitor_end(&mut self, allowed: bool) {
        self.oracles.monitor_may_end = allowed;
    }

    /// Checks all of the state. Costs in proportion to the memory that was ever mapped.
    pub fn check_all(&mut self) {
        let leaves: Vec<(u64, u64)> = self.sept.leaves().map(|found| (found.first, found.pages())).collect();
        for (first, count) in leaves {
            self.oracle_aliases_changed(first, count);
        }
        self.check_labels();
        self.check_shared();
        self.check_double_mapping();
        self.check_shadow();
    }
}
