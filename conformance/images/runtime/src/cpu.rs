//! The instructions that an image needs beside those of SNP. One function each, no decision.

use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};

use x86_64::VirtAddr;

use crate::segment::{CODE, DATA};

/// What LGDT and LIDT read.
#[repr(C, packed(2))]
struct TablePointer {
    limit: u16,
    base: u64,
}

impl TablePointer {
    fn to<const WORDS: usize>(words: &'static [AtomicU64; WORDS]) -> Self {
        // Tables have 4 KiB at most.
        Self { limit: (size_of_val(words) - 1) as u16, base: words.as_ptr().expose_provenance() as u64 }
    }
}

/// Makes `words` the global descriptor table and reloads all segments from it.
///
/// # Safety
/// The words have [`CODE`] and [`DATA`] where those selectors point, and keep them.
pub(crate) unsafe fn load_gdt<const WORDS: usize>(words: &'static [AtomicU64; WORDS]) {
    let pointer = TablePointer::to(words);
    // SAFETY: the table stays, as it is static; the caller vouches for its entries. The far return goes to the next
    // instruction, by the code segment that the code runs in anyway.
    unsafe {
        asm!(
            "lgdt [{pointer}]",
            "push {code}",
            "lea {next}, [rip + 2f]",
            "push {next}",
            "retfq",
            "2:",
            "mov ds, {data:e}",
            "mov es, {data:e}",
            "mov ss, {data:e}",
            "mov fs, {data:e}",
            "mov gs, {data:e}",
            pointer = in(reg) &raw const pointer,
            code = in(reg) u64::from(CODE),
            next = out(reg) _,
            data = in(reg) u32::from(DATA),
            options(preserves_flags),
        );
    }
}

/// Makes `words` the interrupt descriptor table.
///
/// # Safety
/// The words are gates to handlers.
pub(crate) unsafe fn load_idt<const WORDS: usize>(words: &'static [AtomicU64; WORDS]) {
    let pointer = TablePointer::to(words);
    // SAFETY: the table stays, as it is static; the caller vouches for its entries.
    unsafe { asm!("lidt [{}]", in(reg) &raw const pointer, options(nostack, preserves_flags, readonly)) }
}

/// Makes a task state segment the current one.
///
/// # Safety
/// The selector is that of an available task state segment.
pub(crate) unsafe fn load_task(selector: u16) {
    // SAFETY: the caller vouches for the descriptor. The processor marks it busy: memory changes.
    unsafe { asm!("ltr {:x}", in(reg) selector, options(nostack, preserves_flags)) }
}

/// The selector of the current task state segment; 0 before there is one.
pub(crate) fn task() -> u16 {
    let selector: u16;
    // SAFETY: reads a register.
    unsafe { asm!("str {:x}", out(reg) selector, options(nomem, nostack, preserves_flags)) }
    selector
}

/// Ticks of the time stamp counter.
pub fn ticks() -> u64 {
    // SAFETY: reads a counter.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// Where the last page fault was.
pub fn fault_address() -> VirtAddr {
    let at: u64;
    // SAFETY: reads a register.
    unsafe { asm!("mov {}, cr2", out(reg) at, options(nomem, nostack, preserves_flags)) }
    VirtAddr::new_truncate(at)
}

/// A number that nobody could know before. `None` if the processor has none at this time.
pub fn random() -> Option<u64> {
    let (number, is_given): (u64, u8);
    // SAFETY: changes two registers and the flags.
    unsafe {
        asm!("rdrand {}", "setc {}", out(reg) number, out(reg_byte) is_given, options(nomem, nostack));
    }
    (is_given != 0).then_some(number)
}

/// Makes other page tables the current ones.
///
/// # Safety
/// They map code, stack and all Rust objects in use where the old ones do. The value has the C-bit.
pub unsafe fn load_page_tables(root: u64) {
    // SAFETY: the caller vouches for the tables.
    unsafe { asm!("mov cr3, {}", in(reg) root, options(nostack, preserves_flags)) }
}

/// Goes on in `entry` on another stack, with an argument.
///
/// # Safety
/// `stack` is the end of a private, mapped stack that nobody uses, a multiple of 16.
pub unsafe fn continue_on(stack: VirtAddr, entry: extern "sysv64" fn(u64) -> !, argument: u64) -> ! {
    // SAFETY: nothing on the old stack is used again, and the caller vouches for the new one. The zero is where a return
    // address would be; there is none.
    unsafe {
        asm!(
            "mov rsp, {stack}",
            "xor ebp, ebp",
            "push 0",
            "jmp {entry}",
            stack = in(reg) stack.as_u64(),
            entry = in(reg) entry as usize,
            in("rdi") argument,
            options(noreturn),
        );
    }
}

/// Lets interrupts in for a moment. They are off before and afterwards.
///
/// # Safety
/// Interrupts have handlers.
pub unsafe fn let_interrupts_in() {
    // SAFETY: handlers were promised. They change no register and no memory but their own. STI takes effect behind the
    // instruction that follows it.
    unsafe { asm!("sti", "pause", "cli", options(nostack)) }
}

/// How many interrupts have arrived, on all vCPUs.
pub(crate) static INTERRUPTS: AtomicU64 = AtomicU64::new(0);

/// Waits for an interrupt. One that is pending already ends it at once: interrupts are on from the instruction after STI.
/// Says whether any arrived meanwhile, here or on another vCPU.
///
/// # Safety
/// Interrupts have handlers.
pub unsafe fn wait_for_interrupt() -> bool {
    let before = INTERRUPTS.load(Ordering::Relaxed);
    // SAFETY: handlers were promised. They change no register and no memory but their own.
    unsafe { asm!("sti", "hlt", "cli", options(nostack)) }
    INTERRUPTS.load(Ordering::Relaxed) != before
}
