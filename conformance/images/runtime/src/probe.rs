//! Instructions that are expected to raise an exception, one at a time.
//!
//! A probe notes where to go on, then executes the instruction. The handler of the image passes every exception to [`caught`]
//! first: the one of a probe is noted and execution goes on behind it, any other one is the image's own affair.

use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};

use crate::exceptions::Frame;
use crate::vcpu::{self, PerVcpu, VCPUS};

/// An exception as a probe found it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caught {
    /// Number of the exception.
    pub vector: u64,
    /// Its error code; zero if it has none.
    pub error: u64,
}

/// Where each vCPU goes on after the exception that it expects; 0 if it expects none.
static GO_ON: [AtomicU64; VCPUS] = [const { AtomicU64::new(0) }; VCPUS];
static CAUGHT: PerVcpu<Caught> = PerVcpu::new();

/// Takes an exception that a probe of this vCPU expects. False for any other.
pub fn caught(frame: &mut Frame) -> bool {
    let go_on = vcpu::current().and_then(|id| GO_ON.get(id.index()));
    let Some(to) = go_on.map(|word| word.swap(0, Ordering::Relaxed)).filter(|to| *to != 0) else { return false };
    frame.rip = to;
    CAUGHT.set(Caught { vector: frame.vector, error: frame.error })
}

/// Executes an instruction between the note and the place where execution goes on. All registers that a function may change
/// may be changed by it.
macro_rules! probe {
    ($name:ident($($argument:ident)?), $doc:literal, $($line:literal),+; $($after:literal)?) => {
        #[doc = $doc]
        ///
        /// `None` if there was no exception.
        pub fn $name($($argument: u64)?) -> Option<Caught> {
            let go_on = GO_ON.get(vcpu::current()?.index())?;
            CAUGHT.take();
            // SAFETY: the word lies behind the pointer, and is one that the handler may change at any time, so that it is atomic.
            // Whatever the instruction does, it changes registers at most, which are all given up here, or raises an exception,
            // which goes on at the label with all registers as they were.
            unsafe {
                asm!(
                    "lea rax, [rip + 2f]",
                    "mov [r11], rax",
                    $($line,)+
                    "2:",
                    $($after,)?
                    inout("r11") go_on.as_ptr() => _,
                    $(inout("rdi") $argument => _,)?
                    lateout("rax") _,
                    clobber_abi("sysv64"),
                );
            }
            go_on.store(0, Ordering::Relaxed);
            CAUGHT.take()
        }
    };
}

probe!(undefined(), "Executes UD2.", "ud2";);
probe!(cpuid(), "Executes CPUID, leaf 0.", "mov r8, rbx", "xor eax, eax", "xor ecx, ecx", "cpuid"; "mov rbx, r8");
probe!(read_byte(at), "Reads the byte at a linear address.", "mov al, [rdi]";);
probe!(pvalidate(at), "Executes PVALIDATE to \"valid\", 4 KiB, at a linear address.",
    "mov rax, rdi", "xor ecx, ecx", "mov edx, 1", "pvalidate";);

/// Registers that an instruction takes, and what it leaves in them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Registers {
    /// RAX.
    pub rax: u64,
    /// RCX.
    pub rcx: u64,
    /// RDX.
    pub rdx: u64,
    /// RDI, for the address of an access.
    pub rdi: u64,
}

/// As [`probe!`], for instructions whose registers count.
macro_rules! execute {
    ($name:ident, $doc:literal, $($line:literal),+; $($after:literal)?) => {
        #[doc = $doc]
        ///
        /// `None` if there was no exception. After one the registers are as they were.
        pub fn $name(registers: &mut Registers) -> Option<Caught> {
            let go_on = GO_ON.get(vcpu::current()?.index())?;
            CAUGHT.take();
            // SAFETY: as for `probe!`.
            unsafe {
                asm!(
                    "lea r10, [rip + 2f]",
                    "mov [r11], r10",
                    $($line,)+
                    "2:",
                    $($after,)?
                    inout("r11") go_on.as_ptr() => _,
                    inout("rax") registers.rax,
                    inout("rcx") registers.rcx,
                    inout("rdx") registers.rdx,
                    inout("rdi") registers.rdi,
                    clobber_abi("sysv64"),
                );
            }
            go_on.store(0, Ordering::Relaxed);
            CAUGHT.take()
        }
    };
}

/// Instructions with registers. An access is one of the address in RDI, which the caller has a right to lose or to find changed.
pub mod with_registers {
    use super::*;

    execute!(load, "Loads RAX.", "mov rax, [rdi]";);
    execute!(store, "Stores RAX.", "mov [rdi], rax";);
    execute!(call, "Calls code that does nothing but return.", "mov r8, rsp", "call rdi"; "mov rsp, r8");
    execute!(pvalidate, "Executes PVALIDATE.", "pvalidate";);
    execute!(rmpadjust, "Executes RMPADJUST.", "rmpadjust";);
    execute!(rmpquery, "Executes RMPQUERY.", ".byte 0xf3, 0x0f, 0x01, 0xfd";);
    execute!(cpuid, "Executes CPUID; EBX is lost.", "mov r8, rbx", "cpuid"; "mov rbx, r8");
    execute!(rdmsr, "Executes RDMSR.", "rdmsr";);
    execute!(wrmsr, "Executes WRMSR.", "wrmsr";);
    execute!(rdtscp, "Executes RDTSCP.", "rdtscp";);
    execute!(in_byte, "Executes IN of a byte.", "in al, dx";);
    execute!(out_byte, "Executes OUT of a byte.", "out dx, al";);
    execute!(wbinvd, "Executes WBINVD.", "wbinvd";);
    execute!(invd, "Executes INVD.", "invd";);
    execute!(rdpmc, "Executes RDPMC.", "rdpmc";);
    execute!(monitor, "Executes MONITOR.", "monitor";);
    execute!(mwait, "Executes MWAIT.", "mwait";);
    execute!(vmmcall, "Executes VMMCALL.", "vmmcall";);
}
