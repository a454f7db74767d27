//! The local APIC of our own processors, in its memory-mapped form.

use core::hint::spin_loop;

use x86_64::instructions::port::Port;

/// Where it is.
const BASE: u64 = 0xfee0_0000;
const ID: u64 = 0x20;
const SPURIOUS: u64 = 0xf0;
const ICR_LOW: u64 = 0x300;
const ICR_HIGH: u64 = 0x310;
const LVT_TIMER: u64 = 0x320;
const TIMER_COUNT: u64 = 0x380;
const TIMER_CURRENT: u64 = 0x390;
const TIMER_DIVIDE: u64 = 0x3e0;

/// Vector of the timer.
const TIMER: u32 = 0x20;
/// Vector that makes a processor leave its guest.
const KICK: u32 = 0x21;
/// LVT: periodic.
const PERIODIC: u32 = 1 << 17;
/// Ticks of one period: 1 ms of QEMU's 1 GHz bus, which is how late a timer of a guest may be.
const PERIOD: u32 = 1_000_000;
/// ICR: INIT and startup, asserted.
const INIT: u32 = 0x4500;
const STARTUP: u32 = 0x4600;

fn write(register: u64, value: u32) {
    // SAFETY: the registers are mapped; those above change nothing but this APIC.
    unsafe { ((BASE + register) as *mut u32).write_volatile(value) };
}

fn read(register: u64) -> u32 {
    // SAFETY: the registers are mapped, and reading these has no effect.
    unsafe { ((BASE + register) as *const u32).read_volatile() }
}

/// Number of the executing processor.
pub(crate) fn id() -> u8 {
    // The upper 8 bits.
    (read(ID) >> 24) as u8
}

/// Turns it on, with a periodic timer.
pub(crate) fn enable() {
    write(SPURIOUS, 0x1ff);
    write(TIMER_DIVIDE, 0xb);
    write(LVT_TIMER, TIMER | PERIODIC);
    write(TIMER_COUNT, PERIOD);
}

/// Lets so many milliseconds pass, by the timer.
pub(crate) fn spend_ms(milliseconds: u64) {
    for _ in 0..milliseconds {
        // The count goes down and begins anew.
        let mut before = read(TIMER_CURRENT);
        loop {
            let now = read(TIMER_CURRENT);
            if now > before {
                break;
            }
            before = now;
        }
    }
}

/// Masks the old interrupt controllers, which the boot loader left on.
pub(crate) fn silence_legacy() {
    for port in [0x21, 0xa1] {
        // SAFETY: the data ports of the two controllers; a mask of ones keeps them quiet.
        unsafe { Port::<u8>::new(port).write(0xff) };
    }
}

/// Makes another processor leave its guest.
pub(crate) fn kick(id: u8) {
    send(id, KICK);
}

/// Starts a processor at a page below 1 MiB.
pub(crate) fn start(id: u8, at: u64) {
    send(id, INIT);
    for _ in 0..1_000_000 {
        spin_loop();
    }
    // At most 0xff.
    send(id, STARTUP | (at >> 12) as u32 & 0xff);
}

fn send(id: u8, command: u32) {
    write(ICR_HIGH, u32::from(id) << 24);
    write(ICR_LOW, command);
}
