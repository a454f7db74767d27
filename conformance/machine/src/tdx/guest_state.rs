//! The register page: what VP.ENTER loads and an exit stores (l2_vp_enter.csv, `guest_state`).

use super::Regs;

/// Bytes that the module reads and writes.
pub(crate) const SIZE: usize = 0x9a;
/// Alignment of the page.
pub(crate) const ALIGN: u64 = 256;

/// Positions of general registers.
pub(crate) mod gpr {
    pub(crate) const RAX: usize = 0;
    pub(crate) const RCX: usize = 1;
    pub(crate) const RDX: usize = 2;
    pub(crate) const RBX: usize = 3;
    pub(crate) const RSP: usize = 4;
    pub(crate) const RBP: usize = 5;
    pub(crate) const R8: usize = 8;
    pub(crate) const R9: usize = 9;
}

const RFLAGS: usize = 0x80;
const RIP: usize = 0x88;
const SSP: usize = 0x90;
const RVI: usize = 0x98;
const SVI: usize = 0x99;

/// Registers of an L2 that lie in the page.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct GuestState {
    pub(crate) gpr: [u64; 16],
    pub(crate) rflags: u64,
    pub(crate) rip: u64,
    pub(crate) ssp: u64,
    pub(crate) rvi: u8,
    pub(crate) svi: u8,
}

fn quad(bytes: &[u8; SIZE], at: usize) -> u64 {
    let mut quad = [0; 8];
    if let Some(part) = bytes.get(at..at + 8) {
        quad.copy_from_slice(part);
    }
    u64::from_le_bytes(quad)
}

impl GuestState {
    pub(crate) fn from_bytes(bytes: &[u8; SIZE]) -> Self {
        let mut gpr = [0; 16];
        (0..).zip(&mut gpr).for_each(|(index, slot)| *slot = quad(bytes, index * 8));
        Self {
            gpr,
            rflags: quad(bytes, RFLAGS),
            rip: quad(bytes, RIP),
            ssp: quad(bytes, SSP),
            rvi: bytes[RVI],
            svi: bytes[SVI],
        }
    }

    pub(crate) fn to_bytes(self) -> [u8; SIZE] {
        let mut bytes = [0; SIZE];
        let quads = self.gpr.into_iter().chain([self.rflags, self.rip, self.ssp]);
        bytes.chunks_exact_mut(8).zip(quads).for_each(|(slot, value)| slot.copy_from_slice(&value.to_le_bytes()));
        bytes[RVI] = self.rvi;
        bytes[SVI] = self.svi;
        bytes
    }

    /// The general registers without RSP.
    pub(crate) fn regs(&self) -> Regs {
        let [rax, rcx, rdx, rbx, _, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15] = self.gpr;
        Regs { rax, rcx, rdx, rbx, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15 }
    }

    pub(crate) fn set_regs(&mut self, regs: &Regs) {
        let Regs { rax, rcx, rdx, rbx, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15 } = *regs;
        let rsp = self.gpr[gpr::RSP];
        self.gpr = [rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_are_those_of_the_table() {
        let mut bytes = [0; SIZE];
        for (at, value) in
            [(0x00, 1u8), (0x20, 2), (0x38, 3), (0x78, 4), (0x80, 5), (0x88, 6), (0x90, 7), (0x98, 8), (0x99, 9)]
        {
            bytes[at] = value;
        }
        let state = GuestState::from_bytes(&bytes);
        assert_eq!((state.gpr[gpr::RAX], state.gpr[gpr::RSP], state.gpr[7], state.gpr[15]), (1, 2, 3, 4));
        assert_eq!((state.rflags, state.rip, state.ssp, state.rvi, state.svi), (5, 6, 7, 8, 9));
        assert_eq!(state.to_bytes(), bytes);
        let mut other = GuestState::default();
        other.set_regs(&state.regs());
        assert_eq!((other.gpr[gpr::RSP], other.gpr[15]), (0, 4));
    }
}
