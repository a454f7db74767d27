//! The checks of a data access or fetch, and the TLB in front of them.

use super::{Actor, Stopped};
use crate::nested::{MapSize, page_of};
use crate::rmp::{GUEST_ASID, npf, perm};
use crate::run::{Leave, Pending, exit_code};
use crate::tlb::Cached;
use crate::{Machine, PAGE_SIZE, VmsaWrite, vmsa};

/// What an access wants to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    Write,
    FetchUser,
    FetchSupervisor,
    /// Of a supervisor shadow stack. Counts as a write where VmplSSS is off.
    ShadowStack,
}

impl Access {
    /// Rights it needs. A mask with write but without read is illegal, so that a write needs both (vmpl_perms.csv).
    fn rights(self) -> u8 {
        match self {
            Self::ShadowStack => perm::READ | perm::WRITE | perm::SHADOW_STACK,
            Self::Read => perm::READ,
            Self::Write => perm::READ | perm::WRITE,
            Self::FetchUser => perm::EXECUTE_USER,
            Self::FetchSupervisor => perm::EXECUTE_SUPERVISOR,
        }
    }

    fn info_bits(self) -> u64 {
        match self {
            Self::Read => 0,
            Self::Write => npf::WRITE,
            Self::ShadowStack => npf::WRITE | npf::SHADOW_STACK,
            Self::FetchUser => npf::FETCH | npf::USER,
            Self::FetchSupervisor => npf::FETCH,
        }
    }
}

/// Where an access leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    /// System page of the address.
    pub(crate) spa_page: u64,
    /// Pages that the translation covers from this one on.
    pub(crate) pages: u64,
}

impl Machine {
    /// Translates and checks an access to one page, through the TLB. Fetches are private whatever the C-bit says (RMP-031).
    pub(crate) fn access(&mut self, actor: Actor, gpa: u64, private: bool, access: Access) -> Result<Target, Stopped> {
        let access = match access {
            Access::ShadowStack if !self.has_shadow_stack_right(actor) => Access::Write,
            other => other,
        };
        let page = page_of(gpa);
        let index = usize::from(actor.vcpu.0);
        let cached = if self.rule("RMP-055") {
            self.vcpus.get(index).and_then(|state| state.tlb.find(actor.vmpl, private, page))
        } else {
            None
        };
        let needed = access.rights();
        let entry = match cached.filter(|entry| entry.rights & needed == needed) {
            Some(entry) => entry,
            None => {
                self.meet_busy_entry(gpa, private, access)?;
                let entry = self.walk(actor.vmpl, gpa, private, access)?;
                if self.rule("RMP-055")
                    && let Some(state) = self.vcpus.get_mut(index)
                {
                    state.tlb.insert(actor.vmpl, private, entry);
                }
                entry
            }
        };
        let within = page.wrapping_sub(entry.gpa);
        let target =
            Target { spa_page: entry.spa.wrapping_add(within), pages: entry.pages.saturating_sub(within).max(1) };
        if matches!(access, Access::Write | Access::ShadowStack) {
            self.wait_for_vmsa(target.spa_page)?;
        }
        Ok(target)
    }

    /// The spurious fault of an entry that another processor holds (RMP-039); the repeated access meets it no more.
    fn meet_busy_entry(&mut self, gpa: u64, private: bool, access: Access) -> Result<(), Stopped> {
        let is_checked = private || access == Access::Write;
        if let Some((spa, _)) = self.nested.get(page_of(gpa)).filter(|_| is_checked)
            && self.busy.remove(&spa)
        {
            let encrypted = if private { npf::ENC } else { 0 };
            let info = access.info_bits() | npf::FINAL | npf::PRESENT | npf::RMP | encrypted;
            return Err(Stopped::nested_fault(info, gpa));
        }
        Ok(())
    }

    /// Whether the right to supervisor shadow stacks counts for whoever runs (VmplSSS in its VMSA).
    fn has_shadow_stack_right(&self, actor: Actor) -> bool {
        let state = self.vcpus.get(usize::from(actor.vcpu.0)).and_then(|state| state.running.as_ref());
        state.is_some_and(|running| {
            vmsa::read_u64(&running.registers[..], vmsa::SEV_FEATURES) & vmsa::features::VMPL_SSS != 0
        })
    }

    /// A store into a VMSA that runs does not complete, if this machine is built so.
    pub(crate) fn wait_for_vmsa(&self, spa_page: u64) -> Result<(), Stopped> {
        if self.config.vmsa_write == VmsaWrite::Waits && self.is_running_vmsa(spa_page) {
            return Err(Stopped::Exit(Leave::plain(exit_code::INTR, Pending::Retry)));
        }
        Ok(())
    }

    /// The walk without a TLB (RMP-030 to RMP-037). Nothing changes.
    pub(crate) fn walk(&self, vmpl: u8, gpa: u64, private: bool, access: Access) -> Result<Cached, Stopped> {
        let page = page_of(gpa);
        let info = access.info_bits() | npf::FINAL;
        let encrypted = if private { npf::ENC } else { 0 };
        if self.nested.is_device(page) {
            return Err(Stopped::device(gpa));
        }
        let Some((spa, size)) = self.nested.get(page) else {
            return Err(Stopped::nested_fault(info | encrypted, gpa));
        };
        let entry = self.rmp.get(spa);
        let info = info | npf::PRESENT | npf::RMP;
        if !private {
            if access == Access::Write && entry.assigned && self.rule("RMP-035") {
                return Err(Stopped::nested_fault(info, gpa));
            }
            let rights = if entry.assigned && self.rule("RMP-035") { perm::READ } else { perm::READ | perm::WRITE };
            return Ok(Cached { gpa: page, spa, pages: 1, rights });
        }
        let info = info | npf::ENC;
        let owned = entry.assigned && entry.asid == GUEST_ASID && !entry.immutable;
        if self.rule("RMP-032") && (!owned || entry.gpa != page.wrapping_mul(PAGE_SIZE)) {
            return Err(Stopped::nested_fault(info, gpa));
        }
        if size != MapSize::Auto && (size == MapSize::Large) != entry.large && self.rule("RMP-037") {
            return Err(Stopped::nested_fault(info, gpa));
        }
        if !entry.validated && self.rule("RMP-033") {
            return Err(Stopped::not_validated(gpa));
        }
        let needed = access.rights();
        let rights = if self.rule("RMP-034") { entry.rights(vmpl) } else { perm::ALL };
        if rights & needed != needed || rights & (perm::READ | perm::WRITE) == perm::WRITE && is_data(access) {
            let missing = needed & !rights;
            let shadow = if missing & perm::SHADOW_STACK != 0 { npf::SSS } else { 0 };
            return Err(Stopped::nested_fault(info | npf::VMPL | shadow, gpa));
        }
        let pages = if entry.large { self.pages_per_large() } else { 1 };
        let within = page % pages;
        Ok(Cached { gpa: page.wrapping_sub(within), spa: spa.wrapping_sub(within), pages, rights })
    }
}

fn is_data(access: Access) -> bool {
    matches!(access, Access::Read | Access::Write)
}
