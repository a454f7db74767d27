//! `backend-tdx-stub` on the TDX step machine.

mod cases;
mod defect;
mod model;
mod plain;
mod platform;
mod port;
mod sides;

pub use defect::Defect;
pub use model::{MemoryFault, TdxModel, Window};
pub use platform::Tdx;
pub use port::{GuestPort, ModelPort};
