//! The bare-metal images and the command that boots them, without an emulator: files, bad input, and a stand-in for QEMU.

mod command;
mod image;
mod program;
