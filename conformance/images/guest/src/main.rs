//! A bare-metal guest that the monitor starts at VMPL2.
//!
//! | file | what |
//! |---|---|
//! | `entry` | the first instruction |
//! | `start` | memory, page tables, level, way to monitor and host |
//! | `program` | what it shows: level, memory, another vCPU, evidence, faults |
//! | `interrupts` | timer, HLT, interrupts between vCPUs |
//! | `registers` | MSRs and vector registers over calls and interrupts |
//! | `user` | code at CPL 3 |
//!
//! [`image_layout::GuestStart`] says what it begins with.

#![no_std]
#![no_main]
#![deny(unsafe_code)]

#[allow(unsafe_code)]
mod entry;
#[allow(unsafe_code)]
mod interrupts;
#[allow(unsafe_code)]
mod program;
mod registers;
#[allow(unsafe_code)]
mod start;
#[allow(unsafe_code)]
mod user;

use core::panic::PanicInfo;

use image_runtime::{end, println};

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    println!("{info}");
    end::terminate(start::PANIC)
}
