//! Evidence as its reader sees it: attestation reports of all versions, products and their platform versions.
//!
//! [`Report`] is one typed view of versions 2 to 5: it gives a field only where the version of the report has it. Nothing
//! here says that a report is genuine; that is what the module `verify` (feature of the same name) finds out.
//!
//! Source: 56860, fact table `attestation_report`.

mod product;
mod report;

pub use product::{Product, Tcb};
pub use report::{Firmware, Mitigations, Processor, Report, ReportError, ReportVersion};
