//! Every kind of request: what is asked, what comes back, and what is refused.

use std::vec::Vec;

use coco_part_api::{Error, ErrorKind, RangeError};
use x86_64::PhysAddr;

use super::bench::{Bench, CERTIFICATE_PAGES, CERTIFICATES, DATA, Fate, REQUEST, RESPONSE, TABLE};
use crate::abi::ghcb::ValidBit;
use crate::abi::guest_messages::{GuestFieldSelect, KeyRequest, RootKeySelect};
use crate::abi::secrets::Vmpck;
use crate::abi::vmpl::Vmpl;
use crate::error::SnpError;
use crate::host::{Host, MsrProtocol};
use crate::message::{Certificates, Channel, DerivedKey, MessagePages, TscInfo, take_key};
use crate::testing::{Memory, RAM, assert_not_impl, frame, no_host, range};

// A key can neither be copied nor printed by accident.
assert_not_impl!(Vmpck: core::fmt::Debug);
assert_not_impl!(Vmpck: Clone);
assert_not_impl!(DerivedKey: core::fmt::Debug);
assert_not_impl!(DerivedKey: Clone);
assert_not_impl!(crate::abi::guest_messages::KeyResponse: core::fmt::Debug);
assert_not_impl!(crate::abi::guest_messages::KeyResponse: Clone);
assert_not_impl!(Channel<Memory>: core::fmt::Debug);
assert_not_impl!(Channel<Memory>: Clone);

const ROOM: usize = (CERTIFICATE_PAGES * 0x1000) as usize;

#[test]
fn an_extended_report_comes_with_the_table_of_the_host() {
    let mut bench = Bench::new(&[Fate::Answered]);
    let mut table = [0xee; ROOM + 1];
    let extended = bench.extended(&mut table).unwrap();
    assert_eq!((extended.report[0x30], &extended.report[0x50..0x90]), (2, &DATA[..]));
    assert_eq!(extended.certificates, Certificates::Table);
    assert_eq!((&table[..TABLE.len()], &table[TABLE.len()..ROOM]), (&TABLE[..], &[0; ROOM - TABLE.len()][..]));
    assert_eq!(table[ROOM], 0xee);
    let reads = bench.memory.reads().iter().filter(|(at, _)| *at == CERTIFICATES).count();
    assert_eq!(reads, 1, "the table is copied once");
    assert_eq!(bench.firmware.borrow().extended, [true]);
}

#[test]
fn certificates_of_an_earlier_answer_are_not_those_of_this_one() {
    let mut bench = Bench::new(&[Fate::Answered, Fate::NoCertificates]);
    let mut table = [0xee; ROOM];
    bench.extended(&mut table).unwrap();
    assert_eq!(bench.extended(&mut table).unwrap().certificates, Certificates::None);
    assert_eq!(table, [0; ROOM]);
    assert_eq!(bench.numbers(), [1, 3]);
}

#[test]
fn too_little_room_for_certificates_repeats_the_same_message_as_a_plain_request() {
    let busy = Fate::Dropped(2 << 32);
    for pages in [3, 16] {
        let mut bench = Bench::new(&[busy, Fate::TooLong(pages), busy, Fate::Answered]);
        let mut table = [0xee; ROOM];
        let extended = bench.extended(&mut table).unwrap();
        assert_eq!(extended.certificates, Certificates::TooLong { pages });
        assert_eq!(table, [0xee; ROOM], "nothing was copied");
        assert_eq!(bench.firmware.borrow().extended, [true, true, false, false]);
        assert_eq!(bench.numbers(), [1]);
        bench.report().unwrap();
        assert_eq!(bench.numbers(), [1, 3]);
    }
}

#[test]
fn a_wish_for_room_is_heard_once_and_only_where_it_makes_sense() {
    let too_long = SnpError::GuestRequest { host: 1, firmware: 0 };
    let mut bench = Bench::new(&[Fate::TooLong(3)]);
    assert_eq!(bench.extended(&mut [0; ROOM]).unwrap_err(), too_long);
    assert_eq!(bench.firmware.borrow().extended, [true, false]);
    bench.assert_closed();
    let mut bench = Bench::new(&[Fate::TooLong(3)]);
    assert_eq!(bench.report().unwrap_err(), too_long);
    bench.assert_closed();
    for needed in [0, CERTIFICATE_PAGES, 17, u64::MAX] {
        let mut bench = Bench::new(&[Fate::TooLong(needed)]);
        let impossible = SnpError::PagesNeeded { given: CERTIFICATE_PAGES, needed };
        assert_eq!(bench.extended(&mut [0; ROOM]).unwrap_err(), impossible);
        bench.assert_closed();
    }
    let mut bench = Bench::new(&[Fate::TooLongWithoutPages]);
    assert_eq!(bench.extended(&mut [0; ROOM]).unwrap_err(), SnpError::MissingField { field: ValidBit::RBX });
    bench.assert_closed();
}

#[test]
fn a_bad_place_for_certificates_is_refused_before_anything_is_sent() {
    let mut bench = Bench::new(&[Fate::Answered]);
    let small = SnpError::BufferTooSmall { needed: ROOM, given: ROOM - 1 };
    assert_eq!(bench.extended(&mut [0; ROOM - 1]).unwrap_err(), small);
    for (shared, page) in [
        (range(REQUEST, 0x1000), REQUEST),
        (range(RESPONSE, 0x3000), RESPONSE),
        (range(REQUEST - 0x2000, 0x3000), REQUEST),
    ] {
        let outcome = bench.channel.extended_report(
            &mut bench.port,
            &mut bench.host,
            &DATA,
            Vmpl::VMPL2,
            shared,
            &mut [0; 0x3000],
        );
        let overlap = RangeError::Overlap { at: PhysAddr::new(page) };
        assert_eq!(outcome.unwrap_err(), SnpError::Range(overlap));
    }
    assert!(bench.firmware.borrow().requests.is_empty());
    bench.report().unwrap();
}

#[test]
fn a_derived_key_is_made_of_what_was_selected() {
    let mut bench = Bench::new(&[Fate::Answered]);
    let root = RootKeySelect::default().with_root_key(1).with_key_sel(2);
    let mut request = KeyRequest::new(root, Vmpl::VMPL3);
    request.guest_field_select = GuestFieldSelect::POLICY | GuestFieldSelect::GUEST_SVN;
    request.guest_svn = 0x0a0b_0c0d;
    request.tcb_version = 0x1112_1314_1516_1718;
    request.launch_mit_vector = 0x2122_2324;
    let mut key = DerivedKey::empty();
    bench.key(&request, &mut key).unwrap();
    // The bench's "key" is the request. Without selection there is no mitigation vector, and an older message.
    let expected = |fields: u8, vector: [u8; 4]| {
        let words = [&[5, 0, 0, 0][..], &[fields, 0, 0, 0, 0, 0, 0, 0], &[3, 0, 0, 0], &[0x0d, 0x0c, 0x0b, 0x0a]];
        [&words.concat()[..], &[0x18, 0x17, 0x16, 0x15, 0x14, 0x13, 0x12, 0x11], &vector].concat()
    };
    assert_eq!(key.bytes()[..], expected(0x11, [0; 4]));
    request.guest_field_select |= GuestFieldSelect::LAUNCH_MITIGATION_VECTOR;
    bench.key(&request, &mut key).unwrap();
    assert_eq!(key.bytes()[..], expected(0x51, [0x24, 0x23, 0x22, 0x21]));
    let versions: Vec<u8> = bench.firmware.borrow().requests.iter().map(|page| page[0x35]).collect();
    assert_eq!((versions, bench.numbers()), ([1, 2].to_vec(), [1, 3].to_vec()));
}

#[test]
fn the_secure_tsc_has_three_values() {
    let mut bench = Bench::new(&[Fate::Answered]);
    let expected = TscInfo { scale: 0x1_8000_0000, offset: 0xfedc_ba98_7654_3210, factor: 200 };
    assert_eq!(bench.tsc(), Ok(expected));
}

#[test]
fn kinds_share_one_row_of_numbers() {
    let mut bench = Bench::new(&[Fate::Answered]);
    bench.report().unwrap();
    bench.tsc().unwrap();
    bench.key(&KeyRequest::new(RootKeySelect::default(), Vmpl::VMPL2), &mut DerivedKey::empty()).unwrap();
    bench.extended(&mut [0; ROOM]).unwrap();
    assert_eq!(bench.numbers(), [1, 3, 5, 7]);
}

#[test]
fn a_refusal_of_any_kind_keeps_the_channel_open_and_the_key_empty() {
    for status in [0x16, 0x27, 0xffff_ffff] {
        let refused = SnpError::Firmware { status };
        let mut bench = Bench::new(&[Fate::Refused(status)]);
        let mut key = DerivedKey::empty();
        let request = KeyRequest::new(RootKeySelect::default(), Vmpl::VMPL0);
        assert_eq!(bench.key(&request, &mut key), Err(refused));
        assert_eq!(key.bytes(), &[0; 32]);
        assert_eq!(bench.tsc(), Err(refused));
        assert_eq!(bench.extended(&mut [0; ROOM]).unwrap_err(), refused);
        assert_eq!(bench.numbers(), [1, 3, 5]);
        assert!(bench.channel.is_open());
    }
}

#[test]
fn a_short_answer_of_any_kind_closes_the_channel() {
    let size = SnpError::BadResponse { field: "msg_size" };
    let ask: [fn(&mut Bench) -> SnpError; 4] = [
        |bench| bench.report().unwrap_err(),
        |bench| bench.extended(&mut [0; ROOM]).unwrap_err(),
        |bench| {
            let request = KeyRequest::new(RootKeySelect::default(), Vmpl::VMPL2);
            bench.key(&request, &mut DerivedKey::empty()).unwrap_err()
        },
        |bench| bench.tsc().unwrap_err(),
    ];
    for (ask, len) in ask.into_iter().zip([0x4c0, 0x4c0, 0x40, 0x80]) {
        for len in [0, 0x1f, 0x20, len - 1] {
            let mut bench = Bench::new(&[Fate::Short(len)]);
            assert_eq!(ask(&mut bench), size, "{len:#x}");
            bench.assert_closed();
        }
    }
}

#[test]
fn without_a_ghcb_page_no_kind_is_sent_and_nothing_lost() {
    let mut bench = Bench::new(&[Fate::Answered]);
    let mut by_msr = Host::Msr(MsrProtocol);
    let request = KeyRequest::new(RootKeySelect::default(), Vmpl::VMPL2);
    let shared = range(CERTIFICATES, 0x1000);
    let channel = &mut bench.channel;
    let extended = channel.extended_report(&mut no_host(), &mut by_msr, &DATA, Vmpl::VMPL2, shared, &mut [0; 0x1000]);
    assert_eq!(extended.unwrap_err(), SnpError::NoGhcbPage);
    let key = channel.derived_key(&mut no_host(), &mut by_msr, &request, &mut DerivedKey::empty());
    assert_eq!(key, Err(SnpError::NoGhcbPage));
    assert_eq!(channel.tsc_info(&mut no_host(), &mut by_msr), Err(SnpError::NoGhcbPage));
    bench.report().unwrap();
}

const SECRETS: u64 = 0xa000;

/// A secrets page by the offsets of fact table `secrets_page`.
fn secrets() -> Memory {
    let memory = Memory::new();
    for number in 0..4 {
        let at = SECRETS as usize + 0x20 * number;
        memory.bytes()[at + 0x20..at + 0x40].fill(0x41 + number as u8);
        memory.bytes()[SECRETS as usize + 0xa0 + 4 * number] = 2 * number as u8;
        memory.bytes()[SECRETS as usize + 0xb8 + 4 * number] = number as u8;
    }
    memory
}

#[test]
fn each_vmpck_held_is_taken_once_with_its_number() {
    let memory = secrets();
    for number in Vmpl::ALL {
        let mut key = Vmpck([0; 32]);
        let level = u64::from(number.number());
        let before = memory.bytes().clone();
        assert_eq!(take_key(&memory, frame(SECRETS), number, &mut key), Ok((level << 32) + 2 * level));
        assert_eq!(key.0, [0x41 + number.number(); 32]);
        let mut expected = before;
        expected[SECRETS as usize + 0x20 + 0x20 * usize::from(number.number())..][..0x20].fill(0);
        assert!(*memory.bytes() == expected, "nothing but the key of {number:?} is gone");
    }
    let pages = MessagePages::new(frame(REQUEST), frame(RESPONSE)).unwrap();
    let again = Channel::open(&memory, frame(SECRETS), Vmpl::VMPL1, memory.clone(), pages).map(|_| ());
    assert_eq!(again, Err(SnpError::ChannelClosed));
}

#[test]
fn a_secrets_page_out_of_reach_gives_no_key() {
    let mut key = Vmpck([7; 32]);
    let error = take_key(&Memory::new(), frame(RAM as u64), Vmpl::VMPL1, &mut key).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Inaccessible);
}
