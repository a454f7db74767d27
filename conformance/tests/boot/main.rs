//! The bare-metal images and the command that boots them, without an emulator: files, bad input, and a stand-in for QEMU.

extern crate alloc;

mod boot;
mod command;
mod evidence;
mod image;
mod program;
