//! CPUID as the host answers it (MSR 0x004, event 0x72). A guest that trusts it for more than APIC ids is lost.

use super::msr::C_BIT;
use super::policy::Policy;
use crate::op::Vcpu;

/// What CPUID is asked, with the registers that the answer about extended state depends on, as far as they are told.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Leaf {
    pub(super) leaf: u32,
    pub(super) subleaf: u32,
    pub(super) xcr0: Option<u64>,
    pub(super) xss: Option<u64>,
}

/// EAX, EBX, ECX, EDX of a leaf on a vCPU.
pub(super) fn answer(policy: &Policy, leaf: Leaf, vcpu: Vcpu) -> [u32; 4] {
    let honest = honest(leaf, vcpu);
    match policy {
        Policy::LieCpuid => honest.map(|register| !register),
        Policy::LieCBit(bit) if leaf.leaf == 0x8000_001f => {
            [honest[0], honest[1] & !0x3f | u32::from(*bit) & 0x3f, 0, 0]
        }
        _ => honest,
    }
}

/// The few leaves that this host knows; others are zero.
fn honest(leaf: Leaf, vcpu: Vcpu) -> [u32; 4] {
    let id = u32::from(vcpu.0);
    let Leaf { leaf, subleaf, xcr0, xss } = leaf;
    // All that there is, unless the guest says what it uses: x87 and SSE, then AVX.
    let size = if xcr0.is_none_or(|xcr0| xcr0 & 4 != 0) { 0x340 } else { 0x240 };
    match (leaf, subleaf) {
        // "AuthenticAMD", in EBX, EDX, ECX.
        (0, _) => [0xd, 0x6874_7541, 0x444d_4163, 0x6974_6e65],
        // Family 19h; APIC id; x2APIC and hypervisor present; APIC.
        (1, _) => [0x00a0_0f11, id << 24, 1 << 21 | 1 << 31, 1 << 9],
        (0xb, 0) => [0, 1, 1 << 8, id],
        (0xb, 1) => [3, 8, 2 << 8 | 1, id],
        (0xd, 0) => [7, size, 0x340, 0],
        // XSAVEC and XSAVES; shadow stacks of user code take 16 bytes.
        (0xd, 1) => {
            [1 << 1 | 1 << 3, size + if xss.is_some_and(|xss| xss & 1 << 11 != 0) { 16 } else { 0 }, 1 << 11, 0]
        }
        (0xd, 2) => [0x100, 0x240, 0, 0],
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
        let at = |leaf| answer(&Policy::Honest, Leaf { leaf, ..Leaf::default() }, Vcpu(5));
        assert_eq!(at(1)[1] >> 24, 5);
        assert_eq!(at(0xb)[3], 5);
        assert_eq!(at(0x8000_001e)[0], 5);
        assert_eq!(at(0x8000_001f)[1] & 0x3f, 51);
    }

    #[test]
    fn a_liar_complements_every_register() {
        for leaf in [0, 1, 0x8000_001f, 0x1234] {
            let leaf = Leaf { leaf, ..Leaf::default() };
            let (honest, lie) = (answer(&Policy::Honest, leaf, Vcpu(1)), answer(&Policy::LieCpuid, leaf, Vcpu(1)));
            assert!((0..4).all(|register| honest[register] == !lie[register]));
        }
        let leaf = Leaf { leaf: 0x8000_001f, ..Leaf::default() };
        assert_eq!(answer(&Policy::LieCBit(47), leaf, Vcpu(0))[1] & 0x3f, 47);
    }

    #[test]
    fn the_size_of_the_extended_state_is_that_of_the_features_in_use() {
        let size = |subleaf, xcr0, xss| answer(&Policy::Honest, Leaf { leaf: 0xd, subleaf, xcr0, xss }, Vcpu(0))[1];
        assert_eq!([size(0, None, None), size(0, Some(7), None), size(0, Some(3), None)], [0x340, 0x340, 0x240]);
        assert_eq!([size(1, Some(3), Some(0)), size(1, Some(7), Some(1 << 11))], [0x240, 0x350]);
    }
}
