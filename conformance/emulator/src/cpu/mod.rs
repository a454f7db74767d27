//! One processor: how it enters a guest and comes back.

pub(crate) mod apic;
mod idt;
mod vmcb;
mod xsave;

use core::arch::asm;
use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use machine::{RunKey, msr, vmsa};
use x86_64::registers::model_specific::Msr;

use crate::frames::Page;
use vmcb::Vmcb;
pub(crate) use vmcb::control;
pub(crate) use xsave::Extended;

/// VM_HSAVE_PA.
const HSAVE: u32 = 0xc001_0117;
/// Where a VMSA has its general registers, by number; RAX and RSP stand elsewhere.
const GENERAL: usize = 0x300;
/// Our own instructions between the two looks at the clock around a guest: so many ticks where a tick is an instruction.
const ENTRY_TICKS: u64 = 26;
/// How long the clock is measured.
const MEASURED_MS: u64 = 10;
/// Most processors.
pub(crate) const MOST: usize = 8;

static STARTED: AtomicUsize = AtomicUsize::new(0);
static IN_GUEST: [AtomicBool; MOST] = [const { AtomicBool::new(false) }; MOST];
static WAITS: [AtomicBool; MOST] = [const { AtomicBool::new(false) }; MOST];
static TICKS_PER_MS: AtomicU64 = AtomicU64::new(1_000_000);

/// How many processors have started.
pub(crate) fn started() -> usize {
    STARTED.load(Ordering::SeqCst)
}

/// Makes every other processor leave its guest, and so drop its translations, before this returns. None enters one meanwhile,
/// because the caller holds the world.
pub(crate) fn drive_out_others(me: u8) {
    for (id, in_guest) in (0..).zip(&IN_GUEST) {
        if id == me || !in_guest.load(Ordering::SeqCst) {
            continue;
        }
        apic::kick(id);
        while in_guest.load(Ordering::SeqCst) {
            core::hint::spin_loop();
        }
    }
}

/// Makes a processor leave its guest soon, if it is in one, or ends its wait.
pub(crate) fn kick(id: u8) {
    let is = |flags: &[AtomicBool; MOST]| flags.get(usize::from(id)).is_some_and(|flag| flag.load(Ordering::SeqCst));
    if is(&IN_GUEST) || is(&WAITS) {
        apic::kick(id);
    }
}

/// Waits until the next tick, or until somebody kicks this processor.
pub(crate) fn wait(id: u8) {
    let flag = WAITS.get(usize::from(id));
    let set = |waits| flag.into_iter().for_each(|flag| flag.store(waits, Ordering::SeqCst));
    set(true);
    // SAFETY: our interrupts have a handler that changes nothing; they are off again afterwards.
    unsafe { asm!("sti", "hlt", "cli", options(nostack)) };
    set(false);
}

/// Measures the clock once, on the first processor.
pub(crate) fn calibrate() {
    let before = now();
    apic::spend_ms(MEASURED_MS);
    TICKS_PER_MS.store((now().wrapping_sub(before) / MEASURED_MS).max(1), Ordering::Relaxed);
}

/// Ticks of the clock in a second.
pub(crate) fn ticks_per_second() -> u64 {
    TICKS_PER_MS.load(Ordering::Relaxed).saturating_mul(1000)
}

/// What made a guest exit.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Exit {
    pub(crate) code: u64,
    pub(crate) info1: u64,
    pub(crate) info2: u64,
    /// EXITINTINFO: what was being delivered.
    pub(crate) interrupted: u64,
}

/// VMRUN did not accept the state.
pub(crate) const INVALID: u64 = 0xffff_ffff;

/// The processor that executes.
#[derive(Debug)]
pub(crate) struct Cpu {
    /// Its number, which is that of the vCPU too.
    pub(crate) id: u8,
    vmcb: Vmcb,
    /// Where VMSAVE puts our own segments.
    own: u64,
    /// By number. Those of RAX and RSP, which the VMCB has, are free: they hold the clock before and after the guest ran.
    general: [u64; 16],
    /// How long the guest ran the last time.
    pub(crate) ticks: u64,
    /// TSC at the last exit that was no interrupt.
    pub(crate) last_exit: u64,
    /// The guest executed HLT and nothing has come since.
    pub(crate) is_idle: bool,
    /// The VMSA whose extended state is in the registers.
    pub(crate) extended: Option<RunKey>,
    /// What RDTSCP reads.
    tsc_aux: u64,
}

impl Cpu {
    /// Sets the executing processor up.
    pub(crate) fn start(id: u8) -> Self {
        idt::load();
        // SAFETY: the page is ours for ever; the processor keeps its own state there while a guest runs.
        unsafe { Msr::new(HSAVE).write(Page::leak()) };
        let own = Page::leak();
        // SAFETY: stores a few registers of this processor into a page that is ours.
        unsafe { asm!("vmsave rax", in("rax") own, options(nostack)) };
        apic::enable();
        STARTED.fetch_add(1, Ordering::SeqCst);
        let mut cpu = Self {
            id,
            vmcb: Vmcb::new(),
            own,
            general: [0; 16],
            ticks: 0,
            last_exit: now(),
            is_idle: false,
            extended: None,
            tsc_aux: 0,
        };
        cpu.write_tsc_aux();
        cpu
    }

    fn write_tsc_aux(&mut self) {
        // SAFETY: nothing but RDTSCP reads it, which our own code does not execute.
        unsafe { Msr::new(msr::TSC_AUX).write(self.tsc_aux) };
    }

    /// Takes the state of a VMSA, and the nested tables to run it under.
    pub(crate) fn load(&mut self, registers: &[u8; 4096], nested_cr3: u64) {
        self.vmcb.load(registers);
        for (register, bytes) in self.general.iter_mut().zip(registers[GENERAL..].as_chunks().0) {
            *register = u64::from_le_bytes(*bytes);
        }
        self.vmcb.set(control::NESTED_CR3, nested_cr3);
        // No VMCB has it. The lower half.
        let tsc_aux = vmsa::read_u64(registers, vmsa::TSC_AUX) & 0xffff_ffff;
        if self.tsc_aux != tsc_aux {
            self.tsc_aux = tsc_aux;
            self.write_tsc_aux();
        }
        if let Some(in_guest) = IN_GUEST.get(usize::from(self.id)) {
            in_guest.store(true, Ordering::SeqCst);
        }
    }

    /// Gives the state back, but for what is no register of the guest at these offsets: RAX, RSP.
    pub(crate) fn save(&self, registers: &mut [u8; 4096]) {
        self.vmcb.save(registers);
        for (number, (register, bytes)) in self.general.iter().zip(registers[GENERAL..].as_chunks_mut().0).enumerate() {
            if number != 0 && number != 4 {
                *bytes = register.to_le_bytes();
            }
        }
    }

    /// An event that the guest gets at its next entry (EVENTINJ).
    pub(crate) fn inject(&mut self, event: u64) {
        self.vmcb.set(control::EVENT, event);
    }

    /// Whether an event waits already, or the guest is in an interrupt shadow.
    pub(crate) fn is_occupied(&self) -> bool {
        self.vmcb.get(control::EVENT) != 0 || self.vmcb.get(control::SHADOW) & 1 != 0
    }

    /// Has the guest exit as soon as it can be interrupted, or not.
    pub(crate) fn ask_for_window(&mut self, ask: bool) {
        self.vmcb.ask_for_window(ask);
    }

    /// Runs the guest until it exits. The caller has called [`load`](Self::load) and holds no lock.
    pub(crate) fn enter(&mut self) -> Exit {
        let vmcb = self.vmcb.address();
        let general = self.general.as_mut_ptr();
        // SAFETY: the VMCB is whole and ours, as are its maps and the host save area; a guest runs under nested tables that lead
        // to guest memory alone. Interrupts are taken at STGI, whose handler preserves everything. All registers that the guest
        // leaves behind are saved, restored or declared; RBX and RBP, which cannot be declared, are on the stack.
        unsafe {
            asm!(
                "push rbx",
                "push rbp",
                "push rdi",
                "push rsi",
                "push rax",
                "clgi",
                "sti",
                "rdtsc",
                "shl rdx, 32",
                "or rdx, rax",
                "mov [rdi], rdx",
                "mov rax, [rsp]",
                "mov rcx, [rdi + 0x08]",
                "mov rdx, [rdi + 0x10]",
                "mov rbx, [rdi + 0x18]",
                "mov rbp, [rdi + 0x28]",
                "mov rsi, [rdi + 0x30]",
                "mov r8, [rdi + 0x40]",
                "mov r9, [rdi + 0x48]",
                "mov r10, [rdi + 0x50]",
                "mov r11, [rdi + 0x58]",
                "mov r12, [rdi + 0x60]",
                "mov r13, [rdi + 0x68]",
                "mov r14, [rdi + 0x70]",
                "mov r15, [rdi + 0x78]",
                "mov rdi, [rdi + 0x38]",
                "vmload rax",
                "vmrun rax",
                "vmsave rax",
                "push rdi",
                "mov rdi, [rsp + 0x18]",
                "mov [rdi + 0x08], rcx",
                "mov [rdi + 0x10], rdx",
                "rdtsc",
                "shl rdx, 32",
                "or rdx, rax",
                "mov [rdi + 0x20], rdx",
                "mov [rdi + 0x18], rbx",
                "mov [rdi + 0x28], rbp",
                "mov [rdi + 0x30], rsi",
                "mov [rdi + 0x40], r8",
                "mov [rdi + 0x48], r9",
                "mov [rdi + 0x50], r10",
                "mov [rdi + 0x58], r11",
                "mov [rdi + 0x60], r12",
                "mov [rdi + 0x68], r13",
                "mov [rdi + 0x70], r14",
                "mov [rdi + 0x78], r15",
                "pop rcx",
                "mov [rdi + 0x38], rcx",
                "mov rax, [rsp + 0x08]",
                "vmload rax",
                "stgi",
                "cli",
                "pop rax",
                "pop rsi",
                "pop rdi",
                "pop rbp",
                "pop rbx",
                inout("rax") vmcb => _,
                inout("rdi") general => _,
                inout("rsi") self.own => _,
                out("rcx") _, out("rdx") _, out("r8") _, out("r9") _, out("r10") _, out("r11") _,
                out("r12") _, out("r13") _, out("r14") _, out("r15") _,
            );
        }
        if let Some(in_guest) = IN_GUEST.get(usize::from(self.id)) {
            in_guest.store(false, Ordering::SeqCst);
        }
        let [begun, _, _, _, ended, ..] = self.general;
        self.ticks = ended.wrapping_sub(begun).saturating_sub(ENTRY_TICKS);
        self.vmcb.set(control::EVENT, 0);
        Exit {
            // QEMU stores 32 bits of a failed entry.
            code: self.vmcb.get(control::EXIT_CODE),
            info1: self.vmcb.get(control::EXIT_INFO_1),
            info2: self.vmcb.get(control::EXIT_INFO_2),
            interrupted: self.vmcb.get(control::INTERRUPTED),
        }
    }
}

/// The clock: ticks of a speed that is QEMU's choice.
pub(crate) fn now() -> u64 {
    // SAFETY: reads a counter.
    unsafe { core::arch::x86_64::_rdtsc() }
}
