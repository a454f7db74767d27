//! The serial ports: what is said on the first, traces on the second.

use alloc::vec::Vec;
use core::fmt::{self, Write};

use spin::Mutex;
use x86_64::instructions::port::Port;

/// A 16550 at QEMU's usual place.
struct Uart(u16);

/// The first serial port. Whoever holds it writes whole lines.
static CONSOLE: Mutex<Uart> = Mutex::new(Uart(0x3f8));
/// The second one.
static TRACE: Mutex<Uart> = Mutex::new(Uart(0x2f8));

impl Write for Uart {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut port: Port<u8> = Port::new(self.0);
        for byte in text.bytes() {
            // SAFETY: QEMU's serial port takes a byte at any time, and affects nothing but its output.
            unsafe { port.write(byte) };
        }
        Ok(())
    }
}

/// Writes one line of our own.
pub(crate) fn say(text: fmt::Arguments<'_>) {
    // Writing to the port cannot fail.
    let _ = writeln!(CONSOLE.lock(), "emulator: {text}");
}

/// Writes one line of the trace.
pub(crate) fn trace(text: fmt::Arguments<'_>) {
    let _ = writeln!(TRACE.lock(), "{text}");
}

/// Longest line of a guest; a longer one is broken.
const LINE: usize = 8192;

/// What one VMPL has written since its last line feed.
#[derive(Debug, Default)]
pub(crate) struct Line(Vec<u8>);

impl Line {
    /// Takes a byte that a VMPL wrote, and prints the line once it is whole.
    pub(crate) fn push(&mut self, vmpl: u8, byte: u8) {
        if byte == b'\n' || self.0.len() >= LINE {
            self.flush(vmpl);
        }
        if byte != b'\n' {
            // Whatever could move the cursor of a terminal is not for it.
            self.0.push(if byte.is_ascii_graphic() || byte == b' ' { byte } else { b'?' });
        }
    }

    /// Prints what there is of a line.
    pub(crate) fn flush(&mut self, vmpl: u8) {
        let text = core::mem::take(&mut self.0);
        let _ = writeln!(CONSOLE.lock(), "vmpl{vmpl}: {}", core::str::from_utf8(&text).unwrap_or_default());
    }

    /// Whether something waits for its line feed.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
