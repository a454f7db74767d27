//! A firmware that answers, a host that meddles, and a channel between them.

use core::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::vec::Vec;

use aes_gcm::{AeadInOut, Aes256Gcm, KeyInit};
use coco_part_api::{Error, ErrorKind};

use crate::abi::guest_messages::KeyRequest;
use crate::abi::secrets::Vmpck;
use crate::abi::vmpl::Vmpl;
use crate::error::SnpError;
use crate::host::{GhcbPage, Host};
use crate::message::{Channel, DerivedKey, ExtendedReport, MessagePages, REPORT_LEN, TscInfo};
use crate::testing::{BITMAP, EXIT_CODE, INFO_1, INFO_2, Memory, MockPort, frame, range, reply};

pub(super) const GHCB: u64 = 0x4000;
/// Offset of RAX in a GHCB page (fact table `ghcb_page`).
pub(super) const RAX: usize = 0x1f8;
/// Offset of RBX.
pub(super) const RBX: usize = 0x318;
pub(super) const CERTIFICATES: u64 = 0x8000;
pub(super) const CERTIFICATE_PAGES: u64 = 2;
/// What the host writes there.
pub(super) const TABLE: [u8; 48] = [0x99; 48];
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
    /// The firmware's payload is cut to so many bytes.
    Short(usize),
    /// The host says that its certificates take so many pages, and does nothing.
    TooLong(u64),
    /// The same, without the number.
    TooLongWithoutPages,
    /// The firmware answers, and the host has no certificates.
    NoCertificates,
}

/// The firmware, and what it and the host saw.
#[derive(Default)]
pub(super) struct Firmware {
    fates: Vec<Fate>,
    /// Every request page, in order.
    pub(super) requests: Vec<Vec<u8>>,
    /// Which of them came with a wish for certificates.
    pub(super) extended: Vec<bool>,
    last_response: Vec<u8>,
}

type Shared = Rc<RefCell<Firmware>>;

impl Firmware {
    fn serve(&mut self, memory: &Memory, is_extended: bool) {
        let page = memory.bytes()[REQUEST as usize..][..0x1000].to_vec();
        assert!(memory.bytes()[RESPONSE as usize..][..0x1000].iter().all(|&byte| byte == 0), "old response left there");
        let number = self.requests.len();
        self.requests.push(page.clone());
        let fate = self.fates.get(number).or(self.fates.last()).copied().unwrap_or(Fate::Answered);
        let mut response = match fate {
            Fate::Dropped(_) | Fate::Status(..) | Fate::NoBits | Fate::TooLong(_) | Fate::TooLongWithoutPages => {
                [0; 0x1000].to_vec()
            }
            Fate::Replayed => self.last_response.clone(),
            Fate::Echoed => page.clone(),
            _ => answer(&page, fate),
        };
        if let Fate::Flipped(at, mask) = fate {
            response[at] ^= mask;
        }
        memory.bytes()[RESPONSE as usize..][..0x1000].copy_from_slice(&response);
        self.last_response = response;
        if is_extended && !matches!(fate, Fate::NoCertificates | Fate::TooLong(_)) {
            memory.bytes()[CERTIFICATES as usize..][..TABLE.len()].copy_from_slice(&TABLE);
        }
        let (info_1, info_2) = match fate {
            Fate::TooLong(_) | Fate::TooLongWithoutPages => (0, 1 << 32),
            Fate::Dropped(info_2) | Fate::AnsweredBut(info_2) => (0, info_2),
            Fate::Status(info_1, info_2) => (info_1, info_2),
            _ => (0, 0),
        };
        reply(memory, GHCB, info_1, info_2);
        match fate {
            Fate::NoBits => memory.bytes()[GHCB as usize + BITMAP + 14] = 0,
            Fate::TooLong(pages) => {
                memory.set_word(GHCB as usize + RBX, pages);
                // Bit 99.
                memory.bytes()[GHCB as usize + BITMAP + 12] = 8;
            }
            _ => {}
        }
    }
}

/// The firmware's response page to a request page, by the offsets of fact table `guest_request`.
pub(super) fn answer(request: &[u8], fate: Fate) -> Vec<u8> {
    let number = u64::from_le_bytes(*request[0x20..].first_chunk().unwrap());
    let (kind, version) = (request[0x34], request[0x35]);
    let len = match (kind, version) {
        (5, 1) => 0x60,
        (3, 1) => 0x20,
        (3, 2) => 0x28,
        (17, 1) => 0x80,
        _ => panic!("unknown message {kind} {version}"),
    };
    assert_eq!(request[0x30..0x38], [1, 1, 0x60, 0, kind, version, len, 0]);
    assert_eq!(request[0x3c], 2);
    let text = open(request, len.into());
    let mut payload = match kind {
        5 => report_payload(&text),
        3 => key_payload(&text),
        _ => tsc_payload(&text),
    };
    match fate {
        Fate::Refused(status) => {
            payload.fill(0);
            payload[..4].copy_from_slice(&status.to_le_bytes());
        }
        Fate::OtherData => payload[0x20 + 0x50 + 63] ^= 1,
        Fate::OtherLevel => payload[0x20 + 0x30] ^= 1,
        Fate::OtherSize => payload[4] ^= 1,
        Fate::Short(len) => payload.truncate(len),
        _ => {}
    }
    seal(number + 1, kind + 1, version, &payload)
}

fn report_payload(request: &[u8]) -> Vec<u8> {
    let mut payload = [0; PAYLOAD].to_vec();
    payload[4..8].copy_from_slice(&(REPORT_LEN as u32).to_le_bytes());
    // VMPL at 0x30 of the report, report data at 0x50.
    payload[0x20 + 0x30..][..4].copy_from_slice(&request[0x40..0x44]);
    payload[0x20 + 0x50..][..64].copy_from_slice(&request[..64]);
    payload
}

/// The "key" is the request itself, but for its reserved bytes, so that a test sees what was asked for.
fn key_payload(request: &[u8]) -> Vec<u8> {
    assert_eq!(request[4..8], [0; 4]);
    let mut payload = [0; 0x40].to_vec();
    payload[0x20..0x24].copy_from_slice(&request[..4]);
    payload[0x24..0x3c].copy_from_slice(&request[8..0x20]);
    let rest = &request[0x20..];
    payload[0x3c..][..rest.len().min(4)].copy_from_slice(&rest[..rest.len().min(4)]);
    payload
}

fn tsc_payload(request: &[u8]) -> Vec<u8> {
    assert_eq!(request, [0; 0x80]);
    let mut payload = [0; 0x80].to_vec();
    payload[0x08..0x10].copy_from_slice(&0x1_8000_0000_u64.to_le_bytes());
    payload[0x10..0x18].copy_from_slice(&0xfedc_ba98_7654_3210_u64.to_le_bytes());
    payload[0x18..0x1c].copy_from_slice(&200_u32.to_le_bytes());
    payload
}

fn iv(number: u64) -> [u8; 12] {
    core::array::from_fn(|at| *number.to_le_bytes().get(at).unwrap_or(&0))
}

fn open(page: &[u8], len: usize) -> Vec<u8> {
    try_open(page, len).expect("the firmware does not know this message")
}

/// Decrypts a message; `None` when it is not authentic.
pub(super) fn try_open(page: &[u8], len: usize) -> Option<Vec<u8>> {
    let mut text = page[0x60..0x60 + len].to_vec();
    let number = u64::from_le_bytes(*page[0x20..].first_chunk().unwrap());
    let tag: [u8; 16] = page[..16].try_into().unwrap();
    let opened = Aes256Gcm::new(&KEY.into()).decrypt_inout_detached(
        &iv(number).into(),
        &page[0x30..0x60],
        text.as_mut_slice().into(),
        &tag.into(),
    );
    opened.ok().map(|()| text)
}

fn seal(number: u64, kind: u8, version: u8, payload: &[u8]) -> Vec<u8> {
    let mut page = [0; 0x1000].to_vec();
    page[0x20..0x28].copy_from_slice(&number.to_le_bytes());
    page[0x30..0x36].copy_from_slice(&[1, 1, 0x60, 0, kind, version]);
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
            assert_eq!((word(INFO_1), word(INFO_2)), (REQUEST, RESPONSE));
            let is_extended = match word(EXIT_CODE) {
                0x8000_0011 => false,
                0x8000_0012 => {
                    assert_eq!((word(RAX), word(RBX)), (CERTIFICATES, CERTIFICATE_PAGES));
                    true
                }
                code => panic!("exit {code:#x}"),
            };
            served.borrow_mut().extended.push(is_extended);
            served.borrow_mut().serve(&view, is_extended);
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

    pub(super) fn extended(&mut self, table: &mut [u8]) -> Result<ExtendedReport, SnpError> {
        let shared = range(CERTIFICATES, CERTIFICATE_PAGES * 0x1000);
        self.channel.extended_report(&mut self.port, &mut self.host, &DATA, Vmpl::VMPL2, shared, table)
    }

    pub(super) fn key(&mut self, request: &KeyRequest, out: &mut DerivedKey) -> Result<(), SnpError> {
        self.channel.derived_key(&mut self.port, &mut self.host, request, out)
    }

    pub(super) fn tsc(&mut self) -> Result<TscInfo, SnpError> {
        self.channel.tsc_info(&mut self.port, &mut self.host)
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
