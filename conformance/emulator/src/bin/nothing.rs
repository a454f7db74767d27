//! The empty kernel: writes a line feed, and leaves QEMU. How long that takes is what other starts are compared with.

#![no_std]
#![no_main]

core::arch::global_asm!(
    include_str!("../pvh.s"),
    r#"
    .section .text.start, "ax", @progbits
    .code32
    .global start
    start:
        mov edx, 0x3f8              # the serial port
        mov al, 10
        out dx, al
        mov edx, 0xf4               # isa-debug-exit
        xor eax, eax
        out dx, eax
        hlt
    .code64
    "#
);

/// There is no Rust code that could panic.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {
        core::hint::spin_loop();
    }
}
