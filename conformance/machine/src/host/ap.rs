//! AP creation, event 0x80000013 (facts: ap_creation).

use super::At;
use super::Level;
use super::ghcb::{Malformed, Reply};
use super::switch::VMPLS;
use crate::op::Vcpu;
use crate::{LARGE_PAGE_SIZE, Machine, PAGE_SIZE};

/// SEV_FEATURES: SNP is active.
const SNP_ACTIVE: u64 = 1 << 0;
/// SEV_FEATURES: #VC goes to a more privileged level.
const REFLECT_VC: u64 = 1 << 2;
/// SEV_FEATURES: restricted and alternate injection, which have to be as the host runs them: off.
const INJECTION: u64 = 1 << 3 | 1 << 4;

/// When a VMSA begins to run, or that it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// After the next INIT, or when another VMPL asks for it.
    CreateOnInit,
    /// As soon as the vCPU is free.
    Create,
    Destroy,
}

/// What the machine has.
#[derive(Clone, Copy, Debug)]
struct Limits {
    vcpus: u8,
    vmpls: u8,
}

/// A request as its fields say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Creation {
    kind: Kind,
    vmpl: u8,
    vcpu: Vcpu,
    vmsa: u64,
    reflects: bool,
}

impl Creation {
    /// Checks what does not depend on the state of the host. `features` is RAX, which only creation needs.
    fn decode(info1: u64, info2: u64, features: Result<u64, Malformed>, limits: Limits) -> Result<Self, Malformed> {
        let kind = match info1 & 0xffff {
            0 => Kind::CreateOnInit,
            1 => Kind::Create,
            2 => Kind::Destroy,
            _ => return Err(Malformed::InvalidInput),
        };
        let (vmpl, reserved, apic_id) = (info1 >> 16 & 0xf, info1 >> 20 & 0xfff, info1 >> 32);
        if reserved != 0 || vmpl >= u64::from(limits.vmpls) || apic_id >= u64::from(limits.vcpus) {
            return Err(Malformed::InvalidInput);
        }
        let mut reflects = false;
        if kind != Kind::Destroy {
            let features = features?;
            reflects = features & REFLECT_VC != 0;
            let frame = info2.is_multiple_of(PAGE_SIZE) && !info2.is_multiple_of(LARGE_PAGE_SIZE);
            if !frame || features & SNP_ACTIVE == 0 || features & INJECTION != 0 {
                return Err(Malformed::InvalidInput);
            }
        }
        // Both are below 8.
        Ok(Self { kind, vmpl: vmpl as u8, vcpu: Vcpu(apic_id as u8), vmsa: info2, reflects })
    }
}

impl Machine {
    /// Serves one request. A VMSA that runs is replaced or destroyed when it exits.
    pub(super) fn ap_creation(
        &mut self,
        at: At,
        info1: u64,
        info2: u64,
        features: Result<u64, Malformed>,
    ) -> Result<Reply, Malformed> {
        // At most 8 vCPUs.
        let limits = Limits { vcpus: self.host.vcpus.len() as u8, vmpls: self.config.vmpls.min(VMPLS) };
        let Creation { kind, vmpl, vcpu, vmsa, reflects } = Creation::decode(info1, info2, features, limits)?;
        // VMPL0 decides what runs at VMPL0.
        if vmpl == 0 && at.vmpl != 0 {
            return Err(Malformed::InvalidInput);
        }
        if kind != Kind::Destroy && self.translate(vmsa).is_none() {
            return Err(Malformed::InvalidInput);
        }
        let vmsa = (kind != Kind::Destroy).then_some(vmsa);
        *self.host.level_mut(vcpu, vmpl) = Level { vmsa, reflects, ..Level::default() };
        let state = self.host.vcpu_mut(vcpu);
        // One that runs leaves at its next step.
        state.interrupt |= state.current == Some((vcpu, vmpl));
        state.start = state.start.filter(|start| *start != vmpl);
        state.on_init = state.on_init.filter(|start| *start != vmpl);
        match kind {
            Kind::CreateOnInit => state.on_init = Some(vmpl),
            Kind::Create => state.start = Some(vmpl),
            Kind::Destroy => {}
        }
        Ok(Reply::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VMSA: u64 = 0x1_3000;
    const LIMITS: Limits = Limits { vcpus: 2, vmpls: 3 };

    fn decode(info1: u64, info2: u64) -> Result<Creation, Malformed> {
        Creation::decode(info1, info2, Ok(SNP_ACTIVE), LIMITS)
    }

    #[test]
    fn takes_all_three_kinds() {
        for (code, kind) in [(0, Kind::CreateOnInit), (1, Kind::Create), (2, Kind::Destroy)] {
            let creation = Creation { kind, vmpl: 2, vcpu: Vcpu(1), vmsa: VMSA, reflects: false };
            assert_eq!(decode(1 << 32 | 2 << 16 | code, VMSA), Ok(creation));
        }
    }

    #[test]
    fn refuses_what_the_facts_refuse() {
        let bad = [
            (3, VMSA),           // no such request
            (1 | 3 << 16, VMSA), // no such VMPL
            (1 | 1 << 20, VMSA), // reserved
            (1 | 1 << 31, VMSA), // reserved
            (1 | 2 << 32, VMSA), // no such APIC id
            (1, VMSA + 8),       // not aligned
            (1, 0x20_0000),      // 2M aligned
            (0, 0x20_0000),
            (2 | 2 << 32, VMSA),
        ];
        for (info1, info2) in bad {
            assert_eq!(decode(info1, info2), Err(Malformed::InvalidInput), "{info1:#x} {info2:#x}");
        }
    }

    #[test]
    fn needs_features_for_creation_only() {
        let missing = Err(Malformed::MissingInput);
        assert_eq!(Creation::decode(0, VMSA, missing, LIMITS), Err(Malformed::MissingInput));
        assert_eq!(Creation::decode(1, VMSA, missing, LIMITS), Err(Malformed::MissingInput));
        assert!(Creation::decode(2, VMSA, missing, LIMITS).is_ok());
        assert!(Creation::decode(2, 0, missing, LIMITS).is_ok());
    }

    #[test]
    fn refuses_injection_modes_that_the_host_does_not_run() {
        for features in [0, SNP_ACTIVE | 1 << 3, SNP_ACTIVE | 1 << 4] {
            assert_eq!(Creation::decode(1, VMSA, Ok(features), LIMITS), Err(Malformed::InvalidInput));
        }
        assert!(Creation::decode(1, VMSA, Ok(SNP_ACTIVE | 1 << 5), LIMITS).is_ok());
    }
}
