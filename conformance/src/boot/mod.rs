//! The bare-metal images: how they become one IGVM file, and how that boots under the emulator in QEMU.
//!
//! - [`elf`]: an ELF file as it lies in guest memory.
//! - [`file`](mod@file): monitor and guest as one file.
//! - `image`, `run`, `emulated`, `rates`: the commands `image`, `boot`, `emulated` and `rates`; `build`, `qemu`, `capture`,
//!   `programs` and `evidence` are what they need.

mod build;
mod capture;
pub mod elf;
pub(crate) mod emulated;
mod evidence;
pub mod file;
pub(crate) mod image;
mod programs;
mod qemu;
pub(crate) mod rates;
pub(crate) mod run;
