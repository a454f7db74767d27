//! The instructions of SNP, one method each.
//!
//! [`Port`] is all that the code above knows of a machine. Three kinds of things implement it: `NativePort` with the
//! real opcodes, adapters to a model, and wrappers that watch or break single steps for tests. A port decides nothing:
//! typed inputs go in, the raw result comes out, and every check is made above it.
//!
//! For callers: addresses are guest-physical. An address that lies in no direct map is refused before the instruction.
//!
//! For authors of ports: a method must execute its instruction exactly once, must not retry, and must not hide a result.
//! It must return [`Fault`] only if the instruction did not retire.
//!
//! Memory is not reached through the port but through a window, natively `NativeWindow`.

mod direct_map;
mod port;
mod types;

#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)]
mod native;
#[allow(unsafe_code)]
mod window;

pub use direct_map::{DirectMap, DirectMapError};
#[cfg(target_arch = "x86_64")]
pub use native::NativePort;
pub use port::Port;
pub use types::{CallFrame, Fault, PvalidateResult, RmpQueryResult};
pub use window::{NativeWindow, WindowError};

pub use crate::abi::invlpgb::Invlpgb;
pub use crate::abi::page::{Page, PageMisaligned, PageSize};
pub use crate::abi::rmp::{PvalidateCode, PvalidateOp, RmpAttributes, RmpCode, VmplPermissions};
pub use crate::abi::vmpl::Vmpl;
