//! What a VM is launched from: the launch digest, IGVM files, and the parameters that a loader leaves.
//!
//! - [`digest`]: the digest that the firmware computes while a host loads pages, page by page.
//! - [`igvm`]: reads an IGVM file and says, in the order of the file, what a host has to do for an SNP guest.
//! - [`vmsa`]: the VMSA of a vCPU in reset, as hosts make it that launch without an IGVM file.
//! - [`parameters`]: what the monitor reads from its own parameter areas. The host wrote them and may have written anything.
//!
//! Nothing here needs an allocator. The bytes of a file have to be a private copy.

pub mod digest;
pub mod igvm;
pub mod parameters;
pub mod vmsa;

pub use digest::{LaunchDigest, Update};
pub use igvm::{Igvm, IgvmError};
