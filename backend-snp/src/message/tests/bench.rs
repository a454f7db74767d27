//! A firmware that answers, a host that meddles, and a channel between them.

use core::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::vec::Vec;

use aes_gcm::{AeadInOut, Aes256Gcm, KeyInit};
use coco_part_api::{Error, ErrorKind};

use crate::abi::secrets::Vmpck;
use crate::abi::vmpl::Vmpl;
use crate::error::SnpError;
use crate::host::{GhcbPage, Host};
use crate::message::{Channel, MessagePages, REPORT_LEN};
use crate::testing::{BITMAP, EXIT_CODE, INFO_1, INFO_2, Memory, MockPort, frame, reply};

const GHCB: u64 = 0x4000;
pub(super) const REQUEST: u64 = 0x5000;
pub(super) const RESPONSE: u64 = 0x6000;
pub(super) const KEY: [u8; 32] = [0x42; 32];
pub(super) const DATA: [u8; 64] = [0x77; 64];
/// Bytes of the payload of a response.
pub(super) const PAYLOAD: usize = 0x20 + REPORT_LEN;

/// What the world does with one message.
#[derive(Clone, Copy, Debug)]
pub(super) enum Fate {
    /// The firmware answers.
    Answered,
    /// The firmware answers, and the host says this in SW_EXITINFO2.
    AnsweredBut(u64),
    /// The host says this in SW_EXITINFO2 and does nothing.
    Dropped(u64),
    /// The host answers these two words and does nothing.
    Status(u64, u64),
    /// The host clears the valid bits of its answer.
    NoBits,
    /// The firmware answers, and the host flips a bit of a byte of the response page.
    Flipped(usize, u8),
    /// The host puts the response before this one there again.
    Replayed,
    /// The host puts the request there.
    Echoed,
    /// The firmware answers with this status.
    Refused(u32),
    /// The firmware answers about other report data.
    OtherData,
    /// The firmware answers about another level.
    OtherLevel,
    /// The firmware gives another report size.
    OtherSize,
}

/// The firmware, and what it and the host saw.
#[derive(Default)]
pub(super) struct Firmware {
    fates: Vec<Fate>,
    /// Every request page, in order.
    pub(super) requests: Vec<Vec<u8>>,
    last_response: Vec<u8>,
}

type Shared = Rc<RefCell<Firmware>>;

impl Firmware {
    fn serve(&mut self, memory: &Memory) {
        let page = memory.bytes()[REQUEST as usize..][..0x1000].to_vec();
        assert!(memory.bytes()[RESPONSE as usize..][..0x1000].iter().all(|&byte| byte == 0), "old response left there");
        let number = self.requests.len();
        self.requests.push(page.clone());
        let fate = self.fates.get(number).or(self.fates.last()).copied().unwrap_or(Fate::Answered);
        let mut response = match fate {
            Fate::Dropped(_) | Fate::Status(..) | Fate::NoBits => [0; 0x1000].to_vec(),
            Fate::Replayed => self.last_response.clone(),
            Fate::Echoed => page.clone(),
            _ => answer(&page, fate),
        };
        if let Fate::Flipped(at, mask) = fate {
            response[at] ^= mask;
        }
        memory.bytes()[RESPONSE as usize..][..0x1000].copy_from_slice(&response);
        self.last_response = response;
        let (info_1, info_2) = match fate {
            Fate::Dropped(info_2) | Fate::AnsweredBut(info_2) => (0, info_2),
            Fate::Status(info_1, info_2) => (info_1, info_2),
            _ => (0, 0),
        };
        reply(memory, GHCB, info_1, info_2);
        if matches!(fate, Fate::NoBits) {
            memory.bytes()[GHCB as usize + BITMAP + 14] = 0;
        }
    }
}

/// The firmware's response page to a request page, by the offsets of fact table `guest_request`.
fn answer(request: &[u8], fate: Fate) -> Vec<u8> {
    let number = u64::from_le_bytes(*request[0x20..].first_chunk().unwrap());
    assert_eq!(request[0x30..0x38], [1, 1, 0x60, 0, 5, 1, 0x60, 0]);
    assert_eq!(request[0x3c], 2);
    let text = open(request, 0x60);
    let mut payload = [0; PAYLOAD];
    payload[4..8].copy_from_slice(&(REPORT_LEN as u32).to_le_bytes());
    // VMPL at 0x30 of the report, report data at 0x50.
    payload[0x20 + 0x30..][..4].copy_from_slice(&text[0x40..0x44]);
    payload[0x20 + 0x50..][..64].copy_from_slice(&text[..64]);
    match fate {
        Fate::Refused(status) => payload = core::array::from_fn(|at| *status.to_le_bytes().get(at).unwrap_or(&0)),
        Fate::OtherData => payload[0x20 + 0x50 + 63] ^= 1,
        Fate::OtherLevel => payload[0x20 + 0x30] ^= 1,
        Fate::OtherSize => payload[4] ^= 1,
        _ => {}
    }
    seal(number + 1, &payload)
}

fn iv(number: u64) -> [u8; 12] {
    core::array::from_fn(|at| *number.to_le_bytes().get(at).unwrap_or(&0))
}

fn open(page: &[u8], len: usize) -> Vec<u8> {
    let mut text = page[0x60..0x60 + len].to_vec();
    let number = u64::from_le_bytes(*page[0x20..].first_chunk().unwrap());
    let tag: [u8; 16] = page[..16].try_into().unwrap();
    let opened = Aes256Gcm::new(&KEY.into()).decrypt_inout_detached(
        &iv(number).into(),
        &page[0x30..0x60],
        text.as_mut_slice().into(),
        &tag.into(),
    );
    opened.expect("the firmware does not know this message");
    text
}

fn seal(number: u64, payload: &[u8]) -> Vec<u8> {
    let mut page = [0; 0x1000].to_vec();
    page[0x20..0x28].copy_from_slice(&number.to_le_bytes());
    page[0x30..0x36].copy_from_slice(&[1, 1, 0x60, 0, 6, 1]);
    page[0x36..0x38].copy_from_slice(&(payload.len() as u16).to_le_bytes());
    page[0x3c] = 2;
    let (head, body) = page.split_at_mut(0x60);
    let body = &mut body[..payload.len()];
    body.copy_from_slice(payload);
    let sealed = Aes256Gcm::new(&KEY.into()).encrypt_inout_detached(&iv(number).into(), &head[0x30..], body.into());
    head[..16].copy_from_slice(&sealed.unwrap());
    page
}

/// A channel at VMPL2 over a world with these fates; the last one is repeated.
pub(super) struct Bench {
    pub(super) channel: Channel<Memory>,
    pub(super) host: Host<Memory>,
    pub(super) port: MockPort,
    pub(super) memory: Memory,
    pub(super) firmware: Shared,
}

impl Bench {
    pub(super) fn new(fates: &[Fate]) -> Self {
        Self::after(0, fates)
    }

    pub(super) fn after(last: u64, fates: &[Fate]) -> Self {
        let memory = Memory::new();
        let firmware = Shared::default();
        firmware.borrow_mut().fates = fates.to_vec();
        let (view, served) = (memory.clone(), Rc::clone(&firmware));
        let mut port = MockPort::new(move |exit| {
            if *exit.msr == GHCB | 0x012 {
                *exit.msr = GHCB | 0x013;
                return;
            }
            let word = |at| view.word(GHCB as usize + at);
            assert_eq!((word(EXIT_CODE), word(INFO_1), word(INFO_2)), (0x8000_0011, REQUEST, RESPONSE));
            served.borrow_mut().serve(&view);
        });
        let host = Host::Page(GhcbPage::register(&mut port, memory.clone(), frame(GHCB)).unwrap());
        let pages = MessagePages::new(frame(REQUEST), frame(RESPONSE)).unwrap();
        let channel = Channel::new(&mut Vmpck(KEY), Vmpl::VMPL2, last, memory.clone(), pages);
        Self { channel, host, port, memory, firmware }
    }

    pub(super) fn report(&mut self) -> Result<[u8; REPORT_LEN], SnpError> {
        self.report_over(&DATA)
    }

    pub(super) fn report_over(&mut self, data: &[u8; 64]) -> Result<[u8; REPORT_LEN], SnpError> {
        self.channel.report(&mut self.port, &mut self.host, data, Vmpl::VMPL2)
    }

    /// The request numbers that the world saw, each with its one ciphertext (oracle O5).
    pub(super) fn numbers(&self) -> Vec<u64> {
        let mut seen = BTreeMap::new();
        for page in &self.firmware.borrow().requests {
            let number = u64::from_le_bytes(*page[0x20..].first_chunk().unwrap());
            let old = seen.insert(number, page.clone());
            assert!(old.is_none_or(|old| old == *page), "number {number} met two messages");
        }
        seen.into_keys().collect()
    }

    pub(super) fn assert_closed(&mut self) {
        assert!(!self.channel.is_open());
        assert_eq!(self.channel.key.0, [0; 32]);
        let sent = self.firmware.borrow().requests.len();
        let error = self.report_over(&[0x88; 64]).unwrap_err();
        assert_eq!((error, error.kind()), (SnpError::ChannelClosed, ErrorKind::ChannelClosed));
        assert_eq!(self.firmware.borrow().requests.len(), sent, "a closed channel sends nothing");
        self.numbers();
    }
}
