//! A step machine that obeys the SEV-SNP architecture, with its untrusted host and its security processor.
//!
//! [`tdx`] is its sibling for TDX partitioning, with types of its own; everything else in this crate is the SNP machine.
//!
//! # What it does
//!
//! [`Machine::step`] executes one operation of the program that runs on a vCPU; [`Machine::host`] lets the host act on a
//! vCPU that left its guest. Both are pure: no threads, no files, no terminal, no clock. The machine **refuses** what the
//! architecture refuses, with the same codes, and it records what happened: [`Counters`], a [trace](Event), and
//! [`Violation`]s found by its [oracles](oracle). Nothing that a guest or a host does makes it panic.
//!
//! - **RMP** with 4 KiB and 2 MiB entries, per-VMPL rights, the VMSA flag, PVALIDATE, RMPADJUST, RMPQUERY, RMPUPDATE and
//!   PSMASH ([`rmp`]); each rule that a mutant may remove has an id, see [`RULES`] and [`Config::broken_rules`].
//! - **Memory** by system address, lazily kept. A page that changes hands holds garbage until it is written; a page that the
//!   host only moves to another guest address of the same guest keeps its contents.
//! - **A TLB per vCPU**, tagged by VMPL, that serves stale entries until they are flushed ([`Op::Invlpgb`]).
//! - **VMSAs** in guest memory at their architectural offsets ([`vmsa`]). Exits store registers and exit codes there, VMRUN
//!   loads them from there.
//! - **Oracles** O1 to O9 that are checked after every step and host action, and completely by [`Machine::check_all`].
//!
//! # What it does not model
//!
//! - Guest page tables: programs name guest-physical addresses; the linear address of PVALIDATE, RMPADJUST and INVLPGB is
//!   the identity map of the executing VMPL. So there are no #PF, no page-table walks (RMP-045 bit 33), and no check of the
//!   PTE size against the requested size. The processor's update of an entry (RMP-038) is a
//!   [`CompareExchange64`](Op::CompareExchange64) of the program that has the tables.
//! - vTOM, secure AVIC, guest intercept control, register protection (RMP-046, RMP-058, RMP-059); of shadow stacks the right
//!   in the mask alone (not RMP-060).
//! - Event injection and interrupts: an injected event has no effect; restricted and alternate injection are only checked for
//!   exclusion by VMRUN.
//! - Registers other than RAX, RCX, RDX, R8, R9, RIP and EFER: they sit in the VMSA and never change by running. RIP moves
//!   over HLT; instructions of a level with ReflectVC are over once L1 has moved it behind them.
//! - Caches and memory types (RMP-057, RMP-061), the instructions that touch a device (a page that the host has marked as one
//!   is #VC 0x400), and the bytes of the RMP table (RMP-062, RMP-063).
//! - Other guests: there is one ASID. Secure processor pages (immutable) exist as a field only.
//! - Ciphertext: who may not see a page reads a pattern that depends on the address alone.
//! - CPL: privileged instructions run at CPL 0; only a fetch names its CPL.

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

#[macro_use]
mod numbers;

mod config;
mod counters;
mod embed;
mod exec;
mod host_interface;
mod launch;
mod machine;
mod memory;
mod nested;
mod op;
pub mod oracle;
mod page_map;
mod ranges;
pub mod rmp;
mod run;
mod snapshot;
mod tlb;
mod trace;
pub mod vmsa;

pub mod host;
pub mod psp;
pub mod tdx;

#[cfg(test)]
mod facts;
#[cfg(test)]
mod tests;

pub use config::{Config, RULES, VmsaWrite};
pub use counters::Counters;
pub use embed::{Changes, Frames, Reach, Reached};
pub use launch::{LaunchError, PageType};
pub use machine::Machine;
pub use memory::{CIPHERTEXT_TAG, GARBAGE_TAG};
pub use op::*;
pub use oracle::Violation;
pub use run::{ExitInfo, VmrunError, exit_code, msr};
pub use snapshot::Snapshot;
pub use trace::{Event, EventKind, HostEvent, OpSummary};

/// Bytes of a small page.
pub const PAGE_SIZE: u64 = 0x1000;
/// Bytes of a large page of silicon.
pub const LARGE_PAGE_SIZE: u64 = 0x20_0000;
/// Small pages in a large one of silicon.
pub const PAGES_PER_LARGE: u64 = 512;
