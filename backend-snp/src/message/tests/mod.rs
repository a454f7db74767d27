mod a2;
mod bench;
mod kinds;

use std::vec::Vec;

use coco_part_api::{Error, ErrorKind};

use super::{BUSY_TRIES, Channel, MessagePages};
use crate::abi::secrets::Vmpck;
use crate::abi::vmpl::Vmpl;
use crate::error::SnpError;
use crate::host::{Host, MsrProtocol};
use crate::testing::{Memory, frame, no_host};
use bench::{Bench, DATA, Fate, KEY, PAYLOAD, REQUEST, RESPONSE};

#[test]
fn gets_the_report_that_was_asked_for() {
    let mut bench = Bench::new(&[Fate::Answered]);
    let report = bench.report().unwrap();
    assert_eq!((report[0x30], &report[0x50..0x90]), (2, &DATA[..]));
    bench.report_over(&[0x88; 64]).unwrap();
    bench.report().unwrap();
    assert_eq!(bench.numbers(), [1, 3, 5]);
}

#[test]
fn goes_on_behind_the_last_number() {
    let mut bench = Bench::after(0x1_0000_0006, &[Fate::Answered]);
    bench.report().unwrap();
    assert_eq!(bench.numbers(), [0x1_0000_0007]);
}

#[test]
fn busy_is_answered_with_the_same_bytes() {
    let busy = Fate::Dropped(2 << 32);
    let mut bench = Bench::new(&[busy, busy, busy, Fate::Answered]);
    bench.report().unwrap();
    assert_eq!((bench.firmware.borrow().requests.len(), bench.port.pauses), (4, 3));
    assert_eq!(bench.numbers(), [1]);
}

#[test]
fn busy_for_ever_closes_the_channel() {
    let mut bench = Bench::new(&[Fate::Dropped(2 << 32)]);
    assert_eq!(bench.report(), Err(SnpError::GuestRequest { host: 2, firmware: 0 }));
    assert_eq!(bench.firmware.borrow().requests.len(), BUSY_TRIES as usize);
    bench.assert_closed();
    let mut bench = Bench::new(&[Fate::Dropped(2 << 32)]);
    bench.channel = bench.channel.with_busy_tries(0);
    bench.report().unwrap_err();
    assert_eq!(bench.firmware.borrow().requests.len(), 1);
}

#[test]
fn every_answer_that_leaves_doubt_closes_the_channel() {
    let refused = |host, firmware| SnpError::GuestRequest { host, firmware };
    let field = |field| SnpError::BadResponse { field };
    let gp = 0x8000_0b0d;
    let cases = [
        (Fate::Dropped(0x16), refused(0, 0x16)),
        (Fate::Dropped(0xffff_ffff), refused(0, 0xffff_ffff)),
        (Fate::Dropped(1 << 32), refused(1, 0)),
        (Fate::Dropped(0xff << 32), refused(0xff, 0)),
        (Fate::AnsweredBut(0x16), refused(0, 0x16)),
        (Fate::AnsweredBut(1 << 32), refused(1, 0)),
        (Fate::Status(1, gp), SnpError::Exception { info: gp }),
        (Fate::Status(1, 0), SnpError::ForbiddenException { info: 0 }),
        (Fate::Status(2, 5), SnpError::MalformedRequest { code: 5 }),
        (Fate::Status(7, 0), SnpError::UnknownStatus { status: 7 }),
        (Fate::NoBits, SnpError::MissingField { field: crate::abi::ghcb::ValidBit::SW_EXIT_INFO_1 }),
        // Nothing came: a page of zeros.
        (Fate::Dropped(0), field("algo")),
        (Fate::Echoed, field("msg_type")),
        (Fate::OtherData, field("report_data")),
        (Fate::OtherLevel, field("vmpl")),
        (Fate::OtherSize, field("report_size")),
    ];
    for (fate, expected) in cases {
        let mut bench = Bench::new(&[fate]);
        assert_eq!(bench.report(), Err(expected), "{fate:?}");
        bench.assert_closed();
    }
}

#[test]
fn an_altered_response_is_never_believed() {
    let field = |field| SnpError::BadResponse { field };
    let mut cases = [
        (0x20, field("msg_seqno")),
        (0x27, field("msg_seqno")),
        (0x30, field("algo")),
        (0x31, field("hdr_version")),
        (0x32, field("hdr_size")),
        (0x34, field("msg_type")),
        (0x35, field("msg_version")),
        (0x3c, field("msg_vmpck")),
        (0x37, field("msg_size")),
    ]
    .to_vec();
    // Tag, size within the bounds, the rest of the authenticated head, and the payload from end to end.
    let authentic = [0x00, 0x0f, 0x36, 0x38, 0x3d, 0x5f, 0x60, 0x80, 0xd0, 0x60 + PAYLOAD - 1];
    cases.extend(authentic.map(|at| (at, SnpError::NotAuthentic)));
    for (at, expected) in cases {
        for mask in [0x80, 0x40] {
            let mut bench = Bench::new(&[Fate::Flipped(at, mask)]);
            assert_eq!(bench.report(), Err(expected), "byte {at:#x}");
            bench.assert_closed();
        }
    }
}

#[test]
fn an_old_response_is_no_new_one() {
    let mut bench = Bench::new(&[Fate::Answered, Fate::Replayed]);
    bench.report().unwrap();
    assert_eq!(bench.report(), Err(SnpError::BadResponse { field: "msg_seqno" }));
    bench.assert_closed();
}

#[test]
fn a_refusal_under_the_firmwares_key_keeps_the_channel_open() {
    let mut bench = Bench::new(&[Fate::Refused(0x16), Fate::Answered]);
    let error = bench.report().unwrap_err();
    assert_eq!((error, error.kind()), (SnpError::Firmware { status: 0x16 }, ErrorKind::Refused));
    bench.report_over(&[0x88; 64]).unwrap();
    assert_eq!(bench.numbers(), [1, 3]);
}

#[test]
fn the_last_numbers_close_the_channel() {
    let mut bench = Bench::after(u64::MAX - 2, &[Fate::Answered]);
    bench.report().unwrap();
    assert_eq!(bench.report(), Err(SnpError::ChannelClosed));
    bench.assert_closed();
    for last in [u64::MAX - 1, u64::MAX] {
        let mut bench = Bench::after(last, &[Fate::Answered]);
        assert_eq!(bench.report(), Err(SnpError::ChannelClosed));
        assert!(bench.firmware.borrow().requests.is_empty());
        bench.assert_closed();
    }
}

#[test]
fn no_plaintext_and_no_key_are_ever_shared() {
    let mut bench = Bench::new(&[Fate::Answered]);
    bench.report().unwrap();
    let shared = bench.memory.bytes();
    assert!(!shared.windows(8).any(|part| part == [0x77; 8]), "report data in the clear");
    assert!(!shared.windows(8).any(|part| part == [0x42; 8]), "key bytes");
}

#[test]
fn the_response_is_copied_once() {
    let mut bench = Bench::new(&[Fate::Answered]);
    bench.report().unwrap();
    let reads = bench.memory.reads();
    let of_page = reads.iter().filter(|(at, _)| (RESPONSE..RESPONSE + 0x1000).contains(at));
    assert_eq!(of_page.collect::<Vec<_>>(), [&(RESPONSE, 0x1000)]);
}

#[test]
fn without_a_ghcb_page_nothing_is_sent_and_nothing_lost() {
    let mut bench = Bench::new(&[Fate::Answered]);
    let mut by_msr = Host::Msr(MsrProtocol);
    let outcome = bench.channel.report(&mut no_host(), &mut by_msr, &DATA, Vmpl::VMPL2);
    assert_eq!(outcome, Err(SnpError::NoGhcbPage));
    bench.report().unwrap();
}

#[test]
fn shared_pages_that_cannot_be_reached_close_the_channel() {
    let mut bench = Bench::new(&[Fate::Answered]);
    bench.channel.pages = MessagePages::new(frame(crate::testing::RAM as u64), frame(RESPONSE)).unwrap();
    assert_eq!(bench.report().unwrap_err().kind(), ErrorKind::Inaccessible);
    bench.assert_closed();
}

#[test]
fn a_key_has_one_user_and_zeros_are_no_key() {
    let pages = MessagePages::new(frame(REQUEST), frame(RESPONSE)).unwrap();
    let mut key = Vmpck(KEY);
    assert!(Channel::new(&mut key, Vmpl::VMPL2, 0, Memory::new(), pages).is_open());
    assert_eq!(key.0, [0; 32]);
    assert!(!Channel::new(&mut key, Vmpl::VMPL2, 0, Memory::new(), pages).is_open());
    assert!(MessagePages::new(frame(REQUEST), frame(REQUEST)).is_err());
}
