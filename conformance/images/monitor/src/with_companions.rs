//! The [monitor](../monitor/index.html) with programs at the levels beside the guest's (`image_companions`), for cases. Nobody
//! else boots it.

#![no_std]
#![no_main]
#![deny(unsafe_code)]

#[path = "beside/companions.rs"]
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
