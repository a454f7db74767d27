//! Code at CPL 3: its exceptions reach the kernel on the stack that they should, and IRETQ brings it back.

use core::arch::global_asm;
use core::sync::atomic::{AtomicU64, Ordering};

use coco_part_api::FrameRange;
use image_runtime::exceptions::{Frame, Stack, set_stack};
use image_runtime::space::USER;
use image_runtime::user::{self, Program, Then};
use image_runtime::{println, vcpu};

use crate::interrupts;
use crate::program::demand;
use crate::start::{EXCEPTION_STACK_FRAMES, Machine, Stop, end_of, take_stack};

/// Vectors.
const INVALID_OPCODE: u64 = 6;
const VC: u8 = 29;
/// Error code of a #VC for CPUID, and the length of the instruction.
const CPUID: u64 = 0x72;
const CPUID_BYTES: u64 = 2;
/// Places of registers in a frame.
const R12: usize = 3;
const RSI: usize = 9;
const RAX: usize = 14;
/// What CPUID answers here, and what the program begins with.
const ANSWER: u64 = 0x1234_5678;
const ARGUMENT: u64 = 0x5a5a_0123_4567_a5a5;
/// Rounds of a loop, long enough for a timer to interrupt it.
const ROUNDS: u64 = 50_000_000;
/// Bytes of the frame of code and of that of data.
const PAGE: u64 = 0x1000;

// A word on the stack, an instruction that raises #VC, and an end that raises #UD. Then a loop with the same end.
global_asm!(
    r#"
    .pushsection .rodata.user, "a"
    user_begin:
        push rdi
        xor eax, eax
        xor ecx, ecx
        cpuid
        pop rsi
        mov r12, rax
        ud2
    user_loop:
        dec rdi
        jnz user_loop
        ud2
    user_end:
    .popsection
    "#
);

unsafe extern "C" {
    static user_begin: u8;
    static user_loop: u8;
    static user_end: u8;
}

/// Where the frame of the last #VC of CPL 3 was.
static FRAME: AtomicU64 = AtomicU64::new(0);

fn handler(frame: &mut Frame) -> Then {
    if (frame.vector, frame.error) != (VC.into(), CPUID) {
        return Then::Leave;
    }
    FRAME.store(core::ptr::from_ref(frame).addr() as u64, Ordering::Relaxed);
    if let Some(rax) = frame.gpr.get_mut(RAX) {
        *rax = ANSWER;
    }
    frame.rip += CPUID_BYTES;
    Then::Resume
}

/// #VC on the kernel's stack, #VC on the stack of exceptions, and an interrupt.
pub(crate) fn show(machine: &mut Machine) -> Result<(), Stop> {
    let stack = take_stack(&mut machine.arena, EXCEPTION_STACK_FRAMES)?;
    // SAFETY: the stack is fresh memory of the arena, mapped at its own addresses.
    let is_set = unsafe { vcpu::set_kernel_stack(end_of(stack)) };
    demand(is_set, "this vCPU has no number")?;
    let loop_at = load(machine)?;

    // SAFETY: until it is set back, #VC arises at CPL 3 alone, and this vCPU has a kernel stack.
    unsafe { set_stack(VC, Stack::Current) };
    let on_kernel_stack = round_trip()?;
    // SAFETY: the other stack is always right.
    unsafe { set_stack(VC, Stack::Own) };
    let on_own_stack = round_trip()?;
    demand(contains(stack, on_kernel_stack), "#VC of CPL 3 is not on the kernel's stack")?;
    demand(!contains(stack, on_own_stack), "#VC of CPL 3 is not on the stack of exceptions")?;
    println!("CPL 3: #VC on the kernel's stack and on one of its own, and back by IRETQ");

    let soon = interrupts::soon()?;
    demand(!soon.has_come(), "interrupts are on")?;
    let program = Program { entry: USER + loop_at, argument: ROUNDS, interrupts: true, ..PROGRAM };
    let left = run(&program)?;
    demand(left.vector == INVALID_OPCODE && soon.has_come(), "code at CPL 3 is not interrupted as it should")?;
    println!("CPL 3: the timer interrupted it");
    Ok(())
}

const PROGRAM: Program = Program {
    entry: USER,
    stack: x86_64::VirtAddr::new(USER.as_u64() + 2 * PAGE),
    argument: ARGUMENT,
    interrupts: false,
    handler,
};

/// Puts the programs where CPL 3 has code. Gives the offset of the loop.
fn load(machine: &Machine) -> Result<u64, Stop> {
    let [begin, middle, end] = [&raw const user_begin, &raw const user_loop, &raw const user_end];
    let (len, loop_at) = (end.addr() - begin.addr(), middle.addr() - begin.addr());
    // SAFETY: the bytes between both symbols are constants of the image.
    let code = unsafe { core::slice::from_raw_parts(begin, len) };
    let at = machine.user.start();
    machine.space.private().write(at, code).map_err(|_| Stop::Wrong("memory for CPL 3 does not answer"))?;
    Ok(loop_at as u64)
}

fn run(program: &Program) -> Result<Frame, Stop> {
    // SAFETY: CPL 3 has two frames, which hold no object. The kernel stack is set, and the handler of the image calls `caught`.
    unsafe { user::run(program) }.ok_or(Stop::Wrong("code at CPL 3 did not run"))
}

/// Runs the first program to its end. Gives the address of the frame of its #VC.
fn round_trip() -> Result<u64, Stop> {
    FRAME.store(0, Ordering::Relaxed);
    let left = run(&PROGRAM)?;
    let seen = [left.gpr.get(RSI), left.gpr.get(R12)];
    let is_right = left.vector == INVALID_OPCODE && seen == [Some(&ARGUMENT), Some(&ANSWER)];
    demand(is_right && left.rsp == PROGRAM.stack.as_u64(), "code at CPL 3 did not go on after #VC")?;
    Ok(FRAME.load(Ordering::Relaxed))
}

fn contains(stack: FrameRange, at: u64) -> bool {
    (stack.start().as_u64()..stack.start().as_u64() + stack.bytes()).contains(&at)
}
