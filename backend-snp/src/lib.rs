//! AMD SEV-SNP with VMPLs, in three floors.
//!
//! 1. [`abi`]: layouts and codes as the vendor publishes them. No logic, no unsafe code.
//! 2. [`instr`]: the instructions a level executes, one method each, behind the trait [`instr::Port`]. The native port
//!    and the native memory window are the only unsafe code of this crate.
//! 3. Above them, safe code that implements the `coco-part-api` traits over any port: silicon, an emulator or a model.
//!
//! The numbers of the lower two floors are compared with the tables in `facts/` by the tests of this crate.
//!
#![doc = include_str!("../docs/unsupported.md")]
#![no_std]
#![deny(unsafe_code)]

#[cfg(feature = "verify")]
extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod abi;
pub mod certificates;
pub mod cpuid;
pub mod error;
pub mod evidence;
pub mod features;
pub mod guest;
pub mod host;
pub mod insn;
pub mod instr;
pub mod launch;
pub mod message;
pub mod monitor;
#[cfg(test)]
mod testing;
pub mod vc;
#[cfg(feature = "verify")]
pub mod verify;
pub mod vmsa_image;

pub use error::SnpError;
