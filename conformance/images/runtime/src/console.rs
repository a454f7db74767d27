//! Lines of text to the console of the host, and the sink of `log`.
//!
//! A line goes out in one request, so lines of several vCPUs do not mix. Before a vCPU has its [link](crate::link) its lines are
//! lost. The host reads everything: no secret and nothing of a lower level's memory goes here.

use core::fmt::{self, Write};

use crate::line::Lines;
use crate::link::LINKS;

/// Writes a text as one line or several.
pub fn print(text: fmt::Arguments<'_>) {
    let mut lines = Lines::new(|line: &[u8]| {
        // There is nobody to tell that the console is gone.
        let _ = LINKS.with(|link| link.write(line));
    });
    let _ = lines.write_fmt(text);
    lines.finish();
}

/// Writes a line to the console.
#[macro_export]
macro_rules! println {
    ($($text:tt)*) => {
        $crate::console::print(format_args!($($text)*))
    };
}

struct Sink;

impl log::Log for Sink {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        println!("{}", record.args());
    }

    fn flush(&self) {}
}

/// Makes the console the sink of `log`, for records as important as `info` and above. What the crates of this project say on
/// those levels holds numbers of vCPUs, levels and errors, and nothing that a guest wrote.
pub fn install_log() {
    // Called twice it stays as it is.
    let _ = log::set_logger(&Sink);
    log::set_max_level(log::LevelFilter::Info);
}
