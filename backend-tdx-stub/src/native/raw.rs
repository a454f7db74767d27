//! One function per instruction. No decision and no check.

use core::arch::{asm, naked_asm};
use core::mem::offset_of;

use coco_part_api::CallRegs;

use super::{MSRS, Unswitched};
use crate::abi::regs::Regs;

/// What `enter` works on. The offsets are spelled out in its text.
#[repr(C)]
pub(super) struct EnterFrame {
    pub(super) regs: Regs,
    pub(super) own: *mut u8,
    pub(super) guest: *mut u8,
    pub(super) own_xcr0: u64,
    pub(super) guest_xcr0: u64,
}

const _: () = assert!(offset_of!(EnterFrame, regs) == 0);
const _: () = assert!(offset_of!(EnterFrame, own) == 0x70);
const _: () = assert!(offset_of!(EnterFrame, guest) == 0x78);
const _: () = assert!(offset_of!(EnterFrame, own_xcr0) == 0x80);
const _: () = assert!(offset_of!(EnterFrame, guest_xcr0) == 0x88);

/// A function that loads a register file, executes one instruction and stores the register file.
///
/// RDI points to the file. The registers that a caller may rely on are saved around it, RBP among them: TDG.VP.ENTER may
/// leave anything in it (TDX-19). `before` and `after` see the pointer in RDI and may use RAX, RCX and RDX.
macro_rules! with_register_file {
    (
        $(#[$meta:meta])*
        $name:ident($Argument:ty): [$($before:literal)*] $instruction:literal [$($after:literal)*]
    ) => {
        $(#[$meta])*
        #[unsafe(naked)]
        pub(super) unsafe extern "sysv64" fn $name(argument: *mut $Argument) {
            naked_asm!(
                "push rbx",
                "push rbp",
                "push r12",
                "push r13",
                "push r14",
                "push r15",
                "push rdi",
                $($before,)*
                "mov rax, [rdi + {rax}]",
                "mov rcx, [rdi + {rcx}]",
                "mov rdx, [rdi + {rdx}]",
                "mov rbx, [rdi + {rbx}]",
                "mov rsi, [rdi + {rsi}]",
                "mov r8, [rdi + {r8}]",
                "mov r9, [rdi + {r9}]",
                "mov r10, [rdi + {r10}]",
                "mov r11, [rdi + {r11}]",
                "mov r12, [rdi + {r12}]",
                "mov r13, [rdi + {r13}]",
                "mov r14, [rdi + {r14}]",
                "mov r15, [rdi + {r15}]",
                "mov rdi, [rdi + {rdi}]",
                $instruction,
                "push rdi",
                "mov rdi, [rsp + 8]",
                "mov [rdi + {rax}], rax",
                "mov [rdi + {rcx}], rcx",
                "mov [rdi + {rdx}], rdx",
                "mov [rdi + {rbx}], rbx",
                "mov [rdi + {rsi}], rsi",
                "mov [rdi + {r8}], r8",
                "mov [rdi + {r9}], r9",
                "mov [rdi + {r10}], r10",
                "mov [rdi + {r11}], r11",
                "mov [rdi + {r12}], r12",
                "mov [rdi + {r13}], r13",
                "mov [rdi + {r14}], r14",
                "mov [rdi + {r15}], r15",
                "pop qword ptr [rdi + {rdi}]",
                $($after,)*
                "pop rdi",
                "pop r15",
                "pop r14",
                "pop r13",
                "pop r12",
                "pop rbp",
                "pop rbx",
                "ret",
                rax = const offset_of!(Regs, rax),
                rcx = const offset_of!(Regs, rcx),
                rdx = const offset_of!(Regs, rdx),
                rbx = const offset_of!(Regs, rbx),
                rsi = const offset_of!(Regs, rsi),
                rdi = const offset_of!(Regs, rdi),
                r8 = const offset_of!(Regs, r8),
                r9 = const offset_of!(Regs, r9),
                r10 = const offset_of!(Regs, r10),
                r11 = const offset_of!(Regs, r11),
                r12 = const offset_of!(Regs, r12),
                r13 = const offset_of!(Regs, r13),
                r14 = const offset_of!(Regs, r14),
                r15 = const offset_of!(Regs, r15),
            )
        }
    };
}

with_register_file! {
    /// TDCALL.
    ///
    /// # Safety
    /// The argument is a register file. CPL 0 in L1 of a TD, and the leaf breaks nothing.
    tdcall(Regs): [] "tdcall" []
}

with_register_file! {
    /// TDCALL between two exchanges of x87/SSE/AVX state and XCR0, in one piece: no code of the compiler, which may use
    /// any of these registers, comes in between.
    ///
    /// The guest's components are loaded under L1's XCR0, which has all of them, before its own XCR0 is set: what the
    /// guest has switched off holds its initial value and nothing of L1's.
    ///
    /// # Safety
    /// As for `tdcall`; both areas are 64-byte aligned, large enough for `own_xcr0`, and hold a legal XSAVE image;
    /// `own_xcr0` is the current XCR0, and `guest_xcr0` a legal subset of it.
    enter(EnterFrame): [
        "mov eax, -1"
        "mov edx, -1"
        "mov rcx, [rdi + 0x70]"
        "xsave64 [rcx]"
        "mov rcx, [rdi + 0x78]"
        "xrstor64 [rcx]"
        "mov eax, [rdi + 0x88]"
        "mov edx, [rdi + 0x8c]"
        "xor ecx, ecx"
        "xsetbv"
    ] "tdcall" [
        "mov eax, [rdi + 0x80]"
        "mov edx, [rdi + 0x84]"
        "xor ecx, ecx"
        "xsetbv"
        "mov eax, -1"
        "mov edx, -1"
        "mov rcx, [rdi + 0x78]"
        "xsave64 [rcx]"
        "mov rcx, [rdi + 0x70]"
        "xrstor64 [rcx]"
    ]
}

#[cfg(test)]
with_register_file! {
    /// Something that runs anywhere and shows which register went where: inverts all but RSP.
    ///
    /// # Safety
    /// The argument is a register file.
    invert(Regs): [] "not rax; not rcx; not rdx; not rbx; not rbp; not rsi; not rdi; not r8; not r9; not r10; not r11; \
        not r12; not r13; not r14; not r15" []
}

/// VMCALL with the registers of the calling convention.
///
/// # Safety
/// CPL 0 in an L2, L1 speaks the protocol, and the call breaks nothing.
#[inline(never)]
pub(super) unsafe fn vmcall(regs: CallRegs) -> CallRegs {
    let CallRegs { mut rax, mut rcx, mut rdx, mut r8, mut r9 } = regs;
    // SAFETY: the caller's promise. L1 reads and writes memory that the call names, so no `nomem`; it changes no other
    // register (rule S2).
    unsafe {
        asm!(
            "vmcall",
            inout("rax") rax,
            inout("rcx") rcx,
            inout("rdx") rdx,
            inout("r8") r8,
            inout("r9") r9,
            options(nostack),
        );
    }
    CallRegs { rax, rcx, rdx, r8, r9 }
}

/// Reads XCR0.
///
/// # Safety
/// CR4.OSXSAVE is set.
pub(super) unsafe fn xgetbv() -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: the caller's promise.
    unsafe { asm!("xgetbv", in("ecx") 0, out("eax") low, out("edx") high, options(nomem, nostack, preserves_flags)) };
    u64::from(high) << 32 | u64::from(low)
}

/// Switches interrupts off and says whether they were on.
///
/// # Safety
/// CPL 0; the caller switches them on again.
pub(super) unsafe fn interrupts_off() -> bool {
    let flags: u64;
    // SAFETY: the caller's promise. Memory accesses stay behind it, hence no `nomem`.
    unsafe { asm!("pushfq", "cli", "pop {}", out(reg) flags) };
    flags & 1 << 9 != 0
}

/// Switches interrupts on.
///
/// # Safety
/// CPL 0, and interrupts may come.
pub(super) unsafe fn interrupts_on() {
    // SAFETY: the caller's promise.
    unsafe { asm!("sti", options(nostack)) };
}

/// Loads the values of another level into CR2, DR0 to DR3, DR6 and the first `msrs` of [`MSRS`], and gives those that
/// were in them.
///
/// # Safety
/// CPL 0; the MSRs exist and take the values; no breakpoint is armed.
pub(super) unsafe fn exchange(to: &Unswitched, msrs: usize) -> Unswitched {
    let mut from = Unswitched { cr2: 0, dr: [0; 4], dr6: 0, msrs: [0; MSRS.len()] };
    // SAFETY: the caller's promise.
    unsafe {
        asm!(
            "mov {old}, cr2",
            "mov cr2, {new}",
            new = in(reg) to.cr2,
            old = out(reg) from.cr2,
            options(nomem, nostack, preserves_flags),
        );
    }
    let [dr0, dr1, dr2, dr3] = to.dr;
    let [old0, old1, old2, old3] = &mut from.dr;
    // SAFETY: the caller's promise.
    unsafe {
        asm!(
            "mov {scratch}, dr0",
            "mov [{old0}], {scratch}",
            "mov {scratch}, dr1",
            "mov [{old1}], {scratch}",
            "mov {scratch}, dr2",
            "mov [{old2}], {scratch}",
            "mov {scratch}, dr3",
            "mov [{old3}], {scratch}",
            scratch = out(reg) _,
            old0 = in(reg) core::ptr::from_mut(old0),
            old1 = in(reg) core::ptr::from_mut(old1),
            old2 = in(reg) core::ptr::from_mut(old2),
            old3 = in(reg) core::ptr::from_mut(old3),
            options(nostack, preserves_flags),
        );
    }
    // SAFETY: the caller's promise.
    unsafe {
        asm!(
            "mov dr0, {new0}",
            "mov dr1, {new1}",
            "mov dr2, {new2}",
            "mov dr3, {new3}",
            new0 = in(reg) dr0,
            new1 = in(reg) dr1,
            new2 = in(reg) dr2,
            new3 = in(reg) dr3,
            options(nomem, nostack, preserves_flags),
        );
    }
    // SAFETY: the caller's promise.
    unsafe {
        asm!(
            "mov {old}, dr6",
            "mov dr6, {new}",
            new = in(reg) to.dr6,
            old = out(reg) from.dr6,
            options(nomem, nostack, preserves_flags),
        );
    }
    for ((msr, new), old) in MSRS.iter().zip(&to.msrs).zip(&mut from.msrs).take(msrs) {
        // SAFETY: the caller's promise.
        *old = unsafe { rdmsr(*msr) };
        // SAFETY: the caller's promise.
        unsafe { wrmsr(*msr, *new) };
    }
    from
}

/// RDMSR.
///
/// # Safety
/// CPL 0, and the MSR exists.
unsafe fn rdmsr(msr: u32) -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: the caller's promise.
    unsafe { asm!("rdmsr", in("ecx") msr, out("eax") low, out("edx") high, options(nomem, nostack, preserves_flags)) };
    u64::from(high) << 32 | u64::from(low)
}

/// WRMSR.
///
/// # Safety
/// CPL 0, the MSR takes the value, and nobody relies on the old one.
unsafe fn wrmsr(msr: u32, value: u64) {
    // SAFETY: the caller's promise.
    unsafe {
        asm!("wrmsr", in("ecx") msr, in("eax") value as u32, in("edx") (value >> 32) as u32, options(nostack, preserves_flags));
    }
}
