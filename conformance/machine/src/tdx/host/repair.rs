//! What the host does about EPT violations.

use super::policy::Policy;
use super::{Machine, Next};
use crate::nested::page_of;
use crate::tdx::{EptCause, Stop};
use crate::{PAGE_SIZE, PAGES_PER_LARGE, Vcpu};

/// A leaf wants this page as 2 MiB or more.
fn wants_large(cause: EptCause) -> bool {
    matches!(cause, EptCause::Accept { level: 1.. } | EptCause::AttrWrite { level: 1.. })
}

/// A leaf wants this page as 4 KiB.
fn wants_small(cause: EptCause) -> bool {
    matches!(cause, EptCause::Accept { level: 0 } | EptCause::AttrWrite { level: 0 })
}

impl Machine {
    pub(super) fn repair(&mut self, vcpu: Vcpu, level: u8, gpa: u64, cause: EptCause) -> Next {
        let page = page_of(gpa);
        let stop = Next::Stop(Stop::EptViolation { gpa, level });
        if !self.is_private(gpa) || !self.ram.contains(page) || self.host.is_shared(page) {
            return if level > 0 { self.resume_l1(vcpu) } else { stop };
        }
        if self.host.withheld.contains(&page) || self.host.policy(vcpu) == Policy::MapsNothing {
            return stop;
        }
        if let EptCause::Table { vm, .. } = cause {
            if matches!(self.host.policy(vcpu), Policy::NoTables { .. }) {
                return stop;
            }
            self.host_add_table(vm, gpa);
            return Next::Same;
        }
        let done = match self.sept.get(page) {
            None => self.map_for(page, wants_large(cause)),
            Some(found) if !found.leaf.blocked && found.large && wants_small(cause) => self.host_demote_page(gpa),
            Some(_) => false,
        };
        if done { Next::Same } else { stop }
    }

    /// Maps a page, large if wanted and possible.
    fn map_for(&mut self, page: u64, large: bool) -> bool {
        let first = page - page % PAGES_PER_LARGE;
        let end = first + PAGES_PER_LARGE;
        let whole = large
            && self.config.large_pages
            && page == first
            && self.sept.is_empty(page)
            && self.ram.covers(first, end)
            && self.host.shared.first_within(first, end).is_none()
            && self.host.withheld.range(first..end).next().is_none();
        if !self.config.table_exits {
            // L2_SEPT_WALK_FAILED would be no help to anybody.
            self.vms().for_each(|vm| {
                self.tables.insert((vm, page / PAGES_PER_LARGE));
            });
        }
        self.host_add_page(page * PAGE_SIZE, whole)
    }

    /// Whether the table page of a VM for an address is there.
    pub(crate) fn has_table(&self, vcpu: Vcpu, vm: u8, gpa: u64) -> bool {
        if matches!(self.host.policy(vcpu), Policy::NoTables { .. }) {
            return false;
        }
        self.config.tables_present || self.tables.contains(&(vm, page_of(gpa) / PAGES_PER_LARGE))
    }

    /// VM_CTLS bit 0.
    pub(crate) fn table_exits(&self, vcpu: Vcpu) -> bool {
        match self.host.policy(vcpu) {
            Policy::NoTables { exits } => exits,
            _ => self.config.table_exits,
        }
    }
}
