//! The events of the GHCB page, one concept per file (fact table `ghcb_nae`).
//!
//! Each method shows the host the fields of its event and nothing else, and takes from the answer only fields that the host
//! marks valid. What the host says stays the host's word: registers that decide anything come from protected sources.

mod cpuid;
mod device_memory;
mod instructions;
mod interrupts;
mod messages;
mod never;
mod paged;
mod ports;
mod registers;
mod time;
mod vcpus;

pub use cpuid::{CpuidRequest, CpuidResult};
pub use device_memory::SharedAddr;
pub use instructions::MonitorOperands;
pub use never::{NEVER_SENT, refusal};
pub use paged::{MAX_PAGES_NEEDED, Paged};
pub use ports::{AddressSize, PortAccess, PortSize, Segment};
pub use time::TscAndAux;
