#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

pub mod boot;
pub mod cli;
pub mod emulated;
pub mod figures;
pub mod fuzz;
mod hex;
pub mod mutants;
pub mod platform;
pub mod runner;
pub mod snp;
pub mod suite;
pub mod table;
pub mod tdx;
pub mod threats;
pub mod window;
pub mod world;
