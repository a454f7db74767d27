//! The first instruction: a stack, then Rust with the arguments that the monitor left in registers.

use core::arch::global_asm;

use crate::start::first;

/// Bytes of the stack of the first steps.
const STACK_BYTES: usize = 0x4000;

global_asm!(
    r#"
    .pushsection .boot_bss, "aw", @nobits
    .balign 4096
    boot_stack:     .skip {stack_bytes}
    boot_stack_end:
    .popsection

    .pushsection .boot, "ax"
    .global _start
    _start:
        lea rsp, [rip + boot_stack_end]
        xor ebp, ebp
        push 0
        jmp {first}
    .popsection
    "#,
    stack_bytes = const STACK_BYTES,
    first = sym first,
);
