#![doc = include_str!("../README.md")]
#![no_std]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate std;

mod call;
mod launch;
pub mod ledger;
mod monitor;
mod pool;
mod service;
mod shared;
pub mod storage;
#[cfg(test)]
mod tests;
mod trap;
mod vtpm;

pub use launch::{GuestLaunch, SetupError};
pub use ledger::{Ledger, State};
pub use monitor::{Monitor, Outcome, Step, Stop};
pub use shared::{Limits, Shared};
pub use storage::Storage;
pub use vtpm::{Vtpm, VtpmDevice, VtpmError};
