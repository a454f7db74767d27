//! Companions: small programs at levels 1 and 3 of vCPU 0, beside the guest at level 2, so that one vCPU has a state at each of
//! four levels.
//!
//! A companion calls L1 for ever, checks that what comes back is its own, and counts. It also does what the guest writes into
//! the task page, one thing at a time. The monitor's image and the step machine have a program each; what both keep to is
//! here, and L1's part is here once.
//!
//! | page | level 1 | level 2 | level 3 |
//! |---|---|---|---|
//! | code | fetch, read | | fetch, read |
//! | task | read | read, write | read |
//! | data of companion 1 | read, write | read | |
//! | data of companion 3 | | read | read, write |
//! | page tables of companion 1 | read, write | | |
//! | page tables of companion 3 | | | read, write |
//! | state of each | | | |
//!
//! The data page is the companion's call area too. Words are 8 bytes, little endian, at the offsets of [`data`] and [`task`].

#![no_std]
#![forbid(unsafe_code)]

mod call;
mod monitor;
mod pages;

use coco_part_api::GuestLevel;

pub use call::{answered, called, tag};
pub use monitor::{prepare, serve, start};
pub use pages::Pages;

/// Levels of the companions.
pub const LEVELS: [GuestLevel; 2] = [GuestLevel::ONE, GuestLevel::THREE];

/// Words of a companion's data page. Its first byte is the mark of a call.
pub mod data {
    /// Its level, as it was told.
    pub const LEVEL: u64 = 0x40;
    /// Calls so far.
    pub const ROUND: u64 = 0x48;
    /// Calls that were served, and whose answer was right.
    pub const SERVED: u64 = 0x50;
    /// Calls that came back without having been served.
    pub const LOST: u64 = 0x58;
    /// What was wrong last ([`wrong`](crate::wrong)); 0 for nothing so far.
    pub const WRONG: u64 = 0x60;
    /// Number of the last task done.
    pub const DONE: u64 = 0x68;
    /// Its result.
    pub const RESULT: u64 = 0x70;
    /// From here on the program's own.
    pub const OWN: u64 = 0x80;
}

/// Words of the task page.
pub mod task {
    /// Number of the task: another one than that of the task before. Written last.
    pub const NUMBER: u64 = 0x00;
    /// Level that is to do it.
    pub const LEVEL: u64 = 0x08;
    /// What: one of the kinds below.
    pub const KIND: u64 = 0x10;
    /// Address, a multiple of 8.
    pub const AT: u64 = 0x18;
    /// Operand.
    pub const OPERAND: u64 = 0x20;

    /// Loads the word at the address. Result: the word.
    pub const LOAD: u64 = 1;
    /// Stores the operand there. Result: 0.
    pub const STORE: u64 = 2;
    /// RMPADJUST of the page there, 4 KiB, with the operand in RDX. Result: EAX.
    pub const ADJUST: u64 = 3;
}

/// What a companion or L1 found wrong.
pub mod wrong {
    /// A general register of the companion changed that no answer has.
    pub const REGISTER: u64 = 1;
    /// XCR0 did.
    pub const XCR0: u64 = 2;
    /// An SSE or AVX register did.
    pub const VECTOR: u64 = 3;
    /// An answer is not that of the companion's call.
    pub const ANSWER: u64 = 4;
    /// L1: the registers of a call, or its level, are not the companion's.
    pub const CALL: u64 = 5;
    /// L1: the companion left by something else than a call.
    pub const EXIT: u64 = 6;
}
