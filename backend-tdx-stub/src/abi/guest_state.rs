//! The register page of an L2 (fact table `l2_vp_enter`, "guest_state").

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Bytes to set aside for a register page, and its alignment.
pub const REGISTER_PAGE: u64 = 256;

/// L2_ENTER_GUEST_STATE: the registers that TDG.VP.ENTER loads from and stores to private memory of L1.
///
/// Everything else of the L2's state lies in its VMCS, reached by TDG.VP.RD and TDG.VP.WR.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct EnterGuestState {
    /// RAX RCX RDX RBX RSP RBP RSI RDI R8 to R15, in encoding order.
    pub gpr: [u64; 16],
    /// RFLAGS.
    pub rflags: u64,
    /// RIP; L1 advances it after it emulated an instruction (TDX-18).
    pub rip: u64,
    /// Shadow-stack pointer.
    pub ssp: u64,
    /// Requesting virtual interrupt.
    pub rvi: u8,
    /// Servicing virtual interrupt.
    pub svi: u8,
    _reserved_0x9a: [u8; 0x66],
}

layout! {
    EnterGuestState: 0x100 {
        gpr @ 0x00,
        rflags @ 0x80,
        rip @ 0x88,
        ssp @ 0x90,
        rvi @ 0x98,
        svi @ 0x99,
        _reserved_0x9a @ 0x9a,
    }
}

impl EnterGuestState {
    /// A vCPU with these registers and no virtual interrupt.
    pub const fn new(gpr: [u64; 16], rip: u64, rflags: u64) -> Self {
        Self { gpr, rflags, rip, ssp: 0, rvi: 0, svi: 0, _reserved_0x9a: [0; 0x66] }
    }
}

/// Positions in [`EnterGuestState::gpr`].
pub mod gpr {
    /// RAX.
    pub const RAX: usize = 0;
    /// RCX.
    pub const RCX: usize = 1;
    /// RDX.
    pub const RDX: usize = 2;
    /// R8.
    pub const R8: usize = 8;
    /// R9.
    pub const R9: usize = 9;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::{Table, number};

    #[test]
    fn the_layout_is_that_of_the_table() {
        let order = ["RAX", "RCX", "RDX", "RBX", "RSP", "RBP", "RSI", "RDI"];
        let table = Table::parse(include_str!("../../facts/l2_vp_enter.csv"));
        let mut named = 0;
        for row in table.with("group", "guest_state") {
            let item = row.text("item");
            let Some(offset) = number(row.text("location")) else { continue };
            let ours = match order.iter().position(|name| *name == item) {
                Some(index) => 8 * index,
                None if item.starts_with('R') && item[1..].parse::<usize>().is_ok() => {
                    8 * item[1..].parse::<usize>().unwrap()
                }
                None => {
                    let name = item.to_lowercase();
                    EnterGuestState::OFFSETS.iter().find(|(field, _)| *field == name).expect(item).1
                }
            };
            assert_eq!(ours as u64, offset, "{item}");
            named += 1;
        }
        assert_eq!(named, 21, "16 general registers, RFLAGS, RIP, SSP, RVI, SVI");
    }

    #[test]
    fn positions_follow_the_encoding_order() {
        assert_eq!((gpr::RAX, gpr::RCX, gpr::RDX, gpr::R8, gpr::R9), (0, 1, 2, 8, 9));
    }
}
