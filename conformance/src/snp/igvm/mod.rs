//! The test VM as an IGVM file: how it is made, how a host loads it, and what it measures.
//!
//! Three programs look at one file here, and none of them shares code with another: `backend_snp::launch` reads it and
//! computes the digest, the crate `igvm` does both in its own way, and a host loads it into the machine, whose firmware
//! measures what comes.

mod image;
mod load;
mod measure;
pub(crate) mod parts;

pub use image::{MEMORY_MAP, PARAMETERS, image};
pub use load::{Claims, LoadError, load};
pub(crate) use measure::print;
