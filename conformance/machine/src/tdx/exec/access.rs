//! The checks of a data access or fetch, and the TLB in front of them.

use super::{Actor, Stopped};
use crate::nested::page_of;
use crate::tdx::exit::{GLA_VALID, L2Exit, access_bits};
use crate::tdx::module::fields::ENABLE_SHARED_EPTP;
use crate::tdx::sept::attr;
use crate::tdx::status::reason;
use crate::tdx::tlb::Cached;
use crate::tdx::vcpu::VeInfo;
use crate::tdx::vmcs::{bit, field};
use crate::tdx::{EptCause, Fault, Machine, TdExit};

/// What an access wants to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    Write,
    FetchUser,
    FetchSupervisor,
}

impl Access {
    fn cause(self) -> EptCause {
        match self {
            Self::Read => EptCause::Read,
            Self::Write => EptCause::Write,
            Self::FetchUser | Self::FetchSupervisor => EptCause::Fetch,
        }
    }

    /// Rights of an alias that it needs. Xu counts only with mode-based execute control (TDX-58).
    fn rights(self, mode_based: bool) -> u16 {
        match self {
            Self::Read => attr::READ,
            Self::Write => attr::WRITE,
            Self::FetchUser if mode_based => attr::EXECUTE_USER,
            Self::FetchUser | Self::FetchSupervisor => attr::EXECUTE_SUPERVISOR,
        }
    }
}

/// Where an access leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    /// System page of private memory, guest page of shared memory.
    pub(crate) page: u64,
    /// Pages that the translation covers from this one on.
    pub(crate) pages: u64,
    pub(crate) shared: bool,
}

impl Target {
    /// Where a translation leads for a guest page inside of it.
    fn of(entry: &Cached, page: u64) -> Self {
        let within = page.wrapping_sub(entry.first);
        let pages = entry.pages().saturating_sub(within).max(1);
        Self { page: entry.spa.wrapping_add(within), pages, shared: false }
    }
}

/// Why a walk found nothing usable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Denied {
    /// Not mapped or blocked: the host's.
    Host,
    /// Not accepted.
    Pending,
    /// The alias has only these rights.
    Rights(u16),
}

impl Machine {
    /// Translates and checks an access to one page, for an L2 through its TLB.
    pub(crate) fn access(&mut self, actor: Actor, gpa: u64, private: bool, access: Access) -> Result<Target, Stopped> {
        let shared_bit = self.shared_bit();
        let base = gpa & !shared_bit;
        if base >= shared_bit {
            // Beyond the address width: L1 cannot even map it, an L2 exits to L1.
            return Err(match actor.level {
                0 => Stopped::GENERAL_PROTECTION,
                _ => Stopped::ToL1(self.violation_exit(actor, gpa, access, 0, 0)),
            });
        }
        if !private || gpa & shared_bit != 0 {
            return self.shared_access(actor, base, access);
        }
        let page = page_of(gpa);
        match self.private_access(actor, page, access) {
            Ok(entry) => Ok(Target::of(&entry, page)),
            Err(denied) => Err(self.denied(actor, gpa, access, denied)),
        }
    }

    /// Memory of L1 that a leaf takes as an operand. Out of reach it is the host's turn, or #VE for a pending page.
    pub(crate) fn memory_operand(&mut self, actor: Actor, gpa: u64, access: Access) -> Result<Target, Stopped> {
        let violation = TdExit::EptViolation { level: actor.level, gpa, cause: EptCause::Operand };
        let page = page_of(gpa & !self.shared_bit());
        if gpa & self.shared_bit() != 0 {
            let mapped = self.host.is_shared(page);
            return mapped.then_some(Target { page, pages: 1, shared: true }).ok_or(Stopped::Td(violation));
        }
        match self.walk(0, page, 0) {
            Ok(entry) => Ok(Target::of(&entry, page)),
            Err(Denied::Pending) if !self.pending_ve_disable() => {
                let qualification = access_bits(access.cause());
                Err(self
                    .raise_ve(actor, VeInfo { reason: reason::EPT_VIOLATION, qualification, gla: 0, gpa, length: 0 }))
            }
            Err(_) => Err(Stopped::Td(violation)),
        }
    }

    fn private_access(&mut self, actor: Actor, page: u64, access: Access) -> Result<Cached, Denied> {
        if actor.level == 0 {
            return self.walk(0, page, 0);
        }
        let needed = access.rights(self.has_mode_based_execute(actor));
        let caches = self.rule("TDX-34");
        let cached = self.guest(actor.vcpu, actor.level).filter(|_| caches).and_then(|guest| guest.tlb.find(page));
        if let Some(entry) = cached.filter(|entry| entry.rights & needed == needed) {
            return Ok(entry);
        }
        let entry = self.walk(actor.level, page, needed)?;
        if let Some(guest) = self.guest_mut(actor.vcpu, actor.level).filter(|_| caches) {
            guest.tlb.insert(entry);
        }
        Ok(entry)
    }

    /// The walk of a private page without a TLB. Nothing changes.
    pub(crate) fn walk(&self, level: u8, page: u64, needed: u16) -> Result<Cached, Denied> {
        let found = self.sept.get(page).ok_or(Denied::Host)?;
        if found.leaf.blocked && self.rule("BLOCKED") {
            return Err(Denied::Host);
        }
        if !found.leaf.accepted && self.rule("TDX-21") {
            return Err(Denied::Pending);
        }
        let rights = match level {
            0 => attr::RIGHTS,
            vm => found.leaf.alias(vm),
        };
        let has_alias = level == 0 || rights & attr::VALID != 0 || !self.rule("TDX-22");
        let suffices = rights & needed == needed || !self.rule("TDX-23") || !self.rule("TDX-22");
        if !has_alias || !suffices {
            return Err(Denied::Rights(rights & attr::RIGHTS));
        }
        let rights = if rights & needed == needed { rights & attr::RIGHTS } else { attr::RIGHTS };
        Ok(Cached { first: found.first, spa: found.leaf.spa, large: found.large, rights })
    }

    fn denied(&mut self, actor: Actor, gpa: u64, access: Access, denied: Denied) -> Stopped {
        let violation = TdExit::EptViolation { level: actor.level, gpa, cause: access.cause() };
        match (denied, actor.level) {
            (Denied::Host, _) => Stopped::Td(violation),
            (Denied::Pending, 0) if self.pending_ve_disable() => Stopped::Td(violation),
            (_, 0) => self.ept_ve(actor, gpa, access),
            (Denied::Pending, _) => Stopped::ToL1(self.violation_exit(actor, gpa, access, 0, PENDING_EPT_VIOLATION)),
            (Denied::Rights(rights), _) => Stopped::ToL1(self.violation_exit(actor, gpa, access, rights, 0)),
        }
    }

    /// Shared memory is what the host holds as shared. An L2 has it as a whole or not at all (TDX-27).
    fn shared_access(&mut self, actor: Actor, base: u64, access: Access) -> Result<Target, Stopped> {
        if matches!(access, Access::FetchUser | Access::FetchSupervisor) {
            return Err(Stopped::GENERAL_PROTECTION);
        }
        let page = page_of(base);
        let enabled =
            actor.level == 0 || self.l2_ctls(actor.vcpu, actor.level) & ENABLE_SHARED_EPTP != 0 || !self.rule("TDX-27");
        if enabled && self.host.is_shared(page) {
            return Ok(Target { page, pages: 1, shared: true });
        }
        let gpa = base | self.shared_bit();
        if actor.level == 0 && !self.ram.contains(page) {
            return Err(self.ept_ve(actor, gpa, access));
        }
        let exit = TdExit::EptViolation { level: actor.level, gpa, cause: access.cause() };
        Err(Stopped::Td(exit))
    }

    fn ept_ve(&mut self, actor: Actor, gpa: u64, access: Access) -> Stopped {
        let qualification = access_bits(access.cause()) | GLA_VALID;
        self.raise_ve(actor, VeInfo { reason: reason::EPT_VIOLATION, qualification, gla: gpa, gpa, length: 0 })
    }

    /// #VE in L1. While the information of another one was not read it is a double fault, which ends L1 here
    /// (ve_info.csv).
    pub(super) fn raise_ve(&mut self, actor: Actor, info: VeInfo) -> Stopped {
        match self.vcpu_mut(actor.vcpu) {
            Some(state) if state.ve.is_none() => {
                state.ve = Some(info);
                Stopped::Fault(Fault::Ve { reason: info.reason, gpa: info.gpa })
            }
            _ => Stopped::Td(TdExit::TripleFault),
        }
    }

    /// Reason 48 for L1: bits of the access, rights that were there, linear address valid.
    fn violation_exit(&self, actor: Actor, gpa: u64, access: Access, rights: u16, extended: u8) -> L2Exit {
        let user = u64::from(rights & attr::EXECUTE_USER != 0 && self.has_mode_based_execute(actor)) << 6;
        let present = u64::from(rights & (attr::READ | attr::WRITE | attr::EXECUTE_SUPERVISOR)) << 3;
        let qualification = access_bits(access.cause()) | present | user | GLA_VALID;
        L2Exit { qualification, gla: gpa, gpa, extended, ..L2Exit::of(reason::EPT_VIOLATION) }
    }

    fn has_mode_based_execute(&self, actor: Actor) -> bool {
        let guest = self.guest(actor.vcpu, actor.level);
        guest.is_some_and(|guest| guest.vmcs.has(field::SECONDARY_CONTROLS, bit::MODE_BASED_EXECUTE))
    }
}

/// R13: the page is pending.
const PENDING_EPT_VIOLATION: u8 = 6;
