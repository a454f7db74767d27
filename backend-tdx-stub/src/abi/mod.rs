//! What Intel publishes: numbers, registers and layouts of the TDX module's guest interface. No logic, no unsafe code.
//!
//! The source of every number is a table in `facts/`; the tests of each module walk its table.

#[macro_use]
mod macros;

pub mod attr;
pub mod exit_reason;
pub mod fields;
pub mod guest_state;
pub mod leaves;
pub mod regs;
pub mod report;
pub mod status;
pub mod ve;
pub mod vmcall;
pub mod vp_enter;
