//! The bare-metal images: how they become one IGVM file, and how that boots under the emulator in QEMU.
//!
//! - [`elf`]: an ELF file as it lies in guest memory.
//! - [`file`](mod@file): monitor and guest as one file.
//! - `image`, `run`, `emulated`: the commands `image`, `boot` and `emulated`; `build`, `qemu`, `capture` and `evidence` are
//!   what they need.

mod build;
mod capture;
pub mod elf;
pub(crate) mod emulated;
mod evidence;
pub mod file;
pub(crate) mod image;
mod qemu;
pub(crate) mod run;
