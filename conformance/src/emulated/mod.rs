//! The cases of a guest's side (`image-cases`): boot by boot, on the step machine here, and in an image under the emulator.
//!
//! Both write the same lines, so one reader judges both and the results can be compared: [`plan()`] says what boots, `bed`, `companions`
//! and [`step`] run it here, [`read()`] makes of the lines what each case came to, and [`compare()`] what the two disagree about.

mod bed;
mod companions;
pub mod compare;
pub mod limits;
pub mod plan;
pub mod read;
pub mod step;

pub use compare::{Difference, compare};
pub use limits::{LIMITS, Limit};
pub use plan::{Boot, all, plan};
pub use read::{CaseRun, Counts, Result, read};
