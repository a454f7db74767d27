//! What the bare-metal images have in common.
//!
//! | module | what |
//! |---|---|
//! | [`paging`] | page tables with the C-bit, as data |
//! | [`segment`] | descriptors of segments, tasks and gates, as data |
//! | [`line`](mod@line) | text cut into console lines |
//! | [`arena`] | memory taken page by page |
//! | [`cpu`] | the instructions beside those of SNP |
//! | [`exceptions`] | the entry of every exception, and what it left |
//! | [`vcpu`] | which vCPU this is, and things that belong to one |
//! | [`link`] | a vCPU's way to the host's devices: console, result, MSRs |
//! | [`apic`] | the interrupt controller there |
//! | [`interrupts`] | interrupts that somebody takes |
//! | [`console`] | lines of text through it, and the sink of `log` |
//! | [`space`] | windows onto guest-physical memory |
//! | [`objects`] | Rust objects in memory that was taken for them |
//! | [`probe`] | instructions that are expected to raise an exception |
//! | [`user`] | code at CPL 3 |
//! | [`vector`] | vector registers, to be looked at |
//! | [`end`] | the end of the guest, from wherever something went wrong |
//!
//! Those from `cpu` on exist on bare metal only; the others are tested on the host.

#![cfg_attr(not(test), no_std)]
#![deny(unsafe_code)]

pub mod arena;
pub mod line;
pub mod paging;
pub mod segment;

#[cfg(target_os = "none")]
pub mod apic;
#[cfg(target_os = "none")]
pub mod console;
#[cfg(target_os = "none")]
#[allow(unsafe_code)]
pub mod cpu;
#[cfg(target_os = "none")]
#[allow(unsafe_code)]
pub mod end;
#[cfg(target_os = "none")]
#[allow(unsafe_code)]
pub mod exceptions;
#[cfg(target_os = "none")]
#[allow(unsafe_code)]
pub mod interrupts;
#[cfg(target_os = "none")]
pub mod link;
#[cfg(target_os = "none")]
#[allow(unsafe_code)]
pub mod objects;
#[cfg(target_os = "none")]
#[allow(unsafe_code)]
pub mod probe;
#[cfg(target_os = "none")]
#[allow(unsafe_code)]
pub mod space;
#[cfg(target_os = "none")]
#[allow(unsafe_code)]
pub mod user;
#[cfg(target_os = "none")]
#[allow(unsafe_code)]
pub mod vcpu;
#[cfg(target_os = "none")]
#[allow(unsafe_code)]
pub mod vector;
