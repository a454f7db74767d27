//! Guest requests through honest and lying hosts.

use aes_gcm::{AeadInOut, Aes256Gcm, KeyInit};

use super::super::ghcb::{RAX, RBX};
use super::*;
use crate::psp::{certs, msg_type};

const REQUEST: u64 = 0x31_0000;
const RESPONSE: u64 = 0x31_1000;
const DATA: u64 = 0x31_2000;
const PAYLOAD: usize = 0x60;

fn cipher(bench: &Bench, vmpck: u8) -> Aes256Gcm {
    Aes256Gcm::new(&(*bench.machine.psp().vmpck(vmpck).unwrap()).into())
}

fn iv(number: u64) -> [u8; 12] {
    let mut iv = [0; 12];
    iv[..8].copy_from_slice(&number.to_le_bytes());
    iv
}

/// A report request for VMPL3 that the firmware accepts if `number` is the next one of this key.
fn request(bench: &Bench, vmpck: u8, number: u64) -> Box<[u8; 4096]> {
    let mut payload = [0; 0x60];
    payload[0x40] = 3;
    let mut page = Box::new([0; 4096]);
    page[0x20..0x28].copy_from_slice(&number.to_le_bytes());
    page[0x30..0x38].copy_from_slice(&[1, 1, 0x60, 0, msg_type::REPORT_REQ, 1, 0x60, 0]);
    page[0x3c] = vmpck;
    let aad: [u8; 48] = page[0x30..PAYLOAD].try_into().unwrap();
    let sealed = cipher(bench, vmpck).encrypt_inout_detached(&iv(number).into(), &aad, payload.as_mut_slice().into());
    page[..16].copy_from_slice(&sealed.unwrap());
    page[PAYLOAD..PAYLOAD + payload.len()].copy_from_slice(&payload);
    page
}

/// Whether a page is the authentic report response with this number.
fn is_answer(bench: &Bench, vmpck: u8, number: u64, page: &[u8]) -> bool {
    let size = usize::from(u16::from_le_bytes([page[0x36], page[0x37]]));
    let Some(payload) = page.get(PAYLOAD..PAYLOAD + size) else { return false };
    let tag: [u8; 16] = page[..16].try_into().unwrap();
    let mut payload = payload.to_vec();
    let opened = cipher(bench, vmpck).decrypt_inout_detached(
        &iv(number).into(),
        &page[0x30..PAYLOAD],
        payload.as_mut_slice().into(),
        &tag.into(),
    );
    let header = page[0x20..0x28] == number.to_le_bytes() && page[0x34] == msg_type::REPORT_REQ + 1;
    header && page[0x3c] == vmpck && opened.is_ok()
}

impl Bench {
    /// Sends a message by a plain guest request: the status and the response page.
    fn message(&mut self, page: &[u8; 4096]) -> ((u64, u64), Vec<u8>) {
        self.write(BOOT, REQUEST, page);
        self.write(BOOT, RESPONSE, &[0; 4096]);
        let status = self.event((0x8000_0011, REQUEST, RESPONSE), &[]);
        (status, self.read(BOOT, RESPONSE, 4096))
    }

    /// Sends message `number` under VMPCK 0.
    fn send(&mut self, number: u64) -> ((u64, u64), Vec<u8>) {
        let page = request(self, 0, number);
        self.message(&page)
    }

    fn used(&self) -> u64 {
        self.machine.psp().state().used[0]
    }
}

#[test]
fn carries_a_message_and_its_answer() {
    let mut bench = Bench::with_guest(Policy::Honest);
    let (status, page) = bench.send(1);
    assert_eq!(status, (0, 0));
    assert!(is_answer(&bench, 0, 2, &page));
}

#[test]
fn passes_the_firmware_status_on() {
    let mut bench = Bench::with_guest(Policy::Honest);
    let (status, page) = bench.send(5);
    assert_eq!(status.0, 0);
    assert!(status.1 != 0 && status.1 >> 32 == 0);
    assert_eq!(page, [0; 4096]);
}

#[test]
fn refuses_pages_that_are_not_aligned_or_not_shared_or_the_same() {
    let mut bench = Bench::with_guest(Policy::Honest);
    for (request, response) in [
        (REQUEST + 8, RESPONSE),
        (REQUEST, RESPONSE + 8),
        (REQUEST, REQUEST),
        (PRIVATE_PAGE, RESPONSE),
        (REQUEST, PRIVATE_PAGE),
        (REQUEST, 1 << 45),
    ] {
        assert_eq!(bench.event((0x8000_0011, request, response), &[]), (2, 5), "{request:#x} {response:#x}");
    }
    assert_eq!(bench.used(), 0);
}

#[test]
fn hands_out_certificates_if_there_is_room() {
    let mut bench = Bench::with_guest(Policy::Honest);
    let page = request(&bench, 0, 1);
    bench.write(BOOT, REQUEST, &page[..]);
    let extended = (0x8000_0012, REQUEST, RESPONSE);
    assert_eq!(bench.event(extended, &[(RAX, DATA)]), (2, 4));
    assert_eq!(bench.event(extended, &[(RAX, DATA + 1), (RBX, 8)]), (2, 5));
    assert_eq!(bench.event(extended, &[(RAX, DATA), (RBX, 0)]), (0, 1 << 32));
    let needed = bench.field(RBX).unwrap();
    assert!((1..=4).contains(&needed));
    assert_eq!(bench.used(), 0);
    assert_eq!(bench.event(extended, &[(RAX, DATA), (RBX, needed)]), (0, 0));
    let answer = bench.read(BOOT, RESPONSE, 4096);
    assert!(is_answer(&bench, 0, 2, &answer));
    assert_eq!(bench.read(BOOT, DATA, 64), certs::table()[..64]);
}

#[test]
fn replays_the_response_before() {
    let mut bench = Bench::with_guest(Policy::ReplayMessage);
    let (_, first) = bench.send(1);
    assert!(is_answer(&bench, 0, 2, &first));
    let (status, second) = bench.send(3);
    assert_eq!((status, second), ((0, 0), first));
    assert_eq!(bench.used(), 4);
}

#[test]
fn spoils_responses() {
    for policy in [
        Policy::CorruptMessage(0x00),
        Policy::CorruptMessage(0x20),
        Policy::CorruptMessage(0x80),
        Policy::TruncateMessage,
        Policy::OversizeMessage,
    ] {
        let mut bench = Bench::with_guest(policy.clone());
        let (status, page) = bench.send(1);
        assert_eq!((status, bench.used()), ((0, 0), 2), "{policy:?}");
        assert!(!is_answer(&bench, 0, 2, &page), "{policy:?}");
    }
}

#[test]
fn drops_requests_and_responses() {
    let drop = |policy| {
        let mut bench = Bench::with_guest(policy);
        let (status, page) = bench.send(1);
        assert_eq!(page, [0; 4096]);
        (status, bench.used(), bench.machine.psp().records().count())
    };
    assert_eq!(drop(Policy::DropMessageWithError(0x16)), ((0, 0x16), 0, 1));
    assert_eq!(drop(Policy::DropMessage), ((0, 0), 0, 1));
    assert_eq!(drop(Policy::DropResponseWithError(2 << 32)), ((0, 2 << 32), 2, 2));
}

#[test]
fn is_busy_so_many_times() {
    let mut bench = Bench::with_guest(Policy::ReportBusy(2));
    let status: Vec<_> = (0..3).map(|_| bench.send(1).0).collect();
    assert_eq!(status, [(0, 2 << 32), (0, 2 << 32), (0, 0)]);
}

#[test]
fn demands_pages_but_takes_a_plain_request() {
    let mut bench = Bench::with_guest(Policy::DemandPages(9));
    let page = request(&bench, 0, 1);
    bench.write(BOOT, REQUEST, &page[..]);
    assert_eq!(bench.event((0x8000_0012, REQUEST, RESPONSE), &[(RAX, DATA), (RBX, 4)]), (0, 1 << 32));
    assert_eq!(bench.field(RBX), Some(9));
    assert_eq!(bench.message(&page).0, (0, 0));
}

#[test]
fn fills_the_certificate_pages_with_junk() {
    let mut bench = Bench::with_guest(Policy::JunkCertificates);
    let page = request(&bench, 0, 1);
    bench.write(BOOT, REQUEST, &page[..]);
    assert_eq!(bench.event((0x8000_0012, REQUEST, RESPONSE), &[(RAX, DATA), (RBX, 4)]), (0, 0));
    assert_eq!(bench.field(RBX), Some(u64::MAX));
    assert_eq!(bench.read(BOOT, DATA + 0x3ff8, 8), [0xff; 8]);
    assert_eq!(bench.read(BOOT, DATA + 0x4000, 8), [0; 8]);
}

#[test]
fn returns_the_response_to_another_key() {
    let mut bench = Bench::with_guest(Policy::ReturnOtherResponse);
    let other = request(&bench, 2, 1);
    let (_, theirs) = bench.message(&other);
    assert!(is_answer(&bench, 2, 2, &theirs));
    let (status, page) = bench.send(1);
    assert_eq!((status, page), ((0, 0), theirs));
}

#[test]
fn echoes_the_request() {
    let mut bench = Bench::with_guest(Policy::EchoRequest);
    let page = request(&bench, 0, 1);
    assert_eq!(bench.message(&page).1, page[..]);
}

#[test]
fn flips_the_response_between_two_reads() {
    let mut bench = Bench::with_guest(Policy::FlipResponse { offset: 0x80, mask: 1 });
    bench.send(1);
    let reads: Vec<u64> = (0..3).map(|_| bench.read_u64(BOOT, RESPONSE + 0x80)).collect();
    assert_eq!((reads[0] ^ reads[1], reads[0]), (1, reads[2]));
}
