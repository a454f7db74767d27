//! Numbers, tags and records of the message channel.

use alloc::{boxed::Box, vec::Vec};

use super::*;

#[test]
fn a_number_serves_once() {
    let mut psp = launched(1);
    let key = key(&psp, 0);
    let request = seal(&key, 0, 1, 5, &report_request(0, [1; 64]));
    assert!(psp.guest_request(&request).is_ok());
    assert_eq!(psp.state().used, [2, 0, 0, 0]);
    assert_eq!(psp.guest_request(&request), Err(status::INVALID_PARAMETER));
    for seqno in [0, 1, 2, 4, u64::MAX] {
        let request = seal(&key, 0, seqno, 5, &report_request(0, [1; 64]));
        assert_eq!(psp.guest_request(&request), Err(status::INVALID_PARAMETER), "{seqno}");
    }
    assert_eq!(psp.state().used, [2, 0, 0, 0]);
    let next = seal(&key, 0, 3, 5, &report_request(0, [1; 64]));
    assert!(psp.guest_request(&next).is_ok());
    assert_eq!(psp.state().used, [4, 0, 0, 0]);
}

#[test]
fn altered_messages_are_refused_and_not_consumed() {
    let mut psp = launched(1);
    let request = seal(&key(&psp, 2), 2, 1, 5, &report_request(2, [1; 64]));
    for at in [0x00, 0x0f, 0x34, 0x35, 0x60, 0xbf] {
        let mut altered = request.clone();
        altered[at] ^= 1;
        assert_eq!(psp.guest_request(&altered), Err(status::BAD_MEASUREMENT), "byte {at:#x}");
    }
    let mut other_key = request.clone();
    other_key[0x3c] = 0;
    assert_eq!(psp.guest_request(&other_key), Err(status::BAD_MEASUREMENT));
    let mut no_key = request.clone();
    no_key[0x3c] = 4;
    assert_eq!(psp.guest_request(&no_key), Err(status::INVALID_PARAMETER));
    assert_eq!(psp.state().used, [0; 4]);
    assert!(psp.guest_request(&request).is_ok());
    assert_eq!(psp.nonce_reuse(), None);
}

#[test]
fn wrong_types_versions_and_sizes_are_not_consumed() {
    let request = report_request(0, [0; 64]);
    let cases: [(u8, u8, &[u8], u32); 9] = [
        (5, 1, &request[..0x5f], status::INVALID_PARAMETER),
        (5, 2, &request, status::INVALID_PARAMETER),
        (3, 1, &request, status::INVALID_PARAMETER),
        (17, 1, &request, status::INVALID_PARAMETER),
        (6, 1, &request, status::INVALID_PARAMETER),
        (0, 1, &request, status::INVALID_PARAMETER),
        (19, 1, &request, status::INVALID_PARAMETER),
        (255, 1, &request, status::INVALID_PARAMETER),
        (1, 1, &request, status::UNSUPPORTED),
    ];
    for (msg_type, version, payload, status) in cases {
        let mut psp = launched(1);
        let before = psp.state();
        let page = seal_version(&key(&psp, 0), 0, 1, (msg_type, version), payload);
        assert_eq!(psp.guest_request(&page), Err(status), "type {msg_type} version {version}");
        assert_eq!(psp.state(), before);
    }
}

#[test]
fn numbers_end_before_they_wrap() {
    let mut psp = launched(1);
    psp.set_used(0, u64::MAX - 2);
    assert!(ask(&mut psp, 0, 17, &[0; 128]).is_ok());
    assert_eq!(psp.state().used[0], u64::MAX);
    psp.set_used(0, u64::MAX - 1);
    let page = seal(&key(&psp, 0), 0, u64::MAX, 17, &[0; 128]);
    assert_eq!(psp.guest_request(&page), Err(status::AEAD_OVERFLOW));
    psp.set_used(0, u64::MAX);
    assert_eq!(psp.guest_request(&page), Err(status::AEAD_OVERFLOW));
    assert_eq!(psp.state().used[0], u64::MAX);
}

#[test]
fn a_new_message_under_an_old_number_is_noticed_even_if_dropped() {
    let first = report_request(0, [1; 64]);
    let second = report_request(0, [2; 64]);
    for seqno in [1, 2] {
        let mut psp = launched(1);
        let key = key(&psp, 0);
        let request = seal(&key, 0, 1, 5, &first);
        psp.observe(&request);
        psp.observe(&request);
        assert!(psp.guest_request(&request).is_ok());
        assert_eq!(psp.nonce_reuse(), None);
        psp.observe(&seal(&key, 0, seqno, 5, &second));
        assert!(psp.nonce_reuse().is_some(), "number {seqno}");
    }
}

#[test]
fn a_refused_request_counts_and_foreign_pages_do_not() {
    let mut psp = launched(1);
    let key = key(&psp, 3);
    let stale = seal(&key, 3, 9, 5, &report_request(3, [1; 64]));
    assert_eq!(psp.guest_request(&stale), Err(status::INVALID_PARAMETER));
    for page in [[0; 4096], [0xff; 4096]] {
        psp.observe(&page);
    }
    psp.observe(&seal(&[1; 32], 3, 9, 5, &report_request(3, [2; 64])));
    assert_eq!(psp.records().count(), 1);
    assert_eq!(psp.nonce_reuse(), None);
    let again: Box<Page> = seal(&key, 3, 9, 5, &report_request(3, [2; 64]));
    assert_eq!(psp.guest_request(&again), Err(status::INVALID_PARAMETER));
    assert!(psp.nonce_reuse().is_some());
}

#[test]
fn records_name_key_number_and_direction() {
    let mut psp = launched(1);
    ask(&mut psp, 1, 17, &[0; 128]).unwrap();
    ask(&mut psp, 2, 17, &[0; 128]).unwrap();
    let found: Vec<_> = psp.records().map(|record| (record.vmpck, record.seqno, record.direction)).collect();
    assert_eq!(
        found,
        [
            (1, 1, Direction::Request),
            (1, 2, Direction::Response),
            (2, 1, Direction::Request),
            (2, 2, Direction::Response),
        ]
    );
}
