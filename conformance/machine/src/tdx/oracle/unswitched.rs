//! O1 and O4 for the state that the module does not switch (TDX-20).

use alloc::format;

use crate::Vcpu;
use crate::tdx::status::leaf;
use crate::tdx::{Machine, Op, Unswitched};

/// Each field by name as 64-bit words, vector registers in pieces of 8 bytes.
pub(crate) fn words(state: &Unswitched) -> impl Iterator<Item = (&'static str, u64)> + '_ {
    let vector = state.vector.chunks_exact(8).map(|chunk| {
        let mut quad = [0; 8];
        quad.copy_from_slice(chunk);
        ("vector registers", u64::from_le_bytes(quad))
    });
    let [dr0, dr1, dr2, dr3] = state.dr;
    let others = [
        ("XCR0", state.xcr0),
        ("CR2", state.cr2),
        ("DR0", dr0),
        ("DR1", dr1),
        ("DR2", dr2),
        ("DR3", dr3),
        ("DR6", state.dr6),
        ("STAR", state.star),
        ("LSTAR", state.lstar),
        ("FMASK", state.fmask),
        ("KERNEL_GS_BASE", state.kernel_gs_base),
        ("TSC_AUX", state.tsc_aux),
        ("XSS", state.xss),
    ];
    vector.chain(others)
}

/// The fields that a tag names (they differ from the values after reset), with whether the state has the tagged value.
fn compare<'a>(tag: &'a Unswitched, now: &'a Unswitched) -> impl Iterator<Item = (&'static str, bool)> + 'a {
    let reset = Unswitched::default();
    let counts: alloc::vec::Vec<bool> = words(tag).zip(words(&reset)).map(|(tag, reset)| tag.1 != reset.1).collect();
    let pairs = words(tag).zip(words(now)).zip(counts);
    pairs.filter(|(_, counts)| *counts).map(|((tag, now), _)| (tag.0, tag.1 == now.1))
}

/// What L1 may do before it has restored its values.
fn restores(op: &Op) -> bool {
    match op {
        Op::ReadUnswitched | Op::WriteUnswitched(_) | Op::Rdmsr(_) | Op::Wrmsr(..) | Op::Xsetbv(_) => true,
        Op::Enter(regs) | Op::Tdcall(regs) => regs.rax == u64::from(leaf::VP_ENTER),
        _ => false,
    }
}

impl Machine {
    /// The first field of a vCPU for which having the tagged value is `has`.
    fn tagged_field(&self, vcpu: Vcpu, has: bool) -> Option<&'static str> {
        let tag = self.oracles.tags.get(&vcpu.0)?;
        let now = &self.vcpu(vcpu)?.unswitched;
        compare(tag, now).find(|(_, same)| *same == has).map(|(name, _)| name)
    }

    /// An L2 runs: none of L1's values is there.
    pub(super) fn check_unswitched(&mut self, vcpu: Vcpu, level: u8) {
        if let Some(name) = self.tagged_field(vcpu, true) {
            self.violation("O1", format!("VM{level} of vCPU {} runs with {name} of L1", vcpu.0));
        }
    }

    /// L1 runs: all of its values are there, once an L2 has run.
    pub(super) fn check_restored(&mut self, vcpu: Vcpu, op: &Op) {
        if restores(op) || !self.oracles.mixed.contains(&vcpu.0) {
            return;
        }
        if let Some(name) = self.tagged_field(vcpu, false) {
            self.violation("O4", format!("L1 of vCPU {} goes on without its {name}", vcpu.0));
        }
    }

    /// A TDVMCALL shows vector registers.
    pub(super) fn check_vector_shown(&mut self, vcpu: Vcpu) {
        let shown = {
            let Some((tag, state)) = self.oracles.tags.get(&vcpu.0).zip(self.vcpu(vcpu)) else { return };
            compare(tag, &state.unswitched).any(|(name, same)| same && name == "vector registers")
        };
        if shown {
            self.violation("O1", format!("a TDVMCALL of vCPU {} shows vector registers of L1", vcpu.0));
        }
    }
}
