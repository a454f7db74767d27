#![doc = include_str!("../README.md")]
#![no_std]
#![deny(unsafe_code)]

#[cfg(test)]
extern crate std;

pub mod abi;
pub mod error;
pub mod l1;
pub mod l2;
#[cfg(target_arch = "x86_64")]
pub mod native;
pub mod port;
pub mod shared;

#[cfg(test)]
mod facts;
#[cfg(test)]
mod mock;

pub use error::Error;
pub use l1::{L1, LevelPages, Pages, Seed};
pub use l2::L2Port;
pub use port::{GuestCall, Port};
pub use shared::{Shared, Slot};
