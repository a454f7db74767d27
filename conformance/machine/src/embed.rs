//! What a hypervisor needs that runs real code under the rules of this machine.
//!
//! It executes loads, stores and fetches natively, under nested page tables that it fills from [`Machine::reach`]; every other
//! instruction that the architecture has a say in goes through [`Machine::step`], and exits through [`Machine::host`], as those
//! of a program do. Contents of memory are where its guests see them ([`Frames`]), and registers come and go by
//! [`Machine::registers_mut`]. What it has cached it drops after each call by [`Machine::take_changes`].
//!
//! Three things differ from a program on the step machine: there is no model of stale TLB entries, the oracles see no loads and
//! stores, and no native access meets an entry that another processor holds (RMP-039).

use alloc::vec::Vec;
use core::fmt;

use crate::exec::{Access, Actor, Stopped};
use crate::memory::PageBytes;
use crate::nested::page_of;
use crate::rmp::{npf, perm};
use crate::run::{Leave, Pending, exit_code};
use crate::{Config, Event, Machine, Op, Outcome, Vcpu, host};

/// System memory that the embedder keeps, by the number of its 4 KiB pages. Offsets and lengths stay in the page.
pub trait Frames: fmt::Debug + Sync {
    /// Copies from a page.
    fn read(&self, page: u64, offset: usize, out: &mut [u8]);
    /// Copies to a page.
    fn write(&self, page: u64, offset: usize, bytes: &[u8]);
}

/// EXITINFO1 of a level that stores into the VMSA that it runs: nothing that the host could repair.
const OWN_VMSA: u64 = npf::WRITE | npf::FINAL | npf::PRESENT | npf::RMP | npf::ENC | npf::VMPL;

/// What a native access wants to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Load.
    Read,
    /// Store.
    Write,
    /// Fetch at CPL 3 or below it.
    Fetch {
        /// CPL 3.
        user: bool,
    },
}

/// How a guest page may be mapped for the level that reached it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reached {
    /// System page.
    pub spa_page: u64,
    /// The page shows ciphertext: a page of the guest without the C-bit.
    pub ciphertext: bool,
    /// Stores are allowed.
    pub write: bool,
    /// Fetches are allowed at one CPL at least; the page does not tell which.
    pub execute: bool,
}

/// Pages of which an embedder has to forget what it has mapped.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// System pages with another RMP entry: (first, count).
    pub system: Vec<(u64, u64)>,
    /// Guest pages with another nested mapping: (first, count).
    pub guest: Vec<(u64, u64)>,
}

impl Reach {
    fn access(self) -> Access {
        match self {
            Self::Read => Access::Read,
            Self::Write => Access::Write,
            Self::Fetch { user: true } => Access::FetchUser,
            Self::Fetch { user: false } => Access::FetchSupervisor,
        }
    }
}

impl Machine {
    /// A machine before launch whose memory is the embedder's and that collects [`Changes`].
    ///
    /// # Panics
    /// As [`new`](Self::new).
    pub fn with_frames(config: Config, frames: &'static dyn Frames) -> Self {
        let mut machine = Self::new(config);
        machine.memory.keep_in(frames);
        machine.rmp.changed = Some(Vec::new());
        machine.nested.changed = Some(Vec::new());
        machine
    }

    /// Whether somebody embeds it.
    pub(crate) fn is_embedded(&self) -> bool {
        self.rmp.changed.is_some()
    }

    /// The registers of what runs on a vCPU, in the layout of the VMSA; `None` if nothing does.
    pub fn registers(&self, vcpu: Vcpu) -> Option<&PageBytes> {
        Some(&*self.vcpus.get(usize::from(vcpu.0))?.running.as_ref()?.registers)
    }

    /// The same, to be changed by what the guest executed natively.
    pub fn registers_mut(&mut self, vcpu: Vcpu) -> Option<&mut PageBytes> {
        Some(&mut *self.vcpus.get_mut(usize::from(vcpu.0))?.running.as_mut()?.registers)
    }

    /// What a native access of the level that runs on a vCPU meets: a page, an exception, or an exit. An exit saves the
    /// registers, so they have to be in place.
    ///
    /// # Errors
    /// [`Outcome::Fault`] or [`Outcome::Exit`].
    pub fn reach(&mut self, vcpu: Vcpu, gpa: u64, private: bool, reach: Reach) -> Result<Reached, Outcome> {
        let Some(vmpl) = self.running_vmpl(vcpu) else { return Err(Outcome::Exit) };
        let actor = Actor { vcpu, vmpl };
        // Fetches are private whatever the C-bit says (RMP-031); a page of the guest is no code through the shared alias.
        let result = match reach {
            Reach::Fetch { .. } if !private => {
                Err(Stopped::nested_fault(npf::FETCH | npf::FINAL | npf::PRESENT | npf::RMP, gpa))
            }
            // It would wait for itself, for ever.
            Reach::Write if private && self.runs_at(vcpu, gpa) => Err(Stopped::nested_fault(OWN_VMSA, gpa)),
            _ => self.reach_as(vmpl, gpa, private, reach),
        };
        result.map_err(|stopped| match stopped {
            Stopped::Fault(fault) => {
                // `deliver` needs the operation for what ReflectVC tells; the bytes do not matter.
                let op = match reach {
                    Reach::Read => Op::Read { gpa, len: 1, private },
                    Reach::Write => Op::Write { gpa, bytes: Vec::new(), private },
                    Reach::Fetch { user } => Op::Fetch { gpa, user },
                };
                self.deliver(actor, &op, fault)
            }
            Stopped::Exit(leave) => {
                self.leave(vcpu, &leave);
                Outcome::Exit
            }
        })
    }

    /// Whether a vCPU runs the VMSA in the page of this address.
    fn runs_at(&self, vcpu: Vcpu, gpa: u64) -> bool {
        self.running(vcpu).is_some_and(|key| page_of(key.vmsa) == page_of(gpa))
    }

    /// The same for a walk in software: what any level may do there, without an effect.
    pub fn reaches(&self, vmpl: u8, gpa: u64, private: bool, reach: Reach) -> Option<Reached> {
        self.reach_as(vmpl, gpa, private, reach).ok()
    }

    fn reach_as(&self, vmpl: u8, gpa: u64, private: bool, reach: Reach) -> Result<Reached, Stopped> {
        let cached = self.walk(vmpl, gpa, private, reach.access())?;
        let spa_page = cached.spa.wrapping_add(page_of(gpa).wrapping_sub(cached.gpa));
        if reach == Reach::Write {
            self.wait_for_vmsa(spa_page)?;
        }
        let has = |right: u8| cached.rights & right == right;
        Ok(Reached {
            spa_page,
            ciphertext: self.rmp.get(spa_page).assigned != private,
            // What runs is written by nobody, and becomes writable by a fault once it does not.
            write: has(perm::READ | perm::WRITE) && self.wait_for_vmsa(spa_page).is_ok(),
            execute: private && cached.rights & (perm::EXECUTE_USER | perm::EXECUTE_SUPERVISOR) != 0,
        })
    }

    /// Lets the host have a vCPU that runs, if it wants it: true if the vCPU left. Its registers have to be in place.
    pub fn poll(&mut self, vcpu: Vcpu) -> bool {
        if self.running_vmpl(vcpu).is_none() || !self.host_between_steps(vcpu) {
            return false;
        }
        self.leave(vcpu, &Leave::plain(exit_code::INTR, Pending::Retry));
        true
    }

    /// Whether the host wants a vCPU that runs to leave at its next step.
    pub fn is_wanted(&self, vcpu: Vcpu) -> bool {
        self.host.is_wanted(vcpu)
    }

    /// What changed since the last time; always empty unless made by [`with_frames`](Self::with_frames).
    pub fn take_changes(&mut self) -> Changes {
        let take = |list: &mut Option<Vec<(u64, u64)>>| list.as_mut().map(core::mem::take).unwrap_or_default();
        Changes { system: take(&mut self.rmp.changed), guest: take(&mut self.nested.changed) }
    }

    /// The events since the last time; empty unless [`Config::trace`] is set.
    pub fn take_trace(&mut self) -> Vec<Event> {
        core::mem::take(&mut self.trace.events)
    }

    /// What guests wrote to ports since the last time.
    pub fn take_port_writes(&mut self) -> Vec<host::PortWrite> {
        self.host.take_port_writes()
    }
}
