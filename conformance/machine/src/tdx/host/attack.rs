//! What liars do to private memory between exits.

use super::Machine;
use super::policy::Policy;
use crate::nested::page_of;
use crate::{PAGE_SIZE, Vcpu};

/// How far an attack on memory has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Progress {
    /// It has not happened.
    #[default]
    Before,
    /// Nothing is left to do.
    Over,
}

impl Machine {
    /// Does what the policy has in mind for a page, once its time has come and the page is mapped.
    pub(super) fn attack_memory(&mut self, vcpu: Vcpu) {
        if self.host.attack == Progress::Over {
            return;
        }
        let steps = self.host.steps;
        let done = match self.host.policy(vcpu) {
            Policy::ReaddPage { gpa, after_steps } if steps >= after_steps => {
                self.take(gpa).is_some() && self.host_add_page(gpa, false)
            }
            Policy::RemovePage { gpa, after_steps } if steps >= after_steps => {
                self.host.withheld.insert(page_of(gpa));
                self.take(gpa).is_some()
            }
            Policy::BlockPage { gpa, after_steps } if steps >= after_steps => self.host_block_page(gpa),
            Policy::AliasPage { from, to, after_steps } if steps >= after_steps => self.put_under(from, to),
            _ => false,
        };
        if done {
            self.host.attack = Progress::Over;
        }
    }

    /// Takes a 4 KiB page away; what is around it stays.
    fn take(&mut self, gpa: u64) -> Option<()> {
        self.sept.get(page_of(gpa))?;
        self.host_demote_page(gpa);
        self.host_remove_page(gpa).then_some(())
    }

    /// Tries to put the system page of one guest page under another one too. The module refuses; then the other one
    /// gets memory of its own again.
    fn put_under(&mut self, from: u64, to: u64) -> bool {
        let Some(found) = self.sept.get(page_of(from)) else { return false };
        let spa = found.spa_of(page_of(from));
        if self.take(to).is_none() {
            return false;
        }
        if !self.host_add_system_page(to, false, spa * PAGE_SIZE) {
            self.host_add_page(to, false);
        }
        true
    }

    /// Splits every large page, for the host that does that.
    pub(super) fn split_all(&mut self, vcpu: Vcpu) {
        if self.host.policy(vcpu) != Policy::SplitAll {
            return;
        }
        let large: alloc::vec::Vec<u64> =
            self.sept.leaves().filter(|found| found.large).map(|found| found.first * PAGE_SIZE).collect();
        for gpa in large {
            self.host_demote_page(gpa);
        }
    }
}
