//! The bare-metal images: how they become one IGVM file.
//!
//! - [`elf`]: an ELF file as it lies in guest memory.
//! - [`file`](mod@file): monitor and guest as one file.

mod build;
pub mod elf;
pub mod file;
pub(crate) mod image;
