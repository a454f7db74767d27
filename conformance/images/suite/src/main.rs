//! A bare-metal guest that runs conformance cases (`image-cases`) and reports them on the console.
//!
//! Which ones stands in the image ([`program`]), so the launch digest says it too. Up to there it is the guest beside it.

#![no_std]
#![no_main]

mod bed;
#[path = "../../guest/src/entry.rs"]
mod entry;
mod program;
#[path = "../../guest/src/start.rs"]
#[expect(dead_code, reason = "what its further vCPU has beyond that of the cases")]
mod start;

use core::panic::PanicInfo;

use image_runtime::{end, println};

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    println!("{info}");
    end::terminate(start::PANIC)
}
