//! From the first instruction to the vCPU loops.

use alloc::vec::Vec;
use core::arch::global_asm;
use core::sync::atomic::{AtomicU64, Ordering};

use spin::Mutex;

use crate::cpu::{self, Cpu, apic};
use crate::ending::{Ending, end};
use crate::frames::{self, Page};
use crate::options::Options;
use crate::world::{WORLD, World};
use crate::{heap, load, run};

global_asm!(include_str!("pvh.s"), include_str!("start.s"));

unsafe extern "C" {
    static secondary: u8;
    static secondary_end: u8;
    static secondary_stack: AtomicU64;
}

/// Argument with which secondary processors come.
const SECONDARY: u64 = 1;
/// Where they start in real mode.
const TRAMPOLINE: u64 = 0x8000;
/// Pages of a stack.
const STACK_PAGES: usize = 64;
/// First quadword half of the start info.
const START_MAGIC: u32 = 0x336e_c578;

/// Seconds without an exit after which a guest counts as stuck.
pub(crate) static WATCHDOG: AtomicU64 = AtomicU64::new(20);

/// Seconds after which the run ends whatever it does; 0 for never.
pub(crate) static LIMIT: AtomicU64 = AtomicU64::new(0);
/// When it began, by the clock.
pub(crate) static STARTED: AtomicU64 = AtomicU64::new(0);

/// The first Rust code of every processor.
#[unsafe(no_mangle)]
extern "C" fn main(argument: u64) -> ! {
    if argument == SECONDARY {
        run::run(&mut Cpu::start(apic::id()))
    }
    heap::init();
    apic::silence_legacy();
    let mut cpu = Cpu::start(apic::id());
    cpu::calibrate();
    let (line, image) = given(argument);
    let options = match Options::parse(&line) {
        Ok(options) => options,
        Err(sentence) => end(Ending::Refused, format_args!("{sentence}")),
    };
    WATCHDOG.store(options.watchdog, Ordering::Relaxed);
    LIMIT.store(options.limit, Ordering::Relaxed);
    STARTED.store(cpu::now(), Ordering::Relaxed);
    let machine = match load::launch(&options, &image) {
        Ok(machine) => machine,
        Err(sentence) => end(Ending::Refused, format_args!("{sentence}")),
    };
    drop(image);
    WORLD.call_once(|| Mutex::new(World::new(machine, options.figures)));
    for id in 1..options.vcpus {
        start_secondary(id);
    }
    run::run(&mut cpu)
}

/// A quadword or doubleword that the boot loader left.
fn word<const N: usize>(at: u64) -> [u8; N] {
    let mut bytes = [0; N];
    if at < 1 << 32 {
        // SAFETY: the first 4 GiB are mapped, QEMU left its structures in RAM, and nobody writes them any more.
        unsafe { core::ptr::copy_nonoverlapping(at as *const u8, bytes.as_mut_ptr(), N) };
    }
    bytes
}

fn quad(at: u64) -> u64 {
    u64::from_le_bytes(word(at))
}

/// Command line and first module, copied.
fn given(info: u64) -> (alloc::string::String, Vec<u8>) {
    let modules = u32::from_le_bytes(word(info + 12));
    if u32::from_le_bytes(word(info)) != START_MAGIC || modules == 0 {
        end(Ending::Refused, format_args!("QEMU gave no image; it comes by -initrd"));
    }
    let mut line = alloc::string::String::new();
    let mut at = quad(info + 24);
    while let [byte @ 1..=0x7f] = word(at)
        && line.len() < 4096
    {
        line.push(char::from(byte));
        at += 1;
    }
    let list = quad(info + 16);
    let (first, bytes) = (quad(list), quad(list + 8));
    if first < frames::END || bytes > 1 << 30 || first.saturating_add(bytes) > 1 << 32 {
        end(Ending::Refused, format_args!("the image has {bytes} bytes, which is too much"));
    }
    let mut image = alloc::vec![0; bytes as usize];
    // SAFETY: QEMU put the module there, above all memory that is used here; it was checked to lie in what is mapped.
    unsafe { core::ptr::copy_nonoverlapping(first as *const u8, image.as_mut_ptr(), image.len()) };
    (line, image)
}

/// Starts a secondary processor and waits until it runs.
fn start_secondary(id: u8) {
    let (from, to) = (&raw const secondary, &raw const secondary_end);
    let bytes = (to as usize).saturating_sub(from as usize);
    // SAFETY: the code is position independent but for addresses that it knows, and low memory is RAM that nobody else uses.
    unsafe { core::ptr::copy_nonoverlapping(from, TRAMPOLINE as *mut u8, bytes) };
    let stack: &'static mut [Page] = alloc::vec![Page([0; 4096]); STACK_PAGES].leak();
    let top = stack.as_mut_ptr_range().end as u64;
    // SAFETY: the symbol is an aligned quadword that only this function and the processor that starts use.
    let slot = unsafe { &secondary_stack };
    slot.store(top, Ordering::SeqCst);
    let before = crate::cpu::started();
    apic::start(id, TRAMPOLINE);
    let begun = cpu::now();
    while crate::cpu::started() == before {
        if cpu::now().wrapping_sub(begun) > cpu::ticks_per_second().saturating_mul(10) {
            end(Ending::Refused, format_args!("processor {id} does not start: QEMU needs one for each vCPU"));
        }
        core::hint::spin_loop();
    }
}
