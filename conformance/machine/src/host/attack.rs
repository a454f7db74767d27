//! What liars do to memory between exits.

use super::policy::Policy;
use crate::op::Vcpu;
use crate::{LARGE_PAGE_SIZE, Machine, PAGE_SIZE};

/// How far an attack on memory has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Progress {
    /// It has not happened.
    #[default]
    Before,
    /// It has; the page had this system address.
    Swapped(u64),
    /// Nothing is left to do.
    Over,
}

impl Machine {
    /// Does what the policy has in mind for a page, once its time has come. What RMPUPDATE refuses is tried again.
    pub(super) fn attack_memory(&mut self, vcpu: Vcpu) {
        let (progress, steps) = (self.host.attack, self.host.steps);
        if progress == Progress::Over {
            return;
        }
        let done = match self.host.policy(vcpu) {
            Policy::UnmapPage { gpa, after_steps } if steps >= after_steps => {
                self.map(gpa, false, None);
                Some(Progress::Over)
            }
            Policy::UnassignPage { gpa, after_steps } if steps >= after_steps => {
                self.move_page(gpa, None).map(|_| Progress::Over)
            }
            Policy::SwapPage { gpa, after_steps } if steps >= after_steps => {
                self.put_spare_page(gpa).map(|_| Progress::Over)
            }
            Policy::SwapBack { gpa, after_steps } => match progress {
                Progress::Before if steps >= after_steps => self.put_spare_page(gpa).map(Progress::Swapped),
                Progress::Swapped(spa) if steps >= after_steps.saturating_mul(2) => {
                    self.map(gpa, false, Some(spa));
                    Some(Progress::Over)
                }
                _ => None,
            },
            Policy::MarkDevice { gpa, after_steps } if steps >= after_steps => {
                self.mark_device(gpa, true);
                Some(Progress::Over)
            }
            Policy::RemapInto { from, to, after_steps } if steps >= after_steps => {
                self.move_page(from, Some(to)).map(|spa| {
                    self.map(from, false, None);
                    self.map(to, false, Some(spa));
                    Progress::Over
                })
            }
            _ => None,
        };
        self.host.attack = done.unwrap_or(progress);
    }

    /// Assigns the system page under `gpa` elsewhere and returns its address; `None` if RMPUPDATE refuses.
    fn move_page(&mut self, gpa: u64, to: Option<u64>) -> Option<u64> {
        let spa = self.translate(gpa)? & !(PAGE_SIZE - 1);
        if self.rmp_entry_at(spa).large {
            self.psmash(spa & !(LARGE_PAGE_SIZE - 1));
        }
        (self.rmpupdate(spa, false, to) == 0).then_some(spa)
    }

    /// Maps the first spare page at `gpa` and returns what was there.
    fn put_spare_page(&mut self, gpa: u64) -> Option<u64> {
        let old = self.translate(gpa)?;
        let (spare, _) = *self.config.spare.first()?;
        if self.rmpupdate(spare, false, Some(gpa)) != 0 {
            return None;
        }
        self.map(gpa, false, Some(spare));
        Some(old)
    }

    /// Splits every large RMP entry, for the host that does that.
    pub(super) fn smash(&mut self, vcpu: Vcpu) {
        if self.host.policy(vcpu) != Policy::SmashAll {
            return;
        }
        for gpa in self.host_large_pages() {
            self.fit_sizes(gpa);
        }
    }

    /// Flips a quadword of the GHCB page of a VMPL that is entered, for the host that does that.
    pub(super) fn flip_ghcb(&mut self, vcpu: Vcpu, owner: Vcpu, vmpl: u8) {
        if let Policy::FlipGhcb { offset, mask } = self.host.policy(vcpu)
            && let Some(page) = self.host.level(owner, vmpl).ghcb
        {
            self.flip(page, offset, mask);
        }
    }

    /// Called before each read of a guest with C=0, so that a host can change the page between two reads.
    pub(crate) fn before_shared_read(&mut self, vcpu: Vcpu, gpa: u64) {
        let page = gpa & !(PAGE_SIZE - 1);
        match self.host.policy(vcpu) {
            Policy::FlipGhcb { offset, mask } => {
                let current = self.host.vcpus.get(usize::from(vcpu.0)).and_then(|state| state.current);
                if current.is_some_and(|(owner, vmpl)| self.host.level(owner, vmpl).ghcb == Some(page)) {
                    self.flip(page, offset, mask);
                }
            }
            Policy::FlipResponse { offset, mask } if self.host.messages.response_gpa == Some(page) => {
                self.flip(page, offset, mask);
            }
            _ => {}
        }
    }

    fn flip(&mut self, page: u64, offset: u16, mask: u64) {
        let gpa = page + u64::from(offset & 0xff8);
        let mut bytes = [0; 8];
        self.host_read(gpa, &mut bytes);
        let value = u64::from_le_bytes(bytes) ^ mask;
        self.host_write(gpa, &value.to_le_bytes());
    }
}
