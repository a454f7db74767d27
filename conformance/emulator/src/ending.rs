//! How a run ends.

use core::fmt;

use x86_64::instructions::port::Port;

use crate::console;

/// What the exit status of QEMU says: 2 * code + 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// The guest said success.
    Success = 0,
    /// The guest said something else.
    Failure = 1,
    /// The guest ended without a result.
    Ended = 2,
    /// There was nothing to run.
    Refused = 3,
    /// Nothing went on any more.
    Watchdog = 4,
    /// The emulator failed itself.
    Broken = 5,
}

/// Says one sentence and leaves QEMU.
pub(crate) fn end(ending: Ending, sentence: fmt::Arguments<'_>) -> ! {
    console::say(sentence);
    quit(ending)
}

/// Leaves QEMU without another word.
pub(crate) fn quit(ending: Ending) -> ! {
    let mut port: Port<u32> = Port::new(0xf4);
    loop {
        // SAFETY: the device of the command line ends QEMU at this write.
        unsafe { port.write(ending as u32) };
        core::hint::spin_loop();
    }
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    end(Ending::Broken, format_args!("{info}"))
}
