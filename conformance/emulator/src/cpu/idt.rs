//! Interrupt descriptors of our own processors.

use core::arch::global_asm;

use spin::Once;
use x86_64::VirtAddr;
use x86_64::instructions::tables::lidt;
use x86_64::structures::DescriptorTablePointer;

use crate::ending::{Ending, end};

global_asm!(include_str!("idt.s"));

unsafe extern "C" {
    static handlers: [u64; 33];
}

/// 64-bit code segment of the start code.
const CODE: u64 = 8;
/// Present, interrupt gate.
const GATE: u64 = 0x8e00;

static TABLE: Once<[[u64; 2]; 256]> = Once::new();

/// Loads the table, which all processors share.
pub(crate) fn load() {
    let table = TABLE.call_once(|| {
        // SAFETY: the symbol is a table of 33 addresses in read-only memory.
        let addresses = unsafe { &handlers };
        core::array::from_fn(|vector| gate(addresses[vector.min(32)]))
    });
    let pointer = DescriptorTablePointer { limit: 0xfff, base: VirtAddr::from_ptr(table.as_ptr()) };
    // SAFETY: the table lives for ever, and its gates lead to code that preserves all registers or never returns.
    unsafe { lidt(&pointer) };
}

fn gate(address: u64) -> [u64; 2] {
    let low = address & 0xffff | CODE << 16 | GATE << 32 | (address >> 16 & 0xffff) << 48;
    [low, address >> 32]
}

/// An exception of our own: `stack` has its number, then what the processor pushed.
#[unsafe(no_mangle)]
extern "C" fn host_exception(stack: *const [u64; 5]) -> ! {
    // SAFETY: the stub passes its stack pointer, above which there are at least five quadwords.
    let [number, first, second, third, fourth] = unsafe { *stack };
    let address: u64;
    // SAFETY: reads a register.
    unsafe { core::arch::asm!("mov {}, cr2", out(reg) address, options(nomem, nostack, preserves_flags)) };
    end(
        Ending::Broken,
        format_args!(
            "exception {number} of the emulator: {first:#x} {second:#x} {third:#x} {fourth:#x}, CR2 {address:#x}"
        ),
    )
}
