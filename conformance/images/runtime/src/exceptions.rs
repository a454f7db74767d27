//! The entry of every exception and interrupt.
//!
//! Exceptions (vectors 0 to 31) run the handler of the image on a stack of their own, so that an overflown stack can still be
//! reported. Interrupts (from 32 on) are counted and that is all, unless [somebody takes them](crate::interrupts): they only
//! end a wait. Both may be the host's invention, at any time and with any error code, so neither entry trusts anything but what
//! the processor saved.
//!
//! The #HV of restricted injection (28) and NMIs (2) just return.

use core::arch::global_asm;
use core::sync::atomic::{AtomicU64, Ordering};

use spin::Once;
use x86_64::VirtAddr;

use crate::cpu::{INTERRUPTS, load_idt};
use crate::segment::gate;

/// Registers at an exception, as they are restored when the handler returns.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Frame {
    /// R15 to R8, RDI, RSI, RBP, RBX, RDX, RCX, RAX.
    pub gpr: [u64; 15],
    /// Number of the exception.
    pub vector: u64,
    /// Error code; zero for exceptions that have none.
    pub error: u64,
    /// Instruction that raised it, or the one behind it for traps.
    pub rip: u64,
    /// Code segment.
    pub cs: u64,
    /// Flags.
    pub rflags: u64,
    /// Stack pointer.
    pub rsp: u64,
    /// Stack segment.
    pub ss: u64,
}

/// Where the handler of an exception runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stack {
    /// On the stack that the vCPU began with for exceptions.
    Own,
    /// On the current one, or coming from CPL 3 on the kernel's.
    Current,
}

/// What an image does about exceptions.
pub type Handler = fn(&mut Frame);

static HANDLER: Once<Handler> = Once::new();

const GATES: usize = 256;
const EXCEPTIONS: usize = 32;
/// Bytes between the entries of two exceptions.
const ENTRY_BYTES: usize = 16;
/// Double fault, invalid TSS, segment not present, stack, #GP, #PF, alignment check, control protection, #VC, security.
const WITH_ERROR_CODE: u32 =
    1 << 8 | 1 << 10 | 1 << 11 | 1 << 12 | 1 << 13 | 1 << 14 | 1 << 17 | 1 << 21 | 1 << 29 | 1 << 30;
/// NMI and #HV.
const JUST_RETURN: [usize; 2] = [2, 28];
/// The stack of the interrupt stack table on which exceptions run.
const STACK: u8 = 1;
/// The same in the first word of a gate.
const IST_OWN: u64 = (STACK as u64) << 32;

static IDT: [AtomicU64; 2 * GATES] = [const { AtomicU64::new(0) }; 2 * GATES];

// Fifteen registers, vector, error code and what the processor pushes are 22 words, from an address that is a multiple of 16.
global_asm!(
    r#"
    .macro exception_entry vector
        .balign {bytes}
        .if ({with_error} >> \vector) & 1 == 0
            push 0
        .endif
        push \vector
        jmp exception_common
    .endm

    .pushsection .text.exceptions, "ax"
    .balign {bytes}
    exception_entries:
    .set vector, 0
    .rept {count}
        exception_entry vector
        .set vector, vector + 1
    .endr

    exception_common:
        push rax
        push rcx
        push rdx
        push rbx
        push rbp
        push rsi
        push rdi
        push r8
        push r9
        push r10
        push r11
        push r12
        push r13
        push r14
        push r15
        cld
        mov rdi, rsp
        call {handle}
        pop r15
        pop r14
        pop r13
        pop r12
        pop r11
        pop r10
        pop r9
        pop r8
        pop rdi
        pop rsi
        pop rbp
        pop rbx
        pop rdx
        pop rcx
        pop rax
        add rsp, 16
        iretq

    interrupt_entry:
        lock inc qword ptr [rip + {interrupts}]
    return_entry:
        iretq
    .popsection
    "#,
    bytes = const ENTRY_BYTES,
    with_error = const WITH_ERROR_CODE,
    count = const EXCEPTIONS,
    handle = sym handle,
    interrupts = sym INTERRUPTS,
);

unsafe extern "C" {
    static exception_entries: u8;
    static interrupt_entry: u8;
    static return_entry: u8;
}

/// Has `handler` called for every exception but #HV and NMI, from now on, on every vCPU that has
/// [begun](crate::vcpu::begin).
pub fn install(handler: Handler) {
    HANDLER.call_once(|| handler);
    let [exceptions, interrupt, back] =
        [&raw const exception_entries, &raw const interrupt_entry, &raw const return_entry].map(<*const u8>::addr);
    for (vector, words) in IDT.as_chunks::<2>().0.iter().enumerate() {
        let (to, stack) = match vector {
            vector if JUST_RETURN.contains(&vector) => (back, STACK),
            0..EXCEPTIONS => (exceptions + vector * ENTRY_BYTES, STACK),
            _ => (interrupt, 0),
        };
        for (word, value) in words.iter().zip(gate(VirtAddr::new_truncate(to as u64), stack)) {
            word.store(value, Ordering::Relaxed);
        }
    }
}

/// Says on which stack an exception is handled, on all vCPUs. False for a vector that is none.
///
/// # Safety
/// For [`Stack::Current`]: wherever the exception arrives, the stack has room for the handler, and every vCPU that goes to CPL 3
/// has a [kernel stack](crate::vcpu::set_kernel_stack).
pub unsafe fn set_stack(vector: u8, stack: Stack) -> bool {
    let vector = usize::from(vector);
    let Some([low, _]) = IDT.as_chunks::<2>().0.get(vector).filter(|_| vector < EXCEPTIONS) else { return false };
    // A gate that is used meanwhile has either stack.
    match stack {
        Stack::Own => low.fetch_or(IST_OWN, Ordering::Relaxed),
        Stack::Current => low.fetch_and(!IST_OWN, Ordering::Relaxed),
    };
    true
}

/// Replaces a gate above the exceptions.
pub(crate) fn set_gate(vector: u8, to: VirtAddr) {
    let words = IDT.as_chunks::<2>().0.get(usize::from(vector)).into_iter().flatten();
    for (word, value) in words.zip(gate(to, 0)) {
        word.store(value, Ordering::Relaxed);
    }
}

/// Makes the table the current one. After [`install`], on a vCPU whose task state segment has a first interrupt stack.
pub(crate) fn load() {
    // SAFETY: before `install` every gate is marked as not present, and after it every gate leads to an entry above.
    unsafe { load_idt(&IDT) }
}

/// Called by the entry of every exception.
extern "sysv64" fn handle(frame: &mut Frame) {
    if let Some(handler) = HANDLER.get() {
        handler(frame);
    }
}
