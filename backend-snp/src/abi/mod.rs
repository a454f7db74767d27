//! Layouts and codes of SEV-SNP: plain data, no logic.
//!
//! One file per thing the vendor's documents describe. A structure is `repr(C)`, every byte of it is a field, and below
//! it every offset is asserted. A number that somebody else writes is an integer newtype with constants, never an
//! `enum`, so that an unknown value is a value and not undefined behaviour. All numbers are little-endian, as the
//! machine is.
//!
//! Structures that the host or a lower level can write (GHCB, page state buffer, guest messages) are meant for private
//! copies: copy in once, check the copy, use the copy. Nothing here points into such memory.
//!
//! Sources, cited by number: 24593 (architecture manual, volume 2), 56421 (GHCB protocol, version 2), 56860 (firmware
//! interface), 58019 (SVSM). The tables in `facts/` hold the numbers and how sure each is.

#[macro_use]
mod macros;

pub mod ap;
pub mod certificates;
pub mod cpuid;
pub mod cpuid_leaves;
pub mod exit_codes;
pub mod firmware_status;
pub mod ghcb;
pub mod ghcb_msr;
pub mod guest_messages;
pub mod guest_request;
pub mod invlpgb;
pub mod launch;
pub mod layout;
pub mod nae;
pub mod page;
pub mod psc;
pub mod report;
pub mod rmp;
pub mod secrets;
pub mod segment;
pub mod sev_features;
pub mod terminate;
pub mod vmpl;
pub mod vmsa;
pub mod vmsa_control;
