//! The monitor as an image that boots at VMPL0 of an SNP guest.
//!
//! | file | what |
//! |---|---|
//! | `entry` | from the launch VMSA to 64-bit mode, with the C-bit verified |
//! | `own` | memory that the monitor validates for itself |
//! | `start` | everything that is kept, and the final page tables |
//! | `serve` | one vCPU: backend, console, guest |
//! | `beside` | who runs at other levels beside the guest: nobody, or companions (`with_companions`) |
//! | `guest` | the guest's pages and its first registers |
//! | `reason` | why the guest is ended |
//!
//! On the console there is nothing that a guest wrote. [`image_layout`] says where everything lies.

#![no_std]
#![no_main]
#![deny(unsafe_code)]

#[path = "beside/nobody.rs"]
mod beside;
#[cfg(feature = "defect")]
mod defect;
#[allow(unsafe_code)]
mod entry;
mod guest;
#[allow(unsafe_code)]
mod own;
mod reason;
#[allow(unsafe_code)]
mod serve;
#[allow(unsafe_code)]
mod start;
