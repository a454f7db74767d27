//! The calls that the shim makes, by what they do. The only file that names the published protocol's own words.

use coco_part_api::svsm::{self, CallId, own};

pub(crate) use coco_part_api::svsm::list::{Action, Entry, ListHeader, WORD};
pub(crate) use coco_part_api::svsm::own::AttestRequest;
pub(crate) use coco_part_api::svsm::{CALL_BUFFER, CORE, CORE_VERSION, CallResult};

/// Moves the call area.
pub(crate) const REMAP: CallId = CallId::new(CORE, svsm::REMAP_CA);
/// Validates or rescinds a list of pages.
pub(crate) const CHANGE_PAGES: CallId = CallId::new(CORE, svsm::PVALIDATE);
/// Creates a vCPU.
pub(crate) const CREATE: CallId = CallId::new(CORE, svsm::CREATE_VCPU);
/// Deletes a vCPU.
pub(crate) const DELETE: CallId = CallId::new(CORE, svsm::DELETE_VCPU);
/// Asks for the versions of a protocol.
pub(crate) const QUERY: CallId = CallId::new(CORE, svsm::QUERY_PROTOCOL);
/// Asks who the caller is.
pub(crate) const IDENTIFY: CallId = CallId::new(own::PROTOCOL, own::IDENTIFY);
/// Asks for evidence.
pub(crate) const ATTEST: CallId = CallId::new(own::PROTOCOL, own::ATTEST);

/// Number of the own protocol.
pub(crate) const OWN: u32 = own::PROTOCOL;
/// Version of it that is spoken here.
pub(crate) const OWN_VERSION: u32 = own::VERSION;

/// Entries of a list that begins with the call area's buffer.
pub(crate) const LIST_ENTRIES: usize = 510;

const _: () = assert!(CALL_BUFFER + WORD * (1 + LIST_ENTRIES as u64) == coco_part_api::range::SMALL);
