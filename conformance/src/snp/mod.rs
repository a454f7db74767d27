//! `backend-snp` on the SNP step machine.

mod cases;
mod defect;
pub(crate) mod features;
mod host_cases;
pub mod igvm;
mod model;
mod outside;
mod plain;
mod platform;
mod port;
pub mod replay;
mod sides;
mod vcpu_cases;
mod window;

pub use defect::Defect;
pub use model::SnpModel;
pub use outside::{OnSnp, SnpBackend};
pub use platform::Snp;
pub use port::ModelPort;
pub use sides::{early_guest_side, guest_side, l1_setup};
pub use window::{MemoryFault, Window};
