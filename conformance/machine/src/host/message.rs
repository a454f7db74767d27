//! Guest requests: the host carries encrypted messages to the firmware and back (facts: guest_request).

use alloc::boxed::Box;

use super::At;
use super::ghcb::{Malformed, Reply};
use super::policy::Policy;
use crate::psp::{Page, certs};
use crate::{Machine, PAGE_SIZE};

/// SW_EXITINFO2: the certificate buffer is too short.
const INVALID_LEN: u64 = 1 << 32;
/// SW_EXITINFO2: try later.
const BUSY: u64 = 2 << 32;
/// Most pages that a certificate table may have.
const MAX_CERTIFICATE_PAGES: u64 = 4;
/// Offset of the payload size in a message.
const MSG_SIZE: usize = 0x36;
/// Offset of the key number in a message.
const MSG_VMPCK: usize = 0x3c;
/// Offset of the payload in a message.
const PAYLOAD: usize = 0x60;

/// What liars remember.
#[derive(Clone, Debug, Default)]
pub(super) struct Recorded {
    /// Last response under each key.
    last: [Option<Box<Page>>; 4],
    /// Where the last response went.
    pub(super) response_gpa: Option<u64>,
}

impl Recorded {
    fn slot(page: &Page) -> usize {
        usize::from(page[MSG_VMPCK] & 3)
    }

    /// The response before this one, under the same key.
    fn previous(&self, request: &Page) -> Option<&Page> {
        self.last[Self::slot(request)].as_deref()
    }

    /// A response under another key, else the one before.
    fn other(&self, request: &Page) -> Option<&Page> {
        let own = Self::slot(request);
        let other = (0..4).filter(|slot| *slot != own).find_map(|slot| self.last[slot].as_deref());
        other.or_else(|| self.previous(request))
    }
}

/// What the guest gets.
enum Outcome {
    /// This response page.
    Response(Box<Page>),
    /// No response, and this SW_EXITINFO2.
    Detail(u64),
}

impl Machine {
    /// Event 0x80000011. Both pages are aligned, different and shared, else the input is invalid.
    pub(super) fn guest_message(&mut self, at: At, request: u64, response: u64) -> Result<Reply, Malformed> {
        let message = self.message_pages(request, response)?;
        Ok(Reply::detail(self.carry(at, &message, response)?))
    }

    /// Event 0x80000012: as above, and the certificate table goes to the data pages. When they do not hold it, no message
    /// is sent and RBX says how many it takes.
    pub(super) fn extended_guest_message(
        &mut self,
        at: At,
        request: u64,
        response: u64,
        data: u64,
        pages: u64,
    ) -> Result<Reply, Malformed> {
        let message = self.message_pages(request, response)?;
        if !data.is_multiple_of(PAGE_SIZE) {
            return Err(Malformed::InvalidInput);
        }
        let policy = self.host.policy(at.vcpu);
        let table = certs::table();
        let needed = match policy {
            Policy::DemandPages(pages) => pages,
            _ => (table.len() as u64).div_ceil(PAGE_SIZE),
        };
        if pages < needed {
            self.psp.observe(&message);
            return Ok(Reply { rbx: Some(needed), ..Reply::detail(INVALID_LEN) });
        }
        let (table, rbx) = match policy {
            Policy::JunkCertificates => {
                let len = pages.min(MAX_CERTIFICATE_PAGES) * PAGE_SIZE;
                (alloc::vec![0xff; len as usize], Some(u64::MAX))
            }
            _ => (table, None),
        };
        if !self.host_write(data, &table) {
            return Err(Malformed::InvalidInput);
        }
        let detail = self.carry(at, &message, response)?;
        Ok(Reply { rbx, ..Reply::detail(detail) })
    }

    /// Checks the pages of a message and copies the request.
    fn message_pages(&mut self, request: u64, response: u64) -> Result<Box<Page>, Malformed> {
        if !request.is_multiple_of(PAGE_SIZE) || !response.is_multiple_of(PAGE_SIZE) || request == response {
            return Err(Malformed::InvalidInput);
        }
        for gpa in [request, response] {
            let spa = self.translate(gpa).ok_or(Malformed::InvalidInput)?;
            if self.rmp_entry_at(spa).assigned {
                return Err(Malformed::InvalidInput);
            }
        }
        let mut message = Box::new([0; 4096]);
        self.host_read(request, &mut message[..]);
        Ok(message)
    }

    /// Brings a message to the firmware and its answer to the response page; returns SW_EXITINFO2.
    fn carry(&mut self, at: At, message: &Page, response: u64) -> Result<u64, Malformed> {
        self.host.messages.response_gpa = Some(response);
        match self.exchange(at, message) {
            Outcome::Detail(detail) => Ok(detail),
            Outcome::Response(page) if self.host_write(response, &page[..]) => Ok(0),
            Outcome::Response(_) => Err(Malformed::InvalidInput),
        }
    }

    fn exchange(&mut self, at: At, message: &Page) -> Outcome {
        let policy = self.host.policy(at.vcpu);
        // What the host keeps to itself was encrypted all the same.
        let held_back = match policy {
            Policy::DropMessageWithError(detail) => Some(Outcome::Detail(detail)),
            Policy::DropMessage => Some(Outcome::Detail(0)),
            Policy::EchoRequest => Some(Outcome::Response(Box::new(*message))),
            Policy::ReportBusy(times) if self.host.spend(times) => Some(Outcome::Detail(BUSY)),
            _ => None,
        };
        if let Some(outcome) = held_back {
            self.psp.observe(message);
            return outcome;
        }
        let answer = match self.psp.guest_request(message) {
            Ok(answer) => answer,
            Err(status) => return Outcome::Detail(u64::from(status)),
        };
        let replayed = match policy {
            Policy::ReplayMessage => self.host.messages.previous(message).copied(),
            Policy::ReturnOtherResponse => self.host.messages.other(message).copied(),
            _ => None,
        };
        self.host.messages.last[Recorded::slot(message)] = Some(answer.clone());
        if let Policy::DropResponseWithError(detail) = policy {
            return Outcome::Detail(detail);
        }
        let mut answer = replayed.map_or(answer, Box::new);
        spoil(&policy, &mut answer);
        Outcome::Response(answer)
    }
}

/// What liars do to a response.
fn spoil(policy: &Policy, answer: &mut Page) {
    let size = u16::from_le_bytes([answer[MSG_SIZE], answer[MSG_SIZE + 1]]);
    let set_size = |answer: &mut Page, size: u16| {
        answer[MSG_SIZE..MSG_SIZE + 2].copy_from_slice(&size.to_le_bytes());
    };
    match policy {
        Policy::CorruptMessage(offset) => answer[usize::from(*offset) % 4096] ^= 1,
        Policy::TruncateMessage => {
            set_size(answer, size / 2);
            let kept = (PAYLOAD + usize::from(size / 2)).min(4096);
            answer[kept..].fill(0);
        }
        Policy::OversizeMessage => set_size(answer, u16::MAX),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message() -> Page {
        let mut page = [7; 4096];
        page[MSG_SIZE..MSG_SIZE + 2].copy_from_slice(&100_u16.to_le_bytes());
        page
    }

    fn spoiled(policy: &Policy) -> Page {
        let mut page = message();
        spoil(policy, &mut page);
        page
    }

    #[test]
    fn an_honest_host_leaves_the_response_alone() {
        assert_eq!(spoiled(&Policy::Honest), message());
    }

    #[test]
    fn corrupts_one_bit() {
        let page = spoiled(&Policy::CorruptMessage(0x80));
        let different: usize = (0..4096).filter(|at| page[*at] != message()[*at]).count();
        assert_eq!((different, page[0x80]), (1, 6));
    }

    #[test]
    fn truncates_and_oversizes() {
        let page = spoiled(&Policy::TruncateMessage);
        assert_eq!(page[MSG_SIZE..MSG_SIZE + 2], [50, 0]);
        assert_eq!((page[PAYLOAD + 49], page[PAYLOAD + 50]), (7, 0));
        assert_eq!(spoiled(&Policy::OversizeMessage)[MSG_SIZE..MSG_SIZE + 2], [0xff, 0xff]);
    }

    #[test]
    fn finds_earlier_responses_by_key() {
        let (mut own, mut other) = (message(), message());
        own[MSG_VMPCK] = 0;
        other[MSG_VMPCK] = 2;
        let mut recorded = Recorded::default();
        assert!(recorded.previous(&own).is_none() && recorded.other(&own).is_none());
        recorded.last[0] = Some(Box::new(own));
        assert_eq!(recorded.other(&own), Some(&own));
        recorded.last[2] = Some(Box::new(other));
        assert_eq!(recorded.previous(&own), Some(&own));
        assert_eq!(recorded.other(&own), Some(&other));
    }
}
