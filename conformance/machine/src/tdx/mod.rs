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
//!   Whatever makes an L2 exit to L1 does so with its basic reason: instructions, exceptions, windows, its deadline.
//! - **State that the module does not switch** ([`Unswitched`]): one set per vCPU.
//! - **The host** ([`host`]): an honest one, and liars that break one rule each.
//! - **Oracles** O1 to O9 after every step and host action, and completely by [`Machine::check_all`].
//!
//! Each rule that a mutant may remove has an id, see [`RULES`] and [`Config::broken_rules`].
//!
//! # What it does not model
//!
//! - Guest page tables: programs name guest-physical addresses, a linear address is the same number. So there are no
//!   #PF, no paging-write, shadow-stack or guest-paging checks (attributes PWA, VGP, SSS are kept and have no effect),
//!   and INVVPID drops nothing.
//! - CPU modes: programs run in 64-bit mode; only VMCALL, TDCALL and fetches name a CPL.
//! - 1 GiB entries. ATTR.WR of level 2 answers as for a smaller mapping. Upper tables of an L2 are always present, and
//!   VM_CTLS is the same for all VMs. The host merges and relocates no pages.
//! - Interrupt delivery inside of programs: an event that L1 injects is recorded ([`Machine::delivered_events`]) and
//!   changes no register; #GP and #UD reach the program as a [`Fault`] of its next operation. Virtual interrupts stay
//!   pending in the virtual-APIC page. L1 takes an interrupt as soon as VP.ENTER has told it of one; the vector of an
//!   interrupt is not in R9. No event is under delivery when an L2 exits: R10 is 0, and the module re-injects nothing.
//! - Time: the virtual TSC counts steps. TSC_DEADLINE compares with it; TSC_FREQUENCY and the PAUSE-loop fields are
//!   values.
//! - What reading a CR, MOV to a CR without an exit, descriptor tables and debug registers do to an L2; I/O bitmaps; the
//!   zero-step filter (TDX-62); bus-lock flags of exit reasons.
//! - MSRs of an L2 that its bitmap passes, beyond those that are not switched and EFER: #GP. The VMX capability MSRs of
//!   L1: #VE, and every bit of a write mask is allowed (TDX-56).
//! - XMM registers of a TDVMCALL: they are neither shown nor changed.
//! - VM entry checks beyond control registers, EFER, RFLAGS, RIP, CS, TR, LDTR, PAT, descriptor tables, bases and the
//!   injected event.
//! - What ends a TD or a vCPU for good by the module's doing: machine checks (TDX-61) and exits that are fatal.
//! - Debug TDs (the attribute shows in evidence only), migration, service TDs, TDX Connect, sealing keys, SYS.RDALL,
//!   PAGE.RELEASE and whatever is newer than 1.5.01. Leaves not listed are OPERAND_INVALID.
//! - Interruption of long leaves, locks of the module other than those of [`host::Policy::Busy`], time-outs of the
//!   host's priority.
//! - Ciphertext: the host cannot read private memory at all.
//! - MRTD in any other order than that of the launch: it is computed over page additions and their contents, each page
//!   added and then extended in 256-byte chunks. The MAC is HMAC-SHA256 with a test key.
//!
//! # Facts that it rests on and that are not certain
//!
//! Rows of the fact tables with medium or low confidence:
//!
//! - `page_attr`: execute-only attributes are legal; SVE is never set; more rights need no invalidation (TDX-38).
//! - `page_accept`: a page that is removed and added again is pending, never silently another one (TDX-25 in part);
//!   private contents are lost by a conversion (TDX-31).
//! - `metadata_fields`: bits that R9 selects outside of a field's write mask have to match what is there (the row also
//!   allows that they are dropped); bit 63 of an id is ignored.
//! - `l2_vp_enter`: INVD_TRANSLATIONS 2 and 3 are accepted without a feature bit; RBP after an exit is the L2's (TDX-19);
//!   KERNEL_GS_BASE, STAR, LSTAR, FMASK, TSC_AUX and XSS are not switched.
//! - `td_semantics`: an L2 belongs to its vCPU (TDX-08); L1 may emulate an access to memory without an alias or without
//!   mapping (TDX-29); the host's operations drop translations everywhere (TDX-33); Xu counts only with mode-based
//!   execute control (TDX-58).
//! - `tdreport`: TEE_TCB_SVN2 and the bytes behind it are 0, and TEE_TCB_INFO_HASH covers 239 bytes.
//! - `tdcall_leaves`: version 1 of VM.RD enumerates. `ve_info`: leaves have version 0 only; WBINVD and PCONFIG of L1 are
//!   #VE. `vmcall`: WBINVD and GetTdVmCallInfo; R10 other than 0 is no call that this host knows.
//!
//! In no row, but in the module's code that the rows name: the order of checks within a leaf; which outputs a leaf clears
//! when it fails; RDX of ATTR.WR speaks of the VMs that RDX named, with VALID for an alias that went; MR.REPORT finds its
//! RTMRs busy; pending memory operands are #VE or a TD exit as any access; the first field of an enumeration; CR4 bits of
//! features that the TD lacks; elements of L1 and of absent VMs in L2_CTLS and TSC_DEADLINE can be written.
//!
//! In no row and no code: values of TSC_FREQUENCY, MINOR and MAJOR version, XFAM, CPUSVN and of the module's measurement;
//! limits of segments at the start; that a memory access of an L2 is three bytes long when L1 emulates it.

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
