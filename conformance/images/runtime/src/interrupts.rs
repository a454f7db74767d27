//! Interrupts that somebody takes.
//!
//! Without this module they are counted and nothing else. The host sends them when it likes, and also when nobody asked for one:
//! what takes one has to be right at any time at which interrupts are on.

use core::arch::naked_asm;
use core::sync::atomic::Ordering;

use x86_64::VirtAddr;

use crate::cpu::INTERRUPTS;
use crate::exceptions;

/// What takes the interrupts of one vector.
pub trait Interrupt {
    /// The vector, 32 or above.
    const VECTOR: u8;

    /// Called for each of them, with interrupts off, on the stack of what it interrupts, or on the kernel's when that ran at CPL 3.
    fn arrived();
}

/// Has a vector taken, on all vCPUs, from now on. After [`exceptions::install`].
pub fn install<I: Interrupt>() {
    const { assert!(I::VECTOR >= 32) }
    exceptions::set_gate(I::VECTOR, VirtAddr::from_ptr(entry::<I> as *const ()));
}

extern "sysv64" fn arrived<I: Interrupt>() {
    INTERRUPTS.fetch_add(1, Ordering::Relaxed);
    I::arrived();
}

/// The processor has aligned the stack and pushed five words. Nine registers are what a function may change; with them the
/// stack is aligned for a call. Code of an image has no other state: it uses no vector registers.
#[unsafe(naked)]
extern "sysv64" fn entry<I: Interrupt>() {
    naked_asm!(
        "push rax",
        "push rcx",
        "push rdx",
        "push rsi",
        "push rdi",
        "push r8",
        "push r9",
        "push r10",
        "push r11",
        "cld",
        "call {arrived}",
        "pop r11",
        "pop r10",
        "pop r9",
        "pop r8",
        "pop rdi",
        "pop rsi",
        "pop rdx",
        "pop rcx",
        "pop rax",
        "iretq",
        arrived = sym arrived::<I>,
    )
}
