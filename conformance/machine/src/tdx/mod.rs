//! A step machine of a TDX module with TD partitioning, of one TD that runs on it, and of its untrusted host.
//!
//! # What it does
//!
//! [`Machine::step`] executes one operation of the program that runs on a vCPU; [`Machine::host`] says who has a vCPU
//! that its program lost, and lets the host act where it is the host's. Both are pure, as in the SNP machine beside
//! it. The machine **refuses** what the module refuses, with the same completion status, and records what happened:
//! [`Counters`], a [trace](Event), and [`Violation`](crate::Violation)s found by its [oracles](oracle). Nothing that a
//! guest or a host does makes it panic. The facts are those of module 1.5.01.
//!
//! - **Secure EPT** with 4 KiB and 2 MiB entries: not mapped, pending, accepted, each of the latter blocked or not. An
//!   entry carries the aliases of up to three L2 VMs with their attributes; an alias of a pending page is blocked
//!   until PAGE.ACCEPT. The table page that an alias needs is present or missing per 2 MiB region and VM.
//! - **Memory**: private contents by system page, lazily kept; shared memory by guest address, apart from it. A page
//!   that the host adds holds garbage; PAGE.ACCEPT zeroes it.
//! - **A TLB** per vCPU and L2 VM that serves stale entries until INVEPT on that vCPU; what the host does to a
//!   page drops its translations everywhere.
//! - **TDCALL** leaves of L1 with their operand checks, status codes and output registers ([`status`]).
//! - **L2 programs**: a VMCS per vCPU and VM, a register page in L1's memory. VP.ENTER loads it, an exit stores it.
//!   The program is known by the RIP of the page: RIP where it left means that the operation is executed again, RIP
//!   behind the operation that it retired with the registers of the page, any other RIP is another program. A program
//!   that begins at R has the instruction that exits at R + 16, so that R begins it anew whenever L1 wants that.
//! - **State that the module does not switch** ([`Unswitched`]): one set per vCPU.
//! - **The host** ([`host`]): an honest one, and liars that break one rule each.
//! - **Oracles** O1 to O9 after every step and host action, and completely by [`Machine::check_all`].
//!
//! Each rule that a mutant may remove has an id, see [`RULES`] and [`Config::broken_rules`].
//!
//! # What it does not model
//!
//! - Guest page tables: programs name guest-physical addresses, a linear address is the same number. So there are no
//!   #PF, no paging-write, shadow-stack or guest-paging checks (attributes PWA, VGP, SSS are kept and have no effect).
//! - 1 GiB entries. ATTR.WR of level 2 answers as for a smaller mapping. Upper tables of an L2 are always present.
//! - Interrupt delivery inside of programs: an event that L1 injects is recorded ([`Machine::delivered_events`]); #GP
//!   and #UD reach the program as a [`Fault`] of its next operation. Virtual interrupts stay pending in the
//!   virtual-APIC page. L1 takes an interrupt as soon as VP.ENTER has told it of one.
//! - TSC_DEADLINE (kept, never fires), exception bitmap, control and debug register exits, descriptor-table, RDTSC and
//!   other optional exits but PAUSE, I/O bitmaps, the preemption timer, the zero-step filter, event re-injection by
//!   the module.
//! - VM entry checks beyond control registers, EFER, RFLAGS, RIP, CS, TR, LDTR, PAT, descriptor tables, bases and the
//!   injected event.
//! - Debug TDs (the attribute shows in evidence only), migration, service TDs, TDX Connect, sealing keys, SYS.RDALL,
//!   PAGE.RELEASE and whatever is newer than 1.5.01. Leaves not listed are OPERAND_INVALID.
//! - Interruption of long leaves, locks of the module other than those of [`host::Policy::Busy`].
//! - Ciphertext: the host cannot read private memory at all.
//! - MRTD in any other order than that of the launch: it is computed over page additions and their contents, each page
//!   added and then extended in 256-byte chunks.

#[macro_use]
mod numbers;

mod config;
mod counters;
mod exec;
mod exit;
mod guest_state;
mod host_interface;
mod launch;
mod machine;
mod module;
mod op;
mod regs;
mod run;
mod sept;
mod snapshot;
pub mod status;
mod tlb;
mod trace;
mod vcpu;
mod vmcs;

pub mod host;
pub mod oracle;

#[cfg(test)]
mod tests;

pub use config::{Config, DEBUG, FLEXIBLE_PENDING_VE, NO_RBP_MOD, RULES, SEPT_VE_DISABLE};
pub use counters::Counters;
pub use exit::{EptCause, TdExit};
pub use launch::LaunchError;
pub use machine::Machine;
pub use op::*;
pub use regs::{CallRegs, Regs, Unswitched};
pub use sept::{SeptEntry, attr};
pub use snapshot::Snapshot;
pub use trace::{Event, EventKind, HostEvent};

/// RIP of the program of L1 on vCPU 0.
pub const BOOT_ENTRY: u64 = 0x1000;
/// RIP of the program of L1 on the other vCPUs.
pub const OTHER_ENTRY: u64 = 0x2000;
