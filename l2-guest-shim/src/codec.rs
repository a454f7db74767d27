//! The calls that the shim makes, by what they do. The only file that names the published protocol's own words.

use coco_part_api::range::Block;
use coco_part_api::svsm::list::encode_page;
use coco_part_api::svsm::{self, CallId, own, vtpm};

pub(crate) use coco_part_api::svsm::list::{Action, Entry, ListHeader, WORD, WithdrawnHeader};
pub(crate) use coco_part_api::svsm::own::AttestRequest;
pub(crate) use coco_part_api::svsm::vtpm::{CommandHeader, MOST_COMMAND, MOST_RESPONSE, ResponseHeader, SEND_COMMAND};
pub(crate) use coco_part_api::svsm::{CALL_BUFFER, CORE, CORE_VERSION, CallResult, MEM_AVAILABLE};

/// Moves the call area.
pub(crate) const REMAP: CallId = CallId::new(CORE, svsm::REMAP_CA);
/// Validates or rescinds a list of pages.
pub(crate) const CHANGE_PAGES: CallId = CallId::new(CORE, svsm::PVALIDATE);
/// Creates a vCPU.
pub(crate) const CREATE: CallId = CallId::new(CORE, svsm::CREATE_VCPU);
/// Deletes a vCPU.
pub(crate) const DELETE: CallId = CallId::new(CORE, svsm::DELETE_VCPU);
/// Gives L1 a list of pages.
pub(crate) const DEPOSIT: CallId = CallId::new(CORE, svsm::DEPOSIT_MEM);
/// Takes pages back from L1.
pub(crate) const WITHDRAW: CallId = CallId::new(CORE, svsm::WITHDRAW_MEM);
/// Asks what the vTPM's protocol can do.
pub(crate) const TPM_QUERY: CallId = CallId::new(VTPM, vtpm::VTPM_QUERY);
/// Has the vTPM execute a command.
pub(crate) const TPM_COMMAND: CallId = CallId::new(VTPM, vtpm::VTPM_CMD);
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
/// Number of the vTPM's protocol.
pub(crate) const VTPM: u32 = svsm::VTPM;
/// Version of it that is spoken here.
pub(crate) const VTPM_VERSION: u32 = vtpm::VERSION;

/// What is asked for the pages of a list.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Job {
    /// To be validated or rescinded.
    Change(Action),
    /// To become L1's.
    Deposit,
}

impl Job {
    /// The call that takes the list.
    pub(crate) const fn call(self) -> CallId {
        match self {
            Self::Change(_) => CHANGE_PAGES,
            Self::Deposit => DEPOSIT,
        }
    }

    /// The entry for a page.
    pub(crate) fn word(self, block: Block) -> u64 {
        match self {
            Self::Change(action) => Entry { block, action, ignore_cf: false }.encode(),
            Self::Deposit => encode_page(block),
        }
    }
}

/// Entries of a list that begins with the call area's buffer.
pub(crate) const LIST_ENTRIES: usize = 510;

const _: () = assert!(CALL_BUFFER + WORD * (1 + LIST_ENTRIES as u64) == coco_part_api::range::SMALL);
