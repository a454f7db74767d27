//! Calls of a companion: each is told from all others, of whatever level.

use coco_part_api::{CallRegs, GuestLevel};

/// Distance between registers of a call.
const STEP: u64 = 1 << 48;

/// What tells a call from others: level and round, of which 32 bits count.
#[must_use]
pub const fn tag(level: GuestLevel, round: u64) -> u64 {
    (level.number() as u64) << 32 | round & 0xffff_ffff
}

/// The registers of a call.
#[must_use]
pub const fn called(level: GuestLevel, round: u64) -> CallRegs {
    let rax = tag(level, round);
    CallRegs { rax, rcx: rax + STEP, rdx: rax + 2 * STEP, r8: rax + 3 * STEP, r9: rax + 4 * STEP }
}

/// Its answer: the complement of each.
#[must_use]
pub const fn answered(regs: CallRegs) -> CallRegs {
    let CallRegs { rax, rcx, rdx, r8, r9 } = regs;
    CallRegs { rax: !rax, rcx: !rcx, rdx: !rdx, r8: !r8, r9: !r9 }
}
