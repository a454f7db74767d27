//! CPUID as the host answers it (MSR 0x004, event 0x72). A guest that trusts it for more than APIC ids is lost.

use super::msr::C_BIT;
use super::policy::Policy;
use crate::op::Vcpu;

/// EAX, EBX, ECX, EDX of a leaf on a vCPU.
pub(super) fn answer(policy: &Policy, leaf: u32, subleaf: u32, vcpu: Vcpu) -> [u32; 4] {
    let honest = honest(leaf, subleaf, vcpu);
    match policy {
        Policy::LieCpuid => honest.map(|register| !register),
        Policy::LieCBit(bit) if leaf == 0x8000_001f => [honest[0], honest[1] & !0x3f | u32::from(*bit) & 0x3f, 0, 0],
        _ => honest,
    }
}

/// The few leaves that this host knows; others are zero.
fn honest(leaf: u32, subleaf: u32, vcpu: Vcpu) -> [u32; 4] {
    let id = u32::from(vcpu.0);
    match (leaf, subleaf) {
        // "AuthenticAMD", in EBX, EDX, ECX.
        (0, _) => [0xd, 0x6874_7541, 0x444d_4163, 0x6974_6e65],
        // Family 19h; APIC id; x2APIC and hypervisor present; APIC.
        (1, _) => [0x00a0_0f11, id << 24, 1 << 21 | 1 << 31, 1 << 9],
        (0xb, 0) => [0, 1, 1 << 8, id],
        (0xb, 1) => [3, 8, 2 << 8 | 1, id],
        (0xd, 0) => [7, 0x340, 0x340, 0],
        (0x4000_0000, _) => [0x4000_0000, 0, 0, 0],
        (0x8000_0000, _) => [0x8000_001f, 0x6874_7541, 0x444d_4163, 0x6974_6e65],
        (0x8000_001e, _) => [id, 0, 0, 0],
        // SME, SEV, SEV-ES, SNP, VMPL; C-bit position and one bit of address less.
        (0x8000_001f, _) => [1 << 1 | 1 << 3 | 1 << 4 | 1 << 5, 1 << 6 | u32::from(C_BIT), 0, 0],
        _ => [0; 4],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_the_apic_id_of_the_vcpu() {
        let at = |leaf| answer(&Policy::Honest, leaf, 0, Vcpu(5));
        assert_eq!(at(1)[1] >> 24, 5);
        assert_eq!(at(0xb)[3], 5);
        assert_eq!(at(0x8000_001e)[0], 5);
        assert_eq!(at(0x8000_001f)[1] & 0x3f, 51);
    }

    #[test]
    fn a_liar_complements_every_register() {
        for leaf in [0, 1, 0x8000_001f, 0x1234] {
            let (honest, lie) =
                (answer(&Policy::Honest, leaf, 0, Vcpu(1)), answer(&Policy::LieCpuid, leaf, 0, Vcpu(1)));
            assert!((0..4).all(|register| honest[register] == !lie[register]));
        }
        assert_eq!(answer(&Policy::LieCBit(47), 0x8000_001f, 0, Vcpu(0))[1] & 0x3f, 47);
    }
}
