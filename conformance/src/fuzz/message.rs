//! Responses of the firmware as the host delivers them: not at all, late, changed, or as they are.

use std::cell::{Cell, RefCell};

use backend_snp::SnpError;
use backend_snp::abi::secrets::Vmpck;
use backend_snp::abi::vmpl::Vmpl;
use backend_snp::host::{GhcbPage, Host};
use backend_snp::message::{Channel, MessagePages};
use machine::psp::SecurityProcessor;

use super::bytes::{Bytes, Memory};
use super::ghcb::GHCB;
use super::port::{HostilePort, no_adjust};
use crate::world::layout::frame;

const REQUEST: u64 = 0x8000;
const RESPONSE: u64 = 0x9000;
/// Requests of one input.
const REQUESTS: usize = 3;
/// Key in use.
const LEVEL: Vmpl = Vmpl::VMPL1;

/// What became of the last response.
#[derive(Clone, Copy, Debug, Default)]
struct Delivered {
    /// The firmware answered, and an authenticated byte of it was changed.
    changed: bool,
    /// The firmware answered.
    answered: bool,
}

/// Serves one GHCB request: the first bytes say what the host answers and which bytes of the response it changes.
fn serve(memory: &Memory, bytes: &mut Bytes<'_>, psp: &RefCell<SecurityProcessor>, delivered: &Cell<Delivered>) {
    let page: [u8; 4096] = memory.peek(REQUEST);
    let mut psp = psp.borrow_mut();
    psp.observe(&page);
    let control = bytes.u8();
    let (mut info_1, mut info_2) = (0, 0);
    if control & 1 == 0 {
        match psp.guest_request(&page) {
            Ok(response) => {
                let mut sent = *response;
                for _ in 0..control >> 5 {
                    sent[usize::from(bytes.u16()) % sent.len()] ^= bytes.u8();
                }
                let size = usize::from(u16::from_le_bytes([response[0x36], response[0x37]]));
                // Tag, message number, head, payload. The rest says nothing.
                let kept = [0..0x10, 0x20..0x28, 0x30..0x60 + size];
                let changed = kept.into_iter().any(|part| sent[part.clone()] != response[part]);
                delivered.set(Delivered { changed, answered: true });
                memory.poke(RESPONSE, &sent);
            }
            Err(status) => info_2 = u64::from(status),
        }
    }
    if control & 2 != 0 {
        info_1 = u64::from(bytes.u8() % 4);
        info_2 = bytes.u64();
    }
    if control & 4 != 0 {
        // Busy.
        info_2 = 2 << 32;
    }
    memory.poke(GHCB + 0x398, &info_1.to_le_bytes());
    memory.poke(GHCB + 0x3a0, &info_2.to_le_bytes());
    memory.poke(GHCB + 0x3fe, &[if control & 8 == 0 { 0x18 } else { bytes.u8() }]);
}

/// Some requests for a report over one channel.
pub(super) fn run(data: &[u8]) -> bool {
    let mut bytes = Bytes::new(data);
    let mut psp = SecurityProcessor::new(7);
    psp.finish(machine::psp::DEFAULT_POLICY, [0; 32], None).expect("an empty launch");
    let mut key = Vmpck(*psp.vmpck(LEVEL.number()).expect("a level"));
    let (psp, delivered, memory) = (RefCell::new(psp), Cell::new(Delivered::default()), Memory::new());
    let mut host = |msr: &mut u64| match *msr {
        msr_value if msr_value == GHCB | 0x12 => *msr = GHCB | 0x13,
        _ => serve(&memory, &mut bytes, &psp, &delivered),
    };
    let mut adjust = no_adjust;
    let mut port = HostilePort::new(&mut host, &mut adjust);
    let page = GhcbPage::register(&mut port, memory.clone(), frame(GHCB)).expect("registered");
    let mut page = Host::Page(page);
    let pages = MessagePages::new(frame(REQUEST), frame(RESPONSE)).expect("two pages");
    let mut channel = Channel::new(&mut key, LEVEL, 0, memory.clone(), pages).with_busy_tries(4);
    let mut taken = false;
    for number in 0..REQUESTS {
        let (was_open, exits) = (channel.is_open(), port.exits);
        let data = [number as u8; 64];
        delivered.set(Delivered::default());
        let vmpl = if number == 1 { Vmpl::VMPL0 } else { LEVEL };
        match channel.report(&mut port, &mut page, &data, vmpl) {
            Ok(report) => {
                assert!(was_open && delivered.get().answered && !delivered.get().changed);
                assert_eq!((&report[0x50..0x90], report[0x30]), (&data[..], vmpl.number()));
                taken = true;
            }
            // The firmware refused in a response that is its own.
            Err(SnpError::Firmware { .. }) => assert!(channel.is_open() && !delivered.get().changed),
            Err(SnpError::ChannelClosed) => assert!(!was_open && port.exits == exits),
            Err(_) => assert!(!channel.is_open()),
        }
        assert!(port.exits - exits <= 4, "as often as asked");
    }
    // A2: no number ever meets a second plaintext.
    assert_eq!(psp.borrow().nonce_reuse(), None);
    taken
}

pub(super) fn examples() -> Vec<Vec<u8>> {
    vec![
        vec![0, 0, 0],
        // Busy, and then done.
        vec![5, 5, 0, 0, 0],
        // Answered and said to be busy: the repetition is refused.
        vec![4, 0, 0, 0],
        // One changed byte: in the tag, the head, the payload, the rest.
        vec![0x20, 3, 0, 1],
        vec![0x20, 0x36, 0, 1],
        vec![0x20, 0xff, 0, 0x80],
        vec![0x20, 0, 0x0f, 1, 0, 0],
        // An error of the host, and of the firmware.
        vec![3, 1, 0x0d, 3, 0, 0x80, 0, 0, 0, 0],
        vec![3, 0, 0x16, 0, 0, 0, 0, 0, 0, 0],
    ]
}
