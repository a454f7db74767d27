//! Code at CPL 3, and the way back from it: an exception.
//!
//! [`run`] goes there by IRETQ. The handler of the image passes every exception to [`caught`] first, which has the program's own
//! handler decide whether the code goes on or is left.

use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};

use x86_64::VirtAddr;

use crate::exceptions::Frame;
use crate::segment::{CODE, DATA, USER_CODE, USER_DATA};
use crate::vcpu::{self, PerVcpu, VCPUS};

/// RFLAGS: the bit that is always one.
const FLAGS: u64 = 2;
/// RFLAGS: interrupts are on.
const INTERRUPTS: u64 = 1 << 9;

/// What becomes of code at CPL 3 after an exception.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// It goes on with the registers of the frame.
    Resume,
    /// [`run`] returns.
    Leave,
}

/// What decides, and may change the frame.
pub type Handler = fn(&mut Frame) -> Then;

/// Code to run at CPL 3.
#[derive(Clone, Copy, Debug)]
pub struct Program {
    /// First instruction.
    pub entry: VirtAddr,
    /// End of its stack.
    pub stack: VirtAddr,
    /// What it finds in RDI.
    pub argument: u64,
    /// Whether interrupts are on while it runs.
    pub interrupts: bool,
    /// Called for its exceptions.
    pub handler: Handler,
}

/// Where each vCPU goes on at CPL 0: instruction and stack pointer.
static BACK: [[AtomicU64; 2]; VCPUS] = [const { [const { AtomicU64::new(0) }; 2] }; VCPUS];
static HANDLER: PerVcpu<Handler> = PerVcpu::new();
static LEFT: PerVcpu<Frame> = PerVcpu::new();

/// Takes an exception of code at CPL 3. False for any other.
pub fn caught(frame: &mut Frame) -> bool {
    if frame.cs & 3 != 3 {
        return false;
    }
    let Some(handler) = HANDLER.with(|handler| *handler) else { return false };
    if handler(frame) == Then::Resume {
        return true;
    }
    let Some([rip, rsp]) = vcpu::current().and_then(|id| BACK.get(id.index())) else { return false };
    if !LEFT.set(*frame) {
        return false;
    }
    frame.rip = rip.load(Ordering::Relaxed);
    frame.rsp = rsp.load(Ordering::Relaxed);
    (frame.cs, frame.ss, frame.rflags) = (CODE.into(), DATA.into(), FLAGS);
    true
}

/// Runs code at CPL 3 until its handler leaves it. The registers at that exception; `None` if the vCPU has no number.
///
/// # Safety
/// The page tables let CPL 3 reach nothing that holds a Rust object. This vCPU has a
/// [kernel stack](crate::vcpu::set_kernel_stack), on which nothing else is. The handler of the image calls [`caught`].
pub unsafe fn run(program: &Program) -> Option<Frame> {
    let back = BACK.get(vcpu::current()?.index())?;
    LEFT.take();
    HANDLER.set(program.handler);
    let flags = FLAGS | if program.interrupts { INTERRUPTS } else { 0 };
    // SAFETY: what is pushed makes IRETQ go to the program, which the caller vouches for. Its exceptions run on another stack, so
    // that what was pushed before stays, and the one that is left comes back to the label with the stack pointer of that moment.
    // RBX and RBP, which cannot be named, are restored; all other registers are given up. The words behind the pointer are
    // atomic, since a handler reads them.
    unsafe {
        asm!(
            "push rbx",
            "push rbp",
            "lea rax, [rip + 2f]",
            "mov [r11], rax",
            "mov [r11 + 8], rsp",
            "push {data}",
            "push r8",
            "push r10",
            "push {code}",
            "push r9",
            "iretq",
            "2:",
            "pop rbp",
            "pop rbx",
            data = const USER_DATA,
            code = const USER_CODE,
            inout("rdi") program.argument => _,
            inout("r8") program.stack.as_u64() => _,
            inout("r9") program.entry.as_u64() => _,
            inout("r10") flags => _,
            inout("r11") back.as_ptr() => _,
            lateout("r12") _, lateout("r13") _, lateout("r14") _, lateout("r15") _,
            clobber_abi("sysv64"),
        );
    }
    HANDLER.take();
    LEFT.take()
}
