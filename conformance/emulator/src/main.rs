//! A hypervisor of a few thousand lines that plays an SEV-SNP machine and its host under `qemu-system-x86_64` without KVM.
//!
//! It boots an IGVM file as firmware and KVM would, and runs what is in it natively, under SVM and nested paging, at up to
//! four VMPLs on each vCPU. The rules of the architecture and the conduct of the host are those of the crate `machine`: what
//! the step machine checks per access becomes a nested page table per VMPL here, and every instruction that the architecture
//! has a say in is intercepted and handed to it.
//!
//! # Modules
//! - [`world`]: the machine, its nested tables and what vCPUs share; every change ends in [`World::settle`](world::World::settle).
//! - [`cpu`]: one processor: VMCB, entry and exit, APIC, exceptions of our own.
//! - [`exits`]: what an exit means and what the guest gets for it.
//! - [`guest`]: its linear addresses, its instructions, exceptions delivered in software.
//! - [`load`], [`options`], [`frames`], [`console`], [`ending`]: start, memory, output and end.

#![no_std]
#![no_main]

extern crate alloc;

mod boot;
mod console;
mod cpu;
mod ending;
mod exits;
mod frames;
mod guest;
mod heap;
mod load;
mod nested;
mod options;
mod run;
mod world;
